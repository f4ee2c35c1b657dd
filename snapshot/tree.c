/* being written */ typedef int holdpoint_stub_snapshot_tree_c;
