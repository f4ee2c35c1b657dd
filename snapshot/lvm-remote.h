#pragma once

/*
 * Reading a kept image where this process may not use LVM: holdpoint-image@.service opens it and
 * hands over the directory. The class that restores needs neither devices nor mounts for it.
 */

#include "base/fail.h"
#include "base/json.h"

/*
 * Asks for the image with this identity. Returns the descriptor of its root (owned) and in
 * `ret_socket` the connection, whose closing ends the mount. FAIL_SNAPSHOT_FAILED, or what the
 * other side says.
 */
int lvm_remote_open(json_object *identity, int *ret_socket, Failure *reterr);
