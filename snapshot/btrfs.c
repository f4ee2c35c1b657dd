#include "snapshot/btrfs.h"

#include <btrfsutil.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/text.h"
#include "snapshot/mounted.h"
#include "snapshot/snapshot-internal.h"

/*
 * Images are writable snapshots in the volume's area until they are sealed. Only the `_fd`
 * functions of libbtrfsutil are used: those with a path follow links. Nothing here is recursive
 * across subvolumes, for live ones may be nested in what is deleted.
 *
 * An image is known by its uuid and by `ctransid`, the transaction of the last change inside it.
 * `generation` would not do: each snapshot taken of an image raises it.
 */

/* The library sets errno for all its errors but running out of memory. */
static int util_error(enum btrfs_util_error e) {
        if (e == BTRFS_UTIL_OK)
                return 0;
        if (e == BTRFS_UTIL_ERROR_NO_MEMORY)
                return -ENOMEM;
        return errno > 0 ? -errno : -EIO;
}

int btrfs_fsid(int fd, uint8_t ret[16]) {
        struct btrfs_ioctl_fs_info_args args = { 0 };

        if (ioctl(fd, BTRFS_IOC_FS_INFO, &args) < 0)
                return -errno;
        memcpy(ret, args.fsid, sizeof(args.fsid));
        return 0;
}

int btrfs_subvolume_id(int fd, uint64_t *ret) {
        return util_error(btrfs_util_subvolume_id_fd(fd, ret));
}

int btrfs_subvolume_info(int fd, BtrfsSubvolume *ret) {
        struct btrfs_util_subvolume_info info;
        bool read_only;
        int r;

        r = util_error(btrfs_util_subvolume_info_fd(fd, 0, &info));
        if (r >= 0)
                r = util_error(btrfs_util_get_subvolume_read_only_fd(fd, &read_only));
        if (r < 0)
                return r;
        *ret = (BtrfsSubvolume){
                .id = info.id,
                .ctransid = info.ctransid,
                .otransid = info.otransid,
                .read_only = read_only,
        };
        memcpy(ret->uuid, info.uuid, sizeof(ret->uuid));
        memcpy(ret->parent_uuid, info.parent_uuid, sizeof(ret->parent_uuid));
        return 0;
}

int btrfs_subvolume_create(int dirfd, const char *name) {
        return util_error(btrfs_util_create_subvolume_fd(dirfd, name, 0, NULL, NULL));
}

int btrfs_subvolume_snapshot(int fd, int dirfd, const char *name) {
        return util_error(btrfs_util_create_snapshot_fd2(fd, dirfd, name, 0, NULL, NULL));
}

int btrfs_subvolume_delete(int dirfd, const char *name) {
        return util_error(btrfs_util_delete_subvolume_fd(dirfd, name, 0));
}

/*
 * A subvolume that is mounted by itself and backed up as a whole has its images beside it, like all
 * others: in it they would go with it when a restore replaces it. Only where its top level is out
 * of reach (in a container) or has no name for it, they are in it.
 */
static int open_area(Volume *v, const char *path, Failure *reterr) {
        _cleanup_(mounted_freep) Mounted *m = NULL;
        Failure why = FAILURE_INIT;
        int r = strcmp(path, v->root) == 0 ? mounted_find(path, &m, &why) : 0;

        if (r >= 0 && m) {
                r = v->area_fd = mounted_open_area(m, true, &v->area, &why);
                if (r >= 0 && !(v->mount = mounted_json(m)))
                        return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
                if (r >= 0)
                        return 0;
                /* An area that is not root's own is no reason to look for another one. */
                if (why.code != FAIL_NOT_RESTORABLE)
                        return fail_set(reterr, why.code, why.errnum, "%s", why.text);
        }
        if (r < 0)
                log_debug("images of '%s' are made in it: %s", v->root, why.text);
        v->area_fd = area_open(v->root, true, &v->area, NULL, reterr);
        return v->area_fd < 0 ? v->area_fd : 0;
}

static int volume_find_btrfs(Volume *v, const char *path, Failure *reterr) {
        bool subvolume;
        int r;

        v->fd = place_find_root(path, &v->root, &subvolume, FAIL_SNAPSHOT_FAILED, reterr);
        if (v->fd < 0)
                return v->fd;
        if (!subvolume)
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, EXDEV,
                                "'%s' is a bind mount of a directory inside a btrfs subvolume, so "
                                "'%s' cannot "
                                "be frozen through it: configure the path below the subvolume "
                                "itself, or set "
                                "Snapshot=none",
                                v->root, path);
        r = btrfs_fsid(v->fd, v->fsid);
        if (r >= 0)
                r = btrfs_subvolume_id(v->fd, &v->subvolume);
        if (r < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r,
                                  "cannot read which subvolume '%s' is", v->root);
        return open_area(v, path, reterr);
}

static int take_failed(const Volume *v, const char *name, int r, Failure *reterr) {
        if (r == -ETXTBSY)
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, ETXTBSY,
                                "'%s' has an active swap file, of which btrfs makes no snapshot: "
                                "move it to "
                                "a subvolume of its own",
                                v->root);
        if (r == -ENOSPC)
                return fail_set(reterr, FAIL_NO_SPACE, ENOSPC,
                                "no space for a snapshot of '%s' (btrfs may lack room for metadata "
                                "while data "
                                "still fits): free some, or add a device",
                                v->root);
        if (r == -EDQUOT)
                return fail_set(reterr, FAIL_NO_SPACE, EDQUOT,
                                "the quota group of '%s' is exhausted: raise its limit", v->root);
        if (r == -EEXIST)
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, EEXIST,
                                "there is already a snapshot '%s/%s'", v->area, name);
        return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r, "cannot make a snapshot of '%s'",
                          v->root);
}

static int image_take(Volume *v, const char *name, Snapshot *s, Failure *reterr) {
        int r;

        /* Whatever can fail for want of memory or descriptors does so before the image exists. */
        s->name = strdup(name);
        s->area = strdup(v->area);
        s->area_fd = fcntl(v->area_fd, F_DUPFD_CLOEXEC, 3);
        if (!s->name || !s->area || s->area_fd < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, s->area_fd < 0 ? errno : ENOMEM,
                                  "cannot prepare a snapshot of '%s'", v->root);
        s->mount = json_object_get(v->mount);
        r = btrfs_subvolume_snapshot(v->fd, v->area_fd, name);
        if (r < 0)
                return take_failed(v, name, r, reterr);
        s->fd = fs_open_dir(s->area_fd, name);
        if (s->fd >= 0)
                return 0;
        (void) btrfs_subvolume_delete(v->area_fd,
                                      name); /* else the next sweep finds it by its name */
        return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -s->fd, "cannot open the snapshot '%s/%s'",
                          v->area, name);
}

static int seal_failed(const Snapshot *s, int r, const char *what, Failure *reterr) {
        FailCode code = r == -ENOSPC || r == -EDQUOT ? FAIL_SNAPSHOT_FULL : FAIL_SNAPSHOT_FAILED;

        return fail_errno(reterr, code, -r, "cannot %s the snapshot '%s/%s'", what, s->area,
                          s->name);
}

static int image_freeze(Snapshot *s, Failure *reterr) {
        int r = util_error(btrfs_util_set_subvolume_read_only_fd(s->fd, true));

        return r < 0 ? seal_failed(s, r, "seal", reterr) : 0;
}

/* ctransid moves until the last dirty page is on disk: hence after the sync. */
static int image_identify(Snapshot *s, Failure *reterr) {
        BtrfsSubvolume info;
        int r = btrfs_subvolume_info(s->fd, &info);

        if (r >= 0 && !info.read_only)
                r = -EROFS;
        if (r < 0)
                return seal_failed(s, r, "identify", reterr);
        memcpy(s->uuid, info.uuid, sizeof(s->uuid));
        memcpy(s->parent_uuid, info.parent_uuid, sizeof(s->parent_uuid));
        s->subvolume = info.id;
        s->ctransid = info.ctransid;
        s->otransid = info.otransid;
        s->sealed = true;
        return 0;
}

/* Checksums are verified by every read, and a snapshot here cannot overflow. */
static int image_check(Snapshot *s, Failure *reterr) {
        return 0;
}

static int image_drop(Snapshot *s, Failure *reterr) {
        struct stat ours, there;
        int r;

        if (fstat(s->fd, &ours) < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, errno, "cannot look at '%s/%s'",
                                  s->area, s->name);
        if (fstatat(s->area_fd, s->name, &there, AT_SYMLINK_NOFOLLOW) < 0)
                r = -errno;
        else if (ours.st_dev != there.st_dev || ours.st_ino != there.st_ino)
                r = -ESTALE; /* renamed by somebody: what has the name now is not ours to delete */
        else
                r = btrfs_subvolume_delete(s->area_fd, s->name);
        if (r < 0 && r != -ENOENT)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r,
                                  "cannot delete the snapshot '%s/%s'", s->area, s->name);
        return 0;
}

static int put_uuid(json_object *o, const char *key, const uint8_t uuid[16]) {
        char text[UUID_TEXT_MAX];

        text_uuid_format(uuid, text);
        return json_put_string(o, key, text);
}

static int get_uuid(json_object *o, const char *key, uint8_t ret[16]) {
        const char *text;
        int r = json_get_string(o, key, &text);

        return r < 0 ? r : text_uuid_parse(text, ret);
}

static int image_describe(const Snapshot *s, json_object *o) {
        if (json_put_path(o, "area", s->area) < 0 || json_put_path(o, "name", s->name) < 0 ||
            put_uuid(o, "uuid", s->uuid) < 0 || put_uuid(o, "parent_uuid", s->parent_uuid) < 0 ||
            json_put_u64(o, "subvolume", s->subvolume) < 0 ||
            json_put_u64(o, "ctransid", s->ctransid) < 0 ||
            json_put_u64(o, "otransid", s->otransid) < 0 ||
            (s->mount && json_put(o, "mount", json_object_get(s->mount)) < 0))
                return -ENOMEM;
        return 0;
}

static int image_read(json_object *o, Snapshot *s) {
        if (json_get_path(o, "area", &s->area) < 0 || json_get_path(o, "name", &s->name) < 0 ||
            get_uuid(o, "uuid", s->uuid) < 0 || get_uuid(o, "parent_uuid", s->parent_uuid) < 0 ||
            json_get_u64(o, "subvolume", &s->subvolume) < 0 ||
            json_get_u64(o, "ctransid", &s->ctransid) < 0 ||
            json_get_u64(o, "otransid", &s->otransid) < 0)
                return -EINVAL;
        return place_is_name(s->name) ? 0 : -EINVAL;
}

static int image_compare(const Snapshot *s, Failure *reterr) {
        const char *what = NULL;
        BtrfsSubvolume info;
        Place place;
        int r;

        r = place_stat(s->fd, &place);
        if (r >= 0 && !place_is_subvolume(s->fd, &place))
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EUCLEAN,
                                "'%s/%s' is not a subvolume", s->area, s->name);
        if (r >= 0)
                r = btrfs_subvolume_info(s->fd, &info);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTEGRITY_FAILURE, -r, "cannot identify '%s/%s'",
                                  s->area, s->name);
        if (memcmp(info.uuid, s->uuid, sizeof(info.uuid)) != 0)
                what = "its uuid is another one";
        else if (memcmp(info.parent_uuid, s->parent_uuid, sizeof(info.parent_uuid)) != 0)
                what = "it was made from another subvolume";
        else if (!info.read_only)
                what = "it was made writable";
        else if (info.ctransid != s->ctransid)
                what = "it was changed since";
        if (!what)
                return 0;
        return fail_set(
                reterr, FAIL_INTEGRITY_FAILURE, EUCLEAN,
                "'%s/%s' is not the image that was recorded (%s): use the copy in the repository",
                s->area, s->name, what);
}

static int open_kept_area(json_object *identity, Snapshot *s, Failure *reterr) {
        _cleanup_(mounted_freep) Mounted *m = NULL;
        json_object *mount;
        int r = json_get_object(identity, "mount", &mount);

        if (r == -ENOENT)
                return place_open(s->area, O_RDONLY | O_DIRECTORY, FAIL_INTEGRITY_FAILURE, reterr);
        if (r >= 0)
                r = mounted_read(mount, &m);
        if (r < 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EINVAL,
                                "the record of a kept image is malformed");
        s->mount = json_object_get(mount);
        return mounted_open_area(m, false, NULL, reterr);
}

static int image_open(json_object *identity, Snapshot *s, Failure *reterr) {
        int r;

        r = image_read(identity, s);
        if (r < 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EINVAL,
                                "the record of a kept image is malformed");
        s->area_fd = open_kept_area(identity, s, reterr);
        if (s->area_fd < 0)
                return s->area_fd;
        r = area_check(s->area_fd, s->area, reterr);
        if (r < 0)
                return r;
        s->fd = fs_open_dir(s->area_fd, s->name);
        if (s->fd == -ENOENT)
                return fail_set(reterr, FAIL_SOURCE_MISSING, ENOENT,
                                "the image '%s/%s' is gone: use the copy in the repository",
                                s->area, s->name);
        if (s->fd < 0)
                return fail_errno(reterr, FAIL_INTEGRITY_FAILURE, -s->fd,
                                  "cannot open the image '%s/%s'", s->area, s->name);
        return image_compare(s, reterr);
}

const SnapshotOps btrfs_ops = {
        .kind = SNAPSHOT_BTRFS,
        .find = volume_find_btrfs,
        .take = image_take,
        .freeze = image_freeze,
        .identify = image_identify,
        .check = image_check,
        .drop = image_drop,
        .describe = image_describe,
        .open = image_open,
};
