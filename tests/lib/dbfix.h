#pragma once

/*
 * Databases for tests: directories of a service's user, writers that keep them busy, and crashes.
 */

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define DBFIX_UID   65534
#define DBFIX_OTHER 65533

/* A fresh directory of the test's own, enterable by all; owned. dbfix_remove() deletes it. */
char *dbfix_new(void);
void dbfix_remove(char *base);

/*
 * For a test program as a whole: copies the helper to a directory that every user may enter (a
 * build below /root is closed to the databases' owners) and points HOLDPOINT_LIBEXECDIR there.
 */
int dbfix_helper_set_up(void **state);
int dbfix_helper_tear_down(void **state);

/* BASE/NAME as a directory of `uid`, 0755. Its path (owned) and an O_PATH descriptor. */
char *dbfix_dir(const char *base, const char *name, uid_t uid, int *ret_fd);

/* Runs SQL on DIR/NAME in a child that is `uid`. Fails the test if that fails. */
void dbfix_exec(uid_t uid, const char *dir, const char *name, const char *sql);

/* One number from a database (as root, which leaves side files: for images and copies only). */
int64_t dbfix_number(const char *dir, const char *name, const char *sql);

/* What a writer has done so far; shared memory. */
typedef struct DbfixStats {
        volatile uint64_t commits, errors, longest_usec;
        volatile unsigned slow_usec; /* set it: how long each transaction holds its lock */
        volatile bool ready, stop, go;
} DbfixStats;

typedef struct DbfixWriter {
        pid_t pid;
        DbfixStats *stats;
} DbfixWriter;

/*
 * A child of `uid` that inserts rows into t(x) as fast as it can, one transaction each. With `grip`
 * it begins one transaction instead and holds it until stats->go, then commits.
 */
DbfixWriter dbfix_writer(uid_t uid, const char *dir, const char *name, bool grip);
void dbfix_writer_stop(DbfixWriter *w); /* waits for it */

/* Waits until the writer has made `n` more commits; false after five seconds. */
bool dbfix_writer_advances(const DbfixWriter *w, uint64_t n);

/* Copies a file, if it exists, keeping owner and mode. */
void dbfix_copy(const char *from_dir, const char *to_dir, const char *name);

/* As above for NAME, -wal, -shm and -journal. */
void dbfix_copy_all(const char *from_dir, const char *to_dir, const char *name);

void dbfix_write(const char *dir, const char *name, uid_t uid, const void *data, size_t n);
bool dbfix_exists(const char *dir, const char *name);

/* A journal that looks hot and names `super` as its super-journal; owned by `uid`. */
void dbfix_hot_journal(const char *dir, const char *name, uid_t uid, const char *super);

/* The only child process of the caller that runs holdpoint-sqlite, or -1. */
pid_t dbfix_helper_pid(void);
