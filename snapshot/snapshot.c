/* being written */ typedef int holdpoint_stub_snapshot_snapshot_c;
