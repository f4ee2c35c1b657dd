/*
 * The index as a database: look-ups, what replaces what, and that a useless file is made anew.
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/fs.h"
#include "base/text.h"
#include "tests/lib/repofix.h"
/* clang-format off */
#include "repo/repo-internal.h"
/* clang-format on */

static const uint8_t repository[UUID_SIZE] = { 9, 9, 9 };

typedef struct Fix {
        char top[64];
        int fd;
        Index *x;
} Fix;

static int setup(void **state) {
        static Fix f;

        f = (Fix){ .top = "/tmp/holdpoint-index-XXXXXX" };
        assert_non_null(mkdtemp(f.top));
        f.fd = open(f.top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_return_code(f.fd, errno);
        assert_int_equal(index_open(f.fd, repository, &f.x, NULL), 0);
        *state = &f;
        return 0;
}

static int teardown(void **state) {
        Fix *f = *state;

        index_close(f->x);
        (void) close(f->fd);
        assert_int_equal(fs_remove_tree(AT_FDCWD, f->top, NULL, NULL), 0);
        return 0;
}

static void reopen(Fix *f) {
        index_close(TAKE_PTR(f->x));
        assert_int_equal(index_open(f->fd, repository, &f->x, NULL), 0);
}

static void make_id(uint64_t n, uint8_t ret[ID_SIZE]) {
        for (int i = 0; i < ID_SIZE / 8; i++)
                put_le64(ret + 8 * i, (n + 1) * 0x9e3779b97f4a7c15u + (uint64_t) i);
}

static uint64_t add_pack(Index *x, uint8_t name, uint8_t session) {
        IndexPack p = {
                .kind = PACK_CONTENT, .size = 1000, .uuid = { name }, .session = { session }
        };
        uint64_t no = 0;

        assert_int_equal(index_pack_add(x, &p, &no, NULL), 0);
        return no;
}

static void add(Index *x, uint64_t n, uint64_t pack, uint32_t ordinal) {
        IndexPlace p = {
                .pack_no = pack,
                .ordinal = ordinal,
                .offset = UINT64_C(5) << 32,
                .stored = 117,
                .plain = 100,
                .class = CLASS_LARGE,
        };
        uint8_t id[ID_SIZE];

        make_id(n, id);
        assert_int_equal(index_add(x, id, &p, NULL), 0);
}

static int find(Index *x, uint64_t n, IndexPlace *ret) {
        uint8_t id[ID_SIZE];

        make_id(n, id);
        return index_find(x, id, ret, NULL);
}

static void test_find(void **state) {
        Fix *f = *state;
        uint64_t pack = add_pack(f->x, 1, 1), bytes;
        IndexPlace p;
        IndexPack row;

        assert_int_equal(find(f->x, 1, &p), 0);
        add(f->x, 1, pack, 7);
        assert_int_equal(find(f->x, 1, &p), 1); /* before the commit, too */
        assert_int_equal(index_commit(f->x, NULL), 0);
        reopen(f);
        assert_int_equal(find(f->x, 1, &p), 1);
        assert_int_equal(p.pack_no, pack);
        assert_int_equal(p.ordinal, 7);
        assert_int_equal(p.offset, UINT64_C(5) << 32);
        assert_int_equal(p.stored, 117);
        assert_int_equal(p.plain, 100);
        assert_int_equal(p.class, CLASS_LARGE);
        assert_false(p.member);
        assert_int_equal(index_pack_get(f->x, pack, &row, NULL), 1);
        assert_int_equal(row.uuid[0], 1);
        assert_false(row.durable);
        assert_int_equal(index_pack_get(f->x, pack + 1, &row, NULL), 0);
        assert_int_equal(index_stored_bytes(f->x, &bytes, NULL), 0);
        assert_int_equal(bytes, 1000);
}

static void test_first_place_stays(void **state) {
        Fix *f = *state;
        uint64_t a = add_pack(f->x, 1, 1), b = add_pack(f->x, 2, 2);
        IndexPlace p;

        add(f->x, 1, a, 0);
        add(f->x, 1, b, 0);
        assert_int_equal(find(f->x, 1, &p), 1);
        assert_int_equal(p.pack_no, a);
}

static void test_rollback(void **state) {
        Fix *f = *state;
        uint64_t pack = add_pack(f->x, 1, 1);
        IndexPlace p;

        add(f->x, 1, pack, 0);
        index_rollback(f->x);
        assert_int_equal(find(f->x, 1, &p), 0);
        assert_int_equal(index_commit(f->x, NULL), 0);
}

static void test_session_remove(void **state) {
        Fix *f = *state;
        uint64_t a = add_pack(f->x, 1, 1), b = add_pack(f->x, 2, 2);
        uint8_t session[UUID_SIZE] = { 2 };
        IndexPlace p;

        add(f->x, 1, a, 0);
        add(f->x, 2, b, 0);
        assert_int_equal(index_session_remove(f->x, session, NULL), 0);
        assert_int_equal(find(f->x, 1, &p), 1);
        assert_int_equal(find(f->x, 2, &p), 0);
}

static void test_bundle(void **state) {
        Fix *f = *state;
        uint64_t pack = add_pack(f->x, 1, 1);
        uint8_t members[2 * (ID_SIZE + 8)], id[ID_SIZE] = { 77 }, uuid[UUID_SIZE] = { 1 },
                                            session[UUID_SIZE] = { 3 };
        PackEntry e = {
                .class = CLASS_BUNDLE,
                .plain = 30,
                .stored = 47,
                .offset = 64,
                .id = id,
                .members = members,
                .n_members = 2,
        };
        IndexExtra extra;
        IndexPlace p;

        make_id(1, members);
        put_le32(members + 32, 0);
        put_le32(members + 36, 10);
        make_id(2, members + 40);
        put_le32(members + 72, 10);
        put_le32(members + 76, 20);
        assert_int_equal(index_add_entry(f->x, pack, uuid, session, &e, NULL), 0);
        assert_int_equal(find(f->x, 2, &p), 1);
        assert_true(p.member && p.extra);
        assert_int_equal(p.class, CLASS_SMALL);
        assert_int_equal(p.member_offset, 10);
        assert_int_equal(p.member_size, 20);
        assert_int_equal(index_extra_get(f->x, pack, 0, &extra, NULL), 1);
        assert_memory_equal(extra.id, id, ID_SIZE);
        assert_int_equal(extra.class, CLASS_BUNDLE);
        assert_memory_equal(extra.session, session, UUID_SIZE);
        assert_int_equal(index_extra_get(f->x, pack, 1, &extra, NULL), 0);
}

static void test_trust(void **state) {
        Fix *f = *state;
        const uint8_t backup[UUID_SIZE] = { 5 };

        assert_int_equal(index_is_trusted(f->x, backup, NULL), 0);
        assert_int_equal(index_trust(f->x, backup, NULL), 0);
        reopen(f);
        assert_int_equal(index_is_trusted(f->x, backup, NULL), 1);
        assert_int_equal(index_clear(f->x, NULL), 0);
        assert_int_equal(index_commit(f->x, NULL), 0);
        assert_int_equal(index_is_trusted(f->x, backup, NULL), 0);
}

static void test_foreign(void **state) {
        Fix *f = *state;
        const uint8_t other[UUID_SIZE] = { 1 };
        IndexPlace p;

        add(f->x, 1, add_pack(f->x, 1, 1), 0);
        assert_int_equal(index_commit(f->x, NULL), 0);
        index_close(TAKE_PTR(f->x));
        assert_int_equal(index_open(f->fd, other, &f->x, NULL), 0);
        assert_int_equal(find(f->x, 1, &p), 0);
}

static void test_garbage(void **state) {
        Fix *f = *state;
        static const char *const contents[] = { "", "x", "SQLite format 3", NULL };
        IndexPlace p;

        for (size_t i = 0; contents[i]; i++) {
                _cleanup_close_ int fd = -1;
                uint8_t noise[4096];

                index_close(TAKE_PTR(f->x));
                fd = openat(f->fd, "index.db", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
                assert_return_code(fd, errno);
                assert_int_equal(crypto_random(noise, sizeof(noise)), 0);
                assert_int_equal(fd_write_full(fd, contents[i], strlen(contents[i])), 0);
                if (i > 0)
                        assert_int_equal(fd_write_full(fd, noise, sizeof(noise)), 0);
                assert_int_equal(index_open(f->fd, repository, &f->x, NULL), 0);
                assert_int_equal(find(f->x, 1, &p), 0);
        }
}

static void fill(Fix *f, uint64_t n) {
        uint64_t pack = add_pack(f->x, 1, 1);

        for (uint64_t i = 0; i < n; i++)
                add(f->x, i, pack, (uint32_t) i);
        assert_int_equal(index_commit(f->x, NULL), 0);
}

static void damage_pages(Fix *f) {
        _cleanup_close_ int fd = openat(f->fd, "index.db", O_RDWR | O_CLOEXEC);
        uint8_t noise[4096];
        struct stat st;

        assert_return_code(fstat(fd, &st), errno);
        memset(noise, 0xee, sizeof(noise));
        for (off_t at = 8 * 4096; at < st.st_size; at += 4096)
                assert_int_equal(fd_pwrite_full(fd, noise, sizeof(noise), (uint64_t) at), 0);
}

/* Damage that comes later: a look-up fails, and the next open starts anew instead of failing again.
 */
static void test_damaged_page(void **state) {
        Fix *f = *state;
        IndexPlace p;
        bool failed = false;

        fill(f, 5000);
        reopen(f); /* checkpoints */
        assert_null(index_note(f->x));
        damage_pages(f);
        for (uint64_t i = 0; i < 5000 && !failed; i++) {
                int r = find(f->x, i, &p);

                assert_true(r == -EUCLEAN || r == 1);
                failed = r < 0;
        }
        assert_true(failed);
        reopen(f);
        for (uint64_t i = 0; i < 5000; i++)
                assert_int_equal(find(f->x, i, &p), 0);
}

/* What another hand has changed is not used. */
static void test_damaged_before(void **state) {
        Fix *f = *state;
        IndexPlace p;

        fill(f, 5000);
        index_close(TAKE_PTR(f->x));
        damage_pages(f);
        assert_int_equal(index_open(f->fd, repository, &f->x, NULL), 0);
        assert_non_null(index_note(f->x));
        assert_int_equal(find(f->x, 1, &p), 0);
        fill(f, 10);
        reopen(f);
        assert_null(index_note(f->x));
        assert_int_equal(find(f->x, 1, &p), 1);
}

static void save(Fix *f, const char *name, Buf *ret) {
        *ret = BUF_INIT((size_t) 64 << 20);
        assert_int_equal(fs_read_file(f->fd, name, (size_t) 64 << 20, ret), 0);
}

static void put_back(Fix *f, const char *name, const Buf *b) {
        _cleanup_close_ int fd =
                openat(f->fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_return_code(fd, errno);
        assert_int_equal(fd_write_full(fd, b->data, b->size), 0);
}

/* Either file may be of another day than the other, and each be sound by itself. */
static void test_files_of_two_days(void **state) {
        Fix *f = *state;
        _cleanup_(buf_done) Buf older = BUF_INIT(0), log = BUF_INIT(0);
        IndexPlace p;

        fill(f, 10);
        index_close(TAKE_PTR(f->x));
        save(f, "index.db", &older);
        assert_int_equal(index_open(f->fd, repository, &f->x, NULL), 0);
        add(f->x, 100, add_pack(f->x, 2, 1), 0);
        assert_int_equal(index_commit(f->x, NULL), 0);
        save(f, "index.db-wal", &log); /* as a kill leaves it */
        index_close(TAKE_PTR(f->x));

        /* The log of yesterday beside an index that was closed; an older index with it, and alone.
         */
        for (int i = 0; i < 3; i++) {
                if (i > 0)
                        put_back(f, "index.db", &older);
                if (i < 2)
                        put_back(f, "index.db-wal", &log);
                assert_int_equal(index_open(f->fd, repository, &f->x, NULL), 0);
                assert_non_null(index_note(f->x));
                assert_int_equal(find(f->x, 1, &p), 0);
                reopen(f);
                assert_null(index_note(f->x));
                index_close(TAKE_PTR(f->x));
        }
        assert_int_equal(index_open(f->fd, repository, &f->x, NULL), 0);
}

/* A kill leaves a log: what was committed is there, and what was not is not. */
static void test_left_by_a_kill(void **state) {
        Fix *f = *state;
        IndexPlace p;
        pid_t child;
        int status;

        index_close(TAKE_PTR(f->x));
        child = fork();
        if (child == 0) {
                Index *x = NULL;

                if (index_open(f->fd, repository, &x, NULL) == 0) {
                        add(x, 1, add_pack(x, 1, 1), 0);
                        (void) index_commit(x, NULL);
                        for (uint64_t i = 0; i < 100000; i++) /* more than the cache takes */
                                add(x, 1000 + i, 1, 0);
                }
                (void) kill(getpid(), SIGKILL);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(faccessat(f->fd, "index.db-wal", F_OK, 0), 0);
        assert_int_equal(index_open(f->fd, repository, &f->x, NULL), 0);
        assert_null(index_note(f->x));
        assert_int_equal(find(f->x, 1, &p), 1);
        assert_int_equal(find(f->x, 1000, &p), 0);
}

/* A second one in the same files does not judge them, nor does the first to leave. */
static void test_two_at_once(void **state) {
        Fix *f = *state;
        Index *other;
        IndexPlace p;

        fill(f, 10);
        assert_int_equal(index_open(f->fd, repository, &other, NULL), 0);
        assert_null(index_note(other));
        index_close(TAKE_PTR(f->x));
        assert_int_equal(index_open(f->fd, repository, &f->x, NULL), 0);
        assert_null(index_note(f->x));
        index_close(other);
        add(f->x, 100, add_pack(f->x, 2, 1), 0);
        assert_int_equal(index_commit(f->x, NULL), 0);
        reopen(f);
        assert_null(index_note(f->x));
        assert_int_equal(find(f->x, 100, &p), 1);
}

/* One in memory: as any other, and nothing of it is seen or left. */
static void test_scratch(void **state) {
        Fix *f = *state;
        IndexPlace p;
        Index *x;

        fill(f, 10);
        assert_int_equal(index_open_scratch(repository, &x, NULL), 0);
        assert_non_null(index_note(x));
        assert_int_equal(find(x, 1, &p), 0);
        add(x, 100, add_pack(x, 2, 1), 0);
        assert_int_equal(index_commit(x, NULL), 0);
        assert_int_equal(find(x, 100, &p), 1);
        index_discard(x);
        index_close(x);
        reopen(f);
        assert_null(index_note(f->x));
        assert_int_equal(find(f->x, 1, &p), 1);
        assert_int_equal(find(f->x, 100, &p), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_find, setup, teardown),
                cmocka_unit_test_setup_teardown(test_first_place_stays, setup, teardown),
                cmocka_unit_test_setup_teardown(test_rollback, setup, teardown),
                cmocka_unit_test_setup_teardown(test_session_remove, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bundle, setup, teardown),
                cmocka_unit_test_setup_teardown(test_trust, setup, teardown),
                cmocka_unit_test_setup_teardown(test_foreign, setup, teardown),
                cmocka_unit_test_setup_teardown(test_garbage, setup, teardown),
                cmocka_unit_test_setup_teardown(test_damaged_page, setup, teardown),
                cmocka_unit_test_setup_teardown(test_damaged_before, setup, teardown),
                cmocka_unit_test_setup_teardown(test_files_of_two_days, setup, teardown),
                cmocka_unit_test_setup_teardown(test_two_at_once, setup, teardown),
                cmocka_unit_test_setup_teardown(test_scratch, setup, teardown),
                cmocka_unit_test_setup_teardown(test_left_by_a_kill, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
