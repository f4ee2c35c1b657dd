/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "snapshot/snapshot.h"
#include "tests/lib/loopfs.h"

/* live/ and area/ stand for the two directories of a swap; both are empty. */
typedef struct Fixture {
        Loopfs *fs;
        const char *at;
        int live, area;
} Fixture;

static void open_both(Fixture *f) {
        _cleanup_free_ char *live = loopfs_join(f->fs, "live"), *area = loopfs_join(f->fs, "area");

        f->live = open(live, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        f->area = open(area, O_PATH | O_DIRECTORY | O_CLOEXEC); /* O_PATH must do */
        assert_true(f->live >= 0 && f->area >= 0);
}

static int set_up(void **state, const char *type) {
        Fixture *f = calloc(1, sizeof(*f));

        f->fs = loopfs_new(type);
        f->at = loopfs_path(f->fs);
        loopfs_run("mkdir %s/live && mkdir -m 700 %s/area", f->at, f->at);
        open_both(f);
        *state = f;
        return 0;
}

static int set_up_btrfs(void **state) {
        return set_up(state, "btrfs");
}

static int set_up_ext4(void **state) {
        return set_up(state, "ext4");
}

static int set_up_xfs(void **state) {
        return set_up(state, "xfs");
}

static int set_up_tmpfs(void **state) {
        return set_up(state, "tmpfs");
}

static int tear_down(void **state) {
        Fixture *f = *state;

        fd_close(f->live);
        fd_close(f->area);
        loopfs_free(f->fs);
        free(f);
        return 0;
}

static TreeId identify(int dirfd, const char *name) {
        Failure failure = FAILURE_INIT;
        TreeId id;

        if (tree_identify(dirfd, name, &id, &failure) < 0)
                fail_msg("%s", failure.text);
        return id;
}

/* Makes `name` in `in` (live or area) of `kind`, with something in it. */
static void make(Fixture *f, const char *in, const char *name, TreeKind kind) {
        if (kind == TREE_FILE)
                loopfs_run("echo %s > %s/%s/%s", in, f->at, in, name);
        if (kind == TREE_DIRECTORY)
                loopfs_run("mkdir %s/%s/%s", f->at, in, name);
        if (kind == TREE_SUBVOLUME)
                loopfs_run("btrfs -q subvolume create %s/%s/%s", f->at, in, name);
        if (kind == TREE_DIRECTORY || kind == TREE_SUBVOLUME)
                loopfs_run("mkdir %s/%s/%s/sub && echo %s > %s/%s/%s/sub/file", f->at, in, name, in,
                           f->at, in, name);
}

static int exchange(Fixture *f, const char *live, const char *staged, Failure *reterr) {
        TreeId a = identify(f->live, live), b = identify(f->area, staged);

        return tree_exchange(f->live, live, &a, f->area, staged, &b, reterr);
}

static void expect_pair(Fixture *f, TreeKind live, TreeKind staged) {
        Failure failure = FAILURE_INIT;
        TreeId a, b, now;

        make(f, "live", "x", live);
        make(f, "area", "y", staged);
        a = identify(f->live, "x");
        b = identify(f->area, "y");
        assert_int_equal(a.kind, live);
        assert_int_equal(b.kind, staged);
        assert_false(tree_id_equal(&a, &b));
        if (tree_exchange(f->live, "x", &a, f->area, "y", &b, &failure) < 0)
                fail_msg("%s", failure.text);
        now = identify(f->live, "x");
        assert_true(tree_id_equal(&now, &b));
        now = identify(f->area, "y");
        assert_true(tree_id_equal(&now, &a));
        /* and back */
        assert_int_equal(tree_exchange(f->live, "x", &b, f->area, "y", &a, NULL), 0);
        now = identify(f->live, "x");
        assert_true(tree_id_equal(&now, &a));
        assert_int_equal(tree_remove(f->live, "x", NULL, NULL, NULL), 0);
        assert_int_equal(tree_remove(f->area, "y", NULL, NULL, NULL), 0);
        assert_int_equal(identify(f->live, "x").kind, TREE_ABSENT);
}

static void test_pairs_plain(void **state) {
        const TreeKind kinds[] = { TREE_FILE, TREE_DIRECTORY, TREE_ABSENT };

        for (size_t i = 0; i < ELEMENTSOF(kinds); i++)
                for (size_t j = 0; j < ELEMENTSOF(kinds); j++)
                        if (kinds[i] != TREE_ABSENT || kinds[j] != TREE_ABSENT)
                                expect_pair(*state, kinds[i], kinds[j]);
}

static void test_pairs_subvolume(void **state) {
        const TreeKind kinds[] = { TREE_FILE, TREE_DIRECTORY, TREE_SUBVOLUME, TREE_ABSENT };

        for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
                expect_pair(*state, TREE_SUBVOLUME, kinds[i]);
                if (kinds[i] != TREE_SUBVOLUME)
                        expect_pair(*state, kinds[i], TREE_SUBVOLUME);
        }
}

static void test_across_subvolumes(void **state) {
        Failure failure = FAILURE_INIT;
        Fixture *f = *state;
        TreeId a, b;
        int other;

        loopfs_run("btrfs -q subvolume create %s/other && mkdir %s/other/y", f->at, f->at);
        make(f, "live", "x", TREE_DIRECTORY);
        other = openat(f->live, "../other", O_RDONLY | O_DIRECTORY);
        a = identify(f->live, "x");
        b = identify(other, "y");
        assert_int_equal(tree_exchange(f->live, "x", &a, other, "y", &b, &failure), -EXDEV);
        assert_int_equal(failure.code, FAIL_NOT_RESTORABLE);

        /* but two subvolumes may change places */
        make(f, "live", "z", TREE_SUBVOLUME);
        loopfs_run("btrfs -q subvolume create %s/other/z", f->at);
        a = identify(f->live, "z");
        b = identify(other, "z");
        assert_int_equal(tree_exchange(f->live, "z", &a, other, "z", &b, NULL), 0);
        close(other);
}

static void test_stale(void **state) {
        Failure failure = FAILURE_INIT;
        Fixture *f = *state;
        TreeId a, b, absent = { .kind = TREE_ABSENT };

        make(f, "live", "x", TREE_DIRECTORY);
        make(f, "area", "y", TREE_DIRECTORY);
        a = identify(f->live, "x");
        b = identify(f->area, "y");
        loopfs_run("mv %s/live/x %s/live/old && mkdir %s/live/x", f->at, f->at, f->at);
        assert_int_equal(tree_exchange(f->live, "x", &a, f->area, "y", &b, &failure), -ESTALE);
        assert_int_equal(failure.code, FAIL_TARGET_IN_USE);
        assert_non_null(strstr(failure.text, "'x'"));
        assert_int_equal(tree_exchange(f->live, "x", &absent, f->area, "y", &b, NULL), -ESTALE);
        assert_int_equal(tree_exchange(f->live, "no", &absent, f->area, "no", &absent, NULL),
                         -ENOENT);
        a = identify(f->area, "y");
        assert_true(tree_id_equal(&a, &b)); /* untouched */
}

static void expect_locked(Fixture *f, const char *letter, const char *what) {
        Failure failure = FAILURE_INIT;

        loopfs_run("chattr +%s %s/%s", letter, f->at, what);
        assert_int_equal(exchange(f, "x", "y", &failure), -EPERM);
        loopfs_run("chattr -%s %s/%s", letter, f->at, what);
        assert_int_equal(failure.code, FAIL_TARGET_IN_USE);
        assert_non_null(strstr(failure.text, "chattr -i -a"));
}

static void test_locked(void **state) {
        Fixture *f = *state;

        make(f, "live", "x", TREE_DIRECTORY);
        make(f, "area", "y", TREE_DIRECTORY);
        expect_locked(f, "i", "live/x");
        expect_locked(f, "a", "area/y");
        expect_locked(f, "i", "live");
        assert_int_equal(exchange(f, "x", "y", NULL), 0);
}

static void test_mount_point(void **state) {
        Failure failure = FAILURE_INIT;
        Fixture *f = *state;

        make(f, "live", "x", TREE_DIRECTORY);
        make(f, "area", "y", TREE_DIRECTORY);
        loopfs_run("mount -t tmpfs none %s/live/x", f->at);
        assert_int_equal(exchange(f, "x", "y", &failure), -EBUSY);
        assert_int_equal(failure.code, FAIL_TARGET_IN_USE);
        loopfs_run("umount %s/live/x", f->at);
}

/* What is on the disk after the exchange, without any further sync: a copy of the device is
 * mounted. */
static void test_durable(void **state) {
        _cleanup_free_ char *copy = NULL;
        Fixture *f = *state;

        make(f, "live", "x", TREE_SUBVOLUME);
        make(f, "area", "y", TREE_SUBVOLUME);
        loopfs_run("mount -o remount,commit=300 %s && sync -f %s", f->at, f->at);
        assert_int_equal(exchange(f, "x", "y", NULL), 0);

        assert_true(asprintf(&copy, "%s.copy", f->at) > 0);
        loopfs_run("dd if=%s of=%s bs=1M conv=sparse status=none && "
                   "btrfstune -m %s >/dev/null 2>&1; mkdir %s.d && "
                   "mount -t btrfs -o loop %s %s.d && grep -q area %s.d/live/x/sub/file && "
                   "umount %s.d",
                   loopfs_device(f->fs), copy, copy, copy, copy, copy, copy, copy);
        loopfs_run("rmdir %s.d && rm %s", copy, copy);
}

static void test_identity(void **state) {
        Failure failure = FAILURE_INIT;
        Fixture *f = *state;
        TreeId a, b;

        loopfs_run("cd %s/live && mkfifo fifo && ln -s nowhere link && mknod dev c 1 3 && "
                   "mkdir dir && echo x > file",
                   f->at);
        assert_int_equal(identify(f->live, "fifo").kind, TREE_OTHER); /* and it does not hang */
        assert_int_equal(identify(f->live, "link").kind, TREE_OTHER);
        assert_int_equal(identify(f->live, "dev").kind, TREE_OTHER);
        assert_int_equal(identify(f->live, "nothing").kind, TREE_ABSENT);
        assert_int_equal(tree_identify(f->live, "..", &a, &failure), -EINVAL);
        assert_int_equal(tree_identify(f->live, "", &a, NULL), -EINVAL);
        assert_int_equal(tree_identify(f->live, "dir/x", &a, NULL), -EINVAL);

        /* Renames do not change it; the same name anew does. */
        for (const char *const *name = (const char *const[]){ "dir", "file", "fifo", NULL }; *name;
             name++) {
                json_object *o;

                a = identify(f->live, *name);
                loopfs_run("mv %s/live/%s %s/area/moved", f->at, *name, f->at);
                b = identify(f->area, "moved");
                assert_true(tree_id_equal(&a, &b));
                o = tree_id_json(&a);
                assert_int_equal(tree_id_read(o, &b), 0);
                assert_true(tree_id_equal(&a, &b));
                json_put_string(o, "kind", "socket");
                assert_int_equal(tree_id_read(o, &b), -EINVAL);
                json_object_put(o);
                loopfs_run("cp -a %s/area/moved %s/live/%s && rm -r %s/area/moved", f->at, f->at,
                           *name, f->at);
                b = identify(f->live, *name);
                assert_false(tree_id_equal(&a, &b));
        }
}

/* The identity of the file system must outlive a remount, for a swap may be finished after a
 * reboot. */
static void test_identity_remount(void **state) {
        Fixture *f = *state;
        TreeId a, b, c, d;

        make(f, "live", "x", TREE_DIRECTORY);
        make(f, "live", "y", TREE_FILE);
        a = identify(f->live, "x");
        b = identify(f->live, "y");
        close(f->live);
        close(f->area);
        /* Through another loop device: that is what a device number cannot survive. */
        loopfs_run("d=$(losetup --find --show %s) && { umount %s && mount $d %s; r=$?; "
                   "losetup -d $d; exit $r; }",
                   loopfs_device(f->fs), f->at, f->at);
        open_both(f);
        c = identify(f->live, "x");
        d = identify(f->live, "y");
        assert_true(tree_id_equal(&a, &c));
        assert_true(tree_id_equal(&b, &d));
}

/* A snapshot repeats inode numbers and birth times, but is not the same tree. */
static void test_identity_snapshot(void **state) {
        Fixture *f = *state;
        TreeId a, b;
        int x, y;

        make(f, "live", "x", TREE_SUBVOLUME);
        x = openat(f->live, "x", O_RDONLY | O_DIRECTORY);
        assert_int_equal(tree_make_snapshot(x, f->area, "y", NULL), 0);
        assert_int_equal(tree_make_snapshot(x, f->area, "y", NULL), -EEXIST);
        y = openat(f->area, "y", O_RDONLY | O_DIRECTORY);
        a = identify(x, "sub");
        b = identify(y, "sub");
        assert_false(tree_id_equal(&a, &b));
        a = identify(f->live, "x");
        b = identify(f->area, "y");
        assert_false(tree_id_equal(&a, &b));
        close(x);
        close(y);
}

static void test_make(void **state) {
        Failure failure = FAILURE_INIT;
        Fixture *f = *state;

        assert_int_equal(tree_make_subvolume(f->live, "new", NULL), 0);
        assert_int_equal(identify(f->live, "new").kind, TREE_SUBVOLUME);
        assert_int_equal(tree_make_subvolume(f->live, "new", &failure), -EEXIST);
        assert_non_null(strstr(failure.text, "'new'"));
        assert_int_equal(tree_make_subvolume(f->live, "a/b", NULL), -EINVAL);
}

static void test_make_elsewhere(void **state) {
        Failure failure = FAILURE_INIT;
        Fixture *f = *state;

        assert_true(tree_make_subvolume(f->live, "new", &failure) < 0);
        assert_int_equal(failure.code, FAIL_NOT_RESTORABLE);
}

static void test_remove(void **state) {
        Fixture *f = *state;
        Failure failure = FAILURE_INIT;

        assert_int_equal(tree_remove(f->area, "nothing", NULL, NULL, NULL), 0);

        /* read-only */
        make(f, "area", "ro", TREE_SUBVOLUME);
        loopfs_run("btrfs property set %s/area/ro ro true", f->at);
        assert_int_equal(exchange(f, "nothing", "ro", NULL), -EROFS); /* cannot be moved, */
        loopfs_run("btrfs -q subvolume snapshot -r %s/area/ro %s/live/ro", f->at, f->at);
        assert_int_equal(tree_remove(f->live, "ro", NULL, NULL, NULL), 0); /* but removed */
        assert_int_equal(identify(f->live, "ro").kind, TREE_ABSENT);

        /* a live subvolume that was swapped out with its tree */
        make(f, "live", "x", TREE_SUBVOLUME);
        loopfs_run("btrfs -q subvolume create %s/live/x/sub/nested && "
                   "echo alive > %s/live/x/sub/nested/file",
                   f->at, f->at);
        assert_int_equal(tree_remove(f->live, "x", NULL, NULL, &failure), -ENOTEMPTY);
        assert_int_equal(failure.code, FAIL_TARGET_IN_USE);
        loopfs_run("grep -q alive %s/live/x/sub/nested/file && grep -q live %s/live/x/sub/file",
                   f->at, f->at);

        /* and in a plain tree */
        make(f, "live", "plain", TREE_DIRECTORY);
        loopfs_run("btrfs -q subvolume create %s/live/plain/nested && "
                   "echo alive > %s/live/plain/nested/file",
                   f->at, f->at);
        failure = FAILURE_INIT;
        assert_true(tree_remove(f->live, "plain", NULL, NULL, &failure) < 0);
        assert_int_equal(failure.code, FAIL_TARGET_IN_USE);
        loopfs_run("grep -q alive %s/live/plain/nested/file", f->at);
}

static bool yes(void *userdata) {
        return true;
}

static void test_remove_canceled(void **state) {
        Fixture *f = *state;
        Failure failure = FAILURE_INIT;

        make(f, "live", "x", TREE_DIRECTORY);
        assert_int_equal(tree_remove(f->live, "x", yes, NULL, &failure), -ECANCELED);
        assert_int_equal(failure.code, FAIL_CANCELED);
        assert_int_equal(tree_remove(f->live, "x", NULL, NULL, NULL), 0);
}

/* Killed between the rename and the sync: old or new, told by the identities. */
static void test_killed(void **state) {
        Fixture *f = *state;
        TreeId a, b, now;
        int status;
        pid_t pid;

        make(f, "live", "x", TREE_SUBVOLUME);
        make(f, "area", "y", TREE_SUBVOLUME);
        a = identify(f->live, "x");
        b = identify(f->area, "y");
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                assert_int_equal(setenv("HOLDPOINT_STEP", "tree-exchanged=kill", 1), 0);
                (void) tree_exchange(f->live, "x", &a, f->area, "y", &b, NULL);
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        now = identify(f->live, "x");
        assert_true(tree_id_equal(&now, &b));
        now = identify(f->area, "y");
        assert_true(tree_id_equal(&now, &a));
}

#define ON(type, name)                                                                             \
        { #name " on " #type, name, set_up_##type, tear_down, NULL }

int main(void) {
        const struct CMUnitTest tests[] = {
                ON(btrfs, test_pairs_plain),
                ON(ext4, test_pairs_plain),
                ON(xfs, test_pairs_plain),
                ON(tmpfs, test_pairs_plain),
                ON(btrfs, test_pairs_subvolume),
                ON(btrfs, test_across_subvolumes),
                ON(btrfs, test_stale),
                ON(ext4, test_stale),
                ON(btrfs, test_locked),
                ON(ext4, test_locked),
                ON(ext4, test_mount_point),
                ON(btrfs, test_durable),
                ON(btrfs, test_identity),
                ON(ext4, test_identity),
                ON(xfs, test_identity),
                ON(btrfs, test_identity_remount),
                ON(ext4, test_identity_remount),
                ON(xfs, test_identity_remount),
                ON(btrfs, test_identity_snapshot),
                ON(btrfs, test_make),
                ON(ext4, test_make_elsewhere),
                ON(btrfs, test_remove),
                ON(ext4, test_remove_canceled),
                ON(btrfs, test_killed),
        };

        if (!loopfs_possible())
                return 77;
        return cmocka_run_group_tests(tests, NULL, NULL);
}
