/*
 * Types of JSON members are what they are: nothing is converted, nothing is guessed.
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

#include "base/json.h"

static json_object *parse(const char *text) {
        return json_parse(text, strlen(text));
}

static void test_parse(void **state) {
        static const char *const bad[] = { "",      " ",       "{",     "{} x",       "{}{}",
                                           "{a:1}", "[1,]",    "nul",   "{\"a\":01}", "\"\xc3\"",
                                           "[1 2]", "{\"a\"}", "//\n{}" };
        _cleanup_json_ json_object *o = parse("{\"a\":[1,{\"b\":null}]}");

        assert_non_null(o);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_null(parse(bad[i]));
        assert_null(json_parse("{}x", 4));
        assert_null(json_parse("{}", (size_t) INT32_MAX + 1));
}

static void test_depth(void **state) {
        char text[201];
        _cleanup_json_ json_object *o = NULL;

        memset(text, '[', 100);
        memset(text + 100, ']', 100);
        text[200] = 0;
        assert_null(parse(text));
        o = parse("[[[[[[[[[[]]]]]]]]]]");
        assert_non_null(o);
}

static void test_types(void **state) {
        _cleanup_json_ json_object *o =
                parse("{\"s\":\"x\",\"n\":1,\"b\":true,\"o\":{},\"a\":[],\"z\":null,\"d\":1.5,"
                      "\"t\":\"1\",\"u\":\"a\\u0000b\"}");
        json_object *v;
        const char *s;
        uint64_t n;
        bool b;

        assert_non_null(o);
        assert_int_equal(json_get_string(o, "s", &s), 0);
        assert_string_equal(s, "x");
        assert_int_equal(json_get_u64(o, "n", &n), 0);
        assert_int_equal(n, 1);
        assert_int_equal(json_get_bool(o, "b", &b), 0);
        assert_true(b);
        assert_int_equal(json_get_object(o, "o", &v), 0);
        assert_int_equal(json_get_array(o, "a", &v), 0);
        assert_int_equal(json_get_string(o, "none", &s), -ENOENT);
        assert_int_equal(json_get_string(o, "n", &s), -EINVAL);
        assert_int_equal(json_get_string(o, "z", &s), -EINVAL);
        assert_int_equal(json_get_string(o, "u", &s), -EINVAL); /* a NUL inside */
        assert_int_equal(json_get_u64(o, "t", &n), -EINVAL);
        assert_int_equal(json_get_u64(o, "d", &n), -EINVAL);
        assert_int_equal(json_get_u64(o, "b", &n), -EINVAL);
        assert_int_equal(json_get_bool(o, "n", &b), -EINVAL);
        assert_int_equal(json_get_object(o, "a", &v), -EINVAL);
        assert_int_equal(json_get_array(o, "o", &v), -EINVAL);
        assert_int_equal(json_get_array(NULL, "o", &v), -EINVAL);
}

static void test_numbers(void **state) {
        _cleanup_json_ json_object *o = parse("{\"neg\":-1,\"big\":18446744073709551615}");
        uint64_t n = 7;

        assert_non_null(o);
        assert_int_equal(json_get_u64(o, "neg", &n), -EINVAL);
        assert_int_equal(n, 7);
        assert_int_equal(json_get_u64(o, "big", &n), 0);
        assert_true(n == UINT64_MAX);
}

static void test_put(void **state) {
        _cleanup_json_ json_object *o = json_object_new_object();
        char *path = NULL;

        assert_int_equal(json_put_string(o, "s", NULL), 0);
        assert_int_equal(json_put_u64(o, "n", UINT64_MAX), 0);
        assert_int_equal(json_put_bool(o, "b", false), 0);
        assert_int_equal(json_put_path(o, "p", "/a\xff\n"), 0);
        assert_int_equal(json_put(o, "x", NULL), -ENOMEM);
        assert_string_equal(json_text(o), "{\"s\":\"\",\"n\":18446744073709551615,\"b\":false,"
                                          "\"p\":\"/a\\\\xff\\\\x0a\"}");
        assert_int_equal(json_get_path(o, "p", &path), 0);
        assert_string_equal(path, "/a\xff\n");
        free(path);
        assert_int_equal(json_put_string(o, "p", "\\q"), 0);
        assert_int_equal(json_get_path(o, "p", &path), -EINVAL);
        assert_int_equal(json_get_path(o, "none", &path), -ENOENT);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_parse), cmocka_unit_test(test_depth),
                cmocka_unit_test(test_types), cmocka_unit_test(test_numbers),
                cmocka_unit_test(test_put),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
