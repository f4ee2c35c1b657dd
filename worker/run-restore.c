/*
 * restore. By swap: stage aside, check, then swap_run(); nothing live
 * is touched before that, and what was staged is removed when it is not reached. Aside (`into`):
 * the same extraction into the caller's directory, without swap and intent.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/proc.h"
#include "base/step.h"
#include "base/text.h"
#include "snapshot/hold.h"
#include "worker/hot.h"
#include "worker/open-repo.h"
#include "worker/run.h"
#include "worker/stage.h"
#include "worker/state.h"
#include "worker/swap.h"
#include "worker/units.h"

#define CHECK_TIMEOUT_USEC (1800 * USEC_PER_SEC)

typedef struct Restore {
        Work *work;
        const char *restore_id, *backup_id, *type, *from;
        bool allow_partial, into;
        Repo *repo;
        json_object *record;
        json_object *services; /* names, owned */
        int hot_lock;
        ServiceLocks locks;
        Intent intent;
        uint64_t bytes, files;
        bool used_hot, used_local;
} Restore;

static void restore_done(Restore *r) {
        service_locks_done(&r->locks);
        fd_close(r->hot_lock);
        intent_done(&r->intent);
        json_object_put(r->services);
        json_object_put(r->record);
        repo_close(r->repo);
}

/* ---- what is asked, and whether it can be ---- */

static int read_request(Restore *r, Failure *reterr) {
        Work *w = r->work;
        int e;

        if ((e = work_uuid(w, "restore_id", &r->restore_id, reterr)) < 0 ||
            (e = work_uuid(w, "backup_id", &r->backup_id, reterr)) < 0 ||
            (e = work_string(w, "restore_type", &r->type, reterr)) < 0 ||
            (e = work_string(w, "from", &r->from, reterr)) < 0 ||
            (e = work_bool(w, "allow_partial", false, &r->allow_partial, reterr)) < 0 ||
            (e = work_bool(w, "into", false, &r->into, reterr)) < 0)
                return e;
        if (strcmp(r->from, "auto") != 0 && strcmp(r->from, "hot") != 0 &&
            strcmp(r->from, "local") != 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "from: '%s' is no copy",
                                r->from);
        if (r->into) {
                struct stat st;

                if (w->fds.n < 1 || fstat(w->fds.fds[0], &st) < 0 || !S_ISDIR(st.st_mode))
                        return fail_set(reterr, FAIL_INVALID_ARGUMENT, ENOTDIR,
                                        "the directory to restore into is missing");
        }
        return 0;
}

static const char *service_at(const Restore *r, size_t i) {
        return json_object_get_string(json_object_array_get_idx(r->services, i));
}

static size_t n_services(const Restore *r) {
        return json_object_array_length(r->services);
}

static int choose_services(Restore *r, Failure *reterr) {
        json_object *all;

        if (json_get_array(r->record, "services", &all) < 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "record names no services");
        if (strcmp(r->type, "full") == 0) {
                r->services = json_object_get(all);
                return 0;
        }
        for (size_t i = 0; i < json_object_array_length(all); i++) {
                const char *s = json_object_get_string(json_object_array_get_idx(all, i));

                if (!s || strcmp(s, r->type) != 0)
                        continue;
                r->services = json_object_new_array();
                if (!r->services ||
                    json_object_array_add(r->services, json_object_new_string(s)) < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "restore");
                return 0;
        }
        return fail_set(reterr, FAIL_NO_SUCH_SERVICE, ENOENT,
                        "backup %s does not hold service '%s'", r->backup_id, r->type);
}

static int load_backup(Restore *r, Failure *reterr) {
        const char *status;
        bool files = true;
        int e = open_repo(r->work, false, false, &r->repo, reterr);

        if (e == -ENOENT && reterr->code == FAIL_NONE)
                return fail_set(reterr, FAIL_NO_SUCH_BACKUP, ENOENT,
                                "no backup %s: there is no repository", r->backup_id);
        if (e >= 0)
                e = repo_record_load(r->repo, r->backup_id, &r->record, reterr);
        if (e >= 0)
                e = choose_services(r, reterr);
        if (e < 0)
                return e;
        if (json_get_string(r->record, "status", &status) < 0)
                status = "";
        if (strcmp(status, "completed") != 0 && !r->allow_partial)
                return fail_set(
                        reterr, FAIL_NOT_RESTORABLE, EPERM,
                        "backup %s is partial: some sources could not be read; allow it with "
                        "--allow-partial",
                        r->backup_id);
        if (!r->into && json_get_bool(r->record, "include_files", &files) >= 0 && !files)
                return fail_set(reterr, FAIL_NOT_RESTORABLE, EOPNOTSUPP,
                                "backup %s holds databases only; restore it aside with --into",
                                r->backup_id);
        return 0;
}

/* ---- sources ---- */

static int source_of(const Restore *r, const char *service, json_object **ret) {
        json_object *sources;

        if (json_get_object(r->record, "sources", &sources) < 0)
                return -EBADMSG;
        return json_get_object(sources, service, ret) < 0 ? -EBADMSG : 0;
}

/* The hot image for a path as `from` allows; none is NULL. */
static int
open_hot(Restore *r, const char *service, const char *path, Snapshot **ret, Failure *reterr) {
        Failure f = FAILURE_INIT;
        int e;

        *ret = NULL;
        if (strcmp(r->from, "local") == 0)
                return 0;
        e = r->hot_lock < 0 ? -ENOENT : hot_open(r->work, r->backup_id, service, path, ret, &f);
        if (e >= 0)
                return 0;
        if (strcmp(r->from, "hot") == 0)
                return fail_set(reterr, FAIL_NOT_RESTORABLE, ENOENT,
                                "backup %s has no hot copy of %s%s%s", r->backup_id, path,
                                f.code ? ": " : "", f.text);
        if (f.code != FAIL_NONE)
                log_warning("hot copy of %s is passed over: %s", path, f.text);
        return 0;
}

static void count_stage(Restore *r, const Stage *s) {
        r->bytes += s->bytes;
        r->files += s->files;
        if (s->hot)
                r->used_hot = true;
        else
                r->used_local = true;
}

/* ---- by swap ---- */

static TreeKind kind_of(json_object *path) {
        const char *kind;

        if (json_get_string(path, "kind", &kind) < 0)
                return TREE_DIRECTORY;
        return strcmp(kind, "subvolume") == 0 ? TREE_SUBVOLUME
               : strcmp(kind, "file") == 0    ? TREE_FILE
                                              : TREE_DIRECTORY;
}

static bool is_configured(const ConfigService *c, const char *path) {
        for (size_t i = 0; i < c->paths.n; i++)
                if (strcmp(c->paths.items[i], path) == 0)
                        return true;
        return false;
}

static int copy_excludes(IntentPath *p, json_object *source) {
        json_object *list;

        if (json_get_array(source, "excludes", &list) < 0)
                return -EBADMSG;
        p->excludes = calloc(json_object_array_length(list) + 1, sizeof(char *));
        if (!p->excludes)
                return -ENOMEM;
        for (size_t i = 0; i < json_object_array_length(list); i++) {
                const char *text = json_object_get_string(json_object_array_get_idx(list, i));

                if (!text || text_unescape(text, &p->excludes[p->n_excludes]) < 0)
                        return -EBADMSG;
                p->n_excludes++;
        }
        return 0;
}

static int plan_service(Restore *r, const char *service, Failure *reterr) {
        const ConfigService *c = config_service(r->work->config, service);
        json_object *source, *paths;
        int e;

        if (!c)
                return fail_set(
                        reterr, FAIL_NOT_RESTORABLE, ENOENT,
                        "service '%s' is not configured any more; restore it aside with --into",
                        service);
        e = units_check(c, reterr);
        if (e < 0)
                return e;
        if (source_of(r, service, &source) < 0 || json_get_array(source, "paths", &paths) < 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "record has no sources of service %s", service);
        for (size_t i = 0; i < json_object_array_length(paths); i++) {
                _cleanup_free_ char *path = NULL;
                _cleanup_close_ int area = -1;
                IntentPath *p;

                if (json_get_path(json_object_array_get_idx(paths, i), "path", &path) < 0 ||
                    !text_is_clean_path(path))
                        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                        "record: bad path");
                if (!is_configured(c, path))
                        return fail_set(
                                reterr, FAIL_NOT_RESTORABLE, ENOENT,
                                "%s is not a Path= of service %s any more; restore it aside "
                                "with --into",
                                path, service);
                /* What cannot be exchanged at all is refused before there is an intent. */
                e = area = swap_open_area(path, true, reterr);
                if (e < 0)
                        return e;
                e = intent_add_path(&r->intent, service, path, &p);
                if (e >= 0)
                        e = copy_excludes(p, source);
                if (e < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, -e, "restore of %s", path);
        }
        return 0;
}

static int recorded_kind(const Restore *r, const IntentPath *p, TreeKind *ret) {
        json_object *source, *paths;

        if (source_of(r, p->service, &source) < 0 || json_get_array(source, "paths", &paths) < 0)
                return -EBADMSG;
        for (size_t i = 0; i < json_object_array_length(paths); i++) {
                _cleanup_free_ char *path = NULL;
                json_object *o = json_object_array_get_idx(paths, i);

                if (json_get_path(o, "path", &path) >= 0 && strcmp(path, p->path) == 0) {
                        *ret = kind_of(o);
                        return 0;
                }
        }
        return -EBADMSG;
}

/* Of several paths the largest kind of tree names the method. */
static void note_method(Intent *i, TreeKind kind) {
        const char *method = kind == TREE_SUBVOLUME ? "subvolume"
                             : kind == TREE_FILE    ? "files"
                                                    : "directory";

        if (kind == TREE_FILE ? !*i->method : strcmp(i->method, "subvolume") != 0)
                (void) snprintf(i->method, sizeof(i->method), "%s", method);
}

static int stage_path(Restore *r, IntentPath *p, Failure *reterr) {
        _cleanup_(snapshot_freep) Snapshot *hot = NULL;
        _cleanup_close_ int area = -1;
        Stage s = { .work = r->work, .repo = r->repo, .record = r->record, .service = p->service };
        TreeKind kind;
        int e;

        if (recorded_kind(r, p, &kind) < 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG, "record: %s", p->path);
        area = swap_open_area(p->path, true, reterr);
        if (area < 0)
                return area;
        e = open_hot(r, p->service, p->path, &hot, reterr);
        if (e < 0)
                return e;
        s.hot = hot;
        e = stage_tree(&s, p->path, kind, area, p->stage, p->excludes, p->n_excludes, reterr);
        if (e < 0)
                return e;
        count_stage(r, &s);
        note_method(&r->intent, kind);
        return tree_identify(area, p->stage, &p->new_id, reterr);
}

/* ---- the staged databases ---- */

static const IntentPath *path_above(const Restore *r, const char *path) {
        for (size_t i = 0; i < r->intent.n_paths; i++)
                if (text_path_is_below(path, r->intent.paths[i].path))
                        return &r->intent.paths[i];
        return NULL;
}

/* Opens the staged directory that holds `path`; for a Path= that is the database, the area itself.
 */
static int open_staged_dir(const IntentPath *p, const char *path, char **ret_name) {
        Failure ignored = FAILURE_INIT;
        _cleanup_close_ int area = area_open(p->path, false, NULL, NULL, &ignored);
        _cleanup_free_ char *relative = NULL;
        char *slash;

        if (area < 0)
                return area;
        if (strcmp(path, p->path) == 0) {
                *ret_name = strdup(p->stage);
                return *ret_name ? TAKE_FD(area) : -ENOMEM;
        }
        relative = text_printf("%s/%s", p->stage, path + strlen(p->path) + 1);
        if (!relative)
                return -ENOMEM;
        slash = strrchr(relative, '/');
        *slash = 0;
        *ret_name = strdup(slash + 1);
        /* A staged subvolume is another device below the area. */
        return *ret_name ? fd_open_beneath(area, relative, O_PATH | O_DIRECTORY, 0, true) : -ENOMEM;
}

static int put_times_back(int dirfd, const char *name, const struct stat *st) {
        const struct timespec times[2] = { st->st_atim, st->st_mtim };

        return utimensat(dirfd, name, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int check_database(Restore *r, json_object *o, Failure *reterr) {
        _cleanup_free_ char *path = NULL, *name = NULL;
        _cleanup_close_ int dir = -1;
        const IntentPath *p;
        const char *verdict;
        HoldVerdict answer = HOLD_UNCHECKED;
        HoldDatabase d = { 0 };
        HoldImageJob job = { .libexec_dir = proc_libexec_dir(),
                             .databases = &d,
                             .n = 1,
                             .timeout_usec = CHECK_TIMEOUT_USEC,
                             .interrupted = work_interrupted,
                             .userdata = r->work };
        struct stat st, dir_st;
        int e;

        /* What was not good when it was stored is the user's to accept, by allow_partial. */
        if (json_get_path(o, "path", &path) < 0 || json_get_string(o, "check", &verdict) < 0 ||
            strcmp(verdict, "ok") != 0 || !(p = path_above(r, path)))
                return 0;
        dir = open_staged_dir(p, path, &name);
        if (dir < 0 || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return fail_errno(reterr, FAIL_INTEGRITY_FAILURE, dir < 0 ? -dir : errno,
                                  "staged database %s", path);
        d = (HoldDatabase){
                .path = path, .dirfd = dir, .name = name, .uid = st.st_uid, .gid = st.st_gid
        };
        e = fstatat(dir, ".", &dir_st, 0) < 0 ? -errno : hold_check(&job, &answer, reterr);
        /* A check may leave traces of its opening; what is swapped in shows the backup's times. */
        if (e >= 0)
                e = put_times_back(dir, name, &st);
        if (e >= 0)
                e = put_times_back(dir, ".", &dir_st);
        if (e < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -e, "checking restored database %s", path);
        if (e >= 0 && answer != HOLD_OK)
                e = fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                             "restored database %s failed its check: %s", path, d.failure.text);
        return e;
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
                if (e >= 0)
                        e = work_check(r->work, reterr);
        }
        return e;
}

static int stage_all(Restore *r, Failure *reterr) {
        int e = 0;

        work_phase(r->work, "stage");
        for (size_t i = 0; e >= 0 && i < r->intent.n_paths; i++) {
                e = stage_path(r, &r->intent.paths[i], reterr);
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
        int e = 0;

        (void) snprintf(r->intent.restore_id, sizeof(r->intent.restore_id), "%s", r->restore_id);
        (void) snprintf(r->intent.backup_id, sizeof(r->intent.backup_id), "%s", r->backup_id);
        r->intent.services = json_object_get(r->services);
        for (size_t i = 0; e >= 0 && i < n_services(r); i++)
                e = plan_service(r, service_at(r, i), reterr);
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
        if (e >= 0) {
                work_phase(w, "swap");
                e = swap_run(w, &r->intent, true, reterr);
        }
        if (e < 0)
                abandon(r, reterr);
        work_stream(w, "restore", "restore", intent_row(&r->intent));
        return e;
}

/* ---- aside ---- */

static int aside_service(Restore *r, const char *service, Failure *reterr) {
        _cleanup_(snapshot_freep) Snapshot *hot = NULL;
        json_object *source, *paths;
        Stage s = { .work = r->work, .repo = r->repo, .record = r->record, .service = service };
        int e = 0;

        /* One image serves all paths, or the repository does. */
        if (source_of(r, service, &source) < 0 || json_get_array(source, "paths", &paths) < 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "record has no sources of service %s", service);
        if (json_object_array_length(paths) == 1) {
                _cleanup_free_ char *path = NULL;

                if (json_get_path(json_object_array_get_idx(paths, 0), "path", &path) >= 0)
                        e = open_hot(r, service, path, &hot, reterr);
        } else if (strcmp(r->from, "hot") == 0) {
                e = fail_set(reterr, FAIL_NOT_RESTORABLE, EOPNOTSUPP,
                             "service %s has several paths: aside it comes from the local copy",
                             service);
        }
        if (e < 0)
                return e;
        s.hot = hot;
        e = stage_aside(&s, r->work->fds.fds[0], reterr);
        if (e >= 0)
                count_stage(r, &s);
        return e;
}

static int restore_aside(Restore *r, Failure *reterr) {
        int e = 0;

        work_accepted(r->work);
        work_phase(r->work, "stage");
        for (size_t i = 0; e >= 0 && i < n_services(r); i++)
                e = aside_service(r, service_at(r, i), reterr);
        return e;
}

/* ---- verbs ---- */

static json_object *restore_summary(const Restore *r) {
        json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "restore_id", r->restore_id) < 0 ||
            json_put_string(o, "backup_id", r->backup_id) < 0 ||
            json_put_string(o, "method", r->into ? "aside" : r->intent.method) < 0 ||
            json_put_string(o, "from", r->used_local ? "local" : "hot") < 0 ||
            json_put_u64(o, "bytes", r->bytes) < 0 || json_put_u64(o, "files", r->files) < 0 ||
            json_put_u64(o, "swap_usec", r->intent.swap_usec) < 0 ||
            json_put_u64(o, "units_down_usec", r->intent.units_down_usec) < 0) {
                json_object_put(o);
                return NULL;
        }
        return o;
}

static void set_totals(Restore *r) {
        json_object *manifest;

        if (strcmp(r->type, "full") != 0 || json_get_object(r->record, "manifest", &manifest) < 0)
                return;
        (void) json_get_u64(manifest, "bytes", &r->work->bytes_total);
        (void) json_get_u64(manifest, "entries", &r->work->files_total);
}

int run_restore(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(restore_done) Restore r = { .work = w, .hot_lock = -1, .intent = INTENT_INIT };
        Failure ignored = FAILURE_INIT;
        int e;

        e = read_request(&r, reterr);
        if (e >= 0 && !r.into && intent_recover_all(w, &ignored) < 0)
                log_warning("an earlier restore needs attention: %s", ignored.text);
        if (e >= 0)
                e = load_backup(&r, reterr);
        if (e >= 0 && !r.into)
                e = state_lock_services(w, r.services, LOCK_TIMEOUT_USEC, &r.locks, reterr);
        if (e < 0)
                return e;
        ignored = FAILURE_INIT;
        r.hot_lock = hot_lock(w, false, &ignored); /* without it hot copies are passed over */
        set_totals(&r);
        e = r.into ? restore_aside(&r, reterr) : restore_by_swap(&r, reterr);
        work_progress(w, true);
        *ret_summary = restore_summary(&r);
        return e;
}
