#pragma once

/*
 * The environment of a helper: log and steps reach it, nothing else of ours does.
 */

#include "base/log.h"

#define HELPER_ENV_FIXED 2

typedef struct HelperEnv {
        const char *items[HELPER_ENV_FIXED + LOG_ENV_MAX + 2]; /* owned behind the fixed ones */
} HelperEnv;

#define HELPER_ENV_INIT ((HelperEnv){ { NULL } })

void helper_env_init(HelperEnv *env);
void helper_env_done(HelperEnv *env);
#define _cleanup_helper_env_ _cleanup_(helper_env_done)
