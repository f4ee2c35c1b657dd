#pragma once

/*
 * LVM commands, each in a process of its own (holdpoint-lvm). A command that runs is waited for,
 * for LVM must not be killed half way; one that was only prepared is given up by closing its
 * socket.
 */

#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fail.h"
#include "snapshot/lvm-command.h"
#include "snapshot/lvm-report.h"

typedef struct LvmRun {
        LvmCommand command;
        int socket, pidfd;
        pid_t pid;
} LvmRun;

#define LVM_RUN_INIT ((LvmRun){ .socket = -1, .pidfd = -1 })

/* Starts the helper and waits until LVM is ready to run the command. FAIL_SNAPSHOT_FAILED. */
int lvm_run_prepare(LvmRun *run, const LvmCommand *command, Failure *reterr);

/*
 * Runs it and waits for its end. FAIL_SNAPSHOT_FAILED (FAIL_SNAPSHOT_FULL where LVM lacks room)
 * with LVM's own words; `ret_usec` (may be NULL) is how long LVM took, `ret_output` (may be NULL)
 * what it printed.
 */
int lvm_run_go(LvmRun *run, Buf *ret_output, uint64_t *ret_usec, Failure *reterr);

void lvm_run_done(LvmRun *run);
#define _cleanup_lvm_run_ _cleanup_(lvm_run_done)

/* Both, for a command that nobody waits for under a hold. */
int lvm_run(const LvmCommand *command, Failure *reterr);

/* Runs lvm_command_report() and parses what comes. */
int lvm_run_report(const char *vg_uuid, const char *tag, LvmReport *ret, Failure *reterr);
