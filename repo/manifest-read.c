/* being written */ typedef int holdpoint_stub_repo_manifest_read_c;
