/*
 * Escaping there and back, ids, names, numbers, and the order of paths that manifests depend on.
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
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

static void check_escape(const char *bytes, const char *expected) {
        _cleanup_free_ char *text = text_escape(bytes), *back = NULL;

        assert_non_null(text);
        assert_string_equal(text, expected);
        assert_int_equal(text_unescape(text, &back), 0);
        assert_string_equal(back, bytes);
}

static void test_escape(void **state) {
        check_escape("", "");
        check_escape("/srv/a b/ü/日本/🙂", "/srv/a b/ü/日本/🙂");
        check_escape("a\\b", "a\\x5cb");
        check_escape("\\x41", "\\x5cx41"); /* what looks like an escape is none */
        check_escape("a\nb\tc\x7f", "a\\x0ab\\x09c\\x7f");
        check_escape("\xc2\x9b", "\\xc2\\x9b"); /* CSI: drives terminals */
        check_escape("\xc2\xa0", "\xc2\xa0");
}

static void test_escape_invalid_utf8(void **state) {
        check_escape("\xff", "\\xff");
        check_escape("a\xc3", "a\\xc3");        /* cut short by the end */
        check_escape("\xe2\x82", "\\xe2\\x82"); /* two of three */
        check_escape("\xe2\x82z", "\\xe2\\x82z");
        check_escape("\xc0\xaf", "\\xc0\\xaf"); /* overlong slash */
        check_escape("\xe0\x80\xaf", "\\xe0\\x80\\xaf");
        check_escape("\xed\xa0\x80", "\\xed\\xa0\\x80");          /* surrogate */
        check_escape("\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"); /* past U+10FFFF */
        check_escape("\xf8\x88\x80\x80\x80", "\\xf8\\x88\\x80\\x80\\x80");
        check_escape("\x80ok", "\\x80ok");
}

static void test_escape_every_byte(void **state) {
        for (int a = 1; a < 256; a++)
                for (int b = 1; b < 256; b++) {
                        char bytes[3] = { (char) a, (char) b, 0 };
                        _cleanup_free_ char *text = text_escape(bytes), *back = NULL;

                        assert_non_null(text);
                        assert_true(text_is_label(text, 64));
                        assert_int_equal(text_unescape(text, &back), 0);
                        assert_string_equal(back, bytes);
                }
}

static void test_unescape_malformed(void **state) {
        static const char *const bad[] = { "\\",   "\\x",   "\\x4",  "\\xg1", "\\x1g",  "\\n",
                                           "\\\\", "\\X41", "\\x00", "a\\x0", "a\\x 1", "\\x41\\" };
        char *kept = (char *) "kept";

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_int_equal(text_unescape(bad[i], &kept), -EINVAL);
        assert_string_equal(kept, "kept");
}

static void test_uuid(void **state) {
        static const char *const bad[] = { "",
                                           "0",
                                           "00000000-0000-0000-0000-00000000000",
                                           "00000000-0000-0000-0000-0000000000000",
                                           "00000000-0000-0000-0000-00000000000G",
                                           "ABCDEF00-0000-0000-0000-000000000000",
                                           "00000000000000000000000000000000----",
                                           "../../../../../../../../etc/passwd01" };
        uint8_t uuid[16], back[16];
        char text[UUID_TEXT_MAX];

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                assert_false(text_is_uuid(bad[i]));
                assert_int_equal(text_uuid_parse(bad[i], back), -EINVAL);
        }
        assert_int_equal(text_uuid_new(uuid), 0);
        text_uuid_format(uuid, text);
        assert_true(text_is_uuid(text));
        assert_int_equal(text[14], '4');
        assert_non_null(strchr("89ab", text[19]));
        assert_int_equal(text_uuid_parse(text, back), 0);
        assert_memory_equal(uuid, back, 16);
        assert_int_equal(text_uuid_new(back), 0);
        assert_memory_not_equal(uuid, back, 16);
}

static void test_names(void **state) {
        char name[65];

        memset(name, 'a', sizeof(name));
        name[64] = 0;
        assert_false(text_is_service_name(name));
        name[63] = 0;
        assert_true(text_is_service_name(name));
        assert_true(text_is_service_name("a"));
        assert_true(text_is_service_name("main_service-2"));
        assert_false(text_is_service_name(""));
        assert_false(text_is_service_name("2a"));
        assert_false(text_is_service_name("_a"));
        assert_false(text_is_service_name("A"));
        assert_false(text_is_service_name("a/b"));
        assert_false(text_is_service_name("a.b"));
        assert_false(text_is_service_name("a\xc3\xbc"));
}

static void test_label(void **state) {
        assert_true(text_is_label("", 0));
        assert_true(text_is_label("备份", 6));
        assert_false(text_is_label("备份", 5));
        assert_false(text_is_label("a\n", 9));
        assert_false(text_is_label("a\x1b[2J", 9));
        assert_false(text_is_label("\xc2\x85", 9));
        assert_false(text_is_label("\xff", 9));
}

static void test_hex(void **state) {
        const uint8_t data[] = { 0x00, 0x0f, 0xf0, 0xff };
        uint8_t back[4];
        char text[9];

        text_hex(data, sizeof(data), text);
        assert_string_equal(text, "000ff0ff");
        assert_int_equal(text_unhex("000FF0ff", back, 4), 0);
        assert_memory_equal(data, back, 4);
        assert_int_equal(text_unhex("000ff0f", back, 4), -EINVAL);
        assert_int_equal(text_unhex("000ff0ff0", back, 4), -EINVAL);
        assert_int_equal(text_unhex("000ff0fg", back, 4), -EINVAL);
        assert_int_equal(text_unhex("", back, 0), 0);
}

static void test_numbers(void **state) {
        static const char *const bad[] = { "", "-1", "+1", " 1", "1 ", "0x10", "1e3", "a", "1a" };
        uint64_t n = 7;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_int_equal(text_to_u64(bad[i], &n), -EINVAL);
        assert_int_equal(text_to_u64("18446744073709551616", &n), -ERANGE);
        assert_int_equal(n, 7);
        assert_int_equal(text_to_u64("18446744073709551615", &n), 0);
        assert_true(n == UINT64_MAX);
        assert_int_equal(text_to_u64("007", &n), 0);
        assert_int_equal(n, 7);
}

static void test_clean_path(void **state) {
        static const char *const bad[] = { "",   "a",   "a/b",  "//",    "/a/",  "/a//b",
                                           "/.", "/..", "/a/.", "/a/..", "/./a", "/a/../b" };
        static const char *const good[] = {
                "/", "/a", "/a/b", "/...", "/.a", "/a..", "/ ", "/\xff"
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_false(text_is_clean_path(bad[i]));
        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                assert_true(text_is_clean_path(good[i]));
}

static void test_below(void **state) {
        assert_true(text_path_is_below("/a/b", "/a"));
        assert_true(text_path_is_below("/a", "/a"));
        assert_true(text_path_is_below("/a", "/"));
        assert_false(text_path_is_below("/ab", "/a"));
        assert_false(text_path_is_below("/a", "/a/b"));
}

/* Ascending as the manifest wants it: by component, as unsigned bytes. */
static void test_path_order(void **state) {
        static const char *const order[] = { "/",         "/A",    "/a",     "/a/b",  "/a/b/c",
                                             "/a/b\x01",  "/a/b!", "/a/b-c", "/a/bc", "/a/c",
                                             "/a\x01",    "/a-b",  "/a.b",   "/ab",   "/b",
                                             "/\xc3\xbc", "/\xff" };

        for (size_t i = 0; i < ELEMENTSOF(order); i++)
                for (size_t k = 0; k < ELEMENTSOF(order); k++) {
                        int c = text_path_compare(order[i], order[k]);

                        assert_int_equal(c < 0 ? -1 : c > 0, i < k ? -1 : i > k);
                }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_escape),
                cmocka_unit_test(test_escape_invalid_utf8),
                cmocka_unit_test(test_escape_every_byte),
                cmocka_unit_test(test_unescape_malformed),
                cmocka_unit_test(test_uuid),
                cmocka_unit_test(test_names),
                cmocka_unit_test(test_label),
                cmocka_unit_test(test_hex),
                cmocka_unit_test(test_numbers),
                cmocka_unit_test(test_clean_path),
                cmocka_unit_test(test_below),
                cmocka_unit_test(test_path_order),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
