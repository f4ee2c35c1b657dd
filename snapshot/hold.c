/*
 * The worker's side of the hold. Helpers run in parallel: a command goes to all, then the answers
 * are read from one after the other, each with the time at which it happened (CLOCK_MONOTONIC is
 * the same for all processes).
 *
 * When is a database `held`? A lock ends with its process, with the helper's own timer after
 * max_hold, or when we ask for it, and the caller asks when the snapshot is taken. So what counts
 * is the moment of asking: a helper that was alive then (its pidfd says so) and whose time was not
 * over held its databases until then. A helper that its owner has stopped is alive, holds, and
 * cannot let go: it is killed when it has not answered in RELEASE_GRACE_USEC, the databases count
 * as held, and the pause lasts until the kill. (When nobody asks, a timer of the kernel kills it
 * after max_hold.) A helper that was dead at that moment may have died before the snapshot: not
 * held.
 */

#include "snapshot/hold.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/proto.h"
#include "base/step.h"
#include "base/text.h"
#include "snapshot/hold-helper.h"

#define SEND_USEC          (2 * USEC_PER_SEC)
#define PREPARE_USEC       (30 * USEC_PER_SEC) /* for one helper */
#define PREPARE_ONE_USEC   (3 * USEC_PER_SEC)  /* for one database, busy or recovering */
#define LOCK_GRACE_USEC    (200 * USEC_PER_MSEC)
#define PIN_USEC           (500 * USEC_PER_MSEC)
#define RELEASE_GRACE_USEC (200 * USEC_PER_MSEC)
#define COPY_SILENCE_USEC  (60 * USEC_PER_SEC)
#define ANSWERS_MAX        8 /* about one database in one phase; one or two are honest */

struct Hold {
        HoldParams params;
        HoldHelper *helpers;
        size_t n_helpers;
        uint64_t first_lock_usec;
        bool asked; /* for the release */
};

static HoldWait wait_until(const Hold *h, uint64_t deadline_usec) {
        return (HoldWait){ deadline_usec, h->params.interrupted, h->params.userdata };
}

/* The database that a message is about, if it is one of this helper's. */
static HoldDatabase *message_database(Hold *h, const HoldHelper *helper, json_object *m) {
        uint64_t index;

        if (json_get_u64(m, "index", &index) < 0)
                return NULL;
        for (size_t i = 0; i < helper->n; i++)
                if (helper->databases[i] == index)
                        return &h->params.databases[index];
        return NULL;
}

static void read_failure(json_object *m, HoldDatabase *db) {
        json_object *o;
        Failure f = FAILURE_INIT;

        if (json_get_object(m, "failure", &o) < 0)
                (void) fail_set(&f, FAIL_INTERNAL, EBADMSG, "%s: the helper gave no reason",
                                db->path);
        else
                proto_failure_read(o, &f);
        if (db->failure.code == FAIL_NONE)
                db->failure = f;
}

/* The helper is of no more use: what it had is neither held nor to be copied. */
static void lose(Hold *h, HoldHelper *helper, int r, const char *while_what) {
        hold_helper_kill(helper);
        for (size_t i = 0; i < helper->n; i++) {
                HoldDatabase *db = &h->params.databases[helper->databases[i]];

                db->held = false;
                (void) fail_set(&db->failure, FAIL_HOLD_TIMEOUT, r < 0 ? -r : EPIPE,
                                "%s: the helper of uid %u %s %s; the log has more", db->path,
                                helper->uid,
                                r == -ETIMEDOUT ? "gave no answer in time and was ended"
                                                : "ended unexpectedly",
                                while_what);
        }
}

static void released(HoldDatabase *db, uint64_t usec) {
        if (db->locked_usec > 0 && db->pause_usec == 0 && usec > db->locked_usec)
                db->pause_usec = usec - db->locked_usec;
}

static void fail_late(HoldDatabase *db, uint64_t max_hold_usec) {
        db->held = false;
        (void) fail_set(
                &db->failure, FAIL_HOLD_TIMEOUT, ETIMEDOUT,
                "%s was let go after %ju ms, before the snapshot was done; see MaxHoldMSec=",
                db->path, (uintmax_t) (max_hold_usec / USEC_PER_MSEC));
}

/* Comes when it was asked for, or at any time by itself. */
static bool on_released(Hold *h, HoldDatabase *db, json_object *m) {
        uint64_t usec;
        bool self;

        if (json_get_u64(m, "usec", &usec) < 0 || json_get_bool(m, "self", &self) < 0 ||
            usec > clock_monotonic_usec())
                return false;
        released(db, usec);
        if (self && db->held)
                fail_late(db, h->params.max_hold_usec);
        return true;
}

typedef bool (*AnswerFunc)(Hold *h, HoldHelper *helper, HoldDatabase *db, json_object *m);

/*
 * Reads answers until "done". `func` takes one about a database and returns false for one that does
 * not belong here. 0, -ECANCELED, or -EPIPE/-ETIMEDOUT/-EBADMSG: the helper is to be given up.
 */
static int read_answers(Hold *h, HoldHelper *helper, const HoldWait *wait, AnswerFunc func) {
        /* A wait ends in time only where nothing comes: one that never stops talking is cut off. */
        for (size_t left = ANSWERS_MAX * (helper->n + 1); left > 0; left--) {
                _cleanup_json_ json_object *m = NULL;
                HoldDatabase *db;
                int r = hold_helper_recv(helper, wait, &m);

                if (r < 0)
                        return r;
                if (strcmp(proto_type(m), "done") == 0)
                        return 0;
                db = message_database(h, helper, m);
                if (!db)
                        return -EBADMSG;
                if (strcmp(proto_type(m), "failed") == 0)
                        read_failure(m, db);
                else if (strcmp(proto_type(m), "released") == 0 ? !on_released(h, db, m)
                                                                : !func || !func(h, helper, db, m))
                        return -EBADMSG;
        }
        return -EBADMSG;
}

/* ---- prepare ---- */

static HoldHelper *helper_for(Hold *h, const HoldDatabase *db) {
        HoldHelper *helpers;

        for (size_t i = 0; i < h->n_helpers; i++)
                if (h->helpers[i].uid == db->uid && h->helpers[i].gid == db->gid)
                        return &h->helpers[i];
        helpers = reallocarray(h->helpers, h->n_helpers + 1, sizeof(*helpers));
        if (!helpers)
                return NULL;
        h->helpers = helpers;
        helpers[h->n_helpers] = HOLD_HELPER_INIT;
        helpers[h->n_helpers].uid = db->uid;
        helpers[h->n_helpers].gid = db->gid;
        return &helpers[h->n_helpers++];
}

static int assign(Hold *h, Failure *reterr) {
        for (size_t i = 0; i < h->params.n; i++) {
                HoldDatabase *db = &h->params.databases[i];
                HoldHelper *helper;
                size_t *list;

                db->held = db->wal = false;
                db->locked_usec = db->pause_usec = 0;
                db->failure = FAILURE_INIT;
                if (hold_helper_allowed(db, &db->failure) < 0)
                        continue;
                helper = helper_for(h, db);
                list = helper ? reallocarray(helper->databases, helper->n + 1, sizeof(*list))
                              : NULL;
                if (!list)
                        return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
                helper->databases = list;
                list[helper->n++] = i;
        }
        return 0;
}

static int hand_over(Hold *h, HoldHelper *helper, uint64_t deadline) {
        json_object *m;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < helper->n; i++) {
                const HoldDatabase *db = &h->params.databases[helper->databases[i]];

                r = hold_helper_send(helper, hold_helper_database(db, helper->databases[i]),
                                     db->dirfd, deadline);
        }
        if (r < 0)
                return r;
        m = proto_new("prepare");
        if (!m || json_put_u64(m, "max_hold_usec", h->params.max_hold_usec) < 0 ||
            json_put_u64(m, "timeout_usec", PREPARE_ONE_USEC) < 0) {
                json_object_put(m);
                return -ENOMEM;
        }
        return hold_helper_send(helper, m, -1, deadline);
}

static bool on_prepared(Hold *h, HoldHelper *helper, HoldDatabase *db, json_object *m) {
        return strcmp(proto_type(m), "prepared") == 0 && json_get_bool(m, "wal", &db->wal) >= 0;
}

int hold_prepare(const HoldParams *params, Hold **ret, Failure *reterr) {
        _cleanup_(hold_freep) Hold *h = calloc(1, sizeof(*h));
        uint64_t deadline;
        HoldWait wait;
        int r;

        if (!h)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        h->params = *params;
        r = assign(h, reterr);
        if (r < 0)
                return r;
        for (size_t i = 0; i < h->n_helpers; i++) {
                HoldHelper *helper = &h->helpers[i];

                r = hold_helper_start(helper, params->libexec_dir, "hold", reterr);
                if (r < 0)
                        return r;
                r = hand_over(h, helper, clock_monotonic_usec() + SEND_USEC);
                if (r < 0)
                        lose(h, helper, r, "at its start");
        }
        deadline = clock_monotonic_usec() + PREPARE_USEC;
        wait = wait_until(h, deadline);
        for (size_t i = 0; i < h->n_helpers; i++) {
                r = h->helpers[i].lost ? 0 : read_answers(h, &h->helpers[i], &wait, on_prepared);
                if (r == -ECANCELED)
                        return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
                if (r < 0)
                        lose(h, &h->helpers[i], r, "while it opened its databases");
        }
        *ret = TAKE_PTR(h);
        return 0;
}

/* ---- lock ---- */

static bool on_locked(Hold *h, HoldHelper *helper, HoldDatabase *db, json_object *m) {
        uint64_t usec;

        if (strcmp(proto_type(m), "locked") != 0 || json_get_u64(m, "usec", &usec) < 0 ||
            usec == 0 || usec > clock_monotonic_usec() || db->held)
                return false;
        db->held = true;
        db->locked_usec = usec;
        if (helper->first_lock_usec == 0 || usec < helper->first_lock_usec)
                helper->first_lock_usec = usec;
        if (h->first_lock_usec == 0 || usec < h->first_lock_usec)
                h->first_lock_usec = usec;
        return true;
}

static json_object *lock_message(uint64_t deadline) {
        json_object *m = proto_new("lock");

        if (m && json_put_u64(m, "deadline_usec", deadline) < 0) {
                json_object_put(m);
                m = NULL;
        }
        return m;
}

/* How many of all are not held; the first failure stands for all of them. */
static size_t count_missing(const Hold *h, Failure *reterr) {
        size_t missing = 0;

        for (size_t i = 0; i < h->params.n; i++) {
                HoldDatabase *db = &h->params.databases[i];

                if (db->held)
                        continue;
                /* Keeps what was said; a helper may also have left it out. */
                (void) fail_set(&db->failure, FAIL_HOLD_TIMEOUT, EBADMSG,
                                "%s: its helper did not say that it is locked", db->path);
                if (missing++ == 0)
                        (void) fail_set(reterr, db->failure.code, db->failure.errnum, "%s",
                                        db->failure.text);
        }
        return missing;
}

int hold_lock(Hold *h, Failure *reterr) {
        uint64_t deadline = clock_monotonic_usec() + h->params.lock_timeout_usec;
        HoldWait wait = wait_until(h, deadline + LOCK_GRACE_USEC);
        int r;

        for (size_t i = 0; i < h->n_helpers; i++) {
                HoldHelper *helper = &h->helpers[i];

                if (helper->lost)
                        continue;
                r = hold_helper_send(helper, lock_message(deadline), -1, wait.deadline_usec);
                if (r < 0)
                        lose(h, helper, r, "when it was to lock");
        }
        for (size_t i = 0; i < h->n_helpers; i++) {
                r = h->helpers[i].lost ? 0 : read_answers(h, &h->helpers[i], &wait, on_locked);
                if (r == -ECANCELED)
                        return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
                if (r < 0)
                        lose(h, &h->helpers[i], r, "while it locked its databases");
        }
        step("hold-locked");
        return count_missing(h, reterr) > 0;
}

/* ---- pin ---- */

static bool on_pinned(Hold *h, HoldHelper *helper, HoldDatabase *db, json_object *m) {
        return strcmp(proto_type(m), "pinned") == 0;
}

int hold_pin(Hold *h, Failure *reterr) {
        HoldWait wait = wait_until(h, clock_monotonic_usec() + PIN_USEC);
        int r;

        for (size_t i = 0; i < h->n_helpers; i++)
                if (!h->helpers[i].lost) {
                        r = hold_helper_send(&h->helpers[i], proto_new("pin"), -1,
                                             wait.deadline_usec);
                        if (r < 0)
                                lose(h, &h->helpers[i], r, "when it was to pin");
                }
        for (size_t i = 0; i < h->n_helpers; i++) {
                r = h->helpers[i].lost ? 0 : read_answers(h, &h->helpers[i], &wait, on_pinned);
                if (r == -ECANCELED)
                        return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
                if (r < 0)
                        lose(h, &h->helpers[i], r, "while it pinned its databases");
        }
        return 0;
}

/* ---- release ---- */

/* What is known about a helper's databases at the moment of asking, whatever it answers. */
static void judge(Hold *h, HoldHelper *helper, uint64_t asked_usec) {
        bool alive = hold_helper_is_alive(helper);

        for (size_t i = 0; i < helper->n; i++) {
                HoldDatabase *db = &h->params.databases[helper->databases[i]];

                if (!db->held)
                        continue;
                if (asked_usec >= helper->first_lock_usec + h->params.max_hold_usec)
                        fail_late(db, h->params.max_hold_usec);
                else if (!alive) {
                        db->held = false;
                        (void) fail_set(&db->failure, FAIL_HOLD_TIMEOUT, EPIPE,
                                        "%s: its helper ended during the hold", db->path);
                }
        }
}

static void finish_pauses(Hold *h, HoldHelper *helper) {
        uint64_t now = clock_monotonic_usec();

        for (size_t i = 0; i < helper->n; i++)
                released(&h->params.databases[helper->databases[i]], now);
}

int hold_release(Hold *h, uint64_t *ret_pause_usec, Failure *reterr) {
        uint64_t asked = clock_monotonic_usec(), last = 0;
        HoldWait wait = { .deadline_usec = asked + RELEASE_GRACE_USEC };
        int r;

        for (size_t i = 0; !h->asked && i < h->n_helpers; i++)
                judge(h, &h->helpers[i], asked);
        h->asked = true;
        for (size_t i = 0; i < h->n_helpers; i++)
                if (!h->helpers[i].lost && hold_helper_send(&h->helpers[i], proto_new("release"),
                                                            -1, wait.deadline_usec) < 0)
                        hold_helper_kill(&h->helpers[i]);
        for (size_t i = 0; i < h->n_helpers; i++) {
                HoldHelper *helper = &h->helpers[i];

                /* Not lose(): what was held until we asked stays held. */
                r = helper->lost ? 0 : read_answers(h, helper, &wait, NULL);
                if (r < 0)
                        hold_helper_kill(helper);
                helper->first_lock_usec = 0;
                finish_pauses(h, helper);
        }
        for (size_t i = 0; i < h->params.n; i++) {
                const HoldDatabase *db = &h->params.databases[i];

                if (db->pause_usec > 0 && db->locked_usec + db->pause_usec > last)
                        last = db->locked_usec + db->pause_usec;
        }
        if (ret_pause_usec)
                *ret_pause_usec = h->first_lock_usec > 0 && last > h->first_lock_usec
                                          ? last - h->first_lock_usec
                                          : 0;
        return 0;
}

/* ---- copy ---- */

/* Returns 1 when there is more to come. */
static int copy_answer(Hold *h, HoldHelper *helper, HoldDatabase *db, Failure *reterr) {
        HoldWait wait = wait_until(h, clock_monotonic_usec() + COPY_SILENCE_USEC);
        _cleanup_json_ json_object *m = NULL;
        const char *type;
        int r;

        /* Looked at for each answer: one that reports progress without end leaves no pause for it.
         */
        r = wait.interrupted && wait.interrupted(wait.userdata)
                    ? -ECANCELED
                    : hold_helper_recv(helper, &wait, &m);
        if (r == -ECANCELED) {
                hold_helper_kill(helper); /* it does not listen while it copies */
                return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
        }
        type = r < 0 ? "" : proto_type(m);
        if (r >= 0 && strcmp(type, "done") == 0)
                return 0;
        if (r < 0 || message_database(h, helper, m) != db) {
                hold_helper_kill(helper);
                return fail_set(reterr, FAIL_INTERNAL, EPIPE,
                                "%s: its helper ended during the copy", db->path);
        }
        if (strcmp(type, "failed") == 0) {
                db->failure = FAILURE_INIT;
                read_failure(m, db);
        } else if (strcmp(type, "copied") != 0 && strcmp(type, "progress") != 0) {
                hold_helper_kill(helper);
                return fail_set(reterr, FAIL_INTERNAL, EBADMSG, "%s: malformed answer", db->path);
        }
        return strcmp(type, "copied") == 0 ? 2 : 1;
}

int hold_copy(Hold *h, size_t database, int fd, Failure *reterr) {
        HoldDatabase *db = &h->params.databases[database];
        HoldHelper *helper = NULL;
        bool copied = false;
        json_object *m;
        int r;

        for (size_t i = 0; i < h->n_helpers && !helper; i++)
                for (size_t k = 0; k < h->helpers[i].n; k++)
                        if (h->helpers[i].databases[k] == database)
                                helper = &h->helpers[i];
        if (!helper || helper->lost)
                return fail_set(reterr, FAIL_HOLD_TIMEOUT, EPIPE, "%s",
                                db->failure.code ? db->failure.text
                                                 : "the helper of this database has ended");
        m = proto_new("copy");
        if (m && json_put_u64(m, "index", database) < 0) {
                json_object_put(m);
                m = NULL;
        }
        r = hold_helper_send(helper, m, fd, clock_monotonic_usec() + SEND_USEC);
        if (r < 0) {
                hold_helper_kill(helper);
                return fail_errno(reterr, FAIL_INTERNAL, -r, "%s: its helper does not answer",
                                  db->path);
        }
        do {
                r = copy_answer(h, helper, db, reterr);
                copied = copied || r == 2;
        } while (r > 0);
        if (r < 0)
                return r;
        if (copied)
                return 0;
        if (db->failure.code == FAIL_NONE)
                return fail_set(reterr, FAIL_INTERNAL, EBADMSG,
                                "%s: its helper is done but has copied nothing", db->path);
        return fail_set(reterr, db->failure.code, db->failure.errnum, "%s", db->failure.text);
}

void hold_free(Hold *h) {
        if (!h)
                return;
        for (size_t i = 0; i < h->n_helpers; i++)
                hold_helper_done(&h->helpers[i]);
        free(h->helpers);
        free(h);
}
