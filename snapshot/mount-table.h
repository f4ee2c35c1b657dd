#pragma once

/*
 * All mounts of all namespaces that processes live in, by mount id, which the kernel gives out once
 * for all namespaces. With it a path that /proc shows becomes a place in a file system, the same
 * through every bind mount.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"

typedef struct Mount {
        uint64_t id, parent;
        dev_t dev;    /* of the superblock, not of a btrfs subvolume */
        char *root;   /* of the mount, in its file system */
        char *point;  /* where /proc shows it, to a process with our root */
        char *source; /* the device, or another word for it; "" if that is not known */
        bool follows; /* what is mounted on it comes and goes with other mounts of its group */
        pid_t pid;    /* in whose mountinfo it was found; 0: our own */
} Mount;

typedef struct MountTable {
        Mount *mounts; /* sorted by id after mount_table_sort() */
        size_t n, allocated;
} MountTable;

void mount_table_done(MountTable *t);

/*
 * Adds the mounts that `pid` sees (0: ourselves); `procfd` is /proc, `root` where /proc shows the
 * process's root directory. 0, -EINVAL if the process has no namespace any more, or another errno.
 */
int mount_table_load(MountTable *t, int procfd, pid_t pid, const char *root);

/*
 * A process below a root of its own is not shown the mount that holds this root, and nobody else
 * may be in its namespace. Adds that mount if it shows the same directory of the superblock `dev`
 * as one of ours; needs a sorted table and leaves one. 0 also if it stays unknown; negative errno.
 */
int mount_table_add_root(MountTable *t, int procfd, pid_t pid, const char *root, dev_t dev);

/* Sorts, and drops what was read twice. */
void mount_table_sort(MountTable *t);

const Mount *mount_table_find(const MountTable *t, uint64_t id); /* NULL if there is none */

/*
 * The place in the file system of `path`, as /proc shows it, on mount `m`: owned. NULL with errno
 * ENOMEM, or EINVAL if the path does not lead through the mount.
 */
char *mount_place(const Mount *m, const char *path);
