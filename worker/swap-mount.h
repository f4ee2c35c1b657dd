#pragma once

/*
 * The mounts of those paths of an intent that are mounted subvolumes, around the exchange of their
 * trees. All of it does nothing for other paths.
 */

#include "worker/intent.h"

/*
 * Is it still mounted as it was, and so that it comes back with another tree? Notes whether it is
 * mounted at all. FAIL_NOT_RESTORABLE.
 */
int swap_mount_look(IntentPath *p, Failure *reterr);

/* The same for all paths, before units are stopped. */
int swap_mount_look_all(Intent *i, Failure *reterr);

/* FAIL_NOT_RESTORABLE unless both trees can be mounted and the live one is what the mount shows. */
int swap_mount_check(const IntentPath *p,
                     const TreeId *live,
                     const TreeId *staged,
                     Failure *reterr);

/* Takes it away, see remount_away(). */
int swap_mount_away(const IntentPath *p, Failure *reterr);

/* Each that was mounted shows what has its name now, whichever tree that is: remount_back(). */
int swap_mount_back(const Intent *i, Failure *reterr);
