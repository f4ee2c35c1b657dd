#pragma once

/*
 * What the journal learns of a job from the agent. The lines of its worker and of the helpers carry
 * the same fields.
 */

#include "agent/job.h"
#include "base/log.h"

/* Who asked for it is in the first line alone. Borrows from the job. */
LogFields job_log_fields(const Job *j);

/* A line of the job without a MESSAGE_ID. */
#define job_log(j, level, ...)                                                                     \
        do {                                                                                       \
                const LogFields job_log_own = job_log_fields(j);                                   \
                                                                                                   \
                log_fields((level), &job_log_own, __VA_ARGS__);                                    \
        } while (0)

void job_log_queued(const Job *j);
void job_log_started(const Job *j);
void job_log_end(const Job *j);

/* A job of an earlier agent that the catalogue still had as unfinished. */
void job_log_interrupted(json_object *task, const Failure *why);
