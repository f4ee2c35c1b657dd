#pragma once

/*
 * Private to the hold: one holdpoint-sqlite process as the worker sees it. What it says is
 * untrusted: it runs as the owner of the data that it reads. It may stop or fill its socket at any
 * time, so every call here ends in time.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/fail.h"
#include "base/json.h"
#include "snapshot/hold.h"

typedef struct HoldHelper {
        pid_t pid;
        int pidfd; /* -1: not running */
        int socket;
        uid_t uid;
        gid_t gid;
        bool lost;         /* it ended, was killed or talked nonsense: no more of it */
        size_t *databases; /* indices of those it has */
        size_t n;
        uint64_t first_lock_usec; /* 0: holds nothing */
} HoldHelper;

#define HOLD_HELPER_INIT ((HoldHelper){ .pidfd = -1, .socket = -1 })

/* When a wait is to be given up. */
typedef struct HoldWait {
        uint64_t deadline_usec;              /* monotonic */
        bool (*interrupted)(void *userdata); /* may be NULL */
        void *userdata;
} HoldWait;

/*
 * Whether the worker may start a helper for this database: a root-owned one in a directory that
 * others may write would make uid 0 read what they wrote. 0 or negative errno.
 */
int hold_helper_allowed(const HoldDatabase *db, Failure *reterr);

/* `mode` is "hold" or "image". */
int hold_helper_start(HoldHelper *h, const char *libexec_dir, const char *mode, Failure *reterr);

/* Sends one message (taken, may be NULL: -ENOMEM) with at most one descriptor (-1: none). */
int hold_helper_send(HoldHelper *h, json_object *message, int fd, uint64_t deadline_usec);

/*
 * Receives one message: 0 with an owned object, -ETIMEDOUT, -ECANCELED, or -EPIPE when the helper
 * is lost (it is killed then).
 */
int hold_helper_recv(HoldHelper *h, const HoldWait *wait, json_object **ret);

/* True while the process has not ended; a stopped one has not. */
bool hold_helper_is_alive(const HoldHelper *h);

/* Kills and reaps; waits for that half a second at most. The lists stay. */
void hold_helper_kill(HoldHelper *h);

/* Kills and frees all. */
void hold_helper_done(HoldHelper *h);

/* The message that hands over a database. */
json_object *hold_helper_database(const HoldDatabase *db, size_t index);
