/* being written */ typedef int holdpoint_stub_sql_migrate_c;
