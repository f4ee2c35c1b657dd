/*
 * Rows of backups. `details` is what is handed out; the columns repeat what is searched, so both
 * are always written together by catalog_put_backup(). The order is that of `place`: the time of a
 * backup, unless the clock stood before that of an earlier one when it was asked for.
 */

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "sql/catalog-internal.h"

static bool is_kept(const char *status) {
        return strcmp(status, "completed") == 0 || strcmp(status, "partial") == 0;
}

static int
read_old(Catalog *c, const char *id, bool *ret_kept, char **ret_details, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = db_prepare(c->db, "SELECT status, details FROM backup_records WHERE backup_id = ?",
                           &s, reterr);

        if (r < 0)
                return r;
        db_bind_text(s, 1, id);
        r = db_step(s, reterr);
        if (r < 0)
                return r;
        if (r == 0)
                return 0;
        *ret_details = strdup(db_column_text(s, 1));
        if (!*ret_details)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        *ret_kept = is_kept(db_column_text(s, 0));
        return 0;
}

static int write_backup(Catalog *c, json_object *backup, Failure *reterr) {
        static const char *const keys[] = {
                "backup_id", "backup_name", "backup_type", "file_path",
                "status",    "description", "created_at",  "completed_at",
                "checksum",  "created_by",  "metadata",
        };
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = db_prepare(
                c->db,
                "INSERT INTO backup_records (backup_id, backup_name, backup_type, file_path, "
                "status,"
                " description, created_at, completed_at, checksum, created_by, metadata, "
                "backup_size, details, place)"
                " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, nullif(?8, ''), ?9, ?10, ?11, ?12, ?13,"
                " CASE WHEN ?5 = 'running' THEN max(?7, coalesce((SELECT max(place) FROM "
                "backup_records), '')) ELSE ?7 END)"
                " ON CONFLICT (backup_id) DO UPDATE SET backup_name = ?2, backup_type = ?3, "
                "file_path = ?4,"
                " status = ?5, description = ?6, created_at = ?7, completed_at = nullif(?8, ''), "
                "checksum = ?9,"
                " created_by = ?10, metadata = ?11, backup_size = ?12, details = ?13,"
                " place = CASE WHEN place > created_at THEN place ELSE ?7 END",
                &s, reterr);

        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                db_bind_text(s, (int) i + 1, catalog_string(backup, keys[i]));
        db_bind_int(s, 12, (int64_t) catalog_number(backup, "bytes"));
        db_bind_text(s, 13, json_text(backup));
        return db_run(s, reterr);
}

int catalog_put_backup(Catalog *c, json_object *backup, bool *ret_added, Failure *reterr) {
        const char *id = catalog_string(backup, "backup_id"), *text = json_text(backup);
        bool was_kept = false, kept = is_kept(catalog_string(backup, "status")), same;
        _cleanup_free_ char *old = NULL;
        int r;

        if (!text)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        r = read_old(c, id, &was_kept, &old, reterr);
        same = r >= 0 && old && strcmp(old, text) == 0;
        if (r >= 0 && !same)
                r = write_backup(c, backup, reterr);
        if (r >= 0 && kept)
                r = catalog_reconcile_mark(c, id, reterr);
        if (r < 0)
                return r;
        if (ret_added)
                *ret_added = kept && !was_kept;
        return same ? 0 : 1;
}

int catalog_get_backup(Catalog *c, const char *id, json_object **ret, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = db_prepare(c->db, "SELECT details FROM backup_records WHERE backup_id = ?", &s,
                           reterr);

        if (r < 0)
                return r;
        db_bind_text(s, 1, id);
        return catalog_get_one(s, ret, reterr);
}

static int set_failed(Catalog *c, json_object *backup, const Failure *why, Failure *reterr) {
        _cleanup_json_ json_object *metadata = NULL;
        json_object *error;
        char now[CLOCK_TEXT_MAX];
        const char *old = catalog_string(backup, "metadata");
        int r;

        /* What the worker had put there stays beside the reason. */
        metadata = json_parse(old, strlen(old));
        if (!json_object_is_type(metadata, json_type_object)) {
                json_object_put(metadata);
                metadata = json_object_new_object();
        }
        error = json_object_new_object();
        if (!metadata || !error || json_put_string(error, "name", fail_name(why->code)) < 0 ||
            json_put_path(error, "text", why->text) < 0) {
                json_object_put(error);
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        }
        clock_format(clock_realtime_usec(), now);
        if (json_put(metadata, "error", error) < 0 ||
            json_put_string(backup, "status", "failed") < 0 ||
            json_put_string(backup, "completed_at", now) < 0 ||
            json_put_string(backup, "metadata", json_text(metadata)) < 0)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        r = catalog_put_backup(c, backup, NULL, reterr);
        return r < 0 ? r : 0;
}

int catalog_fail_backup(Catalog *c, const char *id, const Failure *why, Failure *reterr) {
        _cleanup_json_ json_object *backup = NULL;
        int r = catalog_get_backup(c, id, &backup, reterr);

        return r < 0 ? r : set_failed(c, backup, why, reterr);
}

int catalog_delete_backup(Catalog *c, const char *id, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = db_prepare(c->db, "DELETE FROM backup_records WHERE backup_id = ?", &s, reterr);

        if (r < 0)
                return r;
        db_bind_text(s, 1, id);
        r = db_run(s, reterr);
        if (r < 0)
                return r;
        return db_changes(c->db) > 0 ? 0 : -ENOENT;
}

/* One text for both statements, so that the count and the rows never disagree. */
#define FILTER                                                                                     \
        " FROM backup_records WHERE (?1 IS NULL OR backup_type = ?1) AND (?2 IS NULL OR status = " \
        "?2)"                                                                                      \
        " AND (?3 IS NULL OR EXISTS (SELECT 1 FROM json_each(details, '$.services') WHERE value "  \
        "= ?3))"

static void bind_filter(DbStmt *s, const CatalogFilter *f) {
        db_bind_text(s, 1, f->type);
        db_bind_text(s, 2, f->status);
        db_bind_text(s, 3, f->service);
}

int catalog_list_backups(Catalog *c,
                         const CatalogFilter *f,
                         uint64_t *ret_total,
                         json_object **ret,
                         Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *count = NULL, *rows = NULL;
        uint64_t total;
        int r;

        r = db_prepare(c->db, "SELECT count(*)" FILTER, &count, reterr);
        if (r >= 0)
                r = db_prepare(c->db,
                               "SELECT details" FILTER
                               " ORDER BY place DESC, id DESC LIMIT ?4 OFFSET ?5",
                               &rows, reterr);
        if (r < 0)
                return r;
        bind_filter(count, f);
        r = db_step(count, reterr);
        if (r < 0)
                return r;
        total = (uint64_t) db_column_int(count, 0);
        bind_filter(rows, f);
        db_bind_int(rows, 4, f->limit);
        db_bind_int(rows, 5, f->offset > INT64_MAX ? INT64_MAX : (int64_t) f->offset);
        r = catalog_collect(rows, ret, reterr);
        if (r < 0)
                return r;
        *ret_total = total;
        return 0;
}

int catalog_count_backups(Catalog *c, uint64_t *ret, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = db_prepare(
                c->db,
                "SELECT count(*) FROM backup_records WHERE status IN ('completed', 'partial')", &s,
                reterr);

        if (r >= 0)
                r = db_step(s, reterr);
        if (r < 0)
                return r;
        *ret = (uint64_t) db_column_int(s, 0);
        return 0;
}

/* An archive that was imported says nothing of how old the last look at the live data is. */
#define NOT_IMPORTED                                                                               \
        " AND CASE WHEN json_valid(metadata) THEN json_extract(metadata, '$.imported') END IS "    \
        "NOT 1"

int catalog_last_success(Catalog *c,
                         const char *service,
                         uint64_t *ret_usec,
                         char ret_id[UUID_TEXT_MAX],
                         Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        const CatalogFilter f = { .status = "completed", .service = service };
        int r = db_prepare(c->db,
                           "SELECT created_at, backup_id" FILTER NOT_IMPORTED
                           " ORDER BY place DESC, id DESC LIMIT 1",
                           &s, reterr);

        if (r < 0)
                return r;
        bind_filter(s, &f);
        r = db_step(s, reterr);
        if (r <= 0)
                return r < 0 ? r : -ENOENT;
        r = clock_parse(db_column_text(s, 0), ret_usec);
        if (r < 0 || !text_is_uuid(db_column_text(s, 1)))
                return fail_set(reterr, FAIL_INTERNAL, EUCLEAN,
                                "a row of the catalogue is damaged");
        memcpy(ret_id, db_column_text(s, 1), UUID_TEXT_MAX);
        return 0;
}

int catalog_reconcile_start(Catalog *c, Failure *reterr) {
        return db_exec(c->db, "DELETE FROM temp.seen", reterr);
}

int catalog_reconcile_mark(Catalog *c, const char *id, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = db_prepare(c->db, "INSERT OR IGNORE INTO temp.seen (id) VALUES (?)", &s, reterr);

        if (r < 0)
                return r;
        db_bind_text(s, 1, id);
        return db_run(s, reterr);
}

#define NOT_SEEN_BACKUP                                                                            \
        " WHERE status IN ('completed', 'partial') AND backup_id NOT IN (SELECT id FROM "          \
        "temp.seen)"

/* The workers have forgotten these; here they would be for ever. */
static int forget_restores(Catalog *c, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        char before[CLOCK_TEXT_MAX];
        int r = db_prepare(c->db,
                           "DELETE FROM backup_restores WHERE state IN ('confirmed', 'failed')"
                           " AND coalesce(completed_at, created_at) < ?"
                           " AND restore_id NOT IN (SELECT id FROM temp.seen)",
                           &s, reterr);

        if (r < 0)
                return r;
        clock_format(clock_ago_usec(CATALOG_HISTORY_USEC), before);
        db_bind_text(s, 1, before);
        return db_run(s, reterr);
}

static int remove_unseen(Catalog *c, json_object *removed, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = db_prepare(c->db, "SELECT backup_id FROM backup_records" NOT_SEEN_BACKUP, &s,
                           reterr);

        if (r < 0)
                return r;
        while ((r = db_step(s, reterr)) > 0) {
                json_object *id = json_object_new_string(db_column_text(s, 0));

                if (!id || json_object_array_add(removed, id) < 0) {
                        json_object_put(id);
                        return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
                }
        }
        if (r < 0)
                return r;
        r = db_exec(c->db, "DELETE FROM backup_records" NOT_SEEN_BACKUP, reterr);
        if (r < 0)
                return r;
        /*
         * A restore that no intent knows: one that had not swapped has failed, of one that had the
         * old tree is gone, which is what confirming means.
         */
        r = forget_restores(c, reterr);
        if (r < 0)
                return r;
        return db_exec(c->db,
                       "UPDATE backup_restores SET details = json_set(details, '$.state',"
                       " CASE state WHEN 'active' THEN 'confirmed' WHEN 'rolled_back' THEN "
                       "'confirmed' ELSE 'failed' END),"
                       " state = CASE state WHEN 'active' THEN 'confirmed' WHEN 'rolled_back' THEN "
                       "'confirmed' ELSE 'failed' END"
                       " WHERE state IN ('staging', 'swapping', 'active', 'rolled_back')"
                       " AND restore_id NOT IN (SELECT id FROM temp.seen)",
                       reterr);
}

int catalog_reconcile_finish(Catalog *c, json_object **ret_removed, Failure *reterr) {
        _cleanup_json_ json_object *removed = json_object_new_array();
        int r;

        if (!removed)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        r = catalog_batch_begin(c, reterr);
        if (r < 0)
                return r;
        r = remove_unseen(c, removed, reterr);
        if (r < 0) {
                catalog_batch_cancel(c);
                return r;
        }
        r = catalog_batch_commit(c, reterr);
        if (r < 0)
                return r;
        *ret_removed = TAKE_PTR(removed);
        return 0;
}
