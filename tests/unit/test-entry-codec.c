/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "repo/format.h"
#include "repo/repo.h"
#include "repo/varint.h"

static const uint8_t content[34] = { 0, 1 << 2, 1, 2, 3 };

static Entry sample(EntryType type) {
        static const EntryXattr xattrs[] = {
                { "security.capability", "\1\0\0\2", 4 },
                { "user.empty", "", 0 },
                { "user.name", "value", 5 },
        };
        Entry e = {
                .service = "main",
                .dir = "/srv/data",
                .name = "na\xffme",
                .type = type,
                .mode = 04755,
                .uid = 1000,
                .gid = UINT32_MAX,
                .mtime_sec = -7,
                .mtime_nsec = 999999999,
        };

        if (type == ENTRY_HARDLINK) {
                e.target = "/srv/data/first";
                return e;
        }
        e.flags = 0x80000010;
        e.xattrs = xattrs;
        e.n_xattrs = 3;
        if (type == ENTRY_SYMLINK)
                e.target = "../else where";
        if (type == ENTRY_CHAR || type == ENTRY_BLOCK)
                e.major = 8, e.minor = 1048575;
        if (type == ENTRY_FILE) {
                e.size = 12345;
                e.sparse = true;
                e.class = ENTRY_CLASS_SMALL;
                e.content = content;
                e.content_size = sizeof(content);
        }
        return e;
}

static void check_equal(const Entry *a, const Entry *b) {
        assert_int_equal(a->type, b->type);
        assert_string_equal(a->name, b->name);
        if (a->target || b->target)
                assert_string_equal(a->target, b->target);
        if (a->type == ENTRY_HARDLINK)
                return;
        assert_int_equal(a->mode, b->mode);
        assert_int_equal(a->uid, b->uid);
        assert_int_equal(a->gid, b->gid);
        assert_int_equal(a->mtime_sec, b->mtime_sec);
        assert_int_equal(a->mtime_nsec, b->mtime_nsec);
        assert_int_equal(a->flags, b->flags);
        assert_int_equal(a->size, b->size);
        assert_int_equal(a->major, b->major);
        assert_int_equal(a->minor, b->minor);
        assert_int_equal(a->sparse, b->sparse);
        assert_int_equal(a->class, b->class);
        assert_int_equal(a->content_size, b->content_size);
        if (a->content_size > 0)
                assert_memory_equal(a->content, b->content, a->content_size);
        assert_int_equal(a->n_xattrs, b->n_xattrs);
        for (size_t i = 0; i < a->n_xattrs; i++) {
                assert_string_equal(a->xattrs[i].name, b->xattrs[i].name);
                assert_int_equal(a->xattrs[i].size, b->xattrs[i].size);
                assert_memory_equal(a->xattrs[i].value, b->xattrs[i].value, a->xattrs[i].size);
        }
}

static const EntryType types[] = {
        ENTRY_DIRECTORY, ENTRY_FILE,  ENTRY_SYMLINK,  ENTRY_FIFO,
        ENTRY_CHAR,      ENTRY_BLOCK, ENTRY_HARDLINK,
};

static void test_round_trip(void **state) {
        for (size_t i = 0; i < ELEMENTSOF(types); i++) {
                _cleanup_(buf_done) Buf b = { 0 };
                EntryXattr xattrs[ENTRY_XATTRS_MAX];
                Entry e = sample(types[i]), d;
                Reader r;

                assert_int_equal(entry_encode(&b, &e), 0);
                assert_int_equal(buf_put_u8(&b, 0xee), 0);
                r = READER_INIT(b.data, b.size);
                assert_int_equal(entry_decode(&r, &d, xattrs), 0);
                assert_int_equal(reader_left(&r), 1);
                check_equal(&e, &d);
        }
}

/* The bytes themselves: a change here is a change of the format. */
static void test_bytes(void **state) {
        static const uint8_t expected[] = {
                'f', 32, 'a', 0, 0xa4, 3, 0x80, 8, 100, 0x27, 1, 0, 0, 0, 0x81, 2, 2, 2, 0, 6,
        };
        static const uint8_t list[] = { 0, 1 << 2 | RUN_ZERO };
        _cleanup_(buf_done) Buf b = { 0 };
        Entry e = {
                .name = "a",
                .type = ENTRY_FILE,
                .mode = 0644,
                .uid = 1024,
                .gid = 100,
                .mtime_sec = -20,
                .mtime_nsec = 1,
                .size = 257,
                .class = ENTRY_CLASS_SMALL,
                .content = list,
                .content_size = sizeof(list),
        };

        assert_int_equal(entry_encode(&b, &e), 0);
        assert_int_equal(b.size, sizeof(expected));
        assert_memory_equal(b.data, expected, sizeof(expected));
}

static void test_empty_file(void **state) {
        _cleanup_(buf_done) Buf b = { 0 };
        EntryXattr xattrs[ENTRY_XATTRS_MAX];
        Entry e = { .name = "x", .type = ENTRY_FILE, .class = ENTRY_CLASS_LARGE }, d;
        Reader r;

        assert_int_equal(entry_encode(&b, &e), 0);
        r = READER_INIT(b.data, b.size);
        assert_int_equal(entry_decode(&r, &d, xattrs), 0);
        assert_int_equal(d.size, 0);
        assert_int_equal(d.class, ENTRY_CLASS_NONE);
        assert_null(d.content);
}

static void refuse(const Entry *e) {
        _cleanup_(buf_done) Buf b = { 0 };

        assert_int_equal(entry_encode(&b, e), -EINVAL);
        assert_int_equal(b.size, 0);
}

static void test_encode_refuses(void **state) {
        static const EntryXattr unordered[] = { { "b", "", 0 }, { "a", "", 0 } };
        static const EntryXattr twice[] = { { "a", "", 0 }, { "a", "", 0 } };
        static const char *const names[] = { "", ".", "..", "a/b", NULL };
        char longest[258];
        Entry e;

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                e = sample(ENTRY_FILE);
                e.name = names[i];
                refuse(&e);
        }
        memset(longest, 'x', sizeof(longest));
        longest[256] = 0;
        e = sample(ENTRY_FILE), e.name = longest, refuse(&e);
        e = sample((EntryType) 'z'), refuse(&e);
        e = sample(ENTRY_FILE), e.mode = 010000, refuse(&e);
        e = sample(ENTRY_FILE), e.mtime_nsec = 1000000000, refuse(&e);
        e = sample(ENTRY_FILE), e.class = ENTRY_CLASS_NONE, refuse(&e);
        e = sample(ENTRY_FILE), e.content = NULL, refuse(&e);
        e = sample(ENTRY_SYMLINK), e.target = NULL, refuse(&e);
        e = sample(ENTRY_SYMLINK), e.target = "", refuse(&e);
        e = sample(ENTRY_HARDLINK), e.target = NULL, refuse(&e);
        e = sample(ENTRY_FILE), e.xattrs = unordered, e.n_xattrs = 2, refuse(&e);
        e = sample(ENTRY_FILE), e.xattrs = twice, e.n_xattrs = 2, refuse(&e);
        e = sample(ENTRY_FILE), e.n_xattrs = ENTRY_XATTRS_MAX + 1, refuse(&e);
}

/* Every shortened input fails, and what decodes after a flipped byte encodes to the same again. */
static void test_decode_hostile(void **state) {
        for (size_t i = 0; i < ELEMENTSOF(types); i++) {
                _cleanup_(buf_done) Buf b = { 0 }, again = { 0 };
                EntryXattr xattrs[ENTRY_XATTRS_MAX];
                Entry e = sample(types[i]), d;
                Reader r;

                assert_int_equal(entry_encode(&b, &e), 0);
                for (size_t n = 0; n < b.size; n++) {
                        uint8_t *exact = malloc(n + 1); /* so that one byte too far is seen */

                        memcpy(exact, b.data, n);
                        r = READER_INIT(exact, n);
                        assert_int_equal(entry_decode(&r, &d, xattrs), -EBADMSG);
                        free(exact);
                }
                for (size_t n = 0; n < b.size; n++) {
                        for (unsigned flip = 1; flip < 256; flip++) {
                                b.data[n] ^= (uint8_t) flip;
                                r = READER_INIT(b.data, b.size);
                                if (entry_decode(&r, &d, xattrs) == 0) {
                                        buf_clear(&again);
                                        assert_int_equal(entry_encode(&again, &d), 0);
                                        assert_int_equal(again.size, (size_t) (r.p - b.data));
                                        assert_memory_equal(again.data, b.data, again.size);
                                }
                                b.data[n] ^= (uint8_t) flip;
                        }
                }
        }
}

static void test_decode_random(void **state) {
        uint64_t x = 88172645463325252u;

        for (int i = 0; i < 200000; i++) {
                EntryXattr xattrs[ENTRY_XATTRS_MAX];
                uint8_t data[64];
                Entry d;
                Reader r;

                for (size_t n = 0; n < sizeof(data); n++) {
                        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
                        data[n] = (uint8_t) (x >> 56) & (i & 1 ? 0xff : 0x3f);
                }
                data[0] = (uint8_t) types[i % (int) ELEMENTSOF(types)];
                r = READER_INIT(data, sizeof(data));
                (void) entry_decode(&r, &d, xattrs);
        }
}

static void test_varint(void **state) {
        static const uint64_t values[] = { 0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX };
        static const int64_t numbers[] = { 0, -1, 1, 63, -64, 64, INT64_MIN, INT64_MAX };
        static const uint8_t bad[][11] = {
                { 0x80, 0x00 }, /* not the shortest */
                { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02 }, /* past 2^64 */
                { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0x01 },
        };

        for (size_t i = 0; i < ELEMENTSOF(values); i++) {
                _cleanup_(buf_done) Buf b = { 0 };
                Reader r;

                assert_int_equal(varint_put(&b, values[i]), 0);
                r = READER_INIT(b.data, b.size);
                assert_true(varint_get(&r) == values[i]);
                assert_true(!r.failed && reader_left(&r) == 0);
        }
        for (size_t i = 0; i < ELEMENTSOF(numbers); i++) {
                _cleanup_(buf_done) Buf b = { 0 };
                Reader r;

                assert_int_equal(varint_put_signed(&b, numbers[i]), 0);
                r = READER_INIT(b.data, b.size);
                assert_true(varint_get_signed(&r) == numbers[i]);
        }
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                Reader r = READER_INIT(bad[i], sizeof(bad[i]));

                (void) varint_get(&r);
                assert_true(r.failed);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_bytes),
                cmocka_unit_test(test_empty_file),     cmocka_unit_test(test_encode_refuses),
                cmocka_unit_test(test_decode_hostile), cmocka_unit_test(test_decode_random),
                cmocka_unit_test(test_varint),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
