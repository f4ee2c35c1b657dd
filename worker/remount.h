#pragma once

/*
 * The mount of a service that is a mounted subvolume: away before its trees are exchanged, and back
 * afterwards. systemd does it where there is one, in the host's namespace; else the worker itself.
 */

#include "snapshot/mounted.h"
#include "snapshot/snapshot.h"

/*
 * FAIL_NOT_RESTORABLE if it would not come back with the tree that has its name then, now or at the
 * next boot, or if there is nothing that could bring it back. Touches nothing.
 */
int remount_check(const Mounted *m, Failure *reterr);

/*
 * Takes it away; it may be away. FAIL_TARGET_IN_USE if somebody is in it, or if another mount shows
 * the tree afterwards all the same; FAIL_NOT_RESTORABLE if something else is mounted there.
 */
int remount_away(const Mounted *m, Failure *reterr);

/*
 * Brings it back; it may be there. FAIL_NOT_RESTORABLE if that fails, or if what is behind it is
 * not the tree `expected`.
 */
int remount_back(const Mounted *m, const TreeId *expected, Failure *reterr);

/* What is behind it; TREE_ABSENT if nothing is mounted there. */
int remount_look(const Mounted *m, TreeId *ret, Failure *reterr);
