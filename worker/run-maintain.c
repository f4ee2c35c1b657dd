/*
 * delete, pin, repository, reconcile: what needs the repository and the worker's state, and no
 * privilege over live data.
 */

#include <errno.h>

#include "base/log.h"
#include "base/step.h"
#include "worker/facts.h"
#include "worker/hot.h"
#include "worker/intent.h"
#include "worker/job-keys.h"
#include "worker/open-repo.h"
#include "worker/run.h"
#include "worker/verified.h"

/* ---- delete ---- */

int run_delete(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(repo_closep) Repo *repo = NULL;
        const char *id;
        int r;

        r = work_uuid(w, "backup_id", &id, reterr);
        if (r >= 0)
                r = open_repo_of(w, true, id, &repo, reterr);
        if (r < 0)
                return r;
        work_accepted(w);
        work_phase(w, "delete");
        r = work_check(w, reterr);
        if (r < 0)
                return r;
        work_commit(w);
        r = repo_delete(repo, id, reterr);
        if (r < 0)
                return r;
        log_message(MESSAGE_BACKUP_DELETED, NULL, "backup %s is deleted", id);
        open_repo_tell_space(w, repo);
        verified_forget(w, id);
        hot_drop(w, id); /* what this class may not remove goes with the next sweep */
        *ret_summary = json_object_new_object();
        r = json_put_string(*ret_summary, "backup_id", id);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "delete") : 0;
}

/* ---- pin ---- */

int run_pin(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(repo_closep) Repo *repo = NULL;
        _cleanup_json_ json_object *record = NULL;
        const char *id;
        bool pinned;
        int r;

        r = work_uuid(w, "backup_id", &id, reterr);
        if (r >= 0)
                r = work_bool(w, "pinned", true, &pinned, reterr);
        if (r >= 0)
                r = open_repo_of(w, true, id, &repo, reterr);
        if (r >= 0)
                r = repo_record_load(repo, id, &record, reterr);
        if (r < 0)
                return r;
        work_accepted(w);
        r = repo_pin(repo, id, pinned, reterr);
        if (r < 0)
                return r;
        step("pinned");
        work_stream(w, "backup", "backup", facts_dictionary(w, repo, record));
        *ret_summary = json_object_new_object();
        if (json_put_string(*ret_summary, "backup_id", id) < 0 ||
            json_put_bool(*ret_summary, "pinned", pinned) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "pin");
        return 0;
}

/* ---- repository ---- */

static json_object *
repository_facts(Work *w, Repo *repo, const RepoFacts *f, const KeyFacts *keys) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "id", f->uuid) < 0 ||
            json_put_path(o, "path", w->config->repository_path) < 0 ||
            json_put_u64(o, "format", 1) < 0 || json_put(o, "features", repo_features(repo)) < 0 ||
            json_put_bool(o, "read_only", f->read_only) < 0 ||
            json_put_u64(o, "packs", f->packs) < 0 ||
            json_put_u64(o, "damaged_packs", f->suspects) < 0 ||
            json_put_u64(o, "sessions", f->sessions) < 0 ||
            json_put_u64(o, "backups", f->backups) < 0 || json_put_u64(o, "pins", f->pins) < 0 ||
            json_put_u64(o, "stored_bytes", repo_stored_bytes(repo)) < 0 ||
            json_put_u64(o, "free_bytes", repo_free_bytes(repo)) < 0 ||
            json_put(o, "recipients", repo_recipients(repo)) < 0 ||
            json_put_bool(o, "private_key", keys->private_key) < 0 ||
            json_put_bool(o, "recovery_exported", keys->recovery_exported) < 0 ||
            json_put_bool(o, "recovery_proven", keys->recovery_proven) < 0)
                return NULL;
        return TAKE_PTR(o);
}

int run_repository(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(repo_closep) Repo *repo = NULL;
        _cleanup_free_ char *dir = NULL;
        KeyPlaces places;
        KeyFacts keys;
        RepoFacts facts;
        int r = open_repo(w, false, false, &repo, reterr);

        if (r == -ENOENT && reterr->code == FAIL_NONE)
                return fail_set(reterr, FAIL_SOURCE_MISSING, ENOENT,
                                "there is no repository in %s yet; the first backup makes it",
                                w->config->repository_path);
        if (r >= 0)
                r = repo_facts(repo, &facts, reterr);
        if (r >= 0)
                r = job_keys_places(&dir, &places, reterr);
        if (r >= 0)
                r = keys_facts(&places, &keys, reterr);
        if (r < 0)
                return r;
        work_accepted(w);
        open_repo_tell_space(w, repo);
        *ret_summary = repository_facts(w, repo, &facts, &keys);
        return *ret_summary ? 0 : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "repository");
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
        log_message(MESSAGE_DAMAGE_FOUND, &(LogFields){ .backup = id }, "record of backup %s: %s",
                    id, damage ? damage->text : "lacks what it must have");
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
        /* This verb runs when the agent starts, which could not read all of it. */
        for (size_t i = 0; w->config->private_defaults && i < w->config->warnings.n; i++)
                log_warning("%s", w->config->warnings.items[i]);
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
