#include "snapshot/lvm-name.h"

#include <errno.h>
#include <string.h>

/*
 * What a name is made of is LVM's rule, less its reserved words: a volume with one of those cannot
 * exist, and LVM itself refuses to make it.
 */

#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
#define RAW_LEN 32 /* a uuid without its dashes */

static const size_t uuid_groups[] = { 6, 4, 4, 4, 4, 4, 6 };

static bool is_word(const char *text, const char *allowed, size_t max) {
        size_t n = strnlen(text, max + 1);

        return n > 0 && n <= max && text[0] != '-' && strspn(text, allowed) == n;
}

bool lvm_name_is_valid(const char *name) {
        return is_word(name, LETTERS "_.+-", LVM_NAME_MAX) && strcmp(name, ".") != 0 &&
               strcmp(name, "..") != 0;
}

int lvm_name_parse(const char *text, LvmName *ret, Failure *reterr) {
        LvmName name = { 0 };
        const char *slash = strchr(text, '/');
        size_t n_vg = slash ? (size_t) (slash - text) : 0;

        if (slash && n_vg <= LVM_NAME_MAX && strnlen(slash + 1, LVM_NAME_MAX + 1) <= LVM_NAME_MAX) {
                memcpy(name.vg, text, n_vg);
                memcpy(name.lv, slash + 1, strlen(slash + 1));
                if (lvm_name_is_valid(name.vg) && lvm_name_is_valid(name.lv)) {
                        *ret = name;
                        return 0;
                }
        }
        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                        "'%.300s' is not the name of a logical volume (VG/LV)", text);
}

bool lvm_tag_is_valid(const char *tag) {
        return is_word(tag, LETTERS "_.-", LVM_TAG_MAX);
}

bool lvm_uuid_is_valid(const char *uuid) {
        const char *p = uuid;

        for (size_t i = 0; i < sizeof(uuid_groups) / sizeof(uuid_groups[0]); i++) {
                if (strspn(p, LETTERS) != uuid_groups[i])
                        return false;
                p += uuid_groups[i];
                if (i + 1 < sizeof(uuid_groups) / sizeof(uuid_groups[0]) && *p++ != '-')
                        return false;
        }
        return *p == 0;
}

static void add_dashes(const char raw[RAW_LEN], char ret[LVM_UUID_MAX]) {
        char *p = ret;

        for (size_t i = 0; i < sizeof(uuid_groups) / sizeof(uuid_groups[0]); i++) {
                memcpy(p, raw, uuid_groups[i]);
                raw += uuid_groups[i];
                p += uuid_groups[i];
                *p++ = '-';
        }
        p[-1] = 0;
}

int lvm_dm_uuid_parse(const char *text, char ret_vg[LVM_UUID_MAX], char ret_lv[LVM_UUID_MAX]) {
        if (strncmp(text, "LVM-", 4) != 0 || strlen(text) != LVM_DM_MAX - 1 ||
            strspn(text + 4, LETTERS) != (size_t) 2 * RAW_LEN)
                return -EINVAL;
        add_dashes(text + 4, ret_vg);
        add_dashes(text + 4 + RAW_LEN, ret_lv);
        return 0;
}

static char *drop_dashes(const char *uuid, char *to) {
        for (; *uuid; uuid++)
                if (*uuid != '-')
                        *to++ = *uuid;
        return to;
}

void lvm_dm_uuid_format(const char *vg, const char *lv, char ret[LVM_DM_MAX]) {
        char *p = ret;

        memcpy(p, "LVM-", 4);
        p = drop_dashes(vg, p + 4);
        p = drop_dashes(lv, p);
        *p = 0;
}
