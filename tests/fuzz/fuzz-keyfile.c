/*
 * Key files of root's configuration and keys that users hand over: host.secret, PEM of either half,
 * chosen by the first byte.
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
        Failure why = FAILURE_INIT;

        fuzz_assert(path);
        fuzz_write(dir, "host.secret", in);
        if (keyfile_load_host(path, &host, &why) >= 0)
                fuzz_assert(host.size == KEY_SIZE);
        else
                fuzz_assert(why.code == FAIL_KEY_MISSING);
}

static void load_pair(FuzzInput in, bool private) {
        _cleanup_close_ int dir = fuzz_mkdir(fuzz_dir_fd(), "keys-3");
        _cleanup_free_ char *path = text_printf("%s/keys-3", fuzz_dir());
        uint8_t public[32];
        Failure why = FAILURE_INIT;

        fuzz_assert(path);
        (void) unlinkat(dir, "public.pem", 0);
        (void) unlinkat(dir, "private.pem", 0);
        fuzz_write(dir, private ? "private.pem" : "public.pem", in);
        if (keyfile_ensure_pair(path, public, &why) < 0)
                fuzz_assert(why.code != FAIL_NONE && *why.text);
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

        switch (fuzz_u8(&in) % 5) {
        case 0:
                load_host(in);
                break;
        case 1:
                load_pair(in, true);
                break;
        case 2:
                load_pair(in, false);
                break;
        case 3:
                parse_private(in);
                break;
        case 4:
                (void) crypto_public_parse(in.data, in.size, public);
                break;
        }
        return 0;
}
