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
#include "base/clock.h"
#include "base/globs.h"

static Globs *rules_of(const char *glob) {
        Failure failure = FAILURE_INIT;
        Globs *rules = NULL;

        if (globs_new(&glob, 1, &rules, &failure) < 0)
                fail_msg("'%s' was refused: %s", glob, failure.text);
        return rules;
}

static void check(const char *glob, const char *path, bool expected) {
        _cleanup_(globs_freep) Globs *rules = rules_of(glob);

        if (globs_exclude(rules, path) != expected)
                fail_msg("glob '%s' and path '%s': expected %d", glob, path, expected);
}

static void test_components(void **state) {
        static const struct {
                const char *glob, *path;
                bool matches;
        } cases[] = {
                { "a", "a", true },
                { "a", "b", false },
                { "a", "aa", false },
                { "a", "b/a", false },
                { "a", "", false },
                { "a", "a/b/c", true }, /* below what is left out */
                { "*", "anything", true },
                { "*", ".hidden", true },
                { "*.tmp", "x.tmp", true },
                { "*.tmp", ".tmp", true },
                { "*.tmp", "x.tmpx", false },
                { "*.tmp", "d/x.tmp", false },
                { "a*b*c", "aXbXbc", true },
                { "a*b*c", "aXbXb", false },
                { "?", "x", true },
                { "?", "", false },
                { "?", "xy", false },
                { "?", "\xc3\xa9", true }, /* one character */
                { "??", "\xc3\xa9", false },
                { "*??", "\xe2\x82\xac", false },
                { "?", "\xff", true },
                { "??", "\xff\xfe", true },
                { "[abc]x", "bx", true },
                { "[abc]x", "dx", false },
                { "[a-c]", "b", true },
                { "[!a-c]", "b", false },
                { "[^a-c]", "z", true },
                { "[]]", "]", true },
                { "[!]]", "]", false },
                { "[a-]", "-", true },
                { "[*]", "*", true },
                { "[*]", "x", false },
                { "[\xc3\xa4-\xc3\xbc]", "\xc3\xb6", true },
                { "[\xc3\xa4-\xc3\xbc]", "o", false },
                { "\\*", "\\x", true }, /* a backslash is itself */
                { "\\*", "*", false },
                { "a/b", "a/b", true },
                { "a/b", "a/b/c", true },
                { "a/b", "a", false },
                { "a/*/c", "a/b/c", true },
                { "a/*/c", "a/c", false },
                { "a/*/c", "a/b/b/c", false },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                check(cases[i].glob, cases[i].path, cases[i].matches);
}

static void test_any_depth(void **state) {
        check("**/x", "x", true);
        check("**/x", "a/x", true);
        check("**/x", "a/b/c/x", true);
        check("**/x", "a/b/c/xx", false);
        check("**/x", "a/x/b", true);
        check("x/**", "x", false);
        check("x/**", "x/a", true);
        check("x/**", "x/a/b", true);
        check("x/**", "y/a", false);
        check("a/**/b", "a/b", true);
        check("a/**/b", "a/x/b", true);
        check("a/**/b", "a/x/y/b", true);
        check("a/**/b", "a/x/y/c", false);
        check("a/**/b/**/c", "a/1/b/2/b/3/c", true);
        check("a/**/b/**/c", "a/1/2/3/c", false);
        check("**", "", false);
        check("**", "x", true);
        check("**/**", "x", true);
        check("**/*.tmp", "deep/er/x.tmp", true);
        check("**/.cache/**", "home/.cache", false);
        check("**/.cache/**", "home/.cache/x", true);
}

static void test_several(void **state) {
        static const char *const globs[] = { "one", "two/**", "**/*.bak" };
        _cleanup_(globs_freep) Globs *rules = NULL, *none = NULL;
        Failure failure = FAILURE_INIT;

        assert_int_equal(globs_new(globs, 3, &rules, &failure), 0);
        assert_true(globs_exclude(rules, "one"));
        assert_true(globs_exclude(rules, "two/x"));
        assert_true(globs_exclude(rules, "three/x.bak"));
        assert_false(globs_exclude(rules, "two"));
        assert_false(globs_exclude(rules, "three/x"));
        assert_int_equal(globs_new(NULL, 0, &none, &failure), 0);
        assert_false(globs_exclude(none, "one"));
        assert_null(globs_prefix(none, 0));
        assert_false(globs_exclude(NULL, "one"));
}

static void test_prefix(void **state) {
        static const char *const globs[] = { "cache/**", "a/b/*.tmp", "**/x",
                                             "x",        "a/[b]/c",   "a/b/c" };
        static const char *const expected[] = { "cache", "a/b", "", "", "a", "a/b" };
        _cleanup_(globs_freep) Globs *rules = NULL;
        Failure failure = FAILURE_INIT;

        assert_int_equal(globs_new(globs, ELEMENTSOF(globs), &rules, &failure), 0);
        for (size_t i = 0; i < ELEMENTSOF(globs); i++)
                assert_string_equal(globs_prefix(rules, i), expected[i]);
        assert_null(globs_prefix(rules, ELEMENTSOF(globs)));
}

static void test_malformed(void **state) {
        static const char *const bad[] = {
                "",     "/a", "a//b", "a/",    "..",  "a/../b", ".",     "./a", "[",
                "a/[b", "[]", "[!]",  "[a/b]", "a**", "**a",    "a/**b", "***", "[z-a]",
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                const char *both[] = { "fine", bad[i] };
                Failure failure = FAILURE_INIT;
                Globs *rules = (Globs *) 1;

                if (globs_new(both, 2, &rules, &failure) != -EINVAL)
                        fail_msg("'%s' was taken", bad[i]);
                assert_ptr_equal(rules, (Globs *) 1);
                assert_int_equal(failure.code, FAIL_CONFIGURATION_INVALID);
                assert_non_null(strstr(failure.text, bad[i]));
        }
}

static void test_too_large(void **state) {
        Failure failure = FAILURE_INIT;
        Globs *rules = NULL;
        char text[5001] = { 0 };
        const char *glob = text;

        memset(text, 'a', 5000);
        assert_int_equal(globs_new(&glob, 1, &rules, &failure), -EINVAL);
        for (size_t i = 0; i < 100; i++)
                memcpy(text + 2 * i, "a/", 2);
        text[199] = 0;
        assert_int_equal(globs_new(&glob, 1, &rules, &failure), -EINVAL);
}

/* Globs that make backtracking matchers run for years. */
static void test_hard(void **state) {
        char glob[1201] = { 0 }, name[1001] = { 0 }, path[20001] = { 0 };
        uint64_t start = clock_monotonic_usec();

        for (size_t i = 0; i < 600; i++)
                memcpy(glob + 2 * i, "a*", 2);
        memset(name, 'a', 1000);
        check(glob, name, true);
        glob[1199] = 'b';
        check(glob, name, false);
        for (size_t i = 0; i < 10000; i++)
                memcpy(path + 2 * i, "a/", 2);
        path[19999] = 0;
        check("**/a/**/a/**/a/**/a/**/a/**/a/**/a/**/a/**/b", path, false);
        assert_true(clock_monotonic_usec() - start < 1000000);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_components), cmocka_unit_test(test_any_depth),
                cmocka_unit_test(test_several),    cmocka_unit_test(test_prefix),
                cmocka_unit_test(test_malformed),  cmocka_unit_test(test_too_large),
                cmocka_unit_test(test_hard),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
