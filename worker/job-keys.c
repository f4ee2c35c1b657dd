/*
 * A key that comes with a request is the caller's: any file, any content, any speed. It is bounded
 * in kind, size and time, and lies in a Secret from its first byte on.
 */

#include "worker/job-keys.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/defaults.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/names.h"
#include "base/text.h"
#include "worker/request-fds.h"

#define KEY_MAX          ((size_t) 64 << 10)
#define KEY_TIMEOUT_USEC (60 * USEC_PER_SEC)
#define POLL_MSEC        100

int job_keys_places(char **ret_dir, KeyPlaces *ret, Failure *reterr) {
        const char *credentials = getenv(HP_ENV_CREDENTIALS);

        *ret_dir = text_printf("%s/keys", config_dir());
        if (!*ret_dir)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "keys");
        *ret = (KeyPlaces){ .dir = *ret_dir,
                            .credentials = credentials && *credentials ? credentials : NULL,
                            .passphrase = defaults_passphrase };
        return 0;
}

static int no_key(int errnum, Failure *reterr) {
        return fail_set(reterr, FAIL_INVALID_ARGUMENT, errnum,
                        "the key that was given must be a file or a pipe with 1 to %zu bytes",
                        KEY_MAX);
}

/* Waits for a pipe; 1 when there is something to read. */
static int wait_for_key(Work *w, int fd, uint64_t deadline, Failure *reterr) {
        for (;;) {
                int r = work_check(w, reterr);

                if (r >= 0)
                        r = fd_wait_readable(fd, POLL_MSEC);
                if (r != 0)
                        return r;
                if (clock_monotonic_usec() >= deadline)
                        return fail_set(reterr, FAIL_INTERRUPTED, ETIMEDOUT,
                                        "the key that was given did not come within a minute");
        }
}

static int read_pipe(Work *w, int fd, Secret *into, size_t *ret_n, Failure *reterr) {
        uint64_t deadline = clock_monotonic_usec() + KEY_TIMEOUT_USEC;
        size_t n = 0;

        while (n < into->size) {
                int r = wait_for_key(w, fd, deadline, reterr);
                ssize_t got;

                if (r < 0)
                        return r;
                got = read(fd, into->data + n, into->size - n);
                if (got < 0 && errno != EAGAIN && errno != EINTR)
                        return -errno;
                if (got == 0)
                        break;
                n += got > 0 ? (size_t) got : 0;
        }
        *ret_n = n;
        return 0;
}

int job_keys_receive(Work *w, Secret *ret, Failure *reterr) {
        _cleanup_secret_ Secret all = SECRET_INIT;
        int fd, r = request_fd(w, REQUEST_FD_KEY, &fd, reterr);
        struct stat st;
        size_t n = 0;

        if (r < 0 || fd < 0)
                return r < 0 ? r : -ENOENT;
        if (fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode)))
                return no_key(EINVAL, reterr);
        r = secret_new(&all, KEY_MAX + 1);
        if (r >= 0 && S_ISFIFO(st.st_mode)) {
                r = read_pipe(w, fd, &all, &n, reterr);
        } else if (r >= 0) {
                ssize_t got = fd_pread_full(fd, all.data, all.size, 0);

                r = got < 0 ? (int) got : 0;
                n = got < 0 ? 0 : (size_t) got;
        }
        if (r < 0)
                return fail_errno(reterr, FAIL_INVALID_ARGUMENT, -r, "the key that was given");
        if (n == 0 || n > KEY_MAX)
                return no_key(EMSGSIZE, reterr);
        r = secret_copy(ret, all.data, n);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "the key that was given") : 0;
}

void job_keys_tell(Work *w) {
        _cleanup_json_ json_object *m = proto_new("keys");
        _cleanup_free_ char *dir = NULL;
        Failure f = FAILURE_INIT;
        KeyPlaces places;
        KeyFacts facts;

        if (w->socket < 0 || !m)
                return;
        if (job_keys_places(&dir, &places, &f) < 0 || keys_facts(&places, &facts, &f) < 0) {
                log_warning("what is known of keys is not told: %s", f.text);
                return;
        }
        if (json_put_string(m, "key", facts.id) >= 0 &&
            json_put_bool(m, "private_key", facts.private_key) >= 0 &&
            json_put_bool(m, "recovery_exported", facts.recovery_exported) >= 0 &&
            json_put_bool(m, "recovery_proven", facts.recovery_proven) >= 0)
                (void) proto_send(w->socket, m, NULL, 0); /* the next job says it again */
}
