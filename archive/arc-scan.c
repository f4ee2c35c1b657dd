/*
 * The names of a listing are taken a window at a time. Their inode numbers, sorted, make ranges
 * with few strangers in between, and each range is one search of the subvolume's tree. Whatever is
 * not understood, missing or refused is simply not known: then the caller looks for himself.
 */

#include "archive/arc-scan.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/cleanup.h"

#define WINDOW     1024 /* names looked up together */
#define FEW        64   /* a listing this short is not worth a search */
#define GAP_MAX    16   /* inode numbers between two wanted ones that are read for nothing */
#define BLOCK_SIZE ((size_t) 16 << 10)

typedef struct Found {
        uint64_t ino;
        uint32_t i; /* its place in the window */
} Found;

struct ArcScan {
        bool works;
        int fd;
        const ArcDir *listing;
        size_t first, n; /* the window in the listing */
        Found wanted[WINDOW];
        EntryLocal locals[WINDOW]; /* ino 0: not known */
        struct btrfs_ioctl_search_args_v2 *search;
};

int arc_scan_new(ArcScan **ret) {
        ArcScan *s = calloc(1, sizeof(*s));

        if (s)
                s->search = malloc(sizeof(*s->search) + BLOCK_SIZE);
        if (!s || !s->search) {
                arc_scan_free(s);
                return -ENOMEM;
        }
        s->fd = -1;
        *ret = s;
        return 0;
}

void arc_scan_free(ArcScan *s) {
        if (!s)
                return;
        free(s->search);
        free(s);
}

void arc_scan_begin(ArcScan *s, int fd) {
        struct btrfs_ioctl_get_subvol_info_args info = { 0 };

        s->listing = NULL;
        /* Success may be a positive number. */
        s->works = ioctl(fd, BTRFS_IOC_GET_SUBVOL_INFO, &info) >= 0 &&
                   (info.flags & BTRFS_ROOT_SUBVOL_RDONLY);
}

void arc_scan_list(ArcScan *s, int fd, const ArcDir *listing) {
        s->listing = s->works && arc_dir_count(listing) >= FEW ? listing : NULL;
        s->fd = fd;
        s->first = s->n = 0;
}

static int compare_found(const void *a, const void *b) {
        const Found *x = a, *y = b;

        return x->ino < y->ino ? -1 : x->ino > y->ino;
}

static void take_item(const uint8_t *data, uint64_t ino, EntryLocal *ret) {
        struct btrfs_inode_item item;
        uint32_t mode;

        memcpy(&item, data, sizeof(item));
        mode = le32toh(item.mode);
        if ((!S_ISREG(mode) && !S_ISLNK(mode)) || le32toh(item.nlink) != 1)
                return;
        *ret = (EntryLocal){
                .ino = ino,
                .size = le64toh(item.size),
                .mtime_sec = (int64_t) le64toh(item.mtime.sec),
                .mtime_nsec = le32toh(item.mtime.nsec),
                .ctime_sec = (int64_t) le64toh(item.ctime.sec),
                .ctime_nsec = le32toh(item.ctime.nsec),
                .mode = mode,
                .nlink = 1,
                .uid = le32toh(item.uid),
                .gid = le32toh(item.gid),
        };
}

/*
 * Takes the items of one answer for wanted[*at] and those after it, and leaves *at at the first
 * that is behind them. False if the answer was empty or makes no sense.
 */
static bool take_answer(ArcScan *s, size_t *at, size_t end) {
        const uint8_t *p = (const uint8_t *) s->search->buf;
        size_t left = BLOCK_SIZE;
        uint64_t last = 0;

        for (uint32_t k = 0; k < s->search->key.nr_items; k++) {
                struct btrfs_ioctl_search_header h;

                if (left < sizeof(h))
                        return false;
                memcpy(&h, p, sizeof(h));
                p += sizeof(h);
                left -= sizeof(h);
                if (left < h.len)
                        return false;
                last = h.objectid;
                while (*at < end && s->wanted[*at].ino < last)
                        (*at)++;
                if (*at < end && s->wanted[*at].ino == last && h.type == BTRFS_INODE_ITEM_KEY &&
                    h.len >= sizeof(struct btrfs_inode_item))
                        take_item(p, last, &s->locals[s->wanted[*at].i]);
                p += h.len;
                left -= h.len;
        }
        /* An inode's own item is the first of its items: the last one's was there as well. */
        while (*at < end && s->wanted[*at].ino <= last)
                (*at)++;
        return s->search->key.nr_items > 0;
}

/* Looks up wanted[at] to wanted[end - 1]. False if it cannot be done at all. */
static bool search_range(ArcScan *s, size_t at, size_t end) {
        uint64_t max = s->wanted[end - 1].ino;

        while (at < end) {
                s->search->key = (struct btrfs_ioctl_search_key){
                        .min_objectid = s->wanted[at].ino,
                        .max_objectid = max,
                        .min_type = BTRFS_INODE_ITEM_KEY,
                        .max_type = BTRFS_INODE_ITEM_KEY,
                        .max_offset = UINT64_MAX,
                        .max_transid = UINT64_MAX,
                        .nr_items = UINT32_MAX,
                };
                s->search->buf_size = BLOCK_SIZE;
                if (ioctl(s->fd, BTRFS_IOC_TREE_SEARCH_V2, s->search) < 0)
                        return false;
                if (!take_answer(s, &at, end))
                        return true; /* what is left is not there */
        }
        return true;
}

static void fill_window(ArcScan *s, size_t first) {
        size_t n = 0, at = 0;

        s->first = first;
        s->n = arc_dir_count(s->listing) - first;
        if (s->n > WINDOW)
                s->n = WINDOW;
        memset(s->locals, 0, s->n * sizeof(*s->locals));
        for (size_t i = 0; i < s->n; i++) {
                unsigned type = arc_dir_type(s->listing, first + i);

                if (type == DT_REG || type == DT_LNK)
                        s->wanted[n++] = (Found){ .ino = arc_dir_ino(s->listing, first + i),
                                                  .i = (uint32_t) i };
        }
        qsort(s->wanted, n, sizeof(*s->wanted), compare_found);
        while (s->works && at < n) {
                size_t end = at + 1;

                while (end < n && s->wanted[end].ino - s->wanted[end - 1].ino <= GAP_MAX)
                        end++;
                s->works = search_range(s, at, end);
                at = end;
        }
}

const EntryLocal *arc_scan_at(ArcScan *s, size_t i) {
        if (!s->works || !s->listing)
                return NULL;
        if (i < s->first || i >= s->first + s->n)
                fill_window(s, i);
        return s->works && s->locals[i - s->first].ino != 0 ? &s->locals[i - s->first] : NULL;
}
