/* being written */ typedef int holdpoint_stub_repo_index_c;
