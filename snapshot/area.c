/* being written */ typedef int holdpoint_stub_snapshot_area_c;
