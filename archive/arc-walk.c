/* being written */ typedef int holdpoint_stub_archive_arc_walk_c;
