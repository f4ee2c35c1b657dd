/*
 * Finding and opening one object of a tree whose owner may change it at any moment.
 *
 * An object is pinned with O_PATH first, looked at, and only then, if it is a file or a directory,
 * opened through /proc/self/fd: a name that turns into a FIFO, a device or a link between two calls
 * is seen, never opened.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "archive/arc-internal.h"
#include "base/fd.h"
#include "base/text.h"

#define SHOWN_HEAD 120

const char *arc_show(const char *path, char buf[ARC_SHOWN_MAX]) {
        _cleanup_free_ char *text = text_escape(path);
        size_t n, head = SHOWN_HEAD, tail;

        if (!text)
                return strcpy(buf, "?");
        n = strlen(text);
        if (n < ARC_SHOWN_MAX)
                return memcpy(buf, text, n + 1);
        /* Cut where a character begins: messages are UTF-8. */
        while (head > 0 && (text[head] & 0xc0) == 0x80)
                head--;
        tail = n - (ARC_SHOWN_MAX - SHOWN_HEAD - 8);
        while ((text[tail] & 0xc0) == 0x80)
                tail++;
        (void) snprintf(buf, ARC_SHOWN_MAX, "%.*s...%s", (int) head, text, text + tail);
        return buf;
}

bool arc_path_is_clean(const char *path) {
        const char *p = path;

        if (*p == 0)
                return true;
        for (;;) {
                size_t n = strcspn(p, "/");

                if (n == 0 || n > ENTRY_NAME_MAX || (n == 1 && p[0] == '.') ||
                    (n == 2 && p[0] == '.' && p[1] == '.'))
                        return false;
                p += n;
                if (*p == 0)
                        return true;
                p++;
        }
}

int arc_open_below(int dirfd, const char *path, size_t n) {
        _cleanup_free_ char *below = strndup(path, n);

        if (!below)
                return -ENOMEM;
        return fd_open_beneath(dirfd, n > 0 ? below : ".", O_RDONLY | O_DIRECTORY, 0, false);
}

int arc_statx(int dirfd, const char *name, struct statx *ret) {
        if (statx(dirfd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH,
                  STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID, ret) < 0)
                return -errno;
        return 0;
}

bool arc_same_inode(const struct statx *a, const struct statx *b) {
        return a->stx_ino == b->stx_ino && a->stx_dev_major == b->stx_dev_major &&
               a->stx_dev_minor == b->stx_dev_minor &&
               (a->stx_mode & S_IFMT) == (b->stx_mode & S_IFMT);
}

void arc_local(const struct statx *stx, EntryLocal *ret) {
        *ret = (EntryLocal){
                .ino = stx->stx_ino,
                .size = stx->stx_size,
                .mtime_sec = stx->stx_mtime.tv_sec,
                .mtime_nsec = stx->stx_mtime.tv_nsec,
                .ctime_sec = stx->stx_ctime.tv_sec,
                .ctime_nsec = stx->stx_ctime.tv_nsec,
                .mode = stx->stx_mode,
                .nlink = stx->stx_nlink,
                .uid = stx->stx_uid,
                .gid = stx->stx_gid,
        };
}

/* O_NOATIME is for owners and CAP_FOWNER alone; without it a backup still works. */
static int reopen(int path_fd, int flags) {
        int fd = fd_reopen(path_fd, flags | O_NOATIME);

        return fd == -EPERM ? fd_reopen(path_fd, flags) : fd;
}

int arc_object_open(int dirfd, const char *name, ArcObject *ret) {
        _cleanup_close_ int path_fd = -1;
        struct statx stx;
        int fd = -1, r;

        if (*name == 0)
                path_fd = fcntl(dirfd, F_DUPFD_CLOEXEC, 3);
        else
                path_fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (path_fd < 0)
                return -errno;
        r = arc_statx(path_fd, "", &stx);
        if (r < 0)
                return r;
        if (S_ISREG(stx.stx_mode))
                fd = reopen(path_fd, O_RDONLY | O_NONBLOCK | O_NOCTTY);
        else if (S_ISDIR(stx.stx_mode))
                fd = reopen(path_fd, O_RDONLY | O_DIRECTORY);
        if (fd < 0 && (S_ISREG(stx.stx_mode) || S_ISDIR(stx.stx_mode)))
                return fd;
        *ret = (ArcObject){ .path_fd = TAKE_FD(path_fd), .fd = fd, .stx = stx };
        return 0;
}

int arc_object_open_file(int dirfd, const char *name, ArcObject *ret) {
        const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
        _cleanup_close_ int fd = -1;
        struct statx stx;
        int r;

        fd = openat(dirfd, name, flags | O_NOATIME);
        if (fd < 0 && errno == EPERM)
                fd = openat(dirfd, name, flags);
        if (fd < 0)
                return -errno;
        r = arc_statx(fd, "", &stx);
        if (r < 0)
                return r;
        if (!S_ISREG(stx.stx_mode))
                return -ESTALE;
        *ret = (ArcObject){ .path_fd = -1, .fd = TAKE_FD(fd), .stx = stx };
        return 0;
}

void arc_object_done(ArcObject *o) {
        o->path_fd = fd_close(o->path_fd);
        o->fd = fd_close(o->fd);
}
