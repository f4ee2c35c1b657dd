/* being written */ typedef int holdpoint_stub_repo_object_c;
