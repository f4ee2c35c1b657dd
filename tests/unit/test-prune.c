/*
 * Prune: what goes, what stays, what makes it refuse; and any sequence of backups, deletions,
 * prunes that are cut off, lost indexes and damaged packs against a model.
 */

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "repo/pack.h"
#include "sql/db.h"
#include "tests/lib/repofix.h"

#define FILES 4

/* A backup of FILES files: those from `first` on are what `seed` says, the others are those of
 * seed 0. */
static void back_up(RepoFix *x, uint64_t seed, unsigned first, char ret_id[UUID_TEXT_MAX]) {
        _cleanup_json_ json_object *record = NULL;
        RepoSession *s = repofix_begin(x, NULL);
        RepoTotals totals;
        const char *id;

        for (unsigned i = 0; i < FILES; i++) {
                char name[2] = { (char) ('a' + i), 0 };

                repofix_add(s, "/srv", name, (i < first ? 0 : seed) * 100 + i,
                            i == 0 ? 70000 : 600 + i);
        }
        record = repofix_commit(s, &totals);
        assert_int_equal(json_get_string(record, "backup_id", &id), 0);
        (void) snprintf(ret_id, UUID_TEXT_MAX, "%s", id);
        repo_session_free(s);
}

typedef struct Found {
        unsigned n;
        char objects[1000];
} Found;

static void on_damage(void *userdata, const char *object, const Failure *why) {
        Found *f = userdata;
        size_t n = strlen(f->objects);

        f->n++;
        (void) snprintf(f->objects + n, sizeof(f->objects) - n, "%s: %s\n", object, why->text);
}

static int try_prune(RepoFix *x, bool dry, Found *ret, RepoPrune *sum, Failure *why) {
        RepoPruneParams params = { .dry_run = dry, .on_damage = on_damage, .userdata = ret };

        *ret = (Found){ 0 };
        *why = FAILURE_INIT;
        return repo_prune(x->repo, &params, sum, why);
}

static RepoPrune prune(RepoFix *x) {
        RepoPrune sum;
        Failure why;
        Found f;

        if (try_prune(x, false, &f, &sum, &why) < 0)
                fail_msg("%s; %s", why.text, f.objects);
        return sum;
}

static int check(RepoFix *x, const char *id, bool metadata, Found *ret) {
        RepoCheck sum;
        Failure why = FAILURE_INIT;

        *ret = (Found){ 0 };
        return repo_check(x->repo, id, metadata, on_damage, NULL, ret, &sum, &why);
}

static void expect_sound(RepoFix *x, const char *id) {
        Found f;

        if (check(x, id, false, &f) < 0 || check(x, id, true, &f) < 0)
                fail_msg("%s: %s", id, f.objects);
}

static void expect_content(RepoFix *x, const char *id, uint64_t seed, unsigned first) {
        _cleanup_json_ json_object *record = NULL;
        RepoManifest *m;
        const Entry *e;
        unsigned n = 0;

        assert_int_equal(repo_record_load(x->repo, id, &record, NULL), 0);
        m = repofix_manifest(x, record);
        for (; repo_manifest_next(m, &e, NULL) > 0; n++)
                repofix_check_content(m, e, (n < first ? 0 : seed) * 100 + n);
        assert_int_equal(n, FILES);
        repo_manifest_free(m);
}

static unsigned packs(RepoFix *x) {
        return repofix_count(x, "packs", ".pack");
}

static void forget_index(RepoFix *x) {
        repo_close(TAKE_PTR(x->repo));
        (void) unlinkat(x->state_fd, "index.db-wal", 0);
        (void) unlinkat(x->state_fd, "index.db-shm", 0);
        assert_return_code(unlinkat(x->state_fd, "index.db", 0), errno);
        repofix_reopen(x);
}

/* ---- what goes and what stays ---- */

static void test_nothing_to_do(void **state) {
        RepoFix *x = *state;
        char id[UUID_TEXT_MAX];
        RepoPrune sum = prune(x);

        assert_int_equal(sum.packs, 0);
        back_up(x, 1, 0, id);
        sum = prune(x);
        assert_int_equal(sum.packs + sum.sessions + sum.condemned + sum.missing, 0);
        expect_sound(x, id);
}

static void test_whole_packs(void **state) {
        RepoFix *x = *state;
        char a[UUID_TEXT_MAX], b[UUID_TEXT_MAX];
        uint64_t bytes;
        RepoPrune sum;
        Failure why;
        Found f;

        back_up(x, 1, 0, a);
        bytes = repo_stored_bytes(x->repo);
        back_up(x, 2, 0, b);
        assert_int_equal(packs(x), 4);
        assert_int_equal(repo_delete(x->repo, a, NULL), 0);
        assert_int_equal(try_prune(x, true, &f, &sum, &why), 0);
        assert_int_equal(sum.packs, 2);
        assert_int_equal(packs(x), 4);
        sum = prune(x);
        assert_int_equal(sum.packs, 2);
        assert_int_equal(sum.freed_bytes, bytes);
        assert_int_equal(sum.sessions, 1);
        assert_int_equal(packs(x), 2);
        expect_sound(x, b);
        assert_true(repo_base_is_trusted(x->repo, b)); /* nothing vanished */
        repofix_reopen(x);
        assert_true(repo_base_is_trusted(x->repo, b));
        expect_content(x, b, 2, 0);
        assert_int_equal(prune(x).packs, 0);
        back_up(x, 1, 0, a); /* no hit in the void */
        expect_sound(x, a);
}

/* One member of a bundle, of another backup, keeps the pack; the session keeps its key. */
static void test_shared(void **state) {
        RepoFix *x = *state;
        char a[UUID_TEXT_MAX], b[UUID_TEXT_MAX];
        RepoPrune sum;

        back_up(x, 0, 0, a);
        back_up(x, 1, 3, b);
        assert_int_equal(repo_delete(x->repo, a, NULL), 0);
        sum = prune(x);
        assert_int_equal(sum.packs, 1); /* a's metadata */
        assert_int_equal(sum.sessions, 0);
        expect_sound(x, b);
        expect_content(x, b, 1, 3);
}

static void test_dry_run_without(void **state) {
        RepoFix *x = *state;
        char a[UUID_TEXT_MAX], b[UUID_TEXT_MAX];
        const char *without[] = { a };
        RepoPruneParams params = { .dry_run = true, .without = without, .n_without = 1 };
        RepoPrune sum;

        back_up(x, 1, 0, a);
        back_up(x, 2, 0, b);
        assert_int_equal(repo_prune(x->repo, &params, &sum, NULL), 0);
        assert_int_equal(sum.packs, 2);
        expect_sound(x, a);
}

/* ---- leftovers ---- */

static void test_leftovers(void **state) {
        RepoFix *x = *state;
        char id[UUID_TEXT_MAX];
        RepoSession *s;
        RepoTotals totals;
        pid_t child;
        int status;

        back_up(x, 1, 0, id);
        child = fork();
        if (child == 0) { /* dies with its packs published, and its record not yet written */
                s = repofix_begin(x, NULL);
                repofix_add(s, "/srv", "a", 9, 70000);
                (void) repo_session_finish(s, &totals, NULL);
                _exit(0);
        }
        assert_return_code(child, errno);
        assert_return_code(waitpid(child, &status, 0), errno);
        repofix_reopen(x);
        assert_int_equal(packs(x), 4);
        assert_int_equal(repo_pin(x->repo, "00000000-0000-4000-8000-000000000001", true, NULL), 0);
        assert_int_equal(prune(x).packs, 2);
        assert_int_equal(repofix_count(x, "sessions", ""), 1);
        assert_int_equal(repofix_count(x, "pins", ""), 0);
        expect_sound(x, id);
}

/* ---- readers ---- */

static void test_reader(void **state) {
        RepoFix *x = *state;
        _cleanup_free_ char *path = text_printf("%s/packs", x->path);
        char a[UUID_TEXT_MAX], b[UUID_TEXT_MAX];
        RepoPrune sum;
        int fd;

        back_up(x, 1, 0, a);
        back_up(x, 2, 0, b);
        assert_int_equal(repo_delete(x->repo, a, NULL), 0);
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_return_code(flock(fd, LOCK_SH | LOCK_NB), errno);
        sum = prune(x);
        assert_int_equal(sum.packs, 0);
        assert_int_equal(sum.condemned, 2);
        assert_int_equal(packs(x), 4);
        /* A backup may use again what was condemned. */
        back_up(x, 1, 0, a);
        assert_int_equal(prune(x).condemned, 0);
        assert_int_equal(packs(x), 4);
        assert_int_equal(repo_delete(x->repo, a, NULL), 0);
        assert_return_code(close(fd), errno);
        assert_int_equal(prune(x).packs, 2);
        expect_sound(x, b);
        /* The lock is shared again: others may read. */
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_return_code(flock(fd, LOCK_SH | LOCK_NB), errno);
        assert_return_code(close(fd), errno);
}

/* ---- damage ---- */

static char *found_path;
static const char *found_part, *found_not;

static int on_file(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        if (type != FTW_F || !strstr(path, found_part) || (found_not && strstr(path, found_not)))
                return 0;
        found_path = strdup(path);
        return 1;
}

/* The path of a file whose path has `part` in it. Owned. */
static char *find_file(RepoFix *x, const char *part) {
        found_part = part;
        found_path = NULL;
        (void) nftw(x->path, on_file, 16, FTW_PHYS);
        assert_non_null(found_path);
        return found_path;
}

/* A pack of this kind that has `at` bytes at least. Owned. */
static char *find_pack(RepoFix *x, PackKind kind) {
        char *path = find_file(x, ".pack");
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        uint8_t header[PACK_HEADER_SIZE];

        assert_int_equal(fd_pread_full(fd, header, sizeof(header), 0), (int) sizeof(header));
        if (get_le16(header + PACK_AT_KIND) == kind)
                return path;
        found_not = path;
        found_part = ".pack";
        found_path = NULL;
        (void) nftw(x->path, on_file, 16, FTW_PHYS);
        found_not = NULL;
        free(path);
        assert_non_null(found_path);
        return found_path;
}

static void flip(const char *path, uint64_t at) {
        _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
        uint8_t byte;

        assert_return_code(fd, errno);
        assert_int_equal(fd_pread_full(fd, &byte, 1, at), 1);
        byte ^= 4;
        assert_int_equal(fd_pwrite_full(fd, &byte, 1, at), 0);
}

static void expect_refusal(RepoFix *x, const char *id) {
        unsigned before = packs(x);
        RepoPrune sum;
        Failure why;
        Found f;

        assert_true(try_prune(x, false, &f, &sum, &why) < 0);
        assert_int_equal(why.code, FAIL_INTEGRITY_FAILURE);
        assert_non_null(strstr(f.objects, id));
        assert_int_equal(packs(x), before);
}

static void test_damaged_record(void **state) {
        RepoFix *x = *state;
        char a[UUID_TEXT_MAX], b[UUID_TEXT_MAX];
        _cleanup_free_ char *path = NULL;

        back_up(x, 1, 0, a);
        back_up(x, 2, 0, b);
        path = find_file(x, b);
        assert_int_equal(repo_delete(x->repo, a, NULL), 0);
        flip(path, 100);
        expect_refusal(x, b);
        flip(path, 100);
        expect_sound(x, b);
        assert_int_equal(prune(x).packs, 2);
        flip(path, 100);
        assert_int_equal(repo_delete(x->repo, b, NULL), 0); /* the way out */
        assert_int_equal(prune(x).packs, 2);
}

static void test_damaged_manifest(void **state) {
        RepoFix *x = *state;
        char a[UUID_TEXT_MAX], b[UUID_TEXT_MAX], again[UUID_TEXT_MAX];
        _cleanup_free_ char *path = NULL, *away = NULL;

        back_up(x, 1, 0, a);
        path = find_pack(x, PACK_META);
        away = text_printf("%s/away", x->top);
        back_up(x, 2, 0, b);
        assert_int_equal(repo_delete(x->repo, b, NULL), 0);
        flip(path, 70);
        expect_refusal(x, a);
        flip(path, 70);
        assert_return_code(rename(path, away), errno);
        repofix_reopen(x);
        expect_refusal(x, a);
        assert_return_code(rename(away, path), errno);
        repofix_reopen(x);
        assert_int_equal(prune(x).packs, 2);
        expect_sound(x, a);
        back_up(x, 1, 0, again);
        expect_sound(x, again);
}

/* Lost content does not stop prune, but what may be mended stays. */
static void test_missing_content(void **state) {
        RepoFix *x = *state;
        char a[UUID_TEXT_MAX], b[UUID_TEXT_MAX];
        _cleanup_free_ char *path = NULL;
        struct stat st;
        RepoPrune sum;

        back_up(x, 1, 0, a);
        path = find_pack(x, PACK_CONTENT);
        back_up(x, 2, 0, b);
        assert_int_equal(repo_delete(x->repo, b, NULL), 0);
        assert_return_code(stat(path, &st), errno);
        assert_return_code(truncate(path, st.st_size / 2), errno);
        repofix_reopen(x);
        sum = prune(x);
        assert_int_equal(sum.packs, 2);
        assert_int_equal(sum.missing, FILES);
        assert_return_code(access(path, F_OK), errno);
        assert_int_equal(repofix_count(x, "sessions", ""), 2); /* whose, cannot be read */
        /* Stored again, it is not needed any more. */
        back_up(x, 1, 0, b);
        sum = prune(x);
        assert_int_equal(sum.packs, 1);
        assert_int_equal(sum.missing, 0);
        assert_int_equal(access(path, F_OK), -1);
        expect_sound(x, a);
        expect_sound(x, b);
}

/* ---- bit rot ---- */

static void bit_rot(RepoFix *x, PackKind kind) {
        char a[UUID_TEXT_MAX], b[UUID_TEXT_MAX];
        _cleanup_free_ char *path = NULL;
        RepoFacts facts;
        Found f;

        back_up(x, 1, 0, a);
        path = find_pack(x, kind);
        flip(path, 100);
        assert_true(check(x, a, false, &f) < 0);
        assert_non_null(strstr(f.objects, strrchr(path, '/') + 1));
        assert_int_equal(repo_facts(x->repo, &facts, NULL), 0);
        assert_int_equal(facts.suspects, 1);
        assert_false(repo_base_is_trusted(x->repo, a));
        repofix_reopen(x);
        assert_false(repo_base_is_trusted(x->repo, a));
        /* It survives the index, which is a cache. */
        forget_index(x);
        assert_false(repo_base_is_trusted(x->repo, a));
        back_up(x, 1, 0, b); /* nothing has changed, and still it is stored again */
        expect_sound(x, b);
        expect_content(x, b, 1, 0);
        expect_sound(x, a); /* mended by that */
        assert_true(prune(x).packs >= 1);
        assert_int_equal(access(path, F_OK), -1);
        expect_sound(x, a);
        expect_sound(x, b);
        assert_int_equal(repo_facts(x->repo, &facts, NULL), 0);
        assert_int_equal(facts.suspects, 0);
}

static void test_rotten_content(void **state) {
        bit_rot(*state, PACK_CONTENT);
}

static void test_rotten_metadata(void **state) {
        bit_rot(*state, PACK_META);
}

static void test_mended(void **state) {
        RepoFix *x = *state;
        char a[UUID_TEXT_MAX], b[UUID_TEXT_MAX];
        _cleanup_free_ char *path = NULL;
        unsigned before;
        Found f;

        back_up(x, 1, 0, a);
        path = find_pack(x, PACK_CONTENT);
        flip(path, 100);
        assert_int_equal(check(x, a, true, &f), 0); /* metadata does not read content */
        assert_true(check(x, a, false, &f) < 0);
        flip(path, 100);
        assert_int_equal(check(x, a, false, &f), 0);
        before = packs(x);
        back_up(x, 1, 0, b);
        assert_int_equal(packs(x), before); /* it is relied on again */
}

/* Rows that a session took over and lost come back: what can be read must be found. */
static void test_session_given_up(void **state) {
        RepoFix *x = *state;
        char a[UUID_TEXT_MAX];
        _cleanup_free_ char *path = NULL;
        RepoSession *s;
        Found f;

        back_up(x, 1, 0, a);
        path = find_pack(x, PACK_CONTENT);
        flip(path, 100);
        assert_true(check(x, a, false, &f) < 0);
        flip(path, 100);
        s = repofix_begin(x, NULL);
        for (unsigned i = 0; i < FILES; i++) {
                char name[2] = { (char) ('a' + i), 0 };

                repofix_add(s, "/srv", name, 100 + i, i == 0 ? 70000 : 600 + i);
        }
        {
                RepoTotals totals;

                assert_int_equal(repo_session_finish(s, &totals, NULL), 0);
        }
        repo_session_free(s);
        repofix_reopen(x);
        expect_content(x, a, 1, 0);
        expect_sound(x, a);
}

/* ---- an index that lies ---- */

static void index_sql(RepoFix *x, const char *sql) {
        _cleanup_free_ char *path = text_printf("%s/state/index.db", x->top);
        const DbOptions options = { .busy_msec = 1000 };
        Db *db = NULL;
        bool alone;
        int seal;

        repo_close(TAKE_PTR(x->repo));
        assert_int_equal(db_open(path, &options, &db, NULL), 0);
        assert_int_equal(db_exec(db, sql, NULL), 0);
        db_close(db);
        /* As if it had been ours: what another hand does is not believed. */
        seal = index_seal_open(x->state_fd, &alone);
        assert_true(alone);
        index_seal_put(seal, x->state_fd);
        (void) close(seal);
        repofix_reopen(x);
}

/* The packs of two live backups, and an index that has all of the first in the second's. */
static void test_wrong_index(void **state) {
        RepoFix *x = *state;
        char a[UUID_TEXT_MAX], b[UUID_TEXT_MAX];
        RepoPrune sum;
        Failure why;
        Found f;

        back_up(x, 1, 0, a);
        back_up(x, 2, 0, b);
        index_sql(x, "UPDATE chunks SET pack_no ="
                     " (SELECT max(no) FROM packs WHERE kind = 1) WHERE class IN (1, 2)");
        assert_true(try_prune(x, false, &f, &sum, &why) < 0);
        assert_int_equal(why.errnum, EUCLEAN);
        assert_int_equal(packs(x), 4);
        repofix_reopen(x);
        assert_int_equal(prune(x).packs, 0);
        expect_sound(x, a);
        expect_sound(x, b);
        /* And one that has lost rows. */
        assert_int_equal(repo_delete(x->repo, a, NULL), 0);
        index_sql(x, "DELETE FROM chunks WHERE class = 1");
        assert_true(try_prune(x, false, &f, &sum, &why) < 0);
        repofix_reopen(x);
        assert_int_equal(prune(x).packs, 2);
        expect_sound(x, b);
}

/* ---- at random ---- */

#define MODEL_MAX 12

typedef struct Model {
        struct {
                char id[UUID_TEXT_MAX];
                uint64_t seed;
                unsigned first;
        } items[MODEL_MAX];
        size_t n;
} Model;

static uint64_t random_seed = 42;

static uint64_t dice(uint64_t sides) {
        random_seed ^= random_seed << 13;
        random_seed ^= random_seed >> 7;
        random_seed ^= random_seed << 17;
        return random_seed % sides;
}

static void random_backup(RepoFix *x, Model *m) {
        m->items[m->n].seed = dice(3) ? 1 + dice(4) : 1000 + dice(1000);
        m->items[m->n].first = (unsigned) dice(FILES);
        back_up(x, m->items[m->n].seed, m->items[m->n].first, m->items[m->n].id);
        m->n++;
}

static void random_delete(RepoFix *x, Model *m) {
        size_t i = dice(m->n);

        assert_int_equal(repo_delete(x->repo, m->items[i].id, NULL), 0);
        m->items[i] = m->items[--m->n];
}

/* Cut off by an interruption, or by the death of the process at one of the steps. */
static void random_prune(RepoFix *x) {
        static const char *const steps[] = {
                "marked",          "condemned",       "rows-forgotten",
                "pack-unlinked@1", "pack-unlinked@2", "session-deleted"
        };
        uint64_t how = dice(4);

        if (how == 0) {
                RepoPrune sum;
                Failure why;
                Found f;

                x->polls_left = (int) dice(60);
                (void) try_prune(x, false, &f, &sum, &why);
                x->polls_left = -1;
                return;
        }
        if (how == 1) {
                const char *name = steps[dice(ELEMENTSOF(steps))];
                int status;
                pid_t child;

                repo_close(TAKE_PTR(x->repo));
                child = fork();
                if (child == 0) {
                        char value[40];

                        (void) snprintf(value, sizeof(value), "%s=kill", name);
                        (void) setenv("HOLDPOINT_STEP", value, 1);
                        repofix_reopen(x);
                        (void) prune(x);
                        _exit(0);
                }
                assert_return_code(child, errno);
                assert_return_code(waitpid(child, &status, 0), errno);
                repofix_reopen(x);
                return;
        }
        (void) prune(x);
}

static void random_step(RepoFix *x, Model *m) {
        uint64_t what = dice(20);

        if (what < 8 && m->n < MODEL_MAX)
                random_backup(x, m);
        else if (what < 13 && m->n > 0)
                random_delete(x, m);
        else if (what < 17)
                random_prune(x);
        else if (what < 19)
                repofix_reopen(x);
        else
                forget_index(x);
}

static void test_at_random(void **state) {
        const char *wanted = getenv("HOLDPOINT_TEST_STEPS");
        unsigned steps = wanted ? (unsigned) strtoul(wanted, NULL, 10) : 400;
        RepoFix *x = *state;
        Model m = { .n = 0 };

        for (unsigned i = 0; i < steps; i++) {
                random_step(x, &m);
                for (size_t k = 0; k < m.n; k++) {
                        Found f;

                        if (check(x, m.items[k].id, i % 8 > 0, &f) < 0)
                                fail_msg("step %u: %s", i, f.objects);
                        if (i % 16 == 0)
                                expect_content(x, m.items[k].id, m.items[k].seed, m.items[k].first);
                }
        }
        while (m.n > 0)
                random_delete(x, &m);
        (void) prune(x);
        assert_int_equal(packs(x), 0);
        assert_int_equal(repofix_count(x, "sessions", ""), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                repofix_test(test_nothing_to_do),    repofix_test(test_whole_packs),
                repofix_test(test_shared),           repofix_test(test_dry_run_without),
                repofix_test(test_leftovers),        repofix_test(test_reader),
                repofix_test(test_damaged_record),   repofix_test(test_damaged_manifest),
                repofix_test(test_missing_content),  repofix_test(test_rotten_content),
                repofix_test(test_rotten_metadata),  repofix_test(test_mended),
                repofix_test(test_session_given_up), repofix_test(test_wrong_index),
                repofix_test(test_at_random),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
