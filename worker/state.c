#include "worker/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/names.h"
#include "base/text.h"

#define STATE_JSON_MAX ((size_t) 64 << 20)
#define LOCK_STEP_USEC 20000

int state_open(Failure *reterr) {
        const char *path = getenv(HP_ENV_STATE);
        _cleanup_close_ int fd = -1;
        struct stat st;

        if (!path || !*path)
                path = HP_DEFAULT_WORKER_STATE;
        fd = fs_ensure_path(path, 0700);
        if (fd < 0)
                return fail_errno(reterr, fail_code_for_write(fd, FAIL_INTERNAL), -fd,
                                  "state directory %s", path);
        if (fstat(fd, &st) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "state directory %s", path);
        /* Intents and base states are believed: nobody else may have written them. */
        if (st.st_uid != geteuid() || (st.st_mode & 022))
                return fail_set(reterr, FAIL_INTERNAL, EPERM,
                                "state directory %s: must belong to root and be writable by "
                                "nobody else",
                                path);
        return TAKE_FD(fd);
}

int state_open_dir(int state_fd, const char *name, Failure *reterr) {
        int fd = fs_ensure_dir(state_fd, name, 0700);

        if (fd < 0)
                return fail_errno(reterr, fail_code_for_write(fd, FAIL_INTERNAL), -fd,
                                  "state directory: %s", name);
        return fd;
}

int state_lock_service(Work *w,
                       const char *service,
                       uint64_t timeout_usec,
                       int *ret_fd,
                       Failure *reterr) {
        _cleanup_close_ int dir = -1, fd = -1;
        uint64_t deadline = clock_monotonic_usec() + timeout_usec;

        dir = state_open_dir(w->state_fd, "locks", reterr);
        if (dir < 0)
                return dir;
        fd = fs_open_lock(dir, service);
        if (fd < 0)
                return fail_errno(reterr, fail_code_for_write(fd, FAIL_INTERNAL), -fd,
                                  "lock of service %s", service);
        while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK && errno != EINTR)
                        return fail_errno(reterr, FAIL_INTERNAL, errno, "lock of service %s",
                                          service);
                if (work_check(w, reterr) < 0)
                        return -ECANCELED;
                if (clock_monotonic_usec() >= deadline)
                        return fail_set(reterr, FAIL_BUSY, EBUSY,
                                        "another job still works on service %s", service);
                (void) usleep(LOCK_STEP_USEC);
        }
        *ret_fd = TAKE_FD(fd);
        return 0;
}

void service_locks_done(ServiceLocks *l) {
        for (size_t i = 0; i < l->n; i++)
                fd_close(l->fds[i]);
        free(l->fds);
        *l = (ServiceLocks){ 0 };
}

int state_lock_services(Work *w,
                        json_object *services,
                        uint64_t timeout_usec,
                        ServiceLocks *ret,
                        Failure *reterr) {
        size_t n = json_object_array_length(services);
        _cleanup_(service_locks_done) ServiceLocks locks = { .fds = calloc(n + 1, sizeof(int)) };

        if (!locks.fds)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "locks");
        for (size_t i = 0; i < n; i++) {
                const char *s = json_object_get_string(json_object_array_get_idx(services, i));
                int r;

                if (!s || !text_is_service_name(s))
                        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                        "a restore or backup names no proper services");
                r = state_lock_service(w, s, timeout_usec, &locks.fds[i], reterr);
                if (r < 0)
                        return r;
                locks.n++;
        }
        *ret = locks;
        locks = (ServiceLocks){ 0 };
        return 0;
}

int state_read_json(int dirfd, const char *name, json_object **ret, Failure *reterr) {
        Buf b = BUF_INIT(STATE_JSON_MAX);
        json_object *o;
        int r = fs_read_file(dirfd, name, STATE_JSON_MAX, &b);

        if (r < 0) {
                buf_done(&b);
                return r == -ENOENT ? r
                                    : fail_errno(reterr, FAIL_INTERNAL, -r, "state file %s", name);
        }
        o = json_parse((const char *) b.data, b.size);
        buf_done(&b);
        if (!json_object_is_type(o, json_type_object)) {
                json_object_put(o);
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG, "state file %s is damaged",
                                name);
        }
        *ret = o;
        return 0;
}

int state_write_json(int dirfd, const char *name, json_object *o, Failure *reterr) {
        const char *text = json_text(o);
        int r = text ? fs_write_atomic(dirfd, name, text, strlen(text), 0600) : -ENOMEM;

        if (r < 0)
                return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "state file %s", name);
        return 0;
}
