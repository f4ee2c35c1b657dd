/*
 * What a started program has and has not: descriptors, signals, environment, privileges, and a
 * parent whose death ends it.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/proc.h"

/* Runs a shell line that writes to fd 3, and returns what it wrote. */
static char *run(const char *line, bool drop, uid_t uid) {
        const char *argv[] = { "sh", "-c", line, NULL };
        ProcSpawn spawn = {
                .path = "/bin/sh", .argv = argv, .socket = -1, .drop = drop, .uid = uid, .gid = uid
        };
        char *text = calloc(1, 8192);
        Failure failure = FAILURE_INIT;
        int pair[2], pidfd = -1;
        siginfo_t info = { 0 };
        pid_t pid = -1;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        spawn.socket = pair[1];
        if (proc_spawn(&spawn, &pid, &pidfd, &failure) < 0)
                fail_msg("%s", failure.text);
        close(pair[1]);
        assert_true(fd_read_full(pair[0], text, 8191) >= 0);
        close(pair[0]);
        assert_int_equal(waitid(P_PIDFD, (id_t) pidfd, &info, WEXITED), 0);
        assert_int_equal(info.si_pid, pid);
        assert_int_equal(info.si_status, 0);
        close(pidfd);
        return text;
}

static void test_descriptors(void **state) {
        int extra = open("/dev/null", O_RDONLY); /* not close-on-exec on purpose */
        char *text;

        (void) signal(SIGUSR1, SIG_IGN);
        assert_true(extra >= 0);
        /* Neither pipe nor redirection: the shell would hold descriptors of its own. */
        text = run("exec >&3; ls /proc/$$/fd; readlink /proc/$$/fd/0; pwd", false, 0);
        assert_string_equal(text, "0\n1\n2\n3\n/dev/null\n/\n");
        free(text);
        text = run("env | sort | tr '\\n' ' ' >&3", false, 0);
        assert_null(strstr(text, "HOME="));
        assert_non_null(strstr(text, "LANG=C PATH=/"));
        free(text);
        text = run("grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status >&3", false, 0);
        assert_null(strstr(text, "SigIgn:\t0000000000000200"));
        assert_non_null(strstr(text, "SigBlk:\t0000000000000000"));
        free(text);
        close(extra);
}

static void check_dropped(uid_t uid) {
        char *text =
                run("grep -E '^(Cap|NoNewPrivs|Uid|Gid|Groups)' /proc/self/status >&3", true, uid);
        char ids[64];
        static const char *const sets[] = { "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb" };

        for (size_t i = 0; i < ELEMENTSOF(sets); i++) {
                char line[64];

                (void) snprintf(line, sizeof(line), "%s:\t0000000000000000", sets[i]);
                if (!strstr(text, line))
                        fail_msg("uid %u keeps %s:\n%s", uid, sets[i], text);
        }
        (void) snprintf(ids, sizeof(ids), "Uid:\t%u\t%u\t%u\t%u", uid, uid, uid, uid);
        assert_non_null(strstr(text, ids));
        ids[0] = 'G', ids[1] = 'i', ids[2] = 'd';
        assert_non_null(strstr(text, ids));
        assert_non_null(strstr(text, "NoNewPrivs:\t1"));
        assert_true(strstr(text, "Groups:\t \n") || strstr(text, "Groups:\t\n"));
        free(text);
}

static void test_dropped(void **state) {
        if (geteuid() != 0)
                skip();
        check_dropped(65534);
        check_dropped(0);
}

static void test_missing_program(void **state) {
        const char *argv[] = { "nothing", NULL };
        ProcSpawn spawn = { .path = "/nonexistent/program", .argv = argv, .socket = -1 };
        Failure failure = FAILURE_INIT;
        int pidfd = -1;
        pid_t pid = -1;

        assert_int_equal(proc_spawn(&spawn, &pid, &pidfd, &failure), -ENOENT);
        assert_non_null(strstr(failure.text, "/nonexistent/program"));
        assert_int_equal(pidfd, -1);
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nothing is left to be reaped */
}

/* The parent is killed: the child, stopped even, goes too. */
static void test_parent_dies(void **state) {
        const char *argv[] = { "sleep", "60", NULL };
        ProcSpawn spawn = { .path = "/bin/sleep",
                            .argv = argv,
                            .socket = -1,
                            .drop = geteuid() == 0,
                            .uid = 65534,
                            .gid = 65534 };
        int pipe_fds[2], pidfd;
        pid_t parent, child = -1;
        struct pollfd p = { .events = POLLIN };

        assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
        parent = fork();
        if (parent == 0) {
                if (proc_spawn(&spawn, &child, &pidfd, NULL) < 0)
                        _exit(1);
                (void) kill(child, SIGSTOP);
                (void) fd_write_full(pipe_fds[1], &child, sizeof(child));
                for (;;)
                        pause();
        }
        assert_int_equal(fd_read_full(pipe_fds[0], &child, sizeof(child)), sizeof(child));
        p.fd = (int) syscall(SYS_pidfd_open, child, 0);
        assert_true(p.fd >= 0);
        assert_int_equal(poll(&p, 1, 50), 0);
        assert_int_equal(kill(parent, SIGKILL), 0);
        assert_int_equal(waitpid(parent, NULL, 0), parent);
        assert_int_equal(poll(&p, 1, 2000), 1);
        close(p.fd);
        close(pipe_fds[0]);
        close(pipe_fds[1]);
}

static void test_libexec(void **state) {
        char *old = getenv("HOLDPOINT_LIBEXECDIR"), *kept = old ? strdup(old) : NULL;

        setenv("HOLDPOINT_LIBEXECDIR", "/some/where", 1);
        assert_string_equal(proc_libexec_dir(), "/some/where");
        unsetenv("HOLDPOINT_LIBEXECDIR");
        assert_int_equal(proc_libexec_dir()[0], '/');
        if (kept)
                setenv("HOLDPOINT_LIBEXECDIR", kept, 1);
        free(kept);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_descriptors),     cmocka_unit_test(test_dropped),
                cmocka_unit_test(test_missing_program), cmocka_unit_test(test_parent_dies),
                cmocka_unit_test(test_libexec),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
