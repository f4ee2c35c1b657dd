/* being written */ typedef int holdpoint_stub_repo_pack_write_c;
