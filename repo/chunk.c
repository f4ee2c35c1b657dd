/* being written */ typedef int holdpoint_stub_repo_chunk_c;
