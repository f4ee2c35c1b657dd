/*
 * The fault tests' hook: the named step, its Nth passing, and nothing else.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/names.h"
#include "base/step.h"

/* Passes one, two, one, three in a child and returns how that ended. */
static int run(const char *spec) {
        int status;
        pid_t pid;

        if (spec)
                setenv(HP_ENV_STEP, spec, 1);
        else
                unsetenv(HP_ENV_STEP);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                const struct rlimit none = { 0, 0 };

                (void) setrlimit(RLIMIT_CORE, &none);
                (void) close(STDERR_FILENO); /* the notice of the step */
                step("one");
                step("two");
                step("one");
                step("three");
                _exit(42);
        }
        assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
        if (WIFSTOPPED(status)) {
                int stopped = status;

                (void) kill(pid, SIGKILL);
                assert_int_equal(waitpid(pid, &status, 0), pid);
                return stopped;
        }
        return status;
}

static void check_passes(const char *spec) {
        int status = run(spec);

        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 42);
}

static void test_actions(void **state) {
        int status = run("two=kill");

        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        status = run("two=stop");
        assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
        status = run("two=exit");
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
}

static void test_passings(void **state) {
        int status = run("one@2=exit");

        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
        check_passes("one@3=exit");
        check_passes("two@2=exit");
}

static void test_lists(void **state) {
        int status = run("none=kill,three=exit");

        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
        status = run("three=kill,one@2=exit");
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
}

static void test_not_meant(void **state) {
        check_passes(NULL);
        check_passes("");
        check_passes("on=kill");
        check_passes("one-more=kill");
        check_passes("one");
        check_passes("one=");
        check_passes("one=ki");
        check_passes("one=nothing");
        check_passes(",,");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_actions),
                cmocka_unit_test(test_passings),
                cmocka_unit_test(test_lists),
                cmocka_unit_test(test_not_meant),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
