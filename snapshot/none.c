/* being written */ typedef int holdpoint_stub_snapshot_none_c;
