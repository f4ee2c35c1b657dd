/*
 * Key bytes are gone when they are freed, and are not handed to children.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/secret.h"

static void test_life(void **state) {
        Secret s = SECRET_INIT;

        secret_done(&s); /* never filled */
        assert_int_equal(secret_new(&s, 32), 0);
        for (size_t i = 0; i < 32; i++)
                assert_int_equal(s.data[i], 0);
        secret_done(&s);
        assert_null(s.data);
        assert_int_equal(s.size, 0);
        assert_int_equal(secret_copy(&s, "0123456789abcdef", 16), 0);
        assert_memory_equal(s.data, "0123456789abcdef", 16);
        secret_done(&s);
        secret_done(&s);
}

/* A child sees zeros. */
static void test_fork(void **state) {
        Secret s = SECRET_INIT;
        int status;
        pid_t pid;

        assert_int_equal(secret_copy(&s, "key", 3), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
                _exit(s.data[0] | s.data[1] | s.data[2] ? 1 : 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
        assert_memory_equal(s.data, "key", 3);
        secret_done(&s);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_life),
                cmocka_unit_test(test_fork),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
