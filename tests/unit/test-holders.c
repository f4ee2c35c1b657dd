/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "snapshot/snapshot.h"
#include "tests/lib/loopfs.h"

/*
 * A file system with srv/x (the target, with sub/file in it), srv/xy beside it, and an empty mnt/.
 * Each holder is a process that does one thing and waits.
 */
typedef struct Fixture {
        Loopfs *fs;
        char *at, *target;
} Fixture;

typedef void (*Hold)(const char *at);

static void require(int result, const char *what) {
        if (result >= 0)
                return;
        perror(what);
        _exit(1);
}

#define REQUIRE(call) require((int) (call), #call)

static int fill(void **state, Fixture *f, const char *make) {
        assert_true(asprintf(&f->target, "%s/srv/x", f->at) > 0);
        loopfs_run("cd %s && mkdir mnt srv srv/xy && %s srv/x && mkdir srv/x/sub && "
                   "echo hello > srv/x/sub/file && cp srv/x/sub/file srv/xy/file && "
                   "cp /bin/sleep srv/x/sub/sleep && mkdir srv/x/bin",
                   f->at, make);
        *state = f;
        return 0;
}

static int set_up(void **state, const char *type, const char *make) {
        Fixture *f = calloc(1, sizeof(*f));

        f->fs = loopfs_new(type);
        f->at = strdup(loopfs_path(f->fs));
        return fill(state, f, make);
}

/* As distributions do it: what is mounted is a subvolume. Here the top is mounted as well. */
static int set_up_mounted(void **state) {
        Fixture *f = calloc(1, sizeof(*f));

        f->fs = loopfs_new("btrfs");
        f->at = loopfs_join(f->fs, "system");
        loopfs_run("btrfs -q subvolume create %s/@ && mkdir %s && mount -o subvol=@ %s %s",
                   loopfs_path(f->fs), f->at, loopfs_device(f->fs), f->at);
        return fill(state, f, "mkdir");
}

static int set_up_subvolume(void **state) {
        return set_up(state, "btrfs", "btrfs -q subvolume create");
}

static int set_up_btrfs(void **state) {
        return set_up(state, "btrfs", "mkdir");
}

/* The target is a plain directory, what is held lies in a subvolume below it. */
static int set_up_nested(void **state) {
        return set_up(state, "btrfs",
                      "sh -c 'mkdir $1 && btrfs -q subvolume create $1/n && "
                      "ln -s nothing $1/link; true' sh");
}

static int set_up_ext4(void **state) {
        return set_up(state, "ext4", "mkdir");
}

static int set_up_xfs(void **state) {
        return set_up(state, "xfs", "mkdir");
}

static int tear_down(void **state) {
        Fixture *f = *state;

        loopfs_free(f->fs);
        free(f->target);
        free(f->at);
        free(f);
        return 0;
}

static const char *below(const char *at, const char *path) {
        static char text[4096]; /* in a child of its own */

        (void) snprintf(text, sizeof(text), "%s/%s", at, path);
        return text;
}

/* Starts a holder; returns when it holds. */
static pid_t start(const char *at, Hold hold) {
        int ready[2];
        char byte;
        pid_t pid;

        assert_int_equal(pipe(ready), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                close(ready[0]);
                hold(at);
                REQUIRE(write(ready[1], "x", 1));
                for (;;)
                        pause();
        }
        close(ready[1]);
        assert_int_equal(read(ready[0], &byte, 1), 1);
        close(ready[0]);
        return pid;
}

static void stop(pid_t pid) {
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void expect_unused(const char *target) {
        Failure failure = FAILURE_INIT;

        if (tree_prove_unused(target, &failure) < 0)
                fail_msg("%s", failure.text);
}

static void expect_busy(const char *target, pid_t pid, const char *words) {
        Failure failure = FAILURE_INIT;
        char text[32];
        int r = tree_prove_unused(target, &failure);

        assert_int_equal(r, -EBUSY);
        assert_int_equal(failure.code, FAIL_TARGET_IN_USE);
        (void) snprintf(text, sizeof(text), "process %d (", pid);
        if (!strstr(failure.text, words) || (pid > 0 && !strstr(failure.text, text)) ||
            !strstr(failure.text, target))
                fail_msg("'%s' does not say '%s' and '%s'", failure.text, words, text);
}

/* ---- holders ---- */

static void hold_open(const char *at) {
        REQUIRE(open(below(at, "srv/x/sub/file"), O_RDONLY));
}

static void hold_path(const char *at) {
        REQUIRE(open(below(at, "srv/x/sub"), O_PATH));
}

static void hold_top(const char *at) {
        REQUIRE(open(below(at, "srv/x"), O_PATH));
}

static void hold_cwd(const char *at) {
        REQUIRE(chdir(below(at, "srv/x/sub")));
}

static void hold_root(const char *at) {
        REQUIRE(chroot(below(at, "srv/x/sub")));
}

static void hold_map(const char *at) {
        int fd = open(below(at, "srv/x/sub/file"), O_RDONLY);

        REQUIRE(fd);
        REQUIRE(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
        close(fd);
}

static void hold_deleted(const char *at) {
        REQUIRE(open(below(at, "srv/x/sub/gone"), O_RDWR | O_CREAT, 0600));
        REQUIRE(unlink(below(at, "srv/x/sub/gone")));
}

static void hold_temporary(const char *at) {
        REQUIRE(open(below(at, "srv/x/sub"), O_RDWR | O_TMPFILE, 0600));
}

static void hold_deleted_cwd(const char *at) {
        REQUIRE(mkdir(below(at, "srv/x/gone"), 0700));
        REQUIRE(chdir(below(at, "srv/x/gone")));
        REQUIRE(rmdir(below(at, "srv/x/gone")));
}

static void own_namespace(void) {
        REQUIRE(unshare(CLONE_NEWNS));
        REQUIRE(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
}

static void bind_to(const char *at, const char *from, const char *to) {
        char source[4096];

        (void) snprintf(source, sizeof(source), "%s/%s", at, from);
        REQUIRE(mount(source, below(at, to), NULL, MS_BIND, NULL));
}

static void hold_in_namespace(const char *at) {
        own_namespace();
        bind_to(at, "srv", "mnt");
        REQUIRE(open(below(at, "mnt/x/sub/file"), O_RDONLY));
}

static void hold_cwd_in_namespace(const char *at) {
        own_namespace();
        bind_to(at, "srv", "mnt");
        REQUIRE(chdir(below(at, "mnt/x")));
}

static void hold_map_in_namespace(const char *at) {
        int fd;

        own_namespace();
        bind_to(at, "srv", "mnt");
        fd = open(below(at, "mnt/x/sub/file"), O_RDONLY);
        REQUIRE(fd);
        REQUIRE(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
        close(fd);
}

/* As a service manager does it: a root of its own, the old one thrown away. */
static void hold_chroot_in_namespace(const char *at) {
        own_namespace();
        REQUIRE(mount("none", below(at, "mnt"), "tmpfs", 0, NULL));
        REQUIRE(mkdir(below(at, "mnt/data"), 0755));
        bind_to(at, "srv", "mnt/data");
        REQUIRE(chdir(below(at, "mnt")));
        REQUIRE(syscall(SYS_pivot_root, ".", "."));
        REQUIRE(umount2(".", MNT_DETACH));
        REQUIRE(chdir("/"));
        REQUIRE(open("/data/x/sub/file", O_RDONLY));
}

static void hold_bind(const char *at) {
        own_namespace();
        bind_to(at, "srv/x", "mnt");
}

static void hold_bind_below(const char *at) {
        own_namespace();
        bind_to(at, "srv/x/sub", "mnt");
}

static void hold_mounted(const char *at) {
        own_namespace();
        REQUIRE(mount("none", below(at, "srv/x/sub"), "tmpfs", 0, NULL));
}

static void hold_mounted_on(const char *at) {
        own_namespace();
        REQUIRE(mount("none", below(at, "srv/x"), "tmpfs", 0, NULL));
}

/* A mount without a place: what is in it cannot be told from what is in the target. */
static void hold_detached(const char *at) {
        int fd = (int) syscall(SYS_open_tree, AT_FDCWD, below(at, "srv"), 1 | O_CLOEXEC);

        REQUIRE(fd);
        REQUIRE(openat(fd, "x/sub/file", O_RDONLY));
        close(fd);
}

static void *thread_hold(void *userdata) {
        REQUIRE(unshare(CLONE_FILES));
        REQUIRE(open(below(userdata, "srv/x/sub/file"), O_RDONLY));
        *(volatile int *) ((char *) userdata + 4000) = 1;
        for (;;)
                pause();
        return NULL;
}

static void hold_thread(const char *at) {
        static char copy[4096];
        volatile int *done = (volatile int *) (copy + 4000);
        pthread_t thread;

        (void) snprintf(copy, 4000, "%s", at);
        REQUIRE(-pthread_create(&thread, NULL, thread_hold, copy));
        while (!*done)
                usleep(1000);
}

/* Near misses. */

static void miss_parent(const char *at) {
        REQUIRE(chdir(below(at, "srv")));
        REQUIRE(open(at, O_RDONLY));
}

static void miss_sibling(const char *at) {
        int fd = open(below(at, "srv/xy/file"), O_RDONLY);

        REQUIRE(fd);
        REQUIRE(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
        REQUIRE(chdir(below(at, "srv/xy")));
}

static void miss_namespace(const char *at) {
        own_namespace();
        bind_to(at, "srv/xy", "mnt");
        REQUIRE(open(below(at, "mnt/file"), O_RDONLY));
}

/* Another file under the target's name: the path is the same, the file is not. */
static void miss_shadow(const char *at) {
        own_namespace();
        REQUIRE(mount("none", below(at, "srv"), "tmpfs", 0, NULL));
        REQUIRE(mkdir(below(at, "srv/x"), 0755));
        REQUIRE(open(below(at, "srv/x/file"), O_RDWR | O_CREAT, 0600));
}

/* Its mountinfo has paths below its own root, the links of /proc do not. */
static void chroot_to_bind(const char *at) {
        own_namespace();
        REQUIRE(mkdir(below(at, "mnt/data"), 0755) < 0 && errno != EEXIST ? -1 : 0);
        bind_to(at, "srv", "mnt/data");
        REQUIRE(chroot(below(at, "mnt")));
        REQUIRE(chdir("/"));
}

static void miss_chroot(const char *at) {
        chroot_to_bind(at);
        REQUIRE(open("/data/xy/file", O_RDONLY));
}

static void hold_chroot(const char *at) {
        chroot_to_bind(at);
        REQUIRE(open("/data/x/sub/file", O_RDONLY));
}

/* What it has open lies on the mount that holds its root, which no mountinfo shows. */
static void chroot_plain(const char *at) {
        own_namespace();
        REQUIRE(chroot(below(at, "srv")));
        REQUIRE(chdir("/"));
}

static void miss_chroot_plain(const char *at) {
        chroot_plain(at);
        REQUIRE(open("/xy/file", O_RDONLY));
}

static void hold_chroot_plain(const char *at) {
        chroot_plain(at);
        REQUIRE(open("/x/sub/file", O_RDONLY));
}

static void miss_sockets(const char *at) {
        int pair[2];

        REQUIRE(pipe(pair));
        REQUIRE(open("/dev/null", O_RDONLY));
        REQUIRE(syscall(SYS_memfd_create, "memory", 0));
        REQUIRE(open("/proc/self/status", O_RDONLY));
}

static void test_holders(void **state) {
        static const struct {
                Hold hold;
                const char *words;
        } cases[] = {
                { hold_open, "has open" },
                { hold_path, "has open" },
                { hold_top, "has open" },
                { hold_cwd, "works in" },
                { hold_root, "as its root" },
                { hold_map, "maps" },
                { hold_deleted, "(deleted)" },
                { hold_temporary, "has open" },
                { hold_deleted_cwd, "works in" },
                { hold_in_namespace, "has open" },
                { hold_cwd_in_namespace, "works in" },
                { hold_map_in_namespace, "maps" },
                { hold_chroot_in_namespace, "has open" },
                { hold_chroot, "has open" },
                { hold_chroot_plain, "has open" },
                { hold_bind, "the mount" },
                { hold_bind_below, "the mount" },
                { hold_mounted, "the mount" },
                { hold_mounted_on, "the mount" },
                { hold_detached, "" },
                { hold_thread, "has open" },
        };
        Fixture *f = *state;

        expect_unused(f->target);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                pid_t pid = start(f->at, cases[i].hold);

                expect_busy(f->target, pid, cases[i].words);
                stop(pid);
                expect_unused(f->target);
        }
}

static void test_misses(void **state) {
        const Hold cases[] = { miss_parent, miss_sibling,      miss_namespace, miss_shadow,
                               miss_chroot, miss_chroot_plain, miss_sockets };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                pid_t pid = start(f->at, cases[i]);

                expect_unused(f->target);
                stop(pid);
        }
}

static void hold_nested(const char *at) {
        REQUIRE(open(below(at, "srv/x/n/file"), O_RDWR | O_CREAT, 0600));
}

static void hold_nested_cwd(const char *at) {
        REQUIRE(chdir(below(at, "srv/x/n")));
}

static void test_nested(void **state) {
        const Hold cases[] = { hold_nested, hold_nested_cwd };
        Fixture *f = *state;

        expect_unused(f->target);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                pid_t pid = start(f->at, cases[i]);

                expect_busy(f->target, pid, "");
                stop(pid);
        }
}

static void run_program(const char *at) {
        pid_t pid = fork();

        REQUIRE(pid);
        if (pid > 0)
                return;
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        REQUIRE(execl(below(at, "srv/x/sub/sleep"), "sleep", "1000", NULL));
}

static void test_program(void **state) {
        Fixture *f = *state;
        pid_t pid = start(f->at, run_program);

        usleep(100000); /* the exec is the grandchild's */
        expect_busy(f->target, 0, "runs");
        stop(pid);
}

static void test_file(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *file = loopfs_join(f->fs, "srv/x/sub/file");
        pid_t pid;

        expect_unused(file);
        pid = start(f->at, hold_open);
        expect_busy(file, pid, "has open");
        stop(pid);
        pid = start(f->at, hold_map_in_namespace);
        expect_busy(file, pid, "maps");
        stop(pid);
        pid = start(f->at, hold_cwd); /* beside it */
        expect_unused(file);
        stop(pid);
        pid = start(f->at, hold_deleted);
        expect_unused(file);
        stop(pid);
}

/* In our own namespace, and with our own descriptors: those are known to the caller. */
static void test_own(void **state) {
        Fixture *f = *state;
        _cleanup_close_ int fd = open(f->target, O_RDONLY);

        assert_true(fd >= 0);
        expect_unused(f->target);
        loopfs_run("mount --bind %s %s/mnt", f->target, f->at);
        expect_busy(f->target, 0, "/mnt' (as this process sees it)");
        loopfs_run("umount %s/mnt && mount -t tmpfs none %s/sub", f->at, f->target);
        expect_busy(f->target, 0, "stands on or in it");
        loopfs_run("umount %s/sub && mkdir '%s/a b\\c' && mount --bind %s/srv/x '%s/a b\\c'",
                   f->target, f->at, f->at, f->at);
        expect_busy(f->target, 0, "a b\\x5cc'");
        loopfs_run("umount '%s/a b\\c'", f->at);
        expect_unused(f->target);
}

static void hold_with_newline(const char *at) {
        REQUIRE(open(below(at, "srv/x/sub/new\nline (deleted)"), O_RDWR | O_CREAT, 0600));
        REQUIRE(prctl(PR_SET_NAME, "evil\nname"));
}

static void test_odd_names(void **state) {
        Fixture *f = *state;
        pid_t pid = start(f->at, hold_with_newline);

        expect_busy(f->target, pid, "new\\x0aline (deleted)");
        expect_busy(f->target, pid, "evil\\x0aname");
        stop(pid);
}

/* Without the right to see what others hold there is no proof. */
static void test_unreadable(void **state) {
        Fixture *f = *state;
        pid_t other = start(f->at, miss_sockets), pid;
        int status;

        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
                struct __user_cap_data_struct data[2];
                Failure failure = FAILURE_INIT;
                int r;

                REQUIRE(syscall(SYS_capget, &header, data));
                data[0].effective &= ~(1u << CAP_SYS_PTRACE);
                data[0].permitted &= ~(1u << CAP_SYS_PTRACE);
                REQUIRE(syscall(SYS_capset, &header, data));
                r = tree_prove_unused(f->target, &failure);
                _exit(r == -EBUSY && strstr(failure.text, "cannot be seen") ? 0 : 1);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        stop(other);
}

static void test_refused(void **state) {
        Failure failure = FAILURE_INIT;
        Fixture *f = *state;
        _cleanup_free_ char *missing = loopfs_join(f->fs, "srv/none");

        assert_int_equal(tree_prove_unused(missing, &failure), -ENOENT);
        assert_int_equal(failure.code, FAIL_SOURCE_MISSING);
}

static void idle(const char *at) {
}

static void test_quick(void **state) {
        Fixture *f = *state;
        pid_t pids[300];
        uint64_t began, usec = UINT64_MAX;

        for (size_t i = 0; i < ELEMENTSOF(pids); i++)
                pids[i] = start(f->at, idle);
        for (int i = 0; i < 3; i++) {
                began = clock_monotonic_usec();
                expect_unused(f->target);
                began = clock_monotonic_usec() - began;
                usec = began < usec ? began : usec;
        }
        print_message("%zu processes: %.1f ms\n", ELEMENTSOF(pids), (double) usec / 1000);
        for (size_t i = 0; i < ELEMENTSOF(pids); i++)
                stop(pids[i]);
        assert_true(usec < USEC_PER_SEC); /* generous: shared machines, sanitizers */
}

#define ON(where, name)                                                                            \
        { #name " on " #where, name, set_up_##where, tear_down, NULL }

/*
 * A /proc of our own: other tests, and whatever else runs here, may do as they like meanwhile; some
 * of it may even be hidden from root, as a container's init is, which rightly makes everything
 * busy.
 */
static void own_processes(void) {
        REQUIRE(unshare(CLONE_NEWPID));
        /* The first is the namespace's init, whom a leak checker may not trace; the second tests.
         */
        for (int i = 0; i < 2; i++) {
                pid_t pid = fork();
                int status;

                REQUIRE(pid);
                if (pid > 0) {
                        REQUIRE(waitpid(pid, &status, 0));
                        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
                }
                REQUIRE(prctl(PR_SET_PDEATHSIG, SIGKILL));
                if (i == 0)
                        REQUIRE(mount("proc", "/proc", "proc", 0, NULL));
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                ON(subvolume, test_holders), ON(btrfs, test_holders),
                ON(ext4, test_holders),      ON(xfs, test_holders),
                ON(subvolume, test_misses),  ON(btrfs, test_misses),
                ON(ext4, test_misses),       ON(nested, test_nested),
                ON(subvolume, test_program), ON(ext4, test_program),
                ON(btrfs, test_file),        ON(ext4, test_file),
                ON(subvolume, test_own),     ON(ext4, test_own),
                ON(btrfs, test_odd_names),   ON(ext4, test_unreadable),
                ON(ext4, test_refused),      ON(btrfs, test_quick),
                ON(ext4, test_quick),        ON(mounted, test_holders),
                ON(mounted, test_misses),
        };

        if (!loopfs_possible())
                return 77;
        own_processes();
        return cmocka_run_group_tests(tests, NULL, NULL);
}
