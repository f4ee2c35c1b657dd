#pragma once

/*
 * Private to holdpoint-sqlite: the databases it was given, its VFS, and its commands. The worker's
 * side of the messages is snapshot/hold-helper.c.
 */

#include <signal.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "base/fail.h"
#include "base/json.h"

#define HELPER_DATABASES_MAX 4096
#define HELPER_IMAGES_MAX    4096
#define HELPER_HEADER_SIZE   100 /* of a database file */

typedef enum HelperMode {
        HELPER_HOLD,    /* live databases: real locks, nothing is deleted, no journal is played */
        HELPER_RECOVER, /* databases of a private image */
        HELPER_CHECK,   /* the same, read-only and already recovered */
} HelperMode;

/* The first bytes of a database file, as far as they matter here. */
typedef struct HelperHeader {
        bool empty; /* a file of 0 bytes is a database without tables */
        bool wal;
        uint32_t page_size, user_version;
} HelperHeader;

typedef struct HelperDb {
        uint64_t index; /* the worker's number for it */
        char *path;     /* live path, escaped: for texts only */
        char *name;     /* one component below dirfd */
        char *zname;    /* "/proc/self/fd/DIRFD/NAME": its only name towards SQLite */
        int dirfd;
        bool pin; /* wanted */
        /* hold */
        int fd;      /* our own on the database; not closed before the end, see helper-hold.c */
        int lock_fd; /* where the lock byte is: `fd`, or our own on -shm */
        bool ready, wal, locked, in_transaction, pinned;
        uint64_t locked_usec;
        sqlite3 *conn;
        sqlite3 *pin_conn;
} HelperDb;

typedef struct HelperImage {
        char *live;
        int fd;
} HelperImage;

typedef struct Helper {
        int socket;
        HelperMode mode;
        HelperDb *dbs;
        size_t n_dbs;
        HelperImage *images;
        size_t n_images;
        int copy_fd;            /* what HELPER_COPY_NAME opens; -1: nothing */
        uint64_t deadline_usec; /* of what SQLite is doing now; 0: none */
        uint64_t max_hold_usec;
        uint64_t first_lock_usec; /* 0: nothing is held */
        bool timers_made;
        timer_t alarm; /* SIGALRM: interrupts a lock wait */
        timer_t guard; /* SIGKILL: ends a helper that would hold for too long, even a stopped one */
        sqlite3_vfs vfs;
        sqlite3_vfs *stock;
        Failure refused; /* why the VFS refused: better than what SQLite makes of it */
} Helper;

#define HELPER_VFS_NAME  "holdpoint"
#define HELPER_COPY_NAME "/holdpoint-copy"

/* ---- helper-vfs.c ---- */

/* Registers the VFS and makes it the default; `h` must stay where it is. */
int helper_vfs_register(Helper *h, Failure *reterr);

/*
 * Opens NAME + `suffix` of a database beneath its directory: a regular file with one name, owned as
 * expected, never a link. fd or negative errno with the reason.
 */
int helper_open_file(Helper *h, HelperDb *db, const char *suffix, int flags, Failure *reterr);

/* Reads and judges the header. -EBADMSG if it is not a database. */
int helper_read_header(HelperDb *db, int fd, HelperHeader *ret, Failure *reterr);

/* ---- helper-db.c ---- */

/*
 * Opens a connection that trusts nothing. `deadline_usec` (monotonic, 0: none) is kept by reference
 * and ends statements that run past it.
 */
int helper_db_open(Helper *h,
                   HelperDb *db,
                   const uint64_t *deadline_usec,
                   sqlite3 **ret,
                   Failure *reterr);

/* Runs one statement without looking at its rows. An SQLite result code. */
int helper_db_exec(sqlite3 *conn, const char *sql);

/* The number that a one-row statement answers. An SQLite result code. */
int helper_db_number(sqlite3 *conn, const char *sql, int64_t *ret);

/* Fills `reterr` from an SQLite result (or from what the VFS refused) and returns the errno. */
int helper_db_failure(Helper *h,
                      HelperDb *db,
                      sqlite3 *conn,
                      int rc,
                      const char *what,
                      Failure *reterr);

/* ---- answers, sqlite-helper.c ---- */

int helper_answer(Helper *h, const char *type, const HelperDb *db, const Failure *failure);
int helper_answer_object(Helper *h, json_object *message);
json_object *helper_answer_new(const char *type, const HelperDb *db);

/* ---- commands: each answers per database itself; negative errno ends the program ---- */

int helper_hold_prepare(Helper *h, json_object *message);
int helper_hold_lock(Helper *h, json_object *message);
int helper_hold_pin(Helper *h);
int helper_hold_release(Helper *h, bool self);
int helper_hold_copy(Helper *h, json_object *message, int fd);
int helper_image_recover(Helper *h, json_object *message);
int helper_image_check(Helper *h, json_object *message);
