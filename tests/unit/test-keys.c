/* Keys in files: wrapped ones, credentials, and how they leave the host. */

#include <errno.h>
#include <fcntl.h>
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

static const char *passphrase_text; /* what the configuration says; NULL: nothing */

static int passphrase(Secret *ret, Failure *reterr) {
        return passphrase_text ? secret_copy(ret, passphrase_text, strlen(passphrase_text))
                               : -ENOENT;
}

static KeyPlaces places_of(const RepoFix *x) {
        return (KeyPlaces){ .dir = x->keys, .passphrase = passphrase };
}

static void put(const char *dir, const char *name, const void *data, size_t n) {
        _cleanup_close_ int fd = fs_ensure_path(dir, 0700);

        assert_return_code(fd, errno);
        assert_int_equal(fs_write_atomic(fd, name, data, n, 0600), 0);
}

static void get(const char *dir, const char *name, Secret *ret) {
        _cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_(buf_done) Buf b = BUF_INIT(KEY_FILE_MAX);

        assert_int_equal(fs_read_file(fd, name, KEY_FILE_MAX, &b), 0);
        assert_int_equal(secret_copy(ret, b.data, b.size), 0);
}

static bool has(const RepoFix *x, const char *name) {
        _cleanup_free_ char *path = text_printf("%s/%s", x->keys, name);

        return access(path, F_OK) == 0;
}

static KeyFacts facts(const RepoFix *x) {
        KeyPlaces p = places_of(x);
        KeyFacts f;

        assert_int_equal(keys_facts(&p, &f, NULL), 0);
        return f;
}

static Repo *open_with(const RepoFix *x, const Secret *key, Failure *why) {
        RepoParams params = {
                .path = x->path, .keys = places_of(x), .state_fd = x->state_fd, .private_key = key
        };
        Repo *repo = NULL;

        *why = FAILURE_INIT;
        (void) repo_open(&params, &repo, why);
        return repo;
}

static void export(const RepoFix *x, Secret *ret) {
        KeyPlaces p = places_of(x);

        assert_int_equal(keys_export(&p, ret, NULL), 0);
        assert_int_equal(keys_note_exported(&p, ret, NULL), 0);
}

static void prove(const RepoFix *x, const Secret *pem) {
        _cleanup_(repo_closep) Repo *repo = NULL;
        uint64_t sessions;
        Failure why;

        repo = open_with(x, pem, &why);
        assert_non_null(repo);
        assert_int_equal(keys_prove(repo, &sessions, NULL), 0);
}

static FailCode forget(const RepoFix *x, bool *ret) {
        Failure why = FAILURE_INIT;
        KeyPlaces p = places_of(x);

        if (keys_forget(&p, ret, &why) < 0)
                assert_int_not_equal(why.code, FAIL_NONE);
        return why.code;
}

/* ---- the text of a wrapped key ---- */

static void test_wrap(void **state) {
        _cleanup_secret_ Secret raw = SECRET_INIT, back = SECRET_INIT, pass = SECRET_INIT,
                                wrong = SECRET_INIT, text = SECRET_INIT, none = SECRET_INIT;
        _cleanup_(buf_done) Buf b = BUF_INIT(KEY_FILE_MAX);
        uint8_t public[32], again[32];

        assert_int_equal(crypto_keypair_new(&raw, public), 0);
        assert_int_equal(secret_copy(&pass, "open sesame", 11), 0);
        assert_int_equal(secret_copy(&wrong, "open sesamE", 11), 0);
        assert_int_equal(keywrap_seal(&pass, &raw, public, &b), 0);
        assert_int_equal(secret_copy(&text, b.data, b.size), 0);
        assert_true(keywrap_is(&text));
        assert_int_equal(keywrap_public(&text, again), 0);
        assert_memory_equal(public, again, 32);
        memset(again, 0, 32);
        assert_int_equal(keywrap_open(&pass, &text, &back, again), 0);
        assert_memory_equal(raw.data, back.data, 32);
        assert_memory_equal(public, again, 32);
        assert_int_equal(keywrap_open(&wrong, &text, &none, again), -EKEYREJECTED);
        /* Another public half beside it is noticed, since it is authenticated. */
        char *digit = strstr((char *) text.data, "\"public\":\"") + 10;
        *digit = *digit == '0' ? '1' : '0';
        assert_int_equal(keywrap_open(&pass, &text, &none, again), -EKEYREJECTED);
        assert_null(none.data);
}

/* Any text is a text of this kind or refused; most of the time without running scrypt. */
static void test_wrap_damaged(void **state) {
        static const char *const bad[] = {
                "",
                "{",
                "{}",
                "[]",
                "{\"kind\":\"holdpoint wrapped private key\"}",
                "{\"kind\":\"holdpoint wrapped private key\",\"version\":1,\"kdf\":\"scrypt\","
                "\"n\":1125899906842624,\"r\":8,\"p\":1,\"salt\":\"\",\"nonce\":\"\","
                "\"public\":\"\",\"sealed\":\"\"}",
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_secret_ Secret text = SECRET_INIT;
                uint8_t public[32];

                if (*bad[i])
                        assert_int_equal(secret_copy(&text, bad[i], strlen(bad[i])), 0);
                assert_int_equal(keywrap_public(&text, public), -EBADMSG);
        }
}

/* ---- passphrase mode ---- */

static void test_passphrase_on_first_use(void **state) {
        _cleanup_(repo_closep) Repo *repo = NULL;
        RepoFix *x = *state, other;
        Failure why;

        repofix_setup(&other); /* only its directories are used */
        repo_close(TAKE_PTR(other.repo));
        _cleanup_free_ char *path = text_printf("%s/wrapped", x->top);
        _cleanup_free_ char *keys = text_printf("%s/wrapped-keys", x->top);
        RepoParams params = {
                .path = path,
                .keys = { .dir = keys, .passphrase = passphrase },
                .state_fd = other.state_fd,
                .create = true,
        };
        passphrase_text = "secret";
        assert_int_equal(repo_open(&params, &repo, NULL), 0);
        _cleanup_free_ char *plain = text_printf("%s/" KEY_PRIVATE, keys);
        _cleanup_free_ char *wrapped = text_printf("%s/" KEY_WRAPPED, keys);
        assert_int_equal(access(plain, F_OK), -1);
        assert_int_equal(access(wrapped, F_OK), 0);
        assert_int_equal(repo_need_private(repo, NULL), 0);

        secret_done(&repo->private_raw);
        passphrase_text = "other";
        why = FAILURE_INIT;
        assert_true(repo_need_private(repo, &why) < 0);
        assert_int_equal(why.code, FAIL_KEY_MISSING);
        assert_non_null(strstr(why.text, "passphrase"));
        passphrase_text = NULL;
        why = FAILURE_INIT;
        assert_true(repo_need_private(repo, &why) < 0);
        assert_int_equal(why.code, FAIL_KEY_MISSING);
        assert_non_null(strstr(why.text, "--key"));
        repo_close(TAKE_PTR(repo));
        repofix_teardown(&other);
}

/* A passphrase that is set later wraps the key that is there; nothing in the clear is left. */
static void test_passphrase_later(void **state) {
        RepoFix *x = *state;
        KeyPlaces p = places_of(x);

        assert_int_equal(keys_settle(&p, NULL), 0);
        assert_true(has(x, KEY_PRIVATE) && !has(x, KEY_WRAPPED));
        passphrase_text = "secret";
        assert_int_equal(keys_settle(&p, NULL), 0);
        assert_true(!has(x, KEY_PRIVATE) && has(x, KEY_WRAPPED));
        assert_true(facts(x).private_key);
        _cleanup_(repo_closep) Repo *repo = NULL;
        Failure why;
        repo = open_with(x, NULL, &why);
        assert_non_null(repo);
        assert_int_equal(repo_need_private(repo, NULL), 0);
        passphrase_text = NULL;
}

static void test_passphrase_bounds(void **state) {
        RepoFix *x = *state;
        KeyPlaces p = places_of(x);
        char *big = calloc(1, PASSPHRASE_MAX + 2);
        Failure why = FAILURE_INIT;

        memset(big, 'x', PASSPHRASE_MAX + 1);
        passphrase_text = big;
        assert_true(keyfile_passphrase(&p, NULL, &why) < 0);
        assert_int_equal(why.code, FAIL_CONFIGURATION_INVALID);
        big[PASSPHRASE_MAX] = 0;
        assert_int_equal(keyfile_passphrase(&p, NULL, NULL), 0);
        passphrase_text = NULL;
        free(big);
}

/* ---- credentials ---- */

static void test_credentials(void **state) {
        RepoFix *x = *state;
        _cleanup_free_ char *dir = text_printf("%s/credentials", x->top);
        _cleanup_secret_ Secret pem = SECRET_INIT, host = SECRET_INIT;
        KeyPlaces p = { .dir = x->keys, .credentials = dir };
        RepoParams params = { .path = x->path, .keys = p, .state_fd = x->state_fd };
        _cleanup_(repo_closep) Repo *repo = NULL;
        bool forgotten;
        Failure why = FAILURE_INIT;
        KeyFacts f;

        get(x->keys, KEY_PRIVATE, &pem);
        get(x->keys, KEY_HOST, &host);
        repo_close(TAKE_PTR(x->repo));
        put(dir, CREDENTIAL_PRIVATE, pem.data, pem.size);
        put(dir, CREDENTIAL_HOST, host.data, host.size);
        _cleanup_close_ int keys = open(x->keys, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(fs_unlink_durable(keys, KEY_PRIVATE), 0);
        assert_int_equal(fs_unlink_durable(keys, KEY_HOST), 0);

        assert_int_equal(repo_open(&params, &repo, NULL), 0);
        assert_int_equal(repo_need_private(repo, NULL), 0);
        assert_false(has(x, KEY_HOST)); /* nothing is copied out of credentials */
        assert_int_equal(keys_facts(&p, &f, NULL), 0);
        assert_true(f.private_key);
        assert_true(keys_forget(&p, &forgotten, &why) < 0);
        assert_non_null(strstr(why.text, CREDENTIAL_PRIVATE));

        /* One that others can read is no secret. */
        _cleanup_free_ char *open_one = text_printf("%s/" CREDENTIAL_PRIVATE, dir);
        assert_return_code(chmod(open_one, 0644), errno);
        secret_done(&repo->private_raw);
        why = FAILURE_INIT;
        assert_true(repo_need_private(repo, &why) < 0);
        assert_int_equal(why.code, FAIL_KEY_MISSING);
}

static void test_credential_passphrase(void **state) {
        RepoFix *x = *state;
        _cleanup_free_ char *dir = text_printf("%s/credentials", x->top);
        KeyPlaces p = { .dir = x->keys, .credentials = dir, .passphrase = passphrase };
        _cleanup_secret_ Secret got = SECRET_INIT;

        put(dir, CREDENTIAL_PASSPHRASE, "of systemd\n", 11);
        passphrase_text = "of the defaults";
        assert_int_equal(keyfile_passphrase(&p, &got, NULL), 0);
        assert_int_equal(got.size, 10);
        assert_memory_equal(got.data, "of systemd", 10);
        passphrase_text = NULL;
}

/* ---- the key that is given for a job ---- */

static void test_given_key(void **state) {
        RepoFix *x = *state;
        _cleanup_(repo_closep) Repo *repo = NULL;
        _cleanup_secret_ Secret pem = SECRET_INIT, wrong = SECRET_INIT, other = SECRET_INIT,
                                junk = SECRET_INIT, locked = SECRET_INIT;
        static const char encrypted[] =
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
                "MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgGeELtv/ghcQICCAAw\n"
                "DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEAlmJ7rigraRZfwL9AU1J0AEQAqA\n"
                "GnAKAdp84Rky3e7od4f3XxJmRK0Hbx7T0bOytJ0GZwhAs2fw8NUG4V6U4ZIzngl4\n"
                "3IbcxK+lSa+73YqNrPY=\n"
                "-----END ENCRYPTED PRIVATE KEY-----\n";
        uint8_t public[32];
        Failure why;

        get(x->keys, KEY_PRIVATE, &pem);
        repo_close(TAKE_PTR(x->repo));
        _cleanup_close_ int keys = open(x->keys, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(fs_unlink_durable(keys, KEY_PRIVATE), 0);
        repo = open_with(x, NULL, &why);
        assert_non_null(repo);
        assert_true(repo_need_private(repo, &why) < 0);
        assert_int_equal(why.code, FAIL_KEY_MISSING);
        assert_non_null(strstr(why.text, "--key"));
        repo_close(TAKE_PTR(repo));

        /* On a bare machine it brings the host secret back. */
        assert_int_equal(fs_unlink_durable(keys, KEY_HOST), 0);
        assert_int_equal(crypto_keypair_new(&wrong, public), 0);
        assert_int_equal(crypto_private_pem(&wrong, &other), 0);
        assert_null(open_with(x, &other, &why));
        assert_non_null(strstr(why.text, "does not open the repository"));
        assert_null(open_with(x, NULL, &why));
        repo = open_with(x, &pem, &why);
        assert_non_null(repo);
        assert_true(has(x, KEY_HOST));
        assert_false(has(x, KEY_PRIVATE)); /* but the key stays the caller's */
        repo_close(TAKE_PTR(repo));

        assert_null(open_with(x, &other, &why));
        assert_int_equal(why.code, FAIL_KEY_MISSING);
        assert_non_null(strstr(why.text, "does not belong"));
        assert_int_equal(secret_copy(&junk, "junk", 4), 0);
        assert_null(open_with(x, &junk, &why));
        assert_int_equal(why.code, FAIL_KEY_MISSING);
        assert_int_equal(secret_copy(&locked, encrypted, sizeof(encrypted) - 1), 0);
        assert_null(open_with(x, &locked, &why));
        assert_int_equal(why.code, FAIL_KEY_MISSING);
        assert_non_null(strstr(why.text, "encrypted PEM"));
}

/* ---- leaving the host ---- */

static void test_forget(void **state) {
        RepoFix *x = *state;
        _cleanup_secret_ Secret pem = SECRET_INIT, again = SECRET_INIT;
        KeyPlaces p = places_of(x);
        Failure why = FAILURE_INIT;
        bool forgotten;

        repo_close(TAKE_PTR(x->repo));
        assert_true(facts(x).private_key);
        assert_int_equal(forget(x, &forgotten), FAIL_NOT_CONFIRMED);
        export(x, &pem);
        assert_true(facts(x).recovery_exported && !facts(x).recovery_proven);
        assert_int_equal(forget(x, &forgotten), FAIL_NOT_CONFIRMED);
        prove(x, &pem);
        assert_true(facts(x).recovery_proven);
        assert_int_equal(forget(x, &forgotten), FAIL_NONE);
        assert_true(forgotten);
        assert_false(has(x, KEY_PRIVATE) || has(x, ".wiped-" KEY_PRIVATE));
        assert_true(!facts(x).private_key && facts(x).recovery_proven);

        /* Again is no error; and nothing is left to hand out. */
        assert_int_equal(forget(x, &forgotten), FAIL_NONE);
        assert_false(forgotten);
        assert_true(keys_export(&p, &again, &why) < 0);
        assert_int_equal(why.code, FAIL_KEY_MISSING);
        prove(x, &pem); /* the copy can be proven again at any time */
}

/* What was proven of one key says nothing of another. */
static void test_forget_another(void **state) {
        RepoFix *x = *state;
        _cleanup_secret_ Secret pem = SECRET_INIT, wrong = SECRET_INIT, other = SECRET_INIT;
        uint8_t public[32];
        bool forgotten;

        repo_close(TAKE_PTR(x->repo));
        export(x, &pem);
        prove(x, &pem);
        assert_int_equal(crypto_keypair_new(&wrong, public), 0);
        assert_int_equal(crypto_private_pem(&wrong, &other), 0);
        put(x->keys, KEY_PRIVATE, other.data, other.size);
        assert_int_equal(forget(x, &forgotten), FAIL_NOT_CONFIRMED);
        assert_true(has(x, KEY_PRIVATE));
        /* A wrapped one beside it counts as well. */
        put(x->keys, KEY_WRAPPED, "{}", 2);
        put(x->keys, KEY_PRIVATE, pem.data, pem.size);
        assert_int_equal(forget(x, &forgotten), FAIL_KEY_MISSING);
        assert_true(has(x, KEY_PRIVATE) && has(x, KEY_WRAPPED));
}

static void test_note_damaged(void **state) {
        RepoFix *x = *state;
        _cleanup_secret_ Secret pem = SECRET_INIT;
        bool forgotten;

        repo_close(TAKE_PTR(x->repo));
        export(x, &pem);
        prove(x, &pem);
        put(x->keys, KEY_RECOVERY, "{\"public\":1}", 12);
        assert_true(!facts(x).recovery_proven);
        assert_int_equal(forget(x, &forgotten), FAIL_NOT_CONFIRMED);
}

/* A crash after the renaming: the key counts as here until it was wiped to the end. */
static void test_half_forgotten(void **state) {
        RepoFix *x = *state;
        _cleanup_free_ char *from = text_printf("%s/" KEY_PRIVATE, x->keys),
                            *to = text_printf("%s/.wiped-" KEY_PRIVATE, x->keys);
        KeyPlaces p = places_of(x);
        bool forgotten;

        assert_return_code(rename(from, to), errno);
        assert_true(facts(x).private_key);
        assert_int_equal(keys_settle(&p, NULL), 0);
        assert_false(facts(x).private_key);
        assert_int_equal(forget(x, &forgotten), FAIL_NONE);
        assert_false(forgotten);
}

static void test_no_directory(void **state) {
        KeyPlaces p = { .dir = "/nonexistent/keys" };
        _cleanup_secret_ Secret pem = SECRET_INIT;
        Failure why = FAILURE_INIT;
        bool forgotten;
        KeyFacts f;

        assert_int_equal(keys_facts(&p, &f, NULL), 0);
        assert_true(!f.private_key && !f.recovery_proven && !*f.id);
        assert_int_equal(keys_settle(&p, NULL), 0);
        assert_int_equal(keys_forget(&p, &forgotten, NULL), 0);
        assert_true(keys_export(&p, &pem, &why) < 0);
        assert_int_equal(why.code, FAIL_KEY_MISSING);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_wrap),
                cmocka_unit_test(test_wrap_damaged),
                repofix_test(test_passphrase_on_first_use),
                repofix_test(test_passphrase_later),
                repofix_test(test_passphrase_bounds),
                repofix_test(test_credentials),
                repofix_test(test_credential_passphrase),
                repofix_test(test_given_key),
                repofix_test(test_forget),
                repofix_test(test_forget_another),
                repofix_test(test_note_damaged),
                repofix_test(test_half_forgotten),
                cmocka_unit_test(test_no_directory),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
