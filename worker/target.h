#pragma once

/*
 * Where the tree of a path lives: a name in a directory, and beside it the area where others are
 * staged and kept. For a path that is a mounted subvolume that is on the top level of its file
 * system (docs/adr/0015-mounted-subvolumes.md), for all others it is the path itself.
 */

#include "snapshot/mounted.h"
#include "snapshot/snapshot.h"

typedef struct Target {
        int parent, area;
        const char *name; /* borrowed from the path, or from its mount */
} Target;

#define TARGET_INIT ((Target){ .parent = -1, .area = -1 })

void target_done(Target *t);

/*
 * The mount of a path as it is now, if it is a mounted subvolume; NULL in `*ret` if it is no mount.
 * FAIL_NOT_RESTORABLE for any other mount, and for one that would not come back with another tree.
 */
int target_find_mount(const char *path, Mounted **ret, Failure *reterr);

/*
 * Opens both directories; `mount` is what the path is (borrowed), or NULL. FAIL_NOT_RESTORABLE if
 * the path cannot be exchanged. A missing area is -ENOENT with FAIL_SOURCE_MISSING unless `create`;
 * the parent is open even then.
 */
int target_open(const char *path, Mounted *mount, bool create, Target *ret, Failure *reterr);

/*
 * The area of a path that is no mount. fd or negative, as above; FAIL_NOT_RESTORABLE for the root
 * of a mount.
 */
int target_open_area(const char *path, bool create, Failure *reterr);
