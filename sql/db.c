/* being written */ typedef int holdpoint_stub_sql_db_c;
