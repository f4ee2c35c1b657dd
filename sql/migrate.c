/*
 * All missing migrations run in one transaction together with the new user_version: a crash leaves
 * the old schema or the new one. The version is read inside the transaction, so two processes that
 * start at once do not both migrate.
 */

#include "sql/migrate.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

static int read_version(Db *db, int64_t *ret, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = db_prepare(db, "PRAGMA user_version", &s, reterr);

        if (r >= 0)
                r = db_step(s, reterr);
        if (r < 0)
                return r;
        *ret = r > 0 ? db_column_int(s, 0) : 0;
        return 0;
}

static int apply_missing(Db *db, const Migration *migrations, size_t n, Failure *reterr) {
        char pragma[64];
        int64_t version;
        int r = read_version(db, &version, reterr);

        if (r < 0)
                return r;
        if (version < 0 || (uint64_t) version > n)
                return fail_set(
                        reterr, FAIL_INTERNAL, ENOTSUP,
                        "the database has schema version %lld, this program knows up to %zu: "
                        "install the newer version again",
                        (long long) version, n);
        for (size_t i = (size_t) version; i < n; i++) {
                assert(migrations[i].number == i + 1);
                r = db_exec(db, migrations[i].sql, reterr);
                if (r < 0) {
                        fail_prefix(reterr, "migration %u", migrations[i].number);
                        return r;
                }
        }
        if ((uint64_t) version == n)
                return 0;
        (void) snprintf(pragma, sizeof(pragma), "PRAGMA user_version = %zu", n);
        return db_exec(db, pragma, reterr);
}

int migrate_apply(Db *db, const Migration *migrations, size_t n, Failure *reterr) {
        int64_t version;
        int r = read_version(db, &version, reterr);

        /* Up to date: no lock is asked for, so that one may read while another writes. */
        if (r < 0 || (uint64_t) version == n)
                return r;
        r = db_begin(db, reterr);
        if (r < 0)
                return r;
        r = apply_missing(db, migrations, n, reterr);
        if (r < 0) {
                db_rollback(db);
                return r;
        }
        return db_commit(db, reterr);
}
