/*
 * What is done to keys on the order of their owner: hand out the recovery key, prove it, take the
 * private key off the host. The last refuses unless the first two were done for this very key.
 */

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "worker/job-keys.h"
#include "worker/open-repo.h"
#include "worker/request-fds.h"
#include "worker/run.h"
#include "worker/stream.h"

/* Before and after each verb: what a crash left is finished, and the agent knows how things are. */
static int begin(char **ret_dir, KeyPlaces *ret, Failure *reterr) {
        int r = job_keys_places(ret_dir, ret, reterr);

        return r < 0 ? r : keys_settle(ret, reterr);
}

/* Past the buffers of a stream, which are not wiped. A PEM fits into what a pipe takes at once:
 * only a reader who let it fill up makes this wait. */
static int hand_out(Work *w, int fd, const Secret *pem, Failure *reterr) {
        struct pollfd fds[] = { { .fd = fd, .events = POLLOUT },
                                { .fd = w->socket, .events = POLLIN } };
        int r = poll(fds, ELEMENTSOF(fds), STREAM_STALL_MSEC);

        if (r > 0 && fds[1].revents && work_check(w, reterr) < 0)
                return -ECANCELED;
        if (r == 0)
                return fail_set(reterr, FAIL_INTERRUPTED, ETIMEDOUT,
                                "the reader of the recovery key did not read for a minute");
        r = r < 0 ? -errno : fd_write_full(fd, pem->data, pem->size);
        if (r == -EPIPE)
                return fail_set(reterr, FAIL_CANCELED, ECANCELED,
                                "the reader of the recovery key left");
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot hand out the recovery key")
                     : 0;
}

int run_export_key(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_secret_ Secret pem = SECRET_INIT;
        _cleanup_free_ char *dir = NULL;
        KeyPlaces places;
        _cleanup_close_ int fd = -1;
        int r = request_take_fd(w, REQUEST_FD_STREAM, &fd, reterr);

        if (r >= 0)
                r = begin(&dir, &places, reterr);
        if (r >= 0)
                r = keys_export(&places, &pem, reterr);
        if (r < 0)
                return r;
        work_accepted(w);
        r = hand_out(w, fd, &pem, reterr);
        if (r >= 0)
                r = keys_note_exported(&places, &pem, reterr);
        if (r < 0)
                return r;
        log_message(MESSAGE_KEY_EXPORTED, NULL, "the recovery key was handed out");
        job_keys_tell(w);
        return 0;
}

int run_prove_key(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(repo_closep) Repo *repo = NULL;
        uint64_t sessions;
        int key, r = request_fd(w, REQUEST_FD_KEY, &key, reterr);

        if (r >= 0 && key < 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EBADF, "request: no key");
        if (r >= 0)
                r = open_repo(w, false, false, &repo, reterr);
        if (r == -ENOENT && reterr->code == FAIL_NONE)
                return fail_set(reterr, FAIL_NO_SUCH_BACKUP, ENOENT,
                                "there is no repository yet to prove a key with; make a backup "
                                "first");
        if (r < 0)
                return r;
        work_accepted(w);
        work_phase(w, "verify");
        r = keys_prove(repo, &sessions, reterr);
        if (r < 0)
                return r;
        log_message(MESSAGE_KEY_PROVEN, NULL, "the recovery key was proven");
        job_keys_tell(w);
        *ret_summary = json_object_new_object();
        r = json_put_u64(*ret_summary, "sessions", sessions);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "prove-key") : 0;
}

int run_forget_key(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_free_ char *dir = NULL;
        KeyPlaces places;
        bool forgotten;
        int r = job_keys_places(&dir, &places, reterr);

        if (r < 0)
                return r;
        work_accepted(w);
        r = keys_forget(&places, &forgotten, reterr);
        job_keys_tell(w);
        if (r < 0)
                return r;
        if (forgotten)
                log_message(MESSAGE_KEY_FORGOTTEN, NULL, "the private key was taken off this host");
        *ret_summary = json_object_new_object();
        r = json_put_bool(*ret_summary, "forgotten", forgotten);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "forget-key") : 0;
}
