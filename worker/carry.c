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

#define CARRY_DEPTH_MAX 2048

typedef struct Finder {
        const ArcRules *rules;
        int (*on_path)(void *userdata, const char *relative);
        void *userdata;
} Finder;

/* True if something below `dir` (relative, "" is the root) can match a rule. */
static bool can_match_below(const ArcRules *rules, const char *dir) {
        const char *prefix;

        for (size_t i = 0; (prefix = arc_rules_prefix(rules, i)); i++) {
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
                if (arc_rules_exclude(f->rules, path)) {
                        r = f->on_path(f->userdata, path);
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
               const ArcRules *rules,
               int (*on_path)(void *userdata, const char *relative),
               void *userdata,
               Failure *reterr) {
        Finder f = { .rules = rules, .on_path = on_path, .userdata = userdata };
        int copy, r;

        if (!arc_rules_prefix(rules, 0))
                return 0;
        copy = fs_open_dir(treefd, ".");
        r = copy < 0 ? copy : find_level(&f, copy, "", 0);
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

/* Makes one missing directory of `to` like the one in `from`: owner and mode, times follow later.
 */
static int make_like(int from, int to, const char *dir) {
        const char *name;
        _cleanup_close_ int source = -1, parent = -1, made = -1;
        struct stat st;

        source = fd_open_beneath(from, dir, O_PATH | O_DIRECTORY, 0, false);
        parent = open_parent(to, dir, &name);
        if (source < 0 || parent < 0)
                return source < 0 ? source : parent;
        if (mkdirat(parent, name, 0700) < 0)
                return errno == EEXIST ? 0 : -errno;
        made = fs_open_dir(parent, name);
        if (made < 0 || fstat(source, &st) < 0 || fchown(made, st.st_uid, st.st_gid) < 0 ||
            fchmod(made, st.st_mode & 07777) < 0)
                return made < 0 ? made : -errno;
        return 0;
}

static int make_parents(int from, int to, const char *relative) {
        _cleanup_free_ char *dir = strdup(relative);
        int r = 0;

        if (!dir)
                return -ENOMEM;
        for (char *slash = strchr(dir, '/'); r >= 0 && slash; slash = strchr(slash + 1, '/')) {
                *slash = 0;
                r = make_like(from, to, dir);
                *slash = '/';
        }
        return r;
}

/* ---- clear, copy, move ---- */

typedef struct Clear {
        int treefd;
        Failure *reterr;
} Clear;

static int clear_one(void *userdata, const char *relative) {
        Clear *c = userdata;
        const char *name;
        _cleanup_close_ int parent = open_parent(c->treefd, relative, &name);
        int r = parent < 0 ? parent : fs_remove_tree(parent, name, NULL, NULL);

        return r < 0 ? fail_errno(c->reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "removing excluded %s", relative)
                     : 0;
}

int carry_clear(int treefd, const ArcRules *rules, Failure *reterr) {
        Clear c = { .treefd = treefd, .reterr = reterr };

        return carry_find(treefd, rules, clear_one, &c, reterr);
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
        int r = make_parents(from, to, relative);

        if (r >= 0)
                r = source = open_parent(from, relative, &name);
        if (r >= 0)
                r = target = open_parent(to, relative, &name);
        if (r < 0)
                return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "carrying over excluded %s", relative);
        r = arc_copy_tree(source, name, target, name, interrupted, userdata, ret_bytes, reterr);
        if (r < 0)
                fail_prefix(reterr, "carrying over excluded %s", relative);
        return r;
}

int carry_move(int from, int to, const char *relative, bool back, Failure *reterr) {
        const char *name;
        _cleanup_close_ int source = -1, target = -1;
        int r = 0;

        source = open_parent(from, relative, &name);
        if (source < 0 && back && source == -ENOENT)
                return 0;
        if (source < 0)
                r = source;
        if (r >= 0)
                r = make_parents(from, to, relative);
        if (r >= 0)
                r = target = open_parent(to, relative, &name);
        if (r >= 0 && renameat2(source, name, target, name, RENAME_NOREPLACE) < 0)
                r = back && errno == ENOENT ? 0 : -errno;
        if (r >= 0 && (fsync(source) < 0 || fsync(target) < 0))
                r = -errno;
        if (r < 0)
                return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "carrying over excluded %s", relative);
        return 0;
}
