#pragma once

/*
 * The worker's own state directory (root, 0700): locks, base states, hot copies, intents, the
 * index.
 */

#include "base/fail.h"
#include "worker/work.h"

/* STATE_DIRECTORY or its default, made if missing; refused unless it is root's own. fd or -errno.
 */
int state_open(Failure *reterr);

/* A subdirectory of it ("locks", "base", "hot", "intents"), made if missing. fd or -errno. */
int state_open_dir(int state_fd, const char *name, Failure *reterr);

/*
 * Takes the exclusive lock of one service for the life of the returned fd (owned). Waits until
 * `timeout_usec` is over or the work is interrupted; then FAIL_BUSY.
 */
int state_lock_service(Work *w,
                       const char *service,
                       uint64_t timeout_usec,
                       int *ret_fd,
                       Failure *reterr);

/* The locks of several services, held until service_locks_done(). */
typedef struct ServiceLocks {
        int *fds;
        size_t n;
} ServiceLocks;

/* Takes those of all services in the array of names, in its order; on failure none is held. */
int state_lock_services(Work *w,
                        json_object *services,
                        uint64_t timeout_usec,
                        ServiceLocks *ret,
                        Failure *reterr);
void service_locks_done(ServiceLocks *l);

/* Reads a JSON object from a file of a state directory; -ENOENT if there is none. Owned. */
int state_read_json(int dirfd, const char *name, json_object **ret, Failure *reterr);

/* Writes one durably (fs_write_atomic). */
int state_write_json(int dirfd, const char *name, json_object *o, Failure *reterr);
