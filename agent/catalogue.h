#pragma once

/*
 * Where the agent's catalogue lies: in its state directory, or, while that cannot be written, in
 * its runtime directory.
 */

#include "agent/manager.h"

/* Opens it, and tells of the jobs that an earlier agent left unfinished. */
int catalogue_open(Manager *m, Failure *reterr);

/*
 * `r` came of writing: true if the catalogue has moved to where it can be written, so that trying
 * again is of use.
 */
bool catalogue_leave(Manager *m, int r);

/* Back to the state directory if it can be written by now; nothing if it is there. */
void catalogue_return(Manager *m);
