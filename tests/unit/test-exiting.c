#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* clang-format off: it needs the headers above */
#include <cmocka.h>
/* clang-format on */

#include "base/cleanup.h"
#include "snapshot/exiting.h"

static pid_t start(void (*child)(void)) {
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0) {
                child();
                _exit(0);
        }
        return pid;
}

static void sleep_long(void) {
        /* A name that looks like the end of it. */
        (void) prctl(PR_SET_NAME, ") Z 1 1 1 1");
        (void) pause();
}

static void end_at_once(void) {
}

static void test_states(void **state) {
        _cleanup_close_ int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        pid_t living = start(sleep_long), ended = start(end_at_once);
        siginfo_t info;

        assert_true(proc >= 0);
        assert_int_equal(waitid(P_PID, (id_t) ended, &info, WEXITED | WNOWAIT), 0);
        assert_true(exiting_wait(proc, ended)); /* a zombie */
        assert_int_equal(waitpid(ended, NULL, 0), ended);
        assert_true(exiting_wait(proc, ended)); /* nobody */
        assert_false(exiting_wait(proc, getpid()));
        (void) usleep(50000); /* until it has its name; without, the test only proves less */
        assert_false(exiting_wait(proc, living));
        assert_int_equal(kill(living, SIGKILL), 0);
        assert_int_equal(waitpid(living, NULL, 0), living);
        assert_true(exiting_wait(proc, living));
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_states) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
