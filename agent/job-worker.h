#pragma once

/*
 * A job's connection to its worker.
 */

#include "agent/job.h"

/* Connects (trying for five seconds, never blocking) and sends the request. A failure ends the job.
 */
void job_worker_start(Job *j);

/* Tells the worker to stop; hangs up if that cannot be sent, which means the same. */
void job_worker_cancel(Job *j);

/* Hangs up. */
void job_worker_close(Job *j);
