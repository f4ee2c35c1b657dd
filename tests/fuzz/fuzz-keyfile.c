/*
 * Key files of root's configuration and keys that users hand over: host.secret, PEM of either half,
 * a wrapped key, what is noted of a recovery copy; chosen by the first byte.
 */

#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "tests/fuzz/fuzz-repo.h"

static void load_host(FuzzInput in) {
        _cleanup_close_ int dir = fuzz_mkdir(fuzz_dir_fd(), "keys-2");
        _cleanup_free_ char *path = text_printf("%s/keys-2", fuzz_dir());
        _cleanup_secret_ Secret host = SECRET_INIT;
        KeyPlaces places = { .dir = path };
        Failure why = FAILURE_INIT;

        fuzz_assert(path);
        fuzz_write(dir, "host.secret", in);
        if (keyfile_load_host(&places, &host, &why) >= 0)
                fuzz_assert(host.size == KEY_SIZE);
        else
                fuzz_assert(why.code == FAIL_KEY_MISSING);
}

static void load_pair(FuzzInput in, const char *name) {
        _cleanup_close_ int dir = fuzz_mkdir(fuzz_dir_fd(), "keys-3");
        _cleanup_free_ char *path = text_printf("%s/keys-3", fuzz_dir());
        KeyPlaces places = { .dir = path };
        uint8_t public[32];
        Failure why = FAILURE_INIT;
        KeyFacts facts;

        fuzz_assert(path);
        (void) unlinkat(dir, KEY_PUBLIC, 0);
        (void) unlinkat(dir, KEY_PRIVATE, 0);
        (void) unlinkat(dir, KEY_WRAPPED, 0);
        (void) unlinkat(dir, KEY_RECOVERY, 0);
        fuzz_write(dir, name, in);
        if (keyfile_ensure_pair(&places, public, &why) < 0)
                fuzz_assert(why.code != FAIL_NONE && *why.text);
        else
                fuzz_assert(keys_facts(&places, &facts, &why) == 0);
}

static void parse_private(FuzzInput in) {
        _cleanup_secret_ Secret pem = SECRET_INIT, raw = SECRET_INIT;
        uint8_t public[32];

        if (in.size == 0)
                return;
        fuzz_assert(secret_copy(&pem, in.data, in.size) == 0);
        if (crypto_private_parse(&pem, &raw, public) >= 0)
                fuzz_assert(raw.size == KEY_SIZE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzInput in = { data, size };
        uint8_t public[32];

        switch (fuzz_u8(&in) % 7) {
        case 0:
                load_host(in);
                break;
        case 1:
                load_pair(in, KEY_PRIVATE);
                break;
        case 2:
                load_pair(in, KEY_PUBLIC);
                break;
        case 3:
                parse_private(in);
                break;
        case 4:
                (void) crypto_public_parse(in.data, in.size, public);
                break;
        case 5:
                load_pair(in, KEY_WRAPPED);
                break;
        case 6:
                load_pair(in, KEY_RECOVERY);
                break;
        }
        return 0;
}
