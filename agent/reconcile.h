#pragma once

/*
 * Correcting the catalogue from what exists.
 */

#include "agent/job.h"

/* Queues a reconcile; one that runs already is followed by another. */
void reconcile_request(Manager *m);

/*
 * A worker was lost or hung up on. It may still be on its way to a safe point and finish what it
 * had begun, so there is another one some seconds after the first.
 */
void reconcile_after_loss(Manager *m);

/* Something changed that a reconcile which runs may have listed as it was: another follows it. */
void reconcile_outdated(Manager *m);

/* One did not work: another later, after a pause that grows. */
void reconcile_retry(Manager *m);

/* The worker has listed everything: removes what was not listed. */
int reconcile_complete(Manager *m, Failure *reterr);

/* A reconcile has ended; tries again later if it did not work. */
void reconcile_ended(Job *j);
