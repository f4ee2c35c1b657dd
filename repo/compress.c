/*
 * zstd, one context per direction, made at the first use and kept. The user's scale of 0-9 is
 * gzip's; zstd's levels above 9 cost far more time than they gain here (repository format: any
 * level reads back).
 */

#include <errno.h>
#include <zstd.h>

#include "repo/repo-internal.h"

#define PROBE_SIZE ((size_t) 16 << 10)

struct Compressor {
        ZSTD_CCtx *c;
        ZSTD_DCtx *d;
        int level; /* zstd's; 0: store raw */
};

/* True if `packed` saves at least 3 % of `n`. */
static bool is_gain(size_t packed, size_t n) {
        return packed < n - n / 32;
}

int compress_new(unsigned level, Compressor **ret) {
        static const int8_t levels[] = { 0, 1, 1, 2, 2, 3, 3, 5, 7, 9 };
        Compressor *c;

        if (level >= ELEMENTSOF(levels))
                return -EINVAL;
        c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        c->level = levels[level];
        *ret = c;
        return 0;
}

void compress_free(Compressor *c) {
        if (!c)
                return;
        ZSTD_freeCCtx(c->c);
        ZSTD_freeDCtx(c->d);
        free(c);
}

static size_t run(Compressor *c, const void *data, size_t n, void *out, size_t room) {
        size_t r = ZSTD_compressCCtx(c->c, out, room, data, n, c->level);

        /* No room for it means no gain: that is an answer, not an error. */
        return ZSTD_isError(r) ? SIZE_MAX : r;
}

int compress_run(Compressor *c, const void *data, size_t n, void *out, size_t *ret) {
        size_t size;

        if (c->level == 0 || n < 64)
                return 0;
        if (!c->c) {
                c->c = ZSTD_createCCtx();
                if (!c->c)
                        return -ENOMEM;
        }
        if (n > 2 * PROBE_SIZE) {
                size = run(c, data, PROBE_SIZE, out, PROBE_SIZE);
                if (size == SIZE_MAX || !is_gain(size, PROBE_SIZE))
                        return 0;
        }
        size = run(c, data, n, out, n);
        if (size == SIZE_MAX || !is_gain(size, n))
                return 0;
        *ret = size;
        return 1;
}

int compress_expand(Compressor *c, const void *data, size_t n, void *out, size_t plain) {
        size_t size;

        if (!c->d) {
                c->d = ZSTD_createDCtx();
                if (!c->d)
                        return -ENOMEM;
        }
        /* Decodes whole frames straight into `out`: a hostile window size allocates nothing. */
        size = ZSTD_decompressDCtx(c->d, out, plain, data, n);
        return ZSTD_isError(size) || size != plain ? -EBADMSG : 0;
}
