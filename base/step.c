#include "base/step.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/names.h"

/* How often `name` was passed is counted in the environment, so that no state is kept here. */
static unsigned long count_passing(const char *name) {
        char variable[96], value[24];
        const char *old;
        unsigned long n;

        (void) snprintf(variable, sizeof(variable), "HOLDPOINT_PASSED_%s", name);
        old = getenv(variable);
        n = (old ? strtoul(old, NULL, 10) : 0) + 1;
        (void) snprintf(value, sizeof(value), "%lu", n);
        (void) setenv(variable, value, 1);
        return n;
}

static bool is(const char *word, const char *text, size_t n) {
        return strlen(word) == n && memcmp(word, text, n) == 0;
}

static void act(const char *name, const char *action, size_t n) {
        log_notice("step %s reached: %.*s", name, (int) n, action);
        if (is("kill", action, n))
                (void) raise(SIGKILL);
        else if (is("stop", action, n))
                (void) raise(SIGSTOP);
        else if (is("exit", action, n))
                _exit(1);
}

void step(const char *name) {
        const char *spec = getenv(HP_ENV_STEP);
        size_t len = strlen(name);
        unsigned long passed;

        if (!spec || !*spec)
                return;
        passed = count_passing(name);
        while (*spec) {
                size_t item = strcspn(spec, ",");
                const char *equals = memchr(spec, '=', item);
                unsigned long wanted = 1;

                if (equals && strncmp(spec, name, len) == 0 &&
                    (spec[len] == '=' || spec[len] == '@')) {
                        if (spec[len] == '@')
                                wanted = strtoul(spec + len + 1, NULL, 10);
                        if (passed == wanted)
                                act(name, equals + 1, item - (size_t) (equals + 1 - spec));
                }
                spec += item + (spec[item] == ',');
        }
}
