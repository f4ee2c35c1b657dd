/*
 * All names go into one block, each found by a 32-bit offset and led by what else the directory
 * says: 300 000 names cost their bytes and thirteen more each.
 */

#include "archive/arc-dir.h"

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/entry.h"

#define NAMES_BYTES   ((size_t) 512 << 20)
#define READ_BYTES    ((size_t) 64 << 10)
#define OFFSETS_FIRST 256

/* What stands before a name: inode number, type. */
#define LEAD (sizeof(uint64_t) + 1)

struct ArcDir {
        Buf names;
        uint32_t *offsets;
        size_t n, n_allocated;
        char *block; /* what getdents fills */
};

int arc_dir_new(ArcDir **ret) {
        _cleanup_(arc_dir_freep) ArcDir *d = calloc(1, sizeof(*d));

        if (!d)
                return -ENOMEM;
        d->names = BUF_INIT(NAMES_BYTES);
        d->block = malloc(READ_BYTES);
        if (!d->block)
                return -ENOMEM;
        *ret = TAKE_PTR(d);
        return 0;
}

void arc_dir_free(ArcDir *d) {
        if (!d)
                return;
        buf_done(&d->names);
        free(d->offsets);
        free(d->block);
        free(d);
}

static int add_name(ArcDir *d, const char *name, uint64_t ino, uint8_t type) {
        size_t n = strlen(name), offset = d->names.size + LEAD;
        int r;

        /* The kernel promises this much; a file system in user space is somebody's program. */
        if (n == 0 || n > ENTRY_NAME_MAX || strchr(name, '/'))
                return -EIO;
        if (d->n == d->n_allocated) {
                size_t want = d->n_allocated ? d->n_allocated * 2 : OFFSETS_FIRST;
                uint32_t *p = reallocarray(d->offsets, want, sizeof(*p));

                if (!p)
                        return -ENOMEM;
                d->offsets = p;
                d->n_allocated = want;
        }
        r = buf_put(&d->names, &ino, sizeof(ino));
        if (r >= 0)
                r = buf_put_u8(&d->names, type);
        if (r >= 0)
                r = buf_put(&d->names, name, n + 1);
        if (r < 0)
                return r;
        d->offsets[d->n++] = (uint32_t) offset;
        return 0;
}

static int compare_names(const void *a, const void *b, void *names) {
        return strcmp((const char *) names + *(const uint32_t *) a,
                      (const char *) names + *(const uint32_t *) b);
}

static int read_block(ArcDir *d, int fd) {
        ssize_t n = getdents64(fd, d->block, READ_BYTES);
        int r = 0;

        if (n < 0)
                return -errno;
        for (ssize_t at = 0; r >= 0 && at < n;) {
                const struct dirent64 *e = (const void *) (d->block + at);

                at += e->d_reclen;
                if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
                        r = add_name(d, e->d_name, e->d_ino, e->d_type);
        }
        return r < 0 ? r : n > 0;
}

int arc_dir_read(ArcDir *d, int fd) {
        size_t kept = 0;
        int r;

        buf_clear(&d->names);
        d->n = 0;
        r = lseek(fd, 0, SEEK_SET) < 0 ? -errno : 1;
        while (r > 0)
                r = read_block(d, fd);
        if (d->n == 0)
                return r;
        qsort_r(d->offsets, d->n, sizeof(*d->offsets), compare_names, d->names.data);
        /* A directory that changes while it is read may name a thing twice. */
        for (size_t i = 1; i < d->n; i++)
                if (strcmp(arc_dir_name(d, kept), arc_dir_name(d, i)) != 0)
                        d->offsets[++kept] = d->offsets[i];
        d->n = kept + 1;
        return r;
}

size_t arc_dir_count(const ArcDir *d) {
        return d->n;
}

const char *arc_dir_name(const ArcDir *d, size_t i) {
        return (const char *) d->names.data + d->offsets[i];
}

uint64_t arc_dir_ino(const ArcDir *d, size_t i) {
        uint64_t ino;

        memcpy(&ino, d->names.data + d->offsets[i] - LEAD, sizeof(ino));
        return ino;
}

unsigned arc_dir_type(const ArcDir *d, size_t i) {
        return d->names.data[d->offsets[i] - 1];
}
