#pragma once

/*
 * What this process may not open by itself: holdpoint-image@.service opens it and hands over the
 * directory. The class that restores needs neither devices nor mounts for it.
 */

#include <stdbool.h>

#include "base/fail.h"
#include "base/json.h"

/* True where there is such a service: by hand, and early in boot, there is none. */
bool image_remote_is_there(void);

/*
 * Asks for the kept LVM image with this identity. Returns the descriptor of its root (owned) and in
 * `ret_socket` the connection, whose closing ends the mount. FAIL_SNAPSHOT_FAILED, or what the
 * other side says.
 */
int image_remote_open(json_object *identity, int *ret_socket, Failure *reterr);

/* Asks for the top level of a btrfs, see mounted_open_top(). The descriptor is owned. */
int image_remote_top(const char *fsid, const char *source, Failure *reterr);
