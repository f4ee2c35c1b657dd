/*
 * What counts is the kernel's view of the mount, never a text of somebody's configuration. The
 * mount of the top level is made by the class `image` where there is one, since the class that
 * restores may not mount.
 */

#include "snapshot/mounted.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "snapshot/btrfs.h"
#include "snapshot/image-remote.h"
#include "snapshot/mount-image.h"
#include "snapshot/mount-table.h"
#include "snapshot/snapshot-internal.h"

#define BY_UUID        "/dev/disk/by-uuid/"
#define MOUNT_LINE_MAX 8192
#define TOP_LEVEL_ID   5

#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif
#define STATVFS_NOSYMFOLLOW 0x2000 /* not in the library's header */

void mounted_free(Mounted *m) {
        if (!m)
                return;
        free(m->point);
        free(m->subvolume);
        free(m->source);
        fd_close(m->top);
        free(m);
}

static Mounted *mounted_new(void) {
        Mounted *m = calloc(1, sizeof(*m));

        if (m)
                m->top = -1;
        return m;
}

const char *mounted_name(const Mounted *m) {
        return strrchr(m->subvolume, '/') + 1;
}

bool mounted_equal(const Mounted *a, const Mounted *b) {
        return strcmp(a->point, b->point) == 0 && strcmp(a->subvolume, b->subvolume) == 0 &&
               memcmp(a->fsid, b->fsid, sizeof(a->fsid)) == 0;
}

/* ---- what is mounted ---- */

static int refuse(const char *path, const char *why, Failure *reterr) {
        return fail_set(reterr, FAIL_NOT_RESTORABLE, EBUSY,
                        "%s is the root of its mount and cannot be exchanged (%s); restore it "
                        "aside with --into",
                        path, why);
}

static uint64_t attributes_of(unsigned long flags) {
        static const struct {
                unsigned long flag;
                uint64_t attribute;
        } pairs[] = {
                { ST_NOSUID, MOUNT_ATTR_NOSUID },
                { ST_NODEV, MOUNT_ATTR_NODEV },
                { ST_NOEXEC, MOUNT_ATTR_NOEXEC },
                { ST_NODIRATIME, MOUNT_ATTR_NODIRATIME },
                { STATVFS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW },
        };
        uint64_t attributes = flags & ST_NOATIME    ? MOUNT_ATTR_NOATIME
                              : flags & ST_RELATIME ? MOUNT_ATTR_RELATIME
                                                    : MOUNT_ATTR_STRICTATIME;

        for (size_t i = 0; i < ELEMENTSOF(pairs); i++)
                if (flags & pairs[i].flag)
                        attributes |= pairs[i].attribute;
        return attributes;
}

/* `fd` is the mount's root, a subvolume. */
static int describe(int fd, Mounted *m, Failure *reterr) {
        _cleanup_close_ int dir = fd_reopen(fd, O_RDONLY | O_DIRECTORY);
        struct statvfs st;
        int r = dir < 0 ? dir : btrfs_fsid(dir, m->fsid);

        if (r >= 0 && fstatvfs(dir, &st) < 0)
                r = -errno;
        if (r < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r, "cannot look at '%s'",
                                  m->point);
        if (st.f_flag & ST_RDONLY)
                return refuse(m->point, "it is mounted read-only", reterr);
        m->attributes = attributes_of(st.f_flag);
        return 0;
}

static int find_in_table(const Place *place, Mounted *m, Failure *reterr) {
        _cleanup_close_ int procfd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_(mount_table_done) MountTable table = { 0 };
        const Mount *at, *parent;
        int r = procfd < 0 ? -errno : mount_table_load(&table, procfd, 0, "/");

        if (r < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r, "cannot look at the mount '%s'",
                                  m->point);
        mount_table_sort(&table);
        at = mount_table_find(&table, place->mount);
        if (!at || strcmp(at->point, m->point) != 0)
                return refuse(m->point, "/proc/self/mountinfo does not show it", reterr);
        if (strcmp(at->root, "/") == 0)
                return refuse(m->point,
                              "it is the top level of its file system, which has no name in it",
                              reterr);
        parent = mount_table_find(&table, at->parent);
        if (parent && strcmp(parent->point, at->point) == 0)
                return refuse(m->point, "another mount, an automount perhaps, stands below it",
                              reterr);
        m->subvolume = strdup(at->root);
        m->source = strdup(at->source);
        if (!m->subvolume || !m->source)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        return text_is_clean_path(m->subvolume)
                       ? 0
                       : refuse(m->point, "what is mounted there has been removed", reterr);
}

int mounted_find(const char *path, Mounted **ret, Failure *reterr) {
        _cleanup_(mounted_freep) Mounted *m = NULL;
        _cleanup_close_ int fd = -1;
        Place place;
        int r = area_is_mount_root(path, reterr);

        *ret = NULL;
        if (r <= 0)
                return r;
        fd = place_open(path, O_PATH, FAIL_SNAPSHOT_FAILED, reterr);
        if (fd < 0)
                return fd;
        r = place_stat(fd, &place);
        if (r < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r, "cannot look at '%s'", path);
        if (strcmp(path, "/") == 0 || !place_is_btrfs(fd))
                return refuse(path, "only a subvolume of btrfs can", reterr);
        if (!place_is_subvolume(fd, &place))
                return refuse(path, "it is a bind mount of a directory in a subvolume", reterr);
        m = mounted_new();
        if (!m || !(m->point = strdup(path)))
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        r = find_in_table(&place, m, reterr);
        if (r >= 0)
                r = describe(fd, m, reterr);
        if (r < 0)
                return r;
        m->wanted = true;
        *ret = TAKE_PTR(m);
        return 0;
}

int mounted_is_up(const Mounted *m, Failure *reterr) {
        return area_is_mount_root(m->point, reterr);
}

/* ---- kept ---- */

json_object *mounted_json(const Mounted *m) {
        _cleanup_json_ json_object *o = json_object_new_object();
        char fsid[UUID_TEXT_MAX];

        text_uuid_format(m->fsid, fsid);
        if (!o || json_put_path(o, "point", m->point) < 0 ||
            json_put_path(o, "subvolume", m->subvolume) < 0 ||
            json_put_path(o, "source", m->source) < 0 || json_put_string(o, "fsid", fsid) < 0 ||
            json_put_u64(o, "attributes", m->attributes) < 0 ||
            json_put_bool(o, "wanted", m->wanted) < 0)
                return NULL;
        return TAKE_PTR(o);
}

int mounted_read(json_object *o, Mounted **ret) {
        _cleanup_(mounted_freep) Mounted *m = mounted_new();
        const char *fsid;

        if (!m)
                return -ENOMEM;
        if (json_get_path(o, "point", &m->point) < 0 ||
            json_get_path(o, "subvolume", &m->subvolume) < 0 ||
            json_get_path(o, "source", &m->source) < 0 || json_get_string(o, "fsid", &fsid) < 0 ||
            text_uuid_parse(fsid, m->fsid) < 0 ||
            json_get_u64(o, "attributes", &m->attributes) < 0 ||
            json_get_bool(o, "wanted", &m->wanted) < 0 || !text_is_clean_path(m->point) ||
            !text_is_clean_path(m->subvolume) || strcmp(m->subvolume, "/") == 0)
                return -EINVAL;
        *ret = TAKE_PTR(m);
        return 0;
}

/* ---- the top level ---- */

static int check_top(int mount_fd, const uint8_t fsid[16]) {
        _cleanup_close_ int dir = fd_reopen(mount_fd, O_RDONLY | O_DIRECTORY);
        uint8_t found[16];
        uint64_t id;
        int r = dir < 0 ? dir : btrfs_fsid(dir, found);

        if (r >= 0)
                r = btrfs_subvolume_id(dir, &id);
        if (r < 0)
                return r;
        return id == TOP_LEVEL_ID && memcmp(found, fsid, sizeof(found)) == 0 ? 0 : -ESTALE;
}

static bool is_mount_of(const char *point, const uint8_t fsid[16]) {
        _cleanup_close_ int fd = fd_open_absolute(point, O_RDONLY | O_DIRECTORY);
        uint8_t found[16];

        return fd >= 0 && btrfs_fsid(fd, found) >= 0 && memcmp(found, fsid, sizeof(found)) == 0;
}

/* The device of another mount of it; NULL if there is none. Owned. */
static char *find_device(const uint8_t fsid[16]) {
        char text[MOUNT_LINE_MAX], *device = NULL;
        FILE *f = setmntent("/proc/self/mounts", "re");
        struct mntent entry;

        while (f && !device && getmntent_r(f, &entry, text, sizeof(text)))
                if (strcmp(entry.mnt_type, "btrfs") == 0 && is_mount_of(entry.mnt_dir, fsid))
                        device = strdup(entry.mnt_fsname);
        if (f)
                endmntent(f);
        return device;
}

/* What udev says, or another mount, or else where it was last: names of devices change. Owned. */
static char *device_of(const uint8_t fsid[16], const char *source) {
        char by_uuid[sizeof(BY_UUID) + UUID_TEXT_MAX] = BY_UUID;
        char *found;

        text_uuid_format(fsid, by_uuid + strlen(BY_UUID));
        if (access(by_uuid, F_OK) == 0)
                return strdup(by_uuid);
        found = find_device(fsid);
        return found ? found : strdup(source);
}

int mounted_mount_top(const uint8_t fsid[16], const char *source, Failure *reterr) {
        _cleanup_free_ char *device = device_of(fsid, source);
        _cleanup_close_ int fd = -1;
        char text[UUID_TEXT_MAX];
        int r;

        if (!device)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        fd = image_mount_btrfs(device, "subvolid", "5",
                               MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC |
                                       MOUNT_ATTR_NOSYMFOLLOW,
                               reterr);
        if (fd < 0)
                return fd;
        r = check_top(fd, fsid);
        if (r >= 0)
                return TAKE_FD(fd);
        text_uuid_format(fsid, text);
        return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r, "'%s' is not the btrfs %s", device,
                          text);
}

int mounted_open_top(const uint8_t fsid[16], const char *source, Failure *reterr) {
        char text[UUID_TEXT_MAX];
        Failure f = FAILURE_INIT;
        int fd;

        text_uuid_format(fsid, text);
        fd = image_remote_is_there() ? image_remote_top(text, source, &f)
                                     : mounted_mount_top(fsid, source, &f);
        if (fd >= 0)
                return fd;
        return fail_set(reterr, FAIL_NOT_RESTORABLE, f.errnum,
                        "the top level of the btrfs %s cannot be reached: %s", text, f.text);
}

static int top_of(Mounted *m, Failure *reterr) {
        if (m->top < 0)
                m->top = mounted_open_top(m->fsid, m->source, reterr);
        return m->top;
}

/* The directory of the subvolume, relative to the top level: owned. */
static char *parent_path(const Mounted *m) {
        size_t n = (size_t) (mounted_name(m) - m->subvolume);

        return n == 1 ? strdup(".") : strndup(m->subvolume + 1, n - 2);
}

int mounted_open_parent(Mounted *m, Failure *reterr) {
        _cleanup_free_ char *path = parent_path(m);
        int top = top_of(m, reterr), fd;

        if (top < 0)
                return top;
        fd = path ? fd_open_beneath(top, path, O_RDONLY | O_DIRECTORY, 0, false) : -ENOMEM;
        if (fd >= 0)
                return fd;
        return fail_errno(reterr, FAIL_NOT_RESTORABLE, -fd,
                          "the directory of subvolume %s, mounted at %s", m->subvolume, m->point);
}

int mounted_open_area(Mounted *m, bool create, char **ret_path, Failure *reterr) {
        _cleanup_free_ char *path = parent_path(m);
        int top = top_of(m, reterr);

        if (top < 0)
                return top;
        if (!path)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        return area_open_on_top(top, path, create, ret_path, reterr);
}

int mounted_mount(const Mounted *m, Failure *reterr) {
        _cleanup_free_ char *device = device_of(m->fsid, m->source);

        if (!device)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        return image_mount_btrfs(device, "subvol", m->subvolume, m->attributes, reterr);
}
