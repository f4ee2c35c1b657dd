/*
 * The catalogue: rows in and out, filters, the history of jobs, a reconcile, and damage.
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

#include "base/clock.h"
#include "base/fs.h"
#include "sql/catalog.h"
#include "sql/db.h"

#define ID(n)      "00000000-0000-4000-8000-00000000000" #n
#define RESTORE(n) "10000000-0000-4000-8000-00000000000" #n

typedef struct Fixture {
        char dir[64];
        Catalog *catalog;
        Failure why;
} Fixture;

static void reopen(Fixture *f) {
        catalog_free(TAKE_PTR(f->catalog));
        f->why = FAILURE_INIT;
        assert_int_equal(catalog_open(f->dir, &f->catalog, &f->why), 0);
}

static int setup(void **state) {
        Fixture *f = calloc(1, sizeof(*f));
        const char *tmp = getenv("TMPDIR");

        (void) snprintf(f->dir, sizeof(f->dir), "%s/holdpoint-catalog-XXXXXX",
                        tmp && strlen(tmp) < 30 ? tmp : "/tmp");
        assert_non_null(mkdtemp(f->dir));
        reopen(f);
        *state = f;
        return 0;
}

static int teardown(void **state) {
        Fixture *f = *state;

        catalog_free(f->catalog);
        assert_int_equal(fs_remove_tree(AT_FDCWD, f->dir, NULL, NULL), 0);
        free(f);
        return 0;
}

static json_object *
backup(const char *id, const char *status, const char *services, const char *created) {
        _cleanup_free_ char *text = text_printf(
                "{\"backup_id\":\"%s\",\"backup_name\":\"n\",\"backup_type\":\"%s\",\"status\":\"%"
                "s\",\"services\":%s,"
                "\"created_at\":\"%s\",\"completed_at\":\"\",\"bytes\":7,\"file_path\":\"\","
                "\"metadata\":\"\"}",
                id, strchr(services, ',') ? "full" : "alpha", status, services, created);
        json_object *o = json_parse(text, strlen(text));

        assert_non_null(o);
        return o;
}

static bool
put(Fixture *f, const char *id, const char *status, const char *services, const char *created) {
        _cleanup_json_ json_object *o = backup(id, status, services, created);
        bool added;

        assert_true(catalog_put_backup(f->catalog, o, &added, &f->why) >= 0);
        return added;
}

static void
put_restore_of(Fixture *f, const char *id, const char *state, const char *created, int written) {
        _cleanup_free_ char *text =
                text_printf("{\"restore_id\":\"%s\",\"backup_id\":\"" ID(
                                    1) "\",\"state\":\"%s\","
                                       "\"created_at\":\"%s\",\"completed_at\":\"\"}",
                            id, state, created);
        _cleanup_json_ json_object *o = json_parse(text, strlen(text));

        assert_int_equal(catalog_put_restore(f->catalog, o, &f->why), written);
}

static void put_restore(Fixture *f, const char *id, const char *state) {
        put_restore_of(f, id, state, "2024-01-01T00:00:00Z", 1);
}

static const char *member(json_object *o, const char *key) {
        const char *s;

        return json_get_string(o, key, &s) < 0 ? "(none)" : s;
}

static void assert_status(Fixture *f, const char *id, const char *status) {
        _cleanup_json_ json_object *o = NULL;

        assert_int_equal(catalog_get_backup(f->catalog, id, &o, &f->why), 0);
        assert_string_equal(member(o, "status"), status);
}

static void assert_restore(Fixture *f, const char *id, const char *state) {
        _cleanup_json_ json_object *o = NULL;

        assert_int_equal(catalog_get_restore(f->catalog, id, &o, &f->why), 0);
        assert_string_equal(member(o, "state"), state);
}

/* The ids of a page, by their last digit. */
static void assert_list(Fixture *f, CatalogFilter filter, uint64_t total, const char *digits) {
        _cleanup_json_ json_object *list = NULL;
        uint64_t n;

        assert_int_equal(catalog_list_backups(f->catalog, &filter, &n, &list, &f->why), 0);
        assert_int_equal(n, total);
        assert_int_equal(json_object_array_length(list), strlen(digits));
        for (size_t i = 0; digits[i]; i++)
                assert_int_equal(member(json_object_array_get_idx(list, i), "backup_id")[35],
                                 digits[i]);
}

static void test_backups(void **state) {
        Fixture *f = *state;
        _cleanup_json_ json_object *o = NULL;
        uint64_t n;

        assert_int_equal(catalog_get_backup(f->catalog, ID(1), &o, &f->why), -ENOENT);
        assert_int_equal(catalog_delete_backup(f->catalog, ID(1), &f->why), -ENOENT);
        assert_false(put(f, ID(1), "running", "[\"alpha\"]", "2024-01-01T00:00:00Z"));
        assert_true(put(f, ID(1), "completed", "[\"alpha\"]", "2024-01-01T00:00:00Z"));
        assert_false(put(f, ID(1), "completed", "[\"alpha\"]", "2024-01-01T00:00:00Z"));
        reopen(f);
        assert_status(f, ID(1), "completed");
        assert_int_equal(catalog_count_backups(f->catalog, &n, &f->why), 0);
        assert_int_equal(n, 1);
        assert_int_equal(catalog_delete_backup(f->catalog, ID(1), &f->why), 0);
        assert_int_equal(catalog_get_backup(f->catalog, ID(1), &o, &f->why), -ENOENT);
}

static void test_filters(void **state) {
        Fixture *f = *state;

        put(f, ID(1), "completed", "[\"alpha\",\"beta\"]", "2024-01-01T00:00:00Z");
        put(f, ID(2), "failed", "[\"alpha\"]", "2024-01-03T00:00:00Z");
        put(f, ID(3), "completed", "[\"alpha\"]", "2024-01-02T00:00:00Z");
        put(f, ID(4), "completed", "[\"alpha\"]",
            "2024-01-02T00:00:00Z"); /* same second: the later row first */
        assert_list(f, (CatalogFilter){ .limit = 10 }, 4, "2431");
        assert_list(f, (CatalogFilter){ .limit = 2, .offset = 1 }, 4, "43");
        assert_list(f, (CatalogFilter){ .limit = 2, .offset = UINT64_MAX }, 4, "");
        assert_list(f, (CatalogFilter){ .limit = 10, .status = "completed" }, 3, "431");
        assert_list(f, (CatalogFilter){ .limit = 10, .type = "full" }, 1, "1");
        assert_list(f, (CatalogFilter){ .limit = 10, .service = "beta" }, 1, "1");
        assert_list(f, (CatalogFilter){ .limit = 10, .service = "alph" }, 0, "");
        assert_list(f, (CatalogFilter){ .limit = 10, .service = "' OR 1 --" }, 0, "");
}

static void test_last_success(void **state) {
        Fixture *f = *state;
        char id[UUID_TEXT_MAX], text[CLOCK_TEXT_MAX];
        uint64_t usec;

        assert_int_equal(catalog_last_success(f->catalog, NULL, &usec, id, &f->why), -ENOENT);
        put(f, ID(1), "completed", "[\"alpha\",\"beta\"]", "2024-01-01T00:00:00Z");
        put(f, ID(2), "completed", "[\"alpha\"]", "2024-01-02T00:00:00Z");
        put(f, ID(3), "partial", "[\"alpha\"]", "2024-01-03T00:00:00Z");
        assert_int_equal(catalog_last_success(f->catalog, NULL, &usec, id, &f->why), 0);
        assert_string_equal(id, ID(2));
        clock_format(usec, text);
        assert_string_equal(text, "2024-01-02T00:00:00Z");
        assert_int_equal(catalog_last_success(f->catalog, "beta", &usec, id, &f->why), 0);
        assert_string_equal(id, ID(1));
        assert_int_equal(catalog_last_success(f->catalog, "gamma", &usec, id, &f->why), -ENOENT);
}

static json_object *
task(unsigned id, const char *type, const char *state, const char *result, uint64_t finished) {
        _cleanup_free_ char *text =
                text_printf("{\"id\":%u,\"task_id\":\"t%u\",\"type\":\"%s\",\"backup_id\":\"" ID(
                                    1) "\",\"state\":\"%s\","
                                       "\"result\":\"%s\",\"progress\":0.5,\"started_usec\":%llu,"
                                       "\"finished_usec\":%llu}",
                            id, id, type, state, result, (unsigned long long) finished,
                            (unsigned long long) finished);
        json_object *o = json_parse(text, strlen(text));

        assert_non_null(o);
        return o;
}

static void put_task(Fixture *f,
                     unsigned id,
                     const char *type,
                     const char *state,
                     const char *result,
                     uint64_t finished) {
        _cleanup_json_ json_object *o = task(id, type, state, result, finished);

        assert_int_equal(catalog_put_task(f->catalog, o, &f->why), 0);
}

static void test_tasks(void **state) {
        Fixture *f = *state;
        _cleanup_json_ json_object *list = NULL, *one = NULL;
        uint64_t now = clock_realtime_usec(), day = UINT64_C(86400) * USEC_PER_SEC, done, all;
        uint32_t highest;

        assert_int_equal(catalog_highest_task(f->catalog, &highest, &f->why), 0);
        assert_int_equal(highest, 0);
        put_task(f, 1, "backup", "finished", "done", now - 100 * day);
        put_task(f, 2, "backup", "finished", "failed", now - 10 * day);
        put_task(f, 3, "backup", "finished", "canceled", now - day);
        put_task(f, 4, "backup", "finished", "done", now - day);
        put_task(f, 5, "restore", "finished", "interrupted", now - day);
        assert_int_equal(
                catalog_task_rate(f->catalog, "backup", now - 30 * day, &done, &all, &f->why), 0);
        assert_int_equal(done, 1);
        assert_int_equal(all, 2);
        put_task(f, 6, "backup", "queued", "", 0); /* drops what is older than 90 days */
        assert_int_equal(catalog_get_task(f->catalog, 1, &one, &f->why), -ENOENT);
        assert_int_equal(catalog_list_tasks(
                                 f->catalog,
                                 &(CatalogTaskFilter){ .since_usec = now - 7 * day, .limit = 100 },
                                 &list, &f->why),
                         0);
        assert_int_equal(json_object_array_length(list), 4);
        assert_int_equal(catalog_task_progress(f->catalog, 6, 42, &f->why), 0);
        assert_int_equal(catalog_highest_task(f->catalog, &highest, &f->why), 0);
        assert_int_equal(highest, 6);
}

static void test_reconciles_are_few(void **state) {
        Fixture *f = *state;
        _cleanup_json_ json_object *list = NULL;
        uint32_t highest;

        for (unsigned i = 1; i <= 50; i++) {
                put_task(f, i, "reconcile", "queued", "", 0);
                put_task(f, i, "reconcile", "finished", "failed", clock_realtime_usec());
        }
        assert_int_equal(catalog_list_tasks(f->catalog, &(CatalogTaskFilter){ .limit = 100 }, &list,
                                            &f->why),
                         0);
        assert_int_equal(json_object_array_length(list), 20);
        assert_int_equal(catalog_highest_task(f->catalog, &highest, &f->why), 0);
        assert_int_equal(highest, 50);
}

static void test_interrupt(void **state) {
        Fixture *f = *state;
        _cleanup_json_ json_object *o = NULL, *b = NULL, *metadata = NULL;
        _cleanup_json_ json_object *interrupted = NULL, *none = NULL;
        Failure why = FAILURE_INIT;

        put(f, ID(1), "running", "[\"alpha\"]", "2024-01-01T00:00:00Z");
        put(f, ID(2), "completed", "[\"alpha\"]", "2024-01-01T00:00:00Z");
        put_task(f, 1, "backup", "running", "", 0);
        put_task(f, 2, "backup", "finished", "done", clock_realtime_usec());
        (void) fail_set(&why, FAIL_INTERRUPTED, EPIPE, "gone \x1b");
        assert_int_equal(catalog_interrupt(f->catalog, &why, &interrupted, &f->why), 0);
        assert_int_equal(json_object_array_length(interrupted), 1);
        o = json_object_array_get_idx(interrupted, 0);
        assert_string_equal(member(o, "task_id"), "t1");
        assert_string_equal(member(o, "result"), "interrupted");
        o = NULL;
        assert_int_equal(catalog_interrupt(f->catalog, &why, &none, &f->why), 0);
        assert_int_equal(json_object_array_length(none), 0);
        reopen(f);
        assert_status(f, ID(2), "completed");
        assert_int_equal(catalog_get_backup(f->catalog, ID(1), &b, &f->why), 0);
        assert_string_equal(member(b, "status"), "failed");
        assert_true(*member(b, "completed_at"));
        metadata = json_parse(member(b, "metadata"), strlen(member(b, "metadata")));
        assert_int_equal(json_get_object(metadata, "error", &o), 0);
        assert_string_equal(member(o, "name"), "Interrupted");
        assert_string_equal(member(o, "text"), "gone \\x1b");
        o = NULL;
        assert_int_equal(catalog_get_task(f->catalog, 1, &o, &f->why), 0);
        assert_string_equal(member(o, "result"), "interrupted");
        assert_string_equal(member(o, "state"), "finished");
        json_object_put(o);
        assert_int_equal(catalog_get_task(f->catalog, 2, &o, &f->why), 0);
        assert_string_equal(member(o, "result"), "done");
}

static void test_reconcile(void **state) {
        Fixture *f = *state;
        _cleanup_json_ json_object *removed = NULL, *gone = NULL;
        char now[CLOCK_TEXT_MAX];

        clock_format(clock_realtime_usec(), now);
        put(f, ID(1), "completed", "[\"alpha\"]", "2024-01-01T00:00:00Z");
        put(f, ID(2), "partial", "[\"alpha\"]", "2024-01-01T00:00:00Z");
        put(f, ID(3), "failed", "[\"alpha\"]", "2024-01-01T00:00:00Z");
        put(f, ID(4), "running", "[\"alpha\"]", "2024-01-01T00:00:00Z");
        put_restore(f, RESTORE(1), "active");
        put_restore(f, RESTORE(2), "active");
        put_restore(f, RESTORE(3), "staging");
        put_restore(f, RESTORE(4), "failed");
        put_restore_of(f, RESTORE(5), "failed", now, 1);
        assert_int_equal(catalog_reconcile_start(f->catalog, &f->why), 0);
        put(f, ID(1), "completed", "[\"alpha\"]", "2024-01-01T00:00:00Z");
        put_restore_of(f, RESTORE(1), "active", "2024-01-01T00:00:00Z", 0); /* as it is */
        put(f, ID(5), "completed", "[\"alpha\"]", "2024-01-01T00:00:00Z");  /* made meanwhile */
        assert_int_equal(catalog_reconcile_finish(f->catalog, &removed, &f->why), 0);
        assert_int_equal(json_object_array_length(removed), 1);
        assert_string_equal(json_object_get_string(json_object_array_get_idx(removed, 0)), ID(2));
        assert_list(f, (CatalogFilter){ .limit = 10 }, 4, "5431");
        assert_restore(f, RESTORE(1), "active");
        assert_restore(f, RESTORE(2), "confirmed");
        assert_restore(f, RESTORE(3), "failed");
        assert_restore(f, RESTORE(5), "failed");
        /* Of long ago, and nobody else knows it. */
        assert_int_equal(catalog_get_restore(f->catalog, RESTORE(4), &gone, &f->why), -ENOENT);
}

static void test_batches(void **state) {
        Fixture *f = *state;
        _cleanup_json_ json_object *o = NULL;

        assert_int_equal(catalog_batch_begin(f->catalog, &f->why), 0);
        put(f, ID(1), "completed", "[\"alpha\"]", "2024-01-01T00:00:00Z");
        assert_int_equal(catalog_batch_begin(f->catalog, &f->why), 0);
        put(f, ID(2), "completed", "[\"alpha\"]", "2024-01-01T00:00:00Z");
        catalog_batch_cancel(f->catalog);
        assert_true(catalog_batch_commit(f->catalog, &f->why) < 0);
        assert_int_equal(catalog_get_backup(f->catalog, ID(1), &o, &f->why), -ENOENT);
        f->why = FAILURE_INIT;
        assert_int_equal(catalog_batch_begin(f->catalog, &f->why), 0);
        assert_int_equal(catalog_batch_begin(f->catalog, &f->why), 0);
        put(f, ID(1), "completed", "[\"alpha\"]", "2024-01-01T00:00:00Z");
        assert_int_equal(catalog_batch_commit(f->catalog, &f->why), 0);
        assert_int_equal(catalog_batch_commit(f->catalog, &f->why), 0);
        reopen(f);
        assert_status(f, ID(1), "completed");
}

static char *database_path(Fixture *f) {
        return text_printf("%s/%s", f->dir, CATALOG_FILE);
}

static void test_mode(void **state) {
        Fixture *f = *state;
        _cleanup_free_ char *path = database_path(f);
        struct stat st;

        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
}

/* Puts `n` bytes of garbage at `offset` and expects an empty catalogue with the old one beside it.
 */
static void damage(Fixture *f, off_t offset, size_t n) {
        _cleanup_free_ char *path = database_path(f), *garbage = malloc(n);
        _cleanup_close_ int fd = -1;
        _cleanup_dir_ DIR *d = NULL;
        struct dirent *e;
        unsigned aside = 0;

        put(f, ID(1), "completed", "[\"alpha\"]", "2024-01-01T00:00:00Z");
        catalog_free(TAKE_PTR(f->catalog));
        memset(garbage, 0x5a, n);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, garbage, n, offset), (ssize_t) n);
        reopen(f);
        assert_list(f, (CatalogFilter){ .limit = 10 }, 0, "");
        d = opendir(f->dir);
        while ((e = readdir(d)))
                aside += strncmp(e->d_name, CATALOG_FILE ".damaged-",
                                 strlen(CATALOG_FILE ".damaged-")) == 0;
        assert_int_equal(aside, 1);
}

static void test_no_database(void **state) {
        damage(*state, 0, 4096);
}

static void test_damaged_page(void **state) {
        damage(*state, 4096, 4096);
}

/* Everything goes along, the marks of a reconcile too; the old place keeps what it had. */
static void test_move(void **state) {
        Fixture *f = *state;
        _cleanup_json_ json_object *removed = NULL;
        _cleanup_free_ char *elsewhere = text_printf("%s/elsewhere", f->dir);

        assert_int_equal(mkdir(elsewhere, 0700), 0);
        put(f, ID(1), "completed", "[\"alpha\"]", "2024-01-01T00:00:00Z");
        put(f, ID(2), "completed", "[\"alpha\"]", "2024-01-02T00:00:00Z");
        assert_int_equal(catalog_reconcile_start(f->catalog, &f->why), 0);
        assert_int_equal(catalog_reconcile_mark(f->catalog, ID(1), &f->why), 0);
        assert_int_equal(catalog_batch_begin(f->catalog, &f->why), 0);
        assert_int_equal(catalog_move(f->catalog, elsewhere, &f->why), -EBUSY);
        assert_int_equal(catalog_batch_commit(f->catalog, &f->why), 0);
        f->why = FAILURE_INIT;
        assert_int_equal(catalog_move(f->catalog, "/nowhere", &f->why), -ENOENT);
        f->why = FAILURE_INIT;
        assert_int_equal(catalog_move(f->catalog, elsewhere, &f->why), 0);
        assert_int_equal(catalog_reconcile_finish(f->catalog, &removed, &f->why), 0);
        assert_int_equal(json_object_array_length(removed), 1);
        assert_list(f, (CatalogFilter){ .limit = 10 }, 1, "1");
        put(f, ID(3), "completed", "[\"alpha\"]", "2024-01-03T00:00:00Z");
        assert_int_equal(catalog_move(f->catalog, f->dir, &f->why), 0);
        assert_list(f, (CatalogFilter){ .limit = 10 }, 2, "31");
        reopen(f);
        assert_list(f, (CatalogFilter){ .limit = 10 }, 2, "31");
}

static void test_newer(void **state) {
        Fixture *f = *state;
        const DbOptions options = { .busy_msec = 100 };
        _cleanup_free_ char *path = database_path(f);
        _cleanup_db_ Db *db = NULL;

        catalog_free(TAKE_PTR(f->catalog));
        assert_int_equal(db_open(path, &options, &db, &f->why), 0);
        assert_int_equal(db_exec(db, "PRAGMA user_version = 1000", &f->why), 0);
        db_close(TAKE_PTR(db));
        assert_int_equal(catalog_open(f->dir, &f->catalog, &f->why), -ENOTSUP);
        assert_non_null(strstr(f->why.text, "1000"));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_backups, setup, teardown),
                cmocka_unit_test_setup_teardown(test_filters, setup, teardown),
                cmocka_unit_test_setup_teardown(test_last_success, setup, teardown),
                cmocka_unit_test_setup_teardown(test_tasks, setup, teardown),
                cmocka_unit_test_setup_teardown(test_reconciles_are_few, setup, teardown),
                cmocka_unit_test_setup_teardown(test_interrupt, setup, teardown),
                cmocka_unit_test_setup_teardown(test_reconcile, setup, teardown),
                cmocka_unit_test_setup_teardown(test_batches, setup, teardown),
                cmocka_unit_test_setup_teardown(test_mode, setup, teardown),
                cmocka_unit_test_setup_teardown(test_no_database, setup, teardown),
                cmocka_unit_test_setup_teardown(test_damaged_page, setup, teardown),
                cmocka_unit_test_setup_teardown(test_move, setup, teardown),
                cmocka_unit_test_setup_teardown(test_newer, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
