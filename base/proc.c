/* being written */ typedef int holdpoint_stub_base_proc_c;
