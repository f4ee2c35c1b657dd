/* being written */ typedef int holdpoint_stub_snapshot_hold_c;
