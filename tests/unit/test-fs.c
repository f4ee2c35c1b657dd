/*
 * Durable writes that fail half way, and removal of trees that somebody else filled.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/fs.h"
#include "tests/lib/loopfs.h"

static Loopfs *open_fs(const char *type, int *ret_fd) {
        Loopfs *fs;

        if (!loopfs_possible())
                skip();
        fs = loopfs_new(type);
        *ret_fd = open(loopfs_path(fs), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(*ret_fd >= 0);
        return fs;
}

static void close_fs(Loopfs *fs, int fd) {
        close(fd);
        loopfs_free(fs);
}

/* Entries of the directory besides "lost+found". */
static size_t count_entries(int dirfd) {
        DIR *d = fdopendir(openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        struct dirent *e;
        size_t n = 0;

        assert_non_null(d);
        while ((e = readdir(d)))
                n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
                     strcmp(e->d_name, "lost+found") != 0;
        closedir(d);
        return n;
}

static void check_content(int dirfd, const char *name, const char *expected) {
        Buf b = BUF_INIT(64);

        assert_int_equal(fs_read_file(dirfd, name, 64, &b), 0);
        assert_int_equal(b.size, strlen(expected));
        assert_memory_equal(b.data, expected, b.size);
        buf_done(&b);
}

static void test_write_atomic(void **state) {
        struct stat st;
        int fd;
        Loopfs *fs = open_fs("tmpfs", &fd);

        assert_int_equal(fs_write_atomic(fd, "f", "one", 3, 0600), 0);
        assert_int_equal(fs_write_atomic(fd, "f", "two", 3, 0640), 0);
        check_content(fd, "f", "two");
        assert_int_equal(fstatat(fd, "f", &st, 0), 0);
        assert_int_equal(st.st_mode & 07777, 0640 & ~umask(umask(0) & 0777));
        assert_int_equal(symlinkat("f", fd, "link"), 0);
        assert_int_equal(fs_write_atomic(fd, "link", "new", 3, 0600), 0);
        check_content(fd, "f", "two"); /* the link was replaced, not followed */
        check_content(fd, "link", "new");
        assert_int_equal(count_entries(fd), 2);
        close_fs(fs, fd);
}

static void test_write_atomic_fails(void **state) {
        struct rlimit old, small;
        char *data = calloc(1, 100000);
        int fd;
        Loopfs *fs = open_fs("tmpfs", &fd);

        assert_int_equal(fs_write_atomic(fd, "f", "old", 3, 0600), 0);
        /* The file grows half way and no further. */
        signal(SIGXFSZ, SIG_IGN);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
        small = (struct rlimit){ .rlim_cur = 50000, .rlim_max = old.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        assert_int_equal(fs_write_atomic(fd, "f", data, 100000, 0600), -EFBIG);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
        check_content(fd, "f", "old");
        assert_int_equal(mkdirat(fd, "d", 0700), 0);
        assert_int_equal(fs_write_atomic(fd, "d", "x", 1, 0600), -EISDIR);
        assert_int_equal(count_entries(fd), 2); /* no temporary files are left */
        free(data);
        close_fs(fs, fd);
}

static void test_read_file(void **state) {
        Buf b = BUF_INIT(64);
        int fd;
        Loopfs *fs = open_fs("tmpfs", &fd);

        assert_int_equal(fs_write_atomic(fd, "f", "12345", 5, 0600), 0);
        assert_int_equal(symlinkat("f", fd, "link"), 0);
        assert_int_equal(mkfifoat(fd, "fifo", 0600), 0);
        assert_int_equal(fs_read_file(fd, "f", 4, &b), -EFBIG);
        assert_int_equal(fs_read_file(fd, "link", 64, &b), -ELOOP);
        assert_int_equal(fs_read_file(fd, "fifo", 64, &b), -EINVAL); /* and does not wait */
        assert_int_equal(fs_read_file(fd, ".", 64, &b), -EINVAL);
        assert_int_equal(fs_read_file(fd, "none", 64, &b), -ENOENT);
        assert_int_equal(b.size, 0);
        assert_int_equal(fs_read_file(fd, "f", 5, &b), 0);
        assert_int_equal(b.size, 5);
        buf_done(&b);
        close_fs(fs, fd);
}

static void test_directories(void **state) {
        _cleanup_free_ char *deep = NULL;
        struct stat st;
        int fd, made;
        Loopfs *fs = open_fs("tmpfs", &fd);

        made = fs_ensure_dir(fd, "d", 0711);
        assert_true(made >= 0);
        assert_int_equal(fstat(made, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0711); /* whatever the umask is */
        close(made);
        assert_int_equal(symlinkat("d", fd, "link"), 0);
        assert_true(fs_open_dir(fd, "link") < 0);
        assert_true(fs_ensure_dir(fd, "link", 0700) < 0);
        assert_int_equal(fs_ensure_path("relative", 0700), -EINVAL);
        deep = loopfs_join(fs, "a/b/c");
        made = fs_ensure_path(deep, 0700);
        assert_true(made >= 0);
        assert_int_equal(fstat(made, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0700);
        assert_int_equal(fstatat(made, "..", &st, 0), 0);
        assert_int_equal(st.st_mode & 07777, 0755);
        close(made);
        assert_int_equal(fs_unlink_durable(fd, "link"), 0);
        assert_int_equal(fs_unlink_durable(fd, "link"), 0);
        assert_true(fs_unlink_durable(fd, "d") < 0);
        close_fs(fs, fd);
}

static void test_remove_tree(void **state) {
        int fd;
        Loopfs *fs = open_fs("ext4", &fd);
        const char *top = loopfs_path(fs);

        assert_int_equal(fs_remove_tree(fd, "none", NULL, NULL), 0);
        loopfs_run("cd %s && mkdir -p keep t/a/b/c && echo x >keep/file && echo y >t/a/file && "
                   "ln -s ../keep t/dir && ln -s /etc/passwd t/a/file2 && mkfifo t/a/fifo && "
                   "mkdir -m 0 t/closed && ln keep/file t/hard",
                   top);
        loopfs_run("cd %s && touch t/a/b/fixed t/a/b/log && chattr +i t/a/b/fixed && "
                   "chattr +a t/a/b/log && chattr +i t/a/b/c && chattr +i t/a/b",
                   top);
        assert_int_equal(fs_remove_tree(fd, "t", NULL, NULL), 0);
        assert_int_equal(faccessat(fd, "t", F_OK, AT_SYMLINK_NOFOLLOW), -1);
        assert_int_equal(faccessat(fd, "keep/file", F_OK, 0), 0);
        assert_int_equal(symlinkat("keep", fd, "t"), 0);
        assert_int_equal(fs_remove_tree(fd, "t", NULL, NULL), 0); /* the link, not its target */
        assert_int_equal(faccessat(fd, "keep/file", F_OK, 0), 0);
        assert_int_equal(count_entries(fd), 1);
        close_fs(fs, fd);
}

static void test_remove_deep_tree(void **state) {
        struct rlimit old, low;
        int fd;
        Loopfs *fs = open_fs("ext4", &fd);

        /* Longer than any path may be, and deeper than there are descriptors. */
        loopfs_run("cd %s && mkdir t && cd -P t && for i in $(seq 300); do mkdir side && "
                   "touch side/file && mkdir directory$i && cd -P directory$i || exit 1; done; "
                   "touch last && chattr +i last . ..",
                   loopfs_path(fs));
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
        low = (struct rlimit){ .rlim_cur = 150, .rlim_max = old.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
        assert_int_equal(fs_remove_tree(fd, "t", NULL, NULL), 0);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
        assert_int_equal(count_entries(fd), 0);
        close_fs(fs, fd);
}

static void test_remove_stops_at_mounts(void **state) {
        int fd;
        Loopfs *fs = open_fs("ext4", &fd);
        const char *top = loopfs_path(fs);

        loopfs_run("mkdir -p %s/t/m && mount -t tmpfs tmpfs %s/t/m && touch %s/t/m/file", top, top,
                   top);
        assert_int_equal(fs_remove_tree(fd, "t", NULL, NULL), -EXDEV);
        assert_int_equal(faccessat(fd, "t/m/file", F_OK, 0), 0);
        loopfs_run("umount %s/t/m", top);
        assert_int_equal(fs_remove_tree(fd, "t", NULL, NULL), 0);
        close_fs(fs, fd);
}

static void test_remove_stops_at_subvolumes(void **state) {
        int fd;
        Loopfs *fs = open_fs("btrfs", &fd);
        const char *top = loopfs_path(fs);

        loopfs_run("mkdir %s/t && btrfs -q subvolume create %s/t/s && touch %s/t/s/file", top, top,
                   top);
        assert_true(fs_remove_tree(fd, "t", NULL, NULL) < 0);
        assert_int_equal(faccessat(fd, "t/s/file", F_OK, 0), 0);
        close_fs(fs, fd);
}

static bool interrupt_third(void *userdata) {
        return ++*(int *) userdata >= 3;
}

static void test_remove_interrupted(void **state) {
        int fd, calls = 0;
        Loopfs *fs = open_fs("tmpfs", &fd);

        loopfs_run("cd %s && mkdir t && touch t/1 t/2 t/3 t/4", loopfs_path(fs));
        assert_int_equal(fs_remove_tree(fd, "t", interrupt_third, &calls), -ECANCELED);
        assert_int_equal(calls, 3);
        assert_int_equal(faccessat(fd, "t", F_OK, 0), 0);
        close_fs(fs, fd);
}

static void test_open_beneath(void **state) {
        int fd, got;
        Loopfs *fs = open_fs("tmpfs", &fd);

        loopfs_run("cd %s && mkdir a && touch a/f && ln -s a link && ln -s f a/link",
                   loopfs_path(fs));
        got = fd_open_beneath(fd, "a/f", O_RDONLY, 0, false);
        assert_true(got >= 0);
        assert_true(fcntl(got, F_GETFD) & FD_CLOEXEC);
        close(got);
        assert_int_equal(fd_open_beneath(fd, "a/../../etc", O_PATH, 0, true), -EXDEV);
        assert_int_equal(fd_open_beneath(fd, "/etc", O_PATH, 0, true), -EXDEV);
        assert_int_equal(fd_open_beneath(fd, "link/f", O_RDONLY, 0, true), -ELOOP);
        assert_int_equal(fd_open_beneath(fd, "a/link", O_RDONLY, 0, true), -ELOOP);
        close_fs(fs, fd);
}

/* Longer than the kernel takes at once; nothing on the way may be a link, wherever it is cut. */
static void test_open_beneath_long(void **state) {
        char name[201], path[40 * 201 + 3];
        int fd, got, below;
        Loopfs *fs = open_fs("tmpfs", &fd);

        memset(name, 'n', sizeof(name) - 1);
        name[sizeof(name) - 1] = 0;
        *path = 0;
        below = dup(fd);
        for (int i = 0; i < 40; i++) {
                assert_int_equal(mkdirat(below, name, 0700), 0);
                assert_int_equal(symlinkat(name, below, "l"), 0);
                got = openat(below, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
                close(below);
                below = got;
                strcat(strcat(path, name), "/");
        }
        got = openat(below, "f", O_WRONLY | O_CREAT, 0600);
        close(got);
        close(below);
        strcat(path, "f");
        assert_true(strlen(path) > 2 * (size_t) PATH_MAX - 300);
        got = fd_open_beneath(fd, path, O_RDONLY, 0, false);
        assert_true(got >= 0);
        close(got);
        path[strlen(path) - 1] = 'g';
        assert_int_equal(fd_open_beneath(fd, path, O_RDONLY, 0, false), -ENOENT);
        memcpy(path, "l/", 2); /* the first directory through its link */
        memmove(path + 2, path + 201, strlen(path + 201) + 1);
        assert_int_equal(fd_open_beneath(fd, path, O_RDONLY, 0, false), -ELOOP);
        close_fs(fs, fd);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_write_atomic),
                cmocka_unit_test(test_write_atomic_fails),
                cmocka_unit_test(test_read_file),
                cmocka_unit_test(test_directories),
                cmocka_unit_test(test_remove_tree),
                cmocka_unit_test(test_remove_deep_tree),
                cmocka_unit_test(test_remove_stops_at_mounts),
                cmocka_unit_test(test_remove_stops_at_subvolumes),
                cmocka_unit_test(test_remove_interrupted),
                cmocka_unit_test(test_open_beneath),
                cmocka_unit_test(test_open_beneath_long),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
