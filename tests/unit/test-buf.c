/*
 * Growth up to a hard limit, and a reader that never runs past its end.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <string.h>

#include "base/buf.h"
#include "base/bytes.h"

static void test_limit(void **state) {
        Buf b = BUF_INIT(10);

        assert_int_equal(buf_put(&b, "12345678", 8), 0);
        assert_int_equal(buf_put(&b, "abc", 3), -EMSGSIZE);
        assert_int_equal(b.size, 8);
        assert_memory_equal(b.data, "12345678", 8);
        assert_int_equal(buf_put_u16(&b, 0x0102), 0);
        assert_int_equal(buf_put_u8(&b, 1), -EMSGSIZE);
        assert_int_equal(buf_put(&b, NULL, 0), 0);
        assert_int_equal(buf_reserve(&b, SIZE_MAX), -EMSGSIZE);
        buf_clear(&b);
        assert_int_equal(buf_reserve(&b, 10), 0);
        buf_done(&b);
        assert_null(b.data);
        assert_int_equal(b.max, 10);
        buf_done(&b);
}

static void test_default_limit(void **state) {
        Buf b = BUF_INIT(0);

        assert_int_equal(buf_reserve(&b, BUF_DEFAULT_MAX + 1), -EMSGSIZE);
        assert_int_equal(buf_put_u8(&b, 1), 0);
        assert_int_equal(buf_reserve(&b, BUF_DEFAULT_MAX), -EMSGSIZE);
        buf_done(&b);
}

static void test_grows(void **state) {
        Buf b = BUF_INIT(0);

        for (unsigned i = 0; i < 100000; i++)
                assert_int_equal(buf_put_u32(&b, i), 0);
        assert_int_equal(b.size, 400000);
        for (unsigned i = 0; i < 100000; i++)
                assert_int_equal(get_le32(b.data + 4 * i), i);
        buf_done(&b);
}

static void test_little_endian(void **state) {
        static const uint8_t expected[] = { 0xf1, 0xf2, 0xf3, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5,
                                            0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7 };
        Buf b = BUF_INIT(0);
        Reader r;

        assert_int_equal(buf_put_u8(&b, 0xf1), 0);
        assert_int_equal(buf_put_u16(&b, 0xf3f2), 0);
        assert_int_equal(buf_put_u32(&b, 0xf4f3f2f1), 0);
        assert_int_equal(buf_put_u64(&b, UINT64_C(0xf7f6f5f4f3f2f1f5)), 0);
        assert_int_equal(b.size, sizeof(expected));
        assert_memory_equal(b.data, expected, sizeof(expected));
        r = READER_INIT(b.data, b.size);
        assert_int_equal(reader_u8(&r), 0xf1);
        assert_int_equal(reader_u16(&r), 0xf3f2);
        assert_int_equal(reader_u32(&r), 0xf4f3f2f1);
        assert_true(reader_u64(&r) == UINT64_C(0xf7f6f5f4f3f2f1f5));
        assert_int_equal(reader_left(&r), 0);
        assert_false(r.failed);
        buf_done(&b);
}

static void test_reader_stops(void **state) {
        static const uint8_t data[] = { 1, 2, 3 };
        Reader r = READER_INIT(data, sizeof(data));

        assert_int_equal(reader_u8(&r), 1);
        assert_int_equal(reader_u32(&r), 0);
        assert_true(r.failed);
        assert_int_equal(reader_left(&r), 0);
        assert_null(reader_bytes(&r, 1)); /* although there is one: the failure sticks */
        assert_int_equal(reader_u8(&r), 0);
        r = READER_INIT(data, sizeof(data));
        assert_null(reader_bytes(&r, SIZE_MAX));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_limit),        cmocka_unit_test(test_default_limit),
                cmocka_unit_test(test_grows),        cmocka_unit_test(test_little_endian),
                cmocka_unit_test(test_reader_stops),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
