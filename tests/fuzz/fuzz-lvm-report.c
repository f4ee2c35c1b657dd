/*
 * What LVM may print when it is asked for its volumes: the input is that text as it is. Whatever is
 * taken from it can go into a command line, and only one command comes of it.
 */

#include <string.h>

#include "snapshot/lvm-command.h"
#include "snapshot/lvm-report.h"
#include "tests/fuzz/fuzz.h"

static void check_volume(const LvmReport *r, const LvmVolume *v) {
        char dm[LVM_DM_MAX], vg[LVM_UUID_MAX], lv[LVM_UUID_MAX];
        Failure f = FAILURE_INIT;
        LvmCommand c;

        fuzz_assert(lvm_name_is_valid(v->name.vg) && lvm_name_is_valid(v->name.lv));
        fuzz_assert(!*v->pool || lvm_name_is_valid(v->pool));
        fuzz_assert(!*v->origin_uuid || lvm_uuid_is_valid(v->origin_uuid));
        fuzz_assert(v->data_percent <= 100 && v->metadata_percent <= 100 && v->extent > 0);
        fuzz_assert(!(v->is_pool && v->is_thin) && !(v->is_plain && v->is_snapshot));
        fuzz_assert(v->tags && lvm_report_by_uuid(r, v->lv_uuid));
        fuzz_assert(lvm_report_by_name(r, v->name.vg, v->name.lv));
        (void) lvm_volume_has_tag(v, "holdpoint");
        lvm_dm_uuid_format(v->vg_uuid, v->lv_uuid, dm);
        fuzz_assert(lvm_dm_uuid_parse(dm, vg, lv) == 0 && strcmp(vg, v->vg_uuid) == 0 &&
                    strcmp(lv, v->lv_uuid) == 0);
        fuzz_assert(lvm_command_change(LVM_REMOVE, &v->name, &c, &f) == 0);
        fuzz_assert(lvm_command_is_safe(c.line) &&
                    strlen(strchr(strchr(c.line, ' ') + 1, ' ')) ==
                            strlen(v->name.vg) + strlen(v->name.lv) + 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        Failure f = FAILURE_INIT;
        LvmReport r = { 0 };

        if (lvm_report_parse((const char *) data, size, &r, &f) < 0) {
                fuzz_assert(f.code != FAIL_NONE && r.n == 0 && !r.volumes);
                return 0;
        }
        for (size_t i = 0; i < r.n; i++)
                check_volume(&r, &r.volumes[i]);
        lvm_report_done(&r);
        return 0;
}
