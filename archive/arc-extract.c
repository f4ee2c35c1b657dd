/*
 * Entries back to a tree. The tree is fresh and nobody else may enter it; still every path is
 * resolved beneath its root with no link followed, since an entry may lie about its parent.
 *
 * Children of a directory come as one run. The directory of the run is open, its times were noted
 * before its first child was made and are put back when the run ends, so one descriptor is enough.
 * What would forbid making children or further names waits: flags of directories to the very end
 * (they are few), flags of files are lifted for the moment in which a link is made.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "archive/arc-dir.h"
#include "archive/arc-internal.h"
#include "base/fd.h"

#define MADE_MODE                                                                                  \
        0700 /* of what has no entry of its own, and of all until its entry is applied             \
              */
#define PATH_BYTES ((size_t) (ARC_DEPTH_MAX + 16) * (ENTRY_NAME_MAX + 1) + PATH_MAX)
#define FILE_FLAGS (O_RDWR | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK | O_CLOEXEC)

/* A directory whose flags would have been in our way. */
typedef struct Locked {
        struct Locked *next;
        uint32_t flags;
        char path[];
} Locked;

struct ArcExtract {
        int parent_fd;
        char *name;
        int (*content)(void *userdata, const Entry *entry, int fd, Failure *reterr);
        bool (*interrupted)(void *userdata);
        void *userdata;
        int root_fd; /* -1: not made yet, or the root is not a directory */
        bool root_put;
        int dir_fd; /* the directory of the current run; -1: none */
        Buf dir;    /* its path, NUL-terminated */
        struct stat dir_stat;
        /* What new files of this run have of themselves, seen at the first; -1: not looked yet. */
        int inherits;
        Locked *locked; /* deepest last made first */
};

int arc_extract_new(const ArcExtractParams *params, ArcExtract **ret, Failure *reterr) {
        ArcExtract *x;

        if (!*params->name || strchr(params->name, '/') || !arc_path_is_clean(params->name))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "not a name for a restored tree");
        x = calloc(1, sizeof(*x));
        if (!x || !(x->name = strdup(params->name))) {
                free(x);
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "restoring a tree");
        }
        x->parent_fd = params->parent_fd;
        x->content = params->content;
        x->interrupted = params->interrupted;
        x->userdata = params->userdata;
        x->root_fd = x->dir_fd = -1;
        x->inherits = -1;
        x->dir = BUF_INIT(PATH_BYTES);
        *ret = x;
        return 0;
}

void arc_extract_free(ArcExtract *x) {
        if (!x)
                return;
        while (x->locked) {
                Locked *l = x->locked;

                x->locked = l->next;
                free(l);
        }
        fd_close(x->dir_fd);
        fd_close(x->root_fd);
        buf_done(&x->dir);
        free(x->name);
        free(x);
}

/* What a well-formed backup would not hold. */
static int refuse(Failure *reterr, const char *path, const char *why) {
        char shown[ARC_SHOWN_MAX];

        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EINVAL, "entry '%s' cannot be restored: %s",
                        arc_show(path, shown), why);
}

static int make_fail(Failure *reterr, int errnum, const char *path) {
        char shown[ARC_SHOWN_MAX];

        if (errnum == EEXIST)
                return refuse(reterr, path, "there is one of this name already");
        return fail_errno(reterr, fail_code_for_write(errnum, FAIL_NOT_RESTORABLE), errnum,
                          "'%s' cannot be made", arc_show(path, shown));
}

static int open_fail(Failure *reterr, int r, const char *path) {
        if (r == -ENOENT)
                return refuse(reterr, path, "its directory is not there");
        if (r == -ENOTDIR || r == -ELOOP || r == -EXDEV)
                return refuse(reterr, path, "what should be its directory is none");
        return make_fail(reterr, -r, path);
}

static int put_times(int fd, const struct stat *st) {
        struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, st->st_mtim };

        return futimens(fd, times) < 0 ? -errno : 0;
}

/* ---- directories ---- */

/* Ends the run of the current directory. */
static int leave(ArcExtract *x, Failure *reterr) {
        int r;

        if (x->dir_fd < 0)
                return 0;
        r = put_times(x->dir_fd, &x->dir_stat);
        x->dir_fd = fd_close(x->dir_fd);
        return r < 0 ? make_fail(reterr, -r, (const char *) x->dir.data) : 0;
}

static int is_empty(int fd) {
        _cleanup_(arc_dir_freep) ArcDir *names = NULL;
        int r = arc_dir_new(&names);

        if (r >= 0)
                r = arc_dir_read(names, fd);
        return r < 0 ? r : arc_dir_count(names) == 0;
}

/* The root as a directory, made or there and empty. */
static int open_root(ArcExtract *x, Failure *reterr) {
        _cleanup_close_ int fd = -1;
        bool made = true;
        int r;

        if (mkdirat(x->parent_fd, x->name, MADE_MODE) < 0) {
                if (errno != EEXIST)
                        return make_fail(reterr, errno, x->name);
                made = false;
        }
        fd = fd_open_beneath(x->parent_fd, x->name, O_RDONLY | O_DIRECTORY, 0, false);
        if (fd < 0)
                return make_fail(reterr, -fd, x->name);
        if (!made) {
                r = is_empty(fd);
                if (r < 0)
                        return make_fail(reterr, -r, x->name);
                if (r == 0)
                        return make_fail(reterr, ENOTEMPTY, x->name);
        }
        x->root_fd = TAKE_FD(fd);
        return 0;
}

/* Makes `name` in the open directory `dirfd` if it is missing, which does not count as a change of
 * it. */
static int make_parent(int dirfd, const char *name) {
        struct stat st;

        if (fstat(dirfd, &st) < 0)
                return -errno;
        if (mkdirat(dirfd, name, MADE_MODE) < 0)
                return errno == EEXIST ? 0 : -errno;
        return put_times(dirfd, &st);
}

static int open_parents(ArcExtract *x, const char *path, size_t n) {
        _cleanup_close_ int fd = -1;

        fd = arc_open_below(x->root_fd, "", 0);
        for (size_t at = 0; fd >= 0 && at < n;) {
                char name[ENTRY_NAME_MAX + 1];
                size_t part = strcspn(path + at, "/");
                int r, next;

                memcpy(name, path + at, part);
                name[part] = 0;
                r = make_parent(fd, name);
                if (r < 0)
                        return r;
                next = arc_open_below(fd, name, part);
                fd_close(fd);
                fd = next;
                at += part + 1;
        }
        return TAKE_FD(fd);
}

/* Makes the directory of `path`, its first n bytes, the current one. */
static int enter(ArcExtract *x, const char *path, size_t n, bool make_parents, Failure *reterr) {
        int r, fd;

        if (x->root_fd < 0 && (x->root_put || !make_parents))
                return refuse(reterr, path, "its directory is not there");
        if (x->dir_fd >= 0 && x->dir.size == n + 1 && memcmp(x->dir.data, path, n) == 0)
                return 0;
        r = leave(x, reterr);
        if (r < 0)
                return r;
        x->inherits = -1;
        if (x->root_fd < 0) {
                r = open_root(x, reterr);
                if (r < 0)
                        return r;
        }
        buf_clear(&x->dir);
        r = buf_put(&x->dir, path, n);
        if (r >= 0)
                r = buf_put_u8(&x->dir, 0);
        if (r < 0)
                return make_fail(reterr, -r, path);
        fd = arc_open_below(x->root_fd, path, n);
        if (fd == -ENOENT && make_parents)
                fd = open_parents(x, path, n);
        if (fd < 0)
                return open_fail(reterr, fd, path);
        if (fstat(fd, &x->dir_stat) < 0) {
                fd_close(fd);
                return make_fail(reterr, errno, path);
        }
        x->dir_fd = fd;
        return 0;
}

static int lock_later(ArcExtract *x, const char *path, uint32_t flags, Failure *reterr) {
        size_t n = strlen(path) + 1;
        Locked *l = malloc(sizeof(*l) + n);

        if (!l)
                return make_fail(reterr, ENOMEM, path);
        l->flags = flags;
        l->next = x->locked;
        memcpy(l->path, path, n);
        x->locked = l;
        return 0;
}

static int
apply_directory(ArcExtract *x, int fd, const char *path, const Entry *entry, Failure *reterr) {
        uint32_t late = entry->flags & ARC_FLAGS_LATE;
        int r;

        r = arc_meta_prepare(fd, entry, path, reterr);
        if (r >= 0)
                r = arc_meta_apply(fd, entry, ARC_FLAGS_MASK & ~ARC_FLAGS_LATE, path, reterr);
        if (r >= 0 && late)
                r = lock_later(x, path, late, reterr);
        return r;
}

static int put_directory(ArcExtract *x,
                         int dirfd,
                         const char *name,
                         const char *path,
                         const Entry *entry,
                         Failure *reterr) {
        _cleanup_close_ int fd = -1;

        if (mkdirat(dirfd, name, MADE_MODE) < 0)
                return make_fail(reterr, errno, path);
        fd = arc_open_below(dirfd, name, strlen(name));
        if (fd < 0)
                return make_fail(reterr, -fd, path);
        return apply_directory(x, fd, path, entry, reterr);
}

/* ---- all else ---- */

/*
 * The content, and the size where the content ends in a hole. The size comes second: for a small
 * file it would cost the file system more than all the rest.
 */
static int put_content(ArcExtract *x,
                       int fd,
                       const char *path,
                       const Entry *entry,
                       struct stat *st,
                       Failure *reterr) {
        int r;

        if (entry->size > 0) {
                r = x->content ? x->content(x->userdata, entry, fd, reterr) : -ENOTSUP;
                if (r < 0)
                        return make_fail(reterr, -r, path); /* keeps the reason already there */
        }
        if (fstat(fd, st) < 0)
                return make_fail(reterr, errno, path);
        if ((uint64_t) st->st_size == entry->size)
                return 0;
        if ((uint64_t) st->st_size > entry->size)
                return refuse(reterr, path, "its content is longer than it says");
        return ftruncate(fd, (off_t) entry->size) < 0 ? make_fail(reterr, errno, path) : 0;
}

/*
 * True if a file with neither flags nor attributes needs none taken away: all files of one run are
 * born alike, as nobody else can change their directory.
 */
static int is_plain(ArcExtract *x, int fd, const Entry *entry, const char *path, Failure *reterr) {
        if (x->inherits < 0)
                x->inherits = arc_meta_inherits(fd, path, reterr);
        if (x->inherits < 0)
                return x->inherits;
        return x->inherits == 0 && entry->n_xattrs == 0 && (entry->flags & ARC_FLAGS_MASK) == 0;
}

static int put_file(ArcExtract *x,
                    int dirfd,
                    const char *name,
                    const char *path,
                    const Entry *entry,
                    Failure *reterr) {
        _cleanup_close_ int fd = -1;
        struct stat st;
        int r, plain;

        if (entry->size > INT64_MAX)
                return refuse(reterr, path, "its size is impossible");
        fd = openat(dirfd, name, FILE_FLAGS | O_CREAT | O_EXCL, 0600);
        if (fd < 0)
                return make_fail(reterr, errno, path);
        r = plain = is_plain(x, fd, entry, path, reterr);
        if (plain == 0)
                r = arc_meta_prepare(fd, entry, path, reterr);
        if (r >= 0)
                r = put_content(x, fd, path, entry, &st, reterr);
        if (r < 0)
                return r;
        return plain ? arc_meta_apply_plain(fd, entry, &st, path, reterr)
                     : arc_meta_apply(fd, entry, ARC_FLAGS_MASK, path, reterr);
}

static int
put_special(int dirfd, const char *name, const char *path, const Entry *entry, Failure *reterr) {
        _cleanup_close_ int fd = -1;
        int r;

        if (entry->type == ENTRY_SYMLINK) {
                if (!entry->target || !*entry->target)
                        return refuse(reterr, path, "it is a link to nothing");
                r = symlinkat(entry->target, dirfd, name);
        } else if (entry->type == ENTRY_FIFO) {
                r = mknodat(dirfd, name, S_IFIFO | 0600, 0);
        } else {
                r = mknodat(dirfd, name, (entry->type == ENTRY_CHAR ? S_IFCHR : S_IFBLK) | 0600,
                            makedev(entry->major, entry->minor));
        }
        if (r < 0)
                return make_fail(reterr, errno, path);
        fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return make_fail(reterr, errno, path);
        return arc_meta_apply(fd, entry, 0, path, reterr);
}

/* linkat that is not stopped by flags the first name has got already; only files have any. */
static int link_unlocked(int from_fd, const char *from, int dirfd, const char *name, bool is_file) {
        _cleanup_close_ int fd = -1;
        unsigned flags = 0, lifted;
        int r;

        if (linkat(from_fd, from, dirfd, name, 0) == 0)
                return 0;
        r = -errno;
        if (r != -EPERM || !is_file)
                return r;
        fd = openat(from_fd, from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 || !(flags & ARC_FLAGS_LOCKING))
                return r;
        lifted = flags & ~ARC_FLAGS_LOCKING;
        if (ioctl(fd, FS_IOC_SETFLAGS, &lifted) < 0)
                return r;
        r = linkat(from_fd, from, dirfd, name, 0) < 0 ? -errno : 0;
        if (ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0 && r >= 0)
                r = -errno;
        return r;
}

static int put_link(ArcExtract *x,
                    int dirfd,
                    const char *name,
                    const char *path,
                    const char *link,
                    Failure *reterr) {
        _cleanup_close_ int from_fd = -1;
        const char *slash, *from;
        struct stat st;
        int r;

        if (!link || !*link || !arc_path_is_clean(link))
                return refuse(reterr, path, "it is a link to no proper path");
        slash = strrchr(link, '/');
        from = slash ? slash + 1 : link;
        from_fd = arc_open_below(x->root_fd, link, slash ? (size_t) (slash - link) : 0);
        if (from_fd < 0)
                return open_fail(reterr, from_fd, path);
        if (fstatat(from_fd, from, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? refuse(reterr, path, "the file it belongs to is not there")
                                       : make_fail(reterr, errno, path);
        if (S_ISDIR(st.st_mode))
                return refuse(reterr, path, "what it links to is a directory");
        r = link_unlocked(from_fd, from, dirfd, name, S_ISREG(st.st_mode));
        return r < 0 ? make_fail(reterr, -r, path) : 0;
}

static int put_object(ArcExtract *x,
                      int dirfd,
                      const char *name,
                      const char *path,
                      const Entry *entry,
                      const char *link,
                      Failure *reterr) {
        switch (entry->type) {
        case ENTRY_DIRECTORY:
                return put_directory(x, dirfd, name, path, entry, reterr);
        case ENTRY_FILE:
                return put_file(x, dirfd, name, path, entry, reterr);
        case ENTRY_SYMLINK:
        case ENTRY_FIFO:
        case ENTRY_CHAR:
        case ENTRY_BLOCK:
                return put_special(dirfd, name, path, entry, reterr);
        case ENTRY_HARDLINK:
                return put_link(x, dirfd, name, path, link, reterr);
        }
        return refuse(reterr, path, "its type is unknown");
}

static int put_root(ArcExtract *x, const Entry *entry, Failure *reterr) {
        int r;

        if (x->root_put || x->root_fd >= 0)
                return refuse(reterr, x->name, "the root comes first, and once");
        if (entry->type == ENTRY_HARDLINK)
                return refuse(reterr, x->name, "the root cannot be a link");
        x->root_put = true;
        if (entry->type != ENTRY_DIRECTORY)
                return put_object(x, x->parent_fd, x->name, x->name, entry, NULL, reterr);
        r = open_root(x, reterr);
        return r < 0 ? r : apply_directory(x, x->root_fd, "", entry, reterr);
}

int arc_extract_put(ArcExtract *x,
                    const char *path,
                    const Entry *entry,
                    const char *link,
                    bool make_parents,
                    Failure *reterr) {
        const char *slash;
        int r;

        if (x->interrupted && x->interrupted(x->userdata))
                return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
        if (!arc_path_is_clean(path))
                return refuse(reterr, path, "its path is not a proper relative one");
        if (*path == 0)
                return put_root(x, entry, reterr);
        slash = strrchr(path, '/');
        r = enter(x, path, slash ? (size_t) (slash - path) : 0, make_parents, reterr);
        if (r < 0)
                return r;
        return put_object(x, x->dir_fd, slash ? slash + 1 : path, path, entry, link, reterr);
}

int arc_extract_finish(ArcExtract *x, Failure *reterr) {
        int r = leave(x, reterr);

        while (r >= 0 && x->locked) {
                Locked *l = x->locked;
                _cleanup_close_ int fd = arc_open_below(x->root_fd, l->path, strlen(l->path));

                r = fd < 0 ? open_fail(reterr, fd, l->path)
                           : arc_flags_apply(fd, l->flags, ARC_FLAGS_LATE, l->path, reterr);
                x->locked = l->next;
                free(l);
        }
        return r;
}
