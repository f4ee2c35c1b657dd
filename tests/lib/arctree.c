/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "tests/lib/arctree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/text.h"
#include "tests/lib/loopfs.h"

#define ROOT       "/tree"
#define HASH_START 1469598103934665603ULL

uint64_t arc_hash(uint64_t seed, const void *data, size_t n) {
        const uint8_t *p = data;
        uint64_t h = seed ? seed : HASH_START;

        for (size_t i = 0; i < n; i++)
                h = (h ^ p[i]) * 1099511628211ULL;
        return h;
}

static void add(char ***lines, size_t *n, size_t *allocated, char *line) {
        assert_non_null(line);
        if (*n == *allocated) {
                *allocated = *allocated ? *allocated * 2 : 64;
                *lines = reallocarray(*lines, *allocated, sizeof(**lines));
                assert_non_null(*lines);
        }
        (*lines)[(*n)++] = line;
}

void arc_lines_done(ArcLines *l) {
        for (size_t i = 0; i < l->n; i++)
                free(l->lines[i]);
        for (size_t i = 0; i < l->n_problems; i++)
                free(l->problems[i]);
        free(l->lines);
        free(l->problems);
        *l = (ArcLines){ 0 };
}

int arc_lines_find(const ArcLines *l, const char *relative) {
        size_t n = strlen(relative);

        for (size_t i = 0; i < l->n; i++)
                if (strncmp(l->lines[i], ROOT "/", sizeof(ROOT)) == 0 &&
                    strncmp(l->lines[i] + sizeof(ROOT), relative, n) == 0 &&
                    l->lines[i][sizeof(ROOT) + n] == '\t')
                        return (int) i;
        return -1;
}

/* Sparse terabytes: only the data counts, with its place. */
static uint64_t hash_content(int fd, uint64_t size) {
        uint64_t h = arc_hash(0, &size, sizeof(size));
        static const uint8_t zeros[4096];
        off_t data = 0;

        while ((data = lseek(fd, data, SEEK_DATA)) >= 0) {
                off_t hole = lseek(fd, data, SEEK_HOLE);
                uint8_t block[4096];

                for (; data < hole; data += (off_t) sizeof(block)) {
                        ssize_t n = fd_pread_full(fd, block, sizeof(block), (uint64_t) data);

                        assert_true(n >= 0);
                        if (n > 0 && memcmp(block, zeros, (size_t) n) != 0) {
                                h = arc_hash(h, &data, sizeof(data));
                                h = arc_hash(h, block, (size_t) n);
                        }
                }
                data = hole;
        }
        return h;
}

typedef struct Lister {
        ArcLines *lines;
        uint32_t flags_mask;
} Lister;

static int
on_entry(void *userdata, const Entry *e, const EntryLocal *local, int fd, Failure *reterr) {
        Lister *l = userdata;
        uint64_t xattrs = 0;
        char *line = NULL;

        assert_string_equal(e->service, "s");
        assert_int_equal(fd >= 0, e->type == ENTRY_FILE && e->size > 0);
        for (size_t i = 0; i < e->n_xattrs; i++) {
                assert_true(i == 0 || strcmp(e->xattrs[i - 1].name, e->xattrs[i].name) < 0);
                xattrs = arc_hash(xattrs, e->xattrs[i].name, strlen(e->xattrs[i].name) + 1);
                xattrs = arc_hash(xattrs, e->xattrs[i].value, e->xattrs[i].size);
        }
        assert_true(asprintf(&line,
                             "%s%s%s\t%c %04o %u:%u %lld.%09u f%x s%llu d%u:%u x%zu:%016llx h%d "
                             "%016llx -> %s",
                             e->dir, strcmp(e->dir, "/") == 0 ? "" : "/", e->name, e->type, e->mode,
                             e->uid, e->gid, (long long) e->mtime_sec, e->mtime_nsec,
                             e->flags & l->flags_mask, (unsigned long long) e->size, e->major,
                             e->minor, e->n_xattrs, (unsigned long long) xattrs, e->sparse,
                             fd >= 0 ? (unsigned long long) hash_content(fd, e->size) : 0,
                             e->target ? e->target : "") > 0);
        add(&l->lines->lines, &l->lines->n, &l->lines->allocated, line);
        return 0;
}

static int on_problem(void *userdata, const char *service, const char *path, const Failure *why) {
        Lister *l = userdata;
        ArcLines *to = l->lines;

        assert_true(strlen(why->text) > 0);
        add(&to->problems, &to->n_problems, &to->problems_allocated,
            text_printf("%s %d %s", fail_name(why->code), why->errnum, path));
        return 0;
}

void arc_lines_read(const char *path, uint32_t flags_mask, ArcLines *ret) {
        _cleanup_close_ int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        Lister lister = { .lines = ret, .flags_mask = flags_mask };
        ArcRoot root = { .service = "s", .path = ROOT, .fd = fd };
        ArcSink sink = { .entry = on_entry, .problem = on_problem, .userdata = &lister };
        Failure failure = FAILURE_INIT;

        assert_true(fd >= 0);
        *ret = (ArcLines){ 0 };
        if (arc_walk(&root, 1, &sink, &failure) < 0)
                fail_msg("walk: %s", failure.text);
}

void arc_lines_assert_equal(const ArcLines *a, const ArcLines *b) {
        for (size_t i = 0; i < a->n && i < b->n; i++)
                assert_string_equal(a->lines[i], b->lines[i]);
        assert_int_equal(a->n, b->n);
}

typedef struct Cloner {
        ArcExtract *extract;
        int fd;
} Cloner;

static int clone_content(void *userdata, const Entry *entry, int fd, Failure *reterr) {
        Cloner *c = userdata;
        struct stat st;

        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        return arc_copy_content(c->fd, fd, NULL);
}

static int
clone_entry(void *userdata, const Entry *e, const EntryLocal *local, int fd, Failure *reterr) {
        _cleanup_free_ char *path = NULL;
        const char *link = NULL, *rel;
        Cloner *c = userdata;

        path = text_printf("%s%s%s", e->dir, strcmp(e->dir, "/") == 0 ? "" : "/", e->name);
        rel = path + strlen(ROOT);
        if (e->type == ENTRY_HARDLINK)
                link = e->target + sizeof(ROOT);
        c->fd = fd;
        return arc_extract_put(c->extract, *rel ? rel + 1 : "", e, link, false, reterr);
}

static int
clone_problem(void *userdata, const char *service, const char *path, const Failure *why) {
        return why->code == FAIL_NONE ? 0 : -why->errnum;
}

int arc_tree_clone(const char *src, const char *dst, Failure *reterr) {
        _cleanup_close_ int fd = open(src, O_PATH | O_NOFOLLOW | O_CLOEXEC), parent = -1;
        _cleanup_free_ char *dir = strdup(dst);
        char *slash = strrchr(dir, '/');
        Cloner c = { 0 };
        ArcRoot root = { .service = "s", .path = ROOT, .fd = fd };
        ArcSink sink = { .entry = clone_entry, .problem = clone_problem, .userdata = &c };
        ArcExtractParams params = { .content = clone_content, .userdata = &c };
        int r;

        *slash = 0;
        parent = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(fd >= 0 && parent >= 0);
        params.parent_fd = parent;
        params.name = slash + 1;
        r = arc_extract_new(&params, &c.extract, reterr);
        if (r >= 0)
                r = arc_walk(&root, 1, &sink, reterr);
        if (r >= 0)
                r = arc_extract_finish(c.extract, reterr);
        arc_extract_free(c.extract);
        return r;
}

void arc_tree_assert_rsync(const char *src, const char *dst) {
        loopfs_run("test -z \"$(rsync -aHAXn --delete --checksum -i '%s/' '%s/' | tee "
                   "/dev/stderr)\"",
                   src, dst);
}

/* ---- a tree with one of everything ---- */

static int make_file(int dirfd, const char *name, const void *data, size_t n, mode_t mode) {
        int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

        if (fd < 0)
                fail_msg("'%s': %s", name, strerror(errno));
        assert_int_equal(fd_write_full(fd, data, n), 0);
        assert_int_equal(fchmod(fd, mode), 0);
        return fd;
}

static void set_mtime(int dirfd, const char *name, int64_t sec, long nsec) {
        struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { sec, nsec } };

        assert_int_equal(utimensat(dirfd, name, times, AT_SYMLINK_NOFOLLOW), 0);
}

static void fill_names(int dirfd) {
        char name[ENTRY_NAME_MAX + 1] = { 0 };

        memset(name, 'n', ENTRY_NAME_MAX);
        fd_close(make_file(dirfd, name, "255", 3, 0644));
        for (size_t i = 0; i < ENTRY_NAME_MAX; i++) {
                name[i] = (char) (i % 255 + 1);
                if (name[i] == '/')
                        name[i] = 'x';
        }
        fd_close(make_file(dirfd, name, "all bytes", 9, 0644));
        fd_close(make_file(dirfd, "new\nline", "", 0, 0644));
        fd_close(make_file(dirfd, "\xff\xfe not UTF-8", "x", 1, 0644));
        fd_close(make_file(dirfd, "back\\slash", "x", 1, 0644));
        fd_close(make_file(dirfd, " ", "x", 1, 0644));
        assert_int_equal(mkdirat(dirfd, "dir\twith\xc3\xa9", 0755), 0);
}

static void fill_modes(int dirfd) {
        static const mode_t modes[] = { 0, 0400, 04755, 02755, 06711, 01644, 07777 };
        char name[32];

        for (size_t i = 0; i < ELEMENTSOF(modes); i++) {
                (void) snprintf(name, sizeof(name), "file-%04o", modes[i]);
                fd_close(make_file(dirfd, name, "mode", 4, 0600));
                assert_int_equal(fchownat(dirfd, name, 1000, 1001, 0), 0);
                assert_int_equal(fchmodat(dirfd, name, modes[i], 0), 0);
                (void) snprintf(name, sizeof(name), "dir-%04o", modes[i]);
                assert_int_equal(mkdirat(dirfd, name, 0700), 0);
                assert_int_equal(fchownat(dirfd, name, 4000000000U, 12, 0), 0);
                assert_int_equal(fchmodat(dirfd, name, modes[i], 0), 0);
        }
}

static void fill_times(int dirfd) {
        static const int64_t times[] = { -1, -1000000000, 0, 1, 4102444800 };
        char name[32];

        for (size_t i = 0; i < ELEMENTSOF(times); i++) {
                (void) snprintf(name, sizeof(name), "t%lld", (long long) times[i]);
                fd_close(make_file(dirfd, name, "time", 4, 0644));
                set_mtime(dirfd, name, times[i], 999999999);
                (void) snprintf(name, sizeof(name), "d%lld", (long long) times[i]);
                assert_int_equal(mkdirat(dirfd, name, 0755), 0);
                fd_close(make_file(dirfd, "child", "", 0, 0644));
                (void) renameat(dirfd, "child", dirfd, "grown");
                set_mtime(dirfd, name, times[i], 1);
        }
        assert_int_equal(symlinkat("nowhere at all", dirfd, "link"), 0);
        set_mtime(dirfd, "link", -5, 123456789);
}

static void fill_special(int dirfd) {
        char target[4096] = { 0 };

        memset(target, 'l', 1000); /* as much as ext4 takes with small blocks */
        assert_int_equal(symlinkat(target, dirfd, "long"), 0);
        assert_int_equal(symlinkat("../\xff\n", dirfd, "odd"), 0);
        assert_int_equal(fchownat(dirfd, "odd", 7, 8, AT_SYMLINK_NOFOLLOW), 0);
        assert_int_equal(mkfifoat(dirfd, "fifo", 0600), 0);
        assert_int_equal(fchmodat(dirfd, "fifo", 0622, 0), 0);
        assert_int_equal(mknodat(dirfd, "null", S_IFCHR | 0666, makedev(1, 3)), 0);
        assert_int_equal(mknodat(dirfd, "block", S_IFBLK | 0640, makedev(259, 70000)), 0);
        assert_int_equal(fchownat(dirfd, "block", 0, 6, 0), 0);
}

static void fill_holes(int dirfd) {
        uint8_t data[70000];
        int fd;

        for (size_t i = 0; i < sizeof(data); i++)
                data[i] = (uint8_t) (i * 2654435761U >> 13);
        fd_close(make_file(dirfd, "plain", data, sizeof(data), 0644));
        fd = make_file(dirfd, "hole-in-front", "", 0, 0644);
        assert_int_equal(fd_pwrite_full(fd, data, sizeof(data), 1 << 20), 0);
        fd_close(fd);
        fd = make_file(dirfd, "hole-behind", data, sizeof(data), 0644);
        assert_int_equal(ftruncate(fd, 10 << 20), 0);
        fd_close(fd);
        fd = make_file(dirfd, "all-hole", "", 0, 0644);
        assert_int_equal(ftruncate(fd, (off_t) 32 << 20), 0);
        fd_close(fd);
}

static int sub(int dirfd, const char *name) {
        int fd;

        assert_int_equal(mkdirat(dirfd, name, 0755), 0);
        fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(fd >= 0);
        return fd;
}

static void fill_with_tools(const char *at, bool btrfs) {
        loopfs_run("cd '%s' && mkdir links links/a links/z attrs flags && "
                   "echo one > links/first && ln links/first links/a/second && "
                   "ln links/first links/z/third && echo two > links/z/inner && "
                   "ln links/z/inner links/a/outer && chown 3:4 links/first",
                   at);
        loopfs_run("cd '%s/attrs' && touch f l && mkdir d i && ln -s f s && "
                   "setfattr -n user.one -v 1 f && setfattr -n user.bin -v 0s/wAB f && "
                   "setfattr -n user.empty f && setfattr -n trusted.t -v x d && "
                   "setfattr -h -n trusted.onlink -v y s && "
                   "head -c 600 /dev/zero | tr '\\0' v > v && "
                   "setfattr -n user.large -v \"$(cat v)\" l && "
                   "setfacl -m u:1234:rwx,g:55:r-x,m::r-x f && "
                   "setfacl -m u:9:rx -m d:u:1:rwx,d:g:2:r,d:m::rwx d && "
                   "touch d/heir && mkdir d/sub && touch d/stripped && setfacl -b d/stripped && "
                   "mkfifo d/fifo && setfacl -b d/fifo && "
                   "cp /bin/true cap && chown 1:1 cap && setcap cap_net_raw,cap_chown+ep cap",
                   at);
        loopfs_run(
                "cd '%s/flags' && mkdir imm app && echo x > imm/child && mkdir imm/below && "
                "echo x > imm/below/f && echo i > ifile && ln ifile ilink && echo a > afile && "
                "echo n > nodump && touch -d @12345 imm/below app && "
                "chattr +d nodump && chattr +A app && chattr +i ifile imm && chattr +a afile app",
                at);
        if (btrfs)
                loopfs_run(
                        "cd '%s/flags' && mkdir nocow compr && touch nocow/plain && "
                        "chattr +C nocow && touch nocow/heir && head -c 20000 /dev/zero > "
                        "nocow/heir && "
                        "chattr +c compr && touch compr/heir compr/not && chattr -c compr/not && "
                        "btrfs property set compr compression zstd && touch compr/zstd && "
                        "ln -s x compr/link && mkfifo compr/fifo",
                        at);
}

void arc_tree_fill(const char *at, bool btrfs) {
        static const struct {
                const char *name;
                void (*fill)(int dirfd);
        } parts[] = {
                { "names", fill_names },     { "modes", fill_modes }, { "times", fill_times },
                { "special", fill_special }, { "holes", fill_holes },
        };
        _cleanup_close_ int fd = open(at, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        assert_true(fd >= 0);
        fd_close(sub(fd, "empty"));
        for (size_t i = 0; i < ELEMENTSOF(parts); i++) {
                _cleanup_close_ int part = sub(fd, parts[i].name);

                parts[i].fill(part);
        }
        fill_with_tools(at, btrfs);
        for (size_t i = 0; i < ELEMENTSOF(parts); i++)
                set_mtime(fd, parts[i].name, 1000 + (int64_t) i, 5);
        set_mtime(fd, "links", -77, 7);
        assert_int_equal(fchown(fd, 31, 32), 0);
        assert_int_equal(fchmod(fd, 01750), 0);
        set_mtime(fd, ".", 1700000000, 42);
}

void arc_tree_unlock(const char *at) {
        loopfs_run("chattr -R -f -i -a '%s' || true", at);
}
