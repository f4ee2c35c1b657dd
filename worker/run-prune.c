/*
 * prune: retention first, record by record, then what no record needs any more. What goes is
 * computed here, from the records and root's configuration alone: no name comes with the request.
 *
 * A record that cannot be read is never removed by retention, and keeps all packs.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/schedule.h"
#include "base/step.h"
#include "repo/retention.h"
#include "worker/facts.h"
#include "worker/hot.h"
#include "worker/open-repo.h"
#include "worker/run.h"
#include "worker/verified.h"

/* How long to wait for jobs that read packs. */
#define READERS_WAIT_USEC (5 * USEC_PER_SEC)

/* The records, and what they borrow from. */
typedef struct Records {
        Work *work;
        Repo *repo;
        RetentionRecord *items;
        json_object **json; /* one for each */
        size_t n;
} Records;

static void records_done(Records *l) {
        for (size_t i = 0; i < l->n; i++) {
                free((void *) l->items[i].services);
                json_object_put(l->json[i]);
        }
        free(l->items);
        free(l->json);
}

/* Only what retention asks for is kept of a record. */
static json_object *reduce(json_object *record, const char *id, bool pinned) {
        static const char *const strings[] = { "status", "parent_id", "schedule" };
        _cleanup_json_ json_object *o = json_object_new_object();
        bool include_files = true, imported = false;
        json_object *services;
        const char *text;
        uint64_t usec;

        if (!o || json_get_array(record, "services", &services) < 0 ||
            json_get_u64(record, "instant_usec", &usec) < 0 ||
            json_put(o, "services", json_object_get(services)) < 0 ||
            json_put_u64(o, "instant_usec", usec) < 0 || json_put_string(o, "id", id) < 0 ||
            json_put_bool(o, "pinned", pinned) < 0)
                return NULL;
        (void) json_get_bool(record, "include_files", &include_files); /* unless it says so */
        (void) json_get_bool(record, "imported", &imported);
        if (json_put_bool(o, "lesser", !include_files || imported) < 0)
                return NULL;
        for (size_t i = 0; i < ELEMENTSOF(strings); i++) {
                if (json_get_string(record, strings[i], &text) < 0)
                        text = "";
                if (json_put_string(o, strings[i], text) < 0)
                        return NULL;
        }
        return TAKE_PTR(o);
}

static int fill(Work *w, json_object *o, RetentionRecord *ret) {
        json_object *services;
        const char *status, **names;
        size_t n;

        if (json_get_string(o, "id", &ret->id) < 0 ||
            json_get_string(o, "parent_id", &ret->parent_id) < 0 ||
            json_get_string(o, "schedule", &ret->schedule) < 0 ||
            json_get_string(o, "status", &status) < 0 ||
            json_get_u64(o, "instant_usec", &ret->created_usec) < 0 ||
            json_get_bool(o, "pinned", &ret->pinned) < 0 ||
            json_get_bool(o, "lesser", &ret->lesser) < 0 ||
            json_get_array(o, "services", &services) < 0)
                return -EBADMSG;
        n = json_object_array_length(services);
        names = calloc(n + 1, sizeof(*names));
        if (!names)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                names[i] = json_object_get_string(json_object_array_get_idx(services, i));
                if (!names[i])
                        names[i] = "";
        }
        ret->good = strcmp(status, "completed") == 0 && !verified_is_damaged(w, ret->id);
        ret->services = names;
        ret->n_services = n;
        return 0;
}

static int grow(Records *l) {
        RetentionRecord *items;
        json_object **json;

        if (l->n % 64 > 0)
                return 0;
        items = reallocarray(l->items, l->n + 64, sizeof(*items));
        if (!items)
                return -ENOMEM;
        l->items = items;
        json = reallocarray(l->json, l->n + 64, sizeof(*json));
        if (!json)
                return -ENOMEM;
        l->json = json;
        return 0;
}

static int on_record(void *userdata, const char *id, json_object *record, const Failure *damage) {
        Records *l = userdata;
        json_object *o;
        int r;

        if (work_interrupted(l->work))
                return -ECANCELED;
        o = record ? reduce(record, id, repo_is_pinned(l->repo, id)) : NULL;
        if (!o) {
                log_message(MESSAGE_DAMAGE_FOUND, &(LogFields){ .backup = id },
                            "record of backup %s: %s; retention leaves it alone", id,
                            damage ? damage->text : "lacks what it must have");
                return 0;
        }
        r = grow(l);
        if (r >= 0) {
                l->items[l->n] = (RetentionRecord){ .id = "" };
                r = fill(l->work, o, &l->items[l->n]);
        }
        if (r < 0) {
                json_object_put(o);
                return r;
        }
        l->json[l->n++] = o;
        return 0;
}

/* ---- retention ---- */

typedef struct Prune {
        Work *work;
        Repo *repo;
        Records records;
        const char **dropped; /* ids, borrowed from the records */
        size_t n_dropped;
        ScheduleList schedules;
        RetentionSchedule *days; /* of each of them */
} Prune;

/* A schedule that cannot be read ends it: its backups might be kept longer than the others. */
static int load_schedules(Prune *p, Failure *reterr) {
        int r = schedule_list_load(&p->schedules, reterr);

        if (r < 0)
                return r;
        p->days = calloc(p->schedules.n + 1, sizeof(*p->days));
        if (!p->days)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "prune");
        for (size_t i = 0; i < p->schedules.n; i++)
                p->days[i] = (RetentionSchedule){ p->schedules.items[i].name,
                                                  p->schedules.items[i].retention_days };
        return 0;
}

static int decide(Prune *p, Failure *reterr) {
        RetentionRules rules = {
                .days = p->work->config->retention_days,
                .minimum_backups = p->work->config->minimum_backups,
        };
        Records *l = &p->records;
        int r = load_schedules(p, reterr);

        if (r < 0)
                return r;
        rules.schedules = p->days;
        rules.n_schedules = p->schedules.n;
        r = repo_list(p->repo, on_record, l, reterr);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot read the records");
        p->dropped = calloc(l->n + 1, sizeof(*p->dropped));
        if (!p->dropped)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "prune");
        retention_decide(&rules, clock_realtime_usec(), l->items, l->n);
        for (size_t i = 0; i < l->n; i++) {
                log_debug("backup %s: %s", l->items[i].id,
                          retention_reason_text(l->items[i].reason));
                if (retention_drops(l->items[i].reason))
                        p->dropped[p->n_dropped++] = l->items[i].id;
        }
        return 0;
}

/* Oldest first: whatever ends this in between has removed what was due anyway. */
static int drop_records(Prune *p, Failure *reterr) {
        for (size_t i = p->n_dropped; i-- > 0;) {
                int r = work_check(p->work, reterr);

                if (r >= 0)
                        r = repo_delete(p->repo, p->dropped[i], reterr);
                if (r < 0)
                        return r;
                log_message(MESSAGE_BACKUP_EXPIRED, &(LogFields){ .backup = p->dropped[i] },
                            "backup %s has expired and was removed", p->dropped[i]);
                work_stream(p->work, "removed", "backup_id", json_object_new_string(p->dropped[i]));
                step("expired");
                verified_forget(p->work, p->dropped[i]);
                hot_drop(p->work, p->dropped[i]); /* what stays goes with the next sweep */
        }
        return 0;
}

/* ---- packs ---- */

static void on_damage(void *userdata, const char *object, const Failure *why) {
        log_message(MESSAGE_DAMAGE_FOUND, NULL, "damaged: %s: %s", object, why->text);
}

static void on_progress(void *userdata, uint64_t done, uint64_t total) {
        Prune *p = userdata;

        p->work->files_done = done;
        p->work->files_total = p->records.n;
        work_progress(p->work, false);
}

static void on_removal(void *userdata) {
        Prune *p = userdata;

        work_commit(p->work);
}

static json_object *ids_json(const Prune *p) {
        json_object *list = json_object_new_array();

        for (size_t i = 0; list && i < p->n_dropped; i++)
                if (json_object_array_add(list, json_object_new_string(p->dropped[i])) < 0) {
                        json_object_put(list);
                        return NULL;
                }
        return list;
}

static json_object *make_summary(const Prune *p, bool dry_run, const RepoPrune *sum) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_bool(o, "dry_run", dry_run) < 0 ||
            json_put(o, "backups", ids_json(p)) < 0 || json_put_u64(o, "packs", sum->packs) < 0 ||
            json_put_u64(o, "freed_bytes", sum->freed_bytes) < 0 ||
            json_put_u64(o, "condemned", sum->condemned) < 0 ||
            json_put_u64(o, "missing_chunks", sum->missing) < 0)
                return NULL;
        return TAKE_PTR(o);
}

static int prune_packs(Prune *p, bool dry_run, RepoPrune *ret, Failure *reterr) {
        RepoPruneParams params = {
                .dry_run = dry_run,
                .without = p->dropped,
                .n_without = dry_run ? p->n_dropped : 0,
                .wait_usec = READERS_WAIT_USEC,
                .on_damage = on_damage,
                .on_progress = on_progress,
                .on_removal = on_removal,
                .userdata = p,
        };
        int r;

        work_phase(p->work, "mark");
        r = repo_prune(p->repo, &params, ret, reterr);
        if (r < 0 && reterr->code == FAIL_INTEGRITY_FAILURE)
                log_message(MESSAGE_PRUNE_REFUSED, NULL,
                            "nothing is freed: what the backups need cannot be read in full");
        if (ret->condemned > 0)
                log_notice("%llu packs that nobody needs stay until the next prune: jobs are "
                           "reading",
                           (unsigned long long) ret->condemned);
        if (ret->missing > 0)
                log_warning("%llu chunks of backups are missing; verify says which backups",
                            (unsigned long long) ret->missing);
        return r;
}

static void prune_done(Prune *p) {
        free(p->dropped);
        free(p->days);
        schedule_list_done(&p->schedules);
        records_done(&p->records);
        repo_close(p->repo);
}

int run_prune(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(prune_done) Prune p = { .work = w };
        RepoPrune sum = { 0 };
        bool dry_run;
        int r = work_bool(w, "dry_run", false, &dry_run, reterr);

        if (r < 0)
                return r;
        r = open_repo(w, false, true, &p.repo, reterr);
        if (r == -ENOENT && reterr->code == FAIL_NONE) { /* nothing was ever kept */
                work_accepted(w);
                *ret_summary = make_summary(&p, dry_run, &sum);
                return 0;
        }
        if (r < 0)
                return r;
        work_accepted(w);
        work_phase(w, "retention");
        p.records = (Records){ .work = w, .repo = p.repo };
        r = decide(&p, reterr);
        if (r >= 0 && !dry_run)
                r = drop_records(&p, reterr);
        if (r >= 0)
                r = prune_packs(&p, dry_run, &sum, reterr);
        work_progress(w, true);
        open_repo_tell_space(w, p.repo);
        *ret_summary = make_summary(&p, dry_run, &sum);
        return r;
}
