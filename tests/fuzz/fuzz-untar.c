/*
 * Archives that are imported. First byte odd: the rest is the archive as it stands. Even: members
 * in pieces, for which the header is put together here with the right checksum: kind, name, link's
 * target, a number for mode and one for how the size is written, content. The second byte says in
 * what portions the archive comes, and whether it has its end.
 */

#include <errno.h>
#include <string.h>

#include "archive/arc-acl.h"
#include "archive/arc-internal.h"
#include "archive/arc-untar.h"
#include "base/buf.h"
#include "tests/fuzz/fuzz.h"

#define BLOCK       512
#define MEMBERS_MAX 64

/* ---- the archive ---- */

/* A field of ustar: cut where it is full, without a zero then. */
static void put_field(uint8_t *to, size_t room, FuzzInput from) {
        if (from.size > 0)
                memcpy(to, from.data, from.size < room ? from.size : room);
}

static void put_number(uint8_t *to, size_t room, uint64_t value) {
        (void) snprintf((char *) to, room, "%0*llo", (int) room - 1, (unsigned long long) value);
}

/* How a size may be written: as it is, another one in octal, or any in base 256. */
static void put_size(uint8_t *to, uint8_t how, uint32_t other, size_t size) {
        if (how & 1)
                put_number(to, 12, other);
        else if (how & 2) {
                to[0] = (uint8_t) (0x80 | (how & 0x7c));
                for (size_t i = 0; i < 4; i++)
                        to[11 - i] = (uint8_t) (other >> 8 * i);
        } else
                put_number(to, 12, size);
}

static void put_checksum(uint8_t block[BLOCK]) {
        unsigned sum = 0;

        memset(block + 148, ' ', 8);
        for (size_t i = 0; i < BLOCK; i++)
                sum += block[i];
        (void) snprintf((char *) block + 148, 8, "%06o", sum);
}

static void put_padded(Buf *to, FuzzInput content) {
        static const uint8_t zeros[BLOCK];

        fuzz_assert(buf_put(to, content.data, content.size) == 0);
        fuzz_assert(buf_put(to, zeros, (BLOCK - content.size % BLOCK) % BLOCK) == 0);
}

static void put_member(Buf *to, FuzzInput *in) {
        uint8_t block[BLOCK] = { 0 }, kind = fuzz_u8(in);
        FuzzInput name = fuzz_piece(in), target = fuzz_piece(in), prefix = { 0 }, content;
        uint16_t mode = fuzz_u16(in);
        uint8_t how = fuzz_u8(in);
        uint32_t other = how & 3 ? fuzz_u32(in) : 0;

        if (how & 0x80)
                prefix = fuzz_piece(in);
        content = fuzz_piece(in);
        put_field(block, 100, name);
        put_number(block + 100, 8, mode);
        put_number(block + 108, 8, other & 0xffff);
        put_number(block + 116, 8, 33);
        put_size(block + 124, how, other, content.size);
        put_number(block + 136, 12, 1700000000);
        block[156] = kind;
        put_field(block + 157, 100, target);
        memcpy(block + 257, how & 0x40 ? "ustar  " : "ustar\00000", 8);
        put_field(block + 345, 155, prefix);
        put_checksum(block);
        fuzz_assert(buf_put(to, block, BLOCK) == 0);
        put_padded(to, content);
}

static void build(Buf *to, FuzzInput in, bool with_end) {
        static const uint8_t end[2 * BLOCK];

        for (unsigned i = 0; i < MEMBERS_MAX && in.size > 0; i++)
                put_member(to, &in);
        if (with_end)
                fuzz_assert(buf_put(to, end, sizeof(end)) == 0);
}

/* ---- reading it ---- */

typedef struct Source {
        FuzzInput in;
        size_t portion; /* 0: as much as is asked for */
        bool breaks;    /* with an error at its end */
} Source;

static ssize_t give(void *userdata, void *data, size_t n, Failure *reterr) {
        Source *s = userdata;
        FuzzInput piece = fuzz_take(&s->in, s->portion > 0 && s->portion < n ? s->portion : n);

        if (piece.size == 0 && s->breaks)
                return fail_set(reterr, FAIL_INTERRUPTED, EIO, "the stream broke");
        if (piece.size > 0)
                memcpy(data, piece.data, piece.size);
        return (ssize_t) piece.size;
}

typedef struct Content {
        uint64_t size, end, sum;
} Content;

static int
take_content(void *userdata, uint64_t offset, const void *data, size_t n, Failure *reterr) {
        Content *c = userdata;

        fuzz_assert(offset >= c->end && n > 0 && n <= c->size && offset <= c->size - n);
        for (size_t i = 0; i < n; i++) /* every byte is there to be read */
                c->sum += ((const uint8_t *) data)[i];
        c->end = offset + n;
        return 0;
}

static void check_xattrs(const Entry *e) {
        fuzz_assert(e->n_xattrs <= ARC_XATTRS_MAX);
        for (size_t i = 0; i < e->n_xattrs; i++) {
                const EntryXattr *x = &e->xattrs[i];

                fuzz_assert(strlen(x->name) <= ENTRY_NAME_MAX);
                fuzz_assert(strncmp(x->name, "user.", 5) == 0 ||
                            strcmp(x->name, ARC_ACL_ACCESS) == 0 ||
                            (e->type == ENTRY_DIRECTORY && strcmp(x->name, ARC_ACL_DEFAULT) == 0));
                fuzz_assert(i == 0 || strcmp(e->xattrs[i - 1].name, x->name) < 0);
        }
}

/* What a stranger's archive may not bring never comes. */
static void check_entry(const char *path, const Entry *e) {
        fuzz_assert(*path && arc_path_is_clean(path));
        for (const char *p = path; *p; p += strcspn(p, "/"), p += *p == '/')
                fuzz_assert(strcspn(p, "/") <= ENTRY_NAME_MAX);
        fuzz_assert(e->type == ENTRY_DIRECTORY || e->type == ENTRY_FILE ||
                    e->type == ENTRY_SYMLINK || e->type == ENTRY_FIFO || e->type == ENTRY_HARDLINK);
        if (e->type == ENTRY_HARDLINK)
                fuzz_assert(arc_path_is_clean(e->target));
        if (e->type == ENTRY_SYMLINK)
                fuzz_assert(*e->target);
        fuzz_assert((e->mode & ~07777u) == 0 && e->flags == 0);
        fuzz_assert(e->type == ENTRY_DIRECTORY || (e->mode & 06000) == 0);
        fuzz_assert(e->uid != UINT32_MAX && e->gid != UINT32_MAX && e->mtime_nsec < 1000000000);
        check_xattrs(e);
}

static void read_all(Source *from) {
        _cleanup_(arc_untar_freep) ArcUntar *u = NULL;
        Failure why = FAILURE_INIT;
        const char *path;
        Entry e;
        int r = arc_untar_new(give, from, &u, &why);

        while (r >= 0 && (r = arc_untar_next(u, &path, &e, &why)) > 0) {
                Content c = { .size = e.size };

                check_entry(path, &e);
                if (e.type == ENTRY_FILE && e.size > 0)
                        r = arc_untar_data(u, take_content, &c, &why);
        }
        if (r < 0)
                fuzz_assert(why.code != FAIL_NONE && *why.text);
        else
                fuzz_assert(!from->breaks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const size_t portions[] = { 0, 1, 511, 513 };
        FuzzInput in = { data, size };
        bool raw = fuzz_u8(&in) & 1;
        uint8_t how = fuzz_u8(&in);
        Source from = { .portion = portions[how & 3], .breaks = how & 8 };
        _cleanup_(buf_done) Buf archive = BUF_INIT((size_t) 16 << 20);
        int before = fuzz_next_fd();

        if (!raw)
                build(&archive, in, !(how & 4));
        from.in = raw ? in : (FuzzInput){ archive.data, archive.size };
        read_all(&from);
        fuzz_assert(fuzz_next_fd() == before);
        return 0;
}
