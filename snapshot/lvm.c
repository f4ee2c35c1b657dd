#include "snapshot/lvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "snapshot/dm.h"
#include "snapshot/lvm-internal.h"
#include "snapshot/mount-table.h"

/*
 * Under the hold there is one lvcreate, whose process was started and made ready before. It
 * suspends the origin, for which the kernel freezes the file system by itself: nothing here freezes
 * anything, so nothing can stay frozen.
 *
 * What the kernel says leads to the volume: device of the mounted file system, its device-mapper
 * uuid, LVM's own two uuids. Names come out of LVM's report and go back to LVM alone.
 */

#define UDEV_CONTROL "/run/udev/control"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

int lvm_place_copy(const LvmPlace *from, LvmPlace *to) {
        *to = *from;
        to->below = strdup(from->below);
        return to->below ? 0 : -ENOMEM;
}

void lvm_place_done(LvmPlace *p) {
        free(p->below);
        p->below = NULL;
}

/* ---- finding ---- */

/* The name of the file system's driver, or NULL. */
static const char *type_of(int fd) {
        struct statfs s;

        if (fstatfs(fd, &s) < 0)
                return NULL;
        switch ((unsigned long) s.f_type) {
        case EXT4_SUPER_MAGIC:
                return "ext4";
        case XFS_SUPER_MAGIC:
                return "xfs";
        default:
                return NULL;
        }
}

static int uuids_of(int fd, char ret_vg[LVM_UUID_MAX], char ret_lv[LVM_UUID_MAX]) {
        char uuid[DM_UUID_TEXT_MAX];
        struct stat st;
        int r;

        if (fstat(fd, &st) < 0)
                return -errno;
        r = dm_uuid_of(st.st_dev, uuid);
        return r < 0 ? r : lvm_dm_uuid_parse(uuid, ret_vg, ret_lv);
}

bool lvm_is_candidate(int fd, const char *vg_uuid) {
        char vg[LVM_UUID_MAX], lv[LVM_UUID_MAX];

        return type_of(fd) && uuids_of(fd, vg, lv) >= 0 && (!vg_uuid || strcmp(vg, vg_uuid) == 0);
}

/* Which directory of the file system its mount shows; a bind mount shows another than the root. */
static int find_below(Volume *v, Failure *reterr) {
        _cleanup_close_ int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_(mount_table_done) MountTable t = { 0 };
        const Mount *m = NULL;
        Place here;
        int r = proc < 0 ? -errno : mount_table_load(&t, proc, 0, "/");

        if (r >= 0)
                r = place_stat(v->fd, &here);
        if (r >= 0) {
                mount_table_sort(&t);
                m = mount_table_find(&t, here.mount);
                r = m ? 0 : -ENOENT;
        }
        if (r < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r, "cannot find the mount of '%s'",
                                  v->root);
        v->lvm->place.inode = here.ino;
        v->lvm->place.below = strdup(m->root[1] ? m->root + 1 : ".");
        return v->lvm->place.below ? 0 : fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
}

/* The volume in LVM's report, if it is one that snapshots are made of. */
static const LvmVolume *find_row(const LvmReport *report, const Volume *v, Failure *reterr) {
        const LvmVolume *row = lvm_report_by_uuid(report, v->lvm->lv_uuid);
        const char *why = NULL;

        if (!row)
                why = "LVM does not know it (is its disk still there?)";
        else if (!row->is_thin && !row->is_plain)
                why = "it is neither linear, striped nor thin";
        else if (row->missing_pvs > 0)
                why = "disks of its volume group are missing";
        if (!why)
                return row;
        (void) fail_set(reterr, FAIL_SNAPSHOT_FAILED, EOPNOTSUPP,
                        "no snapshot can be made of the logical volume of '%s': %s", v->root, why);
        return NULL;
}

/* What the volume group has free, and will have once what crashed runs left is swept. */
static uint64_t room_for(const LvmReport *report, const LvmVolume *row) {
        uint64_t room = row->vg_free;

        for (size_t i = 0; i < report->n; i++)
                if (report->volumes[i].is_snapshot &&
                    lvm_volume_has_tag(&report->volumes[i], LVM_TAG))
                        room += report->volumes[i].size;
        return room;
}

uint64_t lvm_snapshot_size(uint64_t origin_size, uint64_t room, uint64_t extent) {
        uint64_t size = origin_size / 100 * LVM_SIZE_PERCENT;

        if (size < LVM_SIZE_MIN)
                size = LVM_SIZE_MIN;
        if (size > origin_size)
                size = origin_size;
        if (size > room && room >= LVM_SIZE_MIN)
                size = room - room % extent;
        size += (extent - size % extent) % extent;
        return size > room ? 0 : size;
}

static int no_room(const Volume *v, const LvmVolume *row, Failure *reterr) {
        uint64_t least = row->extent > LVM_SIZE_MIN ? row->extent : LVM_SIZE_MIN;

        return fail_set(reterr, FAIL_SNAPSHOT_FULL, EOPNOTSUPP,
                        "volume group '%s' has no room for a snapshot of '%s' (%llu MiB free, at "
                        "least %llu MiB are needed): extend it, or set Snapshot=none",
                        row->name.vg, v->root, (unsigned long long) (row->vg_free >> 20),
                        (unsigned long long) (least >> 20));
}

static int look_up(Volume *v, Failure *reterr) {
        _cleanup_(lvm_report_done) LvmReport report = { 0 };
        const LvmVolume *row;
        int r = lvm_run_report(v->lvm->vg_uuid, NULL, &report, reterr);

        if (r < 0)
                return r;
        row = find_row(&report, v, reterr);
        if (!row)
                return -EOPNOTSUPP;
        v->lvm->is_thin = row->is_thin;
        if (!row->is_thin && lvm_snapshot_size(row->size, room_for(&report, row), row->extent) == 0)
                return no_room(v, row, reterr);
        return 0;
}

static int volume_find_lvm(Volume *v, const char *path, Failure *reterr) {
        const char *type;
        bool subvolume;
        struct stat st;
        int r;

        v->lvm = calloc(1, sizeof(*v->lvm));
        if (!v->lvm)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        v->lvm->run = LVM_RUN_INIT;
        v->fd = place_find_root(path, &v->root, &subvolume, FAIL_SNAPSHOT_FAILED, reterr);
        if (v->fd < 0)
                return v->fd;
        type = type_of(v->fd);
        if (!type || uuids_of(v->fd, v->lvm->vg_uuid, v->lvm->lv_uuid) < 0 || fstat(v->fd, &st) < 0)
                return fail_set(
                        reterr, FAIL_SNAPSHOT_FAILED, EOPNOTSUPP,
                        "Snapshot=lvm is not possible for '%s', which is not ext4 or XFS on "
                        "a logical volume: set Snapshot=auto or Snapshot=none",
                        path);
        (void) snprintf(v->lvm->place.type, sizeof(v->lvm->place.type), "%s", type);
        /* The device stays this volume's as long as the descriptor keeps it mounted. */
        memcpy(v->fsid, &st.st_dev, sizeof(st.st_dev));
        r = find_below(v, reterr);
        return r < 0 ? r : look_up(v, reterr);
}

static void volume_forget(Volume *v) {
        if (!v->lvm)
                return;
        lvm_run_done(&v->lvm->run);
        lvm_place_done(&v->lvm->place);
        free(v->lvm);
}

/* ---- before the hold ---- */

/* What LVM would find missing only in the middle, said in words. */
static int check_system(const LvmVolume *row, Failure *reterr) {
        const char *target = row->is_thin ? "thin-pool" : "snapshot";

        if (!dm_is_allowed())
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, EPERM,
                                "the kernel's device-mapper cannot be reached: look at "
                                "/dev/mapper/control and the sandbox of this worker");
        if (!dm_has_target(target))
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, ENOENT,
                                "the kernel knows no device-mapper target '%s': load its module "
                                "(modprobe %s; /usr/lib/modules-load.d/holdpoint.conf does so at "
                                "boot)",
                                target, row->is_thin ? "dm_thin_pool" : "dm_snapshot");
        if (access(UDEV_CONTROL, F_OK) < 0)
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, errno,
                                "udev does not run, without which LVM makes no devices: start "
                                "systemd-udevd");
        return 0;
}

static int
check_pool(LvmOrigin *o, const LvmReport *report, const LvmVolume *row, Failure *reterr) {
        const LvmVolume *pool = lvm_report_by_name(report, row->name.vg, row->pool);

        if (!pool || !pool->is_pool)
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, ENOENT,
                                "LVM does not tell of the thin pool of '%s/%s'", row->name.vg,
                                row->name.lv);
        memcpy(o->pool_uuid, pool->lv_uuid, sizeof(o->pool_uuid));
        if (pool->data_percent <= LVM_POOL_DATA_MAX &&
            pool->metadata_percent <= LVM_POOL_METADATA_MAX && !pool->is_unhealthy)
                return 0;
        return fail_set(reterr, FAIL_SNAPSHOT_FULL, ENOSPC,
                        "thin pool '%s/%s' is too full for a snapshot (data %u %%, at most %d %%; "
                        "metadata %u %%, at most %d %%%s): extend it with lvextend",
                        pool->name.vg, pool->name.lv, pool->data_percent, LVM_POOL_DATA_MAX,
                        pool->metadata_percent, LVM_POOL_METADATA_MAX,
                        pool->is_unhealthy ? "; its health is bad" : "");
}

/* Among how many classic snapshots of this point the room of a volume group is shared. */
static size_t n_sharing(Volume *const *all, size_t n, const Volume *v) {
        size_t count = 0;

        for (size_t i = 0; i < n; i++)
                count += all[i]->ops == v->ops && !all[i]->lvm->is_thin &&
                         strcmp(all[i]->lvm->vg_uuid, v->lvm->vg_uuid) == 0;
        return count;
}

static int name_snapshot(LvmOrigin *o, const LvmVolume *row, const char *name, Failure *reterr) {
        LvmName *s = &o->snapshot;
        int n = snprintf(s->lv, sizeof(s->lv), LVM_NAME_PREFIX "%s", name);
        int k = snprintf(o->tag, sizeof(o->tag), LVM_TAG_PREFIX "%s", name);

        memcpy(s->vg, row->name.vg, sizeof(s->vg));
        if (n < 0 || (size_t) n >= sizeof(s->lv) || k < 0 || (size_t) k >= sizeof(o->tag))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, ENAMETOOLONG,
                                "'%s' is too long for a snapshot", name);
        return 0;
}

static int
image_prepare(Volume *const *all, size_t n, size_t i, const char *name, Failure *reterr) {
        _cleanup_(lvm_report_done) LvmReport report = { 0 };
        LvmOrigin *o = all[i]->lvm;
        const LvmVolume *row;
        LvmCommand command;
        uint64_t size = 0;
        int r;

        lvm_run_done(&o->run); /* of a point that was given up for another volume's sake */
        r = lvm_run_report(o->vg_uuid, NULL, &report, reterr);
        if (r < 0)
                return r;
        row = find_row(&report, all[i], reterr);
        if (!row)
                return -EOPNOTSUPP;
        r = check_system(row, reterr);
        if (r >= 0 && row->is_thin)
                r = check_pool(o, &report, row, reterr);
        if (r >= 0 && !row->is_thin) {
                size = lvm_snapshot_size(row->size, row->vg_free / n_sharing(all, n, all[i]),
                                         row->extent);
                if (size == 0)
                        r = no_room(all[i], row, reterr);
        }
        if (r >= 0)
                r = name_snapshot(o, row, name, reterr);
        if (r >= 0)
                r = lvm_command_create(&row->name, o->snapshot.lv, LVM_TAG, o->tag, size, &command,
                                       reterr);
        return r < 0 ? r : lvm_run_prepare(&o->run, &command, reterr);
}

bool snapshot_shares_room(json_object *identity, const Volume *v) {
        const char *pool;

        return v->lvm && *v->lvm->pool_uuid && json_get_string(identity, "pool_uuid", &pool) >= 0 &&
               strcmp(pool, v->lvm->pool_uuid) == 0;
}

/* ---- under the hold ---- */

static int image_take(Volume *v, const char *name, Snapshot *s, Failure *reterr) {
        LvmOrigin *o = v->lvm;

        if (o->run.socket < 0)
                return fail_set(reterr, FAIL_INTERNAL, EINVAL, "snapshot '%s' was not prepared",
                                name);
        s->lvm = lvm_image_new();
        if (!s->lvm || lvm_place_copy(&o->place, &s->lvm->place) < 0)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        s->lvm->is_thin = o->is_thin;
        s->lvm->name = o->snapshot;
        memcpy(s->lvm->tag, o->tag, sizeof(o->tag));
        memcpy(s->lvm->vg_uuid, o->vg_uuid, sizeof(o->vg_uuid));
        memcpy(s->lvm->origin_uuid, o->lv_uuid, sizeof(o->lv_uuid));
        memcpy(s->lvm->pool_uuid, o->pool_uuid, sizeof(o->pool_uuid));
        return lvm_run_go(&o->run, NULL, &s->lvm->made_usec, reterr);
}

const SnapshotOps lvm_ops = {
        .kind = SNAPSHOT_LVM,
        .find = volume_find_lvm,
        .forget = volume_forget,
        .prepare = image_prepare,
        .take = image_take,
        .attach = lvm_image_attach,
        .freeze = lvm_image_freeze,
        .identify = lvm_image_identify,
        .watch = lvm_image_watch,
        .check = lvm_image_check,
        .keep = lvm_image_keep,
        .drop = lvm_image_drop,
        .describe = lvm_image_describe,
        .open = lvm_image_open,
        .close = lvm_image_close,
};
