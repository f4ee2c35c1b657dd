#pragma once

/*
 * Files in the syntax of systemd's EnvironmentFile=: NAME=value lines with shell-like quotes,
 * continued lines and comments. Nothing is expanded.
 */

#include <stddef.h>

#include "base/fail.h"

#define ENVFILE_MAX ((size_t) 64 << 10)

/*
 * One line that has a "=": what stands before it, whether that is a proper name or not, and the
 * value with quotes taken off (`n` bytes and a zero; borrowed, wiped afterwards). `line` is where
 * it begins. A negative result ends the reading.
 */
typedef int (*EnvfileOnValue)(void *userdata,
                              const char *name,
                              const char *value,
                              size_t n,
                              unsigned line,
                              Failure *reterr);

/*
 * Reads `n` bytes, at most ENVFILE_MAX. FAIL_CONFIGURATION_INVALID as "label:line: what" for a
 * quote that is not closed and for a zero byte; lines without "=" are passed over, as systemd does.
 */
int envfile_parse(const char *text,
                  size_t n,
                  const char *label,
                  EnvfileOnValue on_value,
                  void *userdata,
                  Failure *reterr);
