#pragma once

/*
 * What the files of the LVM provider share. Volumes and images are known by their uuids: names may
 * change while a job runs, and what has a name now need not be what had it before.
 */

#include "snapshot/lvm-run.h"
#include "snapshot/snapshot-internal.h"

#define LVM_TAG         "holdpoint" /* on all that Holdpoint makes */
#define LVM_TAG_PREFIX  LVM_TAG "." /* and the name of the snapshot, for the sweep */
#define LVM_NAME_PREFIX LVM_TAG "-" /* of the volume's name; udev's rule alone goes by it */

/* A thin pool that fills up stops all volumes in it: no snapshot above these, in percent. */
#define LVM_POOL_DATA_MAX     80
#define LVM_POOL_METADATA_MAX 70

/* A classic snapshot: of the origin's size at first, and by that much larger when it fills up. */
#define LVM_SIZE_PERCENT 20
#define LVM_SIZE_MIN     (UINT64_C(64) << 20)

/* Where a file system's root, seen through its mount, lies in it. */
typedef struct LvmPlace {
        char type[8];   /* "ext4" (which mounts ext2 and ext3 too) or "xfs" */
        char *below;    /* directory of the file system that is the mount's root: "." or "a/b" */
        uint64_t inode; /* of that directory */
} LvmPlace;

/* A logical volume with a mounted file system: what snapshots are made of. */
typedef struct LvmOrigin {
        char vg_uuid[LVM_UUID_MAX], lv_uuid[LVM_UUID_MAX];
        LvmPlace place;
        bool is_thin;
        /* Once prepared: */
        LvmName snapshot;
        char tag[LVM_TAG_MAX + 1], pool_uuid[LVM_UUID_MAX];
        LvmRun run;
} LvmOrigin;

/* A snapshot. */
typedef struct LvmImage {
        char vg_uuid[LVM_UUID_MAX], lv_uuid[LVM_UUID_MAX], origin_uuid[LVM_UUID_MAX];
        char pool_uuid[LVM_UUID_MAX];
        char tag[LVM_TAG_MAX + 1];
        LvmName name; /* as last seen */
        LvmPlace place;
        bool is_thin, is_active, has_no_room;
        uint64_t made_usec; /* how long LVM took: nothing is logged under the hold */
        int mount_fd;
        json_object *remote; /* the identity of one that another process opens for this one */
        int remote_socket;
} LvmImage;

int lvm_place_copy(const LvmPlace *from, LvmPlace *to);
void lvm_place_done(LvmPlace *p);

/* An image without anything; owned. */
LvmImage *lvm_image_new(void);

/* How large a classic snapshot should be: rounded to extents, 0 if there is no room for one. */
uint64_t lvm_snapshot_size(uint64_t origin_size, uint64_t room, uint64_t extent);

/* Parts of the provider (lvm-image.c). */
int lvm_image_attach(Snapshot *s, Failure *reterr);
int lvm_image_freeze(Snapshot *s, Failure *reterr);
int lvm_image_identify(Snapshot *s, Failure *reterr);
int lvm_image_watch(Snapshot *s, Failure *reterr);
int lvm_image_check(Snapshot *s, Failure *reterr);
int lvm_image_keep(Snapshot *s, Failure *reterr);
int lvm_image_drop(Snapshot *s, Failure *reterr);
int lvm_image_describe(const Snapshot *s, json_object *o);
int lvm_image_open(json_object *identity, Snapshot *s, Failure *reterr);
void lvm_image_close(Snapshot *s);
