/*
 * The order: intent `held`; units kept from starting; stopped; swap (with its own proof that nobody
 * holds the target); units let go of and started; watched; the hold removed; intent not `held`. A
 * swap that goes back is `reverting` in the intent from before its first step until it is over.
 */

#include "worker/cutover.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/step.h"
#include "worker/intent-log.h"
#include "worker/swap.h"
#include "worker/unit-hold.h"
#include "worker/units.h"

/* What happened first stays the failure; what became of it is added to its text. */
static void add_text(Failure *f, const char *text) {
        Failure first = *f;

        *f = FAILURE_INIT;
        (void) fail_set(f, first.code, first.errnum, "%s; %s", first.text, text);
}

/* ---- the way back ---- */

static IntentState settled_state(const Intent *i) {
        return i->back_to == INTENT_ACTIVE ? INTENT_ACTIVE : INTENT_ROLLED_BACK;
}

/* The former trees are live. A restore that failed keeps nothing. */
static int end_reverting(Units *u, Failure *reterr) {
        Intent *i = u->intent;
        Failure why = FAILURE_INIT;
        int r;

        (void) fail_set(&why, FAIL_NOT_RESTORABLE, EIO, "%s", i->error ? i->error : "");
        i->reverting = false;
        if (i->back_to == INTENT_STAGING) {
                r = swap_abandon(u->work, i, &why, reterr);
        } else {
                free(i->error);
                i->error = NULL;
                r = intent_save(u->work, i, reterr);
        }
        if (r < 0)
                i->reverting = true; /* as it is on disk: the next recovery goes on */
        return r;
}

/* The swap back cannot be: what was brought stays, and the units get to run on it as they can. */
static void stay(Units *u) {
        Failure f = FAILURE_INIT;

        u->intent->reverting = false;
        if (units_bring_up(u, &f) < 0)
                log_error("restore %s: %s", u->intent->restore_id, f.text);
        f = FAILURE_INIT;
        if (units_release(u, &f) < 0 || intent_save(u->work, u->intent, &f) < 0)
                log_error("restore %s: %s", u->intent->restore_id, f.text);
}

static int swap_back(Units *u, Failure *reterr) {
        Intent *i = u->intent;
        int r;

        if (i->state == settled_state(i))
                return 0;
        r = units_take_down(u, reterr);
        if (r < 0)
                return r;
        work_phase(u->work, "swap");
        return swap_run(u->work, i, i->back_to == INTENT_ACTIVE, reterr);
}

/* Goes back to `back_to`, from wherever a crash left it. */
static int revert(Units *u, Failure *reterr) {
        Intent *i = u->intent;
        int r = swap_back(u, reterr), released, ended;

        if (r < 0 && i->state != INTENT_SWAPPING)
                stay(u);
        if (r < 0)
                return r;
        /* Whatever becomes of the units, the rest is brought to its end. */
        r = units_bring_up(u, reterr);
        released = units_release(u, reterr);
        ended = end_reverting(u, reterr);
        return r < 0 ? r : released < 0 ? released : ended;
}

static int give_up(Units *u, IntentState before, uint64_t down_since_usec, Failure *reterr) {
        Intent *i = u->intent;
        Failure f = FAILURE_INIT;
        int r;

        intent_log_goes_back(i, reterr);
        free(i->error);
        i->error = strdup(reterr->text); /* without it the row does not say why */
        i->reverting = true;
        i->back_to = before;
        i->units_down_usec = 0; /* it was never really up */
        i->down_since_usec = down_since_usec;
        r = intent_save(u->work, i, &f);
        step("reverting");
        if (r >= 0)
                r = revert(u, &f);
        if (r < 0)
                log_error("restore %s: going back: %s", i->restore_id, f.text);
        add_text(reterr, r < 0 ? "going back to what was there before did not work: "
                               : "what was there before is back, and the units run on it");
        if (r < 0)
                add_text(reterr, f.text);
        return -reterr->errnum;
}

/* ---- the swap ---- */

/* Nothing was swapped: the units go on with what is there. */
static void let_go(Units *u, Failure *reterr) {
        Failure f = FAILURE_INIT;

        if (u->intent->state == INTENT_SWAPPING) {
                if (u->intent->held)
                        add_text(reterr, "its units stay down until the restore is recovered");
                return;
        }
        if (units_bring_up(u, &f) < 0)
                add_text(reterr, f.text);
        f = FAILURE_INIT;
        if (units_release(u, &f) < 0)
                log_error("restore %s: %s", u->intent->restore_id, f.text);
}

/* Units that may not start, or are stopped with the system, say nothing about what they run on. */
static int leave_to_boot(Units *u, Failure *reterr) {
        Failure f = FAILURE_INIT;

        if (units_release(u, &f) < 0)
                log_error("restore %s: %s", u->intent->restore_id, f.text);
        *reterr = FAILURE_INIT;
        return fail_set(reterr, FAIL_INTERRUPTED, ESHUTDOWN,
                        "the system is going down: what was swapped in is whole and stays, its "
                        "units start with the next boot, and nobody has watched them");
}

int cutover_run(Work *w, Intent *i, bool want_new, Failure *reterr) {
        _cleanup_(units_done) Units u = UNITS_INIT(w, i);
        IntentState before = i->state;
        uint64_t down_since_usec;
        int r = units_choose(&u, reterr);

        if (r < 0)
                return r;
        i->units_down_usec = 0;
        r = units_take_down(&u, reterr);
        if (r >= 0) {
                work_phase(w, "swap");
                r = swap_run(w, i, want_new, reterr);
        }
        work_commit(w);
        if (r < 0) {
                let_go(&u, reterr);
                return r;
        }
        down_since_usec = i->down_since_usec;
        r = units_bring_up(&u, reterr);
        if (r >= 0)
                r = units_watch(&u, reterr);
        if (r < 0 && u.systemd && systemd_is_stopping(u.systemd))
                return leave_to_boot(&u, reterr);
        return r < 0 ? give_up(&u, before, down_since_usec, reterr) : units_release(&u, reterr);
}

/* ---- after a crash ---- */

bool cutover_is_open(const Intent *i) {
        return i->held || i->reverting;
}

/* The data may be a mix, and this boot has not heard of it: the units must not start. */
static int keep_down(Intent *i, Failure *reterr) {
        int r = unit_hold_write(i, reterr);

        if (r >= 0)
                r = unit_hold_reload_early(reterr);
        if (r >= 0)
                intent_log_units_down(i);
        return r;
}

int cutover_recover(Work *w, Intent *i, Failure *reterr) {
        _cleanup_(units_done) Units u = UNITS_INIT(w, i);
        bool here = unit_hold_exists(i), was_committed = w->committed;
        int r = 0, released;

        if (i->state == INTENT_SWAPPING)
                return i->held && !here ? keep_down(i, reterr) : 0;
        /* After a reboot nothing of it is left in /run, and starting units is the boot's affair. */
        if (here)
                r = units_reach(&u, reterr);
        if (r < 0)
                return r;
        w->committed = true;
        if (i->reverting) {
                r = revert(&u, reterr);
        } else {
                r = units_bring_up(&u, reterr);
                released = units_release(&u, reterr);
                r = r < 0 ? r : released;
        }
        w->committed = was_committed;
        return r;
}
