/* being written */ typedef int holdpoint_stub_repo_check_c;
