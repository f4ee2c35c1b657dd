/*
 * Starts a program with nothing but what it was given. All between fork and exec is system calls
 * alone: the caller may have threads, and whatever lock they held stays held in the child.
 *
 * The order in the child matters: privileges go before PDEATHSIG is asked for, since the kernel
 * forgets that wish whenever the credentials change; and the parent is looked at afterwards, since
 * it may have died before the wish was made. PDEATHSIG follows the thread that called us, not the
 * process.
 */

#include "base/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/names.h"

#ifndef HOLDPOINT_LIBEXEC_DEFAULT
#define HOLDPOINT_LIBEXEC_DEFAULT "/usr/libexec/holdpoint"
#endif

#define SOCKET_FD 3
#define REPORT_FD 4
#define HIGH_FD   16 /* where descriptors wait until their low numbers are free */

/* What went wrong in the child, sent through a pipe that a successful exec closes. */
typedef struct Report {
        int errnum;
        char what[28];
} Report;

static const char *const default_env[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C", NULL };

static void __attribute__((noreturn)) child_fail(int report, const char *what) {
        Report r = { .errnum = errno };

        strncpy(r.what, what, sizeof(r.what) - 1);
        (void) fd_write_full(report, &r, sizeof(r)); /* the exit status says it too */
        _exit(127);
}

static void child_reset_signals(int report) {
        struct sigaction sa = { .sa_handler = SIG_DFL };
        sigset_t none;

        for (int i = 1; i < NSIG; i++)
                if (i != SIGKILL && i != SIGSTOP)
                        (void) sigaction(i, &sa, NULL); /* EINVAL for those of the C library */
        (void) sigemptyset(&none);
        if (sigprocmask(SIG_SETMASK, &none, NULL) < 0)
                child_fail(report, "sigprocmask");
}

/* Returns the report pipe's new number. */
static int child_arrange_fds(const ProcSpawn *spawn, int report) {
        int null, high_report, high_socket = -1;

        high_report = fcntl(report, F_DUPFD_CLOEXEC, HIGH_FD);
        if (high_report < 0)
                child_fail(report, "dup");
        if (spawn->socket >= 0) {
                high_socket = fcntl(spawn->socket, F_DUPFD_CLOEXEC, HIGH_FD);
                if (high_socket < 0)
                        child_fail(report, "dup");
        }
        null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (null < 0 || (null != STDIN_FILENO && dup2(null, STDIN_FILENO) < 0) ||
            (null == STDIN_FILENO && fcntl(null, F_SETFD, 0) < 0))
                child_fail(high_report, "stdin");
        if (high_socket >= 0 && dup2(high_socket, SOCKET_FD) < 0)
                child_fail(high_report, "dup2");
        if (high_socket < 0)
                (void) close(SOCKET_FD); /* may well not be open */
        if (dup3(high_report, REPORT_FD, O_CLOEXEC) < 0)
                child_fail(high_report, "dup3");
        if (syscall(SYS_close_range, REPORT_FD + 1, ~0U, 0) < 0)
                child_fail(REPORT_FD, "close_range");
        return REPORT_FD;
}

static void child_drop_bounding(int report) {
        for (unsigned long cap = 0; cap < 64; cap++) {
                int has = prctl(PR_CAPBSET_READ, cap, 0, 0, 0);

                if (has < 0)
                        break; /* past the last one that this kernel has */
                /* Without CAP_SETPCAP it stays; no_new_privs below keeps it without effect. */
                if (has > 0 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EPERM)
                        child_fail(report, "capability bounding set");
        }
}

static void child_drop(const ProcSpawn *spawn, int report) {
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

        child_drop_bounding(report);
        /* uid 0 must not get its capabilities back at exec; no_new_privs says so a second time. */
        if (prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED, 0, 0, 0) < 0 &&
            errno != EPERM)
                child_fail(report, "securebits");
        if (setgroups(0, NULL) < 0)
                child_fail(report, "setgroups");
        if (setresgid(spawn->gid, spawn->gid, spawn->gid) < 0)
                child_fail(report, "setresgid");
        if (setresuid(spawn->uid, spawn->uid, spawn->uid) < 0)
                child_fail(report, "setresuid");
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
                child_fail(report, "ambient capabilities");
        if (syscall(SYS_capset, &header, data) < 0)
                child_fail(report, "capset");
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                child_fail(report, "no_new_privs");
        if (syscall(SYS_capget, &header, data) < 0 || data[0].effective || data[0].permitted ||
            data[0].inheritable || data[1].effective || data[1].permitted || data[1].inheritable) {
                errno = EPERM;
                child_fail(report, "capability sets");
        }
}

static void __attribute__((noreturn)) child_run(const ProcSpawn *spawn, pid_t parent, int report) {
        child_reset_signals(report);
        report = child_arrange_fds(spawn, report);
        if (chdir("/") < 0)
                child_fail(report, "chdir");
        if (spawn->drop)
                child_drop(spawn, report);
        if (!spawn->outlives && prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
                child_fail(report, "parent death signal");
        if (getppid() != parent)
                _exit(127); /* it died before: nobody is left to be told */
        (void) execve(spawn->path, (char *const *) spawn->argv,
                      (char *const *) (spawn->env ? spawn->env : default_env));
        child_fail(report, "exec");
}

static void reap(pid_t pid) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
}

int proc_spawn(const ProcSpawn *spawn, pid_t *ret_pid, int *ret_pidfd, Failure *reterr) {
        _cleanup_close_ int read_end = -1, write_end = -1;
        Report report = { 0 };
        pid_t parent = getpid(), pid;
        int pipe_fds[2], pidfd;
        ssize_t n;

        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot start %s: pipe",
                                  spawn->path);
        read_end = pipe_fds[0];
        write_end = pipe_fds[1];
        pid = fork();
        if (pid < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot start %s: fork",
                                  spawn->path);
        if (pid == 0)
                child_run(spawn, parent, write_end);

        write_end = fd_close(write_end);
        pidfd = (int) syscall(SYS_pidfd_open, pid, 0);
        if (pidfd < 0) {
                int errnum = errno;

                (void) kill(pid, SIGKILL); /* not reaped yet: the number is still the child's */
                reap(pid);
                return fail_errno(reterr, FAIL_INTERNAL, errnum, "cannot start %s: pidfd",
                                  spawn->path);
        }
        n = fd_read_full(read_end, &report, sizeof(report));
        if (n != 0) {
                (void) fd_close(pidfd);
                (void) kill(pid, SIGKILL);
                reap(pid);
                report.what[sizeof(report.what) - 1] = 0;
                if (n != sizeof(report))
                        return fail_errno(reterr, FAIL_INTERNAL, n < 0 ? (int) -n : EIO,
                                          "cannot start %s: no word from the child", spawn->path);
                return fail_errno(reterr, FAIL_INTERNAL, report.errnum, "cannot start %s: %s",
                                  spawn->path, report.what);
        }
        *ret_pid = pid;
        *ret_pidfd = pidfd;
        return 0;
}

const char *proc_libexec_dir(void) {
        const char *dir = getenv(HP_ENV_LIBEXEC);

        return dir && *dir ? dir : HOLDPOINT_LIBEXEC_DEFAULT;
}
