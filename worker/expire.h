#pragma once

/*
 * The trees that restores have replaced, once [Restore] KeepOldDays= is over and nobody confirmed;
 * and the history of restores that are over.
 */

#include "worker/work.h"

/*
 * Confirms what has expired: drops the trees that are not live, and streams the rows. A restore
 * whose services are locked, or whose live tree is not there, is left alone. Failures are logged;
 * returns how many were dropped. The caller holds no service's lock.
 */
size_t expire_restores(Work *w);
