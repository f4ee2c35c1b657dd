/*
 * Recovery and checks in an image: crashes of every journal mode, transactions over two databases,
 * and journals made to delete what is not theirs. Runs as root; the databases belong to 65534.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/proc.h"
#include "base/text.h"
#include "snapshot/hold.h"
#include "tests/lib/dbfix.h"

#define MTIME 1700000000

typedef struct Fixture {
        char *base, *live, *image;
        int live_fd, image_fd;
        HoldImage map;
} Fixture;

static int set_up(void **state) {
        Fixture *f = calloc(1, sizeof(*f));

        f->base = dbfix_new();
        f->live = dbfix_dir(f->base, "live", DBFIX_UID, &f->live_fd);
        f->image = dbfix_dir(f->base, "image", DBFIX_UID, &f->image_fd);
        f->map = (HoldImage){ f->live, f->image_fd };
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        Fixture *f = *state;

        close(f->live_fd);
        close(f->image_fd);
        free(f->live);
        free(f->image);
        dbfix_remove(f->base);
        free(f);
        return 0;
}

static HoldDatabase database(const Fixture *f, const char *name) {
        return (HoldDatabase){
                .path = name,
                .dirfd = f->image_fd,
                .name = name,
                .uid = DBFIX_UID,
                .gid = DBFIX_UID,
        };
}

static HoldImageJob job_of(Fixture *f, HoldDatabase *dbs, size_t n) {
        return (HoldImageJob){
                .libexec_dir = proc_libexec_dir(),
                .databases = dbs,
                .n = n,
                .images = &f->map,
                .n_images = 1,
                .timeout_usec = 10 * USEC_PER_SEC,
        };
}

static void recover(Fixture *f, HoldDatabase *dbs, size_t n) {
        HoldImageJob job = job_of(f, dbs, n);

        assert_int_equal(hold_recover(&job, NULL), 0);
}

static HoldVerdict check(Fixture *f, HoldDatabase *db, uint64_t timeout_usec) {
        HoldImageJob job = job_of(f, db, 1);
        HoldVerdict verdict;

        job.timeout_usec = timeout_usec;
        assert_int_equal(hold_check(&job, &verdict, NULL), 0);
        return verdict;
}

static void set_mtime(const char *dir, const char *name, time_t sec) {
        struct timespec times[2] = { { sec, 5 }, { sec, 7 } };
        char *path = text_printf("%s/%s", dir, name);

        assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
        free(path);
}

static void assert_mtime(const char *dir, const char *name, time_t sec) {
        char *path = text_printf("%s/%s", dir, name);
        struct stat st;

        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mtim.tv_sec, sec);
        assert_int_equal(st.st_mtim.tv_nsec, 7);
        free(path);
}

static void assert_recovered(const Fixture *f, const HoldDatabase *db) {
        static const char *const suffixes[] = { "-wal", "-shm", "-journal" };

        if (db->failure.code)
                fail_msg("%s", db->failure.text);
        for (size_t i = 0; i < 3; i++) {
                char *name = text_printf("%s%s", db->name, suffixes[i]);

                assert_false(dbfix_exists(f->image, name));
                free(name);
        }
}

static void assert_failed(const HoldDatabase *db, const char *why) {
        assert_int_not_equal(db->failure.code, FAIL_NONE);
        if (!strstr(db->failure.text, why) || !strstr(db->failure.text, db->name))
                fail_msg("'%s' does not say '%s'", db->failure.text, why);
}

/* Runs SQL as the owner, and copies the database with its side files while it is still open. */
static void crash(const Fixture *f, const char *name, const char *sql) {
        int status = -1;
        pid_t pid = fork();

        if (pid == 0) {
                char *path = text_printf("%s/%s", f->live, name);
                sqlite3 *db;

                if (setgid(DBFIX_UID) < 0 || setuid(DBFIX_UID) < 0 ||
                    sqlite3_open(path, &db) != SQLITE_OK ||
                    sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
                        _exit(1);
                dbfix_copy_all(f->live, f->image, name);
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

static void test_wal(void **state) {
        Fixture *f = *state;
        HoldDatabase db = database(f, "a.db");

        crash(f, "a.db",
              "PRAGMA page_size=8192; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;"
              "CREATE TABLE t(x); INSERT INTO t VALUES(1); INSERT INTO t VALUES(2);"
              "PRAGMA user_version=41");
        assert_true(dbfix_exists(f->image, "a.db-wal"));
        assert_true(dbfix_exists(f->image, "a.db-shm"));
        set_mtime(f->image, "a.db", MTIME);
        set_mtime(f->image, ".", MTIME + 1);
        recover(f, &db, 1);
        assert_recovered(f, &db);
        assert_mtime(f->image, "a.db", MTIME);
        assert_mtime(f->image, ".", MTIME + 1);
        assert_int_equal(check(f, &db, 10 * USEC_PER_SEC), HOLD_OK);
        assert_false(dbfix_exists(f->image, "a.db-shm")); /* a check makes no files */
        assert_mtime(f->image, ".", MTIME + 1);
        assert_int_equal(dbfix_number(f->image, "a.db", "SELECT sum(x) FROM t"), 3);
        assert_int_equal(dbfix_number(f->image, "a.db", "PRAGMA page_size"), 8192);
        assert_int_equal(dbfix_number(f->image, "a.db", "PRAGMA user_version"), 41);
        assert_int_equal(dbfix_number(f->image, "a.db",
                                      "SELECT journal_mode='wal' FROM pragma_journal_mode"),
                         1);
}

#define SPILL                                                                                      \
        "PRAGMA cache_size=2; BEGIN; UPDATE t SET x=randomblob(900); DELETE FROM t WHERE "         \
        "rowid%%2;"                                                                                \
        "INSERT INTO t SELECT randomblob(900) FROM t"

static void crash_in_transaction(Fixture *f, const char *mode) {
        HoldDatabase db = database(f, "a.db");
        char *sql =
                text_printf("CREATE TABLE t(x); PRAGMA journal_mode=%s; PRAGMA user_version=9;"
                            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE "
                            "n<400) INSERT INTO t SELECT zeroblob(900) FROM c; " SPILL,
                            mode);

        crash(f, "a.db", sql);
        free(sql);
        set_mtime(f->image, "a.db", MTIME);
        assert_int_equal(check(f, &db, 10 * USEC_PER_SEC), HOLD_UNCHECKED); /* not recovered yet */
        assert_failed(&db, "has not been recovered");
        recover(f, &db, 1);
        assert_recovered(f, &db);
        assert_mtime(f->image, "a.db", MTIME);
        assert_int_equal(check(f, &db, 10 * USEC_PER_SEC), HOLD_OK);
        assert_int_equal(
                dbfix_number(f->image, "a.db", "SELECT count(*) FROM t WHERE x=zeroblob(900)"),
                400);
        assert_int_equal(dbfix_number(f->image, "a.db", "PRAGMA user_version"), 9);
}

static void test_hot_delete(void **state) {
        crash_in_transaction(*state, "DELETE");
}

static void test_hot_persist(void **state) {
        crash_in_transaction(*state, "PERSIST");
}

/* Side files that hold nothing: a zeroed journal, a stale -shm, an empty -wal. */
static void test_leftovers(void **state) {
        Fixture *f = *state;
        HoldDatabase dbs[2] = { database(f, "a.db"), database(f, "empty.db") };
        char zeroes[4096] = { 0 };

        dbfix_exec(DBFIX_UID, f->image, "a.db",
                   "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(5)");
        dbfix_write(f->image, "a.db-journal", DBFIX_UID, zeroes, sizeof(zeroes));
        dbfix_write(f->image, "a.db-shm", DBFIX_UID, "stale", 5);
        dbfix_write(f->image, "a.db-wal", DBFIX_UID, "", 0);
        dbfix_write(f->image, "empty.db", DBFIX_UID, "", 0);
        recover(f, dbs, 2);
        assert_recovered(f, &dbs[0]);
        assert_recovered(f, &dbs[1]);
        assert_int_equal(dbfix_number(f->image, "a.db", "SELECT x FROM t"), 5);
        assert_int_equal(check(f, &dbs[1], USEC_PER_SEC), HOLD_OK);
}

/* ---- transactions over two databases ---- */

typedef struct Moment {
        const Fixture *f;
        bool after; /* the super-journal's end instead of just before it */
        bool seen;
        sqlite3_vfs *real;
} Moment;

/* A VFS that takes the image around the deletion of the super-journal: the point of commit. */
static int delete_at_moment(sqlite3_vfs *vfs, const char *name, int sync) {
        Moment *m = vfs->pAppData;
        bool super = strstr(name, "-mj") != NULL;
        int rc = SQLITE_OK;

        if (super && m->after)
                rc = m->real->xDelete(m->real, name, sync);
        if (super) {
                const char *base = strrchr(name, '/') + 1;

                dbfix_copy_all(m->f->live, m->f->image, "a.db");
                dbfix_copy_all(m->f->live, m->f->image, "b.db");
                if (!m->after)
                        dbfix_copy(m->f->live, m->f->image, base);
                m->seen = true;
        }
        return super && m->after ? rc : m->real->xDelete(m->real, name, sync);
}

static int
open_at_moment(sqlite3_vfs *vfs, sqlite3_filename n, sqlite3_file *file, int flags, int *out) {
        Moment *m = vfs->pAppData;

        return m->real->xOpen(m->real, n, file, flags, out);
}

static void commit_over_two(Fixture *f, bool after) {
        char *sql = text_printf("CREATE TABLE t(x); INSERT INTO t VALUES(1); ATTACH '%s/b.db' AS b;"
                                "CREATE TABLE b.t(x); INSERT INTO b.t VALUES(1);"
                                "BEGIN; UPDATE main.t SET x=2; UPDATE b.t SET x=2; COMMIT",
                                f->live);
        char *path = text_printf("%s/a.db", f->live);
        int status = -1;
        pid_t pid = fork();

        if (pid == 0) {
                Moment m = { .f = f, .after = after, .real = sqlite3_vfs_find(NULL) };
                sqlite3_vfs vfs = *m.real;
                sqlite3 *db;

                vfs.zName = "moment";
                vfs.pAppData = &m;
                vfs.xDelete = delete_at_moment;
                vfs.xOpen = open_at_moment;
                if (setgid(DBFIX_UID) < 0 || setuid(DBFIX_UID) < 0 ||
                    sqlite3_vfs_register(&vfs, 0) != SQLITE_OK ||
                    sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
                                    "moment") != SQLITE_OK ||
                    sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK || !m.seen)
                        _exit(1);
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        free(sql);
        free(path);
        assert_true(dbfix_exists(f->image, "a.db-journal"));
        assert_true(dbfix_exists(f->image, "b.db-journal"));
}

static void expect_both(Fixture *f, int64_t x) {
        HoldDatabase dbs[2] = { database(f, "a.db"), database(f, "b.db") };

        recover(f, dbs, 2);
        assert_recovered(f, &dbs[0]);
        assert_recovered(f, &dbs[1]);
        assert_int_equal(dbfix_number(f->image, "a.db", "SELECT x FROM t"), x);
        assert_int_equal(dbfix_number(f->image, "b.db", "SELECT x FROM t"), x);
}

/* In the image the transaction is not committed, although the live super-journal is gone meanwhile.
 */
static void test_super_before(void **state) {
        Fixture *f = *state;

        commit_over_two(f, false);
        assert_int_equal(dbfix_number(f->live, "a.db", "SELECT x FROM t"), 2);
        expect_both(f, 1);
}

static void test_super_after(void **state) {
        Fixture *f = *state;

        commit_over_two(f, true);
        expect_both(f, 2);
}

/* The directory of the super-journal is not part of the backup: nobody can tell. */
static void test_super_outside(void **state) {
        Fixture *f = *state;
        HoldDatabase dbs[2] = { database(f, "a.db"), database(f, "b.db") };

        commit_over_two(f, false);
        f->map.live = "/somewhere/else";
        recover(f, dbs, 2);
        assert_failed(&dbs[0], "super-journal outside of this backup");
        assert_non_null(strstr(dbs[0].failure.text, "a.db-mj"));
        assert_failed(&dbs[1], "super-journal outside of this backup");
        assert_true(dbfix_exists(f->image, "a.db-journal")); /* nothing is thrown away */
}

/* ---- hostile images ---- */

static void test_victim(void **state) {
        Fixture *f = *state;
        HoldDatabase dbs[3] = { database(f, "out.db"), database(f, "in.db"),
                                database(f, "dots.db") };
        char *out = text_printf("%s/victim", f->base), *in = text_printf("%s/victim", f->live);
        char *dots = text_printf("%s/../live/victim", f->live);

        for (size_t i = 0; i < 3; i++)
                dbfix_exec(DBFIX_UID, f->image, dbs[i].name,
                           "CREATE TABLE t(x); INSERT INTO t VALUES(3)");
        dbfix_write(f->base, "victim", DBFIX_UID, "precious", 8);
        dbfix_write(f->live, "victim", DBFIX_UID, "precious", 8);
        dbfix_write(f->image, "victim", DBFIX_UID, "precious", 8);
        dbfix_hot_journal(f->image, "out.db", DBFIX_UID, out);
        dbfix_hot_journal(f->image, "in.db", DBFIX_UID, in);
        dbfix_hot_journal(f->image, "dots.db", DBFIX_UID, dots);
        for (size_t i = 0; i < 3; i++)
                assert_int_equal(check(f, &dbs[i], USEC_PER_SEC), HOLD_UNCHECKED);
        recover(f, dbs, 3);
        assert_failed(&dbs[0], out);
        assert_recovered(f, &dbs[1]);
        assert_failed(&dbs[2], "not looked at");
        assert_int_equal(dbfix_number(f->image, "in.db", "SELECT x FROM t"), 3);
        assert_true(dbfix_exists(f->base, "victim"));
        assert_true(dbfix_exists(f->live, "victim"));
        assert_true(dbfix_exists(f->image, "victim"));
        free(out);
        free(in);
        free(dots);
}

static void test_hostile_files(void **state) {
        static const char garbage[8192] = "no database";
        static const char *const why[] = { "symbolic link", "regular file",   "regular file",
                                           "regular file",  "not a database", "hard links",
                                           "regular file",  "uid 65534",      "not a database" };
        Fixture *f = *state;
        HoldDatabase dbs[] = { database(f, "link.db"),    database(f, "fifo.db"),
                               database(f, "dir.db"),     database(f, "wal.db"),
                               database(f, "garbage.db"), database(f, "hard.db"),
                               database(f, "journal.db"), database(f, "foreign.db"),
                               database(f, "tiny.db") };
        uint64_t start = clock_monotonic_usec();

        dbfix_exec(DBFIX_UID, f->image, "good.db", "CREATE TABLE t(x)");
        dbfix_exec(DBFIX_UID, f->image, "wal.db", "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
        dbfix_exec(DBFIX_UID, f->image, "hard.db", "CREATE TABLE t(x)");
        dbfix_exec(DBFIX_UID, f->image, "journal.db", "CREATE TABLE t(x)");
        dbfix_write(f->image, "garbage.db", DBFIX_UID, garbage, sizeof(garbage));
        dbfix_write(f->image, "tiny.db", DBFIX_UID, garbage, 20);
        dbfix_write(f->image, "foreign.db", DBFIX_OTHER, garbage, sizeof(garbage));
        assert_int_equal(chdir(f->image), 0);
        assert_int_equal(symlink("good.db", "link.db"), 0);
        assert_int_equal(mkfifo("fifo.db", 0666), 0);
        assert_int_equal(mkfifo("wal.db-wal", 0666), 0);
        assert_int_equal(mkfifo("journal.db-journal", 0666), 0);
        assert_int_equal(mkdir("dir.db", 0777), 0);
        assert_int_equal(link("hard.db", "hard2.db"), 0);
        assert_int_equal(chdir("/"), 0);
        recover(f, dbs, sizeof(dbs) / sizeof(*dbs));
        for (size_t i = 0; i < sizeof(dbs) / sizeof(*dbs); i++)
                assert_failed(&dbs[i], i == 0 ? "link.db" : why[i]);
        assert_in_range(clock_monotonic_usec() - start, 0, 5 * USEC_PER_SEC);
}

/* ---- checks ---- */

static void big_database(const Fixture *f, const char *name) {
        dbfix_exec(DBFIX_UID, f->image, name,
                   "CREATE TABLE t(x); CREATE INDEX i ON t(x);"
                   "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<20000) "
                   "INSERT INTO t SELECT randomblob(90) FROM c");
}

static void test_damaged(void **state) {
        Fixture *f = *state;
        HoldDatabase db = database(f, "a.db");
        char *path = text_printf("%s/a.db", f->image), junk[4096];
        int fd;

        big_database(f, "a.db");
        assert_int_equal(check(f, &db, 10 * USEC_PER_SEC), HOLD_OK);
        memset(junk, 0x5a, sizeof(junk));
        fd = open(path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, junk, sizeof(junk), 20 * 4096), sizeof(junk));
        close(fd);
        free(path);
        assert_int_equal(check(f, &db, 10 * USEC_PER_SEC), HOLD_DAMAGED);
        assert_failed(&db, "age"); /* "Page 21 ...", "On tree page 2 ..." */
        assert_null(strchr(db.failure.text, '\n'));
        assert_null(strstr(db.failure.text, "***"));
        dbfix_write(f->image, "a.db", DBFIX_UID, junk, sizeof(junk));
        assert_int_equal(check(f, &db, 10 * USEC_PER_SEC), HOLD_DAMAGED);
}

static void test_check_limit(void **state) {
        Fixture *f = *state;
        HoldDatabase db = database(f, "a.db");

        big_database(f, "a.db");
        assert_int_equal(check(f, &db, 1), HOLD_UNCHECKED);
        assert_failed(&db, "time limit");
}

static bool always(void *userdata) {
        return true;
}

static void test_cancel(void **state) {
        Fixture *f = *state;
        HoldDatabase db = database(f, "a.db");
        HoldImageJob job = job_of(f, &db, 1);
        Failure failure = FAILURE_INIT;

        dbfix_exec(DBFIX_UID, f->image, "a.db", "CREATE TABLE t(x)");
        job.interrupted = always;
        assert_int_equal(hold_recover(&job, &failure), -ECANCELED);
        assert_int_equal(failure.code, FAIL_CANCELED);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_wal, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_hot_delete, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_hot_persist, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_leftovers, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_super_before, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_super_after, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_super_outside, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_victim, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_hostile_files, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_damaged, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_check_limit, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_cancel, set_up, tear_down),
        };

        if (geteuid() != 0)
                return 77; /* needs an owner of its own: skipped */
        return cmocka_run_group_tests(tests, dbfix_helper_set_up, dbfix_helper_tear_down);
}
