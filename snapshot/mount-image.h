#pragma once

/*
 * Mounts that no mount table shows, of images and others: they are reached through their descriptor
 * alone, and are gone when it is closed, however the process ends.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/fail.h"

/*
 * Mounts `device` with nodev, nosuid, noexec, nosymfollow and noatime; read-write for recovery of
 * its journal and of what lies in it, or read-only where it is clean. `type` is "ext4" or "xfs".
 * Returns the mount's descriptor (owned; O_PATH), or FAIL_SNAPSHOT_FAILED with the kernel's words.
 */
int image_mount(const char *type, const char *device, bool read_only, Failure *reterr);

/*
 * Mounts a subvolume of the btrfs on `device`, named by the option `key` ("subvol" or "subvolid"),
 * read-write with these MOUNT_ATTR_…. As above.
 */
int image_mount_btrfs(const char *device,
                      const char *key,
                      const char *value,
                      uint64_t attributes,
                      Failure *reterr);

/* Writes all of it and makes the whole file system read-only. 0 or negative errno. */
int image_make_read_only(int mount_fd);
