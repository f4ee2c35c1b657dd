/*
 * Small objects: what was written comes back, and no change of them goes unseen.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/fs.h"
#include "base/text.h"
#include "repo/repo-internal.h"
#include "tests/lib/repofix.h"

static int top_fd(Repo *repo) {
        return store_dir_fd(repo->store, "");
}

static void write_raw(Repo *repo, const char *name, const uint8_t *data, size_t n) {
        _cleanup_close_ int fd =
                openat(top_fd(repo), name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_return_code(fd, errno);
        assert_int_equal(fd_write_full(fd, data, n), 0);
}

static void read_raw(Repo *repo, const char *name, Buf *ret) {
        _cleanup_close_ int fd = openat(top_fd(repo), name, O_RDONLY | O_CLOEXEC);
        struct stat st;

        assert_return_code(fd, errno);
        assert_return_code(fstat(fd, &st), errno);
        buf_clear(ret);
        assert_int_equal(buf_reserve(ret, (size_t) st.st_size), 0);
        ret->size = (size_t) fd_read_full(fd, ret->data, (size_t) st.st_size);
}

static void expect_damage(Repo *repo, ObjectKind kind, const uint8_t *uuid, const char *name) {
        Failure why = FAILURE_INIT;
        json_object *o = NULL;

        assert_true(object_read(repo, kind, uuid, &o, &why) < 0);
        assert_null(o);
        assert_int_equal(why.code, FAIL_INTEGRITY_FAILURE);
        assert_non_null(strstr(why.text, name));
}

/* Every single bit flipped, every length cut, bytes appended. */
static void damage_all(Repo *repo, ObjectKind kind, const uint8_t *uuid) {
        _cleanup_(buf_done) Buf good = BUF_INIT(0);
        _cleanup_json_ json_object *o = NULL;
        char name[STORE_NAME_MAX];

        store_object_name(kind, uuid, name);
        read_raw(repo, name, &good);
        assert_int_equal(buf_reserve(&good, 1), 0);
        for (size_t i = 0; i < 8 * good.size; i++) {
                good.data[i / 8] ^= (uint8_t) (1 << i % 8);
                write_raw(repo, name, good.data, good.size);
                expect_damage(repo, kind, uuid, name);
                good.data[i / 8] ^= (uint8_t) (1 << i % 8);
        }
        for (size_t n = 0; n < good.size; n++) {
                write_raw(repo, name, good.data, n);
                expect_damage(repo, kind, uuid, name);
        }
        good.data[good.size] = 0;
        write_raw(repo, name, good.data, good.size + 1);
        expect_damage(repo, kind, uuid, name);
        write_raw(repo, name, good.data, good.size);
        assert_int_equal(object_read(repo, kind, uuid, &o, NULL), 0); /* mended, no mark left */
}

static void test_round_trip(void **state) {
        RepoFix *x = *state;
        const ObjectKind kinds[] = { OBJECT_RECORD, OBJECT_PIN };
        uint8_t uuid[UUID_SIZE];
        uint64_t bytes = 0;

        for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
                _cleanup_json_ json_object *in = json_object_new_object(), *out = NULL;
                char name[STORE_NAME_MAX];

                assert_int_equal(text_uuid_new(uuid), 0);
                assert_int_equal(object_read(x->repo, kinds[i], uuid, &out, NULL), -ENOENT);
                assert_int_equal(json_put_string(in, "secret name", "träger/a.png"), 0);
                assert_int_equal(object_write(x->repo, kinds[i], uuid, in, &bytes, NULL), 0);
                store_object_name(kinds[i], uuid, name);
                assert_int_equal(bytes, store_size(x->repo->store, name));
                assert_int_equal(object_read(x->repo, kinds[i], uuid, &out, NULL), 0);
                assert_string_equal(json_text(in), json_text(out));
                damage_all(x->repo, kinds[i], uuid);
        }
}

static void test_record_is_sealed(void **state) {
        RepoFix *x = *state;
        _cleanup_json_ json_object *in = json_object_new_object();
        _cleanup_(buf_done) Buf raw = BUF_INIT(0);
        char name[STORE_NAME_MAX];
        uint8_t uuid[UUID_SIZE] = { 1, 2, 3 };

        assert_int_equal(json_put_string(in, "backup_name", "visible?"), 0);
        assert_int_equal(object_write(x->repo, OBJECT_RECORD, uuid, in, NULL, NULL), 0);
        store_object_name(OBJECT_RECORD, uuid, name);
        read_raw(x->repo, name, &raw);
        assert_null(memmem(raw.data, raw.size, "visible?", 8));
}

static void test_damage_of_the_standing_objects(void **state) {
        RepoFix *x = *state;
        _cleanup_secret_ Secret key = SECRET_INIT;
        uint8_t session[UUID_SIZE];

        assert_int_equal(keyfile_session_new(x->repo, session, &key, NULL, NULL), 0);
        damage_all(x->repo, OBJECT_CONFIG, x->repo->uuid);
        damage_all(x->repo, OBJECT_HOST, x->repo->host_id);
        damage_all(x->repo, OBJECT_SESSION, session);
}

/* A good object in another's place: by name, by kind, or from another repository. */
static void test_swapped(void **state) {
        RepoFix *x = *state, other;
        _cleanup_json_ json_object *o = json_object_new_object();
        _cleanup_(buf_done) Buf raw = BUF_INIT(0);
        uint8_t a[UUID_SIZE] = { 10 }, b[UUID_SIZE] = { 11 };
        char name_a[STORE_NAME_MAX], name_b[STORE_NAME_MAX];

        assert_int_equal(object_write(x->repo, OBJECT_RECORD, a, o, NULL, NULL), 0);
        store_object_name(OBJECT_RECORD, a, name_a);
        store_object_name(OBJECT_RECORD, b, name_b);
        read_raw(x->repo, name_a, &raw);
        write_raw(x->repo, name_b, raw.data, raw.size);
        expect_damage(x->repo, OBJECT_RECORD, b, name_b);
        store_object_name(OBJECT_PIN, a, name_b);
        write_raw(x->repo, name_b, raw.data, raw.size);
        expect_damage(x->repo, OBJECT_PIN, a, name_b);

        repofix_setup(&other);
        assert_int_equal(object_write(other.repo, OBJECT_RECORD, a, o, NULL, NULL), 0);
        read_raw(other.repo, name_a, &raw);
        write_raw(x->repo, name_a, raw.data, raw.size);
        expect_damage(x->repo, OBJECT_RECORD, a, name_a);
        repofix_teardown(&other);
}

static void test_session_keys(void **state) {
        RepoFix *x = *state;
        _cleanup_secret_ Secret key = SECRET_INIT, back = SECRET_INIT, raw = SECRET_INIT,
                                pem = SECRET_INIT;
        Failure why = FAILURE_INIT;
        uint8_t session[UUID_SIZE], public[32];

        assert_int_equal(keyfile_session_new(x->repo, session, &key, NULL, NULL), 0);
        assert_int_equal(keyfile_session_open(x->repo, session, &back, NULL), 0);
        assert_memory_equal(key.data, back.data, KEY_SIZE);
        secret_done(&back);
        /* Another private key is refused at once, and would not open it. */
        assert_int_equal(crypto_keypair_new(&raw, public), 0);
        assert_int_equal(crypto_private_pem(&raw, &pem), 0);
        assert_true(repo_set_private_key(x->repo, &pem, &why) < 0);
        assert_int_equal(why.code, FAIL_KEY_MISSING);
        assert_non_null(strstr(why.text, "does not belong"));
        why = FAILURE_INIT;
        assert_int_equal(repo_use_private(x->repo, &pem, NULL), 0);
        assert_true(keyfile_session_open(x->repo, session, &back, &why) < 0);
        assert_int_equal(why.code, FAIL_KEY_MISSING);
        assert_int_equal(repo_set_private_key(x->repo, NULL, NULL), 0);
        assert_int_equal(keyfile_session_open(x->repo, session, &back, NULL), 0);
}

static void test_too_large(void **state) {
        RepoFix *x = *state;
        uint8_t uuid[UUID_SIZE] = { 42 };
        char name[STORE_NAME_MAX];

        store_object_name(OBJECT_PIN, uuid, name);
        write_raw(x->repo, name, (const uint8_t *) "", 0);
        _cleanup_close_ int fd = openat(top_fd(x->repo), name, O_WRONLY | O_CLOEXEC);
        assert_return_code(ftruncate(fd, (off_t) 1 << 40), errno);
        expect_damage(x->repo, OBJECT_PIN, uuid, name);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                repofix_test(test_round_trip),
                repofix_test(test_record_is_sealed),
                repofix_test(test_damage_of_the_standing_objects),
                repofix_test(test_swapped),
                repofix_test(test_session_keys),
                repofix_test(test_too_large),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
