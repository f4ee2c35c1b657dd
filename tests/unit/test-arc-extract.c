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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/arc.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/text.h"
#include "tests/lib/arctree.h"
#include "tests/lib/loopfs.h"

#define ALL_FLAGS ((uint32_t) ~0)

typedef struct Fixture {
        Loopfs *fs;
        const char *at;
        const char *type;
        int fd;
} Fixture;

static int set_up(void **state, const char *type) {
        Fixture *f = calloc(1, sizeof(*f));

        f->fs = loopfs_new(type);
        f->at = loopfs_path(f->fs);
        f->type = type;
        f->fd = open(f->at, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        *state = f;
        return f->fd < 0;
}

static int set_up_btrfs(void **state) {
        return set_up(state, "btrfs");
}

static int set_up_ext4(void **state) {
        return set_up(state, "ext4");
}

static int set_up_tmpfs(void **state) {
        return set_up(state, "tmpfs");
}

static int tear_down(void **state) {
        Fixture *f = *state;

        fd_close(f->fd);
        loopfs_free(f->fs);
        free(f);
        return 0;
}

/* ---- there and back ---- */

static void check_clone(Fixture *f, const char *src, const char *dst) {
        _cleanup_(arc_lines_done) ArcLines before = { 0 }, after = { 0 }, made = { 0 };
        Failure failure = FAILURE_INIT;

        arc_lines_read(src, ALL_FLAGS, &before);
        assert_int_equal(before.n_problems, 0);
        if (arc_tree_clone(src, dst, &failure) < 0)
                fail_msg("%s", failure.text);
        arc_lines_read(src, ALL_FLAGS, &after);
        arc_lines_assert_equal(&before, &after); /* the source was only read */
        arc_lines_read(dst, ALL_FLAGS, &made);
        assert_int_equal(made.n_problems, 0);
        arc_lines_assert_equal(&before, &made);
        arc_tree_assert_rsync(src, dst);
}

static void test_everything(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *src = loopfs_join(f->fs, "src"), *dst = loopfs_join(f->fs, "dst");

        loopfs_run("mkdir '%s'", src);
        arc_tree_fill(src, strcmp(f->type, "btrfs") == 0);
        check_clone(f, src, dst);
        loopfs_run("cmp '%s/holes/plain' '%s/holes/plain' && "
                   "test $(du -k '%s/holes/all-hole' | cut -f1) -lt 64 && "
                   "getcap '%s/attrs/cap' | grep -q cap_net_raw",
                   src, dst, dst, dst);
        arc_tree_unlock(src);
        arc_tree_unlock(dst);
}

/* What the place passes on to new objects must not stick to those that did not have it. */
static void test_inherited(void **state) {
        Fixture *f = *state;
        bool btrfs = strcmp(f->type, "btrfs") == 0;
        _cleanup_free_ char *src = loopfs_join(f->fs, "src"), *dst = loopfs_join(f->fs, "in/dst");

        loopfs_run("mkdir -p '%s/d/e' && cd '%s' && echo f > f && echo g > d/e/g && mkfifo d/p && "
                   "ln -s f s && mkdir ../in && setfacl -m d:u:1:rwx,d:g:2:r ../in",
                   src, src);
        loopfs_run("cd '%s/../in' && chattr %s .", src, btrfs ? "+C" : "+dA");
        check_clone(f, src, dst);
        if (btrfs) {
                loopfs_run(
                        "rm -r '%s' && chattr -C '%s/in' && btrfs property set '%s/in' compression "
                        "zstd",
                        dst, f->at, f->at);
                check_clone(f, src, dst);
        }
}

static void test_into_subvolume(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *src = loopfs_join(f->fs, "src"), *dst = loopfs_join(f->fs, "dst");
        Failure failure = FAILURE_INIT;

        loopfs_run("mkdir -p '%s/a' && echo x > '%s/a/f' && chmod 0751 '%s' && btrfs -q subvolume "
                   "create "
                   "'%s'",
                   src, src, src, dst);
        check_clone(f, src, dst);
        assert_int_equal(arc_tree_clone(src, dst, &failure), -ENOTEMPTY);
        assert_int_equal(failure.code, FAIL_NOT_RESTORABLE);
}

static void test_root_is_no_directory(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *src = loopfs_join(f->fs, "src"), *dst = loopfs_join(f->fs, "dst");
        _cleanup_free_ char *link = loopfs_join(f->fs, "link"), *copy = loopfs_join(f->fs, "copy");
        _cleanup_(arc_lines_done) ArcLines a = { 0 }, b = { 0 };
        Failure failure = FAILURE_INIT;

        loopfs_run("echo data > '%s' && chmod 4711 '%s' && ln -s nowhere '%s'", src, src, link);
        assert_int_equal(arc_tree_clone(src, dst, &failure), 0);
        arc_lines_read(src, ALL_FLAGS, &a);
        arc_lines_read(dst, ALL_FLAGS, &b);
        assert_int_equal(a.n, 1);
        arc_lines_assert_equal(&a, &b);
        assert_int_equal(arc_tree_clone(link, copy, &failure), 0);
        loopfs_run("test \"$(readlink '%s')\" = nowhere", copy);
}

/* A path far longer than the kernel takes at once. */
static void test_deep(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *src = loopfs_join(f->fs, "src"), *dst = loopfs_join(f->fs, "dst");
        _cleanup_(arc_lines_done) ArcLines a = { 0 }, b = { 0 };
        Failure failure = FAILURE_INIT;
        char name[41];
        int fd;

        loopfs_run("mkdir '%s'", src);
        fd = open(src, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        for (unsigned i = 0; i < 1000; i++) {
                int next;

                (void) snprintf(name, sizeof(name), "%040u", i);
                assert_int_equal(mkdirat(fd, name, 0755), 0);
                assert_int_equal(mkdirat(fd, "zz", 0700), 0);
                next = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                fd_close(fd);
                fd = next;
        }
        fd_close(fd);
        if (arc_tree_clone(src, dst, &failure) < 0)
                fail_msg("%s", failure.text);
        arc_lines_read(src, ALL_FLAGS, &a);
        arc_lines_read(dst, ALL_FLAGS, &b);
        assert_int_equal(a.n_problems, 0);
        assert_int_equal(a.n, 2001);
        arc_lines_assert_equal(&a, &b);
}

/* ---- what is refused, and how ---- */

typedef struct Put {
        Fixture *f;
        ArcExtract *x;
        Failure failure;
} Put;

static int no_content(void *userdata, const Entry *entry, int fd, Failure *reterr) {
        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EIO, "content is damaged");
}

static void put_begin(Put *p, Fixture *f, const char *name) {
        ArcExtractParams params = { .parent_fd = f->fd, .name = name, .content = no_content };

        *p = (Put){ .f = f };
        assert_int_equal(arc_extract_new(&params, &p->x, &p->failure), 0);
}

static void put_end(Put *p) {
        arc_extract_free(p->x);
}

static Entry entry_of(EntryType type) {
        return (Entry){ .service = "s", .dir = "/x", .name = "n", .type = type, .mode = 0755 };
}

static int put(Put *p, const char *path, EntryType type, const char *link) {
        Entry e = entry_of(type);

        if (type == ENTRY_SYMLINK)
                e.target = "/etc";
        p->failure = FAILURE_INIT;
        return arc_extract_put(p->x, path, &e, link, false, &p->failure);
}

static void refused(Put *p, const char *path, EntryType type, const char *link) {
        int r = put(p, path, type, link);

        if (r != -EINVAL)
                fail_msg("'%s' gave %d: %s", path, r, p->failure.text);
        assert_int_equal(p->failure.code, FAIL_INTEGRITY_FAILURE);
        assert_true(strlen(p->failure.text) > 0);
}

static void test_refusals(void **state) {
        Put p;

        put_begin(&p, *state, "dst");
        refused(&p, "early", ENTRY_FILE, NULL); /* before its root */
        assert_int_equal(put(&p, "", ENTRY_DIRECTORY, NULL), 0);
        refused(&p, "", ENTRY_DIRECTORY, NULL);
        assert_int_equal(put(&p, "a", ENTRY_FILE, NULL), 0);
        assert_int_equal(put(&p, "evil", ENTRY_SYMLINK, NULL), 0);
        refused(&p, "a", ENTRY_FILE, NULL);
        refused(&p, "a", ENTRY_DIRECTORY, NULL);
        refused(&p, "a", ENTRY_HARDLINK, "a");
        refused(&p, "../up", ENTRY_FILE, NULL);
        refused(&p, "/abs", ENTRY_FILE, NULL);
        refused(&p, "x/../y", ENTRY_FILE, NULL);
        refused(&p, "x//y", ENTRY_FILE, NULL);
        refused(&p, "x/", ENTRY_FILE, NULL);
        refused(&p, ".", ENTRY_DIRECTORY, NULL);
        refused(&p, "none/x", ENTRY_FILE, NULL);
        refused(&p, "a/x", ENTRY_FILE, NULL);
        refused(&p, "evil/passwd", ENTRY_FILE, NULL);
        refused(&p, "h1", ENTRY_HARDLINK, NULL);
        refused(&p, "h1", ENTRY_HARDLINK, "none");
        assert_int_equal(put(&p, "d", ENTRY_DIRECTORY, NULL), 0);
        refused(&p, "h1", ENTRY_HARDLINK, "d");
        refused(&p, "h1", ENTRY_HARDLINK, "evil/passwd");
        refused(&p, "h1", ENTRY_HARDLINK, "../a");
        refused(&p, "h1", ENTRY_HARDLINK, "/etc/passwd");
        /* The link itself gets a further name, never what it leads to. */
        assert_int_equal(put(&p, "evil2", ENTRY_HARDLINK, "evil"), 0);
        refused(&p, "t", (EntryType) 'z', NULL);
        assert_int_equal(arc_extract_finish(p.x, &p.failure), 0);
        put_end(&p);
        loopfs_run("test \"$(ls -A '%s/dst')\" = \"$(printf 'a\\nd\\nevil\\nevil2')\"", p.f->at);
        loopfs_run("test \"$(readlink '%s/dst/evil2')\" = /etc", p.f->at);
}

static void test_bad_values(void **state) {
        static const EntryXattr unknown = { "nospace.x", "v", 1 };
        Entry e = entry_of(ENTRY_FILE);
        Put p;

        put_begin(&p, *state, "dst");
        assert_int_equal(put(&p, "", ENTRY_DIRECTORY, NULL), 0);
        e.uid = UINT32_MAX;
        assert_int_equal(arc_extract_put(p.x, "u", &e, NULL, false, &p.failure), -EINVAL);
        e = entry_of(ENTRY_FILE);
        e.mtime_nsec = (uint32_t) UTIME_NOW;
        assert_int_equal(arc_extract_put(p.x, "t", &e, NULL, false, &p.failure), -EINVAL);
        e = entry_of(ENTRY_FILE);
        e.size = UINT64_MAX;
        assert_int_equal(arc_extract_put(p.x, "s", &e, NULL, false, &p.failure), -EINVAL);
        e.size = 5;
        p.failure = FAILURE_INIT;
        assert_int_equal(arc_extract_put(p.x, "c", &e, NULL, false, &p.failure), -EIO);
        assert_string_equal(p.failure.text, "content is damaged");
        e = entry_of(ENTRY_FILE);
        e.xattrs = &unknown;
        e.n_xattrs = 1;
        p.failure = FAILURE_INIT;
        assert_int_equal(arc_extract_put(p.x, "where", &e, NULL, false, &p.failure), -EOPNOTSUPP);
        assert_non_null(strstr(p.failure.text, "'where'"));
        assert_non_null(strstr(p.failure.text, "nospace.x"));
        put_end(&p);
}

/* On tmpfs: what it cannot keep is told, unless nothing is lost without it. */
static void test_unsupported_flags(void **state) {
        Entry e = entry_of(ENTRY_FILE);
        Put p;

        put_begin(&p, *state, "dst");
        assert_int_equal(put(&p, "", ENTRY_DIRECTORY, NULL), 0);
        e.flags = FS_NODUMP_FL | FS_NOATIME_FL | FS_COMPR_FL | FS_NOCOW_FL;
        if (arc_extract_put(p.x, "fine", &e, NULL, false, &p.failure) < 0)
                fail_msg("%s", p.failure.text);
        put_end(&p);
        loopfs_run("mkdir '%s/ram' && mount -t ramfs none '%s/ram'", p.f->at, p.f->at);
        fd_close(p.f->fd);
        p.f->fd = openat(AT_FDCWD, p.f->at, O_RDONLY | O_DIRECTORY);
        {
                _cleanup_close_ int ram =
                        openat(p.f->fd, "ram", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                ArcExtractParams params = { .parent_fd = ram, .name = "dst" };

                assert_int_equal(arc_extract_new(&params, &p.x, &p.failure), 0);
                assert_int_equal(put(&p, "", ENTRY_DIRECTORY, NULL), 0);
                if (arc_extract_put(p.x, "fine", &e, NULL, false, &p.failure) < 0)
                        fail_msg("%s", p.failure.text);
                e.flags |= FS_IMMUTABLE_FL;
                assert_true(arc_extract_put(p.x, "where", &e, NULL, false, &p.failure) < 0);
                assert_non_null(strstr(p.failure.text, "'where'"));
                assert_non_null(strstr(p.failure.text, "immutable"));
                put_end(&p);
        }
        loopfs_run("umount '%s/ram'", p.f->at);
}

static void test_make_parents(void **state) {
        Entry file = entry_of(ENTRY_FILE), dir = entry_of(ENTRY_DIRECTORY);
        Failure failure = FAILURE_INIT;
        Put p;

        put_begin(&p, *state, "dst");
        dir.mtime_sec = 5000;
        assert_int_equal(arc_extract_put(p.x, "srv/data", &dir, NULL, true, &failure), 0);
        assert_int_equal(arc_extract_put(p.x, "srv/data/x/y/f", &file, NULL, true, &failure), 0);
        assert_int_equal(arc_extract_put(p.x, "srv/data/x/y/g", &file, NULL, true, &failure), 0);
        assert_int_equal(arc_extract_finish(p.x, &failure), 0);
        put_end(&p);
        loopfs_run(
                "cd '%s/dst' && test -f srv/data/x/y/g && test $(stat -c %%Y srv/data) = 5000 && "
                "test $(stat -c %%a srv/data) = 755 && test $(stat -c %%a srv) = 700",
                p.f->at);
}

/* Runs out of order still come out right: each visit puts the directory's times back. */
static void test_directory_times(void **state) {
        Entry file = entry_of(ENTRY_FILE), dir = entry_of(ENTRY_DIRECTORY);
        Failure failure = FAILURE_INIT;
        Put p;

        put_begin(&p, *state, "dst");
        dir.mtime_sec = -3;
        dir.mtime_nsec = 17;
        assert_int_equal(arc_extract_put(p.x, "", &dir, NULL, false, &failure), 0);
        assert_int_equal(arc_extract_put(p.x, "a", &dir, NULL, false, &failure), 0);
        assert_int_equal(arc_extract_put(p.x, "b", &dir, NULL, false, &failure), 0);
        for (const char *const *path = (const char *const[]){ "a/1", "b/1", "a/2", "3", NULL };
             *path; path++)
                assert_int_equal(arc_extract_put(p.x, *path, &file, NULL, false, &failure), 0);
        assert_int_equal(arc_extract_finish(p.x, &failure), 0);
        put_end(&p);
        loopfs_run(
                "cd '%s/dst' && for d in . a b; do test \"$(stat -c %%.9Y $d)\" = -2.999999983 || "
                "test \"$(stat -c %%y $d | cut -c 18-29)\" = 57.000000017 || exit 1; done",
                p.f->at);
}

static bool always(void *userdata) {
        return true;
}

static void test_interrupted(void **state) {
        Fixture *f = *state;
        ArcExtractParams params = { .parent_fd = f->fd, .name = "dst", .interrupted = always };
        Failure failure = FAILURE_INIT;
        Entry dir = entry_of(ENTRY_DIRECTORY);
        ArcExtract *x = NULL;

        assert_int_equal(arc_extract_new(&params, &x, &failure), 0);
        assert_int_equal(arc_extract_put(x, "", &dir, NULL, false, &failure), -ECANCELED);
        assert_int_equal(failure.code, FAIL_CANCELED);
        arc_extract_free(x);
        params.name = "a/b";
        assert_int_equal(arc_extract_new(&params, &x, &failure), -EINVAL);
        params.name = "..";
        assert_int_equal(arc_extract_new(&params, &x, &failure), -EINVAL);
}

static int five_bytes(void *userdata, const Entry *entry, int fd, Failure *reterr) {
        return fd_pwrite_full(fd, "12345", 5, 0);
}

static void put_file(Put *p, const char *path, uint64_t size, uint32_t mode, uint32_t owner) {
        Entry e = entry_of(ENTRY_FILE);

        e.size = size;
        e.mode = mode;
        e.uid = e.gid = owner;
        e.mtime_sec = 5;
        if (arc_extract_put(p->x, path, &e, NULL, false, &p->failure) < 0)
                fail_msg("%s", p->failure.text);
}

static void
assert_file(Fixture *f, const char *path, off_t size, mode_t mode, uid_t owner, unsigned flags) {
        _cleanup_free_ char *full = text_printf("%s/dst/%s", f->at, path);
        _cleanup_close_ int fd = open(full, O_RDONLY | O_CLOEXEC);
        unsigned now = 0;
        struct stat st;

        assert_true(fd >= 0);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, size);
        assert_int_equal(st.st_mode & 07777, mode);
        assert_int_equal(st.st_uid, owner);
        assert_int_equal(st.st_gid, owner);
        assert_int_equal(st.st_mtim.tv_sec, 5);
        assert_int_equal(ioctl(fd, FS_IOC_GETFLAGS, &now), 0);
        assert_int_equal(now & FS_NOCOW_FL, flags);
}

/* The short way for plain files must come out like the long one, and be left where it does not fit.
 */
static void test_plain(void **state) {
        Fixture *f = *state;
        ArcExtractParams params = { .parent_fd = f->fd, .name = "dst", .content = five_bytes };
        Put p = { .f = f };
        Entry e = entry_of(ENTRY_DIRECTORY);

        assert_int_equal(arc_extract_new(&params, &p.x, &p.failure), 0);
        assert_int_equal(put(&p, "", ENTRY_DIRECTORY, NULL), 0);
        put_file(&p, "a", 5, 0600, 0);
        put_file(&p, "b", 5, 04755, 7);
        put_file(&p, "c", 1 << 20, 0444, 0); /* its content ends in a hole */
        e.flags = FS_NOCOW_FL;
        assert_int_equal(arc_extract_put(p.x, "d", &e, NULL, false, &p.failure), 0);
        e = entry_of(ENTRY_FILE);
        e.size = 4;
        assert_int_equal(arc_extract_put(p.x, "long", &e, NULL, false, &p.failure), -EINVAL);
        put_file(&p, "d/e", 0, 0640, 7); /* born with the flag of its directory */
        p.failure = FAILURE_INIT;
        assert_int_equal(arc_extract_finish(p.x, &p.failure), 0);
        assert_file(f, "a", 5, 0600, 0, 0);
        assert_file(f, "b", 5, 04755, 7, 0);
        assert_file(f, "c", 1 << 20, 0444, 0, 0);
        assert_file(f, "d/e", 0, 0640, 7, 0);
        put_end(&p);
}

static void test_no_space(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *src = loopfs_join(f->fs, "src");
        Failure failure = FAILURE_INIT;
        char dst[4096];
        int r = 0;

        loopfs_run("mkdir '%s' && head -c 60000000 /dev/urandom > '%s/big'", src, src);
        for (int i = 0; r >= 0 && i < 20; i++) {
                (void) snprintf(dst, sizeof(dst), "%s/dst%d", f->at, i);
                r = arc_tree_clone(src, dst, &failure);
        }
        assert_int_equal(r, -ENOSPC);
        assert_int_equal(failure.code, FAIL_NO_SPACE);
}

#define ON(fs, test) cmocka_unit_test_setup_teardown(test, set_up_##fs, tear_down)

int main(void) {
        const struct CMUnitTest tests[] = {
                ON(btrfs, test_everything),     ON(ext4, test_everything),
                ON(btrfs, test_inherited),      ON(ext4, test_inherited),
                ON(btrfs, test_into_subvolume), ON(tmpfs, test_root_is_no_directory),
                ON(btrfs, test_deep),           ON(ext4, test_refusals),
                ON(ext4, test_bad_values),      ON(ext4, test_unsupported_flags),
                ON(ext4, test_make_parents),    ON(ext4, test_directory_times),
                ON(tmpfs, test_interrupted),    ON(ext4, test_no_space),
                ON(btrfs, test_plain),
        };

        if (!loopfs_possible())
                return 77;
        return cmocka_run_group_tests(tests, NULL, NULL);
}
