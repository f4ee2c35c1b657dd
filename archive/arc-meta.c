/*
 * The metadata of one object, read into an Entry.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "archive/arc-internal.h"

#define LIST_BYTES  ((size_t) XATTR_LIST_MAX)
#define VALUE_BYTES ((size_t) XATTR_SIZE_MAX)
#define VALUES_MAX  (ARC_XATTRS_MAX * VALUE_BYTES)
#define PROC_FD_MAX 32

int arc_meta_new(ArcMeta **ret) {
        _cleanup_(arc_meta_freep) ArcMeta *m = calloc(1, sizeof(*m));

        if (!m)
                return -ENOMEM;
        m->values = BUF_INIT(VALUES_MAX);
        m->list = malloc(LIST_BYTES);
        if (!m->list)
                return -ENOMEM;
        *ret = TAKE_PTR(m);
        return 0;
}

void arc_meta_free(ArcMeta *m) {
        if (!m)
                return;
        free(m->list);
        buf_done(&m->values);
        free(m);
}

/*
 * Extended attributes of what cannot be opened are reached through /proc/self/fd: the magic link
 * leads to the pinned inode itself, also when that is a symbolic link.
 */
static const char *proc_path(int fd, char buf[PROC_FD_MAX]) {
        (void) snprintf(buf, PROC_FD_MAX, "/proc/self/fd/%d", fd);
        return buf;
}

/* ---- reading ---- */

static ssize_t xattr_list(const ArcObject *o, char *list, size_t n) {
        char proc[PROC_FD_MAX];

        return o->fd >= 0 ? flistxattr(o->fd, list, n)
                          : listxattr(proc_path(o->path_fd, proc), list, n);
}

static ssize_t xattr_value(const ArcObject *o, const char *name, void *value, size_t n) {
        char proc[PROC_FD_MAX];

        return o->fd >= 0 ? fgetxattr(o->fd, name, value, n)
                          : getxattr(proc_path(o->path_fd, proc), name, value, n);
}

static int xattr_compare(const void *a, const void *b) {
        return strcmp(((const EntryXattr *) a)->name, ((const EntryXattr *) b)->name);
}

static int
read_xattrs(ArcMeta *m, const ArcObject *o, const char *path, Entry *ret, Failure *reterr) {
        size_t offsets[ARC_XATTRS_MAX], n = 0;
        char shown[ARC_SHOWN_MAX];
        ssize_t size;
        int r;

        size = xattr_list(o, m->list, LIST_BYTES);
        if (size <= 0) {
                if (size == 0 || errno == EOPNOTSUPP)
                        return 0;
                return fail_errno(reterr, FAIL_SOURCE_MISSING, errno,
                                  "extended attributes of '%s' cannot be listed",
                                  arc_show(path, shown));
        }
        buf_clear(&m->values);
        for (const char *name = m->list; name < m->list + size; name += strlen(name) + 1) {
                ssize_t got;

                if (n == ARC_XATTRS_MAX)
                        return fail_set(reterr, FAIL_NOT_RESTORABLE, E2BIG,
                                        "'%s' has more than %d extended attributes",
                                        arc_show(path, shown), ARC_XATTRS_MAX);
                r = buf_reserve(&m->values, VALUE_BYTES);
                if (r < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, -r, "extended attributes");
                got = xattr_value(o, name, m->values.data + m->values.size, VALUE_BYTES);
                if (got < 0 && errno == ENODATA)
                        continue; /* removed since it was listed */
                if (got < 0)
                        return fail_errno(reterr, FAIL_SOURCE_MISSING, errno,
                                          "extended attribute %s of '%s' cannot be read", name,
                                          arc_show(path, shown));
                offsets[n] = m->values.size;
                m->xattrs[n++] = (EntryXattr){ .name = name, .size = (uint32_t) got };
                m->values.size += (size_t) got;
        }
        for (size_t i = 0; i < n; i++) /* only now the buffer stays where it is */
                m->xattrs[i].value = m->values.data + offsets[i];
        qsort(m->xattrs, n, sizeof(*m->xattrs), xattr_compare);
        ret->xattrs = m->xattrs;
        ret->n_xattrs = n;
        return 0;
}

static int read_flags(const ArcObject *o, const char *path, Entry *ret, Failure *reterr) {
        char shown[ARC_SHOWN_MAX];
        unsigned flags = 0; /* the kernel writes 32 bits, whatever the ioctl's number says */

        if (ioctl(o->fd, FS_IOC_GETFLAGS, &flags) == 0) {
                ret->flags = flags & ARC_FLAGS_MASK;
                return 0;
        }
        if (errno == ENOTTY || errno == EOPNOTSUPP || errno == ENOSYS)
                return 0;
        return fail_errno(reterr, FAIL_SOURCE_MISSING, errno, "flags of '%s' cannot be read",
                          arc_show(path, shown));
}

static bool has_holes(const ArcObject *o) {
        off_t hole;

        if (o->stx.stx_blocks * 512 >= o->stx.stx_size)
                return false;
        hole = lseek(o->fd, 0, SEEK_HOLE);
        (void) lseek(o->fd, 0, SEEK_SET); /* readers use pread; this is for tidiness */
        return hole >= 0 && (uint64_t) hole < o->stx.stx_size;
}

static int
read_link(ArcMeta *m, const ArcObject *o, const char *path, Entry *ret, Failure *reterr) {
        ssize_t n = readlinkat(o->path_fd, "", m->target, sizeof(m->target));
        char shown[ARC_SHOWN_MAX];

        if (n >= 0 && (size_t) n < sizeof(m->target)) {
                m->target[n] = 0;
                ret->target = m->target;
                return 0;
        }
        return fail_errno(reterr, FAIL_SOURCE_MISSING, n < 0 ? errno : ENAMETOOLONG,
                          "symbolic link '%s' cannot be read", arc_show(path, shown));
}

static EntryType type_of(uint32_t mode) {
        switch (mode & S_IFMT) {
        case S_IFDIR:
                return ENTRY_DIRECTORY;
        case S_IFREG:
                return ENTRY_FILE;
        case S_IFLNK:
                return ENTRY_SYMLINK;
        case S_IFIFO:
                return ENTRY_FIFO;
        case S_IFCHR:
                return ENTRY_CHAR;
        case S_IFBLK:
                return ENTRY_BLOCK;
        default:
                return 0;
        }
}

int arc_meta_read(ArcMeta *m, const ArcObject *o, const char *path, Entry *ret, Failure *reterr) {
        const struct statx *stx = &o->stx;
        char shown[ARC_SHOWN_MAX];
        int r = 0;

        *ret = (Entry){
                .type = type_of(stx->stx_mode),
                .mode = stx->stx_mode & 07777,
                .uid = stx->stx_uid,
                .gid = stx->stx_gid,
                .mtime_sec = stx->stx_mtime.tv_sec,
                .mtime_nsec = stx->stx_mtime.tv_nsec,
        };
        switch (ret->type) {
        case ENTRY_FILE:
                ret->size = stx->stx_size;
                ret->class = ret->size > 0 ? ENTRY_CLASS_LARGE : ENTRY_CLASS_NONE;
                ret->sparse = has_holes(o);
                r = read_flags(o, path, ret, reterr);
                break;
        case ENTRY_DIRECTORY:
                r = read_flags(o, path, ret, reterr);
                break;
        case ENTRY_SYMLINK:
                r = read_link(m, o, path, ret, reterr);
                break;
        case ENTRY_CHAR:
        case ENTRY_BLOCK:
                ret->major = stx->stx_rdev_major;
                ret->minor = stx->stx_rdev_minor;
                break;
        case ENTRY_FIFO:
                break;
        case ENTRY_HARDLINK:
        default:
                return fail_set(reterr, FAIL_NOT_RESTORABLE, EOPNOTSUPP,
                                "'%s' is a socket, which only its program can make",
                                arc_show(path, shown));
        }
        return r < 0 ? r : read_xattrs(m, o, path, ret, reterr);
}

int arc_stat(int dirfd, const char *name, ArcStat *ret, Failure *reterr) {
        _cleanup_(arc_object_done) ArcObject object = ARC_OBJECT_INIT;
        _cleanup_(arc_meta_freep) ArcMeta *meta = NULL;
        char shown[ARC_SHOWN_MAX];
        Entry entry;
        int r;

        r = arc_meta_new(&meta);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "metadata");
        r = arc_object_open(dirfd, name, &object);
        if (r < 0)
                return fail_errno(reterr, FAIL_SOURCE_MISSING, -r, "'%s' cannot be opened",
                                  arc_show(name, shown));
        r = arc_meta_read(meta, &object, name, &entry, reterr);
        if (r < 0)
                return r;
        ret->entry = entry;
        arc_local(&object.stx, &ret->local);
        ret->store = TAKE_PTR(meta);
        return 0;
}

void arc_stat_done(ArcStat *s) {
        arc_meta_free(s->store);
        *s = (ArcStat){ 0 };
}
