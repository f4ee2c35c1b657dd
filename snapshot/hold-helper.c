#include "snapshot/hold-helper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/names.h"
#include "base/proc.h"
#include "base/proto.h"
#include "base/text.h"
#include "snapshot/helper-env.h"

#define REAP_MSEC  500
#define SLICE_MSEC 50 /* how often a wait looks at `interrupted` */

int hold_helper_allowed(const HoldDatabase *db, Failure *reterr) {
        struct stat st;

        if (fstat(db->dirfd, &st) < 0)
                return fail_errno(reterr, FAIL_SOURCE_MISSING, errno, "the directory of %s",
                                  db->path);
        if (db->uid != 0 || (st.st_uid == 0 && (st.st_mode & (S_IWGRP | S_IWOTH)) == 0))
                return 0;
        return fail_set(
                reterr, FAIL_CONFIGURATION_INVALID, EPERM,
                "%s belongs to root, but others may write its directory; chown it to the user of "
                "its service",
                db->path);
}

int hold_helper_start(HoldHelper *h, const char *libexec_dir, const char *mode, Failure *reterr) {
        _cleanup_free_ char *path = text_printf("%s/%s", libexec_dir, HP_SQLITE_PROGRAM);
        _cleanup_helper_env_ HelperEnv env = HELPER_ENV_INIT;
        _cleanup_close_ int ours = -1, theirs = -1;
        const char *argv[] = { HP_SQLITE_PROGRAM, mode, NULL };
        int pair[2], r;

        helper_env_init(&env);
        if (!path)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "socketpair");
        ours = pair[0];
        theirs = pair[1];
        if (fcntl(ours, F_SETFL, O_NONBLOCK) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "fcntl");
        r = proc_spawn(
                &(ProcSpawn){
                        .path = path,
                        .argv = argv,
                        .env = env.items,
                        .socket = theirs,
                        .drop = true,
                        .uid = h->uid,
                        .gid = h->gid,
                },
                &h->pid, &h->pidfd, reterr);
        if (r < 0)
                return r;
        h->socket = TAKE_FD(ours);
        return 0;
}

int hold_helper_send(HoldHelper *h, json_object *message, int fd, uint64_t deadline_usec) {
        _cleanup_json_ json_object *m = message;

        if (!m)
                return -ENOMEM;
        if (h->lost)
                return -EPIPE;
        for (;;) {
                struct pollfd p = { .fd = h->socket, .events = POLLOUT };
                int r = proto_send(h->socket, m, &fd, fd >= 0 ? 1 : 0);

                if (r != -EAGAIN)
                        return r;
                if (clock_monotonic_usec() >= deadline_usec)
                        return -ETIMEDOUT;
                (void) poll(&p, 1, SLICE_MSEC); /* whatever it says, the next send tells */
        }
}

int hold_helper_recv(HoldHelper *h, const HoldWait *wait, json_object **ret) {
        while (!h->lost) {
                struct pollfd p = { .fd = h->socket, .events = POLLIN };
                uint64_t now = clock_monotonic_usec();
                int r, msec = SLICE_MSEC;

                r = proto_recv(h->socket, ret, NULL);
                if (r > 0)
                        return 0;
                if (r != -EAGAIN) {
                        hold_helper_kill(h);
                        break;
                }
                if (wait->interrupted && wait->interrupted(wait->userdata))
                        return -ECANCELED;
                if (now >= wait->deadline_usec)
                        return -ETIMEDOUT;
                if ((wait->deadline_usec - now) / 1000 < SLICE_MSEC)
                        msec = (int) ((wait->deadline_usec - now + 999) / 1000);
                (void) poll(&p, 1, msec); /* the next receive tells */
        }
        return -EPIPE;
}

bool hold_helper_is_alive(const HoldHelper *h) {
        struct pollfd p = { .fd = h->pidfd, .events = POLLIN };

        return h->pidfd >= 0 && poll(&p, 1, 0) == 0;
}

void hold_helper_kill(HoldHelper *h) {
        struct pollfd p = { .fd = h->pidfd, .events = POLLIN };
        siginfo_t info = { 0 };

        h->lost = true;
        h->socket = fd_close(h->socket);
        if (h->pidfd < 0)
                return;
        (void) syscall(SYS_pidfd_send_signal, h->pidfd, SIGKILL, NULL,
                       0); /* gone already is fine */
        if (poll(&p, 1, REAP_MSEC) > 0)
                (void) waitid(P_PIDFD, (id_t) h->pidfd, &info, WEXITED);
        else
                /* In the kernel and not to be interrupted there; it ends as soon as it comes back.
                 */
                log_debug("helper %d does not end", h->pid);
        if (info.si_code == CLD_DUMPED || (info.si_code == CLD_KILLED && info.si_status != SIGKILL))
                log_warning("helper %d of uid %u ended by signal %d", h->pid, h->uid,
                            info.si_status);
        h->pidfd = fd_close(h->pidfd);
}

void hold_helper_done(HoldHelper *h) {
        hold_helper_kill(h);
        free(h->databases);
        *h = HOLD_HELPER_INIT;
}

json_object *hold_helper_database(const HoldDatabase *db, size_t index) {
        _cleanup_json_ json_object *m = proto_new("database");

        if (!m || json_put_u64(m, "index", index) < 0 || json_put_path(m, "path", db->path) < 0 ||
            json_put_path(m, "name", db->name) < 0 || json_put_bool(m, "pin", db->pin) < 0)
                return NULL;
        return TAKE_PTR(m);
}
