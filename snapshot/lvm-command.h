#pragma once

/*
 * The LVM commands that Holdpoint gives, as lines for liblvm2cmd. Whatever goes into one was looked
 * at by lvm-name.h; the helper looks at the whole line once more.
 */

#include <stdbool.h>
#include <stdint.h>

#include "snapshot/lvm-name.h"

#define LVM_COMMAND_MAX 1024

typedef struct LvmCommand {
        char line[LVM_COMMAND_MAX];
} LvmCommand;

/* All functions that make one return 0, or -EINVAL with FAIL_INVALID_ARGUMENT. */

/* Reports the volumes of one VG by its uuid, or (`tag` instead) all that have the tag. */
int lvm_command_report(const char *vg_uuid, const char *tag, LvmCommand *ret, Failure *reterr);

/*
 * A snapshot `snapshot` of the volume, with the two tags. `size` is that of a classic one; 0 makes
 * a thin one, which is not activated yet.
 */
int lvm_command_create(const LvmName *origin,
                       const char *snapshot,
                       const char *tag1,
                       const char *tag2,
                       uint64_t size,
                       LvmCommand *ret,
                       Failure *reterr);

/* What is done to a volume that is there. */
typedef enum LvmAction {
        LVM_REMOVE,
        LVM_ACTIVATE, /* in spite of its activation skip */
        LVM_DEACTIVATE,
        LVM_READ_ONLY,
} LvmAction;

int lvm_command_change(LvmAction action, const LvmName *lv, LvmCommand *ret, Failure *reterr);

/* Makes a classic snapshot larger by so many bytes. */
int lvm_command_extend(const LvmName *lv, uint64_t bytes, LvmCommand *ret, Failure *reterr);

/* True if the command only looks. */
bool lvm_command_is_report(const char *line);

/* True if the line is one of these commands and no character in it means something to LVM. */
bool lvm_command_is_safe(const char *line);
