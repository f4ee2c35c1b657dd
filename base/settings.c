/* being written */ typedef int holdpoint_stub_base_settings_c;
