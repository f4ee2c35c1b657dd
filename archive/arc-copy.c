/* being written */ typedef int holdpoint_stub_archive_arc_copy_c;
