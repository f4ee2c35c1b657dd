/*
 * Connecting: the socket may not be there yet (the agent starts before systemd has made it, or a
 * test's listener is slow), so missing, refused and not-yet-ours are tried again for five seconds
 * by a timer. The directory is opened first and the socket named through it: a path may be longer
 * than the 107 bytes of a socket address.
 *
 * A worker that hangs up without a result is lost: what it had done is found out by a reconcile.
 */

#include "agent/job-worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "agent/bus.h"
#include "agent/job-events.h"
#include "agent/job-log.h"
#include "agent/reconcile.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/names.h"
#include "base/proto.h"

#define CONNECT_USEC     (5 * USEC_PER_SEC)
#define RETRY_USEC       (100 * USEC_PER_MSEC)
#define MESSAGES_AT_ONCE 16 /* then the loop has its turn */

void job_worker_close(Job *j) {
        j->io = sd_event_source_disable_unref(j->io);
        j->retry = sd_event_source_disable_unref(j->retry);
        j->socket = fd_close(j->socket);
}

static void fail(Job *j, JobResult result, const Failure *why) {
        job_worker_close(j);
        job_finish(j, result, why, NULL);
}

static void lost(Job *j) {
        Failure why = FAILURE_INIT;

        (void) fail_set(&why, FAIL_INTERRUPTED, EPIPE,
                        "the worker ended without a result%s%s: its own log lines say more",
                        *j->phase ? " in phase " : "", j->phase);
        fail(j, JOB_INTERRUPTED, &why);
}

/* 1: there was a message, 0: nothing more now (or the job is over). */
static int receive_one(Job *j) {
        _cleanup_json_ json_object *message = NULL;
        Failure why = FAILURE_INIT;
        int r = proto_recv(j->socket, &message, NULL);

        if (r == -EAGAIN)
                return 0;
        if (r == 0) {
                lost(j);
                return 0;
        }
        if (r > 0)
                r = job_events_handle(j, message, &why);
        else
                (void) fail_set(&why, FAIL_INTERNAL, -r, "not a message");
        if (r < 0) {
                fail_prefix(&why, "the worker broke the protocol");
                fail(j, JOB_FAILED, &why);
                reconcile_after_loss(j->manager);
                return 0;
        }
        return j->state != JOB_FINISHED;
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Job *j = userdata;
        Manager *m = j->manager;
        Failure why = FAILURE_INIT;
        /* A rebuilt catalogue gets many rows: one fsync for each handful. */
        bool batch = j->type == JOB_RECONCILE && catalog_batch_begin(m->catalog, &why) >= 0;

        for (int i = 0; i < MESSAGES_AT_ONCE && receive_one(j) > 0; i++)
                ;
        if (!batch)
                return 0;
        why = FAILURE_INIT;
        if (catalog_batch_commit(m->catalog, &why) < 0) {
                job_log(j, LOG_ERR, "The catalogue could not be corrected: %s", why.text);
                if (j->state != JOB_FINISHED)
                        fail(j, JOB_FAILED, &why);
                else
                        reconcile_retry(m);
        }
        return 0;
}

static int open_socket(const char *dir, const char *class, int *ret, Failure *reterr) {
        _cleanup_close_ int dirfd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC), fd = -1;
        struct sockaddr_un sa = { .sun_family = AF_UNIX };

        if (dirfd < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot open %s", dir);
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot make a socket");
        (void) snprintf(sa.sun_path, sizeof(sa.sun_path), "/proc/self/fd/%d/%s.socket", dirfd,
                        class);
        if (connect(fd, (struct sockaddr *) &sa, sizeof(sa)) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno,
                                  "cannot reach a worker at %s/%s.socket", dir, class);
        *ret = TAKE_FD(fd);
        return 0;
}

static bool may_come(int r) {
        return r == -ENOENT || r == -ECONNREFUSED || r == -EACCES || r == -EAGAIN;
}

static int send_request(Job *j, Failure *reterr) {
        const int all[] = { j->fds.directory, j->fds.stream, j->fds.key };
        int fds[ELEMENTSOF(all)], r;
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTSOF(all); i++)
                if (all[i] >= 0)
                        fds[n++] = all[i];
        r = proto_send(j->socket, j->request, fds, n);

        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r,
                                  "cannot send the request to the worker");
        job_fds_done(&j->fds);
        r = sd_event_add_io(j->manager->event, &j->io, j->socket, EPOLLIN, on_io, j);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot watch the worker");
        return 0;
}

static void set_reachable(Manager *m, bool reachable) {
        if (m->workers_reachable && !reachable)
                log_message(MESSAGE_WORKERS_UNREACHABLE, NULL,
                            "Workers cannot be reached in %s: are the holdpoint-*.socket units "
                            "running?",
                            m->workers_dir);
        m->workers_reachable = reachable;
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata);

static void attempt(Job *j) {
        Manager *m = j->manager;
        Failure why = FAILURE_INIT;
        int r = open_socket(m->workers_dir, job_type_class(j->type), &j->socket, &why);

        if (r >= 0) {
                set_reachable(m, true);
                if (send_request(j, &why) < 0)
                        fail(j, JOB_FAILED, &why);
                return;
        }
        if (may_come(r) && clock_monotonic_usec() < j->deadline_usec) {
                j->retry = sd_event_source_disable_unref(j->retry);
                r = sd_event_add_time_relative(m->event, &j->retry, CLOCK_MONOTONIC, RETRY_USEC, 0,
                                               on_retry, j);
                if (r >= 0)
                        return;
                (void) fail_errno(&why, FAIL_INTERNAL, -r, "cannot set a timer");
        }
        set_reachable(m, false);
        fail(j, JOB_FAILED, &why);
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        attempt(userdata);
        return 0;
}

void job_worker_start(Job *j) {
        j->deadline_usec = clock_monotonic_usec() + CONNECT_USEC;
        attempt(j);
}

void job_worker_cancel(Job *j) {
        _cleanup_json_ json_object *message = proto_new("cancel");

        if (!message || proto_send(j->socket, message, NULL, 0) < 0)
                (void) shutdown(j->socket,
                                SHUT_WR); /* the same to the worker, and its result still comes */
}
