#include "archive/arc-acl.h"

#include <archive.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"

#define ACL_VERSION    2
#define ACL_ENTRY_SIZE 8
#define ACL_NO_ID      UINT32_MAX
#define ACL_MASK       0x10
#define ACL_ID_MAX     (INT_MAX - 1) /* libarchive: what is larger it reads as INT_MAX */

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
enum { USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER }; /* places in it */

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

/* A number that does not fit libarchive's is written as a name: GNU tar takes it for what it is. */
static int
add_entry(struct archive_entry *to, int type, uint32_t perm, int i, uint32_t id, bool *large) {
        bool named = tags[i].named, beyond = named && id > ACL_ID_MAX;
        char name[16];

        (void) snprintf(name, sizeof(name), "%u", id);
        *large |= beyond;
        return archive_entry_acl_add_entry(to, type, (int) perm, tags[i].archive,
                                           named && !beyond ? (int) id : -1,
                                           beyond ? name : NULL) == ARCHIVE_OK
                       ? 0
                       : -ENOMEM;
}

int arc_acl_add(struct archive_entry *to, const EntryXattr *x) {
        const uint8_t *value = x->value;
        bool large = false;
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
                int r = add_entry(to, type, get_le16(value + at + 2),
                                  find_tag(get_le16(value + at)), get_le32(value + at + 4), &large);

                if (r < 0)
                        return r;
        }
        return large ? 2 : 1;
}

/* As the kernel wants it: in the order of tags and ids, nobody twice, nobody missing. */
static bool is_proper(const uint8_t *value, size_t size) {
        size_t counts[ELEMENTSOF(tags)] = { 0 };
        uint32_t last_id = 0;
        int last = -1;

        if (!is_acl(&(EntryXattr){ .value = value, .size = (uint32_t) size }))
                return false;
        for (size_t at = 4; at < size; at += ACL_ENTRY_SIZE) {
                int i = find_tag(get_le16(value + at));
                uint32_t id = get_le32(value + at + 4);

                if (i < last ||
                    (tags[i].named && (id == ACL_NO_ID || (i == last && id <= last_id))))
                        return false;
                counts[i]++;
                last = i;
                last_id = id;
        }
        return counts[USER_OBJ] == 1 && counts[GROUP_OBJ] == 1 && counts[OTHER] == 1 &&
               counts[MASK] <= 1 && (counts[MASK] == 1 || counts[USER] + counts[GROUP] == 0);
}

int arc_acl_copy(const void *value, size_t size, Buf *ret) {
        if (!is_proper(value, size))
                return 0;
        buf_clear(ret);
        return buf_put(ret, value, size) < 0 ? -ENOMEM : 1;
}

/* Appends the entries of one kind, in the order of their ids. */
static int put_kind(struct archive_entry *from, int type, size_t kind, Buf *ret) {
        uint32_t last = 0;
        bool any = false;
        int r = 0;

        for (;;) {
                int t, perm, tag, id;
                uint32_t best = ACL_NO_ID, best_perm = 0;
                bool found = false;
                const char *name;

                (void) archive_entry_acl_reset(from, type);
                while (archive_entry_acl_next(from, type, &t, &perm, &tag, &id, &name) ==
                       ARCHIVE_OK) {
                        uint32_t u = tags[kind].named ? (uint32_t) id : ACL_NO_ID;

                        if (tag != tags[kind].archive || (any && u <= last))
                                continue;
                        if (tags[kind].named && (id < 0 || id > ACL_ID_MAX))
                                return -EINVAL;
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
                any = true;
        }
}

int arc_acl_encode(struct archive_entry *from, int type, Buf *ret) {
        int r;

        if (archive_entry_acl_count(from, type) == 0)
                return 0;
        buf_clear(ret);
        r = buf_put_u32(ret, ACL_VERSION);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(tags); i++)
                r = put_kind(from, type, i, ret);
        if (r < 0)
                return r;
        return is_proper(ret->data, ret->size) ? 1 : -EINVAL;
}

uint32_t arc_acl_mode(const Buf *acl, uint32_t mode) {
        for (size_t at = 4; at + ACL_ENTRY_SIZE <= acl->size; at += ACL_ENTRY_SIZE) {
                uint32_t perm = get_le16(acl->data + at + 2);

                switch (find_tag(get_le16(acl->data + at))) {
                case USER_OBJ:
                        mode = (mode & ~0700u) | perm << 6;
                        break;
                case GROUP_OBJ:
                case MASK: /* comes later, if there is one */
                        mode = (mode & ~070u) | perm << 3;
                        break;
                case OTHER:
                        mode = (mode & ~07u) | perm;
                        break;
                }
        }
        return mode;
}

uint32_t arc_acl_mode_without(struct archive_entry *from, uint32_t mode) {
        const int type = ARCHIVE_ENTRY_ACL_TYPE_ACCESS;
        int t, perm, tag, id;
        const char *name;

        (void) archive_entry_acl_reset(from, type);
        while (archive_entry_acl_next(from, type, &t, &perm, &tag, &id, &name) == ARCHIVE_OK) {
                uint32_t p = (uint32_t) perm & 7;

                if (tag == ARCHIVE_ENTRY_ACL_MASK)
                        mode &= ~070u | p << 3;
                else if (tag == ARCHIVE_ENTRY_ACL_USER || tag == ARCHIVE_ENTRY_ACL_GROUP)
                        mode &= ~077u | p << 3 | p;
        }
        return mode;
}
