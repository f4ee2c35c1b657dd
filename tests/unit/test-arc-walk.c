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
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "archive/arc.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/names.h"
#include "base/text.h"
#include "tests/lib/arctree.h"
#include "tests/lib/loopfs.h"

#define MANY 100000

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

static int set_up_tmpfs(void **state) {
        return set_up(state, "tmpfs");
}

static int tear_down(void **state) {
        Fixture *f = *state;

        loopfs_free(f->fs);
        free(f);
        return 0;
}

/* ---- order ---- */

typedef struct Key {
        char *service, *dir, *name;
} Key;

typedef struct Keys {
        Key *keys;
        size_t n, allocated;
} Keys;

static void keys_done(Keys *k) {
        for (size_t i = 0; i < k->n; i++) {
                free(k->keys[i].service);
                free(k->keys[i].dir);
                free(k->keys[i].name);
        }
        free(k->keys);
}

static int
keys_add(void *userdata, const Entry *e, const EntryLocal *local, int fd, Failure *reterr) {
        Keys *k = userdata;

        if (k->n == k->allocated) {
                k->allocated = k->allocated ? k->allocated * 2 : 256;
                k->keys = reallocarray(k->keys, k->allocated, sizeof(*k->keys));
                assert_non_null(k->keys);
        }
        k->keys[k->n++] = (Key){ strdup(e->service), strdup(e->dir), strdup(e->name) };
        return 0;
}

static int no_problem(void *userdata, const char *service, const char *path, const Failure *why) {
        fail_msg("problem with '%s': %s", path, why->text);
        return 0;
}

/* The oracle: splits into components and compares those, sharing nothing with the code. */
static int oracle(const void *a, const void *b) {
        const Key *x = a, *y = b;
        const char *p = x->dir + 1, *q = y->dir + 1;
        int r = strcmp(x->service, y->service);

        while (r == 0 && *p && *q) {
                char one[256] = { 0 }, two[256] = { 0 };
                size_t n = strcspn(p, "/"), m = strcspn(q, "/");

                memcpy(one, p, n);
                memcpy(two, q, m);
                r = strcmp(one, two);
                p += n + (p[n] == '/');
                q += m + (q[m] == '/');
        }
        if (r == 0 && (*p || *q))
                return *p ? 1 : -1;
        return r != 0 ? r : strcmp(x->name, y->name);
}

static unsigned next_random(unsigned *seed) {
        *seed = *seed * 1664525U + 1013904223U;
        return *seed >> 10;
}

static const char *const nasty[] = {
        "a",    "a-",    "a.b", "ab", "b",   "A", "a b", " ",
        "\xff", "\x80z", "!",   "z",  "a\n", "~", "-",   "0",
};

static size_t grow(int dirfd, unsigned *seed, unsigned depth) {
        size_t made = 0;

        for (size_t i = 0; i < ELEMENTSOF(nasty); i++) {
                unsigned what = next_random(seed) % 4;

                if (what == 0 || (what == 1 && depth == 0)) {
                        fd_close(openat(dirfd, nasty[i], O_CREAT | O_WRONLY | O_EXCL | O_CLOEXEC,
                                        0600));
                        made++;
                } else if (what == 1) {
                        _cleanup_close_ int fd = -1;

                        assert_int_equal(mkdirat(dirfd, nasty[i], 0700), 0);
                        fd = openat(dirfd, nasty[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                        made += 1 + grow(fd, seed, depth - 1);
                }
        }
        return made;
}

static void test_order(void **state) {
        static const struct {
                const char *service, *path;
        } given[] = {
                { "two", "/x/b" }, { "one", "/x/y/z" },    { "one", "/x/b-c" },
                { "one", "/x/b" }, { "one", "/x/y/z.d" },  { "one", "/w" },
                { "one", "/x/a" }, { "one", "/x/b.file" }, { "one", "/x/y-" },
        };
        Fixture *f = *state;
        _cleanup_(keys_done) Keys got = { 0 };
        ArcRoot roots[ELEMENTSOF(given)];
        ArcSink sink = { .entry = keys_add, .problem = no_problem, .userdata = &got };
        Failure failure = FAILURE_INIT;
        size_t made = 0;
        Key *sorted;

        for (unsigned i = 0; i < ELEMENTSOF(given); i++) {
                _cleanup_free_ char *path = text_printf("%s/%u", f->at, i);
                unsigned seed = 77 + i;
                int fd;

                if (strstr(given[i].path, "file")) {
                        loopfs_run("touch '%s'", path);
                        fd = open(path, O_PATH | O_CLOEXEC);
                } else {
                        assert_int_equal(mkdir(path, 0700), 0);
                        fd = open(path, i % 2 ? O_PATH | O_CLOEXEC : O_RDONLY | O_CLOEXEC);
                        made += grow(fd, &seed, 5);
                }
                assert_true(fd >= 0);
                roots[i] =
                        (ArcRoot){ .service = given[i].service, .path = given[i].path, .fd = fd };
                made++;
        }
        assert_int_equal(arc_walk(roots, ELEMENTSOF(given), &sink, &failure), 0);
        assert_true(made > 1000);
        assert_int_equal(got.n, made);
        sorted = calloc(got.n, sizeof(*sorted));
        memcpy(sorted, got.keys, got.n * sizeof(*sorted));
        qsort(sorted, got.n, sizeof(*sorted), oracle);
        for (size_t i = 0; i < got.n; i++) {
                if (oracle(&got.keys[i], &sorted[i]) != 0)
                        fail_msg("entry %zu is '%s' '%s', not '%s' '%s'", i, got.keys[i].dir,
                                 got.keys[i].name, sorted[i].dir, sorted[i].name);
                if (i > 0)
                        assert_true(oracle(&sorted[i - 1], &sorted[i]) < 0);
        }
        free(sorted);
        for (size_t i = 0; i < ELEMENTSOF(given); i++)
                fd_close(roots[i].fd);
}

static void test_bad_roots(void **state) {
        Fixture *f = *state;
        _cleanup_close_ int fd = open(f->at, O_PATH | O_CLOEXEC);
        static const char *const pairs[][2] = {
                { "/a", "/a" },  { "/a", "/a/b" },    { "/a/b/c", "/a" }, { "/", "/x" },
                { "rel", "/x" }, { "/a/../b", "/x" }, { "/a/", "/x" },
        };
        Keys got = { 0 };
        ArcSink sink = { .entry = keys_add, .problem = no_problem, .userdata = &got };

        for (size_t i = 0; i < ELEMENTSOF(pairs); i++) {
                ArcRoot roots[] = {
                        { .service = "s", .path = pairs[i][0], .fd = fd },
                        { .service = "s", .path = pairs[i][1], .fd = fd },
                };
                Failure failure = FAILURE_INIT;

                assert_int_equal(arc_walk(roots, 2, &sink, &failure), -EINVAL);
                assert_int_equal(failure.code, FAIL_INVALID_ARGUMENT);
                assert_int_equal(got.n, 0);
        }
}

/* ---- what is left out ---- */

static void test_problems(void **state) {
        Fixture *f = *state;
        _cleanup_(arc_lines_done) ArcLines lines = { 0 };
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        loopfs_run("cd '%s' && mkdir -p t/d t/mnt t/sub/deep/.holdpoint/x t/.holdpoint t/o && "
                   "chmod 700 t/.holdpoint t/sub/deep/.holdpoint && touch t/d/f t/bound t/other && "
                   "mkdir t/mnt/hidden && touch t/.holdpoint/secret && "
                   "touch t/o/.holdpoint && btrfs -q subvolume create t/d/nested && "
                   "touch t/d/nested/f && mount -t tmpfs none t/mnt && touch t/mnt/visible && "
                   "mount --bind t/other t/bound",
                   f->at);
        (void) snprintf(address.sun_path, sizeof(address.sun_path), "%s/t/sock", f->at);
        assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
        fd_close(fd);
        {
                _cleanup_free_ char *t = loopfs_join(f->fs, "t");

                arc_lines_read(t, 0, &lines);
        }
        assert_int_equal(lines.n_problems, 4);
        assert_string_equal(lines.problems[0], "NotRestorable 18 /tree/bound");
        assert_string_equal(lines.problems[1], "NotRestorable 18 /tree/mnt");
        assert_string_equal(lines.problems[2], "None 95 /tree/sock");
        assert_string_equal(lines.problems[3], "SnapshotFailed 18 /tree/d/nested");
        assert_int_equal(lines.n, 8); /* root, d, o, other, sub; d/f, o/.holdpoint, sub/deep */
        assert_int_equal(arc_lines_find(&lines, ".holdpoint"), -1);
        assert_true(arc_lines_find(&lines, "o/.holdpoint") >= 0); /* a file is none of ours */
        loopfs_run("umount '%s/t/mnt' '%s/t/bound'", f->at, f->at);
}

/* Where a snapshot leaves out a nested subvolume, an empty directory stands. */
static void test_stub(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *snap = loopfs_join(f->fs, "snap");
        _cleanup_(arc_lines_done) ArcLines lines = { 0 };

        loopfs_run("cd '%s' && btrfs -q subvolume create live && btrfs -q subvolume create "
                   "live/nested "
                   "&& btrfs -q subvolume snapshot live snap",
                   f->at);
        arc_lines_read(snap, 0, &lines);
        assert_int_equal(lines.n, 1);
        assert_int_equal(lines.n_problems, 1);
        assert_string_equal(lines.problems[0], "SnapshotFailed 18 /tree/nested");
}

static void test_too_deep(void **state) {
        Fixture *f = *state;
        _cleanup_(arc_lines_done) ArcLines lines = { 0 };
        _cleanup_free_ char *t = loopfs_join(f->fs, "t");
        int fd;

        assert_int_equal(mkdir(t, 0700), 0);
        fd = open(t, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        for (int i = 0; i < 4200; i++) {
                int next;

                assert_int_equal(mkdirat(fd, "d", 0700), 0);
                next = openat(fd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                fd_close(fd);
                fd = next;
        }
        fd_close(fd);
        arc_lines_read(t, 0, &lines);
        assert_int_equal(lines.n_problems, 1);
        assert_true(strncmp(lines.problems[0], "NotRestorable 40 /tree/d/d/", 27) == 0);
        assert_int_equal(lines.n, 4096 + 1); /* the last one is there, what is in it is not */
}

typedef struct Chooser {
        Keys keys;
        const char *skip;
        unsigned asked, known_until, stop_after;
        size_t n_links;
        bool unrecorded;
} Chooser;

static bool choose_skip(void *userdata, const char *service, const char *dir, const char *name) {
        const Chooser *c = userdata;

        return c->skip && strcmp(name, c->skip) == 0;
}

static int choose_known(void *userdata,
                        const char *service,
                        const char *dir,
                        const char *name,
                        const EntryLocal *local,
                        Failure *reterr) {
        Chooser *c = userdata;

        assert_true(local->ino != 0);
        return c->asked++ < c->known_until;
}

static int
choose_entry(void *userdata, const Entry *e, const EntryLocal *local, int fd, Failure *reterr) {
        Chooser *c = userdata;

        c->n_links += e->type == ENTRY_HARDLINK;
        (void) keys_add(&c->keys, e, local, fd, reterr);
        return c->unrecorded && e->type == ENTRY_FILE;
}

static bool choose_interrupted(void *userdata) {
        const Chooser *c = userdata;

        return c->stop_after && c->keys.n >= c->stop_after;
}

static int choose(Chooser *c, const char *path, const char *glob, Failure *reterr) {
        _cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);
        _cleanup_(globs_freep) Globs *rules = NULL;
        ArcRoot root = { .service = "s", .path = "/tree", .fd = fd };
        ArcSink sink = {
                .known = choose_known,
                .entry = choose_entry,
                .problem = no_problem,
                .skip = choose_skip,
                .interrupted = choose_interrupted,
                .userdata = c,
        };

        if (glob) {
                assert_int_equal(globs_new(&glob, 1, &rules, reterr), 0);
                root.rules = rules;
        }
        return arc_walk(&root, 1, &sink, reterr);
}

static void test_choice(void **state) {
        Fixture *f = *state;
        Failure failure = FAILURE_INIT;
        Chooser c = { 0 };

        loopfs_run("cd '%s' && mkdir -p cache/deep keep/cache && touch a b cache/x cache/deep/y "
                   "keep/z "
                   "&& ln a keep/link",
                   f->at);
        c.skip = "keep";
        assert_int_equal(choose(&c, f->at, NULL, &failure), 0);
        assert_int_equal(c.keys.n, 7); /* root a b cache; deep x; y (lost+found is not on tmpfs) */
        keys_done(&c.keys);

        c = (Chooser){ 0 };
        assert_int_equal(choose(&c, f->at, "cache/**", &failure), 0);
        assert_int_equal(c.keys.n, 8); /* root a b cache keep; keep/cache keep/link keep/z */
        assert_int_equal(c.n_links, 1);
        assert_int_equal(c.asked, 7); /* never for a further name */
        keys_done(&c.keys);

        c = (Chooser){ .known_until = UINT32_MAX };
        assert_int_equal(choose(&c, f->at, NULL, &failure), 0);
        assert_int_equal(c.asked, 10); /* known directories are descended into */
        assert_int_equal(c.keys.n, 1); /* the link, which is told by its first name, known or not */
        keys_done(&c.keys);

        c = (Chooser){ .unrecorded = true };
        assert_int_equal(choose(&c, f->at, NULL, &failure), 0);
        assert_int_equal(c.n_links, 0); /* no link to what is not there */
        keys_done(&c.keys);

        c = (Chooser){ .stop_after = 3 };
        assert_int_equal(choose(&c, f->at, NULL, &failure), -ECANCELED);
        assert_int_equal(failure.code, FAIL_CANCELED);
        assert_int_equal(c.keys.n, 3);
        keys_done(&c.keys);
}

/* ---- size ---- */

static int
count_entry(void *userdata, const Entry *e, const EntryLocal *local, int fd, Failure *reterr) {
        ++*(size_t *) userdata;
        return 0;
}

static long peak_kib(void) {
        struct rusage usage;

        assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
        return usage.ru_maxrss;
}

static void test_many(void **state) {
        Fixture *f = *state;
        _cleanup_close_ int fd = open(f->at, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        size_t n = 0;
        ArcRoot root = { .service = "s", .path = "/tree", .fd = fd };
        ArcSink sink = { .entry = count_entry, .problem = no_problem, .userdata = &n };
        Failure failure = FAILURE_INIT;
        uint64_t start;
        char name[32];
        long before;

        for (unsigned i = 0; i < MANY; i++) {
                (void) snprintf(name, sizeof(name), "file-%08x", i * 2654435761U);
                assert_int_equal(mknodat(fd, name, S_IFREG | 0600, 0), 0);
        }
        before = peak_kib();
        start = clock_monotonic_usec();
        assert_int_equal(arc_walk(&root, 1, &sink, &failure), 0);
        start = clock_monotonic_usec() - start;
        assert_int_equal(n, MANY + 1);
        print_message("%d files: %llu ms, %ld KiB more\n", MANY, (unsigned long long) start / 1000,
                      peak_kib() - before);
        assert_true(start < 10000000);
        assert_true(peak_kib() - before < 16 << 10);
}

/* Many levels must not mean many descriptors. */
static void test_few_descriptors(void **state) {
        Fixture *f = *state;
        _cleanup_(arc_lines_done) ArcLines all = { 0 }, few = { 0 };
        struct rlimit old, low;
        int fd = open(f->at, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        for (int i = 0; i < 300; i++) {
                int next;

                assert_int_equal(mkdirat(fd, "m", 0700), 0);
                assert_int_equal(mkdirat(fd, "a", 0700), 0);
                assert_int_equal(mkdirat(fd, "z", 0700), 0);
                assert_int_equal(mkdirat(fd, "z/in", 0700), 0);
                next = openat(fd, "m", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                fd_close(fd);
                fd = next;
        }
        fd_close(fd);
        arc_lines_read(f->at, 0, &all);
        assert_int_equal(all.n, 1 + 300 * 4);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
        low = old;
        low.rlim_cur = 48;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
        arc_lines_read(f->at, 0, &few);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
        assert_int_equal(few.n_problems, 0);
        arc_lines_assert_equal(&all, &few);
}

/* ---- the owner against us ---- */

typedef struct Swapper {
        int fd;
        atomic_bool stop;
        unsigned swaps;
} Swapper;

/* On every level `d` is now the directory, now a link to the secret or a FIFO. */
static void *swap_for_ever(void *userdata) {
        Swapper *s = userdata;

        while (!atomic_load(&s->stop)) {
                (void) renameat2(s->fd, "d", s->fd, "link", RENAME_EXCHANGE);
                (void) renameat2(s->fd, "d/e", s->fd, "d/up", RENAME_EXCHANGE);
                (void) renameat2(s->fd, "f", s->fd, "fifo", RENAME_EXCHANGE);
                (void) renameat2(s->fd, "d", s->fd, "link", RENAME_EXCHANGE);
                s->swaps++;
        }
        return NULL;
}

typedef struct Hostile {
        ino_t outside[6];
        size_t files;
} Hostile;

static int
hostile_entry(void *userdata, const Entry *e, const EntryLocal *local, int fd, Failure *reterr) {
        Hostile *h = userdata;
        char data[16] = { 0 };

        assert_null(strstr(e->name, "secret"));
        for (size_t i = 0; i < ELEMENTSOF(h->outside); i++)
                if (local->ino == h->outside[i])
                        fail_msg("'%s/%s' is outside", e->dir, e->name);
        if (fd >= 0) {
                assert_true(fd_pread_full(fd, data, sizeof(data) - 1, 0) >= 0);
                assert_null(strstr(data, "secret"));
                h->files++;
        }
        return 0;
}

static int
hostile_problem(void *userdata, const char *service, const char *path, const Failure *why) {
        assert_true(why->code == FAIL_SOURCE_MISSING);
        return 0;
}

static void test_swapper(void **state) {
        Fixture *f = *state;
        Hostile h = { 0 };
        ArcSink sink = { .entry = hostile_entry, .problem = hostile_problem, .userdata = &h };
        uint64_t end = clock_monotonic_usec() + 2000000;
        Swapper s = { 0 };
        pthread_t thread;
        unsigned walks = 0;
        ArcRoot root = { .service = "s", .path = "/tree" };

        loopfs_run(
                "cd '%s' && mkdir -p out/e/e t/d/e/e && echo secret > out/secret && "
                "cp out/secret out/e/secret && cp out/secret out/e/e/secret && ln -s ../out t/link "
                "&& "
                "ln -s ../../out t/d/up && echo fine > t/d/e/e/file && echo fine > t/d/e/file && "
                "echo fine > t/f && mkfifo t/fifo",
                f->at);
        for (size_t i = 0; i < ELEMENTSOF(h.outside); i++) {
                static const char *const paths[] = {
                        "out", "out/e", "out/e/e", "out/secret", "out/e/secret", "out/e/e/secret"
                };
                _cleanup_free_ char *path = loopfs_join(f->fs, paths[i]);
                struct stat st;

                assert_int_equal(stat(path, &st), 0);
                h.outside[i] = st.st_ino;
        }
        {
                _cleanup_free_ char *t = loopfs_join(f->fs, "t");

                root.fd = s.fd = open(t, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        }
        assert_int_equal(pthread_create(&thread, NULL, swap_for_ever, &s), 0);
        while (clock_monotonic_usec() < end) {
                Failure failure = FAILURE_INIT;

                assert_int_equal(arc_walk(&root, 1, &sink, &failure), 0);
                walks++;
        }
        atomic_store(&s.stop, true);
        assert_int_equal(pthread_join(thread, NULL), 0);
        print_message("%u walks, %u swaps, %zu files read\n", walks, s.swaps, h.files);
        assert_true(walks > 100 && s.swaps > 100 && h.files > 100);
        fd_close(s.fd);
}

static void test_stat(void **state) {
        Fixture *f = *state;
        _cleanup_close_ int fd = open(f->at, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        Failure failure = FAILURE_INIT;
        ArcStat s = { 0 };

        loopfs_run("cd '%s' && echo four > f && chmod 4750 f && setfattr -n user.b -v 2 f && "
                   "setfattr -n user.a -v 1 f && ln -s there l && mkfifo p",
                   f->at);
        assert_int_equal(arc_stat(fd, "f", &s, &failure), 0);
        assert_int_equal(s.entry.type, ENTRY_FILE);
        assert_int_equal(s.entry.mode, 04750);
        assert_int_equal(s.entry.size, 5);
        assert_int_equal(s.entry.n_xattrs, 2);
        assert_string_equal(s.entry.xattrs[0].name, "user.a");
        assert_memory_equal(s.entry.xattrs[1].value, "2", 1);
        assert_int_equal(s.local.size, 5);
        assert_int_equal(s.local.mode, S_IFREG | 04750);
        arc_stat_done(&s);
        assert_int_equal(arc_stat(fd, "l", &s, &failure), 0);
        assert_string_equal(s.entry.target, "there");
        arc_stat_done(&s);
        assert_int_equal(arc_stat(fd, "p", &s, &failure), 0);
        assert_int_equal(s.entry.type, ENTRY_FIFO);
        arc_stat_done(&s);
        assert_int_equal(arc_stat(fd, "", &s, &failure), 0);
        assert_int_equal(s.entry.type, ENTRY_DIRECTORY);
        arc_stat_done(&s);
        assert_int_equal(arc_stat(fd, "none", &s, &failure), -ENOENT);
        assert_int_equal(failure.code, FAIL_SOURCE_MISSING);
        assert_null(s.store);
}

#define ON(fs, test) cmocka_unit_test_setup_teardown(test, set_up_##fs, tear_down)

int main(void) {
        const struct CMUnitTest tests[] = {
                ON(btrfs, test_many),     ON(tmpfs, test_many), /* first: they look at the peak of
                                                                   memory */
                ON(tmpfs, test_order),    ON(btrfs, test_order),  ON(tmpfs, test_bad_roots),
                ON(btrfs, test_problems), ON(btrfs, test_stub),   ON(tmpfs, test_too_deep),
                ON(tmpfs, test_choice),   ON(ext4, test_stat),    ON(tmpfs, test_few_descriptors),
                ON(btrfs, test_swapper),  ON(ext4, test_swapper),

        };

        if (!loopfs_possible())
                return 77;
        return cmocka_run_group_tests(tests, NULL, NULL);
}
