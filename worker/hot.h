#pragma once

/*
 * Hot copies: sealed snapshots that are kept beside the live data. A file hot/BACKUP-ID.json in the
 * worker's state names the images of a backup by identity and says which services each one serves.
 */

#include "snapshot/snapshot.h"
#include "worker/work.h"

/*
 * Keeps hot copies from being dropped (shared, by who reads them) or read (exclusive, taken by the
 * functions here that drop) for the life of the returned fd. FAIL_BUSY instead of waiting.
 */
int hot_lock(Work *w, bool exclusive, Failure *reterr);

/* Writes the record of a new hot copy: `images` is a list of {"services": […], "identity": {…}}. */
int hot_save(Work *w,
             const char *backup_id,
             uint64_t created_usec,
             json_object *images,
             Failure *reterr);

/*
 * Opens the image of a backup that serves `service` and holds the live `path`. 0; -ENOENT
 * without a failure if there is none; or why it cannot be believed.
 */
int hot_open(Work *w,
             const char *backup_id,
             const char *service,
             const char *path,
             Snapshot **ret,
             Failure *reterr);

/* True if the backup has a hot copy for all `services` (a list of names). */
bool hot_covers(Work *w, const char *backup_id, json_object *services);

/* Who is asked, and told, while hot copies are dropped. */
typedef struct HotKeeper {
        bool (*exists)(void *userdata, const char *backup_id);
        void (*dropped)(void *userdata, const char *backup_id); /* a backup that still exists */
        void *userdata;
} HotKeeper;

/*
 * Drops images beyond [Hot] Keep= and MaxAgeDays= of every service they serve (but the newest of
 * each, which the next backup starts from), images whose backup is gone, and what crashed runs left
 * in the areas of the configured paths. The caller holds the repository's writer lock, so no other
 * run is making images. Failures are logged; returns how many were dropped.
 */
size_t hot_rotate(Work *w, const HotKeeper *keeper);

/*
 * Drops all hot copies that lie in the thin pool of `v`: it is too full for a snapshot, and they
 * are what keeps it so. Returns how many.
 */
size_t hot_make_room(Work *w, const Volume *v, const HotKeeper *keeper);

/* True if there is something that hot_make_room() would drop. */
bool hot_may_make_room(Work *w, const Volume *v);

/*
 * Removes LVM snapshots that crashed runs left, known by their tags, if any service lies on LVM.
 * The caller holds the repository's writer lock. Failures are logged; returns how many.
 */
size_t hot_sweep_lvm(Work *w);

/* Drops the images of one backup as far as this process may. */
void hot_drop(Work *w, const char *backup_id);

/*
 * Removes the images in the area of a tree that is about to be removed: they lie in it where its
 * top level could not be reached when they were made. Their records go with the next rotation.
 */
int hot_remove_inside(int dirfd, const char *tree, Failure *reterr);
