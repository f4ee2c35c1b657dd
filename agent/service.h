#pragma once

/*
 * Configured services and how old their last good backup is.
 */

#include "agent/manager.h"

/*
 * Judges every service again: one without a completed backup that is young enough is overdue. Tells
 * the bus what changed and sets the timer for the next one that becomes so.
 */
void service_update_overdue(Manager *m);

/* Forgets what service_update_overdue() keeps. */
void service_forget(Manager *m);

/* The names of all configured services, in order. 0 or -ENOMEM. */
int service_names(const Manager *m, ConfigStrings *ret);
