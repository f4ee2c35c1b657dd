#pragma once

/*
 * The exchange of live and staged trees for all paths of an intent, in either direction, and what a
 * crash in it leaves to be finished or undone. docs/adr/0006-intents.md says why the order is as it
 * is.
 */

#include "worker/intent.h"

/*
 * Brings the targets to the new (`want_new`) or old trees: proves that nobody uses them, carries
 * the excluded paths over, makes the intent durable, exchanges each path, syncs the parents, and
 * leaves the intent ACTIVE or ROLLED_BACK. On failure everything is as before and the intent back
 * in its former state. Needs the services' locks.
 */
int swap_run(Work *w, Intent *i, bool want_new, Failure *reterr);

/* What stands beside a staged database while it is checked; removed with it. */
#define SWAP_CHECK_SUFFIX ".check"

/* Finishes or undoes an intent that is STAGING, SWAPPING or CONFIRMING; saves it. */
int swap_recover(Work *w, Intent *i, Failure *reterr);

/* Removes the staged trees of an intent that never swapped, and marks it FAILED because of `why`.
 */
int swap_abandon(Work *w, Intent *i, const Failure *why, Failure *reterr);

/* FAIL_NOT_RESTORABLE if one of the live paths is not there: then what is kept is all there is. */
int swap_check_live(const Intent *i, Failure *reterr);

/*
 * Drops the trees that are not live. The intent becomes CONFIRMED; it stays CONFIRMING when one of
 * them cannot go (a subvolume in it that may be live), and can be confirmed again.
 */
int swap_confirm(Work *w, Intent *i, Failure *reterr);
