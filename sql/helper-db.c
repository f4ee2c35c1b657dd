/*
 * Connections to databases that anyone may have written: the schema, the pages and the journals are
 * hostile input. Nothing of the schema is run, nothing is attached, and every statement ends in
 * time.
 */

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "sql/helper.h"

#define PROGRESS_OPS 2000

static int on_progress(void *userdata) {
        const uint64_t *deadline = userdata;

        return *deadline > 0 && clock_monotonic_usec() > *deadline;
}

static int on_busy(void *userdata, int count) {
        const uint64_t *deadline = userdata;

        if (clock_monotonic_usec() > *deadline)
                return 0;
        (void) sqlite3_sleep(count < 10 ? 1 : 5);
        return 1;
}

static int on_authorize(void *userdata,
                        int action,
                        const char *a,
                        const char *b,
                        const char *c,
                        const char *d) {
        static const char *const pragmas[] = { "schema_version",  "user_version", "journal_mode",
                                               "page_size",       "quick_check",  "locking_mode",
                                               "cell_size_check", "mmap_size",    "temp_store" };

        switch (action) {
        case SQLITE_SELECT:
        case SQLITE_READ:
        case SQLITE_TRANSACTION:
                return SQLITE_OK;
        case SQLITE_FUNCTION:
                return b && strcmp(b, "count") == 0 ? SQLITE_OK : SQLITE_DENY;
        case SQLITE_PRAGMA:
                for (size_t i = 0; a && i < ELEMENTSOF(pragmas); i++)
                        if (strcmp(a, pragmas[i]) == 0)
                                return SQLITE_OK;
                return SQLITE_DENY;
        default:
                return SQLITE_DENY;
        }
}

static int harden(sqlite3 *conn, const uint64_t *deadline_usec) {
        static const struct {
                int option, value;
        } options[] = {
                { SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1 },
                { SQLITE_DBCONFIG_DEFENSIVE, 1 },
                { SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0 },
                { SQLITE_DBCONFIG_DQS_DML, 0 },
                { SQLITE_DBCONFIG_DQS_DDL, 0 },
                { SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0 },
                { SQLITE_DBCONFIG_ENABLE_TRIGGER, 0 },
                { SQLITE_DBCONFIG_ENABLE_VIEW, 0 },
                { SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, 0 },
        };
        static const struct {
                int limit, value;
        } limits[] = {
                { SQLITE_LIMIT_ATTACHED, 0 },       { SQLITE_LIMIT_TRIGGER_DEPTH, 1 },
                { SQLITE_LIMIT_WORKER_THREADS, 0 }, { SQLITE_LIMIT_EXPR_DEPTH, 200 },
                { SQLITE_LIMIT_FUNCTION_ARG, 32 },  { SQLITE_LIMIT_COMPOUND_SELECT, 50 },
                { SQLITE_LIMIT_VDBE_OP, 50000000 }, { SQLITE_LIMIT_SQL_LENGTH, 16 << 20 },
        };
        int rc = SQLITE_OK;

        for (size_t i = 0; rc == SQLITE_OK && i < ELEMENTSOF(options); i++)
                rc = sqlite3_db_config(conn, options[i].option, options[i].value, NULL);
        for (size_t i = 0; i < ELEMENTSOF(limits); i++)
                (void) sqlite3_limit(conn, limits[i].limit,
                                     limits[i].value); /* returns the old one */
        if (rc == SQLITE_OK)
                rc = sqlite3_set_authorizer(conn, on_authorize, NULL);
        if (rc == SQLITE_OK)
                rc = sqlite3_busy_handler(conn, deadline_usec ? on_busy : NULL,
                                          (void *) deadline_usec);
        if (deadline_usec)
                sqlite3_progress_handler(conn, PROGRESS_OPS, on_progress, (void *) deadline_usec);
        /* None of these reads the database. */
        if (rc == SQLITE_OK)
                rc = helper_db_exec(conn, "PRAGMA mmap_size=0");
        if (rc == SQLITE_OK)
                rc = helper_db_exec(conn, "PRAGMA temp_store=MEMORY");
        if (rc == SQLITE_OK)
                rc = helper_db_exec(conn, "PRAGMA cell_size_check=ON");
        return rc;
}

int helper_db_open(Helper *h,
                   HelperDb *db,
                   const uint64_t *deadline_usec,
                   sqlite3 **ret,
                   Failure *reterr) {
        int flags = h->mode == HELPER_CHECK ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
        sqlite3 *conn = NULL;
        int rc, r;

        h->refused = FAILURE_INIT;
        rc = sqlite3_open_v2(db->zname, &conn, flags | SQLITE_OPEN_PRIVATECACHE, HELPER_VFS_NAME);
        if (conn)
                (void) sqlite3_extended_result_codes(conn, 1);
        if (rc == SQLITE_OK)
                rc = harden(conn, deadline_usec);
        /* Writers wait for each other in private; a journal in the image is not shared with
         * anybody. */
        if (rc == SQLITE_OK && h->mode == HELPER_RECOVER)
                rc = helper_db_exec(conn, "PRAGMA locking_mode=EXCLUSIVE");
        if (rc == SQLITE_OK && h->mode != HELPER_CHECK && sqlite3_db_readonly(conn, "main") == 1)
                rc = SQLITE_READONLY;
        if (rc != SQLITE_OK) {
                r = helper_db_failure(h, db, conn, rc, "open", reterr);
                /* A live one is left to the end of the process: closing it may drop other locks. */
                if (h->mode != HELPER_HOLD)
                        (void) sqlite3_close(conn); /* nothing was written */
                return r;
        }
        *ret = conn;
        return 0;
}

int helper_db_exec(sqlite3 *conn, const char *sql) {
        return sqlite3_exec(conn, sql, NULL, NULL, NULL);
}

int helper_db_number(sqlite3 *conn, const char *sql, int64_t *ret) {
        sqlite3_stmt *stmt = NULL;
        int rc = sqlite3_prepare_v2(conn, sql, -1, &stmt, NULL);

        if (rc == SQLITE_OK) {
                rc = sqlite3_step(stmt);
                if (rc == SQLITE_ROW) {
                        *ret = sqlite3_column_int64(stmt, 0);
                        rc = sqlite3_reset(stmt);
                } else if (rc == SQLITE_DONE)
                        rc = SQLITE_ERROR;
        }
        (void) sqlite3_finalize(stmt); /* repeats the error of the step */
        return rc;
}

int helper_db_failure(Helper *h,
                      HelperDb *db,
                      sqlite3 *conn,
                      int rc,
                      const char *what,
                      Failure *reterr) {
        const char *text = conn && sqlite3_errcode(conn) != SQLITE_OK ? sqlite3_errmsg(conn)
                                                                      : sqlite3_errstr(rc);
        FailCode code = FAIL_INTERNAL;
        int errnum = EIO;

        if (h->refused.code != FAIL_NONE) {
                if (strncmp(h->refused.text, db->path, strlen(db->path)) == 0)
                        return fail_set(reterr, h->refused.code, h->refused.errnum, "%s",
                                        h->refused.text);
                return fail_set(reterr, h->refused.code, h->refused.errnum, "%s: %s", db->path,
                                h->refused.text);
        }
        switch (rc & 0xff) {
        case SQLITE_NOTADB:
        case SQLITE_CORRUPT:
                code = FAIL_INTEGRITY_FAILURE;
                errnum = EBADMSG;
                break;
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
        case SQLITE_PROTOCOL:
                code = FAIL_BUSY;
                errnum = EBUSY;
                break;
        case SQLITE_INTERRUPT:
                return fail_set(reterr, FAIL_BUSY, ETIMEDOUT,
                                "%s: %s took longer than its time limit", db->path, what);
        case SQLITE_FULL:
                code = FAIL_NO_SPACE;
                errnum = ENOSPC;
                break;
        case SQLITE_NOMEM:
                errnum = ENOMEM;
                break;
        case SQLITE_READONLY:
        case SQLITE_CANTOPEN:
        case SQLITE_PERM:
                errnum = EACCES;
                break;
        default:
                break;
        }
        return fail_set(reterr, code, errnum, "%s: %s: %s (SQLite %d)", db->path, what, text, rc);
}
