/*
 * create: one instant of some services into the repository. The steps stand in run_create() in
 * their order; until the record is renamed into place there is no backup, and everything made so
 * far is removed again.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/step.h"
#include "base/text.h"
#include "worker/collect.h"
#include "worker/databases.h"
#include "worker/expire.h"
#include "worker/facts.h"
#include "worker/hot.h"
#include "worker/intent.h"
#include "worker/job-keys.h"
#include "worker/open-repo.h"
#include "worker/run.h"
#include "worker/state.h"

typedef struct Backup {
        Work *work;
        FactsRequest request;
        json_object *services; /* names, borrowed from the request */
        unsigned level;
        Source source;
        int *locks; /* one per service that was there to be locked */
        size_t n_locks;
        Repo *repo;
        Point point;
        RepoSession *session;
        Collect collect;
        RepoTotals totals;
        bool committed;
} Backup;

static void unlock_services(Backup *b) {
        for (size_t i = 0; i < b->n_locks; i++)
                b->locks[i] = fd_close(b->locks[i]);
}

static void backup_done(Backup *b) {
        b->work->watch = NULL;
        repo_session_free(b->session);
        if (b->collect.source)
                collect_done(&b->collect);
        if (!b->committed)
                point_drop(&b->point, b->source.n_volumes);
        point_done(&b->point, b->source.n_volumes);
        unlock_services(b);
        free(b->locks);
        source_done(&b->source);
        repo_close(b->repo);
}

/*
 * The live data is not looked at any more. What is open of it is closed before the locks go: a
 * restore that waited for them would find this very process in its way.
 */
static void let_go(Backup *b) {
        point_done(&b->point, b->source.n_volumes);
        source_close(&b->source);
        unlock_services(b);
}

static int read_request(Backup *b, Failure *reterr) {
        Work *w = b->work;
        FactsRequest *q = &b->request;
        uint64_t level = w->config->compression_level;
        int r;

        if ((r = work_uuid(w, "backup_id", &q->backup_id, reterr)) < 0 ||
            (r = work_string(w, "backup_name", &q->name, reterr)) < 0 ||
            (r = work_string(w, "backup_type", &q->type, reterr)) < 0 ||
            (r = work_string(w, "description", &q->description, reterr)) < 0 ||
            (r = work_string(w, "created_by", &q->created_by, reterr)) < 0 ||
            (r = work_string(w, "schedule", &q->schedule, reterr)) < 0 ||
            (r = work_bool(w, "include_files", true, &q->include_files, reterr)) < 0 ||
            (r = work_bool(w, "pinned", false, &q->pinned, reterr)) < 0)
                return r;
        r = json_get_u64(w->request, "level", &level);
        if ((r < 0 && r != -ENOENT) || level > 9)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "compression level must be 0 to 9");
        b->level = (unsigned) level;
        if (json_get_array(w->request, "services", &b->services) < 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "request: no services");
        return 0;
}

static int lock_services(Backup *b, Failure *reterr) {
        int r = 0;

        b->locks = calloc(b->source.n_services, sizeof(int));
        if (!b->locks)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "backup");
        b->n_locks = b->source.n_services;
        for (size_t i = 0; i < b->n_locks; i++)
                b->locks[i] = -1;
        /* In the order of names, as every job does: two jobs cannot wait for each other. */
        for (size_t i = 0; r >= 0 && i < b->source.n_services; i++)
                r = state_lock_service(b->work, b->source.services[i].config->name,
                                       LOCK_TIMEOUT_USEC, &b->locks[i], reterr);
        return r;
}

/* A half-done swap must not become a backup. */
static int check_settled(Backup *b, Failure *reterr) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < b->source.n_services;) {
                Failure f = FAILURE_INIT;

                r = intent_check_settled(b->work, b->source.services[i].config->name, &f);
                if (r >= 0)
                        i++;
                else
                        r = source_refuse(&b->source, i, r, &f, reterr);
        }
        return r;
}

/* What `auto` stands for is seen by nobody else: the backup counts as completed all the same. */
static void tell_fallbacks(const Source *s) {
        for (size_t i = 0; i < s->n_services; i++) {
                const SourceService *service = &s->services[i];

                if (service->fallback.code != FAIL_NONE)
                        log_message(MESSAGE_NO_SNAPSHOT,
                                    &(LogFields){ .service = service->config->name,
                                                  .error = fail_name(service->fallback.code) },
                                    "service %s is read without a snapshot: %s",
                                    service->config->name, service->fallback.text);
        }
}

static void count_source(Work *w, const Source *s, bool include_files) {
        w->files_total = w->bytes_total = 0;
        for (size_t i = 0; !include_files && i < s->n_databases; i++)
                w->bytes_total += s->databases[i].size;
        for (size_t i = 0; include_files && i < s->n_services; i++) {
                w->files_total += s->services[i].files;
                w->bytes_total += s->services[i].bytes;
        }
        work_progress(w, true);
}

/* Everything that may refuse or take long, before the first lock on a database. */
static int prepare(Backup *b, Failure *reterr) {
        Work *w = b->work;
        int r;

        r = read_request(b, reterr);
        if (r >= 0)
                r = source_open(w, b->services, &b->source, reterr);
        if (r >= 0)
                r = lock_services(b, reterr);
        if (r >= 0)
                r = check_settled(b, reterr);
        if (r >= 0)
                r = open_repo(w, true, true, &b->repo, reterr);
        if (r < 0)
                return r;
        /* Asked before anything is made under this id: undoing that must not touch the other. */
        if (repo_has_backup(b->repo, b->request.backup_id))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EEXIST, "backup %s is there already",
                                b->request.backup_id);
        (void) hot_sweep_lvm(w); /* before the point: a leftover takes room and slows its origin */
        work_accepted(w);
        work_phase(w, "scan");
        tell_fallbacks(&b->source);
        r = source_discover(w, &b->source, reterr);
        count_source(w, &b->source, b->request.include_files);
        return r;
}

/* ---- dropping hot copies ---- */

typedef struct Keeper {
        Work *work;
        Repo *repo;
} Keeper;

static bool backup_exists(void *userdata, const char *backup_id) {
        return repo_has_backup(((Keeper *) userdata)->repo, backup_id);
}

/* Its row on the bus has one copy fewer now. */
static void tell_dropped(void *userdata, const char *backup_id) {
        Keeper *k = userdata;
        _cleanup_json_ json_object *record = NULL;
        Failure f = FAILURE_INIT;

        if (repo_record_load(k->repo, backup_id, &record, &f) < 0)
                log_warning("backup %s: %s", backup_id, f.text);
        else
                work_stream(k->work, "backup", "backup",
                            facts_dictionary(k->work, k->repo, record));
}

/* A thin pool may be full of what Holdpoint keeps in it: that goes before a backup is refused. */
static bool make_room(Backup *b, const Volume *v) {
        Keeper k = { .work = b->work, .repo = b->repo };
        HotKeeper keeper = { .exists = backup_exists, .dropped = tell_dropped, .userdata = &k };

        return hot_make_room(b->work, v, &keeper) > 0;
}

static size_t rotate(Work *w, Repo *repo) {
        Keeper k = { .work = w, .repo = repo };
        HotKeeper keeper = { .exists = backup_exists, .dropped = tell_dropped, .userdata = &k };

        return hot_rotate(w, &keeper);
}

/* ---- the point ---- */

/* Once more without the services of a volume of which no image can be made. */
static int take_point(Backup *b, Failure *reterr) {
        for (;;) {
                Failure f = FAILURE_INIT;
                int r = point_take(b->work, &b->source, b->request.backup_id, &b->point, &f);
                size_t failed = b->point.failed;

                if (r >= 0)
                        return r;
                if (failed == POINT_FAILED_NONE) {
                        *reterr = f;
                        return r;
                }
                point_done(&b->point, b->source.n_volumes);
                if (f.code == FAIL_SNAPSHOT_FULL && make_room(b, b->source.volumes[failed]))
                        continue;
                r = source_refuse_volume(&b->source, failed, r, &f, reterr);
                if (r < 0)
                        return r;
                count_source(b->work, &b->source, b->request.include_files);
        }
}

static int watch_images(void *userdata, Failure *reterr) {
        Backup *b = userdata;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < b->source.n_volumes; i++)
                if (b->point.snapshots[i])
                        r = snapshot_watch(b->point.snapshots[i], reterr);
        return r;
}

/*
 * An image that overflows makes anything fail that reads it, and stops the job: then that is the
 * reason.
 */
static int explain(Backup *b, int r, Failure *reterr) {
        Work *w = b->work;

        if (w->trouble.code == FAIL_NONE && b->point.snapshots)
                (void) watch_images(b, &w->trouble);
        if (w->trouble.code == FAIL_NONE)
                return r;
        *reterr = w->trouble;
        return -w->trouble.errnum;
}

/* From live data to images (and copies) that nobody writes any more. */
static int freeze(Backup *b, Failure *reterr) {
        Work *w = b->work;
        int r;

        work_phase(w, "hold");
        step("before-hold");
        r = take_point(b, reterr);
        if (r < 0)
                return r;
        w->watch = watch_images;
        w->watch_userdata = b;
        step("point-taken");
        log_message(MESSAGE_POINT_TAKEN, &(LogFields){ .pause_usec = &b->point.pause_usec },
                    "point in time taken, databases held for %llu us",
                    (unsigned long long) b->point.pause_usec);
        work_phase(w, "recover");
        r = databases_compare(w, &b->source, &b->point, reterr);
        if (r >= 0)
                r = databases_copy(w, &b->source, &b->point, reterr);
        if (r >= 0)
                r = databases_recover(w, &b->source, &b->point, reterr);
        if (r >= 0)
                r = databases_check(w, &b->source, &b->point, reterr);
        if (r >= 0)
                r = snapshot_seal(b->point.snapshots, b->source.n_volumes, reterr);
        step("sealed");
        return r;
}

static int store(Backup *b, Failure *reterr) {
        RepoSessionParams params = {
                .level = b->level,
                .pack_bytes = (uint64_t) b->work->config->pack_size_mib << 20,
                .on_entry = collect_on_entry,
                .userdata = &b->collect,
        };
        int r;

        work_phase(b->work, "store");
        r = collect_init(&b->collect, b->work, &b->source, b->repo, b->request.backup_id,
                         b->request.include_files, reterr);
        if (r >= 0)
                r = repo_session_begin(b->repo, &params, &b->session, reterr);
        b->collect.session = b->session;
        if (r >= 0)
                r = collect_walk(&b->collect, &b->point, reterr);
        if (r >= 0)
                r = repo_session_finish(b->session, &b->totals, reterr);
        step("all-read");
        /* An image that overflowed meanwhile gave wrong bytes: known only now. */
        for (size_t i = 0; r >= 0 && i < b->source.n_volumes; i++)
                r = snapshot_check(b->point.snapshots[i], reterr);
        step("stored");
        return r < 0 ? r : work_check(b->work, reterr);
}

/* ---- after the last byte ---- */

/* Which services the image of a volume serves: those archived from it, and from nothing else. */
static json_object *image_services(const Source *s, size_t volume) {
        json_object *list = json_object_new_array();

        for (size_t i = 0; list && i < s->n_services; i++) {
                bool here = false;

                if (!s->services[i].uses_image || s->services[i].online)
                        continue;
                for (size_t k = 0; k < s->n_paths; k++)
                        here |= s->paths[k].service == i && s->paths[k].volume == volume;
                if (here && json_object_array_add(list, json_object_new_string(
                                                                s->services[i].config->name)) < 0) {
                        json_object_put(list);
                        return NULL;
                }
        }
        return list;
}

/* False: the image is of no use now that it was read, and was dropped. */
static bool is_kept(Backup *b, size_t i, json_object *services) {
        Failure f = FAILURE_INIT;
        int r = 0;

        /* Not what is archived, or not of a kind that is kept. */
        if (json_object_array_length(services) > 0)
                r = snapshot_keep(b->point.snapshots[i], &f);
        if (r > 0)
                return true;
        if (r < 0)
                log_warning("no hot copy is kept: %s", f.text);
        f = FAILURE_INIT;
        if (snapshot_drop(TAKE_PTR(b->point.snapshots[i]), &f) < 0)
                log_warning("snapshot left behind: %s", f.text);
        return false;
}

/* Keeps the images as hot copies. A backup without its hot copy is still a backup: only warned of.
 */
static void keep_images(Backup *b) {
        _cleanup_json_ json_object *images = json_object_new_array();
        Failure f = FAILURE_INIT;

        for (size_t i = 0; images && i < b->source.n_volumes; i++) {
                _cleanup_json_ json_object *o = json_object_new_object(), *services = NULL;

                if (volume_kind(b->source.volumes[i]) == SNAPSHOT_NONE)
                        continue;
                services = image_services(&b->source, i);
                if (services && !is_kept(b, i, services))
                        continue;
                if (!o || !services || json_put(o, "services", json_object_get(services)) < 0 ||
                    json_put(o, "identity", snapshot_identity(b->point.snapshots[i])) < 0 ||
                    json_object_array_add(images, json_object_get(o)) < 0)
                        log_warning("hot copy: out of memory");
        }
        if (images && json_object_array_length(images) > 0 &&
            hot_save(b->work, b->request.backup_id, b->point.instant_usec, images, &f) < 0)
                log_warning("no hot copy of this backup is kept: %s", f.text);
}

static void remember(Backup *b) {
        Failure f = FAILURE_INIT;
        int r;

        /* Without its files it would be a base for nothing but the next one of its kind. */
        if (!b->request.include_files)
                return;
        r = collect_commit(&b->collect, &f);
        if (r >= 0)
                r = databases_save(b->work, &b->source, &b->point, b->request.backup_id, &f);
        if (r < 0)
                log_warning("base state: %s; the next backup reads more than it needs", f.text);
}

static int commit(Backup *b, bool partial, json_object **ret_record, Failure *reterr) {
        _cleanup_json_ json_object *facts =
                facts_new(&b->request, &b->source, &b->point, &b->collect, partial);
        int r;

        if (!facts)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "record");
        work_commit(b->work);
        /* The hot record first: an image without a backup is swept, a backup never waits for it. */
        keep_images(b);
        step("before-record");
        r = b->request.pinned ? repo_pin(b->repo, b->request.backup_id, true, reterr) : 0;
        if (r >= 0)
                r = repo_session_commit(b->session, b->request.backup_id, facts, &b->totals,
                                        ret_record, reterr);
        if (r < 0) {
                Failure ignored = FAILURE_INIT; /* a pin without a backup is only garbage */

                if (b->request.pinned)
                        (void) repo_pin(b->repo, b->request.backup_id, false, &ignored);
                return r;
        }
        b->committed = true;
        step("committed");
        remember(b);
        return 0;
}

static json_object *make_summary(const Backup *b) {
        json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "backup_id", b->request.backup_id) < 0 ||
            json_put_u64(o, "bytes", b->totals.bytes) < 0 ||
            json_put_u64(o, "new_bytes", b->totals.new_bytes) < 0 ||
            json_put_u64(o, "read_bytes", b->totals.read_bytes) < 0 ||
            json_put_u64(o, "files", b->totals.entries) < 0 ||
            json_put_u64(o, "pause_usec", b->point.pause_usec) < 0 ||
            json_put_string(o, "consistency", facts_consistency(&b->source)) < 0) {
                json_object_put(o);
                return NULL;
        }
        return o;
}

/* Reports the first problem as the reason of a partial backup. */
static void say_partial(const Backup *b, Failure *reterr) {
        json_object *first = json_object_array_get_idx(b->collect.problems, 0), *error;
        Failure f = FAILURE_INIT;

        if (first && json_get_object(first, "error", &error) >= 0)
                proto_failure_read(error, &f);
        (void) fail_set(reterr, f.code ? f.code : FAIL_SOURCE_MISSING, f.errnum,
                        "%llu sources could not be read, the first: %s",
                        (unsigned long long) b->collect.n_problems, f.text);
}

int run_create(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(backup_done) Backup b = { .work = w };
        _cleanup_json_ json_object *record = NULL;
        bool partial;
        int r;

        r = prepare(&b, reterr);
        if (r >= 0)
                r = freeze(&b, reterr);
        if (r >= 0)
                r = store(&b, reterr);
        if (r < 0)
                return explain(&b, r, reterr);
        w->watch = NULL;
        partial = b.collect.n_problems > 0;
        r = commit(&b, partial, &record, reterr);
        if (r < 0)
                return r;
        *ret_summary = make_summary(&b);
        work_progress(w, true);
        (void) rotate(w, b.repo);
        let_go(&b);
        step("let-go");
        (void) expire_restores(w);
        open_repo_tell_space(w, b.repo);
        job_keys_tell(w);
        work_stream(w, "backup", "backup", facts_dictionary(w, b.repo, record));
        *ret_result = partial ? "partial" : "done";
        if (partial)
                say_partial(&b, reterr);
        return 0;
}

int run_sweep(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(repo_closep) Repo *repo = NULL;
        int r = open_repo(w, false, true, &repo, reterr);

        *ret_summary = json_object_new_object();
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return r;
        work_accepted(w);
        r = json_put_u64(*ret_summary, "dropped", hot_sweep_lvm(w) + rotate(w, repo));
        if (r >= 0)
                r = json_put_u64(*ret_summary, "expired", expire_restores(w));
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "sweep") : 0;
}
