/*
 * recover: what `holdpoint-worker --recover` does at boot, asked for by the agent when a worker was
 * lost in the middle of a restore.
 */

#include "worker/expire.h"
#include "worker/intent.h"
#include "worker/prove.h"
#include "worker/run.h"

int run_recover(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        int r;

        work_accepted(w);
        work_phase(w, "recover");
        prove_sweep(w);
        r = intent_recover_all(w, reterr);
        (void) expire_restores(w);
        return r;
}
