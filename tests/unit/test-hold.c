/*
 * The hold against real writers and hostile directories. Runs as root, with owners 65534 and 65533.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/proc.h"
#include "base/text.h"
#include "snapshot/hold.h"
#include "tests/lib/dbfix.h"

#define WAL    "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1)"
#define DELETE "CREATE TABLE t(x); INSERT INTO t VALUES(1)"

typedef struct Fixture {
        char *base, *dir;
        int dirfd;
} Fixture;

static int set_up(void **state) {
        Fixture *f = calloc(1, sizeof(*f));

        f->base = dbfix_new();
        f->dir = dbfix_dir(f->base, "data", DBFIX_UID, &f->dirfd);
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        Fixture *f = *state;

        close(f->dirfd);
        free(f->dir);
        dbfix_remove(f->base);
        free(f);
        return 0;
}

static HoldDatabase database(const Fixture *f, const char *name) {
        return (HoldDatabase){
                .path = name,
                .dirfd = f->dirfd,
                .name = name,
                .uid = DBFIX_UID,
                .gid = DBFIX_UID,
        };
}

static Hold *prepare(HoldDatabase *dbs, size_t n, uint64_t lock_msec, uint64_t hold_msec) {
        HoldParams params = {
                .libexec_dir = proc_libexec_dir(),
                .databases = dbs,
                .n = n,
                .lock_timeout_usec = lock_msec * USEC_PER_MSEC,
                .max_hold_usec = hold_msec * USEC_PER_MSEC,
        };
        Failure failure = FAILURE_INIT;
        Hold *h = NULL;
        int r = hold_prepare(&params, &h, &failure);

        if (r < 0)
                fail_msg("%s", failure.text);
        return h;
}

static void lock_all(Hold *h, const HoldDatabase *dbs, size_t n) {
        Failure failure = FAILURE_INIT;
        int r = hold_lock(h, &failure);

        if (r != 0)
                fail_msg("%d: %s", r, failure.text);
        for (size_t i = 0; i < n; i++)
                assert_true(dbs[i].held);
}

/* Nobody commits for 50 ms, once those that ended before the lock had time to be counted. */
static void assert_still(const DbfixWriter *w, size_t n) {
        uint64_t before[16];

        usleep(60000);
        for (size_t i = 0; i < n; i++)
                before[i] = w[i].stats->commits;
        usleep(50000);
        for (size_t i = 0; i < n; i++)
                assert_int_equal(w[i].stats->commits, before[i]);
}

static bool any_advances(const DbfixWriter *w, size_t n) {
        uint64_t end = clock_monotonic_usec() + 5 * USEC_PER_SEC, before[16];

        for (size_t i = 0; i < n; i++)
                before[i] = w[i].stats->commits;
        while (clock_monotonic_usec() < end)
                for (size_t i = 0; i < n; i++)
                        if (w[i].stats->commits > before[i])
                                return true;
        return false;
}

static void hold_busy(Fixture *f, const char *schema, size_t n_dbs, size_t n_writers) {
        static const char *const names[] = { "a.db", "b.db", "c.db", "d.db" };
        HoldDatabase dbs[4];
        DbfixWriter w[16];
        uint64_t pause;
        Hold *h;

        for (size_t i = 0; i < n_dbs; i++) {
                dbfix_exec(DBFIX_UID, f->dir, names[i], schema);
                dbs[i] = database(f, names[i]);
        }
        for (size_t i = 0; i < n_dbs * n_writers; i++)
                w[i] = dbfix_writer(DBFIX_UID, f->dir, names[i / n_writers], false);
        for (int round = 0; round < 5; round++) {
                h = prepare(dbs, n_dbs, 2000, 3000);
                lock_all(h, dbs, n_dbs);
                assert_still(w, n_dbs * n_writers);
                assert_int_equal(hold_release(h, &pause, NULL), 0);
                for (size_t i = 0; i < n_dbs; i++) {
                        assert_true(dbs[i].held);
                        assert_in_range(dbs[i].pause_usec, 50000, 3000000);
                        assert_in_range(pause, dbs[i].pause_usec, 3000000);
                        assert_int_equal(dbs[i].wal, strstr(schema, "WAL") != NULL);
                }
                for (size_t i = 0; i < n_dbs;
                     i++) /* SQLite is not fair among writers: any will do */
                        assert_true(any_advances(&w[i * n_writers], n_writers));
                hold_free(h);
        }
        for (size_t i = 0; i < n_dbs * n_writers; i++) /* all at once: none starves the last */
                w[i].stats->stop = true;
        for (size_t i = 0; i < n_dbs * n_writers; i++) {
                assert_int_equal(w[i].stats->errors, 0);
                dbfix_writer_stop(&w[i]);
        }
}

static void test_wal(void **state) {
        hold_busy(*state, WAL, 1, 3);
}

static void test_rollback(void **state) {
        hold_busy(*state, DELETE, 1, 3);
}

static void test_four_wal(void **state) {
        hold_busy(*state, WAL, 4, 2);
}

/*
 * Four databases whose writers are always within a transaction of 40 ms: who polls finds the gaps
 * too seldom to hold all four within a second.
 */
static void test_four_slow(void **state) {
        static const char *const names[] = { "a.db", "b.db", "c.db", "d.db" };
        Fixture *f = *state;
        HoldDatabase dbs[4];
        DbfixWriter w[4];

        for (size_t i = 0; i < 4; i++) {
                dbfix_exec(DBFIX_UID, f->dir, names[i], i < 2 ? DELETE : WAL);
                dbs[i] = database(f, names[i]);
                w[i] = dbfix_writer(DBFIX_UID, f->dir, names[i], false);
                w[i].stats->slow_usec = 40000;
        }
        for (int round = 0; round < 5; round++) {
                Hold *h = prepare(dbs, 4, 1000, 2000);

                lock_all(h, dbs, 4);
                hold_release(h, NULL, NULL);
                for (size_t i = 0; i < 4; i++)
                        assert_true(dbs[i].held);
                hold_free(h);
        }
        for (size_t i = 0; i < 4; i++) {
                assert_int_equal(w[i].stats->errors, 0);
                dbfix_writer_stop(&w[i]);
        }
}

static void test_two_owners(void **state) {
        Fixture *f = *state;
        HoldDatabase dbs[2] = { database(f, "a.db"), database(f, "b.db") };
        int fd;
        char *dir = dbfix_dir(f->base, "other", DBFIX_OTHER, &fd);
        Hold *h;

        /* Below here only the owner may enter, and above nobody but root. */
        dbfix_exec(DBFIX_UID, f->dir, "a.db", WAL);
        dbfix_exec(DBFIX_OTHER, dir, "b.db", DELETE);
        assert_int_equal(chmod(f->dir, 0700), 0);
        assert_int_equal(chmod(dir, 0700), 0);
        assert_int_equal(chmod(f->base, 0700), 0);
        dbs[1].dirfd = fd;
        dbs[1].uid = dbs[1].gid = DBFIX_OTHER;
        h = prepare(dbs, 2, 500, 1000);
        lock_all(h, dbs, 2);
        hold_release(h, NULL, NULL);
        assert_true(dbs[0].held && dbs[1].held);
        hold_free(h);
        close(fd);
        free(dir);
}

static void test_gripped(void **state) {
        Fixture *f = *state;
        HoldDatabase dbs[3] = { database(f, "a.db"), database(f, "b.db"), database(f, "c.db") };
        DbfixWriter wal, rollback;
        uint64_t start;
        Hold *h;

        dbfix_exec(DBFIX_UID, f->dir, "a.db", WAL);
        dbfix_exec(DBFIX_UID, f->dir, "b.db", DELETE);
        dbfix_exec(DBFIX_UID, f->dir, "c.db", WAL);
        wal = dbfix_writer(DBFIX_UID, f->dir, "a.db", true);
        rollback = dbfix_writer(DBFIX_UID, f->dir, "b.db", true);
        h = prepare(dbs, 3, 200, 1000);
        start = clock_monotonic_usec();
        assert_int_equal(hold_lock(h, NULL), 1);
        assert_in_range(clock_monotonic_usec() - start, 190000, 390000);
        assert_int_equal(dbs[0].failure.code, FAIL_HOLD_TIMEOUT);
        assert_int_equal(dbs[1].failure.code, FAIL_HOLD_TIMEOUT);
        assert_non_null(strstr(dbs[1].failure.text, "b.db"));
        hold_release(h, NULL, NULL);
        assert_false(dbs[0].held || dbs[1].held);
        wal.stats->go = rollback.stats->go = true;
        assert_true(dbfix_writer_advances(&wal, wal.stats->commits == 0));
        dbfix_writer_stop(&rollback);
        dbfix_writer_stop(&wal);
        hold_free(h);
        dbfix_exec(DBFIX_UID, f->dir, "a.db", "INSERT INTO t VALUES(2)");
        dbfix_exec(DBFIX_UID, f->dir, "b.db", "INSERT INTO t VALUES(2)");
}

static void test_stopped_helper(void **state) {
        Fixture *f = *state;
        HoldDatabase db = database(f, "a.db");
        uint64_t start, pause;
        DbfixWriter w;
        Hold *h;

        dbfix_exec(DBFIX_UID, f->dir, "a.db", WAL);
        w = dbfix_writer(DBFIX_UID, f->dir, "a.db", false);
        h = prepare(&db, 1, 500, 1000);
        lock_all(h, &db, 1);
        assert_int_equal(kill(dbfix_helper_pid(), SIGSTOP), 0);
        assert_still(&w, 1);
        start = clock_monotonic_usec();
        assert_int_equal(hold_release(h, &pause, NULL), 0);
        assert_in_range(clock_monotonic_usec() - start, 0, 800000);
        assert_true(db.held); /* it was locked until we asked */
        assert_in_range(db.pause_usec, 50000, 900000);
        assert_true(dbfix_writer_advances(&w, 5));
        assert_int_equal(w.stats->errors, 0);
        assert_int_equal(dbfix_helper_pid(), -1);
        hold_free(h);
        dbfix_writer_stop(&w);
}

/* Nobody asks a stopped helper to release: the guard does. */
static void test_stopped_and_forgotten(void **state) {
        Fixture *f = *state;
        HoldDatabase db = database(f, "a.db");
        DbfixWriter w;
        Hold *h;

        dbfix_exec(DBFIX_UID, f->dir, "a.db", DELETE);
        w = dbfix_writer(DBFIX_UID, f->dir, "a.db", false);
        h = prepare(&db, 1, 1000, 300);
        lock_all(h, &db, 1);
        assert_int_equal(kill(dbfix_helper_pid(), SIGSTOP), 0);
        assert_still(&w, 1);
        usleep(400000);
        assert_true(dbfix_writer_advances(&w, 5));
        assert_in_range(w.stats->longest_usec, 300000, 1000000);
        hold_release(h, NULL, NULL);
        assert_false(db.held);
        assert_int_equal(db.failure.code, FAIL_HOLD_TIMEOUT);
        hold_free(h);
        dbfix_writer_stop(&w);
}

static void test_killed_helper(void **state) {
        Fixture *f = *state;
        HoldDatabase db = database(f, "a.db");
        Hold *h;

        dbfix_exec(DBFIX_UID, f->dir, "a.db", WAL);
        h = prepare(&db, 1, 500, 1000);
        lock_all(h, &db, 1);
        assert_int_equal(kill(dbfix_helper_pid(), SIGKILL), 0);
        usleep(20000);
        hold_release(h, NULL, NULL);
        assert_false(db.held);
        assert_int_equal(db.failure.code, FAIL_HOLD_TIMEOUT);
        hold_free(h);
}

static void test_self_release(void **state) {
        Fixture *f = *state;
        HoldDatabase dbs[2] = { database(f, "a.db"), database(f, "b.db") };
        DbfixWriter w;
        Hold *h;

        dbfix_exec(DBFIX_UID, f->dir, "a.db", WAL);
        dbfix_exec(DBFIX_UID, f->dir, "b.db", DELETE);
        w = dbfix_writer(DBFIX_UID, f->dir, "a.db", false);
        h = prepare(dbs, 2, 500, 150);
        lock_all(h, dbs, 2);
        assert_still(&w, 1);
        usleep(150000);
        assert_true(dbfix_writer_advances(&w, 5));
        assert_true(dbfix_helper_pid() > 0); /* in order, not by the guard */
        hold_release(h, NULL, NULL);
        assert_false(dbs[0].held || dbs[1].held);
        assert_in_range(dbs[0].pause_usec, 150000, 299000); /* before the guard */
        assert_non_null(strstr(dbs[1].failure.text, "MaxHoldMSec"));
        hold_free(h);
        dbfix_writer_stop(&w);
}

/* The caller dies: its helpers die with it. */
static void test_worker_dies(void **state) {
        Fixture *f = *state;
        HoldDatabase db = database(f, "a.db");
        volatile bool *locked =
                mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        DbfixWriter w;
        pid_t pid;

        dbfix_exec(DBFIX_UID, f->dir, "a.db", WAL);
        w = dbfix_writer(DBFIX_UID, f->dir, "a.db", false);
        pid = fork();
        if (pid == 0) {
                lock_all(prepare(&db, 1, 1000, 60000), &db, 1);
                *locked = true;
                for (;;)
                        pause();
        }
        while (!*locked)
                usleep(1000);
        assert_still(&w, 1);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_true(dbfix_writer_advances(&w, 5));
        dbfix_writer_stop(&w);
        munmap((void *) locked, 4096);
}

/* ---- hostile directories ---- */

static void expect_refused(Fixture *f, const char *name, const char *why) {
        HoldDatabase dbs[2] = { database(f, name), database(f, "good.db") };
        uint64_t start = clock_monotonic_usec();
        Hold *h = prepare(dbs, 2, 300, 1000);

        assert_int_equal(hold_lock(h, NULL), 1);
        assert_in_range(clock_monotonic_usec() - start, 0, 1500000);
        assert_false(dbs[0].held);
        assert_true(dbs[1].held);
        assert_int_not_equal(dbs[0].failure.code, FAIL_NONE);
        if (!strstr(dbs[0].failure.text, why) || !strstr(dbs[0].failure.text, name))
                fail_msg("%s: '%s' does not say '%s'", name, dbs[0].failure.text, why);
        hold_release(h, NULL, NULL);
        hold_free(h);
}

static void test_hostile(void **state) {
        static const char garbage[4096] = "not a database at all";
        Fixture *f = *state;

        dbfix_exec(DBFIX_UID, f->dir, "good.db", DELETE);
        dbfix_exec(DBFIX_UID, f->dir, "wal.db", WAL);
        dbfix_exec(DBFIX_UID, f->dir, "fifo-wal.db", WAL);
        dbfix_exec(DBFIX_UID, f->dir, "fifo-journal.db", DELETE);
        assert_int_equal(chdir(f->dir), 0);
        assert_int_equal(symlink("good.db", "link.db"), 0);
        assert_int_equal(symlink("/dev/null", "wal.db-wal"), 0);
        assert_int_equal(mkfifo("fifo-wal.db-wal", 0666), 0);
        assert_int_equal(mkfifo("fifo-journal.db-journal", 0666), 0);
        assert_int_equal(mkfifo("fifo.db", 0666), 0);
        assert_int_equal(mkdir("dir.db", 0777), 0);
        dbfix_write(f->dir, "root.db", 0, garbage, sizeof(garbage));
        dbfix_write(f->dir, "garbage.db", DBFIX_UID, garbage, sizeof(garbage));
        dbfix_write(f->dir, "short.db", DBFIX_UID, "SQLite format 3", 16);
        dbfix_exec(DBFIX_UID, f->dir, "hard.db", DELETE);
        assert_int_equal(link("hard.db", "hard2.db"), 0);
        assert_int_equal(chdir("/"), 0);

        expect_refused(f, "link.db", "symbolic link");
        expect_refused(f, "wal.db", "regular file");
        expect_refused(f, "fifo-wal.db", "regular file");
        expect_refused(f, "fifo-journal.db", "regular file");
        expect_refused(f, "fifo.db", "regular file");
        expect_refused(f, "dir.db", "regular file");
        expect_refused(f, "root.db", "belongs to uid 0");
        expect_refused(f, "garbage.db", "not an SQLite database");
        expect_refused(f, "short.db", "not an SQLite database");
        expect_refused(f, "hard.db", "hard links");
        expect_refused(f, "missing.db", "No such file");
}

static void test_hot_journal(void **state) {
        Fixture *f = *state;
        char *victim = text_printf("%s/victim", f->dir);

        dbfix_exec(DBFIX_UID, f->dir, "good.db", WAL);
        dbfix_exec(DBFIX_UID, f->dir, "hot.db", DELETE);
        dbfix_write(f->dir, "victim", DBFIX_UID, "precious", 8);
        dbfix_hot_journal(f->dir, "hot.db", DBFIX_UID, victim);
        expect_refused(f, "hot.db", "played in the image");
        assert_true(dbfix_exists(f->dir, "victim"));
        assert_true(dbfix_exists(f->dir, "hot.db-journal"));
        /* The crafted journal is worth its name: plain SQLite deletes the victim. */
        dbfix_exec(DBFIX_UID, f->dir, "hot.db", "SELECT * FROM t");
        assert_false(dbfix_exists(f->dir, "victim"));
        free(victim);
}

static void test_empty(void **state) {
        Fixture *f = *state;
        HoldDatabase db = database(f, "empty.db");
        Hold *h;

        dbfix_write(f->dir, "empty.db", DBFIX_UID, "", 0);
        h = prepare(&db, 1, 300, 1000);
        lock_all(h, &db, 1);
        assert_false(dbfix_exists(f->dir, "empty.db-journal"));
        hold_release(h, NULL, NULL);
        assert_true(db.held);
        hold_free(h);
        dbfix_exec(DBFIX_UID, f->dir, "empty.db", DELETE);
}

static void test_root_owned(void **state) {
        Fixture *f = *state;
        HoldDatabase db = database(f, "root.db");
        int fd;
        char *dir = dbfix_dir(f->base, "root", 0, &fd);
        Hold *h;

        dbfix_exec(0, dir, "root.db", WAL);
        db.dirfd = fd;
        db.uid = db.gid = 0;
        h = prepare(&db, 1, 300, 1000);
        lock_all(h, &db, 1);
        hold_release(h, NULL, NULL);
        hold_free(h);

        assert_int_equal(chmod(dir, 0777), 0);
        h = prepare(&db, 1, 300, 1000);
        assert_int_equal(hold_lock(h, NULL), 1);
        assert_int_equal(db.failure.code, FAIL_CONFIGURATION_INVALID);
        hold_release(h, NULL, NULL);
        hold_free(h);
        close(fd);
        free(dir);
}

/* ---- copies ---- */

static int copy_file(const Fixture *f) {
        char *path = text_printf("%s/copy", f->base);
        int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        free(path);
        return fd;
}

static void test_copy_pinned(void **state) {
        Fixture *f = *state;
        HoldDatabase db = database(f, "a.db");
        Failure failure = FAILURE_INIT;
        int64_t pinned;
        DbfixWriter w;
        Hold *h;
        int fd;

        dbfix_exec(
                DBFIX_UID, f->dir, "a.db",
                "PRAGMA page_size=8192; PRAGMA user_version=77; PRAGMA journal_mode=WAL;"
                "CREATE TABLE t(x); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c "
                "WHERE n < 3000) INSERT INTO t SELECT randomblob(4000) FROM c");
        w = dbfix_writer(DBFIX_UID, f->dir, "a.db", false);
        assert_true(dbfix_writer_advances(&w, 10));
        db.pin = true;
        h = prepare(&db, 1, 500, 2000);
        lock_all(h, &db, 1);
        usleep(20000); /* a commit that ended under the lock is counted by its writer yet */
        assert_int_equal(hold_pin(h, NULL), 0);
        pinned = 3000 + (int64_t) w.stats->commits;
        hold_release(h, NULL, NULL);
        assert_true(db.held);
        assert_true(dbfix_writer_advances(&w, 200));
        fd = copy_file(f);
        if (hold_copy(h, 0, fd, &failure) < 0)
                fail_msg("%s", failure.text);
        close(fd);
        assert_true(dbfix_writer_advances(&w, 1));
        assert_int_equal(w.stats->errors, 0);
        hold_free(h);
        dbfix_writer_stop(&w);
        assert_int_equal(dbfix_number(f->base, "copy", "SELECT count(*) FROM t"), pinned);
        assert_int_equal(dbfix_number(f->base, "copy", "PRAGMA page_size"), 8192);
        assert_int_equal(dbfix_number(f->base, "copy", "PRAGMA user_version"), 77);
        assert_int_equal(
                dbfix_number(f->base, "copy", "SELECT journal_mode='wal' FROM pragma_journal_mode"),
                1);
        assert_int_equal(
                dbfix_number(f->base, "copy", "SELECT quick_check='ok' FROM pragma_quick_check"),
                1);
}

static void test_copy_rollback(void **state) {
        Fixture *f = *state;
        HoldDatabase db = database(f, "a.db");
        Failure failure = FAILURE_INIT;
        DbfixWriter w;
        int fd, r;
        Hold *h;

        dbfix_exec(
                DBFIX_UID, f->dir, "a.db",
                "CREATE TABLE t(x); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c "
                "WHERE n < 3000) INSERT INTO t SELECT randomblob(4000) FROM c");
        w = dbfix_writer(DBFIX_UID, f->dir, "a.db", false);
        db.pin = true;
        h = prepare(&db, 1, 2000, 2000);
        lock_all(h, &db, 1);
        assert_int_equal(hold_pin(h, NULL), 0);
        hold_release(h, NULL, NULL);
        fd = copy_file(f);
        r = hold_copy(h, 0, fd, &failure);
        close(fd);
        hold_free(h);
        assert_true(w.stats->longest_usec < 1500000);
        assert_int_equal(w.stats->errors, 0);
        dbfix_writer_stop(&w);
        if (r < 0)
                fail_msg("%s", failure.text);
        assert_true(dbfix_number(f->base, "copy", "SELECT count(*) FROM t") > 3000);
        assert_int_equal(
                dbfix_number(f->base, "copy", "SELECT quick_check='ok' FROM pragma_quick_check"),
                1);
}

static void test_copy_full(void **state) {
        Fixture *f = *state;
        HoldDatabase db = database(f, "a.db");
        Failure failure = FAILURE_INIT;
        Hold *h;
        int fd = open("/dev/full", O_RDWR | O_CLOEXEC);

        dbfix_exec(DBFIX_UID, f->dir, "a.db", WAL);
        db.pin = true;
        h = prepare(&db, 1, 500, 2000);
        lock_all(h, &db, 1);
        assert_int_equal(hold_pin(h, NULL), 0);
        hold_release(h, NULL, NULL);
        assert_true(hold_copy(h, 0, fd, &failure) < 0);
        assert_int_equal(failure.code, FAIL_NO_SPACE);
        close(fd);
        hold_free(h);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_wal, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_rollback, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_four_wal, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_four_slow, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_two_owners, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_gripped, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_stopped_helper, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_stopped_and_forgotten, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_killed_helper, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_self_release, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_worker_dies, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_hostile, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_hot_journal, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_empty, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_root_owned, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_copy_pinned, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_copy_rollback, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_copy_full, set_up, tear_down),
        };

        if (geteuid() != 0)
                return 77; /* needs owners of its own: skipped */
        return cmocka_run_group_tests(tests, dbfix_helper_set_up, dbfix_helper_tear_down);
}
