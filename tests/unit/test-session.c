#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/text.h"
#include "tests/lib/repofix.h"

#define KIB ((uint64_t) 1 << 10)
#define MIB ((uint64_t) 1 << 20)
#define TIB ((uint64_t) 1 << 40)

/* What a base state would keep of a run: encoded entries, one after the other. */
typedef struct Kept {
        Buf entries;
        size_t n;
        uint64_t told; /* by on_bytes */
        char last[300];
        int fail_at; /* entry at which on_entry fails; 0: never */
} Kept;

static int keep_entry(void *userdata, const Entry *e, const EntryLocal *local, Failure *reterr) {
        Kept *k = userdata;

        assert_true(strcmp(k->last, e->name) < 0 || e->type == ENTRY_DIRECTORY);
        (void) snprintf(k->last, sizeof(k->last), "%s", e->name);
        k->n++;
        if (k->fail_at && (int) k->n == k->fail_at)
                return fail_set(reterr, FAIL_NO_SPACE, ENOSPC, "planted");
        return entry_encode(&k->entries, e);
}

static void keep_bytes(void *userdata, uint64_t bytes) {
        Kept *k = userdata;

        assert_true(bytes > k->told);
        k->told = bytes;
}

static RepoSessionParams keep_params(Kept *k) {
        return (RepoSessionParams){
                .level = 1,
                .pack_bytes = 4 * MIB,
                .on_entry = keep_entry,
                .on_bytes = keep_bytes,
                .userdata = k,
        };
}

static uint64_t size_of_number(unsigned i) {
        static const uint64_t sizes[] = {
                0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB - 1, MIB, MIB + 1, 5 * MIB,
        };

        if (i % 400 < ELEMENTSOF(sizes))
                return sizes[i % 400];
        return i % 9 == 0 ? 0 : (i * 7919u) % (i % 17 == 0 ? 20000 : 600) + 1;
}

#define N_FILES 3000

static void test_round_trip(void **state) {
        _cleanup_json_ json_object *record = NULL;
        RepoManifest *m;
        RepoTotals totals;
        RepoSession *s;
        const Entry *e;
        Failure failure = FAILURE_INIT;
        uint64_t bytes = 0;
        unsigned n = 0;
        Kept kept = { 0 };
        RepoSessionParams params = keep_params(&kept);
        RepoFix *x = *state;

        s = repofix_begin(x, &params);
        for (unsigned i = 0; i < N_FILES; i++) {
                char name[32];

                (void) snprintf(name, sizeof(name), "f%06u", i);
                repofix_add(s, "/srv/data", name, i, size_of_number(i));
                bytes += size_of_number(i);
        }
        record = repofix_commit(s, &totals);
        repo_session_free(s);
        assert_int_equal(totals.entries, N_FILES);
        assert_int_equal(kept.n, N_FILES);
        assert_true(totals.bytes == bytes);
        assert_true(totals.read_bytes == bytes);
        assert_true(kept.told == bytes);
        assert_true(totals.new_bytes > bytes && totals.new_bytes < bytes + bytes / 20);
        assert_int_equal(strlen(totals.checksum), 64);

        repofix_reopen(x); /* from the disk alone */
        m = repofix_manifest(x, record);
        while (repo_manifest_next(m, &e, &failure) > 0) {
                char name[32];

                (void) snprintf(name, sizeof(name), "f%06u", n);
                assert_string_equal(e->name, name);
                assert_string_equal(e->dir, "/srv/data");
                assert_string_equal(e->service, "main");
                assert_int_equal(e->mode, 0640);
                assert_true(e->size == size_of_number(n));
                repofix_check_content(m, e, n);
                n++;
        }
        assert_int_equal(failure.code, FAIL_NONE);
        assert_int_equal(n, N_FILES);
        repo_manifest_free(m);
        buf_done(&kept.entries);
}

/* new_bytes is what the repository's files have grown by, to the byte. */
static void test_new_bytes(void **state) {
        _cleanup_json_ json_object *first = NULL;
        RepoTotals totals;
        RepoSession *s;
        uint64_t before, claimed;
        RepoFix *x = *state;

        assert_true(repo_stored_bytes(x->repo) == 0);
        before = repofix_bytes(x);
        s = repofix_begin(x, NULL);
        repofix_add(s, "/srv", "a", 1, 3 * MIB + 5);
        repofix_add(s, "/srv", "b", 2, 500);
        first = repofix_commit(s, &totals);
        repo_session_free(s);
        assert_int_equal(json_get_u64(first, "new_bytes", &claimed), 0);
        assert_true(claimed == totals.new_bytes);
        assert_true(totals.new_bytes == repofix_bytes(x) - before);
        assert_true(totals.new_bytes > repo_stored_bytes(x->repo)); /* session and record, too */
}

static int add_again(RepoSession *s, const char *dir, const char *name) {
        _cleanup_close_ int fd = repofix_file(1, 10);
        Failure failure = FAILURE_INIT;
        EntryLocal local;
        Entry e;

        repofix_entry(dir, name, fd, &e, &local);
        return repo_session_add(s, &e, &local, fd, true, &failure);
}

static void test_order(void **state) {
        _cleanup_json_ json_object *record = NULL;
        RepoTotals totals;
        RepoSession *s;
        RepoFix *x = *state;

        s = repofix_begin(x, NULL);
        assert_int_equal(add_again(s, "/srv/a", "m"), 0);
        assert_int_equal(add_again(s, "/srv/a", "m"), -EINVAL);
        assert_int_equal(add_again(s, "/srv/a", "b"), -EINVAL);
        assert_int_equal(add_again(s, "/srv", "z"), -EINVAL);
        assert_int_equal(add_again(s, "srv", "z"), -EINVAL);
        assert_int_equal(add_again(s, "/srv/../b", "z"), -EINVAL);
        assert_int_equal(add_again(s, "/srv/a", "x/y"), -EINVAL);
        assert_int_equal(add_again(s, "/srv/a/b", "a"), 0); /* "/srv/a/b" before "/srv/a-b" */
        assert_int_equal(add_again(s, "/srv/a-b", "a"), 0);
        assert_int_equal(add_again(s, "/srv/a/c", "a"), -EINVAL);
        record = repofix_commit(s, &totals); /* a refused entry does no harm */
        assert_int_equal(totals.entries, 3);
        repo_session_free(s);
}

static void test_duplicates(void **state) {
        _cleanup_json_ json_object *record = NULL;
        RepoTotals totals;
        RepoSession *s;
        RepoManifest *m;
        const Entry *e;
        Failure failure = FAILURE_INIT;
        RepoFix *x = *state;

        s = repofix_begin(x, NULL);
        for (unsigned i = 0; i < 40; i++) {
                char name[32];

                (void) snprintf(name, sizeof(name), "large%03u", i);
                repofix_add(s, "/srv", name, 7, 2 * MIB);
        }
        for (unsigned i = 0; i < 500; i++) {
                char name[32];

                (void) snprintf(name, sizeof(name), "small%03u", i);
                repofix_add(s, "/srv", name, i % 2, 10 * KIB);
        }
        record = repofix_commit(s, &totals);
        repo_session_free(s);
        assert_true(totals.new_bytes >= 2 * MIB + 20 * KIB);
        assert_true(totals.new_bytes < 2 * MIB + 100 * KIB);

        m = repofix_manifest(x, record);
        while (repo_manifest_next(m, &e, &failure) > 0)
                repofix_check_content(m, e,
                                      e->name[0] == 'l' ? 7 : (uint64_t) (e->name[7] - '0') % 2);
        assert_int_equal(failure.code, FAIL_NONE);
        repo_manifest_free(m);
}

static void add_kept(RepoSession *s, Kept *k, bool verify) {
        Reader r = READER_INIT(k->entries.data, k->entries.size);
        EntryXattr xattrs[ENTRY_XATTRS_MAX];
        EntryLocal local = { 0 };
        Failure failure = FAILURE_INIT;
        Entry e;

        for (size_t i = 0; i < k->n; i++) {
                assert_int_equal(entry_decode(&r, &e, xattrs), 0);
                e.service = "main";
                e.dir = "/srv";
                assert_int_equal(repo_session_reuse(s, &e, &local, verify, &failure), 0);
        }
        assert_int_equal(reader_left(&r), 0);
}

static void add_some(RepoSession *s) {
        for (unsigned i = 0; i < 2000; i++) {
                char name[32];

                (void) snprintf(name, sizeof(name), "f%06u", i);
                repofix_add(s, "/srv", name, i, i % 500 == 0 ? 3 * MIB + i : i % 300);
        }
}

/* An unchanged backup: the same manifest, and no pack at all. */
static void test_reuse(void **state) {
        _cleanup_json_ json_object *first = NULL, *second = NULL, *third = NULL;
        RepoTotals totals, again;
        Kept kept = { 0 }, more = { 0 };
        RepoSessionParams params = keep_params(&kept);
        RepoSession *s;
        unsigned packs;
        RepoFix *x = *state;

        s = repofix_begin(x, &params);
        add_some(s);
        first = repofix_commit(s, &totals);
        repo_session_free(s);
        packs = repofix_count(x, "packs", ".pack");

        params = keep_params(&more);
        s = repofix_begin(x, &params);
        add_kept(s, &kept, true);
        second = repofix_commit(s, &again);
        repo_session_free(s);
        assert_int_equal(again.entries, 2000);
        assert_true(again.bytes == totals.bytes);
        assert_true(again.read_bytes == 0);
        assert_true(again.new_bytes < 4 * KIB);
        assert_string_equal(again.checksum, totals.checksum);
        assert_int_equal(repofix_count(x, "packs", ".pack"), packs);
        assert_int_equal(more.entries.size, kept.entries.size);
        assert_memory_equal(more.entries.data, kept.entries.data, kept.entries.size);

        s = repofix_begin(x, NULL); /* read again in full: the oracle */
        add_some(s);
        third = repofix_commit(s, &again);
        repo_session_free(s);
        assert_string_equal(again.checksum, totals.checksum);
        assert_true(again.new_bytes < 4 * KIB);
        assert_int_equal(repofix_count(x, "packs", ".pack"), packs);
        assert_int_equal(repofix_count(x, "backups", ""), 3);
        buf_done(&kept.entries);
        buf_done(&more.entries);
}

static void test_reuse_missing(void **state) {
        uint8_t content[34] = { 0, 1 << 2, 0xab, 0xcd };
        Entry e = {
                .service = "main",
                .dir = "/srv",
                .name = "f",
                .type = ENTRY_FILE,
                .size = 100,
                .class = ENTRY_CLASS_SMALL,
                .content = content,
                .content_size = sizeof(content),
        };
        Failure failure = FAILURE_INIT;
        EntryLocal local = { 0 };
        RepoSession *s;
        RepoFix *x = *state;

        s = repofix_begin(x, NULL);
        assert_int_equal(repo_session_reuse(s, &e, &local, true, &failure), REPO_E_MISSING);
        content[0] = 1; /* a list that no pack holds; then one that is no list */
        e.content_size = 33;
        assert_int_equal(repo_session_reuse(s, &e, &local, true, &failure), REPO_E_MISSING);
        e.content_size = 32;
        assert_int_equal(repo_session_reuse(s, &e, &local, false, &failure), REPO_E_MISSING);
        assert_int_equal(add_again(s, "/srv", "f"), 0); /* read it instead */
        repo_session_free(s);
}

static int sqlite_session(RepoFix *x, int fd, RepoTotals *totals, json_object **ret) {
        RepoSession *s = repofix_begin(x, NULL);
        Failure failure = FAILURE_INIT;
        EntryLocal local;
        Entry e;
        int r;

        repofix_entry("/srv", "tasks.db", fd, &e, &local);
        e.class = ENTRY_CLASS_SQLITE;
        r = repo_session_add(s, &e, &local, fd, true, &failure);
        *ret = repofix_commit(s, totals);
        repo_session_free(s);
        return r;
}

/* One changed page of a database costs its 64 KiB leaf, and the list that names it. */
static void test_sqlite_leaf(void **state) {
        _cleanup_json_ json_object *first = NULL, *second = NULL;
        _cleanup_close_ int fd = repofix_file(3, 50 * MIB + 4096);
        RepoTotals totals;
        RepoFix *x = *state;

        assert_int_equal(sqlite_session(x, fd, &totals, &first), 0);
        assert_true(totals.new_bytes > 50 * MIB);
        assert_int_equal(pwrite(fd, "changed", 7, 20 * MIB + 12345), 7);
        assert_int_equal(sqlite_session(x, fd, &totals, &second), 0);
        assert_true(totals.new_bytes > 64 * KIB && totals.new_bytes < 100 * KIB);
}

typedef struct Seen {
        uint64_t bytes, offsets[8];
        unsigned n;
} Seen;

static int
see_content(void *userdata, uint64_t offset, const void *data, size_t n, Failure *reterr) {
        Seen *seen = userdata;

        assert_true(seen->n < ELEMENTSOF(seen->offsets));
        seen->offsets[seen->n++] = offset;
        seen->bytes += n;
        return 0;
}

static void test_sparse(void **state) {
        static const uint8_t zeros[3 * 1024 * 1024];
        _cleanup_json_ json_object *record = NULL;
        _cleanup_close_ int fd = memfd_create("sparse", MFD_CLOEXEC);
        Failure failure = FAILURE_INIT;
        RepoTotals totals;
        EntryLocal local;
        RepoManifest *m;
        RepoSession *s;
        const Entry *got;
        Seen seen = { 0 };
        RepoFix *x = *state;
        Entry e;

        assert_return_code(ftruncate(fd, (off_t) TIB + 77), errno);
        assert_int_equal(pwrite(fd, "data", 4, (off_t) (300 * MIB + 5)), 4);
        assert_int_equal(fd_pwrite_full(fd, zeros, sizeof(zeros), 500 * MIB), 0);
        assert_int_equal(pwrite(fd, "end", 3, (off_t) TIB + 74), 3);
        repofix_entry("/srv", "disk.img", fd, &e, &local);
        e.sparse = true;
        s = repofix_begin(x, NULL);
        assert_int_equal(repo_session_add(s, &e, &local, fd, true, &failure), 0);
        record = repofix_commit(s, &totals);
        repo_session_free(s);
        assert_true(totals.read_bytes <= 5 * MIB);
        assert_true(totals.bytes == TIB + 77);
        assert_true(totals.new_bytes < 16 * KIB);

        m = repofix_manifest(x, record);
        assert_int_equal(repo_manifest_next(m, &got, &failure), 1);
        assert_true(got->sparse && got->size == TIB + 77);
        assert_int_equal(repo_content_read(m, got, see_content, &seen, &failure), 0);
        assert_int_equal(seen.n, 2);
        assert_true(seen.offsets[0] == 300 * MIB && seen.offsets[1] == TIB);
        assert_true(seen.bytes == MIB + 77);
        repo_manifest_free(m);
}

/* A list of chunks too long for its entry, with several LIST records. */
static void test_indirect(void **state) {
        _cleanup_json_ json_object *record = NULL;
        _cleanup_close_ int fd = repofix_file(9, 300 * MIB);
        Failure failure = FAILURE_INIT;
        RepoTotals totals;
        EntryLocal local;
        RepoManifest *m;
        RepoSession *s;
        const Entry *got;
        RepoFix *x = *state;
        Entry e;

        repofix_entry("/srv", "big.db", fd, &e, &local);
        e.class = ENTRY_CLASS_SQLITE;
        s = repofix_begin(x, NULL);
        assert_int_equal(repo_session_add(s, &e, &local, fd, true, &failure), 0);
        record = repofix_commit(s, &totals);
        repo_session_free(s);
        m = repofix_manifest(x, record);
        assert_int_equal(repo_manifest_next(m, &got, &failure), 1);
        assert_int_equal(got->content_size, 1 + 3 * 32); /* 4800 ids in records of 64 KiB */
        repofix_check_content(m, got, 9);
        repo_manifest_free(m);
}

static void test_source_outcomes(void **state) {
        static const uint64_t sizes[] = { 1000, 3 * MIB };
        _cleanup_json_ json_object *record = NULL;
        RepoTotals totals;
        RepoSession *s;
        RepoManifest *m;
        const Entry *got;
        Failure failure = FAILURE_INIT;
        RepoFix *x = *state;

        s = repofix_begin(x, NULL);
        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                _cleanup_close_ int fd = repofix_file(1, sizes[i]), blind = -1;
                Failure why = FAILURE_INIT;
                char name[16], path[64];
                EntryLocal local, other;
                Entry e;

                (void) snprintf(name, sizeof(name), "f%zu", i);
                (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
                blind = open(path, O_WRONLY | O_CLOEXEC);
                assert_return_code(blind, errno);
                repofix_entry("/srv", name, fd, &e, &local);

                assert_int_equal(repo_session_add(s, &e, &local, blind, true, &why), REPO_E_SOURCE);
                assert_int_equal(why.code, FAIL_SOURCE_MISSING);
                assert_non_null(strstr(why.text, name));
                other = local;
                other.mtime_nsec ^= 1;
                assert_int_equal(repo_session_add(s, &e, &other, fd, true, NULL), REPO_E_CHANGED);
                e.size += 100; /* shorter than it was */
                assert_int_equal(repo_session_add(s, &e, &local, fd, true, NULL), REPO_E_CHANGED);
                assert_int_equal(repo_session_add(s, &e, &local, fd, false, NULL), 0);
        }
        record = repofix_commit(s, &totals);
        repo_session_free(s);
        assert_int_equal(totals.entries, 2);

        m = repofix_manifest(x, record);
        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                assert_int_equal(repo_manifest_next(m, &got, &failure), 1);
                assert_true(got->size == sizes[i]);
                repofix_check_content(m, got, 1);
        }
        assert_int_equal(repo_manifest_next(m, &got, &failure), 0);
        repo_manifest_free(m);
}

static void test_abort(void **state) {
        RepoTotals totals;
        RepoSession *s;
        RepoFix *x = *state;

        for (int finish = 0; finish < 2; finish++) {
                s = repofix_begin(x, NULL);
                for (unsigned i = 0; i < 20; i++) {
                        char name[16];

                        (void) snprintf(name, sizeof(name), "f%03u", i);
                        repofix_add(s, "/srv", name, i, i % 2 ? MIB : 1000);
                }
                if (finish)
                        assert_int_equal(repo_session_finish(s, &totals, NULL), 0);
                repo_session_free(s);
                assert_int_equal(repofix_count(x, "packs", ""), 0);
                assert_int_equal(repofix_count(x, "sessions", ""), 0);
                assert_int_equal(repofix_count(x, "backups", ""), 0);
                assert_true(repo_stored_bytes(x->repo) == 0);
        }
        repo_session_free(NULL);

        s = repofix_begin(x, NULL); /* the index has forgotten them: they are stored again */
        repofix_add(s, "/srv", "f001", 1, MIB);
        json_object_put(repofix_commit(s, &totals));
        assert_true(totals.new_bytes > MIB);
        repo_session_free(s);
}

static void test_cancel(void **state) {
        _cleanup_close_ int fd = repofix_file(1, 20 * MIB);
        Failure failure = FAILURE_INIT;
        EntryLocal local;
        RepoTotals totals;
        RepoSession *s;
        RepoFix *x = *state;
        Entry e;

        s = repofix_begin(x, NULL);
        repofix_entry("/srv", "f", fd, &e, &local);
        x->polls_left = 3;
        assert_int_equal(repo_session_add(s, &e, &local, fd, true, &failure), -ECANCELED);
        assert_int_equal(failure.code, FAIL_CANCELED);
        x->polls_left = -1;
        assert_true(repo_session_add(s, &e, &local, fd, true, NULL) < 0); /* it is over */
        assert_true(repo_session_finish(s, &totals, NULL) < 0);
        repo_session_free(s);
        assert_int_equal(repofix_count(x, "packs", ""), 0);
}

/* A failure of the caller's own callback ends the session with that failure. */
static void test_callback_fails(void **state) {
        RepoFix *x = *state;
        static const int at[] = { 1, 700, 1500 };

        for (size_t i = 0; i < ELEMENTSOF(at); i++) {
                Kept kept = { .fail_at = at[i] };
                RepoSessionParams params = keep_params(&kept);
                Failure failure = FAILURE_INIT;
                RepoTotals totals;
                RepoSession *s;
                int r = 0;

                s = repofix_begin(x, &params);
                for (unsigned n = 0; n < 2000 && r == 0; n++) {
                        _cleanup_close_ int fd = repofix_file(n, 100);
                        EntryLocal local;
                        char name[16];
                        Entry e;

                        (void) snprintf(name, sizeof(name), "f%06u", n);
                        repofix_entry("/srv", name, fd, &e, &local);
                        r = repo_session_add(s, &e, &local, fd, true, &failure);
                }
                if (r == 0)
                        r = repo_session_finish(s, &totals, &failure);
                assert_int_equal(r, -ENOSPC);
                assert_string_equal(failure.text, "planted");
                repo_session_free(s);
                assert_int_equal(repofix_count(x, "packs", ""), 0);
                buf_done(&kept.entries);
        }
}

/* A full disk ends the session as such, leaves nothing, and the repository goes on. */
static void test_no_space(void **state) {
        _cleanup_json_ json_object *record = NULL;
        RepoFix *x = *state;
        _cleanup_free_ char *packs = text_printf("%s/packs", x->path);
        Failure failure = FAILURE_INIT;
        RepoTotals totals;
        RepoSession *s;
        int r = 0;

        if (geteuid() != 0)
                skip();
        repo_close(x->repo);
        x->repo = NULL;
        assert_return_code(mount("none", packs, "tmpfs", 0, "size=6m"), errno);
        repofix_reopen(x);
        s = repofix_begin(x, NULL);
        for (unsigned i = 0; i < 20 && r == 0; i++) {
                _cleanup_close_ int fd = repofix_file(i, MIB);
                EntryLocal local;
                char name[16];
                Entry e;

                (void) snprintf(name, sizeof(name), "f%03u", i);
                repofix_entry("/srv", name, fd, &e, &local);
                r = repo_session_add(s, &e, &local, fd, true, &failure);
        }
        if (r == 0)
                r = repo_session_finish(s, &totals, &failure);
        repo_session_free(s);
        if (r == -ENOSPC && repofix_count(x, "packs", "") == 0) {
                s = repofix_begin(x, NULL);
                repofix_add(s, "/srv", "f000", 0, MIB);
                record = repofix_commit(s, &totals);
                repo_session_free(s);
        }
        repo_close(x->repo);
        x->repo = NULL;
        assert_return_code(umount(packs), errno);
        assert_int_equal(r, -ENOSPC);
        assert_int_equal(failure.code, FAIL_NO_SPACE);
        assert_non_null(record);
        assert_true(totals.new_bytes > MIB);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                repofix_test(test_round_trip),     repofix_test(test_new_bytes),
                repofix_test(test_order),          repofix_test(test_duplicates),
                repofix_test(test_reuse),          repofix_test(test_reuse_missing),
                repofix_test(test_sqlite_leaf),    repofix_test(test_sparse),
                repofix_test(test_indirect),       repofix_test(test_source_outcomes),
                repofix_test(test_abort),          repofix_test(test_cancel),
                repofix_test(test_callback_fails), repofix_test(test_no_space),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
