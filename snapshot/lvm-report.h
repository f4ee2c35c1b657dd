#pragma once

/*
 * What LVM reports about logical volumes: the JSON of `lvs --reportformat json`. Names in it were
 * chosen by whoever made the volumes, on other machines too; nothing of it is believed before it
 * has the form that LVM gives it.
 */

#include <stddef.h>
#include <stdint.h>

#include "snapshot/lvm-name.h"

/* The fields a report must have, as an argument of -o. */
#define LVM_REPORT_FIELDS                                                                          \
        "vg_name,vg_uuid,vg_free,vg_extent_size,vg_missing_pv_count,lv_name,lv_uuid,lv_size,"      \
        "lv_layout,lv_role,origin_uuid,pool_lv,data_percent,metadata_percent,lv_tags,"             \
        "lv_snapshot_invalid,lv_attr,lv_health_status"

#define LVM_REPORT_ROWS_MAX 20000
#define LVM_REPORT_MAX      ((size_t) 16 << 20) /* bytes of text */

typedef struct LvmVolume {
        LvmName name;
        char vg_uuid[LVM_UUID_MAX], lv_uuid[LVM_UUID_MAX];
        char origin_uuid[LVM_UUID_MAX]; /* "": none */
        char pool[LVM_NAME_MAX + 1];    /* of a thin volume: its pool's name in the same VG */
        uint64_t size, vg_free, extent; /* bytes */
        uint64_t missing_pvs;           /* of the VG */
        unsigned data_percent, metadata_percent; /* rounded up; 0 where there is none */
        bool is_thin, is_pool, is_snapshot;      /* a pool is neither; is_snapshot: a classic one */
        bool is_plain; /* linear or striped: LVM makes classic snapshots of it */
        bool is_invalid, is_read_only, is_unhealthy;
        char *tags; /* as reported: separated by commas */
} LvmVolume;

typedef struct LvmReport {
        LvmVolume *volumes;
        size_t n;
} LvmReport;

void lvm_report_done(LvmReport *r);

/*
 * Parses the lines of a report (`text` need not end with a NUL). Lines that are no JSON (warnings
 * come on the same channel) are passed over. A volume with a name or a field that LVM cannot have
 * written is an error: -EBADMSG with FAIL_SNAPSHOT_FAILED; -E2BIG for more than the limits.
 */
int lvm_report_parse(const char *text, size_t n, LvmReport *ret, Failure *reterr);

const LvmVolume *lvm_report_by_uuid(const LvmReport *r, const char *lv_uuid);
const LvmVolume *lvm_report_by_name(const LvmReport *r, const char *vg, const char *lv);

/* True if the volume has exactly this tag. */
bool lvm_volume_has_tag(const LvmVolume *v, const char *tag);
