#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fs.h"
#include "base/text.h"
#include "repo/repo-internal.h"
#include "tests/lib/repofix.h"

#define N_DIRS  60
#define N_FILES 50

/* A tree of N_DIRS directories in two services, entries large enough for several blocks. */
static json_object *make_tree(RepoFix *x, unsigned skip) {
        static const char *const services[] = { "alpha", "beta" };
        RepoSession *s = repofix_begin(x, NULL);
        EntryLocal local = { 0 };
        Failure failure = FAILURE_INIT;
        json_object *record;
        RepoTotals totals;
        unsigned n = 0;

        for (size_t i = 0; i < ELEMENTSOF(services); i++)
                for (unsigned d = 0; d < N_DIRS; d++)
                        for (unsigned f = 0; f < N_FILES; f++) {
                                char dir[32], name[128];
                                Entry e = {
                                        .service = services[i],
                                        .dir = dir,
                                        .name = name,
                                        .type = ENTRY_FIFO,
                                        .mode = 0600,
                                };

                                if (n++ == skip)
                                        continue;
                                (void) snprintf(dir, sizeof(dir), "/d%03u", d);
                                (void) snprintf(name, sizeof(name), "%0100u", f);
                                if (repo_session_add(s, &e, &local, -1, true, &failure) != 0)
                                        fail_msg("%s", failure.text);
                        }
        record = repofix_commit(s, &totals);
        repo_session_free(s);
        return record;
}

static unsigned count_rest(RepoManifest *m) {
        Failure failure = FAILURE_INIT;
        const Entry *e;
        unsigned n = 0;

        while (repo_manifest_next(m, &e, &failure) > 0)
                n++;
        assert_int_equal(failure.code, FAIL_NONE);
        return n;
}

static void check_seek(RepoManifest *m, const char *service, const char *dir, unsigned expected) {
        Failure failure = FAILURE_INIT;

        assert_int_equal(repo_manifest_seek(m, service, dir, &failure), 0);
        assert_int_equal(count_rest(m), expected);
}

static void test_seek(void **state) {
        const unsigned all = 2 * N_DIRS * N_FILES, half = N_DIRS * N_FILES;
        _cleanup_json_ json_object *record = NULL;
        RepoManifest *m;
        RepoFix *x = *state;

        record = make_tree(x, UINT32_MAX);
        m = repofix_manifest(x, record);
        assert_int_equal(count_rest(m), all);
        check_seek(m, NULL, NULL, all);
        check_seek(m, "alpha", NULL, all);
        check_seek(m, "aardvark", NULL, all);
        check_seek(m, "beta", NULL, half);
        check_seek(m, "between", NULL, half - half);
        check_seek(m, "b", "/zzz", half);
        check_seek(m, "zoo", NULL, 0);
        for (unsigned d = 0; d < N_DIRS; d++) {
                char dir[32];

                (void) snprintf(dir, sizeof(dir), "/d%03u", d);
                check_seek(m, "alpha", dir, all - d * N_FILES);
                check_seek(m, "beta", dir, half - d * N_FILES);
                (void) snprintf(dir, sizeof(dir), "/d%03u/x", d);
                check_seek(m, "beta", dir, half - (d + 1) * N_FILES);
        }
        repo_manifest_free(m);
}

typedef struct Ids {
        unsigned n[8];
        uint8_t first_block[ID_SIZE];
} Ids;

static int count_id(void *userdata, uint8_t class, const uint8_t id[ID_SIZE], Failure *reterr) {
        Ids *ids = userdata;

        assert_true(class < ELEMENTSOF(ids->n));
        if (class == CLASS_BLOCK && ids->n[class] == 0)
                memcpy(ids->first_block, id, ID_SIZE);
        ids->n[class]++;
        return 0;
}

/* One removed entry makes at most two other blocks: all further ones are shared. */
static void test_shared_blocks(void **state) {
        _cleanup_json_ json_object *first = NULL, *second = NULL;
        Failure failure = FAILURE_INIT;
        uint64_t new_bytes;
        Ids ids = { 0 };
        RepoFix *x = *state;

        first = make_tree(x, UINT32_MAX);
        assert_int_equal(manifest_walk_ids(x->repo, first, count_id, &ids, &failure), 0);
        assert_int_equal(ids.n[CLASS_ROOT], 1);
        assert_in_range(ids.n[CLASS_BLOCK], 4, 50);
        second = make_tree(x, 100);
        assert_int_equal(json_get_u64(second, "new_bytes", &new_bytes), 0);
        assert_true(new_bytes < 10000); /* 600 KiB of names, a few KiB a block once compressed */
}

static void test_walk_ids(void **state) {
        _cleanup_json_ json_object *record = NULL;
        Failure failure = FAILURE_INIT;
        RepoTotals totals;
        RepoSession *s;
        Ids ids = { 0 };
        RepoFix *x = *state;

        s = repofix_begin(x, NULL);
        repofix_add(s, "/srv", "empty", 1, 0);
        repofix_add(s, "/srv", "large", 1, 3 << 20);
        repofix_add(s, "/srv", "small", 2, 100);
        repofix_add(s, "/srv", "very large", 3, 600 << 20);
        record = repofix_commit(s, &totals);
        repo_session_free(s);
        assert_int_equal(manifest_walk_ids(x->repo, record, count_id, &ids, &failure), 0);
        assert_int_equal(ids.n[CLASS_LARGE], 603);
        assert_int_equal(ids.n[CLASS_SMALL], 1);
        assert_int_equal(ids.n[CLASS_LIST], 1);
        assert_int_equal(ids.n[CLASS_BLOCK], 1);
        assert_int_equal(ids.n[CLASS_ROOT], 1);
}

static void test_empty(void **state) {
        _cleanup_json_ json_object *record = NULL;
        Failure failure = FAILURE_INIT;
        RepoTotals totals;
        RepoManifest *m;
        RepoSession *s;
        RepoFix *x = *state;

        s = repofix_begin(x, NULL);
        record = repofix_commit(s, &totals);
        repo_session_free(s);
        assert_int_equal(totals.entries, 0);
        m = repofix_manifest(x, record);
        assert_int_equal(count_rest(m), 0);
        assert_int_equal(repo_manifest_seek(m, "main", "/srv", &failure), 0);
        assert_int_equal(count_rest(m), 0);
        repo_manifest_free(m);
}

static void test_bad_records(void **state) {
        static const char *const bad[] = {
                "{}",
                "{\"manifest\":7}",
                "{\"manifest\":{\"roots\":[7]}}",
                "{\"manifest\":{\"roots\":[\"abcd\"]}}",
        };
        RepoFix *x = *state;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_json_ json_object *record = json_parse(bad[i], strlen(bad[i]));
                Failure failure = FAILURE_INIT;
                RepoManifest *m = NULL;

                assert_non_null(record);
                assert_true(repo_manifest_open(x->repo, record, &m, &failure) < 0);
                assert_int_equal(failure.code, FAIL_INTEGRITY_FAILURE);
        }
}

static int
ignore_content(void *userdata, uint64_t offset, const void *data, size_t n, Failure *reterr) {
        return 0;
}

static json_object *one_file(RepoFix *x) {
        RepoSession *s = repofix_begin(x, NULL);
        RepoTotals totals;
        json_object *record;

        repofix_add(s, "/srv", "file", 1, 2 << 20);
        record = repofix_commit(s, &totals);
        repo_session_free(s);
        return record;
}

/* Without the private key names can be read, content cannot. */
static void test_no_private_key(void **state) {
        _cleanup_json_ json_object *record = NULL;
        _cleanup_free_ char *key = NULL;
        Failure failure = FAILURE_INIT;
        RepoManifest *m;
        const Entry *e;
        RepoFix *x = *state;

        record = one_file(x);
        key = text_printf("%s/private.pem", x->keys);
        assert_return_code(unlink(key), errno);
        repofix_reopen(x);
        m = repofix_manifest(x, record);
        assert_int_equal(repo_manifest_next(m, &e, &failure), 1);
        assert_string_equal(e->name, "file");
        assert_true(repo_content_read(m, e, ignore_content, NULL, &failure) < 0);
        assert_int_equal(failure.code, FAIL_KEY_MISSING);
        repo_manifest_free(m);
}

/* Lost packs are named by what they held; nothing is made up. */
static void test_lost_packs(void **state) {
        _cleanup_json_ json_object *record = NULL;
        _cleanup_free_ char *packs = NULL;
        Failure failure = FAILURE_INIT;
        RepoManifest *m;
        const Entry *e;
        RepoFix *x = *state;

        record = one_file(x);
        packs = text_printf("%s/packs", x->path);
        assert_int_equal(fs_remove_tree(AT_FDCWD, packs, NULL, NULL), 0);
        assert_return_code(mkdir(packs, 0700), errno);
        repofix_reopen(x);
        m = repofix_manifest(x, record);
        assert_true(repo_manifest_next(m, &e, &failure) < 0);
        assert_int_equal(failure.code, FAIL_INTEGRITY_FAILURE);
        repo_manifest_free(m);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                repofix_test(test_seek),        repofix_test(test_shared_blocks),
                repofix_test(test_walk_ids),    repofix_test(test_empty),
                repofix_test(test_bad_records), repofix_test(test_no_private_key),
                repofix_test(test_lost_packs),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
