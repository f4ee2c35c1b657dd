#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/names.h"
#include "base/text.h"
#include "snapshot/snapshot-internal.h"

/*
 * The area stands beside data that the service may write, so its name may have been taken by the
 * service first. What counts is the opened directory alone: root's, closed to everybody else, and
 * in the same subvolume of the same mount as the place it was looked for in, or renames into it
 * would fail.
 */

#define AREA_MODE 0700

int area_check(int fd, const char *path, Failure *reterr) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, errno, "cannot look at '%s'", path);
        if (S_ISDIR(st.st_mode) && st.st_uid == 0 && st.st_gid == 0 &&
            (st.st_mode & 07777) == AREA_MODE)
                return 0;
        return fail_set(reterr, FAIL_SNAPSHOT_FAILED, EPERM,
                        "'%s' belongs to uid %u, gid %u with mode %04o, not to root alone: look "
                        "who made it, "
                        "then move it away",
                        path, st.st_uid, st.st_gid, st.st_mode & 07777);
}

/* A parent with the setgid bit passes on its group; a crash between mkdir and this leaves it so. */
static int make_own(int fd) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_uid != 0 || (st.st_mode & 0777) != AREA_MODE)
                return 0; /* not ours to change: area_check() refuses it */
        if (st.st_gid == 0 && (st.st_mode & 07777) == AREA_MODE)
                return 0;
        if (fchown(fd, 0, 0) < 0 || fchmod(fd, AREA_MODE) < 0)
                return -errno;
        return fs_sync(fd);
}

static int open_in(int base_fd, const char *path, bool create, Failure *reterr) {
        _cleanup_close_ int fd = -1;
        Place base, area;
        int r;

        fd = create ? fs_ensure_dir(base_fd, HP_AREA_NAME, AREA_MODE)
                    : fs_open_dir(base_fd, HP_AREA_NAME);
        if (fd == -ENOENT && !create)
                return fail_set(reterr, FAIL_SOURCE_MISSING, ENOENT, "there is no '%s'", path);
        if (fd == -ELOOP || fd == -ENOTDIR)
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, EPERM,
                                "'%s' is not a directory: look who made it, then move it away",
                                path);
        if (fd < 0)
                return fail_errno(reterr, fail_code_for_write(fd, FAIL_SNAPSHOT_FAILED), -fd,
                                  "cannot open or make '%s'", path);
        r = create ? make_own(fd) : 0;
        if (r < 0)
                return fail_errno(reterr, fail_code_for_write(r, FAIL_SNAPSHOT_FAILED), -r,
                                  "cannot take '%s' over for root", path);
        r = area_check(fd, path, reterr);
        if (r < 0)
                return r;
        r = place_stat(base_fd, &base);
        if (r >= 0)
                r = place_stat(fd, &area);
        if (r < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r, "cannot look at '%s'", path);
        if (base.mount != area.mount || base.dev != area.dev)
                return fail_set(
                        reterr, FAIL_SNAPSHOT_FAILED, EXDEV,
                        "'%s' is a mount or a subvolume of its own: it must be a plain directory",
                        path);
        return TAKE_FD(fd);
}

int area_is_mount_root(const char *target, Failure *reterr) {
        _cleanup_free_ char *parent = NULL;
        _cleanup_close_ int parent_fd = -1, fd = -1;
        Place above, here;
        int r;

        if (strcmp(target, "/") == 0)
                return 1;
        parent = place_parent(target);
        if (!parent)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        parent_fd = place_open(parent, O_PATH | O_DIRECTORY, FAIL_SNAPSHOT_FAILED, reterr);
        if (parent_fd < 0)
                return parent_fd;
        fd = openat(parent_fd, strrchr(target, '/') + 1, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT)
                return 0;
        r = fd < 0 ? -errno : place_stat(fd, &here);
        if (r >= 0)
                r = place_stat(parent_fd, &above);
        if (r < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r, "cannot look at '%s'", target);
        if (S_ISLNK(here.mode))
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, ELOOP,
                                "'%s' is a symbolic link: configure the path it stands for",
                                target);
        return above.mount != here.mount;
}

int area_open(const char *target,
              bool create,
              char **ret_path,
              bool *ret_is_root,
              Failure *reterr) {
        _cleanup_free_ char *parent = NULL, *base = NULL, *path = NULL;
        _cleanup_close_ int base_fd = -1;
        bool subvolume;
        int fd, root;

        if (!text_is_clean_path(target))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "'%s' is not a clean absolute path", target);
        parent = place_parent(target);
        if (!parent)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        root = area_is_mount_root(target, reterr);
        if (root < 0)
                return root;
        base_fd = place_find_root(root ? target : parent, &base, &subvolume, FAIL_SNAPSHOT_FAILED,
                                  reterr);
        if (base_fd < 0)
                return base_fd;
        path = text_printf("%s/" HP_AREA_NAME, strcmp(base, "/") == 0 ? "" : base);
        if (!path)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        if (ret_is_root)
                *ret_is_root = root;
        fd = open_in(base_fd, path, create, reterr);
        if (fd < 0)
                return fd;
        if (ret_path)
                *ret_path = TAKE_PTR(path);
        return fd;
}

int area_open_on_top(int top, const char *dir, bool create, char **ret_path, Failure *reterr) {
        _cleanup_free_ char *at = strdup(dir), *path = NULL;
        _cleanup_close_ int base_fd = -1;
        Place here;
        char *slash;
        int fd, r;

        for (;;) {
                if (!at)
                        return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
                fd_close(base_fd);
                base_fd = fd_open_beneath(top, at, O_RDONLY | O_DIRECTORY, 0, false);
                r = base_fd < 0 ? base_fd : place_stat(base_fd, &here);
                if (r < 0)
                        return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r, "cannot open '/%s'",
                                          at);
                if (strcmp(at, ".") == 0 || place_is_subvolume(base_fd, &here))
                        break;
                slash = strrchr(at, '/');
                if (slash)
                        *slash = 0;
                else
                        strcpy(at, "."); /* a name has room for it */
        }
        path = text_printf("(top level)%s%s/" HP_AREA_NAME, strcmp(at, ".") == 0 ? "" : "/",
                           strcmp(at, ".") == 0 ? "" : at);
        if (!path)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        fd = open_in(base_fd, path, create, reterr);
        if (fd >= 0 && ret_path)
                *ret_path = TAKE_PTR(path);
        return fd;
}
