#pragma once

/*
 * What a worker says, and what follows from it.
 */

#include "agent/job.h"

/*
 * Handles one message. 0, or -EBADMSG if it does not fit the protocol (reterr says how). After a
 * result the job is finished.
 */
int job_events_handle(Job *j, json_object *message, Failure *reterr);

/* What the end of a job means for the rows of its backup and restore; part of job_finish(). */
void job_events_settle(Job *j);
