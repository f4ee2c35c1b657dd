/* being written */ typedef int holdpoint_stub_repo_repo_c;
