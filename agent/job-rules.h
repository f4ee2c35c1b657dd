#pragma once

/*
 * Which jobs may not be queued.
 */

#include "agent/job.h"

/* FAIL_BUSY: another job stands in the way; FAIL_QUEUE_FULL: too many wait already. `new` is not in
 * the queue yet. */
int job_rules_check(Manager *m, const Job *new, Failure *reterr);
