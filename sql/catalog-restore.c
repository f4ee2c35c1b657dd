/*
 * Rows of restores: the agent's copy of the worker's intents, and the history of those that are
 * over.
 */

#include "sql/catalog-internal.h"

int catalog_put_restore(Catalog *c, json_object *restore, Failure *reterr) {
        static const char *const keys[] = { "restore_id", "backup_id", "state", "created_at",
                                            "completed_at" };
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int64_t written;
        int r = db_prepare(c->db,
                           "INSERT INTO backup_restores (restore_id, backup_id, state, created_at, "
                           "completed_at, details)"
                           " VALUES (?1, ?2, ?3, ?4, nullif(?5, ''), ?6) ON CONFLICT (restore_id) "
                           "DO UPDATE SET"
                           " backup_id = ?2, state = ?3, created_at = ?4, completed_at = "
                           "nullif(?5, ''), details = ?6"
                           " WHERE details != ?6",
                           &s, reterr);

        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                db_bind_text(s, (int) i + 1, catalog_string(restore, keys[i]));
        db_bind_text(s, 6, json_text(restore));
        r = db_run(s, reterr);
        if (r < 0)
                return r;
        written = db_changes(c->db);
        r = catalog_reconcile_mark(c, catalog_string(restore, "restore_id"), reterr);
        return r < 0 ? r : written > 0;
}

int catalog_get_restore(Catalog *c, const char *id, json_object **ret, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = db_prepare(c->db, "SELECT details FROM backup_restores WHERE restore_id = ?", &s,
                           reterr);

        if (r < 0)
                return r;
        db_bind_text(s, 1, id);
        return catalog_get_one(s, ret, reterr);
}

int catalog_list_restores(Catalog *c, uint32_t limit, json_object **ret, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = db_prepare(
                c->db,
                "SELECT details FROM backup_restores ORDER BY created_at DESC, id DESC LIMIT ?", &s,
                reterr);

        if (r < 0)
                return r;
        db_bind_int(s, 1, limit);
        return catalog_collect(s, ret, reterr);
}
