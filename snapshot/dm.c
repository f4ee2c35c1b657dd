#include "snapshot/dm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"

/*
 * The ioctls that only look, by hand: libdevmapper would bring its udev and locking along, for two
 * structures that the kernel keeps stable.
 */

#define CONTROL_PATH "/dev/" DM_DIR "/" DM_CONTROL_NODE
#define REPLY_MAX    16384

typedef union DmCall {
        struct dm_ioctl head;
        char bytes[REPLY_MAX];
} DmCall;

static int read_line(const char *path, char *ret, size_t n) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t k;

        if (fd < 0)
                return -errno;
        k = fd_read_full(fd, ret, n - 1);
        if (k < 0)
                return (int) k;
        ret[k] = 0;
        ret[strcspn(ret, "\n")] = 0;
        return 0;
}

int dm_uuid_of(dev_t dev, char ret[DM_UUID_TEXT_MAX]) {
        char path[64];

        (void) snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/dm/uuid", major(dev), minor(dev));
        return read_line(path, ret, DM_UUID_TEXT_MAX);
}

int dm_find(const char *uuid, char ret[DM_DEVICE_MAX]) {
        _cleanup_dir_ DIR *d = opendir("/sys/block");
        struct dirent *e;

        if (!d)
                return -errno;
        while ((e = readdir(d))) {
                char path[64], found[DM_UUID_TEXT_MAX];

                if (strncmp(e->d_name, "dm-", 3) != 0 || strlen(e->d_name) > 16)
                        continue;
                (void) snprintf(path, sizeof(path), "/sys/block/%.16s/dm/uuid", e->d_name);
                if (read_line(path, found, sizeof(found)) < 0 || strcmp(found, uuid) != 0)
                        continue;
                (void) snprintf(ret, DM_DEVICE_MAX, "/dev/%.16s", e->d_name);
                return 0;
        }
        return -ENOENT;
}

/* ---- ioctls ---- */

static int call(unsigned long request, const char *uuid, DmCall *c) {
        _cleanup_close_ int fd = open(CONTROL_PATH, O_RDWR | O_CLOEXEC);

        if (fd < 0)
                return -errno;
        memset(c, 0, sizeof(*c));
        c->head.version[0] = DM_VERSION_MAJOR;
        c->head.data_size = sizeof(*c);
        c->head.data_start = sizeof(c->head);
        if (strlen(uuid) >= sizeof(c->head.uuid))
                return -EINVAL;
        memcpy(c->head.uuid, uuid, strlen(uuid) + 1);
        if (ioctl(fd, request, c) < 0)
                return -errno;
        return c->head.flags & DM_BUFFER_FULL_FLAG ? -EOVERFLOW : 0;
}

bool dm_is_allowed(void) {
        DmCall c;

        return call(DM_VERSION, "", &c) >= 0;
}

bool dm_has_target(const char *name) {
        DmCall c;
        size_t at;

        if (call(DM_LIST_VERSIONS, "", &c) < 0)
                return false;
        at = c.head.data_start;
        while (at + sizeof(struct dm_target_versions) < sizeof(c)) {
                struct dm_target_versions v;

                memcpy(&v, c.bytes + at, sizeof(v));
                if (strncmp(c.bytes + at + sizeof(v), name, sizeof(c) - at - sizeof(v)) == 0)
                        return true;
                if (v.next == 0)
                        return false;
                at += v.next;
        }
        return false;
}

int dm_usage(const char *uuid, DmUsage *ret) {
        struct dm_target_spec spec;
        DmCall c;
        size_t at;
        int r = call(DM_TABLE_STATUS, uuid, &c);

        if (r < 0)
                return r;
        at = c.head.data_start;
        if (c.head.target_count != 1 || at + sizeof(spec) >= sizeof(c))
                return -EINVAL;
        memcpy(&spec, c.bytes + at, sizeof(spec));
        spec.target_type[sizeof(spec.target_type) - 1] = 0;
        c.bytes[sizeof(c) - 1] = 0;
        return dm_usage_parse(spec.target_type, c.bytes + at + sizeof(spec), ret);
}

int dm_usage_parse(const char *target, const char *status, DmUsage *ret) {
        DmUsage u = { 0 };

        if (strcmp(target, "snapshot") == 0) {
                u.is_failed = sscanf(status, "%" SCNu64 "/%" SCNu64, &u.used, &u.total) != 2;
        } else if (strcmp(target, "thin-pool") == 0) {
                u.is_failed = sscanf(status, "%*u %" SCNu64 "/%" SCNu64 " %" SCNu64 "/%" SCNu64,
                                     &u.metadata_used, &u.metadata_total, &u.used, &u.total) != 4 ||
                              strstr(status, " out_of_data_space ") || strstr(status, " ro ");
        } else {
                return -EINVAL;
        }
        *ret = u;
        return 0;
}

unsigned dm_percent(uint64_t used, uint64_t total) {
        if (total == 0 || used >= total)
                return 100;
        return (unsigned) ((double) used * 100 / (double) total + 0.999);
}
