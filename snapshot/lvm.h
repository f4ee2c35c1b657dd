#pragma once

/*
 * What others ask of the LVM provider beside its table of functions.
 */

#include "snapshot/snapshot.h"

/*
 * True if what `fd` is open on lies on a logical volume with a file system that images are made of;
 * in the volume group of this uuid, or in any (NULL).
 */
bool lvm_is_candidate(int fd, const char *vg_uuid);
