/*
 * plan: what a restore would do, looked up and never done. Nothing is staged, no area is made, no
 * intent is touched; that it cannot be is an answer like any other.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "archive/arc.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/text.h"
#include "worker/carry.h"
#include "worker/measure.h"
#include "worker/restore.h"
#include "worker/run.h"
#include "worker/swap.h"
#include "worker/units.h"

#define PLAN_ROWS_MAX    200 /* told; all are counted */
#define PLAN_HOLDERS_MAX 20

typedef struct Plan {
        Restore restore;
        json_object *rows, *holders, *units;
        uint64_t bytes, entries, carried, carried_bytes, free_bytes, n_rows;
        const char *carried_by; /* "rename" "reflink"; "": nothing */
        bool used_hot, used_local;
        Failure why; /* the first reason why it cannot be */
} Plan;

static void plan_done(Plan *p) {
        restore_done(&p->restore);
        json_object_put(p->rows);
        json_object_put(p->holders);
        json_object_put(p->units);
}

/* The call is wrong, or was ended: no plan. All else is the plan's answer. */
static bool is_about_call(const Failure *f) {
        return f->code == FAIL_INVALID_ARGUMENT || f->code == FAIL_NO_SUCH_BACKUP ||
               f->code == FAIL_NO_SUCH_SERVICE || f->code == FAIL_CANCELED ||
               f->code == FAIL_INTERNAL || f->code == FAIL_CONFIGURATION_INVALID;
}

/* Keeps the first reason. Negative if there is to be no plan. */
static int note(Plan *p, int r, Failure *f, Failure *reterr) {
        if (r >= 0)
                return 0;
        if (f->code == FAIL_NONE || is_about_call(f)) {
                *reterr = *f;
                return r;
        }
        if (p->why.code == FAIL_NONE)
                p->why = *f;
        *f = FAILURE_INIT;
        return 0;
}

/* ---- what would be carried over ---- */

typedef struct Weigh {
        Plan *plan;
        int tree;
        uint64_t n, bytes;
} Weigh;

/* A look is enough: nothing is opened. */
static int weigh_known(void *userdata,
                       const char *service,
                       const char *dir,
                       const char *name,
                       const EntryLocal *local,
                       Failure *reterr) {
        Weigh *w = userdata;

        w->bytes += S_ISREG(local->mode) ? local->size : 0;
        return 1;
}

/* A further name of a file: nothing more. */
static int
weigh_entry(void *userdata, const Entry *e, const EntryLocal *local, int fd, Failure *reterr) {
        return 0;
}

static bool weigh_interrupted(void *userdata) {
        Weigh *w = userdata;

        return work_interrupted(w->plan->restore.work);
}

static int
weigh_problem(void *userdata, const char *service, const char *path, const Failure *why) {
        return 0; /* what cannot be looked at is carried over all the same, or says so then */
}

static int weigh_path(void *userdata, const char *relative) {
        Weigh *w = userdata;
        _cleanup_free_ char *shown = text_printf("/%s", relative);
        _cleanup_close_ int fd = -1;
        Failure ignored = FAILURE_INIT;
        const ArcSink sink = { .known = weigh_known,
                               .entry = weigh_entry,
                               .problem = weigh_problem,
                               .interrupted = weigh_interrupted,
                               .userdata = w };

        w->n++;
        fd = fd_open_beneath(w->tree, relative, O_PATH | O_NOFOLLOW, 0, true);
        if (fd < 0 || !shown)
                return 0;
        if (arc_walk(&(ArcRoot){ .service = "", .path = shown, .fd = fd }, 1, &sink, &ignored) < 0)
                log_debug("weighing %s: %s", relative, ignored.text);
        return work_interrupted(w->plan->restore.work) ? -ECANCELED : 0;
}

static int
weigh_excluded(const SelectionItem *item, json_object *source, Weigh *w, Failure *reterr) {
        const char *at = item->path + strlen(item->root);
        _cleanup_(globs_freep) Globs *rules = NULL;
        _cleanup_close_ int tree = fd_open_absolute(item->path, O_RDONLY | O_DIRECTORY);
        char **texts = NULL;
        size_t n = 0;
        int r;

        if (tree < 0)
                return 0; /* nothing is there, or no tree */
        r = restore_excludes(source, &texts, &n);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "rules of service %s", item->service);
        r = globs_new((const char *const *) texts, n, &rules, reterr);
        w->tree = tree;
        if (r >= 0)
                r = carry_find(tree, *at == '/' ? at + 1 : at, rules, weigh_path, w, reterr);
        for (size_t i = 0; i < n; i++)
                free(texts[i]);
        free(texts);
        return r;
}

static int put_carried(Plan *p, const SelectionItem *item, json_object *row, Failure *reterr) {
        Weigh w = { .plan = p, .tree = -1 };
        json_object *source;
        const char *by;
        int r = selection_source(p->restore.record, item->service, &source, reterr);

        if (r >= 0 && (item->kind == TREE_DIRECTORY || item->kind == TREE_SUBVOLUME))
                r = weigh_excluded(item, source, &w, reterr);
        if (r < 0)
                return r;
        /* A subvolume comes as one of its own; inside one file system or subvolume it is a rename.
         */
        by = w.n == 0 ? "" : item->kind == TREE_SUBVOLUME ? "reflink" : "rename";
        p->carried += w.n;
        p->carried_bytes += w.bytes;
        if (*by && strcmp(p->carried_by, "reflink") != 0)
                p->carried_by = by;
        if (json_put_u64(row, "carried", w.n) < 0 ||
            json_put_u64(row, "carried_bytes", w.bytes) < 0 ||
            json_put_string(row, "carried_by", by) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "plan");
        return 0;
}

/* ---- one item ---- */

static const char *kind_name(TreeKind kind) {
        switch (kind) {
        case TREE_ABSENT:
                return "absent";
        case TREE_FILE:
                return "file";
        case TREE_DIRECTORY:
                return "directory";
        case TREE_SUBVOLUME:
                return "subvolume";
        case TREE_OTHER:
                return "other";
        }
        return "other";
}

/* What stands there now, and the room beside it. */
static TreeKind look_at_target(Plan *p, const SelectionItem *item) {
        _cleanup_free_ char *dir = strdup(item->path);
        _cleanup_close_ int fd = -1;
        Failure ignored = FAILURE_INIT;
        uint64_t free_bytes, total;
        TreeId live = { .kind = TREE_ABSENT };

        if (!dir)
                return TREE_ABSENT;
        *strrchr(dir, '/') = 0;
        fd = fd_open_absolute(*dir ? dir : "/", O_RDONLY | O_DIRECTORY);
        if (fd < 0)
                return TREE_ABSENT;
        (void) tree_identify(fd, strrchr(item->path, '/') + 1, &live, &ignored);
        if (fs_space(fd, &free_bytes, &total) >= 0 && free_bytes < p->free_bytes)
                p->free_bytes = free_bytes;
        return live.kind;
}

static int note_holder(Plan *p, const SelectionItem *item, Failure *reterr) {
        const ConfigService *c = config_service(p->restore.work->config, item->service);
        Failure f = FAILURE_INIT;
        int r = tree_prove_unused(item->path, &f);

        if (r >= 0)
                return 0;
        if (json_object_array_length(p->holders) < PLAN_HOLDERS_MAX &&
            json_object_array_add(p->holders, json_object_new_string(f.text)) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "plan");
        /* Units are stopped before the proof; without them somebody else has to. */
        return c && c->units.n > 0 ? 0 : note(p, r, &f, reterr);
}

static int find_copy(Plan *p, const SelectionItem *item, const char **ret, Failure *reterr) {
        _cleanup_(snapshot_freep) Snapshot *hot = NULL;
        Failure f = FAILURE_INIT;
        int r = restore_open_hot(&p->restore, item->service, item->path, &hot, &f);

        *ret = hot ? "hot" : strcmp(p->restore.from, "remote") == 0 ? "remote" : "local";
        if (item->kind == TREE_ABSENT)
                *ret = "";
        else if (hot)
                p->used_hot = true;
        else
                p->used_local = true;
        return note(p, r, &f, reterr);
}

static int fill_row(Plan *p, const SelectionItem *item, json_object *row, Failure *reterr) {
        TreeKind live = look_at_target(p, item);
        Failure f = FAILURE_INIT;
        _cleanup_(mounted_freep) Mounted *mount = NULL;
        Measured size = { 0 };
        const char *copy;
        int r = note(p, restore_check_target(&p->restore, item, &mount, &f), &f, reterr);

        if (r >= 0)
                r = measure_path(p->restore.work, p->restore.repo, p->restore.record, item->service,
                                 item->path, &size, reterr);
        if (r >= 0)
                r = find_copy(p, item, &copy, reterr);
        if (r >= 0 && live != TREE_ABSENT)
                r = note_holder(p, item, reterr);
        if (r >= 0 && live == TREE_OTHER) {
                r = fail_set(&f, FAIL_NOT_RESTORABLE, EINVAL,
                             "%s is neither file nor directory; move it away first", item->path);
                r = note(p, r, &f, reterr);
        }
        if (r < 0)
                return r;
        p->bytes += size.bytes;
        p->entries += size.entries;
        if (json_put_string(row, "service", item->service) < 0 ||
            json_put_path(row, "path", item->path) < 0 ||
            json_put_string(row, "kind", kind_name(item->kind)) < 0 ||
            json_put_string(row, "live", kind_name(live)) < 0 ||
            json_put_string(row, "copy", copy) < 0 || json_put_u64(row, "bytes", size.bytes) < 0 ||
            json_put_u64(row, "files", size.entries) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "plan");
        return put_carried(p, item, row, reterr);
}

static int plan_item(Plan *p, const SelectionItem *item, Failure *reterr) {
        _cleanup_json_ json_object *row = json_object_new_object();
        int r;

        if (!row)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "plan");
        r = fill_row(p, item, row, reterr);
        if (r < 0)
                return r;
        p->n_rows++;
        /* A side file that neither has is nothing to tell of. */
        if (item->kind == TREE_ABSENT && look_at_target(p, item) == TREE_ABSENT)
                return 0;
        if (json_object_array_length(p->rows) < PLAN_ROWS_MAX &&
            json_object_array_add(p->rows, json_object_get(row)) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "plan");
        return 0;
}

/* ---- the whole ---- */

static int add_units(Plan *p, Failure *reterr) {
        json_object *services = p->restore.selection.services;

        for (size_t i = 0; i < json_object_array_length(services); i++) {
                const ConfigService *c = config_service(
                        p->restore.work->config,
                        json_object_get_string(json_object_array_get_idx(services, i)));

                for (size_t k = 0; c && k < c->units.n; k++)
                        if (json_object_array_add(p->units,
                                                  json_object_new_string(c->units.items[k])) < 0)
                                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "plan");
        }
        return 0;
}

/* Another restore that is neither finished nor undone keeps this one from beginning. */
static int check_settled(Plan *p, Failure *reterr) {
        json_object *services = p->restore.selection.services;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < json_object_array_length(services); i++) {
                const char *service =
                        json_object_get_string(json_object_array_get_idx(services, i));
                Failure f = FAILURE_INIT;

                r = note(p, intent_check_settled(p->restore.work, service, &f), &f, reterr);
        }
        return r;
}

static int look_everything_up(Plan *p, Failure *reterr) {
        Restore *q = &p->restore;
        Failure f = FAILURE_INIT;
        int r = note(p, selection_items(&q->selection, q->work, q->repo, q->record, true, &f), &f,
                     reterr);

        if (r >= 0)
                r = note(p, restore_check_partial(q, &f), &f, reterr);
        if (r >= 0)
                r = check_settled(p, reterr);
        if (r >= 0)
                r = note(p, units_check(q->work, q->selection.services, &f), &f, reterr);
        if (r >= 0)
                r = add_units(p, reterr);
        for (size_t i = 0; r >= 0 && i < q->selection.n; i++) {
                r = plan_item(p, &q->selection.items[i], &f);
                r = note(p, r, &f, reterr);
        }
        if (r >= 0 && p->used_local)
                r = note(p, repo_need_private(q->repo, &f), &f, reterr);
        return r;
}

static json_object *plan_summary(const Plan *p) {
        _cleanup_json_ json_object *o = json_object_new_object();
        const Restore *q = &p->restore;
        const char *status = "";
        bool possible = p->why.code == FAIL_NONE;

        (void) json_get_string(q->record, "status", &status);
        if (!o || json_put_bool(o, "possible", possible) < 0 ||
            json_put_path(o, "reason", p->why.text) < 0 ||
            json_put_string(o, "error", possible ? "" : fail_name(p->why.code)) < 0 ||
            json_put_string(o, "backup_id", q->backup_id) < 0 ||
            json_put_string(o, "status", status) < 0 ||
            json_put(o, "services",
                     q->selection.services ? json_object_get(q->selection.services)
                                           : json_object_new_array()) < 0 ||
            json_put_string(o, "method", restore_method(&q->selection)) < 0 ||
            json_put_string(o, "copy",
                            p->used_local ? "local"
                            : p->used_hot ? "hot"
                                          : "") < 0 ||
            json_put_u64(o, "bytes", p->bytes) < 0 || json_put_u64(o, "files", p->entries) < 0 ||
            json_put_u64(o, "free_bytes", p->free_bytes == UINT64_MAX ? 0 : p->free_bytes) < 0 ||
            json_put(o, "paths", json_object_get(p->rows)) < 0 ||
            json_put_u64(o, "paths_total", p->n_rows) < 0 ||
            json_put(o, "units", json_object_get(p->units)) < 0 ||
            json_put_u64(o, "carried", p->carried) < 0 ||
            json_put_u64(o, "carried_bytes", p->carried_bytes) < 0 ||
            json_put_string(o, "carried_by", p->carried_by) < 0 ||
            json_put(o, "holders", json_object_get(p->holders)) < 0 ||
            json_put_u64(o, "lacking", q->n_lacking) < 0 ||
            json_put(o, "lacking_paths",
                     q->lacking ? json_object_get(q->lacking) : json_object_new_array()) < 0 ||
            json_put(o, "lost", json_object_new_array()) < 0)
                return NULL;
        return TAKE_PTR(o);
}

int run_plan(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(plan_done) Plan p = { .restore = RESTORE_INIT(w),
                                        .rows = json_object_new_array(),
                                        .holders = json_object_new_array(),
                                        .units = json_object_new_array(),
                                        .free_bytes = UINT64_MAX,
                                        .carried_by = "" };
        Failure f = FAILURE_INIT;
        int r;

        if (!p.rows || !p.holders || !p.units)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "plan");
        r = restore_read_request(&p.restore, reterr);
        if (r < 0)
                return r;
        work_accepted(w);
        work_phase(w, "plan");
        r = note(&p, restore_check_from(&p.restore, &f), &f, reterr);
        if (r >= 0)
                r = note(&p, restore_load(&p.restore, &f), &f, reterr);
        if (r >= 0 && p.restore.selection.services)
                r = look_everything_up(&p, reterr);
        if (r < 0)
                return r;
        *ret_summary = plan_summary(&p);
        return 0;
}
