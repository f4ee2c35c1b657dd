/*
 * The published check values, and continuation at every place.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <string.h>

#include "base/crc32c.h"

/* RFC 3720, B.4, and the usual check value. */
static void test_known(void **state) {
        uint8_t data[32];

        assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
        memset(data, 0, sizeof(data));
        assert_int_equal(crc32c(0, data, sizeof(data)), 0x8a9136aa);
        memset(data, 0xff, sizeof(data));
        assert_int_equal(crc32c(0, data, sizeof(data)), 0x62a8ab43);
        for (unsigned i = 0; i < sizeof(data); i++)
                data[i] = (uint8_t) i;
        assert_int_equal(crc32c(0, data, sizeof(data)), 0x46dd794e);
        assert_int_equal(crc32c(0, NULL, 0), 0);
}

/* One bit at a time, from the polynomial: what both fast ways must agree with. */
static uint32_t slow(const uint8_t *p, size_t n) {
        uint32_t crc = UINT32_MAX;

        while (n-- > 0) {
                crc ^= *p++;
                for (int i = 0; i < 8; i++)
                        crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
        }
        return ~crc;
}

static void test_lengths_and_cuts(void **state) {
        uint8_t data[100];
        uint32_t x = 1;

        for (size_t i = 0; i < sizeof(data); i++)
                data[i] = (uint8_t) ((x = x * 1103515245 + 12345) >> 16);
        for (size_t start = 0; start < 9; start++)
                for (size_t n = 0; start + n <= sizeof(data); n++) {
                        uint32_t whole = slow(data + start, n);

                        assert_int_equal(crc32c(0, data + start, n), whole);
                        assert_int_equal(crc32c(crc32c(0, data + start, n / 3),
                                                data + start + n / 3, n - n / 3),
                                         whole);
                }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_known),
                cmocka_unit_test(test_lengths_and_cuts),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
