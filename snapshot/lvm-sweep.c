#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "snapshot/lvm-internal.h"
#include "snapshot/lvm.h"

/*
 * What crashed runs left. A snapshot of Holdpoint's is known by its tags, never by its name: a
 * volume that only looks like one is not touched. Nor is one in a volume group that no service
 * uses: a disk of another machine, or of a guest of this one, has what that machine needs.
 */

/* The snapshot's name out of its second tag; false if there is none, or two. */
static bool name_of(const LvmVolume *v, char ret[LVM_TAG_MAX + 1]) {
        size_t n = strlen(LVM_TAG_PREFIX), found = 0;

        for (const char *p = v->tags; *p;) {
                size_t len = strcspn(p, ",");

                if (len > n && len - n <= LVM_TAG_MAX && strncmp(p, LVM_TAG_PREFIX, n) == 0) {
                        memcpy(ret, p + n, len - n);
                        ret[len - n] = 0;
                        found++;
                }
                p += len;
                if (*p)
                        p++;
        }
        return found == 1;
}

static int remove_volume(const LvmVolume *v, Failure *reterr) {
        LvmCommand command;
        int r = lvm_command_change(LVM_REMOVE, &v->name, &command, reterr);

        return r < 0 ? r : lvm_run(&command, reterr);
}

bool snapshot_is_lvm(const char *path, const char *vg_uuid) {
        _cleanup_close_ int fd = fd_open_absolute(path, O_PATH);

        return fd >= 0 && lvm_is_candidate(fd, vg_uuid);
}

int snapshot_sweep_lvm(const SnapshotSweep *sweep, Failure *reterr) {
        _cleanup_(lvm_report_done) LvmReport report = { 0 };
        int n = 0, r = lvm_run_report(NULL, LVM_TAG, &report, reterr);

        for (size_t i = 0; r >= 0 && i < report.n; i++) {
                const LvmVolume *v = &report.volumes[i];
                char name[LVM_TAG_MAX + 1];
                Failure f = FAILURE_INIT;

                if ((!v->is_snapshot && !v->is_thin) || !lvm_volume_has_tag(v, LVM_TAG) ||
                    !sweep->is_ours(sweep->userdata, v->vg_uuid) || !name_of(v, name) ||
                    !sweep->is_leftover(sweep->userdata, name))
                        continue;
                n += remove_volume(v, &f) >= 0;
                sweep->told(sweep->userdata, name, f.code ? &f : NULL);
        }
        return r < 0 ? r : n;
}
