#pragma once

/*
 * Which paths are left out (Exclude=).
 */

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"
#include "base/fail.h"

typedef struct Globs Globs;

/*
 * Globs relative to a service's Path: `*` and `?` and [sets] within a component, `**` any number of
 * components. A directory that matches is left out with all below it; "cache/" + "**" keeps the
 * directory and leaves out what is in it. A leading dot is a character like others, `?` is one
 * UTF-8 character (or a byte that is none), a backslash is itself; [!x] and [^x] negate. -EINVAL
 * with reterr (FAIL_CONFIGURATION_INVALID) for a malformed glob.
 */
int globs_new(const char *const *texts, size_t n, Globs **ret, Failure *reterr);
void globs_free(Globs *globs);
DEFINE_CLEANUP(Globs *, globs_free);
bool globs_exclude(const Globs *globs, const char *path); /* relative path, no leading
                                                                     slash; "" never is */

/*
 * The literal directory that every match of glob `i` lies below ("" if any), for finding excluded
 * paths without a walk of everything. Borrowed; NULL past the last.
 */
const char *globs_prefix(const Globs *globs, size_t i);
