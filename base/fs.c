#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/text.h"

#define REMOVE_DEPTH_MAX 4096
#define REMOVE_OPEN_MAX  100 /* directories open at once, unless one cannot be moved */

int fs_sync(int fd) {
        return fsync(fd) < 0 ? -errno : 0;
}

int fs_open_dir(int dirfd, const char *name) {
        int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        return fd < 0 ? -errno : fd;
}

int fs_ensure_dir(int dirfd, const char *name, mode_t mode) {
        _cleanup_close_ int fd = -1;
        int r;

        if (mkdirat(dirfd, name, mode) < 0) {
                if (errno != EEXIST)
                        return -errno;
                return fs_open_dir(dirfd, name);
        }
        fd = fs_open_dir(dirfd, name);
        if (fd < 0)
                return fd;
        if (fchmod(fd, mode) < 0) /* the umask took its share */
                return -errno;
        r = fs_sync(fd);
        if (r < 0)
                return r;
        /* dirfd may be O_PATH or AT_FDCWD: sync what ".." is. */
        _cleanup_close_ int parent = openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (parent < 0)
                return -errno;
        r = fs_sync(parent);
        return r < 0 ? r : TAKE_FD(fd);
}

int fs_ensure_path(const char *path, mode_t mode) {
        _cleanup_free_ char *copy = strdup(path);
        _cleanup_close_ int fd = -1;
        char *save = NULL, *next;

        if (!copy)
                return -ENOMEM;
        if (*path != '/')
                return -EINVAL;
        fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        for (char *part = strtok_r(copy, "/", &save); part; part = next) {
                int child;

                next = strtok_r(NULL, "/", &save);
                /* A trusted path of root's configuration: a link in it is the administrator's. */
                child = openat(fd, part, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (child < 0 && errno == ENOENT)
                        child = fs_ensure_dir(fd, part, next ? 0755 : mode);
                else if (child < 0)
                        child = -errno;
                if (child < 0)
                        return child;
                fd_close(fd);
                fd = child;
        }
        return TAKE_FD(fd);
}

int fs_write_atomic(int dirfd, const char *name, const void *data, size_t n, mode_t mode) {
        _cleanup_free_ char *tmp = NULL;
        _cleanup_close_ int fd = -1;
        uint8_t random[16];
        char text[UUID_TEXT_MAX];
        int r;

        r = text_uuid_new(random);
        if (r < 0)
                return r;
        text_uuid_format(random, text);
        tmp = text_printf(".tmp-%s", text);
        if (!tmp)
                return -ENOMEM;
        fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
        if (fd < 0)
                return -errno;
        r = fchmod(fd, mode) < 0 ? -errno : fd_write_full(fd, data, n); /* as above */
        if (r >= 0)
                r = fs_sync(fd);
        if (r >= 0 && renameat(dirfd, tmp, dirfd, name) < 0)
                r = -errno;
        if (r < 0) {
                (void) unlinkat(dirfd, tmp, 0); /* already failing; a leftover .tmp- is harmless */
                return r;
        }
        return fs_sync(dirfd);
}

int fs_read_file(int dirfd, const char *name, size_t max, Buf *ret) {
        _cleanup_close_ int fd = -1;
        struct stat st;
        ssize_t n;
        int r;

        fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        if ((uint64_t) st.st_size > max)
                return -EFBIG;
        if (st.st_size == 0)
                return 0; /* an empty Buf has no memory to read into */
        r = buf_reserve(ret, (size_t) st.st_size);
        if (r < 0)
                return r;
        n = fd_read_full(fd, ret->data + ret->size, (size_t) st.st_size);
        if (n < 0)
                return (int) n;
        ret->size += (size_t) n;
        return 0;
}

int fs_open_lock(int dirfd, const char *name) {
        int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

        if (fd < 0 && errno == EROFS)
                fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

int fs_unlink_durable(int dirfd, const char *name) {
        if (unlinkat(dirfd, name, 0) < 0)
                return errno == ENOENT ? 0 : -errno;
        return fs_sync(dirfd);
}

/* Immutable and append-only files cannot be unlinked; their owner is a tree we are told to remove.
 */
static void clear_flags(int dirfd, const char *name) {
        _cleanup_close_ int fd = -1;
        int flags;

        fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
                return;
        if (flags & (FS_IMMUTABLE_FL | FS_APPEND_FL)) {
                flags &= ~(FS_IMMUTABLE_FL | FS_APPEND_FL);
                (void) ioctl(fd, FS_IOC_SETFLAGS, &flags); /* the unlink that follows will tell */
        }
}

static int remove_one(int dirfd, const char *name, int flags) {
        if (unlinkat(dirfd, name, flags) == 0)
                return 0;
        if (errno == EPERM) {
                clear_flags(dirfd, name);
                if (unlinkat(dirfd, name, flags) == 0)
                        return 0;
        }
        return errno == ENOENT ? 0 : -errno;
}

typedef struct Removal {
        int top; /* the directory that is removed */
        dev_t dev;
        uint64_t moved;
        bool (*interrupted)(void *);
        void *userdata;
} Removal;

/* Trees may be deeper than we may have descriptors: what lies too deep goes on from the top. */
static bool move_up(Removal *m, int dirfd, const char *name) {
        uint8_t random[16];
        char to[UUID_TEXT_MAX];

        if (text_uuid_new(random) < 0)
                return false;
        text_uuid_format(random, to);
        clear_flags(dirfd, name);
        if (renameat2(dirfd, name, m->top, to, RENAME_NOREPLACE) < 0)
                return false;
        m->moved++;
        return true;
}

static int remove_level(Removal *m, int dirfd, const char *name, unsigned depth);

/* Removes what is in the directory `fd`, which `d` reads. */
static int remove_entries(Removal *m, DIR *d, int fd, unsigned depth) {
        struct dirent *e;
        int r;

        rewinddir(d);
        while ((errno = 0, e = readdir(d))) {
                if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                        continue;
                if (m->interrupted && m->interrupted(m->userdata))
                        return -ECANCELED;
                if (e->d_type != DT_DIR && e->d_type != DT_UNKNOWN)
                        r = remove_one(fd, e->d_name, 0);
                else if (depth >= REMOVE_OPEN_MAX && move_up(m, fd, e->d_name))
                        r = 0;
                else
                        r = remove_level(m, fd, e->d_name, depth + 1);
                if (r < 0)
                        return r;
        }
        return -errno;
}

static int remove_level(Removal *m, int dirfd, const char *name, unsigned depth) {
        _cleanup_dir_ DIR *d = NULL;
        struct stat st;
        uint64_t moved;
        int fd, r;

        if (depth > REMOVE_DEPTH_MAX)
                return -ELOOP;
        fd = fs_open_dir(dirfd, name);
        if (fd == -ENOTDIR || fd == -ELOOP)
                return remove_one(dirfd, name, 0);
        if (fd < 0)
                return fd == -ENOENT ? 0 : fd;
        d = fdopendir(fd);
        if (!d) {
                r = -errno;
                fd_close(fd);
                return r;
        }
        if (fstat(fd, &st) < 0)
                return -errno;
        if (depth == 0) {
                m->top = fd;
                m->dev = st.st_dev;
        } else if (st.st_dev != m->dev)
                return -EXDEV;
        clear_flags(fd, ".");
        do {
                moved = m->moved;
                r = remove_entries(m, d, fd, depth);
        } while (r >= 0 && depth == 0 && m->moved > moved);
        return r < 0 ? r : remove_one(dirfd, name, AT_REMOVEDIR);
}

int fs_remove_tree(int dirfd, const char *name, bool (*interrupted)(void *), void *userdata) {
        Removal m = { .top = -1, .interrupted = interrupted, .userdata = userdata };

        return remove_level(&m, dirfd, name, 0);
}

int fs_space(int fd, uint64_t *ret_free, uint64_t *ret_total) {
        struct statvfs s;

        if (fstatvfs(fd, &s) < 0)
                return -errno;
        if (ret_free)
                *ret_free = (uint64_t) s.f_bavail * s.f_frsize;
        if (ret_total)
                *ret_total = (uint64_t) s.f_blocks * s.f_frsize;
        return 0;
}
