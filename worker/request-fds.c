#include "worker/request-fds.h"

#include <errno.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"

#define KEY_BYTES_MAX    ((size_t) 16 << 10)
#define KEY_TIMEOUT_MSEC 10000 /* of one read: the other end of a pipe is the caller's */

static const char *const flags[] = {
        [REQUEST_FD_DIRECTORY] = "into",
        [REQUEST_FD_STREAM] = "stream",
        [REQUEST_FD_KEY] = "key",
};

/* The place of a descriptor among those that came, -1 if the flags name none. */
static int find(Work *w, RequestFd which, int *ret_index, Failure *reterr) {
        size_t n = 0;

        *ret_index = -1;
        for (size_t i = 0; i < ELEMENTSOF(flags); i++) {
                bool given;
                int r = work_bool(w, flags[i], false, &given, reterr);

                if (r < 0)
                        return r;
                if (given && i == (size_t) which)
                        *ret_index = (int) n;
                n += given;
        }
        if (n != w->fds.n)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EBADF,
                                "request: %zu descriptors came, its flags name %zu", w->fds.n, n);
        return 0;
}

int request_fd(Work *w, RequestFd which, int *ret, Failure *reterr) {
        int index, r = find(w, which, &index, reterr);

        if (r >= 0)
                *ret = index < 0 ? -1 : w->fds.fds[index];
        return r;
}

int request_take_fd(Work *w, RequestFd which, int *ret, Failure *reterr) {
        int index, r = find(w, which, &index, reterr);

        if (r < 0)
                return r;
        if (index < 0 || w->fds.fds[index] < 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EBADF,
                                "request: the descriptor '%s' is missing", flags[which]);
        *ret = TAKE_FD(w->fds.fds[index]);
        return 0;
}

/* Reads what may be a file, a memfd or a pipe to its end. The count, or a negative errno. */
static ssize_t read_key(int fd, uint8_t *data, size_t size) {
        size_t n = 0;

        while (n < size) {
                int ready = fd_wait_readable(fd, KEY_TIMEOUT_MSEC);
                ssize_t r = ready > 0 ? read(fd, data + n, size - n) : 0;

                if (ready <= 0)
                        return ready < 0 ? ready : -ETIMEDOUT;
                if (r < 0 && errno != EINTR && errno != EAGAIN)
                        return -errno;
                if (r == 0)
                        return (ssize_t) n;
                n += r > 0 ? (size_t) r : 0;
        }
        return -EFBIG;
}

int request_use_key(Work *w, Repo *repo, Failure *reterr) {
        _cleanup_secret_ Secret buffer = SECRET_INIT, pem = SECRET_INIT;
        ssize_t n;
        int fd, r = request_fd(w, REQUEST_FD_KEY, &fd, reterr);

        if (r < 0)
                return r;
        if (fd < 0)
                return repo_need_private(repo, reterr);
        r = secret_new(&buffer, KEY_BYTES_MAX);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "private key");
        n = read_key(fd, buffer.data, buffer.size);
        if (n < 0)
                return fail_errno(reterr, FAIL_KEY_MISSING, (int) -n,
                                  "the key that was given cannot be read");
        r = secret_copy(&pem, buffer.data, (size_t) n);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "private key");
        return repo_set_private_key(repo, &pem, reterr);
}
