/* being written */ typedef int holdpoint_stub_snapshot_btrfs_c;
