/*
 * Dropping a tree cannot be undone, so every doubt keeps it: a time in the future, a target that is
 * not there, a service that another job works on. What is live is never touched.
 */

#include "worker/expire.h"

#include <errno.h>

#include "base/clock.h"
#include "base/log.h"
#include "worker/state.h"
#include "worker/swap.h"

#define USEC_PER_DAY (86400 * USEC_PER_SEC)
#define HISTORY_DAYS 90 /* what is over is known for so long, as the agent's jobs are */

typedef struct Expire {
        Work *work;
        size_t n;
} Expire;

static bool is_expired(Work *w, const Intent *i) {
        uint64_t now = clock_realtime_usec(), keep = w->config->keep_old_days * USEC_PER_DAY;

        return (i->state == INTENT_ACTIVE || i->state == INTENT_ROLLED_BACK) && !i->reverting &&
               i->completed_usec > 0 && i->completed_usec <= now && now - i->completed_usec > keep;
}

static int drop(Work *w, Intent *i, Failure *reterr) {
        int r = swap_check_live(i, reterr);

        if (r >= 0)
                r = swap_confirm(w, i, reterr);
        if (r >= 0)
                log_notice("restore %s was not confirmed for %u days: the tree it had replaced is "
                           "dropped",
                           i->restore_id, w->config->keep_old_days);
        work_stream(w, "restore", "restore", intent_row(i));
        return r;
}

static int on_intent(void *userdata, Intent *listed, Failure *reterr) {
        Expire *x = userdata;
        Work *w = x->work;
        ServiceLocks locks = { 0 };
        Intent i = INTENT_INIT;
        Failure f = FAILURE_INIT;
        int r;

        if (!is_expired(w, listed) || work_interrupted(w))
                return 0;
        r = state_lock_services(w, listed->services, 0, &locks, &f);
        /* Under its locks nobody changes it: what counts is what it says now. */
        if (r >= 0)
                r = intent_load(w, listed->restore_id, &i, &f);
        if (r >= 0 && is_expired(w, &i)) {
                r = drop(w, &i, &f);
                x->n += r >= 0;
        }
        if (r < 0 && f.code != FAIL_BUSY)
                log_warning("restore %s: what it had replaced is kept: %s", listed->restore_id,
                            f.text);
        intent_done(&i);
        service_locks_done(&locks);
        return 0;
}

/* ---- what is over ---- */

/* Oldest first, and no further than to one that is not over: which of two is the newer one counts
 * as long as there is something to go back to. */
static int forget(void *userdata, Intent *i, Failure *reterr) {
        uint64_t now = clock_realtime_usec();
        uint64_t at = i->completed_usec > 0 ? i->completed_usec : i->created_usec;

        if ((i->state != INTENT_CONFIRMED && i->state != INTENT_FAILED) || i->held || at > now ||
            now - at <= HISTORY_DAYS * USEC_PER_DAY)
                return -ESTALE;
        return intent_forget(userdata, i->restore_id, reterr);
}

size_t expire_restores(Work *w) {
        Expire x = { .work = w };
        Failure f = FAILURE_INIT;
        int r = intent_for_each(w, on_intent, &x, &f);

        if (r >= 0)
                r = intent_for_each(w, forget, w, &f);
        if (r < 0 && r != -ESTALE)
                log_warning("old restores are not looked through: %s", f.text);
        return x.n;
}
