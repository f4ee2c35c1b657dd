#pragma once

/*
 * One running job as its verb sees it: the request, the way back to the agent, root's configuration
 * and state. Progress is throttled here; a cancel frame and a hang-up are noticed here.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/fail.h"
#include "base/proto.h"

typedef struct Work {
        int socket; /* fd 3; -1 under --recover */
        json_object *request;
        ProtoFds fds; /* that came with the request */
        uint32_t job;
        Config *config;
        int state_fd; /* the worker's state directory */

        bool canceled;  /* sticky */
        bool committed; /* what is being done must come to its end: nothing interrupts it */
        /* Called twice a second while not NULL. What it fails with becomes `trouble`, and stops the
         * job as a cancel does. */
        int (*watch)(void *userdata, Failure *reterr);
        void *watch_userdata;
        uint64_t watched_usec;
        Failure trouble;
        uint64_t polled_usec, sent_usec;
        uint64_t alive_usec, told_alive_usec; /* systemd's watchdog: how often, and when last */
        const char *phase;
        uint64_t bytes_done, bytes_total, files_done, files_total;
} Work;

#define WORK_INIT ((Work){ .socket = -1, .state_fd = -1, .phase = "" })

/* An agent that reads nothing for so long counts as one that hung up. */
#define WORK_STALL_USEC (60 * USEC_PER_SEC)
void work_set_socket(Work *w, int socket, uint64_t stall_usec);

/*
 * From here on systemd is told that the job gets on, whenever it looks for a cancel or has
 * something to say: a worker that hangs does neither, and is ended. Nothing without a watchdog.
 */
void work_serve_watchdog(Work *w);

/* True once the agent said `cancel` or hung up, or the unit is being stopped, unless `committed`.
 * Cheap: looks a hundred times a second. */
bool work_interrupted(void *work);

/* -ECANCELED with FAIL_CANCELED if interrupted, else 0: for use between steps. */
int work_check(Work *w, Failure *reterr);

/* Names what is being done now; `phase` is a literal. */
void work_phase(Work *w, const char *phase);

/* From here on the job goes to its end: nothing interrupts it, and nobody is told that it could. */
void work_commit(Work *w);

/* Tells the counters of `w`, at most ten times a second (or now, with `force`). */
void work_progress(Work *w, bool force);

void work_accepted(Work *w);
void work_point(Work *w, uint64_t pause_usec);

/* Sends {"type": type, key: value}; takes `value`. A lost agent is noticed by work_interrupted().
 */
void work_stream(Work *w, const char *type, const char *key, json_object *value);

/* The last message. `summary` is taken (NULL: empty); `f` is NULL for success. */
void work_result(Work *w, const char *result, const Failure *f, json_object *summary);

/* Members of the request: FAIL_INVALID_ARGUMENT naming the key when missing or of a wrong type. */
int work_string(Work *w, const char *key, const char **ret, Failure *reterr);
int work_uuid(Work *w, const char *key, const char **ret, Failure *reterr);
int work_bool(Work *w, const char *key, bool fallback, bool *ret, Failure *reterr);
