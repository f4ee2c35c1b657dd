/* being written */ typedef int holdpoint_stub_snapshot_holders_c;
