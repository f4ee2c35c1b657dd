#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "snapshot/dm.h"
#include "snapshot/image-remote.h"
#include "snapshot/lvm-internal.h"
#include "snapshot/mount-image.h"

/*
 * A snapshot after it was made: mounted where nobody sees it, read-write until databases in it are
 * recovered, then read-only; watched while it is read; removed, or (thin ones alone) kept as a hot
 * copy, read-only for LVM too and not active.
 *
 * A classic snapshot that overflows gives errors from then on, and what was read just before may be
 * wrong: it is asked about after the last byte.
 */

#define EXTEND_PERCENT     70
#define POOL_DATA_STOP     95 /* a pool this full: the job ends, and its snapshot goes */
#define POOL_METADATA_STOP 90

LvmImage *lvm_image_new(void) {
        LvmImage *i = calloc(1, sizeof(*i));

        if (i)
                i->mount_fd = i->remote_socket = -1;
        return i;
}

/* ---- finding ---- */

/* The snapshot in LVM's report, by its uuid or, before that is known, by its name. */
static const LvmVolume *find_row(const LvmReport *report, const LvmImage *i) {
        return *i->lv_uuid ? lvm_report_by_uuid(report, i->lv_uuid)
                           : lvm_report_by_name(report, i->name.vg, i->name.lv);
}

/* Fills `report` and sets the row; -ENOENT with FAIL_SOURCE_MISSING if the snapshot is gone. */
static int look_up(const Snapshot *s, LvmReport *report, const LvmVolume **ret, Failure *reterr) {
        LvmImage *i = s->lvm;
        int r = lvm_run_report(i->vg_uuid, NULL, report, reterr);

        if (r < 0)
                return r;
        *ret = find_row(report, i);
        if (!*ret)
                return fail_set(reterr, FAIL_SOURCE_MISSING, ENOENT,
                                "the snapshot '%s/%s' of '%s' is gone", i->name.vg, i->name.lv,
                                s->root);
        i->name = (*ret)->name;
        return 0;
}

static int check_row(const Snapshot *s, const LvmVolume *row, Failure *reterr) {
        const char *what = NULL;

        if (strcmp(row->origin_uuid, s->lvm->origin_uuid) != 0)
                what = "it was made of another volume";
        else if (!lvm_volume_has_tag(row, LVM_TAG) || !lvm_volume_has_tag(row, s->lvm->tag))
                what = "its tags are not Holdpoint's";
        else if (row->is_thin != s->lvm->is_thin)
                what = "it is of another kind";
        else if (s->sealed && !row->is_read_only)
                what = "it was made writable";
        if (!what)
                return 0;
        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EUCLEAN,
                        "'%s/%s' is not the snapshot that was made of '%s': %s", row->name.vg,
                        row->name.lv, s->root, what);
}

/* ---- mounting ---- */

static int change(const LvmImage *i, LvmAction action, Failure *reterr) {
        LvmCommand command;
        int r = lvm_command_change(action, &i->name, &command, reterr);

        return r < 0 ? r : lvm_run(&command, reterr);
}

/* The active device of the snapshot; a thin one is activated if it is not. */
static int find_device(Snapshot *s, char ret[DM_DEVICE_MAX], Failure *reterr) {
        LvmImage *i = s->lvm;
        char uuid[LVM_DM_MAX];
        int r;

        lvm_dm_uuid_format(i->vg_uuid, i->lv_uuid, uuid);
        r = dm_find(uuid, ret);
        if (r == -ENOENT && i->is_thin) {
                r = change(i, LVM_ACTIVATE, reterr);
                if (r < 0)
                        return r;
                r = dm_find(uuid, ret);
        }
        if (r < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r,
                                  "the snapshot '%s/%s' has no device", i->name.vg, i->name.lv);
        i->is_active = true;
        return 0;
}

/* The image of the mount's root: the same directory, if nobody moved it meanwhile. */
static int open_root(Snapshot *s, Failure *reterr) {
        const LvmPlace *p = &s->lvm->place;
        struct stat st;

        s->fd = fd_open_beneath(s->lvm->mount_fd, p->below, O_RDONLY | O_DIRECTORY, 0, false);
        if (s->fd < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -s->fd,
                                  "cannot open '%s' in the snapshot of '%s'", p->below, s->root);
        if (fstat(s->fd, &st) < 0 || st.st_ino != p->inode)
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, ESTALE,
                                "'%s' in the snapshot is not what is mounted on '%s'", p->below,
                                s->root);
        return 0;
}

int lvm_image_attach(Snapshot *s, Failure *reterr) {
        _cleanup_(lvm_report_done) LvmReport report = { 0 };
        LvmImage *i = s->lvm;
        char device[DM_DEVICE_MAX];
        const LvmVolume *row;
        int r;

        if (i->remote) {
                s->fd = image_remote_open(i->remote, &i->remote_socket, reterr);
                return s->fd < 0 ? s->fd : 0;
        }
        if (!s->sealed) {
                log_debug("snapshot of '%s' made by LVM in %llu us", s->root,
                          (unsigned long long) i->made_usec);
                r = look_up(s, &report, &row, reterr);
                if (r >= 0)
                        r = check_row(s, row, reterr);
                if (r < 0)
                        return r;
                memcpy(i->lv_uuid, row->lv_uuid, sizeof(i->lv_uuid));
        }
        r = find_device(s, device, reterr);
        if (r < 0)
                return r;
        i->mount_fd = image_mount(i->place.type, device, s->sealed, reterr);
        return i->mount_fd < 0 ? i->mount_fd : open_root(s, reterr);
}

static void unmount(Snapshot *s) {
        s->fd = fd_close(s->fd);
        s->lvm->mount_fd = fd_close(s->lvm->mount_fd);
        s->lvm->remote_socket = fd_close(s->lvm->remote_socket);
}

/* ---- while it is read ---- */

int lvm_image_freeze(Snapshot *s, Failure *reterr) {
        int r = image_make_read_only(s->lvm->mount_fd);
        FailCode code = r == -ENOSPC || r == -EIO ? FAIL_SNAPSHOT_FULL : FAIL_SNAPSHOT_FAILED;

        if (r < 0)
                return fail_errno(reterr, code, -r, "cannot make the snapshot of '%s' read-only",
                                  s->root);
        return 0;
}

int lvm_image_identify(Snapshot *s, Failure *reterr) {
        s->sealed = true;
        return 0;
}

static int overflown(const Snapshot *s, Failure *reterr) {
        return fail_set(reterr, FAIL_SNAPSHOT_FULL, ENOSPC,
                        "the snapshot '%s/%s' of '%s' overflowed: more was written meanwhile than "
                        "it could take; give its volume group more free space",
                        s->lvm->name.vg, s->lvm->name.lv, s->root);
}

static int pool_is_full(const Snapshot *s, Failure *reterr) {
        return fail_set(reterr, FAIL_SNAPSHOT_FULL, ENOSPC,
                        "the thin pool of '%s' in volume group '%s' fills up: extend it with "
                        "lvextend",
                        s->root, s->lvm->name.vg);
}

/* Makes it larger as long as its volume group has room. That it could not is seen when it is full.
 */
static void extend(Snapshot *s) {
        _cleanup_(lvm_report_done) LvmReport report = { 0 };
        Failure f = FAILURE_INIT;
        const LvmVolume *row, *origin;
        LvmCommand command;
        uint64_t bytes = 0;
        int r = look_up(s, &report, &row, &f);

        if (r >= 0) {
                origin = lvm_report_by_uuid(&report, s->lvm->origin_uuid);
                bytes = lvm_snapshot_size(origin ? origin->size : row->size, row->vg_free,
                                          row->extent);
                if (bytes == 0)
                        bytes = row->vg_free - row->vg_free % row->extent;
                r = bytes == 0 ? -ENOSPC : lvm_command_extend(&row->name, bytes, &command, &f);
        }
        if (r >= 0)
                r = lvm_run(&command, &f);
        s->lvm->has_no_room = r < 0;
        log_debug("snapshot of '%s' extended by %llu bytes: %s", s->root,
                  (unsigned long long) bytes, r < 0 ? f.text : "done");
}

static int watch_classic(Snapshot *s, Failure *reterr) {
        char uuid[LVM_DM_MAX];
        DmUsage u;

        lvm_dm_uuid_format(s->lvm->vg_uuid, s->lvm->lv_uuid, uuid);
        if (dm_usage(uuid, &u) < 0)
                return 0; /* what is wrong shows when it is read, and at the end */
        if (u.is_failed)
                return overflown(s, reterr);
        if (!s->lvm->has_no_room && dm_percent(u.used, u.total) >= EXTEND_PERCENT)
                extend(s);
        return 0;
}

static int watch_pool(Snapshot *s, Failure *reterr) {
        char uuid[LVM_DM_MAX + sizeof("-tpool")];
        DmUsage u;

        lvm_dm_uuid_format(s->lvm->vg_uuid, s->lvm->pool_uuid, uuid);
        strcat(uuid, "-tpool");
        if (dm_usage(uuid, &u) < 0)
                return 0;
        if (u.is_failed || dm_percent(u.used, u.total) >= POOL_DATA_STOP ||
            dm_percent(u.metadata_used, u.metadata_total) >= POOL_METADATA_STOP)
                return pool_is_full(s, reterr);
        return 0;
}

int lvm_image_watch(Snapshot *s, Failure *reterr) {
        if (!*s->lvm->lv_uuid)
                return 0;
        return s->lvm->is_thin ? watch_pool(s, reterr) : watch_classic(s, reterr);
}

int lvm_image_check(Snapshot *s, Failure *reterr) {
        _cleanup_(lvm_report_done) LvmReport report = { 0 };
        const LvmVolume *row;
        int r = lvm_image_watch(s, reterr);

        if (r >= 0)
                r = look_up(s, &report, &row, reterr);
        if (r < 0)
                return r;
        if (row->is_invalid || (row->is_snapshot && row->data_percent >= 100))
                return overflown(s, reterr);
        return row->is_unhealthy ? pool_is_full(s, reterr) : 0;
}

/* ---- afterwards ---- */

/*
 * LVM's read-only flag is what says later that nobody wrote it. Not active, it is not seen as a
 * second file system of the same uuid, and its activation skip keeps it so over a reboot.
 */
int lvm_image_keep(Snapshot *s, Failure *reterr) {
        int r;

        if (!s->lvm->is_thin)
                return 0;
        unmount(s);
        r = change(s->lvm, LVM_DEACTIVATE, reterr);
        if (r >= 0) {
                s->lvm->is_active = false;
                r = change(s->lvm, LVM_READ_ONLY, reterr);
        }
        return r < 0 ? r : 1;
}

int lvm_image_drop(Snapshot *s, Failure *reterr) {
        _cleanup_(lvm_report_done) LvmReport report = { 0 };
        const LvmVolume *row;
        int r;

        if (s->lvm->remote)
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, EPERM, "this worker may not use LVM");
        unmount(s);
        r = look_up(s, &report, &row, reterr);
        if (r == -ENOENT) {
                if (reterr)
                        *reterr = FAILURE_INIT;
                return 0;
        }
        if (r >= 0)
                r = s->sealed ? 0 : check_row(s, row, reterr);
        if (r >= 0)
                r = change(s->lvm, LVM_REMOVE, reterr);
        if (r >= 0)
                s->lvm->is_active = false;
        return r;
}

int lvm_image_describe(const Snapshot *s, json_object *o) {
        const LvmImage *i = s->lvm;

        if (json_put_string(o, "vg_uuid", i->vg_uuid) < 0 ||
            json_put_string(o, "lv_uuid", i->lv_uuid) < 0 ||
            json_put_string(o, "origin_uuid", i->origin_uuid) < 0 ||
            json_put_string(o, "pool_uuid", i->pool_uuid) < 0 ||
            json_put_string(o, "tag", i->tag) < 0 || json_put_string(o, "vg", i->name.vg) < 0 ||
            json_put_string(o, "lv", i->name.lv) < 0 ||
            json_put_string(o, "type", i->place.type) < 0 ||
            json_put_path(o, "below", i->place.below) < 0 ||
            json_put_u64(o, "inode", i->place.inode) < 0)
                return -ENOMEM;
        return 0;
}

/* A string of a record that has the form it was written in. */
static int
read_text(json_object *o, const char *key, bool (*is_valid)(const char *), char *ret, size_t n) {
        const char *text;

        if (json_get_string(o, key, &text) < 0 || strlen(text) >= n || !is_valid(text))
                return -EINVAL;
        memcpy(ret, text, strlen(text) + 1);
        return 0;
}

static bool is_type(const char *text) {
        return strcmp(text, "ext4") == 0 || strcmp(text, "xfs") == 0;
}

static int read_identity(json_object *o, LvmImage *i) {
        if (read_text(o, "vg_uuid", lvm_uuid_is_valid, i->vg_uuid, sizeof(i->vg_uuid)) < 0 ||
            read_text(o, "lv_uuid", lvm_uuid_is_valid, i->lv_uuid, sizeof(i->lv_uuid)) < 0 ||
            read_text(o, "origin_uuid", lvm_uuid_is_valid, i->origin_uuid, sizeof(i->origin_uuid)) <
                    0 ||
            read_text(o, "pool_uuid", lvm_uuid_is_valid, i->pool_uuid, sizeof(i->pool_uuid)) < 0 ||
            read_text(o, "tag", lvm_tag_is_valid, i->tag, sizeof(i->tag)) < 0 ||
            read_text(o, "vg", lvm_name_is_valid, i->name.vg, sizeof(i->name.vg)) < 0 ||
            read_text(o, "lv", lvm_name_is_valid, i->name.lv, sizeof(i->name.lv)) < 0 ||
            read_text(o, "type", is_type, i->place.type, sizeof(i->place.type)) < 0 ||
            json_get_path(o, "below", &i->place.below) < 0 ||
            json_get_u64(o, "inode", &i->place.inode) < 0)
                return -EINVAL;
        i->is_thin = true; /* no others are kept */
        return 0;
}

int lvm_image_open(json_object *identity, Snapshot *s, Failure *reterr) {
        _cleanup_(lvm_report_done) LvmReport report = { 0 };
        const LvmVolume *row;
        int r;

        s->lvm = lvm_image_new();
        if (!s->lvm)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        if (read_identity(identity, s->lvm) < 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EINVAL,
                                "the record of a kept image is malformed");
        if (!dm_is_allowed()) {
                s->lvm->remote = json_object_get(identity);
                return 0;
        }
        r = look_up(s, &report, &row, reterr);
        if (r < 0)
                return r;
        s->sealed = true;
        return check_row(s, row, reterr);
}

/* A hot copy that was read goes back to where it was; a new snapshot is dropped or kept before. */
void lvm_image_close(Snapshot *s) {
        Failure f = FAILURE_INIT;

        if (!s->lvm)
                return;
        unmount(s);
        if (s->sealed && s->lvm->is_thin && s->lvm->is_active &&
            change(s->lvm, LVM_DEACTIVATE, &f) < 0)
                log_debug("hot copy '%s/%s' stays active: %s", s->lvm->name.vg, s->lvm->name.lv,
                          f.text);
        json_object_put(s->lvm->remote);
        lvm_place_done(&s->lvm->place);
        free(s->lvm);
}
