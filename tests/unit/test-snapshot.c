/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "snapshot/snapshot.h"
#include "tests/lib/loopfs.h"

typedef struct Fixture {
        Loopfs *fs;
        const char *at;
        char *back; /* a subvolume with some files */
} Fixture;

static int set_up(void **state) {
        Fixture *f = calloc(1, sizeof(*f));

        f->fs = loopfs_new("btrfs");
        f->at = loopfs_path(f->fs);
        f->back = loopfs_join(f->fs, "back");
        loopfs_run("btrfs -q subvolume create %s && mkdir -p %s/uploads/deep && "
                   "echo one > %s/uploads/deep/a",
                   f->back, f->back, f->back);
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        Fixture *f = *state;

        loopfs_free(f->fs);
        free(f->back);
        free(f);
        return 0;
}

static Volume *find(const char *path, SnapshotKind kind) {
        Failure failure = FAILURE_INIT;
        Volume *v = NULL;

        if (volume_find(path, kind, &v, &failure) < 0)
                fail_msg("%s", failure.text);
        return v;
}

static void expect_not_found(const char *path, SnapshotKind kind, int errnum, const char *words) {
        Failure failure = FAILURE_INIT;
        Volume *v = NULL;

        assert_int_equal(volume_find(path, kind, &v, &failure), -errnum);
        assert_null(v);
        assert_int_equal(failure.errnum, errnum);
        assert_int_equal(failure.code, errnum == ENOENT   ? FAIL_SOURCE_MISSING
                                       : errnum == EINVAL ? FAIL_INVALID_ARGUMENT
                                                          : FAIL_SNAPSHOT_FAILED);
        if (!strstr(failure.text, words))
                fail_msg("'%s' does not say '%s'", failure.text, words);
}

static Snapshot *take(Volume *v, const char *name) {
        Failure failure = FAILURE_INIT;
        Snapshot *s = NULL;

        if (snapshot_take(v, name, &s, &failure) < 0)
                fail_msg("%s", failure.text);
        return s;
}

static void expect_text(int fd, const char *expected) {
        char text[64] = "";

        assert_true(fd >= 0);
        assert_true(fd_read_full(fd, text, sizeof(text) - 1) >= 0);
        assert_string_equal(text, expected);
        close(fd);
}

static void test_kinds(void **state) {
        SnapshotKind kind;

        for (SnapshotKind k = SNAPSHOT_AUTO; k <= SNAPSHOT_NONE; k++) {
                assert_int_equal(snapshot_kind_parse(snapshot_kind_name(k), &kind), 0);
                assert_int_equal(kind, k);
        }
        assert_int_equal(snapshot_kind_parse("zfs", &kind), -EINVAL);
        assert_int_equal(snapshot_kind_parse("", &kind), -EINVAL);
}

static void test_find(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *file = loopfs_join(f->fs, "back/uploads/deep/a");
        _cleanup_free_ char *nested = loopfs_join(f->fs, "back/nested");
        _cleanup_(volume_freep) Volume *a = find(f->back, SNAPSHOT_AUTO);
        _cleanup_(volume_freep) Volume *b = find(file, SNAPSHOT_BTRFS);
        _cleanup_(volume_freep) Volume *top = find(f->at, SNAPSHOT_AUTO);
        _cleanup_(volume_freep) Volume *c = NULL, *none = NULL;

        assert_int_equal(volume_kind(a), SNAPSHOT_BTRFS);
        assert_string_equal(volume_root(a), f->back);
        assert_string_equal(volume_root(b), f->back);
        assert_string_equal(volume_root(top), f->at);
        assert_true(volume_equal(a, b));
        assert_false(volume_equal(a, top));

        loopfs_run("btrfs -q subvolume create %s", nested);
        c = find(nested, SNAPSHOT_AUTO);
        assert_string_equal(volume_root(c), nested);
        assert_false(volume_equal(a, c));

        none = find(file, SNAPSHOT_NONE);
        assert_int_equal(volume_kind(none), SNAPSHOT_NONE);
        assert_string_equal(volume_root(none), "/");
        assert_false(volume_equal(a, none));
}

static void test_find_refuses(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *link = loopfs_join(f->fs, "back/link/deep/a");
        _cleanup_free_ char *missing = loopfs_join(f->fs, "back/missing");
        _cleanup_free_ char *unclean = loopfs_join(f->fs, "back/../back");
        _cleanup_free_ char *bound = loopfs_join(f->fs, "bound");
        _cleanup_free_ char *below = loopfs_join(f->fs, "bound/deep");

        loopfs_run("ln -s uploads %s/link && mkdir %s && mount --bind %s/uploads %s", f->back,
                   bound, f->back, bound);
        expect_not_found(link, SNAPSHOT_AUTO, ELOOP, "/back/link' is a symbolic link");
        expect_not_found(link, SNAPSHOT_NONE, ELOOP, "/back/link' is a symbolic link");
        expect_not_found(missing, SNAPSHOT_AUTO, ENOENT, missing);
        expect_not_found(unclean, SNAPSHOT_AUTO, EINVAL, unclean);
        expect_not_found("back", SNAPSHOT_AUTO, EINVAL, "back");
        expect_not_found(f->back, SNAPSHOT_LVM, EOPNOTSUPP, "Snapshot=lvm");
        expect_not_found("/proc", SNAPSHOT_BTRFS, EOPNOTSUPP, "not lie on btrfs");
        expect_not_found(bound, SNAPSHOT_AUTO, EXDEV, bound);
        expect_not_found(below, SNAPSHOT_AUTO, EXDEV, bound);
        loopfs_run("umount %s", bound);
}

/* A bind mount of a whole subvolume is as good as the subvolume, with the area inside. */
static void test_bound_subvolume(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *bound = loopfs_join(f->fs, "bound");
        _cleanup_free_ char *image = loopfs_join(f->fs, ".holdpoint/hot.x.0/uploads/deep/a");
        _cleanup_(volume_freep) Volume *v = NULL, *direct = find(f->back, SNAPSHOT_AUTO);
        _cleanup_(snapshot_freep) Snapshot *s = NULL;

        loopfs_run("mkdir %s && mount --bind %s %s", bound, f->back, bound);
        v = find(bound, SNAPSHOT_AUTO);
        assert_true(volume_equal(v, direct));
        s = take(v, "hot.x.0");
        expect_text(open(image, O_RDONLY), "one\n");
        assert_int_equal(snapshot_drop(TAKE_PTR(s), NULL), 0);
        assert_int_equal(access(image, F_OK), -1);
        loopfs_run("umount --lazy %s", bound);
}

static void test_take(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *live = loopfs_join(f->fs, "back/uploads/deep/a");
        _cleanup_free_ char *image = loopfs_join(f->fs, ".holdpoint/hot.x.0");
        _cleanup_(volume_freep) Volume *v = find(live, SNAPSHOT_AUTO);
        _cleanup_(snapshot_freep) Snapshot *s = take(v, "hot.x.0");
        Failure failure = FAILURE_INIT;
        Snapshot *again = NULL;
        int fd;

        loopfs_run("echo two > %s", live);
        expect_text(snapshot_open_path(s, live, O_RDONLY), "one\n");
        assert_null(snapshot_identity(s)); /* not before it is sealed */
        assert_int_equal(snapshot_open_path(s, f->at, O_RDONLY), -EINVAL);
        assert_int_equal(snapshot_open_path(s, "/etc/passwd", O_RDONLY), -EINVAL);
        fd = snapshot_open_path(s, f->back, O_RDONLY | O_DIRECTORY);
        assert_true(fd >= 0);
        close(fd);

        /* writable until it is sealed */
        fd = openat(snapshot_fd(s), "uploads/new", O_WRONLY | O_CREAT, 0600);
        assert_true(fd >= 0);
        close(fd);

        assert_int_equal(snapshot_take(v, "hot.x.0", &again, &failure), -EEXIST);
        failure = FAILURE_INIT;
        assert_int_equal(snapshot_take(v, "../x", &again, &failure), -EINVAL);
        assert_int_equal(failure.code, FAIL_INVALID_ARGUMENT);
        assert_null(again);

        assert_int_equal(snapshot_check(s, NULL), 0);
        assert_int_equal(snapshot_drop(TAKE_PTR(s), NULL), 0);
        assert_int_equal(access(image, F_OK), -1);
}

static void test_swap_file(void **state) {
        Fixture *f = *state;
        _cleanup_(volume_freep) Volume *v = find(f->back, SNAPSHOT_AUTO);
        Failure failure = FAILURE_INIT;
        Snapshot *s = NULL;

        loopfs_run("cd %s && touch swap && chmod 600 swap && chattr +C swap && "
                   "dd if=/dev/zero of=swap bs=1M count=4 status=none && sync && "
                   "mkswap swap >/dev/null && swapon swap",
                   f->back);
        assert_int_equal(snapshot_take(v, "hot.x.0", &s, &failure), -ETXTBSY);
        loopfs_run("swapoff %s/swap", f->back);
        assert_int_equal(failure.code, FAIL_SNAPSHOT_FAILED);
        assert_non_null(strstr(failure.text, "swap file"));
}

static void test_quota(void **state) {
        Fixture *f = *state;
        _cleanup_(volume_freep) Volume *v = find(f->back, SNAPSHOT_AUTO);
        Failure failure = FAILURE_INIT;
        Snapshot *s = NULL;

        /* The area lies in the top subvolume, which has no room for one more entry. */
        loopfs_run("btrfs -q quota enable %s && btrfs quota rescan -w %s >/dev/null && "
                   "btrfs qgroup limit 16384 %s",
                   f->at, f->at, f->at);
        assert_int_equal(snapshot_take(v, "hot.x.0", &s, &failure), -EDQUOT);
        assert_int_equal(failure.code, FAIL_NO_SPACE);
        assert_non_null(strstr(failure.text, "quota"));
}

/* Seals it and returns what would be recorded, after a trip through text. */
static json_object *seal(Snapshot *s) {
        Failure failure = FAILURE_INIT;
        json_object *o, *copy;

        if (snapshot_seal(&s, 1, &failure) < 0)
                fail_msg("%s", failure.text);
        o = snapshot_identity(s);
        assert_non_null(o);
        copy = json_parse(json_text(o), strlen(json_text(o)));
        assert_non_null(copy);
        json_object_put(o);
        return copy;
}

static void expect_open(json_object *identity, FailCode code, const char *words) {
        _cleanup_(snapshot_freep) Snapshot *s = NULL;
        Failure failure = FAILURE_INIT;
        int r = snapshot_open(identity, &s, &failure);

        if (code == FAIL_NONE && r < 0)
                fail_msg("%s", failure.text);
        assert_int_equal(failure.code, code);
        assert_int_equal(r < 0, code != FAIL_NONE);
        assert_int_equal(s != NULL, code == FAIL_NONE);
        if (words && !strstr(failure.text, words))
                fail_msg("'%s' does not say '%s'", failure.text, words);
}

static void test_identity(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *live = loopfs_join(f->fs, "back/uploads/deep/a");
        _cleanup_free_ char *image = loopfs_join(f->fs, ".holdpoint/hot.x.0");
        _cleanup_(volume_freep) Volume *v = find(live, SNAPSHOT_AUTO);
        _cleanup_(snapshot_freep) Snapshot *s = take(v, "hot.x.0"), *kept = NULL;
        _cleanup_json_ json_object *identity = NULL;
        int fd;

        loopfs_run("echo recovered > %s/uploads/deep/a", image);
        identity = seal(s);
        fd = openat(snapshot_fd(s), "uploads/new", O_WRONLY | O_CREAT, 0600);
        assert_true(fd < 0 && errno == EROFS);
        snapshot_free(TAKE_PTR(s));

        assert_int_equal(snapshot_open(identity, &kept, NULL), 0);
        expect_text(snapshot_open_path(kept, live, O_RDONLY), "recovered\n");
        snapshot_free(TAKE_PTR(kept));

        /* What a next run does with a kept image must not spoil it: snapshots, reads, a remount. */
        loopfs_run(
                "btrfs -q subvolume snapshot %s %s/copy && echo x > %s/copy/x && "
                "btrfs -q filesystem sync %s && btrfs -q subvolume snapshot -r %s %s/copy2 && "
                "btrfs -q filesystem sync %s && mount -o remount,ro %s && mount -o remount,rw %s",
                image, f->at, f->at, f->at, image, f->at, f->at, f->at, f->at);
        expect_open(identity, FAIL_NONE, NULL);

        loopfs_run("btrfs property set %s ro false", image);
        expect_open(identity, FAIL_INTEGRITY_FAILURE, "made writable");
        loopfs_run("echo changed > %s/uploads/deep/a && sync && btrfs property set %s ro true && "
                   "btrfs -q filesystem sync %s",
                   image, image, f->at);
        expect_open(identity, FAIL_INTEGRITY_FAILURE, "changed since");
        loopfs_run("btrfs -q subvolume delete %s", image);
        expect_open(identity, FAIL_SOURCE_MISSING, "is gone");
        loopfs_run("btrfs -q subvolume snapshot -r %s %s", f->back, image);
        expect_open(identity, FAIL_INTEGRITY_FAILURE, "uuid");
        loopfs_run("btrfs -q subvolume delete %s && mkdir %s", image, image);
        expect_open(identity, FAIL_INTEGRITY_FAILURE, "not a subvolume");
        loopfs_run("chmod 755 %s/.holdpoint", f->at);
        expect_open(identity, FAIL_SNAPSHOT_FAILED, "not to root alone");
}

static void test_hostile_identity(void **state) {
        Fixture *f = *state;
        _cleanup_(volume_freep) Volume *v = find(f->back, SNAPSHOT_AUTO);
        _cleanup_(snapshot_freep) Snapshot *s = take(v, "hot.x.0");
        _cleanup_json_ json_object *o = seal(s);
        const char *keys[] = {
                "provider", "area", "name", "uuid", "parent_uuid", "ctransid", "root"
        };

        expect_open(o, FAIL_NONE, NULL);
        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                json_object *kept = json_object_get(json_object_object_get(o, keys[i]));

                json_object_object_del(o, keys[i]);
                expect_open(o, FAIL_INTEGRITY_FAILURE, NULL);
                json_put_bool(o, keys[i], true);
                expect_open(o, FAIL_INTEGRITY_FAILURE, NULL);
                json_put(o, keys[i], kept);
        }
        expect_open(o, FAIL_NONE, NULL);
        json_put_string(o, "name", "../back");
        expect_open(o, FAIL_INTEGRITY_FAILURE, "malformed");
        json_put_string(o, "provider", "zfs");
        expect_open(o, FAIL_INTEGRITY_FAILURE, "provider");
        json_put_string(o, "provider", "lvm");
        expect_open(o, FAIL_INTEGRITY_FAILURE, "malformed");
        json_put_string(o, "provider", "none");
        expect_open(o, FAIL_SOURCE_MISSING, NULL);
}

static void test_nested(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *file = loopfs_join(f->fs, "back/nested/file");
        _cleanup_(volume_freep) Volume *v = NULL;
        _cleanup_(snapshot_freep) Snapshot *s = NULL;

        loopfs_run("btrfs -q subvolume create %s/nested && echo x > %s", f->back, file);
        v = find(f->back, SNAPSHOT_AUTO);
        s = take(v, "hot.x.0");
        assert_int_equal(snapshot_open_path(s, file, O_RDONLY), -ENOENT); /* its own volume's */
        assert_int_equal(snapshot_drop(TAKE_PTR(s), NULL), 0);
        expect_text(open(file, O_RDONLY), "x\n");
}

/* An image that somebody moved away is not mistaken for what has its name now. */
static void test_drop_stale(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *other = loopfs_join(f->fs, ".holdpoint/hot.x.0");
        _cleanup_(volume_freep) Volume *v = find(f->back, SNAPSHOT_AUTO);
        Snapshot *s = take(v, "hot.x.0");
        Failure failure = FAILURE_INIT;

        loopfs_run("mv %s %s.away && btrfs -q subvolume create %s", other, other, other);
        assert_int_equal(snapshot_drop(s, &failure), -ESTALE);
        assert_int_equal(access(other, F_OK), 0);
}

typedef struct Job {
        Volume *v;
        int n, failed;
} Job;

static void *take_many(void *userdata) {
        Job *job = userdata;

        for (int i = 0; i < 20; i++) {
                Snapshot *s = NULL;
                char name[32];

                (void) snprintf(name, sizeof(name), "hot.%d.%d", job->n, i);
                if (snapshot_take(job->v, name, &s, NULL) < 0 || snapshot_drop(s, NULL) < 0)
                        job->failed++;
        }
        return NULL;
}

static void test_threads(void **state) {
        Fixture *f = *state;
        pthread_t threads[3];
        Job jobs[3];

        for (int i = 0; i < 3; i++) {
                _cleanup_free_ char *path = NULL;

                loopfs_run("btrfs -q subvolume create %s/volume%d", f->at, i);
                assert_true(asprintf(&path, "%s/volume%d", f->at, i) > 0);
                jobs[i] = (Job){ find(path, SNAPSHOT_AUTO), i, 0 };
                assert_int_equal(pthread_create(&threads[i], NULL, take_many, &jobs[i]), 0);
        }
        for (int i = 0; i < 3; i++) {
                assert_int_equal(pthread_join(threads[i], NULL), 0);
                assert_int_equal(jobs[i].failed, 0);
                volume_free(jobs[i].v);
        }
}

static void test_none(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *live = loopfs_join(f->fs, "back/uploads/deep/a");
        _cleanup_(volume_freep) Volume *v = find(live, SNAPSHOT_NONE);
        _cleanup_(snapshot_freep) Snapshot *s = take(v, "x");
        _cleanup_json_ json_object *o = NULL;

        expect_text(snapshot_open_path(s, live, O_RDONLY), "one\n");
        assert_int_equal(snapshot_seal(&s, 1, NULL), 0);
        assert_int_equal(snapshot_check(s, NULL), 0);
        o = snapshot_identity(s);
        assert_non_null(o);
        expect_open(o, FAIL_SOURCE_MISSING, "without a snapshot");
        assert_int_equal(snapshot_drop(TAKE_PTR(s), NULL), 0);
        expect_text(open(live, O_RDONLY), "one\n");
}

#define ON_BTRFS(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_kinds),
                ON_BTRFS(test_find),
                ON_BTRFS(test_find_refuses),
                ON_BTRFS(test_bound_subvolume),
                ON_BTRFS(test_take),
                ON_BTRFS(test_swap_file),
                ON_BTRFS(test_quota),
                ON_BTRFS(test_identity),
                ON_BTRFS(test_hostile_identity),
                ON_BTRFS(test_nested),
                ON_BTRFS(test_drop_stale),
                ON_BTRFS(test_threads),
                ON_BTRFS(test_none),
        };

        if (!loopfs_possible())
                return 77;
        return cmocka_run_group_tests(tests, NULL, NULL);
}
