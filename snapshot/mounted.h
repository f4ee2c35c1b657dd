#pragma once

/*
 * A subvolume of btrfs that is mounted by itself (`subvol=`). Its name is reached on the top level
 * of its file system, through a mount that nobody else sees: there it can be exchanged, and what
 * lies beside it is no part of it. docs/adr/0015-mounted-subvolumes.md.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/fail.h"
#include "base/json.h"

typedef struct Mounted {
        char *point;     /* the live path */
        char *subvolume; /* its path in the file system, absolute */
        char *source;    /* the device, as it was mounted */
        uint8_t fsid[16];
        uint64_t attributes; /* of the mount itself: MOUNT_ATTR_… */
        bool wanted;         /* for who keeps this: it is to be mounted */
        int top;             /* descriptor of the top level, -1 until it is needed */
} Mounted;

void mounted_free(Mounted *m);
DEFINE_CLEANUP(Mounted *, mounted_free);

/*
 * Looks what is mounted at `path`: `*ret` is NULL if that is not the root of a mount (or not
 * there). FAIL_NOT_RESTORABLE if it is one that cannot be taken away and brought back with another
 * tree, with the reason; FAIL_SNAPSHOT_FAILED if it cannot be looked at.
 */
int mounted_find(const char *path, Mounted **ret, Failure *reterr);

/* For who keeps it. mounted_read() is -EINVAL for what is malformed. */
json_object *mounted_json(const Mounted *m);
int mounted_read(json_object *o, Mounted **ret);

/* True if both stand for the same subvolume at the same place. */
bool mounted_equal(const Mounted *a, const Mounted *b);

/*
 * Opens the directory that holds the subvolume, on the top level, and the area there (at the root
 * of the subvolume that holds this directory). Descriptors are owned. FAIL_NOT_RESTORABLE; a
 * missing area is -ENOENT with FAIL_SOURCE_MISSING unless `create`. `ret_path` (owned, may be NULL)
 * is for messages.
 */
int mounted_open_parent(Mounted *m, Failure *reterr);
int mounted_open_area(Mounted *m, bool create, char **ret_path, Failure *reterr);

/* The name of the subvolume in its directory. Borrowed. */
const char *mounted_name(const Mounted *m);

/* 1 if something is mounted at its place now, 0 if not. */
int mounted_is_up(const Mounted *m, Failure *reterr);

/*
 * The top level of a btrfs by its id, mounted where nobody sees it: owned. `source` is where it was
 * last; what udev says, or another mount of it, goes before. The file system is there for as long
 * as the descriptor, or one opened through it.
 */
int mounted_open_top(const uint8_t fsid[16], const char *source, Failure *reterr);

/* As mounted_open_top(), by this very process. FAIL_SNAPSHOT_FAILED. */
int mounted_mount_top(const uint8_t fsid[16], const char *source, Failure *reterr);

/* Mounts it as it was, where nobody sees it yet. The descriptor is owned. FAIL_SNAPSHOT_FAILED. */
int mounted_mount(const Mounted *m, Failure *reterr);
