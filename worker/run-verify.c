/*
 * verify: reads what a backup consists of and says whether all of it is there as it was written.
 */

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "worker/facts.h"
#include "worker/open-repo.h"
#include "worker/run.h"
#include "worker/verified.h"

#define DAMAGED_NAMED 100 /* damaged objects that the summary names */

typedef struct Verify {
        Work *work;
        json_object *damaged; /* names of damaged objects */
} Verify;

static void on_damage(void *userdata, const char *object, const Failure *why) {
        Verify *v = userdata;

        log_message(MESSAGE_DAMAGE_FOUND, NULL, "damaged: %s: %s", object, why->text);
        if (json_object_array_length(v->damaged) < DAMAGED_NAMED)
                (void) json_object_array_add(v->damaged, json_object_new_string(object));
}

/* In packs, where few of their bytes are read. */
static void on_progress(void *userdata, const RepoCheck *sum) {
        Verify *v = userdata;

        v->work->bytes_done = sum->bytes;
        v->work->bytes_total = sum->bytes_total;
        v->work->files_done = sum->packs;
        v->work->files_total = sum->packs_total;
        work_progress(v->work, false);
}

static json_object *
make_summary(const char *id, const char *depth, const RepoCheck *c, json_object *damaged) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "backup_id", id) < 0 ||
            json_put_string(o, "depth", depth) < 0 || json_put_u64(o, "bytes", c->bytes) < 0 ||
            json_put_u64(o, "objects", c->objects) < 0 || json_put_u64(o, "packs", c->packs) < 0 ||
            json_put_u64(o, "damaged", c->damaged) < 0 ||
            json_put(o, "damaged_objects", json_object_get(damaged)) < 0)
                return NULL;
        return TAKE_PTR(o);
}

/* The finding goes into the row; a row that cannot be read any more is not sent. */
static void tell(Work *w, Repo *repo, const char *id, const char *depth, bool sound) {
        _cleanup_json_ json_object *record = NULL;
        Failure f = FAILURE_INIT;

        /* Retention may have removed it meanwhile: then there is nothing to be said of it. */
        if (!repo_has_backup(repo, id))
                return;
        if (verified_note(w, id, depth, sound ? "sound" : "damaged", &f) < 0)
                log_warning("the time of this verification is not kept: %s", f.text);
        f = FAILURE_INIT;
        if (repo_record_load(repo, id, &record, &f) >= 0)
                work_stream(w, "backup", "backup", facts_dictionary(w, repo, record));
}

static int read_request(Work *w, const char **ret_id, const char **ret_depth, Failure *reterr) {
        int r = work_uuid(w, "backup_id", ret_id, reterr);

        if (r >= 0)
                r = work_string(w, "depth", ret_depth, reterr);
        if (r < 0)
                return r;
        if (strcmp(*ret_depth, "data") != 0 && strcmp(*ret_depth, "metadata") != 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "depth '%s' is not known; metadata or data", *ret_depth);
        return 0;
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
        r = read_request(w, &id, &depth, reterr);
        if (r >= 0)
                r = open_repo_of(w, false, id, &repo, reterr);
        if (r < 0)
                return r;
        work_accepted(w);
        work_phase(w, "verify");
        r = repo_check(repo, id, strcmp(depth, "metadata") == 0, on_damage, on_progress, &v, &check,
                       reterr);
        work_progress(w, true);
        if (r >= 0 || check.damaged > 0)
                tell(w, repo, id, depth, r >= 0);
        *ret_summary = make_summary(id, depth, &check, damaged);
        return r;
}
