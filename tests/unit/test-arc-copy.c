/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/arc.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "tests/lib/arctree.h"
#include "tests/lib/loopfs.h"

#define MIB ((off_t) 1 << 20)

typedef struct Fixture {
        Loopfs *a, *b; /* the same file system if both places are on one */
        int a_fd, b_fd;
} Fixture;

static int set_up(void **state, const char *type, const char *other) {
        Fixture *f = calloc(1, sizeof(*f));

        f->a = loopfs_new(type);
        f->b = other ? loopfs_new(other) : f->a;
        f->a_fd = open(loopfs_path(f->a), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        f->b_fd = open(loopfs_path(f->b), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        *state = f;
        return f->a_fd < 0 || f->b_fd < 0;
}

static int set_up_btrfs(void **state) {
        return set_up(state, "btrfs", NULL);
}

static int set_up_ext4(void **state) {
        return set_up(state, "ext4", NULL);
}

static int set_up_both(void **state) {
        return set_up(state, "btrfs", "ext4");
}

static int tear_down(void **state) {
        Fixture *f = *state;

        fd_close(f->a_fd);
        fd_close(f->b_fd);
        if (f->b != f->a)
                loopfs_free(f->b);
        loopfs_free(f->a);
        free(f);
        return 0;
}

static int copy(Fixture *f, uint64_t *bytes, Failure *failure) {
        *failure = FAILURE_INIT;
        *bytes = 0;
        return arc_copy_tree(f->a_fd, "src", f->b_fd, "dst", NULL, NULL, bytes, failure);
}

static void check_tree(Fixture *f, bool btrfs, bool reflink) {
        _cleanup_free_ char *src = loopfs_join(f->a, "src"), *dst = loopfs_join(f->b, "dst");
        _cleanup_(arc_lines_done) ArcLines a = { 0 }, b = { 0 };
        Failure failure;
        uint64_t bytes;

        loopfs_run("mkdir '%s'", src);
        arc_tree_fill(src, btrfs);
        if (copy(f, &bytes, &failure) < 0)
                fail_msg("%s", failure.text);
        arc_lines_read(src, (uint32_t) ~0, &a);
        arc_lines_read(dst, (uint32_t) ~0, &b);
        assert_int_equal(b.n_problems, 0);
        arc_lines_assert_equal(&a, &b);
        arc_tree_assert_rsync(src, dst);
        assert_int_equal(bytes > 0, !reflink);
        arc_tree_unlock(src);
        arc_tree_unlock(dst);
}

static void test_tree_by_reflink(void **state) {
        check_tree(*state, true, true);
}

static void test_tree_by_bytes(void **state) {
        check_tree(*state, false, false);
}

/* 1 TiB of hole with a little data must not take longer than the data. */
static void test_holes(void **state) {
        Fixture *f = *state;
        _cleanup_close_ int in = openat(f->a_fd, "in", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        _cleanup_close_ int out = openat(f->b_fd, "out", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        char data[10000], back[10000];
        struct stat st;
        uint64_t bytes = 0;

        memset(data, 'd', sizeof(data));
        assert_int_equal(fd_pwrite_full(in, data, sizeof(data), 5 * MIB), 0);
        assert_int_equal(fd_pwrite_full(in, data, sizeof(data), (uint64_t) MIB << 19), 0);
        assert_int_equal(ftruncate(in, MIB << 20), 0);
        assert_int_equal(arc_copy_content(in, out, &bytes), 0);
        assert_true(bytes >= 2 * sizeof(data) && bytes < 100000);
        assert_int_equal(fstat(out, &st), 0);
        assert_int_equal(st.st_size, MIB << 20);
        assert_true(st.st_blocks < 1000);
        assert_int_equal(fd_pread_full(out, back, sizeof(back), (uint64_t) MIB << 19),
                         sizeof(back));
        assert_memory_equal(back, data, sizeof(data));
}

/* FICLONE is refused between these two; the data comes over all the same. */
static void test_nocow(void **state) {
        Fixture *f = *state;
        const char *at = loopfs_path(f->a);
        _cleanup_close_ int in = -1, out = -1;
        uint64_t bytes = 0;

        loopfs_run("cd '%s' && touch in out && chattr +C in && head -c 3000001 /dev/urandom > in",
                   at);
        in = openat(f->a_fd, "in", O_RDONLY | O_CLOEXEC);
        out = openat(f->a_fd, "out", O_RDWR | O_CLOEXEC);
        assert_int_equal(arc_copy_content(in, out, &bytes), 0);
        assert_int_equal(bytes, 3000001);
        loopfs_run("cmp '%s/in' '%s/out'", at, at);
}

static void test_refused(void **state) {
        Fixture *f = *state;
        const char *at = loopfs_path(f->a);
        Failure failure;
        uint64_t bytes;

        assert_int_equal(copy(f, &bytes, &failure), -ENOENT);
        assert_int_equal(failure.code, FAIL_SOURCE_MISSING);
        loopfs_run("mkdir '%s/src' && btrfs -q subvolume create '%s/src/nested'", at, at);
        assert_int_equal(copy(f, &bytes, &failure), -EXDEV);
        assert_non_null(strstr(failure.text, "nested"));
        loopfs_run("btrfs -q subvolume delete '%s/src/nested' && rm -rf '%s/dst' && mkdir "
                   "'%s/src/m' && "
                   "mount -t tmpfs none '%s/src/m'",
                   at, at, at, at);
        assert_int_equal(copy(f, &bytes, &failure), -EXDEV);
        loopfs_run("umount '%s/src/m' && rm -rf '%s/dst' && mkdir '%s/dst' && touch '%s/dst/mine'",
                   at, at, at, at);
        assert_int_equal(copy(f, &bytes, &failure), -ENOTEMPTY);
        failure = FAILURE_INIT;
        assert_int_equal(arc_copy_tree(f->a_fd, "a/b", f->a_fd, "x", NULL, NULL, &bytes, &failure),
                         -EINVAL);
        failure = FAILURE_INIT;
        assert_int_equal(
                arc_copy_tree(f->a_fd, "src", f->a_fd, "../x", NULL, NULL, &bytes, &failure),
                -EINVAL);
}

static bool after_some(void *userdata) {
        return ++*(unsigned *) userdata > 20;
}

static void test_interrupted(void **state) {
        Fixture *f = *state;
        Failure failure = FAILURE_INIT;
        unsigned asked = 0;

        loopfs_run("mkdir '%s/src' && head -c 250000000 /dev/zero > "
                   "'%s/src/big'",
                   loopfs_path(f->a), loopfs_path(f->a));
        assert_int_equal(
                arc_copy_tree(f->a_fd, "src", f->b_fd, "dst", after_some, &asked, NULL, &failure),
                -ECANCELED);
        assert_int_equal(failure.code, FAIL_CANCELED);
}

#define ON(fs, test) cmocka_unit_test_setup_teardown(test, set_up_##fs, tear_down)

int main(void) {
        const struct CMUnitTest tests[] = {
                ON(btrfs, test_tree_by_reflink), ON(ext4, test_tree_by_bytes),
                ON(both, test_tree_by_bytes),    ON(both, test_holes),
                ON(btrfs, test_nocow),           ON(btrfs, test_refused),
                ON(both, test_interrupted),
        };

        if (!loopfs_possible())
                return 77;
        return cmocka_run_group_tests(tests, NULL, NULL);
}
