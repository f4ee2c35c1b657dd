#pragma once

/*
 * Jobs from the caller's side: start one, follow it to its end, tell how it went.
 */

#include "cli/client.h"

typedef struct FollowJob {
        uint32_t id;
        json_object *reply;   /* what the call returned */
        json_object *job;     /* the last dictionary of GetJob; NULL with --no-wait */
        json_object *summary; /* of the finished job; NULL if there is none */
} FollowJob;

void follow_job_done(FollowJob *j);
#define _cleanup_follow_job_ __attribute__((cleanup(follow_job_done)))

/*
 * Makes the call, whose last result is a job's path, and unless --no-wait was given follows the job
 * to its end with progress on stderr. Ctrl-C asks once to cancel the job; a second one leaves.
 * 0 when the job ended, however; a negative errno with the error set when that is not known.
 */
int follow_run(Cli *cli, const ClientCall *call, FollowJob *ret);

/* Where the bytes of a stream go. */
typedef struct FollowStream {
        /* 0, or a negative errno (with the error set, if it has more to say) to leave the stream.
         */
        int (*sink)(void *userdata, const void *data, size_t n);
        void *userdata;
        bool progress; /* the sink is silent: show how far the job is */
} FollowStream;

/*
 * The same for a call whose first result is a stream: it is handed to the sink until it ends, then
 * the job is followed to its end. Leaving the stream cancels the job. --no-wait has no meaning
 * here.
 */
int follow_stream(Cli *cli, ClientCall *call, const FollowStream *stream, FollowJob *ret);

/*
 * The exit code of a job that ended; sets the error (and so its text) unless all went well. 0 with
 * --no-wait.
 */
int follow_exit_code(Cli *cli, const FollowJob *j);

/*
 * With --json: prints `object` (borrowed, changed) with "result" (or "job" with --no-wait) and, if
 * there is one, "error". `object` NULL takes the summary. 0 or -ENOMEM with the error set.
 */
int follow_print_json(Cli *cli, const FollowJob *j, json_object *object);

/* "job 3 is queued" for --no-wait, on stdout. */
void follow_print_queued(const FollowJob *j);
