/* being written */ typedef int holdpoint_stub_repo_keyfile_c;
