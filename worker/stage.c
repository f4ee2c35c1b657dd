#include "worker/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/arc.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/names.h"
#include "base/step.h"
#include "base/text.h"
#include "worker/carry.h"

/* One extraction: which part of the manifest, and where its paths begin in the new tree. */
typedef struct Extraction {
        Stage *stage;
        RepoManifest *manifest,
                *links; /* `links`: a second cursor for hard links that leave the tree */
        ArcExtract *out;
        const char *root; /* live path that is the tree's root; "" for aside: all of them */
        bool make_parents;
} Extraction;

static void extraction_done(Extraction *x) {
        repo_manifest_free(x->manifest);
        repo_manifest_free(x->links);
        arc_extract_free(x->out);
}

static char *entry_path(const Entry *e) {
        return text_printf("%s/%s", e->dir[1] ? e->dir : "", e->name);
}

/* Where a live path lies in the new tree, or NULL if it is not below the root. Borrowed from
 * `path`. */
static const char *inside(const Extraction *x, const char *path) {
        size_t n = strlen(x->root);

        if (n == 0)
                return path + 1;
        if (!text_path_is_below(path, x->root))
                return NULL;
        return path[n] == 0 ? path + n : path + n + 1;
}

/* True if this live path was asked for, or lies in what was. */
static bool is_wanted(const Stage *s, const char *path) {
        for (size_t i = 0; s->only && i < s->n_only; i++)
                if (text_path_is_below(path, s->only[i]))
                        return true;
        return !s->only;
}

/* ---- content ---- */

static Snapshot *image_of(const Stage *s, const char *path) {
        for (size_t i = 0; i < s->n_images; i++)
                if (text_path_is_below(path, s->images[i].path))
                        return s->images[i].image;
        return NULL;
}

typedef struct Writer {
        Stage *stage;
        const Entry *entry;
        int fd;
} Writer;

static int
write_chunk(void *userdata, uint64_t offset, const void *data, size_t n, Failure *reterr) {
        Writer *to = userdata;
        int r = fd_pwrite_full(to->fd, data, n, offset);

        if (r < 0)
                return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r, "writing %s",
                                  to->entry->name);
        to->stage->work->bytes_done += n;
        work_progress(to->stage->work, false);
        return work_interrupted(to->stage->work)
                       ? fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled")
                       : 0;
}

/* The image is the backup's own bytes, by identity: its blocks are shared instead of copied. */
static int clone_content(Stage *s,
                         Snapshot *image,
                         const char *path,
                         const Entry *e,
                         int fd,
                         Failure *reterr) {
        _cleanup_close_ int source = -1;
        uint64_t copied = 0;
        int r;

        source = snapshot_open_path(image, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
        r = source < 0 ? source : arc_copy_content(source, fd, &copied);
        if (r < 0)
                return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "copying %s from the hot copy", path);
        return 0;
}

static int write_content(void *userdata, const Entry *e, int fd, Failure *reterr) {
        Extraction *x = userdata;
        Writer to = { .stage = x->stage, .entry = e, .fd = fd };
        uint64_t before = x->stage->work->bytes_done;
        _cleanup_free_ char *path = entry_path(e);
        Snapshot *image;
        int r;

        if (!path)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", e->name);
        image = image_of(x->stage, path);
        r = image ? clone_content(x->stage, image, path, e, fd, reterr)
                  : repo_content_read(x->manifest, e, write_chunk, &to, reterr);
        if (r < 0)
                return r;
        x->stage->work->bytes_done = before + e->size; /* holes are done, too */
        work_progress(x->stage->work, false);
        return 0;
}

/* ---- entries ---- */

/*
 * A hard link whose object lies in another Path= of the service, or was not asked for: this tree
 * gets one of its own, since a swap moves each path for itself.
 */
static int find_linked(Extraction *x, const Entry *link, Entry *ret, Failure *reterr) {
        _cleanup_free_ char *dir = strdup(link->target);
        const char *name = strrchr(link->target, '/') + 1;
        const Entry *e;
        int r;

        if (!dir)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", link->name);
        *strrchr(dir, '/') = 0;
        r = x->links ? 0 : repo_manifest_open(x->stage->repo, x->stage->record, &x->links, reterr);
        if (r >= 0)
                r = repo_manifest_seek(x->links, x->stage->service, *dir ? dir : "/", reterr);
        while (r >= 0 && (r = repo_manifest_next(x->links, &e, reterr)) > 0) {
                if (strcmp(e->service, x->stage->service) != 0 ||
                    strcmp(e->dir, *dir ? dir : "/") != 0)
                        break;
                if (strcmp(e->name, name) == 0 && e->type != ENTRY_HARDLINK) {
                        *ret = *e;
                        ret->dir = link->dir;
                        ret->name = link->name;
                        return 0;
                }
        }
        return r < 0 ? r
                     : fail_set(reterr, FAIL_INTEGRITY_FAILURE, ENOENT,
                                "%s is a hard link to %s, which is not in the manifest", link->name,
                                link->target);
}

static int put_entry(Extraction *x, const Entry *e, const char *path, Failure *reterr) {
        const char *link = NULL;
        Entry file;
        int r;

        if (e->type == ENTRY_HARDLINK) {
                if (!e->target || e->target[0] != '/')
                        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                        "%s is a hard link to nothing", e->name);
                link = is_wanted(x->stage, e->target) ? inside(x, e->target) : NULL;
                if (!link) {
                        r = find_linked(x, e, &file, reterr);
                        if (r < 0)
                                return r;
                        e = &file;
                }
        }
        r = arc_extract_put(x->out, path, e, link, x->make_parents, reterr);
        if (r < 0)
                return r;
        x->stage->files++;
        x->stage->work->files_done++;
        if (e->type == ENTRY_FILE)
                x->stage->bytes += e->size;
        step("staging");
        return work_interrupted(x->stage->work)
                       ? fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled")
                       : 0;
}

/*
 * Puts all entries from (service, dir) on until one is outside: of `only` (one name in `dir`), else
 * of the root's subtree.
 */
static int put_range(Extraction *x, const char *dir, const char *only, Failure *reterr) {
        const Entry *e;
        int r = repo_manifest_seek(x->manifest, x->stage->service, dir, reterr);

        while (r >= 0 && (r = repo_manifest_next(x->manifest, &e, reterr)) > 0) {
                _cleanup_free_ char *path = NULL;

                if (strcmp(e->service, x->stage->service) != 0)
                        return 0;
                if (only && strcmp(e->dir, dir) != 0)
                        return 0;
                if (only && strcmp(e->name, only) != 0)
                        continue;
                path = entry_path(e);
                if (!path)
                        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", e->name);
                if (!inside(x, path))
                        return 0;
                if (is_wanted(x->stage, path))
                        r = put_entry(x, e, inside(x, path), reterr);
        }
        return r;
}

static bool extraction_interrupted(void *userdata) {
        const Extraction *x = userdata;

        return work_interrupted(x->stage->work);
}

static int extraction_begin(Extraction *x, int dirfd, const char *name, Failure *reterr) {
        ArcExtractParams params = {
                .parent_fd = dirfd,
                .name = name,
                .content = write_content,
                .interrupted = extraction_interrupted,
                .userdata = x,
        };
        int r = repo_manifest_open(x->stage->repo, x->stage->record, &x->manifest, reterr);

        return r < 0 ? r : arc_extract_new(&params, &x->out, reterr);
}

static int extract_tree(Stage *s, const char *path, int dirfd, const char *name, Failure *reterr) {
        _cleanup_(extraction_done) Extraction x = { .stage = s, .root = path };
        _cleanup_free_ char *parent = strdup(path);
        uint64_t before = s->files;
        int r;

        if (!parent)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", path);
        *strrchr(parent, '/') = 0;
        r = extraction_begin(&x, dirfd, name, reterr);
        if (r >= 0)
                r = put_range(&x, *parent ? parent : "/", strrchr(path, '/') + 1, reterr);
        if (r >= 0 && s->files == before)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, ENOENT, "%s is not in the manifest",
                                path);
        if (r >= 0)
                r = put_range(&x, path, NULL, reterr);
        return r < 0 ? r : arc_extract_finish(x.out, reterr);
}

int stage_aside(Stage *s, int dirfd, Failure *reterr) {
        _cleanup_(extraction_done) Extraction x = { .stage = s, .root = "", .make_parents = true };
        bool made = mkdirat(dirfd, s->service, 0700) == 0;
        int r;

        if (!made && errno != EEXIST)
                return fail_errno(reterr, fail_code_for_write(errno, FAIL_INTERNAL), errno,
                                  "directory %s to restore into", s->service);
        r = extraction_begin(&x, dirfd, s->service, reterr);
        if (r >= 0)
                r = put_range(&x, "/", NULL, reterr);
        if (r >= 0)
                r = arc_extract_finish(x.out, reterr);
        if (r >= 0 && syncfs(dirfd) < 0)
                r = fail_errno(reterr, fail_code_for_write(errno, FAIL_INTERNAL), errno, "syncing");
        if (r == -ENOTEMPTY && !made && s->files == 0) {
                *reterr = FAILURE_INIT;
                return fail_set(reterr, FAIL_TARGET_IN_USE, ENOTEMPTY,
                                "the directory to restore into has a '%s' with something in it: "
                                "choose an empty one",
                                s->service);
        }
        /* Half a service is worth nothing; a directory that was there is its owner's. */
        if (r < 0 && made && fs_remove_tree(dirfd, s->service, NULL, NULL) < 0)
                log_warning("what was restored of service %s is left", s->service);
        return r;
}

/* ---- single files aside ---- */

/* In a private directory first: who may write to `dirfd` could change what is half made. */
static int extract_files(Stage *s, int dirfd, const char *work_name, Failure *reterr) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < s->n_only; i++) {
                _cleanup_close_ int private = fs_open_dir(dirfd, work_name);
                const char *path = s->only[i];

                if (private < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, -private, "%s", work_name);
                r = extract_tree(s, path, private, strrchr(path, '/') + 1, reterr);
                if (r >= 0 && syncfs(private) < 0)
                        r = fail_errno(reterr, fail_code_for_write(errno, FAIL_INTERNAL), errno,
                                       "syncing");
        }
        return r;
}

static int name_taken(const char *name, Failure *reterr) {
        return fail_set(reterr, FAIL_TARGET_IN_USE, EEXIST,
                        "the directory to restore into has a '%s' already: nothing is overwritten",
                        name);
}

static int check_names_free(const Stage *s, int dirfd, Failure *reterr) {
        struct stat st;

        for (size_t i = 0; i < s->n_only; i++) {
                const char *name = strrchr(s->only[i], '/') + 1;

                if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
                        return name_taken(name, reterr);
        }
        return 0;
}

static int move_out(const Stage *s, int dirfd, const char *work_name, Failure *reterr) {
        _cleanup_close_ int private = fs_open_dir(dirfd, work_name);

        if (private < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -private, "%s", work_name);
        for (size_t i = 0; i < s->n_only; i++) {
                const char *name = strrchr(s->only[i], '/') + 1;
                int r = renameat2(private, name, dirfd, name, RENAME_NOREPLACE) < 0 ? -errno : 0;

                if (r >= 0)
                        continue;
                while (i-- > 0) { /* back to what is removed */
                        const char *moved = strrchr(s->only[i], '/') + 1;

                        (void) renameat2(dirfd, moved, private, moved, RENAME_NOREPLACE);
                }
                return r == -EEXIST ? name_taken(name, reterr)
                                    : fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                                 "moving %s into place", name);
        }
        return syncfs(dirfd) < 0 ? fail_errno(reterr, fail_code_for_write(errno, FAIL_INTERNAL),
                                              errno, "syncing")
                                 : 0;
}

int stage_files_aside(Stage *s, int dirfd, const char *id, Failure *reterr) {
        _cleanup_free_ char *work_name = text_printf(".holdpoint-restore.%s", id);
        int r;

        if (!work_name)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "restore");
        r = check_names_free(s, dirfd, reterr);
        if (r < 0)
                return r;
        if (mkdirat(dirfd, work_name, 0700) < 0)
                return fail_errno(reterr, fail_code_for_write(errno, FAIL_INTERNAL), errno,
                                  "directory to restore into");
        r = extract_files(s, dirfd, work_name, reterr);
        if (r >= 0)
                r = move_out(s, dirfd, work_name, reterr);
        if (fs_remove_tree(dirfd, work_name, NULL, NULL) < 0)
                log_warning("%s is left in the directory to restore into", work_name);
        return r;
}

/* ---- subvolumes ---- */

static bool image_is_root(Snapshot *image, const char *path) {
        _cleanup_json_ json_object *identity = image ? snapshot_identity(image) : NULL;
        _cleanup_free_ char *root = NULL;

        return identity && json_get_path(identity, "root", &root) >= 0 && strcmp(root, path) == 0;
}

/* What restores of parts of the tree kept in it belongs to the tree that had it. */
static int drop_area(int tree) {
        struct stat st;
        int r = fstat(tree, &st) < 0 ? -errno : fs_remove_tree(tree, HP_AREA_NAME, NULL, NULL);
        const struct timespec times[2] = { st.st_atim, st.st_mtim };

        if (r >= 0 && futimens(tree, times) < 0)
                r = -errno;
        return r;
}

/* What the image has beyond the backup: the excluded paths of that instant, and an area. */
static int
drop_excluded(int dirfd, const char *name, char *const *excludes, size_t n, Failure *reterr) {
        Globs *rules = NULL;
        _cleanup_close_ int tree = fs_open_dir(dirfd, name);
        int r = tree < 0 ? tree : drop_area(tree);

        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "staged tree");
        r = globs_new((const char *const *) excludes, n, &rules, reterr);
        if (r >= 0)
                r = carry_clear(tree, "", rules, reterr);
        globs_free(rules);
        return r;
}

/* All of it came at once. */
static void count_tree(Stage *s) {
        s->files += s->held_files;
        s->bytes += s->held_bytes;
        s->work->files_done += s->held_files;
        s->work->bytes_done += s->held_bytes;
        work_progress(s->work, false);
}

static int snapshot_tree(Stage *s,
                         Snapshot *image,
                         int dirfd,
                         const char *name,
                         char *const *excludes,
                         size_t n,
                         Failure *reterr) {
        int r = tree_make_snapshot(snapshot_fd(image), dirfd, name, reterr);

        if (r >= 0)
                r = drop_excluded(dirfd, name, excludes, n, reterr);
        if (r >= 0)
                count_tree(s);
        return r;
}

int stage_tree(Stage *s,
               const char *path,
               TreeKind kind,
               int dirfd,
               const char *name,
               char *const *excludes,
               size_t n_excludes,
               Failure *reterr) {
        Failure no_subvolume = FAILURE_INIT;
        int r;

        if (kind == TREE_SUBVOLUME && image_is_root(image_of(s, path), path)) {
                r = snapshot_tree(s, image_of(s, path), dirfd, name, excludes, n_excludes, reterr);
        } else {
                /* On a file system without subvolumes a directory takes its place. */
                if (kind == TREE_SUBVOLUME && tree_make_subvolume(dirfd, name, &no_subvolume) < 0 &&
                    no_subvolume.code == FAIL_NO_SPACE) {
                        *reterr = no_subvolume;
                        return -no_subvolume.errnum;
                }
                r = extract_tree(s, path, dirfd, name, reterr);
        }
        if (r < 0)
                return r;
        if (syncfs(dirfd) < 0)
                return fail_errno(reterr, fail_code_for_write(errno, FAIL_INTERNAL), errno,
                                  "syncing the staged tree of %s", path);
        return 0;
}
