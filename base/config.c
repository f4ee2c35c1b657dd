/* being written */ typedef int holdpoint_stub_base_config_c;
