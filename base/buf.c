#include "base/buf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

void buf_done(Buf *b) {
        free(b->data);
        *b = BUF_INIT(b->max);
}

int buf_reserve(Buf *b, size_t n) {
        size_t max = b->max ? b->max : BUF_DEFAULT_MAX;
        size_t want;
        uint8_t *p;

        if (n > max || b->size > max - n)
                return -EMSGSIZE;
        if (b->size + n <= b->allocated)
                return 0;
        want = b->allocated ? b->allocated * 2 : 256;
        if (want < b->size + n)
                want = b->size + n;
        if (want > max)
                want = max;
        p = realloc(b->data, want);
        if (!p)
                return -ENOMEM;
        b->data = p;
        b->allocated = want;
        return 0;
}

int buf_put(Buf *b, const void *data, size_t n) {
        int r = buf_reserve(b, n);

        if (r < 0)
                return r;
        if (n > 0)
                memcpy(b->data + b->size, data, n);
        b->size += n;
        return 0;
}

int buf_put_u8(Buf *b, uint8_t v) {
        return buf_put(b, &v, 1);
}

int buf_put_u16(Buf *b, uint16_t v) {
        uint8_t p[2];

        put_le16(p, v);
        return buf_put(b, p, sizeof(p));
}

int buf_put_u32(Buf *b, uint32_t v) {
        uint8_t p[4];

        put_le32(p, v);
        return buf_put(b, p, sizeof(p));
}

int buf_put_u64(Buf *b, uint64_t v) {
        uint8_t p[8];

        put_le64(p, v);
        return buf_put(b, p, sizeof(p));
}
