/*
 * RFC 3339 in UTC, there and back, and nothing else.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"

static void test_format(void **state) {
        char text[CLOCK_TEXT_MAX] = "x";

        clock_format(0, text);
        assert_string_equal(text, "");
        clock_format(UINT64_C(1705284000) * USEC_PER_SEC + 999999, text);
        assert_string_equal(text, "2024-01-15T02:00:00Z");
        clock_format(UINT64_C(4102444799) * USEC_PER_SEC, text);
        assert_string_equal(text, "2099-12-31T23:59:59Z");
        clock_format(UINT64_MAX, text); /* far away, but no overflow */
        assert_true(text[0] != 'x');
}

static void test_round_trip(void **state) {
        static const char *const times[] = { "1970-01-01T00:00:01Z", "2024-02-29T12:34:56Z",
                                             "2038-01-19T03:14:08Z" };

        /* The zone of the machine has no say. */
        assert_int_equal(setenv("TZ", "America/New_York", 1), 0);
        tzset();
        for (size_t i = 0; i < ELEMENTSOF(times); i++) {
                char text[CLOCK_TEXT_MAX];
                uint64_t usec;

                assert_int_equal(clock_parse(times[i], &usec), 0);
                clock_format(usec, text);
                assert_string_equal(text, times[i]);
        }
}

static void test_malformed(void **state) {
        static const char *const bad[] = { "",
                                           "2024-01-15",
                                           "2024-01-15T02:00:00",
                                           "2024-01-15T02:00:00z",
                                           "2024-01-15T02:00:00+01:00",
                                           "2024-01-15T02:00:00Z ",
                                           " 2024-01-15T02:00:00Z",
                                           "2024-1-15T02:00:00Z",
                                           "2024-01-15 02:00:00Z",
                                           "2024-02-30T00:00:00Z",
                                           "2024-13-01T00:00:00Z",
                                           "2024-01-15T24:00:00Z",
                                           "2024-01-15T02:00:60Z",
                                           "1969-12-31T23:59:59Z",
                                           "0000-00-00T00:00:00Z" };
        uint64_t usec = 7;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                if (clock_parse(bad[i], &usec) != -EINVAL)
                        fail_msg("'%s' was taken for a time", bad[i]);
        assert_int_equal(usec, 7);
}

static void test_format_nsec(void **state) {
        static const struct {
                int64_t sec;
                uint32_t nsec;
                const char *text;
        } times[] = {
                { 0, 0, "1970-01-01T00:00:00.000000000Z" },
                { -1, 999999999, "1969-12-31T23:59:59.999999999Z" },
                { INT64_C(-62167219200), 1, "0000-01-01T00:00:00.000000001Z" },
                { INT64_C(253402300800), 5, "10000-01-01T00:00:00.000000005Z" },
                { INT64_MAX, 7, "@9223372036854775807.000000007" },
                { INT64_MIN, 0, "@-9223372036854775808.000000000" },
        };

        for (size_t i = 0; i < ELEMENTSOF(times); i++) {
                char text[CLOCK_NSEC_TEXT_MAX];

                clock_format_nsec(times[i].sec, times[i].nsec, text);
                assert_string_equal(text, times[i].text);
        }
}

static void test_clocks(void **state) {
        uint64_t before = clock_monotonic_usec();

        assert_true(clock_monotonic_usec() >= before);
        assert_true(clock_realtime_usec() > UINT64_C(1600000000) * USEC_PER_SEC);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_format),    cmocka_unit_test(test_round_trip),
                cmocka_unit_test(test_malformed), cmocka_unit_test(test_format_nsec),
                cmocka_unit_test(test_clocks),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
