#include "snapshot/helper-env.h"

#include <stdlib.h>

#include "base/names.h"
#include "base/text.h"

void helper_env_init(HelperEnv *env) {
        const char *step = getenv(HP_ENV_STEP);
        char *log[LOG_ENV_MAX];
        size_t n = 0, n_log = log_env(log);

        env->items[n++] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
        env->items[n++] = "LANG=C";
        for (size_t i = 0; i < n_log; i++)
                env->items[n++] = log[i];
        env->items[n] = step ? text_printf("%s=%s", HP_ENV_STEP, step) : NULL;
}

void helper_env_done(HelperEnv *env) {
        for (size_t i = HELPER_ENV_FIXED; env->items[i]; i++)
                free((char *) env->items[i]);
}
