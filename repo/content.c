/* being written */ typedef int holdpoint_stub_repo_content_c;
