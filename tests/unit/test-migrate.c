/*
 * Migrations: all or nothing, in order, never backwards. And what db.h promises about failures.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* clang-format off: it needs the headers above */
#include <cmocka.h>
/* clang-format on */

#include "base/fs.h"
#include "base/text.h"
#include "sql/migrate.h"

typedef struct Fixture {
        char dir[64], path[96];
        Db *db;
        Failure why;
} Fixture;

static const DbOptions options = { .full_sync = true, .cache_kib = 1024, .busy_msec = 50 };

static int setup(void **state) {
        Fixture *f = calloc(1, sizeof(*f));

        (void) snprintf(f->dir, sizeof(f->dir), "/tmp/holdpoint-migrate-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        (void) snprintf(f->path, sizeof(f->path), "%s/x.db", f->dir);
        assert_int_equal(db_open(f->path, &options, &f->db, &f->why), 0);
        *state = f;
        return 0;
}

static int teardown(void **state) {
        Fixture *f = *state;

        db_close(f->db);
        assert_int_equal(fs_remove_tree(AT_FDCWD, f->dir, NULL, NULL), 0);
        free(f);
        return 0;
}

static int64_t ask(Fixture *f, const char *sql) {
        _cleanup_db_stmt_ DbStmt *s = NULL;

        assert_int_equal(db_prepare(f->db, sql, &s, &f->why), 0);
        assert_int_equal(db_step(s, &f->why), 1);
        return db_column_int(s, 0);
}

static void test_migrations(void **state) {
        Fixture *f = *state;
        const Migration all[] = {
                { 1, "CREATE TABLE a (x); INSERT INTO a VALUES (1);" },
                { 2, "ALTER TABLE a ADD COLUMN y; UPDATE a SET y = 2;" },
        };

        assert_int_equal(migrate_apply(f->db, all, 1, &f->why), 0);
        assert_int_equal(ask(f, "PRAGMA user_version"), 1);
        assert_int_equal(migrate_apply(f->db, all, 2, &f->why), 0);
        assert_int_equal(migrate_apply(f->db, all, 2, &f->why), 0);
        assert_int_equal(ask(f, "PRAGMA user_version"), 2);
        assert_int_equal(ask(f, "SELECT sum(x + y) FROM a"), 3);
        assert_int_equal(migrate_apply(f->db, all, 1, &f->why), -ENOTSUP);
        assert_int_equal(ask(f, "PRAGMA user_version"), 2);
}

static void test_broken_migration(void **state) {
        Fixture *f = *state;
        const Migration all[] = {
                { 1, "CREATE TABLE a (x);" },
                { 2, "CREATE TABLE b (x); INSERT INTO nowhere VALUES (1);" },
        };

        assert_true(migrate_apply(f->db, all, 2, &f->why) < 0);
        assert_non_null(strstr(f->why.text, "migration 2"));
        assert_int_equal(ask(f, "PRAGMA user_version"), 0);
        assert_int_equal(ask(f, "SELECT count(*) FROM sqlite_schema"), 0);
        assert_false(db_in_transaction(f->db));
}

static void test_values(void **state) {
        Fixture *f = *state;
        _cleanup_db_stmt_ DbStmt *s = NULL;
        const void *blob;
        size_t n;

        assert_int_equal(db_exec(f->db, "CREATE TABLE t (a PRIMARY KEY, b, c, d)", &f->why), 0);
        assert_int_equal(db_prepare(f->db, "INSERT INTO t VALUES (?, ?, ?, ?)", &s, &f->why), 0);
        db_bind_text(s, 1, "k\xc3\xa4se");
        db_bind_blob(s, 2, "\0\1", 2);
        db_bind_int(s, 3, INT64_MIN);
        db_bind_null(s, 4);
        assert_int_equal(db_run(s, &f->why), 0);
        assert_int_equal(db_changes(f->db), 1);
        db_bind_text(s, 1, "k\xc3\xa4se");
        assert_int_equal(db_run(s, &f->why), -EEXIST);
        f->why = FAILURE_INIT;
        db_bind_text(s, 9, "there is no ninth");
        assert_int_equal(db_run(s, &f->why), -EINVAL);
        f->why = FAILURE_INIT;
        db_stmt_free(TAKE_PTR(s));
        assert_int_equal(db_prepare(f->db, "SELECT * FROM t", &s, &f->why), 0);
        assert_int_equal(db_step(s, &f->why), 1);
        assert_string_equal(db_column_text(s, 0), "k\xc3\xa4se");
        blob = db_column_blob(s, 1, &n);
        assert_int_equal(n, 2);
        assert_memory_equal(blob, "\0\1", 2);
        assert_true(db_column_int(s, 2) == INT64_MIN);
        assert_true(db_column_is_null(s, 3));
        assert_string_equal(db_column_text(s, 3), "");
        assert_int_equal(db_step(s, &f->why), 0);
}

static void test_busy(void **state) {
        Fixture *f = *state;
        _cleanup_db_ Db *other = NULL;

        assert_int_equal(db_open(f->path, &options, &other, &f->why), 0);
        assert_int_equal(db_begin(other, &f->why), 0);
        assert_int_equal(db_begin(f->db, &f->why), -EBUSY);
        f->why = FAILURE_INIT;
        db_rollback(other);
        db_rollback(other);
        assert_int_equal(db_begin(f->db, &f->why), 0);
        assert_int_equal(db_commit(f->db, &f->why), 0);
}

static void test_not_a_database(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *path = text_printf("%s/text", f->dir);
        _cleanup_db_ Db *db = NULL;
        char zeros[8192];
        struct stat st;
        int fd;

        memset(zeros, 'x', sizeof(zeros));
        fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(write(fd, zeros, sizeof(zeros)), sizeof(zeros));
        fd_close(fd);
        assert_int_equal(db_open(path, &options, &db, &f->why), -EUCLEAN);
        f->why = FAILURE_INIT;
        assert_int_equal(db_open("/proc/nowhere/x.db", &options, &db, &f->why), -ENOENT);
        assert_int_equal(stat(f->path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
}

static void test_quick_check(void **state) {
        Fixture *f = *state;

        assert_int_equal(db_exec(f->db, "CREATE TABLE t (a); INSERT INTO t VALUES (1)", &f->why),
                         0);
        assert_int_equal(db_quick_check(f->db, &f->why), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_migrations, setup, teardown),
                cmocka_unit_test_setup_teardown(test_broken_migration, setup, teardown),
                cmocka_unit_test_setup_teardown(test_values, setup, teardown),
                cmocka_unit_test_setup_teardown(test_busy, setup, teardown),
                cmocka_unit_test_setup_teardown(test_not_a_database, setup, teardown),
                cmocka_unit_test_setup_teardown(test_quick_check, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
