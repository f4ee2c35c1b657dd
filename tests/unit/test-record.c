/*
 * The gate for what workers say about backups and restores: one good record, and each key of it bad
 * in every way that its type allows.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off: it needs the headers above */
#include <cmocka.h>
/* clang-format on */

#include "agent/record.h"

#define GOOD                                                                                       \
        "{\"backup_id\":\"00000000-0000-4000-8000-000000000001\",\"status\":\"completed\","        \
        "\"bytes\":12,"                                                                            \
        "\"services\":[\"a\"],\"service_consistency\":{\"a\":\"crash\"},\"databases\":[{\"path\":" \
        "\"/x\",\"n\":1,"                                                                          \
        "\"ok\":true}],\"metadata\":\"{}\",\"created_at\":\"2024-01-01T00:00:00Z\",\"unknown\":[[" \
        "1]]}"

static json_object *parse(const char *text) {
        json_object *o = json_parse(text, strlen(text));

        assert_non_null(o);
        return o;
}

static int read_with(const char *key, const char *value, Failure *ret) {
        _cleanup_json_ json_object *in = parse(GOOD), *out = NULL;

        *ret = FAILURE_INIT;
        /* Not json_put(): null is one of the bad values. */
        assert_int_equal(json_object_object_add(in, key, json_parse(value, strlen(value))), 0);
        return record_read_backup(in, &out, ret);
}

static void test_good(void **state) {
        _cleanup_json_ json_object *in = parse(GOOD), *out = NULL;
        Failure why = FAILURE_INIT;
        uint64_t size;
        size_t i = 0;

        assert_int_equal(record_read_backup(in, &out, &why), 0);
        assert_int_equal(json_object_object_length(out), record_n_backup_fields);
        json_object_object_foreach(out, key, v) {
                (void) v;
                assert_string_equal(key, record_backup_fields[i++].key);
        }
        assert_int_equal(json_get_u64(out, "backup_size", &size), 0);
        assert_int_equal(size, 12);
}

static void test_bad_values(void **state) {
        static const struct {
                const char *key, *value;
        } bad[] = {
                { "backup_id", "\"x\"" },
                { "backup_id", "\"00000000-0000-4000-8000-00000000000A\"" },
                { "backup_id", "7" },
                { "backup_name", "\"a\\u0000b\"" },
                { "backup_name", "\"a\\u001bb\"" },
                { "backup_name", "null" },
                { "description", "\"\\u0007\"" },
                { "status", "\"\"" },
                { "status", "\"done\"" },
                { "created_at", "\"yesterday\"" },
                { "bytes", "-1" },
                { "bytes", "1.5" },
                { "bytes", "\"1\"" },
                { "files", "true" },
                { "checksum", "\"xyz\"" },
                { "services", "\"a\"" },
                { "services", "[1]" },
                { "services", "{\"a\":1}" },
                { "pinned", "1" },
                { "parent_id", "\"x\"" },
                { "service_consistency", "{\"a\":1}" },
                { "service_consistency", "[]" },
                { "databases", "[[]]" },
                { "databases", "[{\"a\":{}}]" },
                { "databases", "[{\"a\":-1}]" },
                { "databases", "[{\"\":1}]" },
                { "metadata", "\"x\"" },
                { "metadata", "\"[]\"" },
                { "metadata", "{}" },
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                Failure why;

                if (read_with(bad[i].key, bad[i].value, &why) != -EBADMSG ||
                    !strstr(why.text, bad[i].key))
                        fail_msg("%s = %s: '%s'", bad[i].key, bad[i].value, why.text);
        }
}

static void test_missing(void **state) {
        static const char *const needed[] = { "backup_id", "status" };

        for (size_t i = 0; i < ELEMENTSOF(needed); i++) {
                _cleanup_json_ json_object *in = parse(GOOD), *out = NULL;
                Failure why = FAILURE_INIT;

                json_object_object_del(in, needed[i]);
                assert_int_equal(record_read_backup(in, &out, &why), -EBADMSG);
        }
}

static void test_restore(void **state) {
        _cleanup_json_ json_object
                *in = parse("{\"restore_id\":\"00000000-0000-4000-8000-000000000001\","
                            "\"backup_id\":\"00000000-0000-4000-8000-000000000002\",\"state\":"
                            "\"active\"}"),
                *out = NULL;
        Failure why = FAILURE_INIT;

        assert_int_equal(record_read_restore(in, &out, &why), 0);
        assert_int_equal(json_object_object_length(out), record_n_restore_fields);
        assert_int_equal(json_put_string(in, "state", "gone"), 0);
        assert_int_equal(record_read_restore(in, &out, &why), -EBADMSG);
}

static void test_text(void **state) {
        assert_true(record_is_text("", 0));
        assert_true(record_is_text("two\nlines\tand\r\nmore", 100));
        assert_false(record_is_text("bell\a", 100));
        assert_false(record_is_text("\xff", 100));
        assert_false(record_is_text("abc", 2));
}

static void test_new_rows(void **state) {
        _cleanup_strings_ ConfigStrings services = { .n = 0 }, back = { .n = 0 };
        _cleanup_json_ json_object *b = NULL, *r = NULL;
        const char *s;

        assert_int_equal(strings_add(&services, "alpha"), 0);
        assert_int_equal(strings_add(&services, "beta"), 0);
        b = record_new_backup(&(RecordNew){
                .id = "00000000-0000-4000-8000-000000000001",
                .name = "n",
                .type = "full",
                .description = "",
                .created_by = "uid:0",
                .services = &services,
        });
        assert_non_null(b);
        assert_int_equal(json_get_string(b, "status", &s), 0);
        assert_string_equal(s, "running");
        assert_int_equal(record_services(b, &back), 0);
        assert_true(back.n == 2 && strings_has(&back, "beta") && !strings_has(&back, "gamma"));
        r = record_new_restore("00000000-0000-4000-8000-000000000001",
                               "00000000-0000-4000-8000-000000000002", &services);
        assert_non_null(r);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_good),    cmocka_unit_test(test_bad_values),
                cmocka_unit_test(test_missing), cmocka_unit_test(test_restore),
                cmocka_unit_test(test_text),    cmocka_unit_test(test_new_rows),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
