/*
 * restore. By swap: stage aside, check, then swap_run(); nothing live is touched before that, and
 * what was staged is removed when it is not reached. Aside (`into`): the same extraction into the
 * caller's directory, without swap and intent.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/step.h"
#include "base/text.h"
#include "worker/cutover.h"
#include "worker/measure.h"
#include "worker/open-repo.h"
#include "worker/prove.h"
#include "worker/request-fds.h"
#include "worker/restore.h"
#include "worker/run.h"
#include "worker/swap.h"
#include "worker/target.h"
#include "worker/units.h"

/* ---- by swap ---- */

static int intend(Restore *r, const SelectionItem *item, Failure *reterr) {
        _cleanup_(target_done) Target target = TARGET_INIT;
        _cleanup_(mounted_freep) Mounted *mount = NULL;
        json_object *source;
        IntentPath *p;
        int e = restore_check_target(r, item, &mount, reterr);

        if (e >= 0)
                e = target_open(item->path, mount, true, &target, reterr);
        if (e >= 0)
                e = selection_source(r->record, item->service, &source, reterr);
        if (e < 0)
                return e;
        e = intent_add_path(&r->intent, item->service, item->root, item->path, &p);
        if (e >= 0) {
                p->side = item->side;
                p->mount = TAKE_PTR(mount);
        }
        if (e >= 0 && item->kind != TREE_FILE && !item->side)
                e = restore_excludes(source, &p->excludes, &p->n_excludes);
        return e < 0 ? fail_errno(reterr, FAIL_INTERNAL, -e, "restore of %s", item->path) : 0;
}

/* What the backup does not have comes as nothing: only what is live there leaves. */
static int stage_item(Restore *r, const SelectionItem *item, IntentPath *p, Failure *reterr) {
        _cleanup_(snapshot_freep) Snapshot *hot = NULL;
        _cleanup_(target_done) Target target = TARGET_INIT;
        StageImage image = { .path = item->path };
        Stage s = { .work = r->work,
                    .repo = r->repo,
                    .record = r->record,
                    .service = item->service,
                    .images = &image,
                    .held_bytes = item->bytes,
                    .held_files = item->entries };
        int e;

        if (item->kind == TREE_ABSENT)
                return 0;
        e = target_open(item->path, p->mount, true, &target, reterr);
        if (e < 0)
                return e;
        e = restore_open_hot(r, item->service, item->path, &hot, reterr);
        if (e < 0)
                return e;
        image.image = hot;
        s.n_images = hot ? 1 : 0;
        /* What is mounted as a subvolume must be one, whatever it was then. */
        e = stage_tree(&s, item->path, p->mount ? TREE_SUBVOLUME : item->kind, target.area,
                       p->stage, p->excludes, p->n_excludes, reterr);
        if (e < 0)
                return e;
        restore_count(r, &s, hot);
        e = tree_identify(target.area, p->stage, &p->new_id, reterr);
        if (e < 0 || !p->mount || p->new_id.kind == TREE_SUBVOLUME)
                return e;
        return fail_set(reterr, FAIL_NOT_RESTORABLE, EOPNOTSUPP,
                        "no subvolume can be made for %s, which is mounted as one", item->path);
}

/* ---- the staged databases ---- */

static const IntentPath *path_above(const Restore *r, const char *path) {
        for (size_t i = 0; i < r->intent.n_paths; i++)
                if (text_path_is_below(path, r->intent.paths[i].path))
                        return &r->intent.paths[i];
        return NULL;
}

/* Opens the directory that holds `path` in a staged tree. */
static int open_staged_dir(const IntentPath *p, int area, const char *path, const char **ret_name) {
        _cleanup_free_ char *relative = text_printf("%s/%s", p->stage, path + strlen(p->path) + 1);

        if (!relative)
                return -ENOMEM;
        *strrchr(relative, '/') = 0;
        *ret_name = strrchr(path, '/') + 1;
        /* A staged subvolume is another device below the area. */
        return fd_open_beneath(area, relative, O_PATH | O_DIRECTORY, 0, true);
}

static int check_database(Restore *r, json_object *o, Failure *reterr) {
        _cleanup_free_ char *path = NULL;
        _cleanup_(target_done) Target target = TARGET_INIT;
        _cleanup_close_ int dir = -1;
        const char *verdict, *name;
        const IntentPath *p;
        int e;

        /* What was not good when it was stored is the user's to accept, by allow_partial. */
        if (json_get_path(o, "path", &path) < 0 || json_get_string(o, "check", &verdict) < 0 ||
            strcmp(verdict, "ok") != 0 || !(p = path_above(r, path)))
                return 0;
        e = target_open(p->path, p->mount, false, &target, reterr);
        if (e < 0)
                return e;
        if (strcmp(path, p->path) == 0)
                return restore_check_staged_file(r->work, target.area, p->stage, path, reterr);
        dir = open_staged_dir(p, target.area, path, &name);
        if (dir < 0)
                return fail_errno(reterr, FAIL_INTEGRITY_FAILURE, -dir, "staged database %s", path);
        return restore_check_database(r->work, dir, name, path, reterr);
}

/* A hot copy's databases were checked in that very image; those from the repository were rebuilt.
 */
static int check_databases(Restore *r, Failure *reterr) {
        json_object *list;
        int e = 0;

        if (!r->used_local || json_get_array(r->record, "databases", &list) < 0)
                return 0;
        work_phase(r->work, "verify");
        for (size_t i = 0; e >= 0 && i < json_object_array_length(list); i++) {
                e = check_database(r, json_object_array_get_idx(list, i), reterr);
                step("checked");
                if (e >= 0)
                        e = work_check(r->work, reterr);
        }
        return e;
}

static int stage_all(Restore *r, Failure *reterr) {
        int e = 0;

        work_phase(r->work, "stage");
        for (size_t i = 0; e >= 0 && i < r->intent.n_paths; i++) {
                e = stage_item(r, &r->selection.items[i], &r->intent.paths[i], reterr);
                step("staged");
        }
        (void) snprintf(r->intent.from, sizeof(r->intent.from), "%s",
                        r->used_local ? "local" : "hot");
        return e < 0 ? e : check_databases(r, reterr);
}

static void abandon(Restore *r, const Failure *why) {
        Failure f = FAILURE_INIT;

        if (r->intent.state == INTENT_STAGING && swap_abandon(r->work, &r->intent, why, &f) < 0)
                log_warning("restore %s: staged trees are left, the next restore removes them: %s",
                            r->restore_id, f.text);
}

static int restore_by_swap(Restore *r, Failure *reterr) {
        Work *w = r->work;
        int e = units_check(w, r->selection.services, reterr);

        (void) snprintf(r->intent.restore_id, sizeof(r->intent.restore_id), "%s", r->restore_id);
        (void) snprintf(r->intent.backup_id, sizeof(r->intent.backup_id), "%s", r->backup_id);
        r->intent.services = json_object_get(r->selection.services);
        for (size_t i = 0; e >= 0 && i < r->selection.n; i++)
                e = intend(r, &r->selection.items[i], reterr);
        (void) snprintf(r->intent.method, sizeof(r->intent.method), "%s",
                        restore_method(&r->selection));
        if (e >= 0)
                e = intent_begin(w, &r->intent, reterr);
        /* From here on a crash must find the names of what is staged. */
        if (e >= 0)
                e = intent_save(w, &r->intent, reterr);
        if (e < 0)
                return e;
        work_accepted(w);
        work_stream(w, "restore", "restore", intent_row(&r->intent));
        step("staging-intent");
        e = stage_all(r, reterr);
        if (e >= 0)
                e = cutover_run(w, &r->intent, true, reterr);
        if (e < 0)
                abandon(r, reterr);
        work_stream(w, "restore", "restore", intent_row(&r->intent));
        return e;
}

/* ---- aside ---- */

/* What one service gives: its hot images where there are some, and which paths are wanted. */
typedef struct Aside {
        StageImage *images;
        size_t n_images;
        const char **only;
        size_t n_only;
        bool all_hot;
} Aside;

static void aside_done(Aside *a) {
        for (size_t i = 0; i < a->n_images; i++) {
                free((char *) a->images[i].path);
                snapshot_free(a->images[i].image);
        }
        free(a->images);
        free(a->only);
}

static int open_images(Restore *r, const char *service, Aside *a, Failure *reterr) {
        json_object *source, *paths;
        int e = selection_source(r->record, service, &source, reterr);

        if (e < 0)
                return e;
        (void) json_get_array(source, "paths", &paths); /* it was just there */
        a->images = calloc(json_object_array_length(paths) + 1, sizeof(*a->images));
        if (!a->images)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "restore");
        a->all_hot = true;
        for (size_t i = 0; i < json_object_array_length(paths); i++) {
                _cleanup_free_ char *path = NULL;
                Snapshot *image;

                if (json_get_path(json_object_array_get_idx(paths, i), "path", &path) < 0)
                        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                        "record: bad path");
                e = restore_open_hot(r, service, path, &image, reterr);
                if (e < 0)
                        return e;
                if (!image) {
                        a->all_hot = false;
                        continue;
                }
                a->images[a->n_images++] = (StageImage){ .path = TAKE_PTR(path), .image = image };
        }
        return 0;
}

static int choose_paths(const Restore *r, const char *service, Aside *a, Failure *reterr) {
        if (!r->selection.named)
                return 0;
        a->only = calloc(r->selection.n + 1, sizeof(*a->only));
        if (!a->only)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "restore");
        for (size_t i = 0; i < r->selection.n; i++)
                if (strcmp(r->selection.items[i].service, service) == 0)
                        a->only[a->n_only++] = r->selection.items[i].path;
        return 0;
}

/* One file by name is put where the caller points, with what belongs to a database. */
static bool is_single_file(const Selection *s) {
        size_t files = 0;

        for (size_t i = 0; i < s->n; i++) {
                if (s->items[i].kind == TREE_DIRECTORY || s->items[i].kind == TREE_SUBVOLUME)
                        return false;
                files += !s->items[i].side;
        }
        return s->named && files == 1;
}

static int aside_service(Restore *r, const char *service, Failure *reterr) {
        _cleanup_(aside_done) Aside a = { .images = NULL };
        Stage s = { .work = r->work, .repo = r->repo, .record = r->record, .service = service };
        int dirfd = r->directory;
        int e = open_images(r, service, &a, reterr);

        if (e >= 0)
                e = choose_paths(r, service, &a, reterr);
        if (e < 0)
                return e;
        s.images = a.images;
        s.n_images = a.n_images;
        s.only = a.only;
        s.n_only = a.n_only;
        e = is_single_file(&r->selection) ? stage_files_aside(&s, dirfd, r->restore_id, reterr)
                                          : stage_aside(&s, dirfd, reterr);
        if (e >= 0)
                restore_count(r, &s, a.all_hot);
        return e;
}

static int restore_aside(Restore *r, Failure *reterr) {
        json_object *services = r->selection.services;
        int e = 0;

        work_accepted(r->work);
        work_phase(r->work, "stage");
        for (size_t i = 0; e >= 0 && i < json_object_array_length(services); i++)
                e = aside_service(r, json_object_get_string(json_object_array_get_idx(services, i)),
                                  reterr);
        return e;
}

/* ---- the verb ---- */

static json_object *restore_summary(const Restore *r) {
        json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "restore_id", r->restore_id) < 0 ||
            json_put_string(o, "backup_id", r->backup_id) < 0 ||
            json_put_string(o, "method", r->into ? "aside" : r->intent.method) < 0 ||
            json_put_string(o, "from", r->used_local ? "local" : "hot") < 0 ||
            json_put_u64(o, "bytes", r->bytes) < 0 || json_put_u64(o, "files", r->files) < 0 ||
            json_put_u64(o, "lacking", r->n_lacking) < 0 ||
            json_put(o, "lacking_paths", json_object_get(r->lacking)) < 0 ||
            json_put_u64(o, "swap_usec", r->intent.swap_usec) < 0 ||
            json_put_u64(o, "units_down_usec", r->intent.units_down_usec) < 0) {
                json_object_put(o);
                return NULL;
        }
        return o;
}

/* Only told: a hot copy may be whole where the manifest is not. */
static void set_totals(Restore *r) {
        Failure ignored = FAILURE_INIT;
        Measured sum = { 0 };

        if (measure_selection(r->work, r->repo, r->record, &r->selection, &sum, &ignored) < 0) {
                log_debug("totals: %s", ignored.text);
                return;
        }
        r->work->bytes_total = sum.bytes;
        r->work->files_total = sum.entries;
        work_progress(r->work, true);
}

static int check_directory(Restore *r, Failure *reterr) {
        struct stat st;
        int e = request_fd(r->work, REQUEST_FD_DIRECTORY, &r->directory, reterr);

        r->into = e >= 0 && r->directory >= 0;
        if (!r->into)
                return e;
        if (fstat(r->directory, &st) < 0 || !S_ISDIR(st.st_mode))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, ENOTDIR,
                                "the directory to restore into is missing");
        return 0;
}

/* All that must be known before anything is written. */
static int prepare(Restore *r, Failure *reterr) {
        Work *w = r->work;
        Failure ignored = FAILURE_INIT;
        int e = work_uuid(w, "restore_id", &r->restore_id, reterr);

        if (e >= 0)
                e = restore_read_request(r, reterr);
        if (e >= 0)
                e = restore_check_from(r, reterr);
        if (e >= 0)
                e = check_directory(r, reterr);
        if (e >= 0)
                prove_sweep(w);
        if (e >= 0 && !r->into && intent_recover_all(w, &ignored) < 0)
                log_warning("an earlier restore needs attention: %s", ignored.text);
        if (e >= 0)
                e = restore_load(r, reterr);
        if (e >= 0)
                e = selection_items(&r->selection, w, r->repo, r->record, !r->into, reterr);
        if (e >= 0)
                e = restore_check_partial(r, reterr);
        if (e >= 0 && !r->into)
                e = state_lock_services(w, r->selection.services, LOCK_TIMEOUT_USEC, &r->locks,
                                        reterr);
        return e;
}

/* Partial is never success, even when it was allowed. */
static void tell_partial(const Restore *r, const char **ret_result, Failure *reterr) {
        const char *first =
                json_object_array_length(r->lacking) > 0
                        ? json_object_get_string(json_object_array_get_idx(r->lacking, 0))
                        : "unnamed";

        (void) fail_set(
                reterr, FAIL_SOURCE_MISSING, ENODATA,
                "restored, but backup %s lacks or could not vouch for %llu entries (%s%s)%s",
                r->backup_id, (unsigned long long) r->n_lacking, first,
                r->n_lacking > 1 ? ", …" : "",
                r->into ? ""
                        : "; what was live there is kept with the replaced data until it is "
                          "confirmed");
        *ret_result = "partial";
}

int run_restore(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(restore_done) Restore r = RESTORE_INIT(w);
        int e = prepare(&r, reterr);

        if (e < 0)
                return e;
        set_totals(&r);
        e = r.into ? restore_aside(&r, reterr) : restore_by_swap(&r, reterr);
        work_progress(w, true);
        *ret_summary = restore_summary(&r);
        if (e >= 0 && r.n_lacking > 0)
                tell_partial(&r, ret_result, reterr);
        return e;
}
