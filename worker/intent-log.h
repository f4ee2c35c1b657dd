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

/* Neither finished nor undone: somebody has to look. */
void intent_log_attention(const Intent *i, const Failure *why);
