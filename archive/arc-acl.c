#include "archive/arc-acl.h"

#include <archive.h>
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"

#define ACL_VERSION    2
#define ACL_ENTRY_SIZE 8
#define ACL_NO_ID      UINT32_MAX
#define ACL_MASK       0x10

/* The kernel's tags, in the order in which it wants the entries. */
static const struct {
        uint16_t tag;
        int archive;
        bool named;
} tags[] = {
        { 0x01, ARCHIVE_ENTRY_ACL_USER_OBJ, false },  { 0x02, ARCHIVE_ENTRY_ACL_USER, true },
        { 0x04, ARCHIVE_ENTRY_ACL_GROUP_OBJ, false }, { 0x08, ARCHIVE_ENTRY_ACL_GROUP, true },
        { ACL_MASK, ARCHIVE_ENTRY_ACL_MASK, false },  { 0x20, ARCHIVE_ENTRY_ACL_OTHER, false },
};

static int find_tag(uint16_t tag) {
        for (size_t i = 0; i < ELEMENTSOF(tags); i++)
                if (tags[i].tag == tag)
                        return (int) i;
        return -1;
}

static bool is_acl(const EntryXattr *x) {
        const uint8_t *value = x->value;

        if (x->size < 4 || x->size % ACL_ENTRY_SIZE != 4 || get_le32(value) != ACL_VERSION)
                return false;
        for (size_t at = 4; at < x->size; at += ACL_ENTRY_SIZE)
                if (find_tag(get_le16(value + at)) < 0 || get_le16(value + at + 2) > 7)
                        return false;
        return true;
}

int arc_acl_add(struct archive_entry *to, const EntryXattr *x) {
        const uint8_t *value = x->value;
        int type;

        if (strcmp(x->name, ARC_ACL_ACCESS) == 0)
                type = ARCHIVE_ENTRY_ACL_TYPE_ACCESS;
        else if (strcmp(x->name, ARC_ACL_DEFAULT) == 0)
                type = ARCHIVE_ENTRY_ACL_TYPE_DEFAULT;
        else
                return 0;
        if (!is_acl(x))
                return 0;
        for (size_t at = 4; at < x->size; at += ACL_ENTRY_SIZE) {
                int i = find_tag(get_le16(value + at));
                uint32_t id = get_le32(value + at + 4);

                if (archive_entry_acl_add_entry(to, type, get_le16(value + at + 2), tags[i].archive,
                                                tags[i].named ? (int) id : -1, NULL) != ARCHIVE_OK)
                        return -ENOMEM;
        }
        return 1;
}

/* Appends the entries of one kind, in the order of their ids. */
static int put_kind(struct archive_entry *from, int type, size_t kind, Buf *ret, size_t *ret_n) {
        uint32_t last = 0;
        int r = 0;

        *ret_n = 0;
        for (;;) {
                int t, perm, tag, id;
                uint32_t best = ACL_NO_ID, best_perm = 0;
                bool found = false;
                const char *name;

                (void) archive_entry_acl_reset(from, type);
                while (archive_entry_acl_next(from, type, &t, &perm, &tag, &id, &name) ==
                       ARCHIVE_OK) {
                        uint32_t u = tags[kind].named ? (uint32_t) id : ACL_NO_ID;

                        if (tag != tags[kind].archive || (*ret_n > 0 && u <= last))
                                continue;
                        if (!found || u < best) {
                                best = u;
                                best_perm = (uint32_t) perm & 7;
                        }
                        found = true;
                }
                if (!found)
                        return 0;
                r = buf_put_u16(ret, tags[kind].tag);
                if (r >= 0)
                        r = buf_put_u16(ret, (uint16_t) best_perm);
                if (r >= 0)
                        r = buf_put_u32(ret, best);
                if (r < 0)
                        return r;
                last = best;
                ++*ret_n;
        }
}

int arc_acl_encode(struct archive_entry *from, int type, Buf *ret) {
        size_t counts[ELEMENTSOF(tags)];
        int r;

        if (archive_entry_acl_count(from, type) == 0)
                return 0;
        buf_clear(ret);
        r = buf_put_u32(ret, ACL_VERSION);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(tags); i++)
                r = put_kind(from, type, i, ret, &counts[i]);
        if (r < 0)
                return r;
        if (counts[0] != 1 || counts[2] != 1 || counts[5] != 1 || counts[4] > 1 ||
            (counts[1] + counts[3] > 0 && counts[4] == 0))
                return -EINVAL;
        return 1;
}

uint32_t arc_acl_mode(const Buf *acl, uint32_t mode) {
        for (size_t at = 4; at + ACL_ENTRY_SIZE <= acl->size; at += ACL_ENTRY_SIZE)
                if (get_le16(acl->data + at) == ACL_MASK)
                        mode = (mode & ~070u) | (uint32_t) get_le16(acl->data + at + 2) << 3;
        return mode;
}
