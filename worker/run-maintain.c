/*
 * verify, delete, reconcile: what needs the repository and the worker's state, and no privilege
 * over live data.
 */

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "worker/facts.h"
#include "worker/hot.h"
#include "worker/intent.h"
#include "worker/job-keys.h"
#include "worker/open-repo.h"
#include "worker/run.h"

static int open_existing(Work *w, bool writer, const char *backup_id, Repo **ret, Failure *reterr) {
        int r = open_repo(w, false, writer, ret, reterr);

        if (r == -ENOENT && reterr->code == FAIL_NONE)
                return fail_set(reterr, FAIL_NO_SUCH_BACKUP, ENOENT,
                                "no backup %s: there is no repository", backup_id);
        return r;
}

/* ---- verify ---- */

typedef struct Verify {
        Work *work;
        json_object *damaged; /* names of damaged objects */
} Verify;

static void on_damage(void *userdata, const char *object, const Failure *why) {
        Verify *v = userdata;

        log_error("damaged: %s: %s", object, why->text);
        if (json_object_array_length(v->damaged) < 100)
                (void) json_object_array_add(v->damaged, json_object_new_string(object));
}

static void on_progress(void *userdata, uint64_t done, uint64_t total) {
        Verify *v = userdata;

        v->work->bytes_done = done;
        v->work->bytes_total = total;
        work_progress(v->work, false);
}

static json_object *verify_summary(const char *id, const RepoCheck *c, json_object *damaged) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "backup_id", id) < 0 ||
            json_put_u64(o, "bytes", c->bytes) < 0 || json_put_u64(o, "objects", c->objects) < 0 ||
            json_put_u64(o, "packs", c->packs) < 0 || json_put_u64(o, "damaged", c->damaged) < 0 ||
            json_put(o, "damaged_objects", json_object_get(damaged)) < 0)
                return NULL;
        return TAKE_PTR(o);
}

int run_verify(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(repo_closep) Repo *repo = NULL;
        _cleanup_json_ json_object *damaged = json_object_new_array();
        Verify v = { .work = w, .damaged = damaged };
        RepoCheck check = { 0 };
        const char *id, *depth;
        int r;

        if (!damaged)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "verify");
        if ((r = work_uuid(w, "backup_id", &id, reterr)) < 0 ||
            (r = work_string(w, "depth", &depth, reterr)) < 0)
                return r;
        if (strcmp(depth, "data") != 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "depth '%s' is not known",
                                depth);
        r = open_existing(w, false, id, &repo, reterr);
        if (r < 0)
                return r;
        work_accepted(w);
        work_phase(w, "verify");
        r = repo_check(repo, id, on_damage, on_progress, &v, &check, reterr);
        work_progress(w, true);
        *ret_summary = verify_summary(id, &check, damaged);
        return r;
}

/* ---- delete ---- */

int run_delete(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(repo_closep) Repo *repo = NULL;
        const char *id;
        int r;

        r = work_uuid(w, "backup_id", &id, reterr);
        if (r >= 0)
                r = open_existing(w, true, id, &repo, reterr);
        if (r < 0)
                return r;
        work_accepted(w);
        work_phase(w, "delete");
        r = repo_delete(repo, id, reterr);
        if (r < 0)
                return r;
        open_repo_tell_space(w, repo);
        hot_drop(w, id); /* what this class may not remove goes with the next sweep */
        *ret_summary = json_object_new_object();
        r = json_put_string(*ret_summary, "backup_id", id);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "delete") : 0;
}

/* ---- reconcile ---- */

typedef struct Reconcile {
        Work *work;
        Repo *repo;
        uint64_t backups, restores, damaged;
} Reconcile;

static int on_record(void *userdata, const char *id, json_object *record, const Failure *damage) {
        Reconcile *c = userdata;
        json_object *d = record ? facts_dictionary(c->work, c->repo, record) : NULL;

        if (work_interrupted(c->work))
                return -ECANCELED;
        if (d) {
                c->backups++;
                work_stream(c->work, "backup", "backup", d);
                return 0;
        }
        c->damaged++;
        log_error("record of backup %s: %s", id, damage ? damage->text : "lacks what it must have");
        return 0;
}

static int on_intent(void *userdata, Intent *i, Failure *reterr) {
        Reconcile *c = userdata;

        c->restores++;
        work_stream(c->work, "restore", "restore", intent_row(i));
        return 0;
}

int run_reconcile(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(repo_closep) Repo *repo = NULL;
        Reconcile c = { .work = w };
        int r = open_repo(w, false, false, &repo, reterr);

        if (r < 0 && !(r == -ENOENT && reterr->code == FAIL_NONE))
                return r;
        work_accepted(w);
        c.repo = repo;
        r = repo ? repo_list(repo, on_record, &c, reterr) : 0;
        if (r >= 0)
                r = intent_for_each(w, on_intent, &c, reterr);
        if (r < 0)
                return r;
        if (repo)
                open_repo_tell_space(w, repo);
        job_keys_tell(w);
        *ret_summary = json_object_new_object();
        if (json_put_u64(*ret_summary, "backups", c.backups) < 0 ||
            json_put_u64(*ret_summary, "restores", c.restores) < 0 ||
            json_put_u64(*ret_summary, "damaged", c.damaged) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "reconcile");
        return 0;
}
