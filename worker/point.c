/*
 * Why the order is what it is: everything that may wait (opening, reading, flushing dirty pages) is
 * done before the first lock, since from there on every writer of the service waits for us. Under
 * the hold there are only snapshot ioctls, or the one LVM command that was prepared before. Nothing
 * of ours touches the live service after the release.
 */

#include "worker/point.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/proc.h"
#include "base/step.h"
#include "base/text.h"

#define FLUSH_ROUNDS     3
#define FLUSH_SHORT_USEC (20 * USEC_PER_MSEC)
#define RACY_USEC        (20 * USEC_PER_MSEC) /* two ticks of the slowest clock */

typedef struct Shot {
        Volume *volume;
        char name[64];
        Snapshot *snapshot;
        Failure failure;
        int r;
        pthread_t thread;
        bool started;
} Shot;

/* Dirty pages make the snapshot's commit long; a round that was short leaves few of them. */
static void flush_volumes(const Source *s) {
        for (size_t i = 0; i < s->n_volumes; i++) {
                bool flushed = volume_kind(s->volumes[i]) == SNAPSHOT_NONE;

                for (size_t k = 0; !flushed && k < i; k++)
                        flushed = volume_same_fs(s->volumes[k], s->volumes[i]);
                for (int round = 0; !flushed && round < FLUSH_ROUNDS; round++) {
                        uint64_t t = clock_monotonic_usec();

                        (void) syncfs(volume_root_fd(s->volumes[i])); /* only a head start */
                        if (clock_monotonic_usec() - t < FLUSH_SHORT_USEC)
                                break;
                }
        }
}

static void *shoot(void *userdata) {
        Shot *shot = userdata;

        shot->r = snapshot_take(shot->volume, shot->name, &shot->snapshot, &shot->failure);
        return NULL;
}

static int shoot_all(const Source *s, Shot *shots, size_t *ret_failed, Failure *reterr) {
        int r = 0;

        for (size_t i = 1; i < s->n_volumes; i++)
                shots[i].started = pthread_create(&shots[i].thread, NULL, shoot, &shots[i]) == 0;
        for (size_t i = 0; i < s->n_volumes; i++)
                if (!shots[i].started)
                        shoot(&shots[i]);
        for (size_t i = 0; i < s->n_volumes; i++) {
                if (shots[i].started)
                        (void) pthread_join(shots[i].thread, NULL);
                if (shots[i].r < 0 && r >= 0) {
                        *reterr = shots[i].failure;
                        *ret_failed = i;
                        r = shots[i].r;
                }
        }
        return r;
}

/* The test of the tests: without the hold the one-instant suite must fail. */
static bool hold_is_off(void) {
        return getenv("HOLDPOINT_TEST_NO_HOLD") != NULL;
}

static int lock_databases(Work *w, Source *s, Hold *hold, Failure *reterr) {
        Failure why = FAILURE_INIT;
        int r = hold_lock(hold, &why);

        if (r < 0) {
                *reterr = why;
                return r;
        }
        for (size_t i = 0; r == 1 && w->config->fail_on_timeout && i < s->n_databases; i++)
                if (!s->holds[i].held)
                        return fail_set(reterr, FAIL_HOLD_TIMEOUT, ETIMEDOUT,
                                        "%s could not be write-locked: %s", s->holds[i].path,
                                        s->holds[i].failure.text);
        return 0;
}

/* After the release: a line may wait for the journal, and writers would wait for it. */
static void tell_degraded(const Source *s) {
        for (size_t i = 0; i < s->n_databases; i++) {
                const char *service = s->services[s->databases[i].service].config->name;

                if (!s->holds[i].held)
                        log_message(MESSAGE_HOLD_DEGRADED, &(LogFields){ .service = service },
                                    "%s was not write-locked for the whole point, the backup of "
                                    "its service is only crash-consistent: %s",
                                    s->holds[i].path, s->holds[i].failure.text);
        }
}

static int prepare(Work *w, Source *s, Hold **ret, Failure *reterr) {
        HoldParams params = {
                .libexec_dir = proc_libexec_dir(),
                .databases = s->holds,
                .n = s->n_databases,
                .lock_timeout_usec = w->config->lock_timeout_msec * USEC_PER_MSEC,
                .max_hold_usec = w->config->max_hold_msec * USEC_PER_MSEC,
                .interrupted = work_interrupted,
                .userdata = w,
        };

        if (s->n_databases == 0 || hold_is_off())
                return 0;
        return hold_prepare(&params, ret, reterr);
}

static int
prepare_snapshots(const Source *s, const Shot *shots, size_t *ret_failed, Failure *reterr) {
        for (size_t i = 0; i < s->n_volumes; i++) {
                int r = snapshot_prepare(s->volumes, s->n_volumes, i, shots[i].name, reterr);

                if (r < 0) {
                        *ret_failed = i;
                        return r;
                }
        }
        return 0;
}

/* Nobody waits for this any more. */
static int attach_snapshots(Point *p, size_t n, Failure *reterr) {
        for (size_t i = 0; i < n; i++) {
                int r = snapshot_attach(p->snapshots[i], reterr);

                if (r < 0) {
                        p->failed = i;
                        return r;
                }
        }
        return 0;
}

static bool needs_pin(const Source *s) {
        for (size_t i = 0; i < s->n_databases; i++)
                if (s->holds[i].pin)
                        return true;
        return false;
}

/* From the first lock to the last release: the part that writers feel. */
static int
hold_and_shoot(Work *w, Source *s, Hold *hold, Shot *shots, Point *ret, Failure *reterr) {
        Failure released = FAILURE_INIT;
        int r = 0;

        if (hold)
                r = lock_databases(w, s, hold, reterr);
        step("held");
        if (r >= 0) {
                ret->instant_usec = clock_realtime_usec();
                r = shoot_all(s, shots, &ret->failed, reterr);
        }
        if (r >= 0 && hold && needs_pin(s))
                r = hold_pin(hold, reterr);
        /* What a release can tell stands with each database: not held, and why. */
        if (hold && hold_release(hold, &ret->pause_usec, &released) < 0)
                log_warning("release of the databases: %s", released.text);
        step("released");
        if (hold && r >= 0)
                tell_degraded(s);
        return r;
}

int point_take(Work *w, Source *s, const char *backup_id, Point *ret, Failure *reterr) {
        _cleanup_(hold_freep) Hold *hold = NULL;
        _cleanup_free_ Shot *shots = calloc(s->n_volumes, sizeof(*shots));
        int r;

        ret->failed = POINT_FAILED_NONE;
        ret->snapshots = calloc(s->n_volumes, sizeof(Snapshot *));
        if (!shots || !ret->snapshots)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "point in time");
        for (size_t i = 0; i < s->n_volumes; i++) {
                shots[i].volume = s->volumes[i];
                (void) snprintf(shots[i].name, sizeof(shots[i].name), "hot.%s.%zu", backup_id, i);
        }
        r = prepare(w, s, &hold, reterr);
        if (r < 0)
                return r;
        r = prepare_snapshots(s, shots, &ret->failed, reterr);
        if (r < 0)
                return r;
        flush_volumes(s);
        r = work_check(w, reterr);
        if (r < 0)
                return r;
        r = hold_and_shoot(w, s, hold, shots, ret, reterr);
        for (size_t i = 0; i < s->n_volumes; i++)
                ret->snapshots[i] = shots[i].snapshot;
        work_phase(w, "snapshot"); /* not before the release: nobody is to wait for the agent */
        if (r >= 0)
                r = attach_snapshots(ret, s->n_volumes, reterr);
        if (r < 0) {
                point_drop(ret, s->n_volumes);
                return r;
        }
        if (needs_pin(s))
                ret->hold = TAKE_PTR(hold);
        work_point(w, ret->pause_usec);
        return 0;
}

bool point_is_racy(const Point *p, int64_t ctime_sec, uint32_t ctime_nsec) {
        return ctime_sec < 0 ||
               (uint64_t) ctime_sec * USEC_PER_SEC + ctime_nsec / 1000 + RACY_USEC >=
                       p->instant_usec;
}

void point_drop(Point *p, size_t n_volumes) {
        for (size_t i = 0; p->snapshots && i < n_volumes; i++) {
                Failure f = FAILURE_INIT;

                if (p->snapshots[i] && snapshot_drop(TAKE_PTR(p->snapshots[i]), &f) < 0)
                        log_warning("snapshot left behind, the next backup removes it: %s", f.text);
        }
}

void point_done(Point *p, size_t n_volumes) {
        for (size_t i = 0; p->snapshots && i < n_volumes; i++)
                snapshot_free(p->snapshots[i]);
        free(p->snapshots);
        hold_free(p->hold);
        *p = (Point){ 0 };
}
