/*
 * Rows of schedules: a copy of what systemd's unit files say, for whoever reads the catalogue. It
 * is replaced as a whole whenever a worker has told all of them.
 */

#include <errno.h>

#include "sql/catalog-internal.h"

static int put(Catalog *c, json_object *row, Failure *reterr) {
        static const char *const keys[] = { "schedule_name", "frequency", "time",    "backup_type",
                                            "last_run",      "next_run",  "calendar" };
        _cleanup_db_stmt_ DbStmt *s = NULL;
        uint64_t days = 0;
        bool enabled = false;
        int r = db_prepare(
                c->db,
                "INSERT INTO backup_schedules (schedule_name, frequency, schedule_time, "
                "backup_type, last_run, next_run, enabled, retention_days, updated_at)"
                " VALUES (?1, coalesce(nullif(?2, ''), ?7), ?3, ?4, nullif(?5, ''), nullif(?6, "
                "''), ?8, ?9, CURRENT_TIMESTAMP)"
                " ON CONFLICT (schedule_name) DO UPDATE SET frequency = excluded.frequency,"
                " schedule_time = excluded.schedule_time, backup_type = excluded.backup_type,"
                " last_run = excluded.last_run, next_run = excluded.next_run,"
                " enabled = excluded.enabled, retention_days = excluded.retention_days,"
                " updated_at = excluded.updated_at",
                &s, reterr);

        if (r < 0)
                return r;
        (void) json_get_u64(row, "retention_days", &days);
        (void) json_get_bool(row, "enabled", &enabled);
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                db_bind_text(s, (int) i + 1, catalog_string(row, keys[i]));
        db_bind_int(s, 8, enabled);
        db_bind_int(s, 9, (int64_t) days);
        return db_run(s, reterr);
}

static int remove_others(Catalog *c, json_object *rows, Failure *reterr) {
        _cleanup_json_ json_object *names = json_object_new_array();
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r;

        for (size_t i = 0; names && i < json_object_array_length(rows); i++) {
                const char *name =
                        catalog_string(json_object_array_get_idx(rows, i), "schedule_name");

                if (json_object_array_add(names, json_object_new_string(name)) < 0)
                        return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        }
        if (!names)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        r = db_prepare(c->db,
                       "DELETE FROM backup_schedules WHERE schedule_name NOT IN (SELECT value FROM "
                       "json_each(?1))",
                       &s, reterr);
        if (r < 0)
                return r;
        db_bind_text(s, 1, json_text(names));
        return db_run(s, reterr);
}

int catalog_replace_schedules(Catalog *c, json_object *rows, Failure *reterr) {
        int r = catalog_batch_begin(c, reterr);

        if (r < 0)
                return r;
        r = remove_others(c, rows, reterr);
        for (size_t i = 0; r >= 0 && i < json_object_array_length(rows); i++)
                r = put(c, json_object_array_get_idx(rows, i), reterr);
        if (r < 0) {
                catalog_batch_cancel(c);
                return r;
        }
        return catalog_batch_commit(c, reterr);
}
