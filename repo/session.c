/* being written */ typedef int holdpoint_stub_repo_session_c;
