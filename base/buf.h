#pragma once

/*
 * A growing byte buffer with a hard maximum.
 */

#include <stddef.h>
#include <stdint.h>

typedef struct Buf {
        uint8_t *data;
        size_t size, allocated;
        size_t max; /* growth past this is -EMSGSIZE; 0 means BUF_DEFAULT_MAX */
} Buf;

#define BUF_DEFAULT_MAX ((size_t) 64 << 20)
#define BUF_INIT(limit) ((Buf){ .max = (limit) })

void buf_done(Buf *b);

/* Makes room for `n` more bytes. Returns 0, -ENOMEM or -EMSGSIZE. */
int buf_reserve(Buf *b, size_t n);

/* Appends. Returns 0, -ENOMEM or -EMSGSIZE; on failure the contents are unchanged. */
int buf_put(Buf *b, const void *data, size_t n);
int buf_put_u8(Buf *b, uint8_t v);
int buf_put_u16(Buf *b, uint16_t v);
int buf_put_u32(Buf *b, uint32_t v);
int buf_put_u64(Buf *b, uint64_t v);

static inline void buf_clear(Buf *b) {
        b->size = 0;
}
