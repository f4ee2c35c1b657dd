/*
 * The hold. SQLite polls for locks and so loses against busy writers; we queue in the kernel for
 * the byte that a writer needs (F_SETLKW, interrupted by a repeating timer), and only then let
 * SQLite take what this process already has.
 *
 * POSIX locks belong to the process and the file, not to a descriptor: closing any descriptor of a
 * file drops all locks on it, and so does the end of any SQLite statement outside of a transaction.
 * Hence our own descriptors and all connections stay open until the process ends, and between the
 * lock and BEGIN IMMEDIATE nothing else is done with that database.
 *
 * Two timers of the kernel bound the hold even when the owner stops this process (it may send us
 * signals): one interrupts a wait, the other sends SIGKILL, which ends a stopped process too.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/step.h"
#include "sql/helper.h"

#define WAL_WRITE_BYTE 120        /* of -shm: WAL_WRITE_LOCK */
#define RESERVED_BYTE  0x40000001 /* of the database: RESERVED_LOCK */

#define GUARD_GRACE_USEC                                                                           \
        (150 * USEC_PER_MSEC) /* for letting go in order before the guard strikes */
#define ALARM_REPEAT_USEC (5 * USEC_PER_MSEC)
#define RETRY_USEC        200

/* ---- timers ---- */

static void on_alarm(int sig) {
        /* Its only purpose is EINTR. */
}

static int make_timers(Helper *h) {
        struct sigaction sa = { .sa_handler = on_alarm }; /* no SA_RESTART */
        struct sigevent alarm = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
        struct sigevent guard = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL };

        if (sigaction(SIGALRM, &sa, NULL) < 0 ||
            timer_create(CLOCK_MONOTONIC, &alarm, &h->alarm) < 0 ||
            timer_create(CLOCK_MONOTONIC, &guard, &h->guard) < 0)
                return -errno;
        h->timers_made = true;
        return 0;
}

/* At the absolute time `usec` and then every `repeat_usec`; 0 stops it. */
static int set_timer(timer_t timer, uint64_t usec, uint64_t repeat_usec) {
        struct itimerspec spec = {
                .it_value = { (time_t) (usec / USEC_PER_SEC), (long) (usec % USEC_PER_SEC * 1000) },
                .it_interval = { 0, (long) (repeat_usec * 1000) },
        };

        return timer_settime(timer, TIMER_ABSTIME, &spec, NULL) < 0 ? -errno : 0;
}

/* ---- prepare ---- */

/* Everything that reads: file, header, SQLite's cache of it, and the mapping of -shm. */
static int touch(Helper *h, HelperDb *db, sqlite3 **ret, Failure *reterr) {
        sqlite3 *conn = NULL;
        int64_t version;
        int r, rc;

        r = helper_db_open(h, db, &h->deadline_usec, &conn, reterr);
        if (r < 0)
                return r;
        /* Reads page 1 and, in WAL mode, maps -shm, but not the schema: what is in there stays
         * alone. */
        rc = helper_db_number(conn, "PRAGMA schema_version", &version);
        if (rc != SQLITE_OK)
                return helper_db_failure(h, db, conn, rc, "read", reterr);
        *ret = conn;
        return 0;
}

static int prepare_one(Helper *h, HelperDb *db, Failure *reterr) {
        HelperHeader header;
        int r;

        db->fd = helper_open_file(h, db, "", O_RDWR, reterr);
        if (db->fd < 0)
                return db->fd;
        r = helper_read_header(db, db->fd, &header, reterr);
        if (r < 0)
                return r;
        r = touch(h, db, &db->conn, reterr);
        if (r < 0)
                return r;
        db->wal = header.wal;
        db->lock_fd = db->fd;
        if (!db->wal)
                return 0;
        if (db->pin) {
                r = touch(h, db, &db->pin_conn, reterr);
                if (r < 0)
                        return r;
        }
        db->lock_fd = helper_open_file(h, db, "-shm", O_RDWR, reterr);
        return db->lock_fd < 0 ? db->lock_fd : 0;
}

int helper_hold_prepare(Helper *h, json_object *message) {
        uint64_t timeout;
        int r;

        if (h->timers_made || json_get_u64(message, "max_hold_usec", &h->max_hold_usec) < 0 ||
            json_get_u64(message, "timeout_usec", &timeout) < 0)
                return -EBADMSG;
        r = make_timers(h);
        if (r < 0)
                return r;
        for (size_t i = 0; i < h->n_dbs; i++) {
                HelperDb *db = &h->dbs[i];
                Failure failure = FAILURE_INIT;

                h->deadline_usec = clock_monotonic_usec() + timeout;
                r = prepare_one(h, db, &failure);
                db->ready = r >= 0;
                if (r < 0)
                        r = helper_answer(h, "failed", db, &failure);
                else {
                        _cleanup_json_ json_object *o = helper_answer_new("prepared", db);

                        r = o && json_put_bool(o, "wal", db->wal) >= 0 ? helper_answer_object(h, o)
                                                                       : -ENOMEM;
                }
                if (r < 0)
                        return r;
        }
        h->deadline_usec = 0;
        return 0;
}

/* ---- lock ---- */

static struct flock lock_range(const HelperDb *db, short type) {
        return (struct flock){
                .l_type = type,
                .l_whence = SEEK_SET,
                .l_start = db->wal ? WAL_WRITE_BYTE : RESERVED_BYTE,
                .l_len = 1,
        };
}

static void drop_raw_lock(HelperDb *db) {
        struct flock range = lock_range(db, F_UNLCK);

        (void) fcntl(db->lock_fd, F_SETLK, &range); /* cannot fail for what was locked before */
}

/* Queues for the byte. 0, or -ETIMEDOUT at the deadline. */
static int wait_raw_lock(HelperDb *db, uint64_t deadline) {
        for (;;) {
                struct flock range = lock_range(db, F_WRLCK);

                if (fcntl(db->lock_fd, F_SETLKW, &range) >= 0)
                        return 0;
                if (errno != EINTR && errno != EDEADLK)
                        return -errno;
                if (clock_monotonic_usec() >= deadline)
                        return -ETIMEDOUT;
                if (errno == EDEADLK) /* somebody queues for what we hold: they give up or we do */
                        (void) usleep(RETRY_USEC);
        }
}

/*
 * SQLite's own lock on top. An empty file stays with the byte alone, which keeps writers out as
 * well: SQLite would begin to write page 1. An SQLite result; with SQLITE_BUSY the byte may be
 * lost.
 */
static int begin(Helper *h, HelperDb *db, Failure *reterr) {
        HelperHeader header;
        int rc;

        if (!db->wal) {
                if (helper_read_header(db, db->fd, &header, reterr) < 0)
                        return SQLITE_NOTADB;
                if (header.wal) {
                        (void) fail_set(
                                reterr, FAIL_BUSY, EAGAIN,
                                "%s was switched to WAL mode just now; the next backup holds it",
                                db->path);
                        return SQLITE_ABORT;
                }
                if (header.empty)
                        return SQLITE_OK;
        }
        rc = helper_db_exec(db->conn, "BEGIN IMMEDIATE");
        if (rc == SQLITE_OK)
                db->in_transaction = true;
        else if ((rc & 0xff) != SQLITE_BUSY && (rc & 0xff) != SQLITE_PROTOCOL)
                (void) helper_db_failure(h, db, db->conn, rc, "lock", reterr);
        return rc;
}

static int hold_failed(HelperDb *db, Failure *reterr) {
        return fail_set(reterr, FAIL_HOLD_TIMEOUT, ETIMEDOUT,
                        "%s could not be locked in time: another process holds its write lock; see "
                        "LockTimeoutMSec=",
                        db->path);
}

static int lock_one(Helper *h, HelperDb *db, uint64_t deadline, Failure *reterr) {
        for (;;) {
                uint64_t granted;
                int rc, r = wait_raw_lock(db, deadline);

                if (r == -ETIMEDOUT)
                        return hold_failed(db, reterr);
                if (r < 0)
                        return fail_errno(reterr, FAIL_HOLD_TIMEOUT, -r, "cannot lock %s",
                                          db->path);
                granted = clock_monotonic_usec();
                rc = begin(h, db, reterr);
                if (rc == SQLITE_OK) {
                        db->locked = true;
                        db->locked_usec = granted;
                        return 0;
                }
                if ((rc & 0xff) != SQLITE_BUSY && (rc & 0xff) != SQLITE_PROTOCOL) {
                        drop_raw_lock(db);
                        return -EIO;
                }
                if (clock_monotonic_usec() >= deadline) {
                        drop_raw_lock(db);
                        return hold_failed(db, reterr);
                }
                (void) usleep(RETRY_USEC);
        }
}

static int answer_locked(Helper *h, HelperDb *db) {
        _cleanup_json_ json_object *o = helper_answer_new("locked", db);

        if (!o || json_put_u64(o, "usec", db->locked_usec) < 0)
                return -ENOMEM;
        return helper_answer_object(h, o);
}

int helper_hold_lock(Helper *h, json_object *message) {
        uint64_t deadline;
        int r;

        if (!h->timers_made || h->first_lock_usec > 0 ||
            json_get_u64(message, "deadline_usec", &deadline) < 0)
                return -EBADMSG;
        for (size_t i = 0; i < h->n_dbs; i++)
                if (h->dbs[i].ready)
                        (void) sqlite3_busy_handler(h->dbs[i].conn, NULL, NULL);
        /* Before the first lock: a process that is stopped the moment it gets one must end too. */
        r = set_timer(h->guard, deadline + h->max_hold_usec + GUARD_GRACE_USEC, 0);
        if (r >= 0)
                r = set_timer(h->alarm, deadline, ALARM_REPEAT_USEC);
        for (size_t i = 0; r >= 0 && i < h->n_dbs; i++) {
                HelperDb *db = &h->dbs[i];
                Failure failure = FAILURE_INIT;

                if (!db->ready)
                        continue;
                h->refused = FAILURE_INIT;
                if (lock_one(h, db, deadline, &failure) < 0) {
                        r = helper_answer(h, "failed", db, &failure);
                        continue;
                }
                if (h->first_lock_usec == 0) {
                        h->first_lock_usec = db->locked_usec;
                        r = set_timer(h->guard,
                                      h->first_lock_usec + h->max_hold_usec + GUARD_GRACE_USEC, 0);
                        /* Nor may waiting for the others outlast it. */
                        if (r >= 0 && h->first_lock_usec + h->max_hold_usec < deadline) {
                                deadline = h->first_lock_usec + h->max_hold_usec;
                                r = set_timer(h->alarm, deadline, ALARM_REPEAT_USEC);
                        }
                }
                if (r >= 0)
                        r = answer_locked(h, db);
        }
        if (r >= 0)
                r = set_timer(h->alarm, 0, 0);
        if (r >= 0 && h->first_lock_usec == 0)
                r = set_timer(h->guard, 0, 0);
        step("helper-locked");
        return r;
}

/* ---- pin ---- */

int helper_hold_pin(Helper *h) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < h->n_dbs; i++) {
                HelperDb *db = &h->dbs[i];
                Failure failure = FAILURE_INIT;
                int64_t version;
                int rc;

                if (!db->locked || !db->pin_conn || db->pinned)
                        continue;
                h->refused = FAILURE_INIT;
                rc = helper_db_exec(db->pin_conn, "BEGIN");
                if (rc == SQLITE_OK)
                        rc = helper_db_number(db->pin_conn, "PRAGMA schema_version", &version);
                db->pinned = rc == SQLITE_OK;
                if (db->pinned)
                        r = helper_answer(h, "pinned", db, NULL);
                else {
                        (void) helper_db_failure(h, db, db->pin_conn, rc, "pin", &failure);
                        r = helper_answer(h, "failed", db, &failure);
                }
        }
        return r;
}

/* ---- release ---- */

static int release_one(HelperDb *db) {
        if (!db->in_transaction)
                drop_raw_lock(db);
        else if (helper_db_exec(db->conn, "ROLLBACK") != SQLITE_OK)
                return -EIO; /* the end of the process lets go for sure */
        db->locked = db->in_transaction = false;
        return 0;
}

int helper_hold_release(Helper *h, bool self) {
        uint64_t usec[HELPER_DATABASES_MAX];
        bool was_locked[HELPER_DATABASES_MAX] = { 0 };
        uint64_t held_usec = 0;
        size_t n = 0;
        int r;

        /* All first, then the answers: a full socket must not keep a lock. */
        for (size_t i = 0; i < h->n_dbs; i++) {
                was_locked[i] = h->dbs[i].locked;
                if (was_locked[i] && release_one(&h->dbs[i]) < 0)
                        return -EIO;
                n += was_locked[i];
                usec[i] = clock_monotonic_usec();
        }
        if (h->first_lock_usec > 0) {
                held_usec = clock_monotonic_usec() - h->first_lock_usec;
                h->first_lock_usec = 0;
                r = set_timer(h->guard, 0, 0);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < h->n_dbs; i++) {
                _cleanup_json_ json_object *o = NULL;

                if (!was_locked[i])
                        continue;
                o = helper_answer_new("released", &h->dbs[i]);
                if (!o || json_put_u64(o, "usec", usec[i]) < 0 ||
                    json_put_bool(o, "self", self) < 0)
                        return -ENOMEM;
                r = helper_answer_object(h, o);
                if (r < 0)
                        return r;
        }
        /* Last of all: a line may wait for the journal. */
        if (n > 0)
                log_info("%zu of %zu databases of uid %u were held for %llu us%s", n, h->n_dbs,
                         (unsigned) getuid(), (unsigned long long) held_usec,
                         self ? ", and let go because the time was up" : "");
        return 0;
}
