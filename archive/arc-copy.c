/*
 * A tree copied within this machine: the walk feeds the extractor, so a copy keeps exactly what a
 * backup keeps. Data is shared with the source where the file system can, else copied extent by
 * extent.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "archive/arc-internal.h"
#include "base/fd.h"
#include "base/text.h"

#define COPY_STEP   ((size_t) 8 << 20) /* between two looks at `interrupted` */
#define COPY_BUFFER ((size_t) 256 << 10)

/* ---- content ---- */

typedef struct CopyData {
        int src_fd, dst_fd;
        bool in_kernel; /* copy_file_range() has not been refused yet */
        char *buffer;
        uint64_t copied;
} CopyData;

/* Copies some of [offset, end). The count, 0 where the source ends early, or negative errno. */
static ssize_t copy_some(CopyData *c, uint64_t offset, uint64_t end) {
        size_t n = end - offset < COPY_STEP ? (size_t) (end - offset) : COPY_STEP;
        ssize_t got;
        int r;

        if (c->in_kernel) {
                off_t in = (off_t) offset, out = in;

                do
                        got = copy_file_range(c->src_fd, &in, c->dst_fd, &out, n, 0);
                while (got < 0 && errno == EINTR);
                if (got > 0)
                        return got;
                if (got < 0 && errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP &&
                    errno != ENOSYS)
                        return -errno;
                c->in_kernel = false; /* 0 too: some file systems say it without meaning it */
        }
        if (!c->buffer && !(c->buffer = malloc(COPY_BUFFER)))
                return -ENOMEM;
        got = fd_pread_full(c->src_fd, c->buffer, n < COPY_BUFFER ? n : COPY_BUFFER, offset);
        if (got <= 0)
                return got;
        r = fd_pwrite_full(c->dst_fd, c->buffer, (size_t) got, offset);
        return r < 0 ? r : got;
}

static int copy_extents(CopyData *c, uint64_t size, bool (*interrupted)(void *), void *userdata) {
        off_t data = 0, hole;

        while ((uint64_t) data < size) {
                data = lseek(c->src_fd, data, SEEK_DATA);
                if (data < 0)
                        return errno == ENXIO ? 0 : -errno; /* nothing but a hole is left */
                hole = lseek(c->src_fd, data, SEEK_HOLE);
                if (hole < 0)
                        return errno == ENXIO ? 0 : -errno;
                while (data < hole) {
                        ssize_t n;

                        if (interrupted && interrupted(userdata))
                                return -ECANCELED;
                        n = copy_some(c, (uint64_t) data, (uint64_t) hole);
                        if (n < 0)
                                return (int) n;
                        if (n == 0)
                                return 0;
                        c->copied += (uint64_t) n;
                        data += n;
                }
        }
        return 0;
}

int arc_copy_data(int src_fd,
                  int dst_fd,
                  bool (*interrupted)(void *),
                  void *userdata,
                  uint64_t *ret_copied) {
        CopyData c = { .src_fd = src_fd, .dst_fd = dst_fd, .in_kernel = true };
        struct stat st;
        int r;

        if (fstat(src_fd, &st) < 0)
                return -errno;
        if (ioctl(dst_fd, FICLONE, src_fd) == 0)
                return 0;
        if (errno != EOPNOTSUPP && errno != EXDEV && errno != EINVAL && errno != ENOTTY &&
            errno != ENOSYS)
                return -errno;
        if (ftruncate(dst_fd, st.st_size) < 0)
                return -errno;
        r = copy_extents(&c, (uint64_t) st.st_size, interrupted, userdata);
        free(c.buffer);
        if (ret_copied)
                *ret_copied += c.copied;
        return r;
}

int arc_copy_content(int src_fd, int dst_fd, uint64_t *ret_copied) {
        return arc_copy_data(src_fd, dst_fd, NULL, NULL, ret_copied);
}

/* ---- trees ---- */

typedef struct CopyTree {
        ArcExtract *extract;
        Buf path;      /* of the object in the copy */
        size_t prefix; /* how much of the walk's paths stands for the root */
        const EntryLocal *local;
        int fd; /* the file being copied */
        uint64_t copied;
        bool (*interrupted)(void *);
        void *userdata;
        Failure *reterr;
} CopyTree;

/* A copy of a file that was written meanwhile would be neither the old one nor the new. */
static int check_unchanged(const CopyTree *c, Failure *reterr) {
        struct statx stx;
        EntryLocal now;
        int r = arc_statx(c->fd, "", &stx);

        if (r < 0)
                return r;
        arc_local(&stx, &now);
        if (now.size != c->local->size || now.mtime_sec != c->local->mtime_sec ||
            now.mtime_nsec != c->local->mtime_nsec)
                return fail_set(reterr, FAIL_TARGET_IN_USE, EBUSY,
                                "'%.300s' changed while it was copied; stop what writes to it",
                                (const char *) c->path.data);
        return 0;
}

static int copy_on_content(void *userdata, const Entry *entry, int fd, Failure *reterr) {
        CopyTree *c = userdata;
        int r = arc_copy_data(c->fd, fd, c->interrupted, c->userdata, &c->copied);

        if (r == -ECANCELED)
                return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
        return r < 0 ? r : check_unchanged(c, reterr);
}

static int copy_on_entry(void *userdata,
                         const Entry *entry,
                         const EntryLocal *local,
                         int fd,
                         Failure *reterr) {
        CopyTree *c = userdata;
        const char *path, *link = NULL;
        int r;

        buf_clear(&c->path);
        r = buf_put(&c->path, entry->dir, strlen(entry->dir));
        if (r >= 0 && entry->dir[1])
                r = buf_put_u8(&c->path, '/');
        if (r >= 0)
                r = buf_put(&c->path, entry->name, strlen(entry->name) + 1);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "copying a tree");
        path = (const char *) c->path.data + c->prefix;
        if (entry->type == ENTRY_HARDLINK)
                link = entry->target + c->prefix + 1;
        c->local = local;
        c->fd = fd;
        return arc_extract_put(c->extract, *path ? path + 1 : path, entry, link, false, reterr);
}

static int
copy_on_problem(void *userdata, const char *service, const char *path, const Failure *why) {
        CopyTree *c = userdata;
        if (why->code == FAIL_NONE)
                return 0; /* a socket: dead without its program, which makes it again */
        return fail_set(c->reterr, why->code, why->errnum, "%s", why->text);
}

static bool copy_on_interrupted(void *userdata) {
        const CopyTree *c = userdata;

        return c->interrupted && c->interrupted(c->userdata);
}

static void copy_tree_done(CopyTree *c) {
        arc_extract_free(c->extract);
        buf_done(&c->path);
}

/* The walk wants an absolute path: the tree is taken for a child of "/". */
static int copy_walk(CopyTree *c, int src_dirfd, const char *src_name, Failure *reterr) {
        _cleanup_free_ char *path = text_printf("/%s", src_name);
        _cleanup_close_ int fd = -1;
        char shown[ARC_SHOWN_MAX];
        ArcSink sink = {
                .entry = copy_on_entry,
                .problem = copy_on_problem,
                .interrupted = copy_on_interrupted,
                .userdata = c,
        };
        ArcRoot root = { .service = "", .path = path };
        int r;

        if (!path)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "copying a tree");
        c->prefix = strlen(path);
        fd = openat(src_dirfd, src_name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return fail_errno(reterr, FAIL_SOURCE_MISSING, errno, "'%s' cannot be opened",
                                  arc_show(src_name, shown));
        root.fd = fd;
        r = arc_walk(&root, 1, &sink, reterr);
        return r < 0 ? r : arc_extract_finish(c->extract, reterr);
}

int arc_copy_tree(int src_dirfd,
                  const char *src_name,
                  int dst_dirfd,
                  const char *dst_name,
                  bool (*interrupted)(void *),
                  void *userdata,
                  uint64_t *ret_bytes,
                  Failure *reterr) {
        _cleanup_(copy_tree_done) CopyTree c = {
                .interrupted = interrupted,
                .userdata = userdata,
                .reterr = reterr,
                .path = BUF_INIT((size_t) ARC_DEPTH_MAX * (ENTRY_NAME_MAX + 2)),
        };
        ArcExtractParams params = {
                .parent_fd = dst_dirfd,
                .name = dst_name,
                .content = copy_on_content,
                .interrupted = copy_on_interrupted,
                .userdata = &c,
        };
        int r;

        if (!*src_name || strchr(src_name, '/') || !arc_path_is_clean(src_name))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "not a name to copy");
        r = arc_extract_new(&params, &c.extract, reterr);
        if (r >= 0)
                r = copy_walk(&c, src_dirfd, src_name, reterr);
        if (ret_bytes)
                *ret_bytes += c.copied;
        return r;
}
