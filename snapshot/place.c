#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/text.h"
#include "snapshot/btrfs.h"
#include "snapshot/snapshot-internal.h"

/*
 * Everything here is decided on open descriptors. The service may own directories below its paths
 * and rename them at any moment; a path is only ever opened, never looked at first.
 */

int place_stat(int fd, Place *ret) {
        struct statx x;

        if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID, &x) < 0)
                return -errno;
        if (!(x.stx_mask & STATX_MNT_ID))
                return -EOPNOTSUPP; /* Linux before 5.8 */
        *ret = (Place){
                .mount = x.stx_mnt_id,
                .dev = makedev(x.stx_dev_major, x.stx_dev_minor),
                .ino = x.stx_ino,
                .mode = x.stx_mode,
                .uid = x.stx_uid,
                .gid = x.stx_gid,
                .locked = x.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND),
        };
        if (x.stx_mask & STATX_BTIME) {
                ret->btime_sec = (uint64_t) x.stx_btime.tv_sec;
                ret->btime_nsec = x.stx_btime.tv_nsec;
        }
        return 0;
}

bool place_is_btrfs(int fd) {
        struct statfs s;

        return fstatfs(fd, &s) == 0 && (unsigned long) s.f_type == BTRFS_SUPER_MAGIC;
}

bool place_is_subvolume(int fd, const Place *place) {
        return S_ISDIR(place->mode) && place->ino == BTRFS_ROOT_INO && place_is_btrfs(fd);
}

bool place_is_name(const char *name) {
        return *name && strlen(name) <= 255 && !strchr(name, '/') && strcmp(name, ".") != 0 &&
               strcmp(name, "..") != 0;
}

char *place_parent(const char *path) {
        const char *slash = strrchr(path, '/');

        return slash == path ? strdup("/") : strndup(path, (size_t) (slash - path));
}

/* The first prefix of `path` that is a link; owned, NULL if there is none (any more). */
static char *first_link(const char *path) {
        for (const char *p = path; *p;) {
                _cleanup_free_ char *prefix = NULL;
                struct stat st;

                p++;
                p += strcspn(p, "/");
                prefix = strndup(path, (size_t) (p - path));
                if (!prefix || lstat(prefix, &st) < 0)
                        return NULL;
                if (S_ISLNK(st.st_mode))
                        return TAKE_PTR(prefix);
        }
        return NULL;
}

int place_open(const char *path, int flags, FailCode code, Failure *reterr) {
        _cleanup_free_ char *link = NULL;
        int fd;

        if (!text_is_clean_path(path))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "'%s' is not an absolute path without '.', '..' or doubled slashes",
                                path);
        fd = fd_open_absolute(path, flags);
        if (fd >= 0)
                return fd;
        if (fd == -ELOOP) {
                link = first_link(path);
                return fail_set(reterr, code, ELOOP,
                                "'%s' is a symbolic link: configure '%s' by the path it stands for",
                                link ? link : path, path);
        }
        if (fd == -ENOENT || fd == -ENOTDIR)
                return fail_errno(reterr, FAIL_SOURCE_MISSING, -fd, "cannot open '%s'", path);
        return fail_errno(reterr, code, -fd, "cannot open '%s'", path);
}

/* One step of the walk upwards. 1: `fd` and `here` are the parent's now; 0: the mount ends here. */
static int step_up(char **path, int *fd, Place *here, FailCode code, Failure *reterr) {
        _cleanup_free_ char *up = place_parent(*path);
        _cleanup_close_ int up_fd = -1;
        Place above;
        int r;

        if (!up)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        up_fd = place_open(up, O_PATH | O_DIRECTORY, code, reterr);
        if (up_fd < 0)
                return up_fd;
        r = place_stat(up_fd, &above);
        if (r < 0)
                return fail_errno(reterr, code, -r, "cannot look at '%s'", up);
        if (above.mount != here->mount)
                return 0;
        /* Within one mount only the root of a subvolume, where the walk ends, has another device
         * above. */
        if (above.dev != here->dev)
                return fail_set(reterr, code, ESTALE,
                                "'%s' was moved while it was looked at: try again", *path);
        fd_close(*fd);
        *fd = TAKE_FD(up_fd);
        free(*path);
        *path = TAKE_PTR(up);
        *here = above;
        return 1;
}

int place_find_root(const char *path,
                    char **ret_path,
                    bool *ret_is_subvolume,
                    FailCode code,
                    Failure *reterr) {
        _cleanup_free_ char *at = strdup(path);
        _cleanup_close_ int fd = -1;
        bool subvolume;
        Place here;
        int r;

        if (!at)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        fd = place_open(path, O_PATH, code, reterr);
        if (fd < 0)
                return fd;
        r = place_stat(fd, &here);
        if (r < 0)
                return fail_errno(reterr, code, -r, "cannot look at '%s'", path);
        while (!(subvolume = place_is_subvolume(fd, &here)) && strcmp(at, "/") != 0) {
                r = step_up(&at, &fd, &here, code, reterr);
                if (r < 0)
                        return r;
                if (r == 0)
                        break;
        }
        if (!S_ISDIR(here.mode))
                return fail_set(
                        reterr, code, ENOTDIR,
                        "'%s' is a file mounted by itself: configure the directory that holds it",
                        at);
        r = fd_reopen(fd, O_RDONLY | O_DIRECTORY);
        if (r < 0)
                return fail_errno(reterr, code, -r, "cannot open '%s'", at);
        *ret_is_subvolume = subvolume;
        *ret_path = TAKE_PTR(at);
        return r;
}
