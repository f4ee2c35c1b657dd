/* being written */ typedef int holdpoint_stub_repo_entry_codec_c;
