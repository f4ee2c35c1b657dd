#pragma once

/*
 * A change of a schedule, under the lock that keeps two of them apart: what the request says is put
 * upon what there is, written, read by systemd, switched.
 */

#include <stdbool.h>

#include "base/schedule.h"
#include "worker/work.h"

/* A schedule that follows /etc/default/holdpoint says so in its Origin=: the first while a change
 * is under way, then how its timer was left. */
#define SCHEDULE_FOLLOWS          "defaults"
#define SCHEDULE_FOLLOWS_ENABLED  "defaults-enabled"
#define SCHEDULE_FOLLOWS_DISABLED "defaults-disabled"

/*
 * Whether a change is to be made: 1 or 0, or a failure. `was` is what there is, its name NULL if
 * that is nothing; `enabled` is what systemd says of its timer.
 */
typedef int ScheduleCheck(Work *w, const Schedule *was, bool enabled, Failure *reterr);

/*
 * Does what the request of `w` says, in the members of "set-schedule", if `check` (may be NULL)
 * finds that it is to be done. Tells all schedules then.
 */
int schedule_change(Work *w, ScheduleCheck *check, Failure *reterr);
