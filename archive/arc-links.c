#include "archive/arc-links.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

/* Out of memory is a result, not the end of the program. */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

typedef struct LinkKey {
        uint64_t ino;
        uint32_t major, minor;
} LinkKey;

typedef struct Link {
        UT_hash_handle hh;
        LinkKey key;
        struct statx_timestamp btime, mtime;
        uint64_t size;
        uint32_t left; /* names not met yet */
        char path[];
} Link;

struct ArcLinks {
        Link *head;
};

int arc_links_new(ArcLinks **ret) {
        *ret = calloc(1, sizeof(**ret));
        return *ret ? 0 : -ENOMEM;
}

void arc_links_clear(ArcLinks *links) {
        Link *l, *next;

        HASH_ITER(hh, links->head, l, next) {
                HASH_DEL(links->head, l);
                free(l);
        }
}

void arc_links_free(ArcLinks *links) {
        if (!links)
                return;
        arc_links_clear(links);
        free(links);
}

static LinkKey key_of(const struct statx *stx) {
        return (LinkKey){
                .ino = stx->stx_ino,
                .major = stx->stx_dev_major,
                .minor = stx->stx_dev_minor,
        };
}

static Link *find(ArcLinks *links, const struct statx *stx) {
        LinkKey key = key_of(stx);
        Link *l = NULL;

        HASH_FIND(hh, links->head, &key, sizeof(key), l);
        return l;
}

static bool same_time(const struct statx_timestamp *a, const struct statx_timestamp *b) {
        return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

const char *arc_links_find(ArcLinks *links, const struct statx *stx) {
        const Link *l = find(links, stx);

        if (!l || l->size != stx->stx_size || !same_time(&l->mtime, &stx->stx_mtime) ||
            !same_time(&l->btime, &stx->stx_btime))
                return NULL;
        return l->path;
}

int arc_links_add(ArcLinks *links, const struct statx *stx, const char *path) {
        size_t n = strlen(path) + 1;
        Link *l = find(links, stx);

        if (l) { /* another file had this number before */
                HASH_DEL(links->head, l);
                free(l);
        }
        l = calloc(1, sizeof(*l) + n);
        if (!l)
                return -ENOMEM;
        l->key = key_of(stx);
        l->btime = stx->stx_btime;
        l->mtime = stx->stx_mtime;
        l->size = stx->stx_size;
        l->left = stx->stx_nlink - 1;
        memcpy(l->path, path, n);
        HASH_ADD(hh, links->head, key, sizeof(l->key), l);
        if (!l->hh.tbl) { /* how uthash says that it had no memory */
                free(l);
                return -ENOMEM;
        }
        return 0;
}

void arc_links_met(ArcLinks *links, const struct statx *stx) {
        Link *l = find(links, stx);

        if (l && --l->left == 0) {
                HASH_DEL(links->head, l);
                free(l);
        }
}
