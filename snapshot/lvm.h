#pragma once

/*
 * What others ask of the LVM provider beside its table of functions.
 */

#include "snapshot/snapshot.h"

/* True if what `fd` is open on lies on a logical volume with a file system that images are made of.
 */
bool lvm_is_candidate(int fd);
