#pragma once

/*
 * Jobs from the caller's side: start one, follow it to its end, tell how it went.
 */

#include "cli/client.h"

typedef struct WaitJob {
        uint32_t id;
        json_object *reply;   /* what the call returned */
        json_object *job;     /* the last dictionary of GetJob; NULL with --no-wait */
        json_object *summary; /* of the finished job; NULL if there is none */
} WaitJob;

void wait_job_done(WaitJob *j);
#define _cleanup_wait_job_ __attribute__((cleanup(wait_job_done)))

/*
 * Makes the call, whose last result is a job's path, and unless --no-wait was given follows the job
 * to its end with progress on stderr. Ctrl-C asks once to cancel the job; a second one leaves.
 * 0 when the job ended, however; a negative errno with the error set when that is not known.
 */
int wait_run(Cli *cli, const ClientCall *call, WaitJob *ret);

/*
 * The exit code of a job that ended; sets the error (and so its text) unless all went well. 0 with
 * --no-wait.
 */
int wait_exit_code(Cli *cli, const WaitJob *j);

/*
 * With --json: prints `object` (borrowed, changed) with "result" (or "job" with --no-wait) and, if
 * there is one, "error". `object` NULL takes the summary. 0 or -ENOMEM with the error set.
 */
int wait_print_json(Cli *cli, const WaitJob *j, json_object *object);

/* "job 3 is queued" for --no-wait, on stdout. */
void wait_print_queued(const WaitJob *j);
