/*
 * /etc/default/holdpoint. The first byte says who may read the file, the rest is the file.
 */

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/defaults.h"
#include "base/envfile.h"
#include "base/names.h"
#include "base/text.h"
#include "tests/fuzz/fuzz.h"

#define NAME "defaults"

typedef struct Seen {
        size_t size;
        unsigned line;
} Seen;

/* Lines come in order, and nothing grows by being read. */
static int on_value(void *userdata,
                    const char *name,
                    const char *value,
                    size_t n,
                    unsigned line,
                    Failure *reterr) {
        Seen *s = userdata;

        fuzz_assert(line > s->line && value[n] == 0 && strlen(value) == n);
        fuzz_assert(strlen(name) + n < s->size);
        s->line = line;
        return 0;
}

static void check_parser(FuzzInput in) {
        Seen seen = { .size = in.size };
        Failure why = FAILURE_INIT;

        if (envfile_parse((const char *) in.data, in.size, NAME, on_value, &seen, &why) < 0)
                fuzz_assert(why.code == FAIL_CONFIGURATION_INVALID && *why.text);
}

static void check_defaults(const Defaults *d) {
        if (d->dir)
                fuzz_assert(d->dir_line > 0 && text_is_clean_path(d->dir));
        if (d->retention_days.line > 0)
                fuzz_assert(d->retention_days.value > 0);
        if (d->schedule.is_set)
                fuzz_assert(d->schedule.hour < 24 && d->schedule.minute < 60);
        for (size_t i = 0; i < d->warnings.n; i++)
                fuzz_assert(*d->warnings.items[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_free_ char *path = text_printf("%s/" NAME, fuzz_dir());
        int dir = fuzz_dir_fd(), before = fuzz_next_fd();
        FuzzInput in = { data, size };
        bool shown = fuzz_u8(&in) & 1;
        _cleanup_(defaults_done) Defaults d = { 0 };
        _cleanup_secret_ Secret passphrase = SECRET_INIT;
        Failure why = FAILURE_INIT;

        fuzz_assert(path && setenv(HP_ENV_DEFAULTS, path, true) == 0);
        fuzz_write(dir, NAME, in);
        fuzz_assert(chmod(path, shown ? 0644 : 0600) == 0);
        if (in.size <= ENVFILE_MAX)
                check_parser(in);
        if (defaults_load(&d, &why) < 0)
                fuzz_assert(why.code != FAIL_NONE && *why.text);
        else
                check_defaults(&d);
        if (defaults_passphrase(&passphrase, &why) >= 0)
                fuzz_assert(passphrase.size > 0 && !(shown && d.file));
        fuzz_assert(fuzz_next_fd() == before);
        return 0;
}
