#pragma once

/*
 * The descriptors that come with a request, in the order directory, stream, key; each only if its
 * flag (`into`, `stream`, `key`) says so.
 */

#include "repo/repo.h"
#include "worker/work.h"

typedef enum RequestFd { REQUEST_FD_DIRECTORY, REQUEST_FD_STREAM, REQUEST_FD_KEY } RequestFd;

/* Borrowed from w->fds, or -1 if the request has none. FAIL_INVALID_ARGUMENT if flags and
 * descriptors do not fit. */
int request_fd(Work *w, RequestFd which, int *ret, Failure *reterr);

/* The same, owned by the caller; missing is FAIL_INVALID_ARGUMENT. */
int request_take_fd(Work *w, RequestFd which, int *ret, Failure *reterr);

/*
 * The private key that will open content is there: the one that came with the request, which
 * open_repo() took, else root's own. FAIL_KEY_MISSING now, before anything is begun.
 */
int request_use_key(Work *w, Repo *repo, Failure *reterr);
