/*
 * History of jobs. A row is written when a job is queued, so that a crash can tell what was
 * running; `status` is the job's state until its end and then its result.
 */

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/names.h"
#include "sql/catalog-internal.h"

#define KEEP_RECONCILES 20

/* Keeps the table small; one statement each, nearly always without work. */
static int drop_old(Catalog *c, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        char before[CLOCK_TEXT_MAX];
        int r;

        clock_format(clock_ago_usec(CATALOG_HISTORY_USEC), before);
        r = db_prepare(c->db,
                       "DELETE FROM backup_tasks WHERE completed_at < ?1 OR (task_type = "
                       "'reconcile' AND id <"
                       " (SELECT id FROM backup_tasks WHERE task_type = 'reconcile' ORDER BY id "
                       "DESC LIMIT 1 OFFSET ?2))",
                       &s, reterr);
        if (r < 0)
                return r;
        db_bind_text(s, 1, before);
        db_bind_int(s, 2, KEEP_RECONCILES - 1);
        return db_run(s, reterr);
}

static int write_task(Catalog *c, json_object *task, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        char started[CLOCK_TEXT_MAX], finished[CLOCK_TEXT_MAX];
        const char *result = catalog_string(task, "result");
        int r = db_prepare(c->db,
                           "INSERT INTO backup_tasks (id, task_id, backup_id, task_type, status, "
                           "progress, started_at,"
                           " completed_at, error_message, details) VALUES (?1, ?2,"
                           " (SELECT backup_id FROM backup_records WHERE backup_id = ?3), ?4, ?5, "
                           "?6, nullif(?7, ''),"
                           " nullif(?8, ''), nullif(?9, ''), ?10) ON CONFLICT (id) DO UPDATE SET "
                           "status = ?5, progress = ?6,"
                           " started_at = nullif(?7, ''), completed_at = nullif(?8, ''), "
                           "error_message = nullif(?9, ''),"
                           " details = ?10",
                           &s, reterr);
        const char *id = catalog_string(task, "task_id");
        json_object *progress = NULL;

        if (r < 0)
                return r;
        (void) json_object_object_get_ex(task, "progress", &progress);
        clock_format(catalog_number(task, "started_usec"), started);
        clock_format(catalog_number(task, "finished_usec"), finished);
        db_bind_int(s, 1, (int64_t) catalog_number(task, "id"));
        db_bind_text(s, 2, id);
        db_bind_text(s, 3, catalog_string(task, "backup_id"));
        db_bind_text(s, 4, catalog_string(task, "type"));
        db_bind_text(s, 5, *result ? result : catalog_string(task, "state"));
        db_bind_int(s, 6, (int64_t) (json_object_get_double(progress) * 100));
        db_bind_text(s, 7, started);
        db_bind_text(s, 8, finished);
        db_bind_text(s, 9, catalog_string(task, "error_message"));
        db_bind_text(s, 10, json_text(task));
        return db_run(s, reterr);
}

int catalog_put_task(Catalog *c, json_object *task, Failure *reterr) {
        bool queued = strcmp(catalog_string(task, "state"), "queued") == 0;
        int r = write_task(c, task, reterr);

        return r < 0 || !queued ? r : drop_old(c, reterr);
}

int catalog_get_task(Catalog *c, uint32_t id, json_object **ret, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = db_prepare(c->db, "SELECT details FROM backup_tasks WHERE id = ?", &s, reterr);

        if (r < 0)
                return r;
        db_bind_int(s, 1, id);
        return catalog_get_one(s, ret, reterr);
}

int catalog_list_tasks(Catalog *c,
                       const CatalogTaskFilter *filter,
                       json_object **ret,
                       Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        char since[CLOCK_TEXT_MAX];
        int r = db_prepare(c->db,
                           "SELECT details FROM backup_tasks"
                           " WHERE (completed_at >= ?1 OR (completed_at IS NULL AND NOT ?2))"
                           " AND (?3 IS NULL OR task_type = ?3)"
                           " AND (?4 IS NULL OR json_extract(details, '$.backup_id') = ?4)"
                           " ORDER BY id DESC LIMIT ?5 OFFSET ?6",
                           &s, reterr);

        if (r < 0)
                return r;
        clock_format(filter->since_usec, since);
        db_bind_text(s, 1, since);
        db_bind_int(s, 2, filter->finished);
        db_bind_text(s, 3, filter->type);
        db_bind_text(s, 4, filter->backup_id);
        db_bind_int(s, 5, filter->limit);
        db_bind_int(s, 6, (int64_t) filter->offset);
        return catalog_collect(s, ret, reterr);
}

int catalog_task_progress(Catalog *c, uint32_t id, unsigned percent, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = db_prepare(c->db, "UPDATE backup_tasks SET progress = ? WHERE id = ?", &s, reterr);

        if (r < 0)
                return r;
        db_bind_int(s, 1, percent);
        db_bind_int(s, 2, id);
        return db_run(s, reterr);
}

int catalog_highest_task(Catalog *c, uint32_t *ret, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = db_prepare(c->db, "SELECT seq FROM sqlite_sequence WHERE name = 'backup_tasks'", &s,
                           reterr);

        if (r >= 0)
                r = db_step(s, reterr);
        if (r < 0)
                return r;
        *ret = r > 0 ? (uint32_t) db_column_int(s, 0) : 0;
        return 0;
}

int catalog_task_rate(Catalog *c,
                      const char *type,
                      uint64_t since_usec,
                      uint64_t *ret_done,
                      uint64_t *ret_all,
                      Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        char since[CLOCK_TEXT_MAX];
        int r = db_prepare(
                c->db,
                "SELECT count(*) FILTER (WHERE status = 'done'), count(*) FROM backup_tasks"
                " WHERE task_type = ?1 AND completed_at >= ?2 AND status != 'canceled'",
                &s, reterr);

        if (r < 0)
                return r;
        clock_format(since_usec, since);
        db_bind_text(s, 1, type);
        db_bind_text(s, 2, since);
        r = db_step(s, reterr);
        if (r < 0)
                return r;
        *ret_done = (uint64_t) db_column_int(s, 0);
        *ret_all = (uint64_t) db_column_int(s, 1);
        return 0;
}

static int interrupt_tasks(Catalog *c, const Failure *why, json_object **ret, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        uint64_t now_usec = clock_realtime_usec();
        char now[CLOCK_TEXT_MAX];
        _cleanup_free_ char *name = text_printf(HP_BUS_ERROR_PREFIX "%s", fail_name(why->code));
        int r = db_prepare(
                c->db,
                "UPDATE backup_tasks SET status = 'interrupted', completed_at = ?1, error_message "
                "= ?2,"
                " details = json_set(details, '$.state', 'finished', '$.result', 'interrupted', "
                "'$.finished_usec',"
                " ?3, '$.error_name', ?4, '$.error_message', ?2, '$.cancelable', json('false'))"
                " WHERE completed_at IS NULL RETURNING details",
                &s, reterr);

        if (r < 0)
                return r;
        if (!name)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        clock_format(now_usec, now);
        db_bind_text(s, 1, now);
        db_bind_text(s, 2, why->text);
        db_bind_int(s, 3, (int64_t) now_usec);
        db_bind_text(s, 4, name);
        return catalog_collect(s, ret, reterr);
}

static int interrupt_all(Catalog *c, const Failure *why, json_object **ret_tasks, Failure *reterr) {
        const CatalogFilter running = { .status = "running", .limit = UINT32_MAX };
        _cleanup_json_ json_object *list = NULL;
        uint64_t total;
        int r = interrupt_tasks(c, why, ret_tasks, reterr);

        if (r >= 0)
                r = catalog_list_backups(c, &running, &total, &list, reterr);
        if (r < 0)
                return r;
        for (size_t i = 0; i < json_object_array_length(list); i++) {
                const char *id = catalog_string(json_object_array_get_idx(list, i), "backup_id");

                r = catalog_fail_backup(c, id, why, reterr);
                if (r < 0)
                        return r;
        }
        return 0;
}

int catalog_interrupt(Catalog *c, const Failure *why, json_object **ret, Failure *reterr) {
        _cleanup_json_ json_object *tasks = NULL;
        int r = catalog_batch_begin(c, reterr);

        if (r < 0)
                return r;
        r = interrupt_all(c, why, &tasks, reterr);
        if (r < 0) {
                catalog_batch_cancel(c);
                return r;
        }
        r = catalog_batch_commit(c, reterr);
        if (r >= 0)
                *ret = TAKE_PTR(tasks);
        return r;
}
