#pragma once

/*
 * Little-endian integers in byte strings, and a reader that never runs past its end: after the
 * first short read every further one fails too, so that a parser may check once at its end.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline void put_le16(uint8_t *p, uint16_t v) {
        p[0] = (uint8_t) v;
        p[1] = (uint8_t) (v >> 8);
}

static inline void put_le32(uint8_t *p, uint32_t v) {
        for (int i = 0; i < 4; i++)
                p[i] = (uint8_t) (v >> (8 * i));
}

static inline void put_le64(uint8_t *p, uint64_t v) {
        for (int i = 0; i < 8; i++)
                p[i] = (uint8_t) (v >> (8 * i));
}

static inline uint16_t get_le16(const uint8_t *p) {
        return (uint16_t) (p[0] | (p[1] << 8));
}

static inline uint32_t get_le32(const uint8_t *p) {
        return (uint32_t) p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 |
               (uint32_t) p[3] << 24;
}

static inline uint64_t get_le64(const uint8_t *p) {
        return (uint64_t) get_le32(p) | (uint64_t) get_le32(p + 4) << 32;
}

typedef struct Reader {
        const uint8_t *p, *end;
        bool failed;
} Reader;

/* `data` may be NULL when there is nothing: not even 0 may be added to it. */
static inline Reader reader_init(const uint8_t *data, size_t size) {
        return (Reader){ .p = data, .end = size > 0 ? data + size : data };
}

#define READER_INIT(data, size) reader_init(data, size)

/* The next `n` bytes, borrowed from the input, or NULL if there are fewer. */
static inline const uint8_t *reader_bytes(Reader *r, size_t n) {
        const uint8_t *p = r->p;

        if (r->failed || (size_t) (r->end - r->p) < n) {
                r->failed = true;
                return NULL;
        }
        r->p += n;
        return p;
}

static inline size_t reader_left(const Reader *r) {
        return r->failed ? 0 : (size_t) (r->end - r->p);
}

static inline uint8_t reader_u8(Reader *r) {
        const uint8_t *p = reader_bytes(r, 1);
        return p ? *p : 0;
}

static inline uint16_t reader_u16(Reader *r) {
        const uint8_t *p = reader_bytes(r, 2);
        return p ? get_le16(p) : 0;
}

static inline uint32_t reader_u32(Reader *r) {
        const uint8_t *p = reader_bytes(r, 4);
        return p ? get_le32(p) : 0;
}

static inline uint64_t reader_u64(Reader *r) {
        const uint8_t *p = reader_bytes(r, 8);
        return p ? get_le64(p) : 0;
}
