#pragma once

/*
 * What the kernel's device-mapper knows of its devices: by the uuids that LVM gives them, which
 * stay when volumes are renamed. Nothing here changes a device or waits.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define DM_UUID_TEXT_MAX 129
#define DM_DEVICE_MAX    32 /* "/dev/dm-N" */

/* The uuid of a device. 0, -ENOENT if it is not device-mapper's, or another errno. */
int dm_uuid_of(dev_t dev, char ret[DM_UUID_TEXT_MAX]);

/* The path of the active device with this uuid. 0, -ENOENT or another errno. */
int dm_find(const char *uuid, char ret[DM_DEVICE_MAX]);

/* True if this process may speak to the device-mapper. */
bool dm_is_allowed(void);

/* True if the kernel has this target ("snapshot", "thin"), its module being loaded. */
bool dm_has_target(const char *name);

typedef struct DmUsage {
        bool is_failed;                         /* invalid, or overflown */
        uint64_t used, total;                   /* sectors of a snapshot, blocks of a pool */
        uint64_t metadata_used, metadata_total; /* of a pool: blocks */
} DmUsage;

/*
 * How full a snapshot or a thin pool is. 0; -ENXIO if there is no such device; -EINVAL if it is
 * neither; or another errno.
 */
int dm_usage(const char *uuid, DmUsage *ret);

/* The same out of the kernel's line ("16/8192 16", "Invalid"). 0 or -EINVAL. */
int dm_usage_parse(const char *target, const char *status, DmUsage *ret);

/* Percent, rounded up; 100 for a total of 0. */
unsigned dm_percent(uint64_t used, uint64_t total);
