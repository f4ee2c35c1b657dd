/*
 * Root's configuration: the parts of the input, divided by the byte 0x1f, are holdpoint.conf, a
 * drop-in and two services. What is accepted keeps what base/config.h promises, and its globs
 * answer for any path.
 */

#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/globs.h"
#include "base/text.h"
#include "tests/fuzz/fuzz.h"

#define DIVIDER 0x1f

static const struct {
        const char *dir, *name;
} parts[] = {
        { ".", "holdpoint.conf" },
        { "holdpoint.conf.d", "10-fuzz.conf" },
        { "services.d", "main.conf" },
        { "services.d", "other.conf" },
};

static void check_globs(const ConfigService *s) {
        static const char *const paths[] = { "",
                                             "a",
                                             "a/b/c",
                                             "uploads/x.png",
                                             "\xff\xfe/\xc3\xa9",
                                             "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" };
        _cleanup_(globs_freep) Globs *globs = NULL;
        Failure why = FAILURE_INIT;

        if (globs_new((const char *const *) s->excludes.items, s->excludes.n, &globs, &why) < 0) {
                fuzz_assert(why.code != FAIL_NONE && *why.text);
                return;
        }
        fuzz_assert(!globs_exclude(globs, ""));
        for (size_t i = 0; i < ELEMENTSOF(paths); i++)
                (void) globs_exclude(globs, paths[i]);
        for (size_t i = 0; i < s->excludes.n; i++) {
                fuzz_assert(globs_prefix(globs, i));
                (void) globs_exclude(globs, s->excludes.items[i]);
        }
}

static void check_service(const ConfigService *s) {
        fuzz_assert(text_is_service_name(s->name) && s->paths.n > 0);
        for (size_t i = 0; i < s->paths.n; i++) {
                fuzz_assert(text_is_clean_path(s->paths.items[i]));
                fuzz_assert(i == 0 ||
                            text_path_compare(s->paths.items[i - 1], s->paths.items[i]) < 0);
        }
        for (size_t i = 0; i < s->database_paths.n; i++)
                fuzz_assert(text_is_clean_path(s->database_paths.items[i]));
        check_globs(s);
}

static void check_apart(const ConfigService *a, const ConfigService *b) {
        for (size_t i = 0; i < a->paths.n; i++)
                for (size_t k = 0; k < b->paths.n; k++)
                        fuzz_assert(!text_path_is_below(a->paths.items[i], b->paths.items[k]) &&
                                    !text_path_is_below(b->paths.items[k], a->paths.items[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzInput in = { data, size };
        int top = fuzz_mkdir(fuzz_dir_fd(), "etc"), before = fuzz_next_fd();
        _cleanup_free_ char *path = text_printf("%s/etc", fuzz_dir());
        Failure why = FAILURE_INIT;
        Config *config = NULL;
        int r;

        for (size_t i = 0; i < ELEMENTSOF(parts); i++) {
                const uint8_t *end = in.size > 0 ? memchr(in.data, DIVIDER, in.size) : NULL;
                int dir = fuzz_mkdir(top, parts[i].dir);

                if (in.size > 0)
                        fuzz_write(dir, parts[i].name,
                                   fuzz_take(&in, end ? (size_t) (end - in.data) : in.size));
                else
                        (void) unlinkat(dir, parts[i].name, 0);
                (void) fuzz_take(&in, 1);
                (void) close(dir);
        }
        r = config_load(path, &config, &why);
        if (r < 0)
                fuzz_assert(why.code != FAIL_NONE && *why.text && !config);
        else {
                fuzz_assert(text_is_clean_path(config->repository_path));
                for (size_t i = 0; i < config->n_services; i++) {
                        check_service(&config->services[i]);
                        for (size_t k = 0; k < i; k++)
                                check_apart(&config->services[k], &config->services[i]);
                }
        }
        config_free(config);
        fuzz_assert(fuzz_next_fd() == before);
        (void) close(top);
        return 0;
}
