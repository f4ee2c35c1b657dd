/*
 * rollback and confirm: what becomes of the two trees of each path once a restore has swapped them.
 */

#include <errno.h>

#include "base/log.h"
#include "worker/cutover.h"
#include "worker/open-repo.h"
#include "worker/run.h"
#include "worker/state.h"
#include "worker/swap-mount.h"
#include "worker/swap.h"
#include "worker/units.h"

typedef struct Kept {
        Work *work;
        const char *restore_id;
        ServiceLocks locks;
        Intent intent;
} Kept;

static void kept_done(Kept *k) {
        service_locks_done(&k->locks);
        intent_done(&k->intent);
}

/*
 * Loads and locks the restore that a rollback or confirm is about. `ret_was` (may be NULL) is its
 * state before what an earlier worker left was finished.
 */
static int open_restore(Kept *k, IntentState *ret_was, Failure *reterr) {
        Failure ignored = FAILURE_INIT;
        int e = work_uuid(k->work, "restore_id", &k->restore_id, reterr);

        if (e >= 0)
                e = intent_load(k->work, k->restore_id, &k->intent, reterr);
        if (e < 0)
                return e;
        if (ret_was)
                *ret_was = k->intent.state;
        intent_done(&k->intent);
        if (intent_recover_all(k->work, &ignored) < 0)
                log_warning("an earlier restore needs attention: %s", ignored.text);
        e = intent_load(k->work, k->restore_id, &k->intent, reterr);
        if (e < 0)
                return e;
        e = state_lock_services(k->work, k->intent.services, LOCK_TIMEOUT_USEC, &k->locks, reterr);
        if (e < 0)
                return e;
        /* Another worker may have had the locks: what counts is what it says now. */
        intent_done(&k->intent);
        return intent_load(k->work, k->restore_id, &k->intent, reterr);
}

static json_object *state_summary(const Kept *k) {
        _cleanup_json_ json_object *row = intent_row(&k->intent), *o = json_object_new_object();
        const char *state;

        if (!row || !o || json_get_string(row, "state", &state) < 0 ||
            json_put_string(o, "restore_id", k->restore_id) < 0 ||
            json_put_string(o, "state", state) < 0 ||
            json_put_u64(o, "swap_usec", k->intent.swap_usec) < 0 ||
            json_put_u64(o, "units_down_usec", k->intent.units_down_usec) < 0)
                return NULL;
        return TAKE_PTR(o);
}

int run_rollback(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(kept_done) Kept k = { .work = w, .intent = INTENT_INIT };
        int e = open_restore(&k, NULL, reterr);

        if (e < 0)
                return e;
        if (k.intent.state != INTENT_ACTIVE && k.intent.state != INTENT_ROLLED_BACK)
                return fail_set(reterr, FAIL_NOT_RESTORABLE, EINVAL,
                                "restore %s keeps no other tree to go back to", k.restore_id);
        if (intent_is_superseded(w, &k.intent))
                return fail_set(
                        reterr, FAIL_NOT_RESTORABLE, EINVAL,
                        "restore %s is not the newest of its services; roll back the newer one "
                        "first",
                        k.restore_id);
        e = units_check(w, k.intent.services, reterr);
        if (e >= 0)
                e = swap_mount_look_all(&k.intent, reterr);
        if (e < 0)
                return e;
        work_accepted(w);
        e = cutover_run(w, &k.intent, k.intent.state == INTENT_ROLLED_BACK, reterr);
        work_stream(w, "restore", "restore", intent_row(&k.intent));
        *ret_summary = state_summary(&k);
        return e;
}

int run_confirm(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(kept_done) Kept k = { .work = w, .intent = INTENT_INIT };
        IntentState was;
        int e = open_restore(&k, &was, reterr);

        if (e < 0)
                return e;
        /* An earlier confirmation that had stopped half way has just been finished. */
        if (was == INTENT_CONFIRMING && k.intent.state == INTENT_CONFIRMED) {
                *ret_summary = state_summary(&k);
                return 0;
        }
        if (k.intent.state != INTENT_ACTIVE && k.intent.state != INTENT_ROLLED_BACK &&
            k.intent.state != INTENT_CONFIRMING)
                return fail_set(reterr, FAIL_NOT_RESTORABLE, EINVAL,
                                "restore %s keeps no other tree to drop", k.restore_id);
        work_accepted(w);
        work_phase(w, "drop");
        e = swap_confirm(w, &k.intent, reterr);
        work_stream(w, "restore", "restore", intent_row(&k.intent));
        *ret_summary = state_summary(&k);
        return e;
}
