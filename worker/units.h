#pragma once

/*
 * The units of the services of a restore around its swap: down before it, up after it, watched for
 * a while. Only those that were active are started again. Without systemd on the bus a service that
 * names units is refused: nothing else can promise that they are down.
 */

#include "base/config.h"
#include "worker/intent.h"
#include "worker/systemd.h"

typedef struct Units {
        Work *work;
        Intent *intent;     /* names them, and says whether they are held */
        Systemd *systemd;   /* NULL: there is nothing to stop, start or watch */
        const char **check; /* HealthCheckUnit= of those services that run */
        size_t n_check;
        uint64_t delay_usec; /* the longest HealthDelaySec= of them */
} Units;

#define UNITS_INIT(w, i) ((Units){ .work = (w), .intent = (i) })

void units_done(Units *u);

/*
 * FAIL_NOT_RESTORABLE naming the unit that cannot be stopped and started from here, or be a check.
 * `services` is an array of names; those that are not configured are passed over.
 */
int units_check(Work *w, json_object *services, Failure *reterr);

/* Fills the intent and `u` with the units of its services, and which of them are active now. */
int units_choose(Units *u, Failure *reterr);

/* For a recovery: reaches systemd for the units that the intent names. */
int units_reach(Units *u, Failure *reterr);

/*
 * Keeps them from starting, durable in the intent first, and stops them all. FAIL_TARGET_IN_USE
 * naming one that does not stop. After a failure some may be down: units_bring_up().
 */
int units_take_down(Units *u, Failure *reterr);

/* Starts those that were active, all of them: the first failure is told. */
int units_bring_up(Units *u, Failure *reterr);

/* FAIL_NOT_RESTORABLE naming one that does not stay active, or the check that fails. */
int units_watch(Units *u, Failure *reterr);

/* Takes away what kept them from starting; the intent says so, durable. */
int units_release(Units *u, Failure *reterr);
