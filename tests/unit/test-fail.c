/*
 * Every code has a name, an exit code and a text of its own; the first failure is the one that is
 * kept.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/fail.h"
#include "base/text.h"

static void test_table(void **state) {
        for (int i = FAIL_NONE + 1; i < FAIL_N; i++) {
                FailCode code = (FailCode) i;
                const char *name = fail_name(code);

                assert_non_null(name);
                assert_true(isupper((unsigned char) *name));
                for (const char *p = name; *p; p++)
                        assert_true(isalpha((unsigned char) *p)); /* D-Bus allows little more */
                assert_int_equal(fail_from_name(name), code);
                assert_true(fail_exit_code(code) >= 1 && fail_exit_code(code) <= 9);
                assert_int_not_equal(fail_exit_code(code), 3); /* partial is a result, no error */
                assert_true(strlen(fail_default_text(code)) > 0);
                for (int k = FAIL_NONE + 1; k < i; k++)
                        assert_string_not_equal(name, fail_name((FailCode) k));
        }
        assert_int_equal(fail_exit_code(FAIL_NONE), 0);
}

static void test_from_name(void **state) {
        assert_int_equal(fail_from_name("NoSpace"), FAIL_NO_SPACE);
        assert_int_equal(fail_from_name("nospace"), FAIL_INTERNAL);
        assert_int_equal(fail_from_name("None"), FAIL_INTERNAL); /* success cannot be claimed */
        assert_int_equal(fail_from_name(""), FAIL_INTERNAL);
        assert_int_equal(fail_from_name(NULL), FAIL_INTERNAL);
}

static void test_exit_codes(void **state) {
        assert_int_equal(fail_exit_code(FAIL_INVALID_ARGUMENT), 2);
        assert_int_equal(fail_exit_code(FAIL_NOT_CONFIRMED), 2);
        assert_int_equal(fail_exit_code(FAIL_NO_SUCH_RESTORE), 5);
        assert_int_equal(fail_exit_code(FAIL_QUEUE_FULL), 6);
        assert_int_equal(fail_exit_code(FAIL_CANCELED), 7);
        assert_int_equal(fail_exit_code(FAIL_INTEGRITY_FAILURE), 8);
        assert_int_equal(fail_exit_code(FAIL_HOLD_TIMEOUT), 1);
}

static void test_first_failure_stays(void **state) {
        Failure f = FAILURE_INIT;

        assert_int_equal(fail_set(&f, FAIL_BUSY, EBUSY, "first"), -EBUSY);
        assert_int_equal(fail_set(&f, FAIL_INTERNAL, EIO, "second"), -EIO);
        assert_int_equal(f.code, FAIL_BUSY);
        assert_int_equal(f.errnum, EBUSY);
        assert_string_equal(f.text, "first");
        assert_int_equal(fail_set(NULL, FAIL_BUSY, EBUSY, "nobody listens"), -EBUSY);
        assert_int_equal(fail_errno(NULL, FAIL_BUSY, EBUSY, "nobody listens"), -EBUSY);
}

/* A caller that mixes up its signs must not turn a failure into success. */
static void test_never_success(void **state) {
        Failure f = FAILURE_INIT;

        assert_int_equal(fail_set(&f, FAIL_INTERNAL, 0, "zero"), -EIO);
        f = FAILURE_INIT;
        assert_int_equal(fail_errno(&f, FAIL_INTERNAL, -ENOENT, "negative"), -EIO);
        assert_int_equal(f.errnum, EIO);
}

static void test_texts(void **state) {
        char long_text[2000];
        Failure f = FAILURE_INIT;

        (void) fail_errno(&f, FAIL_NO_SPACE, ENOSPC, "%s", "/a");
        assert_string_equal(f.text, "/a: No space left on device");
        fail_prefix(&f, "pack %d", 7);
        assert_string_equal(f.text, "pack 7: /a: No space left on device");
        f = FAILURE_INIT;
        fail_prefix(&f, "before nothing");
        assert_string_equal(f.text, "");
        fail_prefix(NULL, "nothing");
        memset(long_text, 'x', sizeof(long_text));
        long_text[sizeof(long_text) - 1] = 0;
        (void) fail_errno(&f, FAIL_INTERNAL, EIO, "%s", long_text);
        fail_prefix(&f, "%s", long_text);
        assert_int_equal(strlen(f.text), sizeof(f.text) - 1);
}

/* What is cut is the middle: the reason and the advice stand at the end. */
static void test_long_texts(void **state) {
        static const char reason[] = ": Input/output error";
        char long_text[2000];
        Failure f = FAILURE_INIT;

        for (size_t i = 0; i + 2 < sizeof(long_text); i += 2)
                memcpy(long_text + i, "\xc3\xa4", 2); /* two bytes a character */
        for (int odd = 0; odd < 2; odd++) {
                long_text[sizeof(long_text) - 2] = 0;
                f = FAILURE_INIT;
                (void) fail_errno(&f, FAIL_INTERNAL, EIO, "%s%s", odd ? "/" : "", long_text);
                fail_prefix(&f, "reading it");
                assert_memory_equal(f.text, "reading it: ", 12);
                assert_string_equal(f.text + strlen(f.text) - strlen(reason), reason);
                assert_non_null(strstr(f.text, "..."));
                assert_true(text_is_label(f.text, sizeof(f.text)));
        }
        memset(long_text, 0x80, sizeof(long_text)); /* no text at all */
        long_text[sizeof(long_text) - 1] = 0;
        f = FAILURE_INIT;
        (void) fail_errno(&f, FAIL_INTERNAL, EIO, "%s", long_text);
        assert_string_equal(f.text + strlen(f.text) - strlen(reason), reason);
}

static void test_code_for_write(void **state) {
        assert_int_equal(fail_code_for_write(ENOSPC, FAIL_INTERNAL), FAIL_NO_SPACE);
        assert_int_equal(fail_code_for_write(-EDQUOT, FAIL_INTERNAL), FAIL_NO_SPACE);
        assert_int_equal(fail_code_for_write(EIO, FAIL_INTERNAL), FAIL_INTERNAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_table),         cmocka_unit_test(test_from_name),
                cmocka_unit_test(test_exit_codes),    cmocka_unit_test(test_first_failure_stays),
                cmocka_unit_test(test_never_success), cmocka_unit_test(test_texts),
                cmocka_unit_test(test_long_texts),    cmocka_unit_test(test_code_for_write),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
