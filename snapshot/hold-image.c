/* being written */ typedef int holdpoint_stub_snapshot_hold_image_c;
