/*
 * Copies of live databases with SQLite's backup interface, into a descriptor that the worker handed
 * over.
 *
 * In WAL mode the source is the transaction that was pinned under the hold: nobody waits, and the
 * copy is of that instant. With a rollback journal every read keeps writers from committing, and a
 * commit between two reads starts the copy again. Reading goes in slices of time; a slice grows
 * with every new start up to SLICE_MAX_USEC, which is the longest that a writer waits at first.
 * After RESTARTS_SHORT of them, slices may take MaxHoldMSec=, the longest wait that the
 * administrator allows anyway. After RESTARTS_MAX the copy fails: a single step over the whole file
 * would make it succeed, and stop the service for seconds.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "sql/helper.h"

#define STEP_PAGES      256
#define SLICE_MIN_USEC  (20 * USEC_PER_MSEC)
#define SLICE_MAX_USEC  (250 * USEC_PER_MSEC)
#define RESTARTS_SHORT  12
#define RESTARTS_MAX    16
#define BUSY_MAX_USEC   (10 * USEC_PER_SEC)
#define WORD_EVERY_USEC USEC_PER_SEC /* a sign of life for the worker */

typedef struct Copy {
        Helper *h;
        HelperDb *db;
        sqlite3 *source, *target;
        sqlite3_backup *backup;
        uint64_t last_word_usec, busy_since_usec;
        unsigned restarts;
        int64_t page_size, user_version;
} Copy;

static bool hung_up(Helper *h) {
        struct pollfd p = { .fd = h->socket, .events = POLLIN };

        /* A new command while one runs is as good as a hang-up. */
        return poll(&p, 1, 0) > 0;
}

static int word(Copy *c) {
        uint64_t now = clock_monotonic_usec();

        if (hung_up(c->h))
                return -ECANCELED;
        if (now - c->last_word_usec < WORD_EVERY_USEC)
                return 0;
        c->last_word_usec = now;
        return helper_answer(c->h, "progress", c->db, NULL);
}

static int open_target(Copy *c, Failure *reterr) {
        int rc = sqlite3_open_v2(HELPER_COPY_NAME, &c->target,
                                 SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE |
                                         SQLITE_OPEN_PRIVATECACHE,
                                 HELPER_VFS_NAME);

        if (rc == SQLITE_OK)
                rc = helper_db_exec(c->target, "PRAGMA locking_mode=EXCLUSIVE");
        /* A copy that is not finished is thrown away: it needs no journal. */
        if (rc == SQLITE_OK)
                rc = helper_db_exec(c->target, "PRAGMA journal_mode=OFF");
        if (rc == SQLITE_OK)
                rc = helper_db_exec(c->target, "PRAGMA synchronous=OFF");
        return rc == SQLITE_OK
                       ? 0
                       : helper_db_failure(c->h, c->db, c->target, rc, "make a copy", reterr);
}

/* A database that is locked for long (a writer at PENDING, an exclusive one) fails the copy. */
static int wait_busy(Copy *c, Failure *reterr) {
        uint64_t now = clock_monotonic_usec();

        if (c->busy_since_usec == 0)
                c->busy_since_usec = now;
        if (now - c->busy_since_usec > BUSY_MAX_USEC)
                return fail_set(reterr, FAIL_BUSY, EBUSY,
                                "%s stayed locked by another process and was not copied; try again",
                                c->db->path);
        (void) sqlite3_sleep(5);
        return word(c);
}

enum { COPY_MORE, COPY_DONE, COPY_BUSY };

/* Reads for one slice of time. COPY_BUSY when a writer kept us out: nothing was read. */
static int copy_slice(Copy *c, uint64_t slice_usec, bool bounded, Failure *reterr) {
        uint64_t end = clock_monotonic_usec() + slice_usec;
        int r;

        do {
                int rc = sqlite3_backup_step(c->backup, STEP_PAGES);

                if (rc == SQLITE_DONE)
                        return COPY_DONE;
                if (rc == SQLITE_BUSY || rc == SQLITE_LOCKED) {
                        r = wait_busy(c, reterr);
                        return r < 0 ? r : COPY_BUSY;
                }
                if (rc != SQLITE_OK)
                        return helper_db_failure(c->h, c->db, NULL, rc, "copy", reterr);
                c->busy_since_usec = 0;
                r = word(c);
                if (r < 0)
                        return r;
        } while (!bounded || clock_monotonic_usec() < end);
        return COPY_MORE;
}

/* Begins a read transaction, and notes what the copy must come out with. */
static int read_begin(Copy *c) {
        int rc = SQLITE_OK;

        if (sqlite3_get_autocommit(c->source)) /* else it is pinned already */
                rc = helper_db_exec(c->source, "BEGIN");
        if (rc == SQLITE_OK)
                rc = helper_db_number(c->source, "PRAGMA user_version", &c->user_version);
        if (rc == SQLITE_OK)
                rc = helper_db_number(c->source, "PRAGMA page_size", &c->page_size);
        return rc;
}

/*
 * One slice within a read transaction of its own, so that the steps in it cannot be disturbed.
 * Returns as copy_slice().
 */
static int copy_locked_slice(Copy *c, uint64_t slice_usec, Failure *reterr) {
        int r, rc = read_begin(c);

        if ((rc & 0xff) == SQLITE_BUSY) {
                r = wait_busy(c, reterr);
                if (r >= 0)
                        r = COPY_BUSY;
        } else if (rc != SQLITE_OK)
                r = helper_db_failure(c->h, c->db, c->source, rc, "read", reterr);
        else
                r = copy_slice(c, slice_usec, true, reterr);
        if (!sqlite3_get_autocommit(c->source) &&
            helper_db_exec(c->source, "ROLLBACK") != SQLITE_OK)
                return fail_set(reterr, FAIL_INTERNAL, EIO, "%s: a read could not be ended",
                                c->db->path);
        return r;
}

static uint64_t longer_slice(const Copy *c, uint64_t slice) {
        uint64_t max = c->restarts > RESTARTS_SHORT && c->h->max_hold_usec > SLICE_MAX_USEC
                               ? c->h->max_hold_usec
                               : SLICE_MAX_USEC;

        return slice * 2 < max ? slice * 2 : max;
}

static int copy_rollback(Copy *c, Failure *reterr) {
        uint64_t slice = SLICE_MIN_USEC;
        int left = -1;

        for (;;) {
                int now_left, r = copy_locked_slice(c, slice, reterr);

                if (r < 0 || r == COPY_DONE)
                        return r;
                if (r == COPY_BUSY)
                        continue; /* bounded by the time, not by the count of starts */
                now_left = sqlite3_backup_remaining(c->backup);
                if (left >= 0 && now_left >= left) {
                        if (++c->restarts > RESTARTS_MAX)
                                return fail_set(
                                        reterr, FAIL_BUSY, EBUSY,
                                        "%s was changed %u times while it was copied; use WAL "
                                        "mode, a file system with snapshots, or a quieter hour",
                                        c->db->path, c->restarts);
                        slice = longer_slice(c, slice);
                }
                left = now_left;
                (void) sqlite3_sleep(10); /* for the writers that queued up meanwhile */
        }
}

static int copy_pages(Copy *c, Failure *reterr) {
        int r, rc;

        c->backup = sqlite3_backup_init(c->target, "main", c->source, "main");
        if (!c->backup)
                return helper_db_failure(c->h, c->db, c->target, sqlite3_errcode(c->target), "copy",
                                         reterr);
        if (c->db->wal) {
                do
                        r = copy_slice(c, 0, false, reterr);
                while (r == COPY_MORE || r == COPY_BUSY);
        } else
                r = copy_rollback(c, reterr);
        rc = sqlite3_backup_finish(c->backup);
        if (r >= 0 && rc != SQLITE_OK)
                r = helper_db_failure(c->h, c->db, c->target, rc, "finish the copy", reterr);
        return r < 0 ? r : 0;
}

/* What the copy must have in common with its source; the rest is quick_check's business. */
static int verify(Copy *c, int fd, Failure *reterr) {
        HelperHeader header;
        int r = helper_read_header(c->db, fd, &header, reterr);

        if (r < 0)
                return r;
        if (header.empty)
                return 0;
        if (header.wal != c->db->wal || header.page_size != c->page_size ||
            header.user_version != (uint32_t) c->user_version)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "%s: its copy has another journal mode, page size or user_version",
                                c->db->path);
        return 0;
}

/* A source without any page has nothing to copy: the empty file is the copy. */
static int copy_one(Helper *h, HelperDb *db, int fd, Failure *reterr) {
        Copy c = { .h = h, .db = db, .source = db->pin_conn ? db->pin_conn : db->conn };
        struct stat st;
        int r, rc;

        h->deadline_usec = 0;
        h->refused = FAILURE_INIT;
        /* Not held, so not of the common instant, as its `held` says; but whole in itself. */
        if (db->wal) {
                rc = read_begin(&c);
                if (rc != SQLITE_OK)
                        return helper_db_failure(h, db, c.source, rc, "read", reterr);
        }
        h->copy_fd = fd;
        c.last_word_usec = clock_monotonic_usec();
        r = fstat(db->fd, &st) < 0 ? -errno : 0;
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot stat %s", db->path);
        if (st.st_size == 0)
                return 0;
        r = open_target(&c, reterr);
        if (r >= 0)
                r = copy_pages(&c, reterr);
        rc = sqlite3_close(c.target);
        if (r >= 0 && rc != SQLITE_OK)
                r = helper_db_failure(h, db, NULL, rc, "close the copy", reterr);
        if (r >= 0)
                r = verify(&c, fd, reterr);
        if (r >= 0 && fsync(fd) < 0)
                r = fail_errno(reterr, fail_code_for_write(errno, FAIL_INTERNAL), errno,
                               "the copy of %s could not be written", db->path);
        /* The log of a busy service cannot be reset while somebody reads the old state. */
        if (db->wal)
                (void) helper_db_exec(c.source,
                                      "ROLLBACK"); /* a failed one ends with the process */
        db->pinned = false;
        return r;
}

int helper_hold_copy(Helper *h, json_object *message, int fd) {
        Failure failure = FAILURE_INIT;
        uint64_t index;
        int r;

        if (h->first_lock_usec > 0 || json_get_u64(message, "index", &index) < 0)
                return -EBADMSG;
        for (size_t i = 0; i < h->n_dbs; i++) {
                HelperDb *db = &h->dbs[i];

                if (db->index != index || !db->ready)
                        continue;
                r = copy_one(h, db, fd, &failure);
                h->copy_fd = -1;
                if (r == -ECANCELED)
                        return r;
                if (r >= 0)
                        log_info("%s: copied", db->path);
                return helper_answer(h, r < 0 ? "failed" : "copied", db, r < 0 ? &failure : NULL);
        }
        return -EBADMSG;
}
