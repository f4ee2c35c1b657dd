#pragma once

/*
 * The format's variable integers and strings, for buffers and readers (docs/REPO-FORMAT.md).
 */

#include "base/buf.h"
#include "base/bytes.h"

/* Appends. 0, -ENOMEM, -EMSGSIZE. */
static inline int varint_put(Buf *b, uint64_t v) {
        uint8_t bytes[10];
        size_t n = 0;

        do {
                bytes[n] = (uint8_t) ((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
                v >>= 7;
                n++;
        } while (v > 0);
        return buf_put(b, bytes, n);
}

/* Fails the reader for what is too long or not in its shortest form. */
static inline uint64_t varint_get(Reader *r) {
        uint64_t v = 0;

        for (unsigned i = 0; i < 10; i++) {
                uint8_t byte = reader_u8(r);

                v |= (uint64_t) (byte & 0x7f) << (7 * i);
                if (byte & 0x80)
                        continue;
                if ((i > 0 && byte == 0) || (i == 9 && byte > 1))
                        r->failed = true;
                return r->failed ? 0 : v;
        }
        r->failed = true;
        return 0;
}

static inline int varint_put_signed(Buf *b, int64_t v) {
        return varint_put(b, ((uint64_t) v << 1) ^ (v < 0 ? UINT64_MAX : 0));
}

static inline int64_t varint_get_signed(Reader *r) {
        uint64_t v = varint_get(r);

        return (int64_t) ((v >> 1) ^ (v & 1 ? UINT64_MAX : 0));
}

/* Appends a string with its zero. */
static inline int string_put(Buf *b, const char *s) {
        return buf_put(b, s, strlen(s) + 1);
}

/* The next string, borrowed from the input; the reader fails if it is longer than `max`. */
static inline const char *string_get(Reader *r, size_t max) {
        size_t left = reader_left(r);
        const uint8_t *end = left > 0 ? memchr(r->p, 0, left) : NULL;

        if (!end || (size_t) (end - r->p) > max) {
                r->failed = true;
                return NULL;
        }
        return (const char *) reader_bytes(r, (size_t) (end - r->p) + 1);
}
