#include "worker/carry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/text.h"
#include "snapshot/snapshot.h"

#define CARRY_DEPTH_MAX 2048

typedef struct Finder {
        const Globs *rules;
        size_t skip; /* bytes of a path below the Path= that lie above the tree */
        int (*on_path)(void *userdata, const char *relative);
        void *userdata;
} Finder;

/* True if something below `dir` (relative, "" is the root) can match a rule. */
static bool can_match_below(const Globs *rules, const char *dir) {
        const char *prefix;

        for (size_t i = 0; (prefix = globs_prefix(rules, i)); i++) {
                size_t n = strlen(prefix), k = strlen(dir);

                /* Either lies on the way to the other. */
                if (n == 0 || k == 0 ||
                    (n >= k && strncmp(prefix, dir, k) == 0 &&
                     (prefix[k] == '/' || prefix[k] == 0)) ||
                    (k > n && strncmp(prefix, dir, n) == 0 && dir[n] == '/'))
                        return true;
        }
        return false;
}

static int find_level(const Finder *f, int dirfd, const char *dir, unsigned depth) {
        _cleanup_dir_ DIR *d = fdopendir(dirfd);
        struct dirent *e;
        int r = 0;

        if (!d) {
                r = -errno;
                fd_close(dirfd);
                return r;
        }
        if (depth > CARRY_DEPTH_MAX)
                return -ELOOP;
        while (r >= 0 && (errno = 0, e = readdir(d))) {
                _cleanup_free_ char *path = NULL;
                int child;

                if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                        continue;
                path = text_printf("%s%s%s", dir, *dir ? "/" : "", e->d_name);
                if (!path)
                        return -ENOMEM;
                if (globs_exclude(f->rules, path)) {
                        r = f->on_path(f->userdata, path + f->skip);
                        continue;
                }
                if ((e->d_type != DT_DIR && e->d_type != DT_UNKNOWN) ||
                    !can_match_below(f->rules, path))
                        continue;
                child = fd_open_beneath(dirfd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0,
                                        false);
                if (child == -ENOTDIR || child == -ENOENT || child == -EXDEV || child == -ELOOP)
                        continue;
                r = child < 0 ? child : find_level(f, child, path, depth + 1);
        }
        return r < 0 ? r : -errno;
}

int carry_find(int treefd,
               const char *at,
               const Globs *rules,
               int (*on_path)(void *userdata, const char *relative),
               void *userdata,
               Failure *reterr) {
        Finder f = { .rules = rules,
                     .skip = *at ? strlen(at) + 1 : 0,
                     .on_path = on_path,
                     .userdata = userdata };
        int copy, r;

        if (!globs_prefix(rules, 0))
                return 0;
        copy = fs_open_dir(treefd, ".");
        r = copy < 0 ? copy : find_level(&f, copy, at, 0);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "looking for excluded paths");
        return 0;
}

/* ---- parents ---- */

/* Opens the directory that holds `relative`; ret_name points into it. */
static int open_parent(int treefd, const char *relative, const char **ret_name) {
        const char *slash = strrchr(relative, '/');
        _cleanup_free_ char *dir = NULL;

        *ret_name = slash ? slash + 1 : relative;
        if (!slash)
                return fs_open_dir(treefd, ".");
        dir = strndup(relative, (size_t) (slash - relative));
        return dir ? fd_open_beneath(treefd, dir, O_RDONLY | O_DIRECTORY, 0, false) : -ENOMEM;
}

/* What is carried in or out must not show in the times of the directory that holds it. */
static int put_times_back(int dirfd, const struct stat *st) {
        const struct timespec times[2] = { st->st_atim, st->st_mtim };

        return futimens(dirfd, times) < 0 ? -errno : 0;
}

static int copy_directory(const ArcStat *like, int parent, const char *name, Failure *reterr) {
        _cleanup_(arc_extract_freep) ArcExtract *x = NULL;
        ArcExtractParams params = { .parent_fd = parent, .name = name };
        Entry entry = like->entry;
        int r;

        if (entry.type != ENTRY_DIRECTORY)
                return -ENOTDIR;
        entry.flags = 0; /* an immutable one would take nothing in */
        r = arc_extract_new(&params, &x, reterr);
        if (r >= 0)
                r = arc_extract_put(x, "", &entry, NULL, false, reterr);
        return r < 0 ? r : arc_extract_finish(x, reterr);
}

/* Makes one missing directory of `to` like the one in `from`, with all its metadata. */
static int make_like(int from, int to, const char *dir, Failure *reterr) {
        const char *name;
        _cleanup_close_ int source = open_parent(from, dir, &name);
        _cleanup_close_ int parent = open_parent(to, dir, &name);
        ArcStat like = { 0 };
        struct stat st;
        int r;

        if (source < 0 || parent < 0)
                return source < 0 ? source : parent;
        if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
                return 0;
        if (errno != ENOENT || fstat(parent, &st) < 0)
                return -errno;
        r = arc_stat(source, name, &like, reterr);
        if (r >= 0)
                r = copy_directory(&like, parent, name, reterr);
        if (r >= 0)
                r = put_times_back(parent, &st);
        arc_stat_done(&like);
        return r;
}

static int make_parents(int from, int to, const char *relative, Failure *reterr) {
        _cleanup_free_ char *dir = strdup(relative);
        int r = 0;

        if (!dir)
                return -ENOMEM;
        for (char *slash = strchr(dir, '/'); r >= 0 && slash; slash = strchr(slash + 1, '/')) {
                *slash = 0;
                r = make_like(from, to, dir, reterr);
                *slash = '/';
        }
        return r;
}

/* ---- clear, copy, move ---- */

bool carry_is_subvolume(int treefd, const char *relative) {
        const char *name;
        _cleanup_close_ int parent = open_parent(treefd, relative, &name);
        TreeId id;

        return parent >= 0 && tree_identify(parent, name, &id, NULL) >= 0 &&
               id.kind == TREE_SUBVOLUME;
}

typedef struct Clear {
        int treefd;
        Failure *reterr;
} Clear;

static int clear_one(void *userdata, const char *relative) {
        Clear *c = userdata;
        const char *name;
        _cleanup_close_ int parent = open_parent(c->treefd, relative, &name);
        struct stat st;
        int r;

        if (carry_is_subvolume(c->treefd, relative))
                return fail_set(c->reterr, FAIL_TARGET_IN_USE, EXDEV,
                                "excluded %s in the kept tree is a subvolume and is not removed: "
                                "move it out of the area first",
                                relative);
        r = parent < 0 ? parent : fstat(parent, &st) < 0 ? -errno : 0;
        if (r >= 0)
                r = fs_remove_tree(parent, name, NULL, NULL);
        if (r >= 0)
                r = put_times_back(parent, &st);
        return r < 0 ? fail_errno(c->reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "removing excluded %s", relative)
                     : 0;
}

int carry_clear(int treefd, const char *at, const Globs *rules, Failure *reterr) {
        Clear c = { .treefd = treefd, .reterr = reterr };

        return carry_find(treefd, at, rules, clear_one, &c, reterr);
}

static int carry_failed(int r, const char *relative, Failure *reterr) {
        if (r == -EEXIST)
                return fail_set(reterr, FAIL_TARGET_IN_USE, EEXIST,
                                "excluded %s stands in the live tree and in the staged one: move "
                                "one of them away",
                                relative);
        if (reterr->code != FAIL_NONE)
                fail_prefix(reterr, "carrying over excluded %s", relative);
        return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                          "carrying over excluded %s", relative);
}

int carry_copy(int from,
               int to,
               const char *relative,
               bool (*interrupted)(void *),
               void *userdata,
               uint64_t *ret_bytes,
               Failure *reterr) {
        const char *name;
        _cleanup_close_ int source = -1, target = -1;
        struct stat st;
        int r = make_parents(from, to, relative, reterr);

        if (r >= 0)
                r = source = open_parent(from, relative, &name);
        if (r >= 0)
                r = target = open_parent(to, relative, &name);
        if (r >= 0 && fstat(target, &st) < 0)
                r = -errno;
        if (r >= 0)
                r = arc_copy_tree(source, name, target, name, interrupted, userdata, ret_bytes,
                                  reterr);
        if (r >= 0)
                r = put_times_back(target, &st);
        return r < 0 ? carry_failed(r, relative, reterr) : 0;
}

static bool is_absent(int dirfd, const char *name) {
        struct stat st;

        return fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
}

int carry_move(int from, int to, const char *relative, bool back, Failure *reterr) {
        const char *name;
        _cleanup_close_ int source = -1, target = -1;
        struct stat source_st, target_st;
        int r;

        source = open_parent(from, relative, &name);
        if (back && (source == -ENOENT || (source >= 0 && is_absent(source, name))))
                return 0;
        r = source < 0 ? source : make_parents(from, to, relative, reterr);
        if (r >= 0)
                r = target = open_parent(to, relative, &name);
        if (r >= 0 && (fstat(source, &source_st) < 0 || fstat(target, &target_st) < 0 ||
                       renameat2(source, name, target, name, RENAME_NOREPLACE) < 0))
                r = -errno;
        if (r >= 0)
                r = put_times_back(source, &source_st);
        if (r >= 0)
                r = put_times_back(target, &target_st);
        return r < 0 ? carry_failed(r, relative, reterr) : 0;
}
