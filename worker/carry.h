#pragma once

/*
 * What a backup does not hold (its excluded paths) goes over from the tree that leaves to the tree
 * that comes: by rename inside one file system or subvolume, by copy between subvolumes. The times
 * of the directories around it stay as they were.
 */

#include "archive/arc.h"

/*
 * Finds the topmost excluded paths that exist below `treefd`; `on_path` gets them relative to it.
 * `at` is where the tree itself stands below the Path= that the rules begin at, "" for that. A
 * negative result ends it; directories are descended into only where a rule can match.
 */
int carry_find(int treefd,
               const char *at,
               const Globs *rules,
               int (*on_path)(void *userdata, const char *relative),
               void *userdata,
               Failure *reterr);

/* Removes them; a subvolume among them is refused (FAIL_TARGET_IN_USE). */
int carry_clear(int treefd, const char *at, const Globs *rules, Failure *reterr);

/* An excluded path that is a subvolume of its own: it can only be moved, and that anywhere. */
bool carry_is_subvolume(int treefd, const char *relative);

/* Copies one from `from` to `to`; missing parents are made like those in `from`. */
int carry_copy(int from,
               int to,
               const char *relative,
               bool (*interrupted)(void *),
               void *userdata,
               uint64_t *ret_bytes,
               Failure *reterr);

/*
 * Moves one by rename. `back` is the undo after a crash: what is not in `from` is taken as moved
 * already. Never replaces anything. Nothing is synced here: the caller does, once for all.
 */
int carry_move(int from, int to, const char *relative, bool back, Failure *reterr);
