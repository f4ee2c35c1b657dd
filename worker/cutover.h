#pragma once

/*
 * A swap with all that is around it: units down, swap, units up, health; and the way back by itself
 * when they do not come up on what it brought.
 */

#include "worker/intent.h"

/*
 * As swap_run(), with the units of the intent's services. When they fail on what was brought, the
 * former trees are swapped back, the units started on them, and the intent is what it was (a
 * restore's is FAILED); FAIL_NOT_RESTORABLE says why. Nothing cancels it once the trees are
 * swapped.
 */
int cutover_run(Work *w, Intent *i, bool want_new, Failure *reterr);

/* After swap_recover(), whatever came of it: units that wait are let go of, or kept down. */
int cutover_recover(Work *w, Intent *i, Failure *reterr);

/* True if cutover_recover() has something to do. */
bool cutover_is_open(const Intent *i);
