/*
 * The agent's catalogue and the worker's index both go through here. Hardening: DEFENSIVE,
 * TRUSTED_SCHEMA off and CELL_SIZE_CHECK, because either file may have been damaged and is opened
 * before it has been checked. Never used for a service's database: those belong to the helper.
 */

#include "sql/db.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SCRATCH_TEMPLATE "/dev/shm/holdpoint-XXXXXX"

struct Db {
        sqlite3 *handle;
};

struct DbStmt {
        Db *db;
        sqlite3_stmt *handle;
        int bind_error; /* the first SQLite result of a failed bind since the last reset */
};

static int error_to_errno(int code) {
        switch (code & 0xff) {
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB:
                return EUCLEAN;
        case SQLITE_FULL:
                return ENOSPC;
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
                return EBUSY;
        case SQLITE_CONSTRAINT:
                return EEXIST;
        case SQLITE_NOMEM:
                return ENOMEM;
        case SQLITE_CANTOPEN:
        case SQLITE_READONLY:
        case SQLITE_PERM:
        case SQLITE_AUTH:
                return EACCES;
        case SQLITE_TOOBIG:
        case SQLITE_MISMATCH:
        case SQLITE_RANGE:
                return EINVAL;
        case SQLITE_INTERRUPT:
                return EINTR;
        default:
                return EIO;
        }
}

/* What the kernel said tells a full or read-only file system from everything else. */
static int find_errno(Db *db, int code) {
        bool has = (code & 0xff) == SQLITE_CANTOPEN || (code & 0xff) == SQLITE_IOERR;
        int system = has ? sqlite3_system_errno(db->handle) : 0;

        return system == ENOSPC || system == EDQUOT || system == EROFS ? system
                                                                       : error_to_errno(code);
}

static int db_fail(Db *db, int code, const char *what, Failure *reterr) {
        int errnum = find_errno(db, code);
        const char *file = sqlite3_db_filename(db->handle, "main");

        return fail_set(reterr, fail_code_for_write(errnum, FAIL_INTERNAL), errnum,
                        "database %s: %s: %s (%s)", file && *file ? file : "(unnamed)", what,
                        sqlite3_errmsg(db->handle), strerror(errnum));
}

/* SQLite would create the file with the umask's mode; its side files follow the main one. */
static int create_private(const char *path, Failure *reterr) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0600);

        if (fd < 0)
                return fail_errno(reterr, fail_code_for_write(errno, FAIL_INTERNAL), errno,
                                  "cannot open the database %s", path);
        fd_close(fd);
        return 0;
}

/* What holds for all: neither schema nor pages are trusted. */
static void harden(Db *db) {
        (void) sqlite3_extended_result_codes(db->handle, 1);
        (void) sqlite3_db_config(db->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
        (void) sqlite3_db_config(db->handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
}

static int set_cache(Db *db, uint32_t cache_kib, Failure *reterr) {
        char sql[64];

        (void) snprintf(sql, sizeof(sql), "PRAGMA cache_size=-%u", cache_kib);
        return cache_kib == 0 ? 0 : db_exec(db, sql, reterr);
}

static int configure(Db *db, const DbOptions *o, Failure *reterr) {
        int r;

        (void) sqlite3_busy_timeout(db->handle, (int) o->busy_msec);
        (void) sqlite3_db_config(db->handle, SQLITE_DBCONFIG_ENABLE_FKEY, o->foreign_keys, NULL);
        r = db_exec(db,
                    "PRAGMA cell_size_check=1; PRAGMA temp_store=MEMORY; PRAGMA journal_mode=WAL",
                    reterr);
        if (r >= 0)
                r = db_exec(db,
                            o->full_sync ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL",
                            reterr);
        return r < 0 ? r : set_cache(db, o->cache_kib, reterr);
}

static int open_file(const char *path, Db **ret, Failure *reterr) {
        _cleanup_db_ Db *db = calloc(1, sizeof(*db));
        int r;

        if (!db)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        r = sqlite3_open_v2(path, &db->handle,
                            SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX,
                            NULL);
        if (r != SQLITE_OK)
                return db->handle ? db_fail(db, r, "cannot open", reterr)
                                  : fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        harden(db);
        *ret = TAKE_PTR(db);
        return 0;
}

int db_open(const char *path, const DbOptions *options, Db **ret, Failure *reterr) {
        _cleanup_db_ Db *db = NULL;
        int r = create_private(path, reterr);

        if (r >= 0)
                r = open_file(path, &db, reterr);
        if (r >= 0)
                r = configure(db, options, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(db);
        return 0;
}

/* Locked for good by the first statement, and without side files: from then on it needs no name. */
static int configure_scratch(Db *db, uint32_t cache_kib, Failure *reterr) {
        int r = db_exec(db,
                        "PRAGMA temp_store=MEMORY; PRAGMA locking_mode=EXCLUSIVE;"
                        "PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF;"
                        "BEGIN EXCLUSIVE; COMMIT",
                        reterr);

        return r < 0 ? r : set_cache(db, cache_kib, reterr);
}

int db_open_scratch(uint32_t cache_kib, Db **ret, Failure *reterr) {
        char path[] = SCRATCH_TEMPLATE;
        _cleanup_db_ Db *db = NULL;
        int fd = mkostemp(path, O_CLOEXEC), r;

        if (fd < 0)
                return fail_errno(reterr, fail_code_for_write(errno, FAIL_INTERNAL), errno,
                                  "cannot make a temporary database %s", path);
        fd_close(fd);
        r = open_file(path, &db, reterr);
        if (r >= 0)
                r = configure_scratch(db, cache_kib, reterr);
        (void) unlink(path); /* what stays is empty, or gone with the machine */
        if (r < 0)
                return r;
        *ret = TAKE_PTR(db);
        return 0;
}

int db_copy(Db *from, Db *to, Failure *reterr) {
        sqlite3_backup *b = sqlite3_backup_init(to->handle, "main", from->handle, "main");
        int r = b ? sqlite3_backup_step(b, -1) : sqlite3_errcode(to->handle);

        if (b)
                (void) sqlite3_backup_finish(b); /* repeats what the step said */
        return r == SQLITE_DONE ? 0 : db_fail(to, r, "cannot take a copy", reterr);
}

void db_close(Db *db) {
        if (!db)
                return;
        (void) sqlite3_close_v2(db->handle); /* v2: a statement that is still alive is no leak */
        free(db);
}

int db_exec(Db *db, const char *sql, Failure *reterr) {
        int r = sqlite3_exec(db->handle, sql, NULL, NULL, NULL);

        return r == SQLITE_OK ? 0 : db_fail(db, r, "cannot execute", reterr);
}

int db_quick_check(Db *db, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = db_prepare(db, "PRAGMA quick_check(1)", &s, reterr);

        if (r >= 0)
                r = db_step(s, reterr);
        if (r < 0)
                return r;
        if (r == 0 || strcmp(db_column_text(s, 0), "ok") != 0)
                return fail_set(reterr, FAIL_INTERNAL, EUCLEAN, "the database is damaged: %s",
                                r == 0 ? "no verdict" : db_column_text(s, 0));
        return 0;
}

int db_begin(Db *db, Failure *reterr) {
        return db_exec(db, "BEGIN IMMEDIATE", reterr);
}

int db_commit(Db *db, Failure *reterr) {
        int r = db_exec(db, "COMMIT", reterr);

        if (r < 0)
                db_rollback(db);
        return r;
}

void db_rollback(Db *db) {
        /* Fails only when the failure before has ended the transaction already. */
        if (db_in_transaction(db))
                (void) sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
}

bool db_in_transaction(const Db *db) {
        return !sqlite3_get_autocommit(db->handle);
}

int db_prepare(Db *db, const char *sql, DbStmt **ret, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        s->db = db;
        r = sqlite3_prepare_v3(db->handle, sql, -1, 0, &s->handle, NULL);
        if (r != SQLITE_OK)
                return db_fail(db, r, "cannot prepare", reterr);
        *ret = TAKE_PTR(s);
        return 0;
}

void db_stmt_free(DbStmt *s) {
        if (!s)
                return;
        (void) sqlite3_finalize(s->handle); /* repeats the error of the last step, told already */
        free(s);
}

static void keep_bind_error(DbStmt *s, int r) {
        if (r != SQLITE_OK && s->bind_error == SQLITE_OK)
                s->bind_error = r;
}

void db_bind_text(DbStmt *s, int index, const char *text) {
        keep_bind_error(s, sqlite3_bind_text(s->handle, index, text, -1, SQLITE_TRANSIENT));
}

void db_bind_blob(DbStmt *s, int index, const void *data, size_t n) {
        keep_bind_error(s, sqlite3_bind_blob64(s->handle, index, data, n, SQLITE_TRANSIENT));
}

void db_bind_int(DbStmt *s, int index, int64_t value) {
        keep_bind_error(s, sqlite3_bind_int64(s->handle, index, value));
}

void db_bind_null(DbStmt *s, int index) {
        keep_bind_error(s, sqlite3_bind_null(s->handle, index));
}

int db_step(DbStmt *s, Failure *reterr) {
        int r;

        if (s->bind_error != SQLITE_OK)
                return fail_set(reterr, FAIL_INTERNAL, error_to_errno(s->bind_error),
                                "cannot bind a value: %s", sqlite3_errstr(s->bind_error));
        r = sqlite3_step(s->handle);
        if (r == SQLITE_ROW)
                return 1;
        if (r == SQLITE_DONE) {
                (void) sqlite3_reset(s->handle);
                return 0;
        }
        r = db_fail(s->db, r, "cannot execute", reterr);
        (void) sqlite3_reset(s->handle); /* repeats the error just told */
        return r;
}

int db_run(DbStmt *s, Failure *reterr) {
        int r;

        do
                r = db_step(s, reterr);
        while (r > 0);
        db_reset(s);
        return r;
}

void db_reset(DbStmt *s) {
        (void) sqlite3_reset(s->handle); /* repeats the error of the last step, told already */
        (void) sqlite3_clear_bindings(s->handle);
        s->bind_error = SQLITE_OK;
}

const char *db_column_text(DbStmt *s, int column) {
        const char *text = (const char *) sqlite3_column_text(s->handle, column);

        return text ? text : "";
}

int64_t db_column_int(DbStmt *s, int column) {
        return sqlite3_column_int64(s->handle, column);
}

const void *db_column_blob(DbStmt *s, int column, size_t *ret_size) {
        const void *data = sqlite3_column_blob(s->handle, column);

        *ret_size = (size_t) sqlite3_column_bytes(s->handle, column);
        return data;
}

bool db_column_is_null(DbStmt *s, int column) {
        return sqlite3_column_type(s->handle, column) == SQLITE_NULL;
}

int64_t db_changes(const Db *db) {
        return sqlite3_changes64(db->handle);
}
