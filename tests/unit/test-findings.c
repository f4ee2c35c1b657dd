/*
 * The list of a diagnosis has an end, and says what it leaves out; bad news has room where good
 * news has none left.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <stdio.h>
#include <string.h>

#include "base/findings.h"

static uint64_t number(json_object *report, const char *key) {
        uint64_t n = UINT64_MAX;

        assert_int_equal(json_get_u64(report, key, &n), 0);
        return n;
}

static const char *text(json_object *o, const char *key) {
        const char *s = NULL;

        assert_int_equal(json_get_string(o, key, &s), 0);
        return s;
}

static size_t rows(json_object *report) {
        json_object *list;

        assert_int_equal(json_get_array(report, "findings", &list), 0);
        return json_object_array_length(list);
}

static void test_shape(void **state) {
        _cleanup_json_ json_object *report = NULL;
        json_object *list, *row;
        Findings l;

        assert_int_equal(findings_init(&l), 0);
        findings_add(&l, FINDING_OK, ABOUT("state", "x"), NULL, "good");
        findings_add(&l, FINDING_WARNING, &(FindingAbout){ "service.path", "app", "/srv/\x1b\xff" },
                     "mend\nit", "%s is %d", "a\\b", 7);
        report = findings_report(&l);
        findings_done(&l);
        assert_non_null(report);
        assert_string_equal(text(report, "worst"), "warning");
        assert_int_equal(number(report, "ok"), 1);
        assert_int_equal(number(report, "warnings"), 1);
        assert_int_equal(number(report, "notes"), 0);
        assert_int_equal(number(report, "errors"), 0);
        assert_int_equal(json_get_array(report, "findings", &list), 0);
        row = json_object_array_get_idx(list, 1);
        assert_string_equal(text(row, "severity"), "warning");
        assert_string_equal(text(row, "check"), "service.path");
        assert_string_equal(text(row, "service"), "app");
        assert_string_equal(text(row, "subject"), "/srv/\\x1b\\xff");
        assert_string_equal(text(row, "text"), "a\\x5cb is 7");
        assert_string_equal(text(row, "remedy"), "mend\\x0ait");
        assert_string_equal(text(json_object_array_get_idx(list, 0), "remedy"), "");
}

static void fill(Findings *l, FindingSeverity severity, size_t n, size_t bytes) {
        char long_text[1100];

        (void) memset(long_text, 'x', sizeof(long_text));
        long_text[bytes < sizeof(long_text) ? bytes : sizeof(long_text) - 1] = 0;
        for (size_t i = 0; i < n; i++)
                findings_add(l, severity, ABOUT("c", "s"), NULL, "%s", long_text);
}

static void test_end(void **state) {
        static const size_t sizes[] = { 1, 1000 }; /* by number, by bytes */

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                _cleanup_json_ json_object *report = NULL;
                Findings l;
                size_t good;

                assert_int_equal(findings_init(&l), 0);
                fill(&l, FINDING_OK, 1000, sizes[i]);
                good = json_object_array_length(l.list);
                assert_true(good > 10 && good <= FINDINGS_MAX / 2);
                fill(&l, FINDING_ERROR, 1000, sizes[i]);
                report = findings_report(&l);
                assert_non_null(report);
                assert_true(rows(report) >= 2 * good - 1 && rows(report) <= FINDINGS_MAX);
                assert_true(strlen(json_text(report)) < (size_t) 110 << 10);
                assert_int_equal(number(report, "left_out"), 2000 - rows(report));
                assert_int_equal(number(report, "errors"), 1000);
                assert_string_equal(text(report, "worst"), "error");
                findings_done(&l);
        }
}

static void test_merge(void **state) {
        _cleanup_json_ json_object *other = NULL, *report = NULL, *no = json_object_new_object();
        Findings a, b;

        assert_int_equal(findings_init(&a), 0);
        assert_int_equal(findings_init(&b), 0);
        fill(&a, FINDING_ERROR, 1000, 1000);
        assert_int_equal(json_put_u64(a.rest, "more", 5), 0);
        other = findings_report(&a);
        findings_add(&b, FINDING_OK, ABOUT("c", "s"), NULL, "good");
        assert_int_equal(findings_merge(&b, other), 0);
        report = findings_report(&b);
        assert_non_null(report);
        assert_int_equal(rows(report), rows(other) + 1);
        assert_int_equal(number(report, "ok"), 1);
        assert_int_equal(number(report, "errors"), 1000);
        assert_int_equal(number(report, "left_out"), number(other, "left_out"));
        assert_int_equal(number(report, "more"), 5);
        assert_true(findings_merge(&b, no) < 0);
        findings_done(&a);
        findings_done(&b);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_shape),
                cmocka_unit_test(test_end),
                cmocka_unit_test(test_merge),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
