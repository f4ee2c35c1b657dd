#pragma once

/*
 * What the journal learns of a restore, with a job and at boot alike.
 */

#include "base/fail.h"
#include "worker/intent.h"

/* The state is on disk. */
void intent_log_state(const Intent *i);

/* What a worker left half done was finished or undone: `what` says which. */
void intent_log_recovered(const Intent *i, const char *what);

/* The units did not come up on what was brought. */
void intent_log_goes_back(const Intent *i, const Failure *why);

/* The units must not start in this boot before somebody brings the restore to its end. */
void intent_log_units_down(const Intent *i);

/* Neither finished nor undone: somebody has to look. */
void intent_log_attention(const Intent *i, const Failure *why);
