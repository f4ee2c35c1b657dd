/*
 * The repository as a whole: making and opening, crashes in between, locks, keys, what vanishes,
 * and the check that must see every changed byte of everything a backup uses.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/fs.h"
#include "base/text.h"
#include "repo/repo-internal.h"
#include "tests/lib/repofix.h"

/* ---- helpers ---- */

static int try_open(RepoFix *x, bool create, Failure *why) {
        RepoParams params = { .path = x->path,
                              .keys = { .dir = x->keys },
                              .state_fd = x->state_fd,
                              .create = create };

        *why = FAILURE_INIT;
        assert_null(x->repo);
        return repo_open(&params, &x->repo, why);
}

static void shut(RepoFix *x) {
        repo_close(x->repo);
        x->repo = NULL;
}

static void move(const char *dir, const char *from, const char *to) {
        _cleanup_free_ char *a = text_printf("%s/%s", dir, from);
        _cleanup_free_ char *b = text_printf("%s/%s", dir, to);

        assert_return_code(rename(a, b), errno);
}

static void forget_index(RepoFix *x) {
        shut(x);
        (void) unlinkat(x->state_fd, "index.db-wal", 0);
        (void) unlinkat(x->state_fd, "index.db-shm", 0);
        assert_return_code(unlinkat(x->state_fd, "index.db", 0), errno);
}

/* A backup with a large, a bundled and an sqlite-like file. Returns its id. */
static void back_up(RepoFix *x, uint64_t seed, char ret_id[UUID_TEXT_MAX]) {
        _cleanup_json_ json_object *record = NULL;
        RepoSession *s = repofix_begin(x, NULL);
        RepoTotals totals;
        uint8_t uuid[UUID_SIZE];
        json_object *facts = json_object_new_object();

        repofix_add(s, "/srv", "a", seed, 70000);
        repofix_add(s, "/srv", "b", seed + 1, 500);
        repofix_add(s, "/srv", "c", seed + 2, 900);
        assert_int_equal(repo_session_finish(s, &totals, NULL), 0);
        assert_int_equal(text_uuid_new(uuid), 0);
        text_uuid_format(uuid, ret_id);
        assert_int_equal(repo_session_commit(s, ret_id, facts, &totals, &record, NULL), 0);
        json_object_put(facts);
        repo_session_free(s);
}

typedef struct Damage {
        unsigned n;
        char objects[2000];
} Damage;

static void on_damage(void *userdata, const char *object, const Failure *why) {
        Damage *d = userdata;
        size_t n = strlen(d->objects);

        d->n++;
        assert_int_equal(why->code, FAIL_INTEGRITY_FAILURE);
        (void) snprintf(d->objects + n, sizeof(d->objects) - n, "%s\n", object);
}

static int check(RepoFix *x, const char *id, Damage *ret, RepoCheck *sum, Failure *why) {
        *ret = (Damage){ 0 };
        *why = FAILURE_INIT;
        return repo_check(x->repo, id, false, on_damage, NULL, ret, sum, why);
}

static void expect_sound(RepoFix *x, const char *id) {
        RepoCheck sum;
        Failure why;
        Damage d;

        if (check(x, id, &d, &sum, &why) < 0)
                fail_msg("%s; %s", why.text, d.objects);
        assert_int_equal(sum.damaged, 0);
        assert_true(sum.packs >= 2);
        assert_true(sum.objects >= 4);
}

/* Paths of all files of the repository, relative to it. */
static char *files[64];
static size_t n_files, prefix;

static int on_file(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        if (type == FTW_F)
                files[n_files++] = strdup(path + prefix);
        return n_files >= 64;
}

static void list_files(RepoFix *x) {
        n_files = 0;
        prefix = strlen(x->path) + 1;
        assert_int_equal(nftw(x->path, on_file, 16, FTW_PHYS), 0);
}

static void free_files(void) {
        while (n_files > 0)
                free(files[--n_files]);
}

/* ---- check ---- */

static void flip_all(RepoFix *x, const char *id, const char *file) {
        _cleanup_free_ char *path = text_printf("%s/%s", x->path, file);
        _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
        struct stat st;
        Failure why;
        RepoCheck sum;
        Damage d;

        assert_return_code(fd, errno);
        assert_return_code(fstat(fd, &st), errno);
        /* The middle of the 70 kB record is like its ends: there a sample does. */
        for (off_t at = 0;
             at<st.st_size; at += at> 400 && at < 68000 && st.st_size > 60000 ? 331 : 1) {
                uint8_t byte;

                assert_int_equal(fd_pread_full(fd, &byte, 1, (uint64_t) at), 1);
                byte ^= (uint8_t) (1 << at % 8);
                assert_int_equal(fd_pwrite_full(fd, &byte, 1, (uint64_t) at), 0);
                assert_true(check(x, id, &d, &sum, &why) < 0);
                assert_int_equal(why.code, FAIL_INTEGRITY_FAILURE);
                assert_true(d.n > 0);
                if (!strstr(d.objects, file))
                        fail_msg("byte %ld of %s: %s", (long) at, file, d.objects);
                byte ^= (uint8_t) (1 << at % 8);
                assert_int_equal(fd_pwrite_full(fd, &byte, 1, (uint64_t) at), 0);
        }
}

static void test_check_sees_every_byte(void **state) {
        RepoFix *x = *state;
        json_object *pin = json_object_new_object();
        char id[UUID_TEXT_MAX];
        uint8_t uuid[UUID_SIZE];

        back_up(x, 1, id);
        assert_int_equal(text_uuid_parse(id, uuid), 0);
        assert_int_equal(object_write(x->repo, OBJECT_PIN, uuid, pin, NULL, NULL), 0);
        json_object_put(pin);
        expect_sound(x, id);
        list_files(x);
        assert_int_equal(n_files, 7); /* config, host, session, record, pin, two packs */
        for (size_t i = 0; i < n_files; i++)
                flip_all(x, id, files[i]);
        expect_sound(x, id); /* mended: it passes, no mark is left */
        free_files();
}

static void test_check_sees_missing_files(void **state) {
        RepoFix *x = *state;
        char id[UUID_TEXT_MAX];
        Failure why;
        RepoCheck sum;
        Damage d;

        back_up(x, 1, id);
        list_files(x);
        for (size_t i = 0; i < n_files; i++) {
                move(x->path, files[i], "away");
                assert_true(check(x, id, &d, &sum, &why) < 0);
                if (strncmp(files[i], "backups/", 8) == 0)
                        assert_int_equal(why.code, FAIL_NO_SUCH_BACKUP);
                else
                        assert_non_null(strstr(d.objects, files[i]));
                move(x->path, "away", files[i]);
        }
        expect_sound(x, id);
        free_files();
}

static void test_check_after_lost_index(void **state) {
        RepoFix *x = *state;
        char id[UUID_TEXT_MAX], other[UUID_TEXT_MAX];
        RepoCheck sum;
        Failure why;
        Damage d;

        back_up(x, 1, id);
        list_files(x);
        back_up(x, 100, other);
        forget_index(x);
        /* A pack that is damaged while the index is made again is named all the same. */
        for (size_t i = 0; i < n_files; i++) {
                _cleanup_free_ char *path = text_printf("%s/%s", x->path, files[i]);
                _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
                struct stat st;

                if (strncmp(files[i], "packs/", 6) != 0)
                        continue;
                assert_return_code(fstat(fd, &st), errno);
                assert_int_equal(fd_pwrite_full(fd, "x", 1, (uint64_t) st.st_size - 1), 0);
                repofix_reopen(x);
                assert_true(check(x, id, &d, &sum, &why) < 0);
                assert_non_null(strstr(d.objects, files[i]));
                expect_sound(x, other);
                assert_int_equal(fd_pwrite_full(fd, "D", 1, (uint64_t) st.st_size - 1), 0);
                forget_index(x);
        }
        repofix_reopen(x);
        expect_sound(x, id);
        free_files();
}

static void test_check_without_private_key(void **state) {
        RepoFix *x = *state;
        char id[UUID_TEXT_MAX];

        back_up(x, 1, id);
        move(x->keys, "private.pem", "gone");
        repofix_reopen(x);
        expect_sound(x, id);
        back_up(x, 50, id); /* a backup needs none either */
        expect_sound(x, id);
}

/* The index may lie: then nothing is called sound, and the next opening makes it again. */
static void test_check_of_a_lying_index(void **state) {
        RepoFix *x = *state;
        IndexPlace place = { .ordinal = 0, .offset = 64, .stored = 117, .plain = 100, .class = 1 };
        char id[UUID_TEXT_MAX];
        const uint8_t chunk[ID_SIZE] = { 1, 2, 3 };
        Failure why;
        RepoCheck sum;
        Damage d;

        back_up(x, 1, id);
        for (place.pack_no = 1; place.pack_no <= 2; place.pack_no++)
                assert_int_equal(index_add(x->repo->index, chunk, &place, NULL), 0);
        assert_int_equal(index_commit(x->repo->index, NULL), 0);
        assert_true(check(x, id, &d, &sum, &why) < 0);
        assert_int_equal(why.code, FAIL_INTERNAL);
        assert_int_equal(d.n, 0); /* the repository itself is sound */
        repofix_reopen(x);
        expect_sound(x, id);
        assert_int_equal(index_find(x->repo->index, chunk, &place, NULL), 0);
}

/* A record whose sums are another manifest's, though every object is sound. */
static void test_check_of_another_manifest(void **state) {
        RepoFix *x = *state;
        char one[UUID_TEXT_MAX], two[UUID_TEXT_MAX];
        json_object *a = NULL, *b = NULL, *roots, *m;
        uint8_t uuid[UUID_SIZE];
        Failure why;
        RepoCheck sum;
        Damage d;

        back_up(x, 1, one);
        back_up(x, 100, two);
        assert_int_equal(repo_record_load(x->repo, one, &a, NULL), 0);
        assert_int_equal(repo_record_load(x->repo, two, &b, NULL), 0);
        assert_int_equal(json_get_object(a, "manifest", &m), 0);
        assert_int_equal(json_get_array(m, "roots", &roots), 0);
        assert_int_equal(json_get_object(b, "manifest", &m), 0);
        assert_int_equal(json_put(m, "roots", json_object_get(roots)), 0);
        assert_int_equal(text_uuid_parse(two, uuid), 0);
        assert_int_equal(object_write(x->repo, OBJECT_RECORD, uuid, b, NULL, NULL), 0);
        json_object_put(a);
        json_object_put(b);
        assert_true(check(x, two, &d, &sum, &why) < 0);
        assert_int_equal(why.code, FAIL_INTEGRITY_FAILURE);
        assert_non_null(strstr(d.objects, "backups/"));
        expect_sound(x, one);
}

/* ---- making and opening ---- */

static void test_crash_while_made(void **state) {
        RepoFix *x = *state;
        Failure why;

        /* All but config was there; then some of the keys, too. */
        shut(x);
        move(x->path, "config", "../config");
        assert_int_equal(try_open(x, false, &why), -ENOENT);
        assert_int_equal(try_open(x, true, &why), 0);
        assert_int_equal(repofix_count(x, "hosts", ""), 1);
        shut(x);
        move(x->path, "config", "../config");
        move(x->keys, "host.secret", "../host.secret");
        assert_int_equal(try_open(x, true, &why), 0);
        shut(x);
        move(x->path, "config", "../config");
        move(x->keys, "public.pem", "../public.pem"); /* made again from the private one */
        assert_int_equal(try_open(x, true, &why), 0);
        shut(x);
        repofix_reopen(x);
}

static void test_lost_config(void **state) {
        RepoFix *x = *state;
        char id[UUID_TEXT_MAX];
        Failure why;

        back_up(x, 1, id);
        shut(x);
        move(x->path, "config", "../config");
        for (int create = 0; create < 2; create++) {
                assert_true(try_open(x, create, &why) < 0);
                assert_int_equal(why.code, FAIL_INTEGRITY_FAILURE);
        }
        move(x->path, "../config", "config");
        repofix_reopen(x);
        expect_sound(x, id);
}

static void test_damaged_config(void **state) {
        RepoFix *x = *state;
        _cleanup_free_ char *path = text_printf("%s/config", x->path);
        _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
        struct stat st;
        Failure why;

        shut(x);
        assert_return_code(fstat(fd, &st), errno);
        for (off_t at = 0; at < st.st_size; at++) {
                uint8_t byte;

                assert_int_equal(fd_pread_full(fd, &byte, 1, (uint64_t) at), 1);
                byte ^= 4;
                assert_int_equal(fd_pwrite_full(fd, &byte, 1, (uint64_t) at), 0);
                assert_true(try_open(x, true, &why) < 0);
                assert_int_equal(why.code, FAIL_INTEGRITY_FAILURE);
                byte ^= 4;
                assert_int_equal(fd_pwrite_full(fd, &byte, 1, (uint64_t) at), 0);
        }
        repofix_reopen(x);
}

static void test_host_secret(void **state) {
        RepoFix *x = *state, other;
        _cleanup_free_ char *keys = strdup(x->keys), *mode = text_printf("%s/host.secret", x->keys);
        char id[UUID_TEXT_MAX];
        Failure why;

        back_up(x, 1, id);
        /* Lost: it comes back out of hosts/ by the private key. */
        shut(x);
        move(x->keys, "host.secret", "old");
        assert_int_equal(try_open(x, false, &why), 0);
        expect_sound(x, id);
        shut(x);
        /* Without the private key: asked for by name. */
        move(x->keys, "host.secret", "old");
        move(x->keys, "private.pem", "old.pem");
        assert_true(try_open(x, false, &why) < 0);
        assert_int_equal(why.code, FAIL_KEY_MISSING);
        move(x->keys, "old", "host.secret");
        move(x->keys, "old.pem", "private.pem");
        /* Readable by others. */
        assert_return_code(chmod(mode, 0644), errno);
        assert_true(try_open(x, false, &why) < 0);
        assert_int_equal(why.code, FAIL_KEY_MISSING);
        assert_return_code(chmod(mode, 0600), errno);
        /* Another host's. */
        repofix_setup(&other);
        free(x->keys);
        x->keys = strdup(other.keys);
        assert_true(try_open(x, false, &why) < 0);
        assert_int_equal(why.code, FAIL_NOT_RESTORABLE);
        repofix_teardown(&other);
        free(x->keys);
        x->keys = strdup(keys);
        repofix_reopen(x);
}

/* A pair that is none would be found out by the first restore. */
static void test_keys_that_do_not_fit(void **state) {
        RepoFix *x = *state, other;
        _cleanup_free_ char *from = NULL, *to = text_printf("%s/public.pem", x->keys);
        Failure why;

        shut(x);
        repofix_setup(&other);
        from = text_printf("%s/public.pem", other.keys);
        assert_return_code(rename(from, to), errno);
        repofix_teardown(&other);
        move(x->path, "config", "../config");
        assert_true(try_open(x, true, &why) < 0);
        assert_int_equal(why.code, FAIL_KEY_MISSING);
        move(x->keys, "private.pem", "../private.pem"); /* it may well be kept elsewhere */
        assert_int_equal(try_open(x, true, &why), 0);
        shut(x);
        repofix_reopen(x);
}

static void rewrite_config(RepoFix *x, const char *key, const char *feature) {
        _cleanup_json_ json_object *o = NULL;
        json_object *list = json_object_new_array();

        assert_int_equal(object_read(x->repo, OBJECT_CONFIG, x->repo->uuid, &o, NULL), 0);
        json_object_array_add(list, json_object_new_string(feature));
        assert_int_equal(json_put(o, key, list), 0);
        assert_int_equal(object_write(x->repo, OBJECT_CONFIG, x->repo->uuid, o, NULL, NULL), 0);
}

static void test_features(void **state) {
        RepoFix *x = *state;
        Failure why = FAILURE_INIT;

        rewrite_config(x, "compat", "harmless");
        repofix_reopen(x);
        rewrite_config(x, "ro_compat", "patches");
        shut(x);
        assert_int_equal(try_open(x, false, &why), 0);
        assert_true(repo_lock(x->repo, REPO_LOCK_WRITER, 0, &why) < 0);
        assert_int_equal(why.code, FAIL_NOT_RESTORABLE);
        rewrite_config(x, "incompat", "other-ids");
        shut(x);
        assert_true(try_open(x, false, &why) < 0);
        assert_int_equal(why.code, FAIL_NOT_RESTORABLE);
        assert_non_null(strstr(why.text, "other-ids"));
}

/* ---- the index and what lies in packs/ ---- */

static void content_is_there(RepoFix *x, const char *id, uint64_t seed) {
        _cleanup_json_ json_object *record = NULL;
        RepoManifest *m;
        const Entry *e;
        unsigned n = 0;

        assert_int_equal(repo_record_load(x->repo, id, &record, NULL), 0);
        m = repofix_manifest(x, record);
        while (repo_manifest_next(m, &e, NULL) > 0)
                repofix_check_content(m, e, seed + n++);
        assert_int_equal(n, 3);
        repo_manifest_free(m);
}

static void test_index_is_a_cache(void **state) {
        RepoFix *x = *state;
        char id[UUID_TEXT_MAX];
        uint64_t bytes;

        back_up(x, 1, id);
        assert_true(repo_base_is_trusted(x->repo, id));
        bytes = repo_stored_bytes(x->repo);
        forget_index(x);
        repofix_reopen(x);
        assert_int_equal(repo_stored_bytes(x->repo), bytes);
        content_is_there(x, id, 1);
        expect_sound(x, id);
        /* Who knows what the old one had lost: look chunks up until the next backup. */
        assert_false(repo_base_is_trusted(x->repo, id));
        back_up(x, 1, id);
        assert_int_equal(repofix_count(x, "packs", ".pack"), 2); /* nothing new to store */
        assert_true(repo_base_is_trusted(x->repo, id));
}

static void test_vanished_pack(void **state) {
        RepoFix *x = *state;
        char id[UUID_TEXT_MAX], again[UUID_TEXT_MAX];

        back_up(x, 1, id);
        list_files(x);
        for (size_t i = 0; i < n_files; i++)
                if (strncmp(files[i], "packs/", 6) == 0)
                        move(x->path, files[i], "../gone");
        free_files();
        repofix_reopen(x);
        assert_false(repo_base_is_trusted(x->repo, id));
        assert_int_equal(repo_stored_bytes(x->repo), 0);
        back_up(x, 1, again); /* no hit in the void: everything is stored anew */
        expect_sound(x, again);
        content_is_there(x, again, 1);
        expect_sound(x, id); /* and so the old one is whole again */
}

/* Whatever `harm` did to a file of a backup: no writer relies on it, and the check names it. */
static void expect_stored_anew(RepoFix *x, const char *harmed, const char *file) {
        char again[UUID_TEXT_MAX];
        Failure why;
        RepoCheck sum;
        Damage d;

        repofix_reopen(x);
        assert_false(repo_base_is_trusted(x->repo, harmed));
        assert_true(check(x, harmed, &d, &sum, &why) < 0);
        if (!strstr(d.objects, file))
                fail_msg("%s: %s", file, d.objects);
        back_up(x, 1, again);
        expect_sound(x, again);
        content_is_there(x, again, 1);
        /* What else of its backup lay in it is in a sound pack again, so nothing of it is used. */
        repofix_reopen(x);
        content_is_there(x, harmed, 1);
}

/* A file of the directory; of packs, one of the kind. Owned. */
static char *find_file(RepoFix *x, const char *dir, PackKind kind) {
        char *found = NULL;

        list_files(x);
        for (size_t i = 0; i < n_files && !found; i++) {
                _cleanup_free_ char *path = text_printf("%s/%s", x->path, files[i]);
                _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
                uint8_t header[PACK_HEADER_SIZE];

                if (strncmp(files[i], dir, strlen(dir)) == 0 &&
                    (kind == 0 ||
                     (fd_pread_full(fd, header, sizeof(header), 0) > 0 && header[10] == kind)))
                        found = strdup(files[i]);
        }
        free_files();
        assert_non_null(found);
        return found;
}

static void test_torn_pack(void **state) {
        RepoFix *x = *state;
        char id[UUID_TEXT_MAX];

        for (PackKind kind = PACK_CONTENT; kind <= PACK_META; kind++) {
                _cleanup_free_ char *file = NULL, *path = NULL;
                struct stat st;

                back_up(x, 1, id);
                file = find_file(x, "packs/", kind);
                path = text_printf("%s/%s", x->path, file);
                assert_return_code(stat(path, &st), errno);
                assert_return_code(truncate(path, kind == PACK_META ? 0 : st.st_size - 9), errno);
                expect_stored_anew(x, id, file);
                assert_return_code(unlink(path), errno);
        }
}

/* Content without its session is content that nobody can open. */
static void test_lost_session(void **state) {
        RepoFix *x = *state;
        char id[UUID_TEXT_MAX];
        _cleanup_free_ char *file = NULL;

        back_up(x, 1, id);
        file = find_file(x, "sessions/", 0);
        back_up(x, 1, id); /* which relies on the other's */
        move(x->path, file, "../session");
        expect_stored_anew(x, id, file);
        move(x->path, "../session", file);
        repofix_reopen(x);
        expect_sound(x, id);
}

/* A session that was killed before its record: its packs are believed after a full reading only. */
static void test_packs_of_a_killed_session(void **state) {
        RepoFix *x = *state;
        _cleanup_free_ char *from = NULL, *path = NULL;
        char id[UUID_TEXT_MAX];
        uint64_t bytes;

        back_up(x, 1, id);
        bytes = repo_stored_bytes(x->repo);
        from = repo_record_path(x->repo, id);
        path = text_printf("%s/record", x->top);
        assert_return_code(rename(from, path), errno);
        forget_index(x);
        repofix_reopen(x);
        assert_int_equal(repo_stored_bytes(x->repo), bytes); /* sound: of use to the next run */

        forget_index(x);
        list_files(x);
        for (size_t i = 0; i < n_files; i++) {
                _cleanup_free_ char *pack = text_printf("%s/%s", x->path, files[i]);
                _cleanup_close_ int fd = open(pack, O_WRONLY | O_CLOEXEC);

                /* In a record, where only the full reading looks. */
                if (strncmp(files[i], "packs/", 6) == 0)
                        assert_int_equal(fd_pwrite_full(fd, "\xff\x00\xff", 3, 70), 0);
        }
        free_files();
        repofix_reopen(x);
        assert_int_equal(repo_stored_bytes(x->repo), 0);
        back_up(x, 1, id);
        content_is_there(x, id, 1);
        expect_sound(x, id);
}

/* A power cut brought its packs back, but not the session that was removed after them. */
static void test_packs_of_an_undone_session(void **state) {
        RepoFix *x = *state;
        _cleanup_free_ char *record = NULL, *session = NULL;
        char id[UUID_TEXT_MAX];

        back_up(x, 1, id);
        record = find_file(x, "backups/", 0);
        session = find_file(x, "sessions/", 0);
        move(x->path, record, "../record");
        move(x->path, session, "../session");
        forget_index(x);
        repofix_reopen(x);
        back_up(x, 1, id);
        expect_sound(x, id);
        content_is_there(x, id, 1);
}

static void test_temporary_files(void **state) {
        RepoFix *x = *state;
        char id[UUID_TEXT_MAX];
        _cleanup_close_ int fd = -1;

        back_up(x, 1, id);
        list_files(x);
        for (size_t i = 0; i < n_files; i++)
                if (strncmp(files[i], "packs/", 6) == 0) {
                        _cleanup_free_ char *tmp =
                                text_printf("%s/%.9s.tmp-%s", x->path, files[i], "leftover");

                        fd_close(fd);
                        fd = open(tmp, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
                        assert_return_code(fd, errno);
                }
        free_files();
        assert_true(repofix_count(x, "packs", "leftover") > 0);
        shut(x);
        repofix_reopen(x);
        assert_int_equal(repofix_count(x, "packs", "leftover"), 0);
        expect_sound(x, id);
}

/* ---- locks, list, delete ---- */

static void test_locks(void **state) {
        RepoFix *x = *state, second = *x;
        Failure why;

        second.repo = NULL;
        assert_int_equal(try_open(&second, false, &why), 0); /* a reader beside a writer */
        assert_true(repo_lock(second.repo, REPO_LOCK_WRITER, 50000, &why) < 0);
        assert_int_equal(why.code, FAIL_BUSY);
        assert_int_equal(repo_lock(second.repo, REPO_LOCK_PACKS_SHARED, 0, NULL), 0);
        assert_true(repo_lock(x->repo, REPO_LOCK_PACKS_EXCLUSIVE, 0, NULL) < 0);
        shut(x);
        assert_int_equal(repo_lock(second.repo, REPO_LOCK_WRITER, 0, NULL), 0);
        assert_int_equal(repo_lock(second.repo, REPO_LOCK_PACKS_EXCLUSIVE, 0, NULL), 0);
        repo_close(second.repo);
        repofix_reopen(x);
}

/* A reader must not judge the packs of a writer at work. */
static void test_reader_beside_a_writer(void **state) {
        RepoFix *x = *state, second = *x;
        RepoSession *s;
        char id[UUID_TEXT_MAX];
        Failure why;

        back_up(x, 1, id);
        s = repofix_begin(x, NULL);
        repofix_add(s, "/srv", "big", 9, 6 << 20);
        second.repo = NULL;
        assert_int_equal(try_open(&second, false, &why), 0);
        content_is_there(&second, id, 1);
        repo_close(second.repo);
        repo_session_free(s);
        expect_sound(x, id);
}

typedef struct Seen {
        unsigned good, damaged;
} Seen;

static int on_record(void *userdata, const char *id, json_object *record, const Failure *damage) {
        Seen *s = userdata;

        if (record)
                s->good++;
        else if (damage->code == FAIL_INTEGRITY_FAILURE)
                s->damaged++;
        return 0;
}

static void test_list_and_delete(void **state) {
        RepoFix *x = *state;
        char a[UUID_TEXT_MAX], b[UUID_TEXT_MAX];
        _cleanup_free_ char *path = NULL;
        json_object *o = NULL;
        Failure why = FAILURE_INIT;
        Seen seen = { 0 };

        back_up(x, 1, a);
        back_up(x, 10, b);
        path = repo_record_path(x->repo, b);
        assert_return_code(truncate(path, 100), errno);
        assert_int_equal(repo_list(x->repo, on_record, &seen, NULL), 0);
        assert_int_equal(seen.good, 1);
        assert_int_equal(seen.damaged, 1);
        assert_int_equal(repo_delete(x->repo, b, NULL), 0);
        assert_true(repo_delete(x->repo, b, &why) < 0);
        assert_int_equal(why.code, FAIL_NO_SUCH_BACKUP);
        assert_false(repo_has_backup(x->repo, b));
        assert_false(repo_has_backup(x->repo, "../config"));
        assert_true(repo_has_backup(x->repo, a));
        why = FAILURE_INIT;
        assert_true(repo_record_load(x->repo, "../config", &o, &why) < 0);
        assert_int_equal(why.code, FAIL_NO_SUCH_BACKUP);
        expect_sound(x, a);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                repofix_test(test_check_sees_every_byte),
                repofix_test(test_check_sees_missing_files),
                repofix_test(test_check_after_lost_index),
                repofix_test(test_check_without_private_key),
                repofix_test(test_check_of_a_lying_index),
                repofix_test(test_check_of_another_manifest),
                repofix_test(test_crash_while_made),
                repofix_test(test_lost_config),
                repofix_test(test_damaged_config),
                repofix_test(test_host_secret),
                repofix_test(test_keys_that_do_not_fit),
                repofix_test(test_features),
                repofix_test(test_index_is_a_cache),
                repofix_test(test_vanished_pack),
                repofix_test(test_torn_pack),
                repofix_test(test_lost_session),
                repofix_test(test_packs_of_a_killed_session),
                repofix_test(test_packs_of_an_undone_session),
                repofix_test(test_temporary_files),
                repofix_test(test_locks),
                repofix_test(test_reader_beside_a_writer),
                repofix_test(test_list_and_delete),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
