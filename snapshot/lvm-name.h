#pragma once

/*
 * LVM names: the only gate between text and an LVM command line. liblvm2cmd splits a line into
 * words by spaces, takes quotes at the start of a word and '#' as a comment; none of them passes.
 */

#include <stdbool.h>

#include "base/fail.h"

#define LVM_NAME_MAX 127
#define LVM_TAG_MAX  127 /* LVM allows more; ours are short */
#define LVM_UUID_MAX 39  /* "xxxxxx-xxxx-xxxx-xxxx-xxxx-xxxx-xxxxxx" and its NUL */
#define LVM_DM_MAX   69  /* "LVM-", both uuids without dashes, and the NUL */

typedef struct LvmName {
        char vg[LVM_NAME_MAX + 1];
        char lv[LVM_NAME_MAX + 1];
} LvmName;

/* True if `name` may be a VG or LV name. Borrows `name`, never blocks. */
bool lvm_name_is_valid(const char *name);

/*
 * Split "vg/lv". Returns 0 and fills `ret`, or -EINVAL and fills `reterr` (FAIL_INVALID_ARGUMENT);
 * on failure `ret` is untouched.
 */
int lvm_name_parse(const char *text, LvmName *ret, Failure *reterr);

/* True for a tag that ours may be: letters, digits, '_', '.', '-', not beginning with a dash. */
bool lvm_tag_is_valid(const char *tag);

/* True for LVM's own form of a uuid, with its six dashes. */
bool lvm_uuid_is_valid(const char *uuid);

/*
 * The uuid under which the kernel knows a logical volume ("LVM-", the uuids of VG and LV without
 * dashes) into LVM's own form. 0, or -EINVAL for anything else: a hidden part of a volume, whose
 * uuid has a suffix, or a device that is not LVM's.
 */
int lvm_dm_uuid_parse(const char *text, char ret_vg[LVM_UUID_MAX], char ret_lv[LVM_UUID_MAX]);

/* The reverse; both must be valid. */
void lvm_dm_uuid_format(const char *vg, const char *lv, char ret[LVM_DM_MAX]);
