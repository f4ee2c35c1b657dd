#pragma once

/*
 * A thin layer over SQLite for our own databases (the agent's catalogue, the worker's index). The
 * only place where SQLite's results become ours. One Db belongs to one thread at a time.
 *
 * Failures are negative errnos: -EUCLEAN the file is damaged or no database, -ENOSPC, -EBUSY
 * (locked by another process), -EEXIST (a constraint), -ENOMEM, -EROFS, -EACCES (cannot be opened
 * or written), else -EIO.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/fail.h"

typedef struct Db Db;
typedef struct DbStmt DbStmt;

typedef struct DbOptions {
        bool full_sync; /* synchronous=FULL: a commit survives a power cut; else NORMAL */
        bool foreign_keys;
        uint32_t cache_kib; /* page cache; 0: SQLite's default */
        uint32_t busy_msec; /* how long to wait for another process */
} DbOptions;

/*
 * Opens or creates (mode 0600) a database in WAL mode; schema and triggers of a damaged or hostile
 * file are not trusted. Owned. A file that is no database shows here or at the first use.
 */
int db_open(const char *path, const DbOptions *options, Db **ret, Failure *reterr);
void db_close(Db *db);

/*
 * A database in memory that can be swapped out, without a name, for what can be made again: nothing
 * of it is ever on a disk. -ENOENT where /dev/shm is missing. Owned.
 */
int db_open_scratch(uint32_t cache_kib, Db **ret, Failure *reterr);

/* Replaces the contents of `to` by those of `from`, in one transaction. */
int db_copy(Db *from, Db *to, Failure *reterr);
DEFINE_CLEANUP(Db *, db_close);

/* Runs statements that return nothing. */
int db_exec(Db *db, const char *sql, Failure *reterr);

/* Reads the whole file: 0, or -EUCLEAN with what is wrong. */
int db_quick_check(Db *db, Failure *reterr);

/* Transactions: BEGIN IMMEDIATE. A failed commit is rolled back; db_rollback() without one is fine.
 */
int db_begin(Db *db, Failure *reterr);
int db_commit(Db *db, Failure *reterr);
void db_rollback(Db *db);
bool db_in_transaction(const Db *db);

/* Compiles one statement that will be used often (or once). Owned; freed before its database. */
int db_prepare(Db *db, const char *sql, DbStmt **ret, Failure *reterr);
void db_stmt_free(DbStmt *s);
DEFINE_CLEANUP(DbStmt *, db_stmt_free);
#define _cleanup_db_      _cleanup_(db_closep)
#define _cleanup_db_stmt_ _cleanup_(db_stmt_freep)

/*
 * Binds parameter `index` (from 1). Texts and blobs are copied; NULL binds NULL. A failure to bind
 * is kept and returned by the next db_step(), so that callers check once.
 */
void db_bind_text(DbStmt *s, int index, const char *text);
void db_bind_blob(DbStmt *s, int index, const void *data, size_t n);
void db_bind_int(DbStmt *s, int index, int64_t value);
void db_bind_null(DbStmt *s, int index);

/* The next row: 1 a row, 0 the end (the statement is then reset), negative errno. */
int db_step(DbStmt *s, Failure *reterr);

/* Steps to the end, ignoring rows, and resets. 0 or negative errno. */
int db_run(DbStmt *s, Failure *reterr);

/* Makes a statement ready for new bindings; old ones are cleared. */
void db_reset(DbStmt *s);

/* Columns of the current row, from 0. Texts ("" for NULL) and blobs are borrowed until the next
 * step. */
const char *db_column_text(DbStmt *s, int column);
int64_t db_column_int(DbStmt *s, int column);
const void *db_column_blob(DbStmt *s, int column, size_t *ret_size);
bool db_column_is_null(DbStmt *s, int column);

/* Rows changed by the last INSERT, UPDATE or DELETE. */
int64_t db_changes(const Db *db);
