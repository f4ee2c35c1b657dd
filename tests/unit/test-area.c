/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "snapshot/snapshot.h"
#include "tests/lib/loopfs.h"

typedef struct Fixture {
        Loopfs *fs;
        const char *at;
} Fixture;

static int set_up(void **state, const char *type) {
        Fixture *f = calloc(1, sizeof(*f));

        f->fs = loopfs_new(type);
        f->at = loopfs_path(f->fs);
        *state = f;
        return 0;
}

static int set_up_btrfs(void **state) {
        return set_up(state, "btrfs");
}

static int set_up_ext4(void **state) {
        return set_up(state, "ext4");
}

static int tear_down(void **state) {
        Fixture *f = *state;

        loopfs_free(f->fs);
        free(f);
        return 0;
}

/* Opens the area of FS/`target`, which must be FS/`base`/.holdpoint. */
static void expect_area(Fixture *f, const char *target, const char *base, bool is_root) {
        _cleanup_free_ char *path = NULL, *in = NULL, *expected = NULL;
        _cleanup_close_ int fd = -1;
        Failure failure = FAILURE_INIT;
        struct stat st, there;
        bool root = !is_root;

        in = *target ? loopfs_join(f->fs, target) : strdup(f->at);
        expected = *base ? loopfs_join(f->fs, base) : strdup(f->at);
        fd = area_open(in, true, &path, &root, &failure);
        if (fd < 0)
                fail_msg("%s", failure.text);
        assert_memory_equal(path, expected, strlen(expected));
        assert_string_equal(path + strlen(expected), "/.holdpoint");
        assert_int_equal(root, is_root);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(stat(path, &there), 0);
        assert_int_equal(st.st_ino, there.st_ino);
        assert_int_equal(st.st_mode, S_IFDIR | 0700);
        assert_int_equal(st.st_uid, 0);
        assert_int_equal(st.st_gid, 0);
}

static void expect_refused(Fixture *f, const char *target, int errnum, const char *words) {
        _cleanup_free_ char *in = *target ? loopfs_join(f->fs, target) : strdup(f->at);
        Failure failure = FAILURE_INIT;
        int r = area_open(in, true, NULL, NULL, &failure);

        assert_int_equal(r, -errnum);
        assert_int_equal(failure.errnum, errnum);
        if (!strstr(failure.text, words))
                fail_msg("'%s' does not say '%s'", failure.text, words);
}

static void test_where_ext4(void **state) {
        Fixture *f = *state;

        loopfs_run("mkdir -p %s/srv/deep/back && touch %s/srv/file", f->at, f->at);
        expect_area(f, "srv/deep/back", "", false);
        expect_area(f, "srv/file", "", false);
        expect_area(f, "srv/not-there", "", false);
        expect_area(f, "", "", true);
        expect_refused(f, "no/such/parent", ENOENT, "no/such");
}

static void test_where_btrfs(void **state) {
        Fixture *f = *state;

        loopfs_run("btrfs -q subvolume create %s/one && mkdir %s/one/dir", f->at, f->at);
        loopfs_run("btrfs -q subvolume create %s/one/dir/two && mkdir %s/one/dir/two/x", f->at,
                   f->at);
        expect_area(f, "one", "", false);
        expect_area(f, "one/dir", "one", false);
        expect_area(f, "one/dir/two", "one", false);
        expect_area(f, "one/dir/two/x", "one/dir/two", false);
        expect_area(f, "", "", true);
}

static void test_mounted_below(void **state) {
        Fixture *f = *state;

        loopfs_run("cd %s && mkdir -p a/b m && touch a/file f && mount --bind a m && "
                   "mount --bind a/file f",
                   f->at);
        expect_area(f, "m", "m", true);
        expect_area(f, "m/b", "m", false);
        expect_refused(f, "f", ENOTDIR, "/f' is a file mounted by itself");
        loopfs_run("umount %s/m && umount %s/f", f->at, f->at);
}

static void test_foreign_is_refused(void **state) {
        Fixture *f = *state;

        loopfs_run("mkdir -m 700 %s/.holdpoint && chown 1000 %s/.holdpoint", f->at, f->at);
        expect_refused(f, "x", EPERM, "move it away");
        loopfs_run("chown 0 %s/.holdpoint && chmod 750 %s/.holdpoint", f->at, f->at);
        expect_refused(f, "x", EPERM, "mode 0750");
        /* What a crash between making it and taking it over leaves is root's alone, too. */
        loopfs_run("chmod 2700 %s/.holdpoint && chgrp 1000 %s/.holdpoint", f->at, f->at);
        expect_area(f, "x", "", false);
}

static void test_planted_is_refused(void **state) {
        Fixture *f = *state;

        loopfs_run("mkdir -m 700 %s/elsewhere && ln -s elsewhere %s/.holdpoint", f->at, f->at);
        expect_refused(f, "x", EPERM, "not a directory");
        loopfs_run("rm %s/.holdpoint && touch %s/.holdpoint", f->at, f->at);
        expect_refused(f, "x", EPERM, "not a directory");
        loopfs_run("rm %s/.holdpoint && mkdir -m 700 %s/.holdpoint && "
                   "mount --bind %s/elsewhere %s/.holdpoint",
                   f->at, f->at, f->at, f->at);
        expect_refused(f, "x", EXDEV, "a mount or a subvolume");
        loopfs_run("umount %s/.holdpoint", f->at);
}

static void test_subvolume_is_refused(void **state) {
        Fixture *f = *state;

        loopfs_run("btrfs -q subvolume create %s/.holdpoint && chmod 700 %s/.holdpoint", f->at,
                   f->at);
        expect_refused(f, "x", EXDEV, "a mount or a subvolume");
}

static void test_setgid_parent(void **state) {
        Fixture *f = *state;

        loopfs_run("chgrp 1000 %s && chmod 2775 %s", f->at, f->at);
        expect_area(f, "x", "", false);
}

static void test_links(void **state) {
        Fixture *f = *state;

        loopfs_run("mkdir -p %s/real/x && ln -s real %s/link", f->at, f->at);
        expect_refused(f, "link/x", ELOOP, "/link' is a symbolic link");
        expect_refused(f, "link", ELOOP, "/link' is a symbolic link");
        expect_refused(f, "real/../real/x", EINVAL, "not a clean");
}

static void test_not_created(void **state) {
        _cleanup_free_ char *area = NULL;
        Failure failure = FAILURE_INIT;
        Fixture *f = *state;
        struct stat st;

        area = loopfs_join(f->fs, ".holdpoint");
        assert_int_equal(area_open(f->at, false, NULL, NULL, &failure), -ENOENT);
        assert_int_equal(failure.code, FAIL_SOURCE_MISSING);
        assert_int_equal(stat(area, &st), -1);
}

#define ON(type, name) cmocka_unit_test_setup_teardown(name, set_up_##type, tear_down)

int main(void) {
        const struct CMUnitTest tests[] = {
                ON(ext4, test_where_ext4),         ON(btrfs, test_where_btrfs),
                ON(ext4, test_mounted_below),      ON(ext4, test_foreign_is_refused),
                ON(ext4, test_planted_is_refused), ON(btrfs, test_subvolume_is_refused),
                ON(ext4, test_setgid_parent),      ON(ext4, test_links),
                ON(btrfs, test_not_created),
        };

        if (!loopfs_possible())
                return 77;
        return cmocka_run_group_tests(tests, NULL, NULL);
}
