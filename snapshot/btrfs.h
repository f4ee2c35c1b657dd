#pragma once

/*
 * Subvolumes, for the files of this folder: the one door to libbtrfsutil. Each function returns 0
 * or a negative errno; descriptors must not be O_PATH.
 */

#include <stdbool.h>
#include <stdint.h>

#define BTRFS_ROOT_INO UINT64_C(256) /* of the root directory of every subvolume */
#define BTRFS_STUB_INO UINT64_C(2)   /* of the empty place of a nested one in a snapshot */

typedef struct BtrfsSubvolume {
        uint64_t id, ctransid, otransid;
        uint8_t uuid[16], parent_uuid[16];
        bool read_only;
} BtrfsSubvolume;

int btrfs_fsid(int fd, uint8_t ret[16]);
int btrfs_subvolume_id(int fd, uint64_t *ret); /* of the subvolume that holds `fd` */
int btrfs_subvolume_info(int fd, BtrfsSubvolume *ret);

int btrfs_subvolume_create(int dirfd, const char *name);
int btrfs_subvolume_snapshot(int fd, int dirfd, const char *name); /* writable; one ioctl */

/* One subvolume, never what is nested in it: -ENOTEMPTY then. Read-only ones go too. */
int btrfs_subvolume_delete(int dirfd, const char *name);
