/* being written */ typedef int holdpoint_stub_repo_compress_c;
