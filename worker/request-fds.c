#include "worker/request-fds.h"

#include <errno.h>
#include <unistd.h>

#include "base/cleanup.h"

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

int request_use_key(Work *w, Repo *repo, Failure *reterr) {
        return repo_need_private(repo, reterr);
}
