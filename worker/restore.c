#include "worker/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/proc.h"
#include "base/step.h"
#include "base/text.h"
#include "snapshot/hold.h"
#include "worker/hot.h"
#include "worker/open-repo.h"
#include "worker/swap.h"
#include "worker/target.h"

#define CHECK_TIMEOUT_USEC (1800 * USEC_PER_SEC)
#define LACKING_MAX        100
#define LACKING_BYTES_MAX  ((size_t) 16 << 10) /* a message has an end */

void restore_done(Restore *r) {
        service_locks_done(&r->locks);
        fd_close(r->hot_lock);
        intent_done(&r->intent);
        selection_done(&r->selection);
        json_object_put(r->lacking);
        json_object_put(r->record);
        repo_close(r->repo);
}

/* ---- the request ---- */

int restore_read_request(Restore *r, Failure *reterr) {
        Work *w = r->work;
        int e;

        if ((e = work_uuid(w, "backup_id", &r->backup_id, reterr)) < 0 ||
            (e = work_string(w, "restore_type", &r->type, reterr)) < 0 ||
            (e = work_string(w, "from", &r->from, reterr)) < 0 ||
            (e = work_bool(w, "allow_partial", false, &r->allow_partial, reterr)) < 0)
                return e;
        if (strcmp(r->from, "auto") != 0 && strcmp(r->from, "hot") != 0 &&
            strcmp(r->from, "local") != 0 && strcmp(r->from, "remote") != 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "from: '%s' is no copy",
                                r->from);
        return 0;
}

int restore_check_from(const Restore *r, Failure *reterr) {
        if (strcmp(r->from, "remote") != 0)
                return 0;
        return fail_set(reterr, FAIL_NOT_RESTORABLE, EOPNOTSUPP,
                        "backup %s has no remote copy: none is configured", r->backup_id);
}

int restore_load(Restore *r, Failure *reterr) {
        Failure ignored = FAILURE_INIT;
        int e = open_repo(r->work, false, false, &r->repo, reterr);

        if (e == -ENOENT && reterr->code == FAIL_NONE)
                return fail_set(reterr, FAIL_NO_SUCH_BACKUP, ENOENT,
                                "no backup %s: there is no repository", r->backup_id);
        if (e >= 0)
                e = repo_record_load(r->repo, r->backup_id, &r->record, reterr);
        if (e >= 0)
                e = selection_services(&r->selection, r->record, r->type, reterr);
        r->hot_lock = hot_lock(r->work, false, &ignored);
        return e;
}

/* ---- what a partial backup lacks ---- */

static bool is_selected(const Selection *s, const char *service, const char *path) {
        for (size_t i = 0; i < s->n; i++)
                if (strcmp(s->items[i].service, service) == 0 &&
                    (text_path_is_below(path, s->items[i].path) ||
                     text_path_is_below(s->items[i].path, path)))
                        return true;
        return false;
}

static bool has_service(const Selection *s, const char *service) {
        for (size_t i = 0; i < json_object_array_length(s->services); i++)
                if (strcmp(json_object_get_string(json_object_array_get_idx(s->services, i)),
                           service) == 0)
                        return true;
        return false;
}

/* The record names the first hundred, and counts the rest, which may be of any service. */
static int find_lacking(Restore *r, Failure *reterr) {
        uint64_t total = 0;
        json_object *list;
        size_t bytes = 0;

        r->lacking = json_object_new_array();
        if (!r->lacking)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "restore");
        if (json_get_array(r->record, "problems", &list) < 0)
                return 0;
        for (size_t i = 0; i < json_object_array_length(list) && i < LACKING_MAX; i++) {
                json_object *o = json_object_array_get_idx(list, i), *text = NULL;
                _cleanup_free_ char *path = NULL;
                const char *service;

                if (json_get_string(o, "service", &service) < 0 ||
                    json_get_path(o, "path", &path) < 0 || !has_service(&r->selection, service) ||
                    (r->selection.named && !is_selected(&r->selection, service, path)))
                        continue;
                r->n_lacking++;
                (void) json_object_object_get_ex(o, "path", &text);
                bytes += strlen(json_object_get_string(text));
                if (bytes > LACKING_BYTES_MAX)
                        continue;
                if (json_object_array_add(r->lacking, json_object_get(text)) < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "restore");
        }
        if (json_get_u64(r->record, "problems_total", &total) >= 0 &&
            total > json_object_array_length(list))
                r->n_lacking += total - json_object_array_length(list);
        return 0;
}

int restore_check_partial(Restore *r, Failure *reterr) {
        const char *status = "";
        int e = find_lacking(r, reterr);

        (void) json_get_string(r->record, "status", &status);
        if (e < 0 || strcmp(status, "completed") == 0 || r->allow_partial)
                return e;
        return fail_set(reterr, FAIL_NOT_RESTORABLE, EPERM,
                        "backup %s is partial: %llu entries could not be read or vouched for; "
                        "allow it with --allow-partial",
                        r->backup_id, (unsigned long long) r->n_lacking);
}

/* ---- copies ---- */

int restore_open_hot(Restore *r,
                     const char *service,
                     const char *path,
                     Snapshot **ret,
                     Failure *reterr) {
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

void restore_count(Restore *r, const Stage *s, bool hot) {
        r->bytes += s->bytes;
        r->files += s->files;
        if (hot)
                r->used_hot = true;
        else
                r->used_local = true;
}

int restore_excludes(json_object *source, char ***ret, size_t *ret_n) {
        json_object *list;
        char **texts;

        if (json_get_array(source, "excludes", &list) < 0)
                return -EBADMSG;
        texts = calloc(json_object_array_length(list) + 1, sizeof(char *));
        if (!texts)
                return -ENOMEM;
        *ret = texts;
        for (*ret_n = 0; *ret_n < json_object_array_length(list); ++*ret_n) {
                const char *text = json_object_get_string(json_object_array_get_idx(list, *ret_n));

                if (!text || text_unescape(text, &texts[*ret_n]) < 0)
                        return -EBADMSG;
        }
        return 0;
}

const char *restore_method(const Selection *s) {
        const char *method = "files";

        for (size_t i = 0; !s->files_only && i < s->n; i++) {
                if (s->items[i].kind == TREE_SUBVOLUME)
                        method = "subvolume";
                else if (s->items[i].kind == TREE_DIRECTORY && strcmp(method, "files") == 0)
                        method = "directory";
        }
        return method;
}

/* ---- targets ---- */

static bool is_configured(const ConfigService *c, const char *path) {
        for (size_t i = 0; i < c->paths.n; i++)
                if (strcmp(c->paths.items[i], path) == 0)
                        return true;
        return false;
}

/* The side files of a Path= that is a database stand beside it, and are their own root. */
static const char *configured_path(const Restore *r, const SelectionItem *item) {
        if (item->side && strcmp(item->root, item->path) == 0)
                for (size_t i = 0; i < r->selection.n; i++) {
                        const SelectionItem *other = &r->selection.items[i];

                        if (other->database && strcmp(other->root, other->path) == 0 &&
                            strncmp(item->path, other->path, strlen(other->path)) == 0 &&
                            item->path[strlen(other->path)] == '-')
                                return other->path;
                }
        return item->root;
}

static int check_parent(const SelectionItem *item, Failure *reterr) {
        _cleanup_free_ char *dir = strdup(item->path);
        _cleanup_close_ int fd = -1;

        if (!dir)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", item->path);
        *strrchr(dir, '/') = 0;
        fd = fd_open_absolute(*dir ? dir : "/", O_RDONLY | O_DIRECTORY);
        if (fd >= 0)
                return 0;
        if (fd == -ENOENT)
                return fail_set(reterr, FAIL_NOT_RESTORABLE, ENOENT,
                                "%s, the directory of %s, is missing: make it, %srestore aside "
                                "with --into",
                                dir, item->path,
                                strcmp(item->path, item->root) == 0 ? "or "
                                                                    : "restore a directory above "
                                                                      "it, or ");
        return fail_errno(reterr, FAIL_NOT_RESTORABLE, -fd, "%s, the directory of %s", dir,
                          item->path);
}

/* What is a mounted subvolume now must come as one. */
static int check_kind(const SelectionItem *item, const Mounted *mount, Failure *reterr) {
        if (!mount || item->kind == TREE_SUBVOLUME || item->kind == TREE_DIRECTORY)
                return 0;
        return fail_set(reterr, FAIL_NOT_RESTORABLE, ENOTDIR,
                        "%s is a mounted subvolume, and the backup has no directory for it; "
                        "restore it aside with --into",
                        item->path);
}

int restore_check_target(const Restore *r,
                         const SelectionItem *item,
                         Mounted **ret_mount,
                         Failure *reterr) {
        const ConfigService *c = config_service(r->work->config, item->service);
        const char *configured = configured_path(r, item);
        _cleanup_(mounted_freep) Mounted *mount = NULL;
        _cleanup_(target_done) Target target = TARGET_INIT;
        int e;

        if (!c)
                return fail_set(
                        reterr, FAIL_NOT_RESTORABLE, ENOENT,
                        "service '%s' is not configured any more; restore it aside with --into",
                        item->service);
        if (!is_configured(c, configured))
                return fail_set(reterr, FAIL_NOT_RESTORABLE, ENOENT,
                                "%s is not a Path= of service %s any more; restore it aside with "
                                "--into",
                                configured, item->service);
        e = check_parent(item, reterr);
        if (e < 0)
                return e;
        /* What cannot be exchanged at all is refused before there is an intent. */
        e = target_find_mount(item->path, &mount, reterr);
        if (e >= 0)
                e = check_kind(item, mount, reterr);
        if (e >= 0)
                e = target_open(item->path, mount, false, &target, reterr);
        if (e == -ENOENT && reterr->code == FAIL_SOURCE_MISSING && target.parent >= 0) {
                *reterr = FAILURE_INIT;
                e = 0; /* no area yet */
        }
        if (e < 0)
                return e;
        *ret_mount = TAKE_PTR(mount);
        return 0;
}

/* ---- restored databases ---- */

static int put_times_back(int dirfd, const char *name, const struct stat *st) {
        const struct timespec times[2] = { st->st_atim, st->st_mtim };

        return utimensat(dirfd, name, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

int restore_check_database(Work *w,
                           int dirfd,
                           const char *name,
                           const char *path,
                           Failure *reterr) {
        HoldVerdict answer = HOLD_UNCHECKED;
        HoldDatabase d = { .path = path, .dirfd = dirfd, .name = name };
        HoldImageJob job = { .libexec_dir = proc_libexec_dir(),
                             .databases = &d,
                             .n = 1,
                             .timeout_usec = CHECK_TIMEOUT_USEC,
                             .interrupted = work_interrupted,
                             .userdata = w };
        struct stat st, dir_st;
        int e;

        if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
            fstatat(dirfd, ".", &dir_st, 0) < 0)
                return fail_errno(reterr, FAIL_INTEGRITY_FAILURE, errno, "restored database %s",
                                  path);
        d.uid = st.st_uid;
        d.gid = st.st_gid;
        e = hold_check(&job, &answer, reterr);
        /* A check may leave traces of its opening; what is restored shows the backup's times. */
        if (e >= 0)
                e = put_times_back(dirfd, name, &st);
        if (e >= 0)
                e = put_times_back(dirfd, ".", &dir_st);
        if (e < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -e, "checking restored database %s", path);
        if (answer != HOLD_OK)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "restored database %s failed its check: %s", path, d.failure.text);
        return 0;
}

/* Puts the file back and takes the check's directory away, whatever came of it. */
static int end_check(int area, const char *stage, int dir, const char *name, int result) {
        _cleanup_free_ char *dir_name = text_printf("%s" SWAP_CHECK_SUFFIX, stage);
        int r = renameat2(dir, name, area, stage, RENAME_NOREPLACE) < 0 ? -errno : 0;

        if (r >= 0)
                r = dir_name ? fs_remove_tree(area, dir_name, NULL, NULL) : -ENOMEM;
        return result < 0 ? result : r;
}

int restore_check_staged_file(Work *w,
                              int area,
                              const char *stage,
                              const char *path,
                              Failure *reterr) {
        _cleanup_free_ char *dir_name = text_printf("%s" SWAP_CHECK_SUFFIX, stage);
        const char *name = strrchr(path, '/') + 1;
        _cleanup_close_ int dir = -1;
        struct stat st;
        int r = -ENOMEM;

        if (dir_name && fstatat(area, stage, &st, AT_SYMLINK_NOFOLLOW) >= 0 &&
            mkdirat(area, dir_name, 0700) >= 0)
                r = dir = fs_open_dir(area, dir_name);
        else if (dir_name)
                r = -errno;
        if (r >= 0 && (fchown(dir, st.st_uid, st.st_gid) < 0 ||
                       renameat2(area, stage, dir, name, RENAME_NOREPLACE) < 0))
                r = -errno;
        if (r == -EPERM) {
                log_warning("%s is immutable: restored, and not checked", path);
                return 0; /* the empty directory goes with the stage */
        }
        if (r >= 0) {
                step("checking");
                r = restore_check_database(w, dir, name, path, reterr);
                r = end_check(area, stage, dir, name, r);
        }
        return r < 0 ? fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "checking restored database %s", path)
                     : 0;
}
