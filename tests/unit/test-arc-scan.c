/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/arc-internal.h"
#include "archive/arc-scan.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "tests/lib/loopfs.h"

typedef struct Fixture {
        Loopfs *fs;
} Fixture;

/*
 * More than two windows of names whose inode numbers are in another order, with gaps between some;
 * and of everything that must be looked at some of it.
 */
static const char fill[] =
        "cd '%s' && mkdir many && cd many &&"
        " for i in $(seq 1 2500 | shuf --random-source=/bin/sh); do"
        "  case $((i %% 7)) in 0) :;; 1) echo $i;; *) printf '%%*s' $i x;; esac >f$i;"
        "  case $((i %% 50)) in 3) for k in $(seq 1 20); do : >x; rm x; done;;"
        "   4) mkdir d$i;; 5) mkfifo p$i;; 6) ln f$i h$i;; 7) ln -s f$i l$i;;"
        "   8) chown 1:2 f$i; chmod 4640 f$i; touch -d @-5.25 f$i;; 9) truncate -s 5G f$i;; esac;"
        " done && sync";

static int set_up(void **state, const char *type) {
        Fixture *f = calloc(1, sizeof(*f));

        f->fs = loopfs_new(type);
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

static void assert_local_equal(const EntryLocal *a, const EntryLocal *b) {
        assert_int_equal(a->ino, b->ino);
        assert_int_equal(a->size, b->size);
        assert_int_equal(a->mode, b->mode);
        assert_int_equal(a->nlink, b->nlink);
        assert_int_equal(a->uid, b->uid);
        assert_int_equal(a->gid, b->gid);
        assert_int_equal(a->mtime_sec, b->mtime_sec);
        assert_int_equal(a->mtime_nsec, b->mtime_nsec);
        assert_int_equal(a->ctime_sec, b->ctime_sec);
        assert_int_equal(a->ctime_nsec, b->ctime_nsec);
}

/* Every name is looked at both ways. Returns how many were known. */
static size_t compare(const char *path) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ArcScan *scan = NULL;
        ArcDir *dir = NULL;
        size_t known = 0;

        assert_true(fd >= 0);
        assert_int_equal(arc_dir_new(&dir), 0);
        assert_int_equal(arc_scan_new(&scan), 0);
        assert_int_equal(arc_dir_read(dir, fd), 0);
        arc_scan_begin(scan, fd);
        arc_scan_list(scan, fd, dir);
        for (size_t i = 0; i < arc_dir_count(dir); i++) {
                const EntryLocal *local = arc_scan_at(scan, i);
                struct statx stx;
                EntryLocal looked;

                assert_int_equal(arc_statx(fd, arc_dir_name(dir, i), &stx), 0);
                arc_local(&stx, &looked);
                assert_int_equal(arc_dir_ino(dir, i), looked.ino);
                if (!local)
                        continue;
                known++;
                assert_int_equal(looked.nlink, 1);
                assert_true(S_ISREG(looked.mode) || S_ISLNK(looked.mode));
                assert_local_equal(local, &looked);
        }
        arc_scan_free(scan);
        arc_dir_free(dir);
        return known;
}

static void test_image(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *live = loopfs_join(f->fs, "live"),
                            *image = loopfs_join(f->fs, "image"),
                            *many = loopfs_join(f->fs, "image/many");

        loopfs_run("btrfs -q subvolume create '%s'", live);
        loopfs_run(fill, live);
        loopfs_run("btrfs -q subvolume snapshot -r '%s' '%s'", live, image);
        /* All files but those with two names, and the links. */
        assert_int_equal(compare(many), 2500 - 50 + 50);
}

/* What was written a moment ago would be missed. */
static void test_writable(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *live = loopfs_join(f->fs, "live"),
                            *many = loopfs_join(f->fs, "live/many");

        loopfs_run("btrfs -q subvolume create '%s'", live);
        loopfs_run(fill, live);
        assert_int_equal(compare(many), 0);
}

static void test_elsewhere(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *many = loopfs_join(f->fs, "many");

        loopfs_run(fill, loopfs_path(f->fs));
        assert_int_equal(compare(many), 0);
}

typedef struct Seen {
        int fd;
        size_t known, read, files;
        const char *changed; /* is not known */
} Seen;

static int on_known(void *userdata,
                    const char *service,
                    const char *dir,
                    const char *name,
                    const EntryLocal *local,
                    Failure *reterr) {
        Seen *s = userdata;
        struct statx stx;
        EntryLocal looked;

        if (strcmp(name, "many") == 0 || strcmp(name, "image") == 0)
                return 1;
        assert_int_equal(arc_statx(s->fd, name, &stx), 0);
        arc_local(&stx, &looked);
        assert_local_equal(local, &looked);
        s->known++;
        return strcmp(name, s->changed) != 0;
}

static int
on_entry(void *userdata, const Entry *e, const EntryLocal *local, int fd, Failure *reterr) {
        Seen *s = userdata;

        s->read++;
        if (e->type == ENTRY_HARDLINK)
                return 0;
        assert_string_equal(e->name, s->changed);
        assert_true(fd >= 0);
        s->files++;
        return 0;
}

static int on_problem(void *userdata, const char *service, const char *path, const Failure *why) {
        fail_msg("%s: %s", path, why->text);
        return 0;
}

/* The sink is asked once about each object, and what it does not know is read. */
static void test_walk(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *live = loopfs_join(f->fs, "live"),
                            *image = loopfs_join(f->fs, "image"),
                            *many = loopfs_join(f->fs, "image/many");
        _cleanup_close_ int root_fd = -1, fd = -1;
        Seen seen = { .changed = "f1458" };
        ArcSink sink = {
                .known = on_known, .entry = on_entry, .problem = on_problem, .userdata = &seen
        };
        ArcRoot root = { .service = "s", .path = "/image" };
        Failure failure = FAILURE_INIT;

        loopfs_run("btrfs -q subvolume create '%s'", live);
        loopfs_run(fill, live);
        loopfs_run("btrfs -q subvolume snapshot -r '%s' '%s'", live, image);
        root_fd = open(image, O_PATH | O_CLOEXEC);
        fd = open(many, O_PATH | O_CLOEXEC);
        assert_true(root_fd >= 0 && fd >= 0);
        root.fd = root_fd;
        seen.fd = fd;
        if (arc_walk(&root, 1, &sink, &failure) < 0)
                fail_msg("%s", failure.text);
        /* Files, links, directories, FIFOs; second names are told, not asked about. */
        assert_int_equal(seen.known, 2500 + 50 + 50 + 50);
        assert_int_equal(seen.files, 1);
        assert_int_equal(seen.read, 1 + 50);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_image, set_up_btrfs, tear_down),
                cmocka_unit_test_setup_teardown(test_writable, set_up_btrfs, tear_down),
                cmocka_unit_test_setup_teardown(test_elsewhere, set_up_ext4, tear_down),
                cmocka_unit_test_setup_teardown(test_walk, set_up_btrfs, tear_down),
        };

        if (!loopfs_possible())
                return 77;
        return cmocka_run_group_tests(tests, NULL, NULL);
}
