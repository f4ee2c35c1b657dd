#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

int fd_close(int fd) {
        if (fd >= 0) {
                int saved = errno;

                (void) close(fd); /* read-only or already synced: nothing left to report */
                errno = saved;
        }
        return -1;
}

ssize_t fd_read_full(int fd, void *data, size_t n) {
        size_t done = 0;

        while (done < n) {
                ssize_t r = read(fd, (char *) data + done, n - done);

                if (r < 0 && errno == EINTR)
                        continue;
                if (r < 0)
                        return -errno;
                if (r == 0)
                        break;
                done += (size_t) r;
        }
        return (ssize_t) done;
}

ssize_t fd_pread_full(int fd, void *data, size_t n, uint64_t offset) {
        size_t done = 0;

        while (done < n) {
                ssize_t r = pread(fd, (char *) data + done, n - done, (off_t) (offset + done));

                if (r < 0 && errno == EINTR)
                        continue;
                if (r < 0)
                        return -errno;
                if (r == 0)
                        break;
                done += (size_t) r;
        }
        return (ssize_t) done;
}

int fd_write_full(int fd, const void *data, size_t n) {
        size_t done = 0;

        while (done < n) {
                ssize_t r = write(fd, (const char *) data + done, n - done);

                if (r < 0 && errno == EINTR)
                        continue;
                if (r < 0)
                        return -errno;
                done += (size_t) r;
        }
        return 0;
}

int fd_pwrite_full(int fd, const void *data, size_t n, uint64_t offset) {
        size_t done = 0;

        while (done < n) {
                ssize_t r =
                        pwrite(fd, (const char *) data + done, n - done, (off_t) (offset + done));

                if (r < 0 && errno == EINTR)
                        continue;
                if (r < 0)
                        return -errno;
                done += (size_t) r;
        }
        return 0;
}

static int open_how(int dirfd, const char *path, int flags, mode_t mode, uint64_t resolve) {
        struct open_how how = {
                .flags = (uint64_t) (unsigned) (flags | O_CLOEXEC),
                .mode = flags & (O_CREAT | O_TMPFILE) ? mode : 0,
                .resolve = resolve,
        };
        long fd;

        do
                fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
        while (fd < 0 && (errno == EINTR || errno == EAGAIN));
        return fd < 0 ? -errno : (int) fd;
}

int fd_open_beneath(int dirfd, const char *path, int flags, mode_t mode, bool xdev) {
        const uint64_t resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS |
                                 (xdev ? 0 : RESOLVE_NO_XDEV);
        _cleanup_close_ int fd = -1;

        /* The kernel takes PATH_MAX bytes at once; trees may be deeper. */
        while (strlen(path) >= PATH_MAX) {
                char part[PATH_MAX];
                size_t n = PATH_MAX - 1;
                int next;

                while (n > 0 && path[n] != '/')
                        n--;
                if (n == 0)
                        return -ENAMETOOLONG;
                memcpy(part, path, n);
                part[n] = 0;
                next = open_how(fd < 0 ? dirfd : fd, part, O_PATH | O_DIRECTORY, 0, resolve);
                if (next < 0)
                        return next;
                fd_close(fd);
                fd = next;
                path += n + 1;
        }
        return open_how(fd < 0 ? dirfd : fd, path, flags, mode, resolve);
}

int fd_open_absolute(const char *path, int flags) {
        return open_how(AT_FDCWD, path, flags, 0, RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS);
}

int fd_reopen(int fd, int flags) {
        char path[32];
        int r;

        (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        r = open(path, flags | O_CLOEXEC);
        return r < 0 ? -errno : r;
}

int fd_wait_readable(int fd, int msec) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        int r = poll(&p, 1, msec);

        if (r < 0)
                return errno == EINTR ? 0 : -errno;
        return r > 0;
}
