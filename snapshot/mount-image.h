#pragma once

/*
 * Mounts of images that no mount table shows: they are reached through their descriptor alone, and
 * are gone when it is closed, however the process ends.
 */

#include <stdbool.h>

#include "base/fail.h"

/*
 * Mounts `device` with nodev, nosuid, noexec, nosymfollow and noatime; read-write for recovery of
 * its journal and of what lies in it, or read-only where it is clean. `type` is "ext4" or "xfs".
 * Returns the mount's descriptor (owned; O_PATH), or FAIL_SNAPSHOT_FAILED with the kernel's words.
 */
int image_mount(const char *type, const char *device, bool read_only, Failure *reterr);

/* Writes all of it and makes the whole file system read-only. 0 or negative errno. */
int image_make_read_only(int mount_fd);
