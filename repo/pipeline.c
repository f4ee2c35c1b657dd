/* being written */ typedef int holdpoint_stub_repo_pipeline_c;
