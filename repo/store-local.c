/* being written */ typedef int holdpoint_stub_repo_store_local_c;
