/*
 * Two manifests compared, against a comparison that knows what was put into them; and what one
 * difference may cost.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "repo/manifest.h"
#include "tests/lib/repofix.h"

#define N_SERVICES 2
#define N_DIRS     60
#define N_FILES    50
#define N_ALL      (N_SERVICES * N_DIRS * N_FILES)

/* What a tree holds at each place. */
enum { ABSENT, PLAIN, OTHER_MODE, OTHER_TYPE };

static const char *const services[N_SERVICES] = { "alpha", "beta" };

static json_object *make_tree(RepoFix *x, const uint8_t *states) {
        RepoSession *s = repofix_begin(x, NULL);
        EntryLocal local = { 0 };
        json_object *record;
        RepoTotals totals;

        for (unsigned i = 0; i < N_ALL; i++) {
                char dir[32], name[128];
                Entry e = { .service = services[i / (N_DIRS * N_FILES)],
                            .dir = dir,
                            .name = name,
                            .type = states[i] == OTHER_TYPE ? ENTRY_DIRECTORY : ENTRY_FIFO,
                            .mode = states[i] == OTHER_MODE ? 0644 : 0600 };

                if (states[i] == ABSENT)
                        continue;
                (void) snprintf(dir, sizeof(dir), "/d%03u", i / N_FILES % N_DIRS);
                (void) snprintf(name, sizeof(name), "%0100u", i % N_FILES);
                assert_int_equal(repo_session_add(s, &e, &local, -1, true, NULL), 0);
        }
        record = repofix_commit(s, &totals);
        repo_session_free(s);
        return record;
}

typedef struct Seen {
        const uint8_t *before, *after;
        unsigned next; /* the place that is looked at next */
        unsigned n, end, blocks;
        uint64_t entries;
} Seen;

static unsigned place_of(const Entry *e) {
        unsigned service = strcmp(e->service, services[1]) == 0;

        return (service * N_DIRS + (unsigned) atoi(e->dir + 2)) * N_FILES +
               (unsigned) atoi(e->name);
}

/* Nothing between the last difference and this one may differ, and this one as it was made. */
static int check_difference(void *userdata, const RepoDifference *d, Failure *reterr) {
        Seen *s = userdata;
        unsigned at = place_of(d->before ? d->before : d->after);
        uint8_t a = s->before[at], b = s->after[at];

        assert_true(at < s->end);
        for (; s->next < at; s->next++)
                assert_int_equal(s->before[s->next], s->after[s->next]);
        s->next = at + 1;
        assert_int_not_equal(a, b);
        assert_int_equal(!d->before, a == ABSENT);
        assert_int_equal(!d->after, b == ABSENT);
        if (a != ABSENT && b != ABSENT) {
                assert_int_equal(d->content, a == OTHER_TYPE || b == OTHER_TYPE);
                assert_int_equal(d->metadata, a == OTHER_MODE || b == OTHER_MODE);
        }
        s->n++;
        return 0;
}

static int count_entries(void *userdata, uint64_t entries, Failure *reterr) {
        Seen *s = userdata;

        assert_true(entries >= s->entries);
        s->entries = entries;
        return 0;
}

static int count_block(void *userdata, uint8_t class, const uint8_t id[ID_SIZE], Failure *reterr) {
        Seen *s = userdata;

        s->blocks += class == CLASS_BLOCK;
        return 0;
}

static Seen compare(RepoFix *x,
                    json_object *a,
                    json_object *b,
                    const uint8_t *before,
                    const uint8_t *after,
                    const char *service) {
        Seen s = { .before = before, .after = after, .end = N_ALL };
        RepoManifest *m = repofix_manifest(x, a), *n = repofix_manifest(x, b);
        Failure failure = FAILURE_INIT;

        m->on_record = n->on_record = count_block;
        m->userdata = n->userdata = &s;
        if (service && strcmp(service, services[0]) == 0)
                s.end = N_ALL / 2;
        if (service && strcmp(service, services[1]) == 0)
                s.next = N_ALL / 2;
        if (repo_manifest_diff(m, n, service, check_difference, count_entries, &s, &failure) < 0)
                fail_msg("%s", failure.text);
        for (; s.next < s.end; s.next++)
                assert_int_equal(before[s.next], after[s.next]);
        repo_manifest_free(m);
        repo_manifest_free(n);
        return s;
}

static void test_equal(void **state) {
        static uint8_t states[N_ALL];
        _cleanup_json_ json_object *a = NULL, *b = NULL;
        RepoFix *x = *state;
        Seen s;

        memset(states, PLAIN, sizeof(states));
        a = make_tree(x, states);
        b = make_tree(x, states);
        s = compare(x, a, b, states, states, NULL);
        assert_int_equal(s.blocks, 0);
        assert_int_equal(s.entries, 2 * N_ALL);
}

/* One difference costs the blocks around it on both sides, wherever it is. */
static void test_one_difference(void **state) {
        static const unsigned places[] = { 0, 1, 77, N_ALL / 2 - 1, N_ALL / 2, N_ALL - 1 };
        static uint8_t before[N_ALL], after[N_ALL];
        _cleanup_json_ json_object *a = NULL;
        RepoFix *x = *state;

        memset(before, PLAIN, sizeof(before));
        a = make_tree(x, before);
        for (size_t i = 0; i < ELEMENTSOF(places); i++)
                for (unsigned kind = ABSENT; kind <= OTHER_TYPE; kind++) {
                        _cleanup_json_ json_object *b = NULL;
                        Seen s;

                        memset(after, PLAIN, sizeof(after));
                        after[places[i]] = (uint8_t) kind;
                        b = make_tree(x, after);
                        s = compare(x, a, b, before, after, NULL);
                        assert_int_equal(s.n, kind != PLAIN);
                        assert_in_range(s.blocks, 0, 6);
                        s = compare(x, b, a, after, before, NULL);
                        assert_int_equal(s.n, kind != PLAIN);
                        assert_in_range(s.blocks, 0, 6);
                }
}

static void test_random(void **state) {
        static const unsigned rates[] = { 2, 10, 100, 1000 };
        static uint8_t before[N_ALL], after[N_ALL];
        RepoFix *x = *state;
        uint64_t seed = 1;

        for (size_t i = 0; i < ELEMENTSOF(rates); i++) {
                _cleanup_json_ json_object *a = NULL, *b = NULL;

                for (unsigned k = 0; k < N_ALL; k++) {
                        uint32_t dice;

                        repofix_fill(seed++, 0, &before[k], 1);
                        before[k] = before[k] % 10 == 0 ? ABSENT : PLAIN;
                        after[k] = before[k];
                        repofix_fill(seed++, 0, &dice, sizeof(dice));
                        if (dice % rates[i] == 0)
                                after[k] = (uint8_t) (dice >> 16 & 3);
                }
                /* A whole run of directories that only one of them has. */
                memset(before + 500, ABSENT, 700);
                memset(after + 2000, ABSENT, 900);
                a = make_tree(x, before);
                b = make_tree(x, after);
                (void) compare(x, a, b, before, after, NULL);
                (void) compare(x, b, a, after, before, NULL);
                (void) compare(x, a, b, before, after, services[0]);
                (void) compare(x, a, b, before, after, services[1]);
        }
}

static int stop(void *userdata, const RepoDifference *d, Failure *reterr) {
        return fail_set(reterr, FAIL_CANCELED, ECANCELED, "enough");
}

static void test_stop(void **state) {
        static uint8_t before[N_ALL], after[N_ALL];
        _cleanup_json_ json_object *a = NULL, *b = NULL;
        Failure failure = FAILURE_INIT;
        RepoManifest *m, *n;
        RepoFix *x = *state;

        memset(after, PLAIN, sizeof(after));
        a = make_tree(x, before); /* an empty one */
        b = make_tree(x, after);
        assert_int_equal(compare(x, a, b, before, after, NULL).n, N_ALL);
        assert_int_equal(compare(x, b, a, after, before, NULL).n, N_ALL);
        m = repofix_manifest(x, a);
        n = repofix_manifest(x, b);
        assert_int_equal(repo_manifest_diff(m, n, NULL, stop, NULL, NULL, &failure), -ECANCELED);
        repo_manifest_free(m);
        repo_manifest_free(n);
}

static void test_find(void **state) {
        static uint8_t states[N_ALL];
        _cleanup_json_ json_object *record = NULL;
        Failure failure = FAILURE_INIT;
        RepoFix *x = *state;
        RepoManifest *m;
        Seen s = { 0 };

        memset(states, PLAIN, sizeof(states));
        for (unsigned i = 0; i < N_ALL; i += 7)
                states[i] = ABSENT;
        record = make_tree(x, states);
        m = repofix_manifest(x, record);
        m->on_record = count_block;
        m->userdata = &s;
        for (unsigned i = 0; i < N_ALL; i += 3) {
                char dir[32], name[128];
                const Entry *e;
                int r;

                (void) snprintf(dir, sizeof(dir), "/d%03u", i / N_FILES % N_DIRS);
                (void) snprintf(name, sizeof(name), "%0100u", i % N_FILES);
                s.blocks = 0;
                r = repo_manifest_find(m, services[i / (N_DIRS * N_FILES)], dir, name, &e,
                                       &failure);
                assert_int_equal(r, states[i] != ABSENT);
                if (r > 0)
                        assert_int_equal(place_of(e), i);
                assert_in_range(s.blocks, 1, 2);
        }
        repo_manifest_free(m);
}

/* ---- where a file has data ---- */

typedef struct Map {
        uint64_t at[16];
        size_t n;
} Map;

static int on_data(void *userdata, uint64_t offset, uint64_t n, Failure *reterr) {
        Map *m = userdata;

        assert_true(m->n + 2 <= ELEMENTSOF(m->at));
        m->at[m->n++] = offset;
        m->at[m->n++] = n;
        return 0;
}

static void test_map(void **state) {
        static const uint64_t unit = 1 << 20, size = 9 * (1 << 20) + 5;
        _cleanup_json_ json_object *record = NULL;
        const uint64_t expected[] = { unit, 2 * unit, 9 * unit, 5 };
        RepoSession *s;
        RepoFix *x = *state;
        RepoManifest *m;
        RepoTotals totals;
        EntryLocal local;
        const Entry *e;
        Map map = { .n = 0 };
        Entry entry;
        int fd = repofix_file(1, 0);

        assert_return_code(ftruncate(fd, (off_t) size), errno);
        assert_int_equal(pwrite(fd, "x", 1, (off_t) unit), 1);
        assert_int_equal(pwrite(fd, "x", 1, (off_t) (3 * unit) - 1), 1);
        assert_int_equal(pwrite(fd, "x", 1, (off_t) size - 1), 1);
        repofix_entry("/srv", "sparse", fd, &entry, &local);
        s = repofix_begin(x, NULL);
        assert_int_equal(repo_session_add(s, &entry, &local, fd, true, NULL), 0);
        close(fd);
        record = repofix_commit(s, &totals);
        repo_session_free(s);
        m = repofix_manifest(x, record);
        assert_int_equal(repo_manifest_next(m, &e, NULL), 1);
        assert_int_equal(repo_content_map(m, e, on_data, &map, NULL), 0);
        assert_int_equal(map.n, ELEMENTSOF(expected));
        assert_memory_equal(map.at, expected, sizeof(expected));
        repo_manifest_free(m);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                repofix_test(test_equal),  repofix_test(test_one_difference),
                repofix_test(test_random), repofix_test(test_stop),
                repofix_test(test_find),   repofix_test(test_map),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
