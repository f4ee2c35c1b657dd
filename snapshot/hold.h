#pragma once

/*
 * The hold: every SQLite database of a backup is write-locked at once, for the few milliseconds of
 * a snapshot, by one holdpoint-sqlite process per owner; and what those helpers do later in the
 * frozen image or from a pinned connection. No SQLite code runs in the worker itself.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/fail.h"

typedef enum HoldVerdict {
        HOLD_UNCHECKED,
        HOLD_OK,      /* quick_check answered ok */
        HOLD_DAMAGED, /* it did not; `failure` has its first line */
} HoldVerdict;

typedef struct HoldDatabase {
        /* in */
        const char *path; /* live path: for messages and as the key */
        int dirfd;        /* directory that holds it (O_PATH is enough); borrowed */
        const char *name; /* in that directory */
        uid_t uid;        /* its owner, whom the helper becomes */
        gid_t gid;
        bool pin; /* hold_pin(): this database is to be copied from a pinned transaction */
        /* out */
        bool held;            /* locked when the point was taken, until the release */
        bool wal;             /* journal mode */
        uint64_t locked_usec; /* monotonic; when the lock was granted */
        uint64_t pause_usec;  /* from the lock to the release */
        Failure failure;      /* why it was not held, copied or recovered */
} HoldDatabase;

typedef struct Hold Hold;

typedef struct HoldParams {
        const char *libexec_dir;
        HoldDatabase *databases; /* borrowed until hold_free() */
        size_t n;
        uint64_t lock_timeout_usec; /* LockTimeoutMSec */
        uint64_t max_hold_usec;     /* MaxHoldMSec: a helper lets go by itself then */
        bool (*interrupted)(void *userdata);
        void *userdata;
} HoldParams;

/*
 * Starts one helper per owner and lets each open and read its databases: all that may wait. A
 * database that cannot be opened, or has a hot journal, gets its `failure`; the others go on.
 * Root-owned databases are taken by uid 0 with empty capability sets and no_new_privs, and refused
 * if others may write the directory. A helper dies with the thread that called this.
 */
int hold_prepare(const HoldParams *params, Hold **ret, Failure *reterr);

/*
 * Locks all, all helpers at once, by queueing in the kernel (F_SETLKW under a repeating timer) and
 * then BEGIN IMMEDIATE. Returns 0 when all are held, 1 when some are not within the timeout
 * (their `failure` says why; those that were got are still held), negative errno.
 */
int hold_lock(Hold *h, Failure *reterr);

/* Under the hold: pins a read transaction for each database with `pin` set (WAL only). */
int hold_pin(Hold *h, Failure *reterr);

/*
 * Releases. Fills pause_usec. A database whose helper died, was killed past its deadline or let go
 * by itself before is no longer `held`. Returns the whole hold, from the first lock to the last
 * release, in *ret_pause_usec. Helpers that do not answer are killed: never blocks past a second.
 * Call it after the snapshot: what counts for `held` is that the locks were there when this was
 * called.
 */
int hold_release(Hold *h, uint64_t *ret_pause_usec, Failure *reterr);

/*
 * After the release: copies one database with SQLite's backup API to `fd`, an empty file which the
 * caller owns and passes open for reading and writing; it is synced. WAL: as it was at the pin (or
 * now, if it was not pinned; `held` tells). Rollback journal: in slices of at most 250 ms, started
 * again when a writer came between; the last tries may take max_hold, then FAIL_BUSY. The copy has
 * no side files and keeps page size, user_version and journal mode. 0, or negative errno with the
 * failure in reterr.
 */
int hold_copy(Hold *h, size_t database, int fd, Failure *reterr);

void hold_free(Hold *h); /* kills what is left; NULL is fine */
DEFINE_CLEANUP(Hold *, hold_free);

/*
 * Where the frozen image of a live path is: super-journals are looked up through this, never in the
 * live tree.
 */
typedef struct HoldImage {
        const char *live; /* absolute directory on the live system */
        int fd;           /* the same directory in the image; borrowed */
} HoldImage;

typedef struct HoldImageJob {
        const char *libexec_dir;
        HoldDatabase
                *databases; /* dirfd and name lie in the (writable) image; path is the live one */
        size_t n;
        const HoldImage *images;
        size_t n_images;
        uint64_t timeout_usec; /* for each database */
        bool (*interrupted)(void *userdata);
        void *userdata;
} HoldImageJob;

/*
 * Recovers each database in place in the image, as its owner: hot journal rolled back or WAL folded
 * in, side files gone, journal mode kept; the mtime of database and directory put back. A database
 * that cannot be recovered has its `failure` set; the rest go on. 0 unless no helper could be run
 * at all.
 */
int hold_recover(const HoldImageJob *job, Failure *reterr);

/*
 * PRAGMA quick_check of each (recovered, closed) database, read-only in fact, as its owner. Fills
 * verdicts[i]. Time-limited: one that takes longer is HOLD_UNCHECKED with its `failure` set.
 */
int hold_check(const HoldImageJob *job, HoldVerdict *verdicts, Failure *reterr);
