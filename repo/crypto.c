/* being written */ typedef int holdpoint_stub_repo_crypto_c;
