#include "snapshot/lvm-command.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "snapshot/lvm-report.h"

/*
 * `--ignoremonitoring` where LVM takes it: dmeventd is the administrator's, and asking it costs
 * time under the hold. `-An` under the hold for the same reason: the next command that changes the
 * volume group writes its backup file.
 */

#define SAFE_LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.+-/=,@ "

static const char *const commands[] = { "lvs ", "lvcreate ", "lvremove ", "lvchange ",
                                        "lvextend " };

static int __attribute__((format(printf, 3, 4)))
make_line(LvmCommand *ret, Failure *reterr, const char *format, ...) {
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(ret->line, sizeof(ret->line), format, ap);
        va_end(ap);
        if (n > 0 && (size_t) n < sizeof(ret->line) && lvm_command_is_safe(ret->line))
                return 0;
        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "an LVM command is too long");
}

static int check_name(const LvmName *lv, Failure *reterr) {
        if (lvm_name_is_valid(lv->vg) && lvm_name_is_valid(lv->lv))
                return 0;
        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                        "'%.128s/%.128s' is not the name of a logical volume", lv->vg, lv->lv);
}

int lvm_command_report(const char *vg_uuid, const char *tag, LvmCommand *ret, Failure *reterr) {
        const char *fixed = "lvs --reportformat json --units b --nosuffix -o " LVM_REPORT_FIELDS;

        if (vg_uuid ? !lvm_uuid_is_valid(vg_uuid) : !lvm_tag_is_valid(tag))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "'%.128s' names no volumes",
                                vg_uuid ? vg_uuid : tag);
        return vg_uuid ? make_line(ret, reterr, "%s -S vg_uuid=%s", fixed, vg_uuid)
                       : make_line(ret, reterr, "%s @%s", fixed, tag);
}

int lvm_command_create(const LvmName *origin,
                       const char *snapshot,
                       const char *tag1,
                       const char *tag2,
                       uint64_t size,
                       LvmCommand *ret,
                       Failure *reterr) {
        char how[64] = "-ky"; /* a thin one: not active until somebody asks for it by name */
        int r = check_name(origin, reterr);

        if (r < 0)
                return r;
        if (!lvm_name_is_valid(snapshot) || !lvm_tag_is_valid(tag1) || !lvm_tag_is_valid(tag2))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "'%.128s' cannot be the name of a snapshot", snapshot);
        if (size > 0)
                (void) snprintf(how, sizeof(how), "-L %" PRIu64 "b", size);
        return make_line(
                ret, reterr,
                "lvcreate -s -An --ignoremonitoring %s -n %s --addtag %s --addtag %s %s/%s", how,
                snapshot, tag1, tag2, origin->vg, origin->lv);
}

int lvm_command_change(LvmAction action, const LvmName *lv, LvmCommand *ret, Failure *reterr) {
        const char *line = NULL;
        int r = check_name(lv, reterr);

        if (r < 0)
                return r;
        switch (action) {
        case LVM_REMOVE:
                line = "lvremove -f";
                break;
        case LVM_ACTIVATE:
                line = "lvchange -ay -K --ignoremonitoring";
                break;
        case LVM_DEACTIVATE:
                line = "lvchange -an --ignoremonitoring";
                break;
        case LVM_READ_ONLY:
                line = "lvchange -pr";
                break;
        }
        return make_line(ret, reterr, "%s %s/%s", line, lv->vg, lv->lv);
}

int lvm_command_extend(const LvmName *lv, uint64_t bytes, LvmCommand *ret, Failure *reterr) {
        int r = check_name(lv, reterr);

        return r < 0 ? r
                     : make_line(ret, reterr, "lvextend -An -L +%" PRIu64 "b %s/%s", bytes, lv->vg,
                                 lv->lv);
}

bool lvm_command_is_report(const char *line) {
        return strncmp(line, "lvs ", 4) == 0;
}

bool lvm_command_is_safe(const char *line) {
        if (strspn(line, SAFE_LETTERS) != strlen(line) || strlen(line) >= LVM_COMMAND_MAX)
                return false;
        for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
                if (strncmp(line, commands[i], strlen(commands[i])) == 0)
                        return true;
        return false;
}
