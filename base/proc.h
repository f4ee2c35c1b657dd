#pragma once

/*
 * Starting programs: a fixed environment, reset signals, exactly the descriptors that are given.
 */

#include <stdbool.h>
#include <sys/types.h>

#include "base/fail.h"

typedef struct ProcSpawn {
        const char *path;        /* the program, absolute */
        const char *const *argv; /* NULL-terminated, argv[0] included */
        const char *const *env;  /* NULL-terminated "A=b"; NULL: PATH and LANG=C only */
        int socket;              /* becomes fd 3 of the child; -1: none */
        bool drop;               /* become uid/gid, no groups, no capabilities, no_new_privs */
        bool outlives;           /* goes on when its parent dies; else PDEATHSIG=KILL */
        uid_t uid;
        gid_t gid;
} ProcSpawn;

/*
 * Starts it with stdin from /dev/null, stdout and stderr ours, all other descriptors
 * closed. Returns a pidfd (owned) and the pid.
 */
int proc_spawn(const ProcSpawn *spawn, pid_t *ret_pid, int *ret_pidfd, Failure *reterr);

/* The directory of our helper programs: HOLDPOINT_LIBEXECDIR or the compiled-in one. */
const char *proc_libexec_dir(void);
