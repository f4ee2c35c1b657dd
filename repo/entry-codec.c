/*
 * What is decoded may come from anybody: every length, order and range of docs/REPO-FORMAT.md is
 * checked, so that whoever uses an entry may rely on them. Encoding refuses what decoding would
 * refuse; one entry has exactly one encoding, on which the sharing of blocks rests.
 */

#include <errno.h>
#include <string.h>

#include "repo/format.h"
#include "repo/repo.h"
#include "repo/varint.h"

#define ENTRY_TARGET_MAX      65535
#define ENTRY_XATTR_NAME_MAX  255
#define ENTRY_XATTR_VALUE_MAX ((uint32_t) 64 << 10)
#define ENTRY_NSEC            1000000000u
#define ENTRY_MODE_BITS       07777u

/* Which of the optional fields a type may have, and must have. False for no such type. */
static bool entry_type_fields(EntryType type, unsigned *ret_allowed, unsigned *ret_needed) {
        *ret_needed = 0;
        switch (type) {
        case ENTRY_DIRECTORY:
        case ENTRY_FIFO:
                *ret_allowed = ENTRY_HAS_FLAGS | ENTRY_HAS_XATTRS;
                return true;
        case ENTRY_FILE:
                *ret_allowed =
                        ENTRY_HAS_FLAGS | ENTRY_HAS_XATTRS | ENTRY_IS_SPARSE | ENTRY_HAS_CONTENT;
                return true;
        case ENTRY_SYMLINK:
                *ret_allowed = ENTRY_HAS_FLAGS | ENTRY_HAS_XATTRS | ENTRY_HAS_TARGET;
                *ret_needed = ENTRY_HAS_TARGET;
                return true;
        case ENTRY_CHAR:
        case ENTRY_BLOCK:
                *ret_allowed = ENTRY_HAS_FLAGS | ENTRY_HAS_XATTRS | ENTRY_HAS_DEVICE;
                *ret_needed = ENTRY_HAS_DEVICE;
                return true;
        case ENTRY_HARDLINK:
                *ret_allowed = *ret_needed = ENTRY_HAS_TARGET;
                return true;
        }
        return false;
}

static bool entry_name_is_valid(const char *name) {
        size_t n = name ? strlen(name) : 0;

        return n >= 1 && n <= ENTRY_NAME_MAX && !strchr(name, '/') && strcmp(name, ".") != 0 &&
               strcmp(name, "..") != 0;
}

/* The optional fields that an entry has. A device number of a non-device and the like is ignored.
 */
static unsigned entry_fields(const Entry *e) {
        unsigned fields = 0;

        if (e->type == ENTRY_HARDLINK)
                return ENTRY_HAS_TARGET;
        if (e->flags != 0)
                fields |= ENTRY_HAS_FLAGS;
        if (e->n_xattrs > 0)
                fields |= ENTRY_HAS_XATTRS;
        if (e->type == ENTRY_CHAR || e->type == ENTRY_BLOCK)
                fields |= ENTRY_HAS_DEVICE;
        if (e->type == ENTRY_SYMLINK)
                fields |= ENTRY_HAS_TARGET;
        if (e->type == ENTRY_FILE && e->sparse)
                fields |= ENTRY_IS_SPARSE;
        if (e->type == ENTRY_FILE && e->size > 0)
                fields |= ENTRY_HAS_CONTENT;
        return fields;
}

static bool entry_class_is_valid(unsigned class) {
        return class >= CLASS_LARGE && class <= CLASS_SQLITE;
}

static bool entry_is_encodable(const Entry *e, unsigned fields) {
        unsigned allowed, needed;

        if (!entry_type_fields(e->type, &allowed, &needed) || !entry_name_is_valid(e->name))
                return false;
        if (e->type != ENTRY_HARDLINK &&
            ((e->mode & ~ENTRY_MODE_BITS) != 0 || e->mtime_nsec >= ENTRY_NSEC))
                return false;
        if (e->n_xattrs > ENTRY_XATTRS_MAX)
                return false;
        if ((fields & ENTRY_HAS_TARGET) &&
            (!e->target || e->target[0] == 0 || strlen(e->target) > ENTRY_TARGET_MAX))
                return false;
        if ((fields & ENTRY_HAS_CONTENT) &&
            (!entry_class_is_valid(e->class) || !e->content || e->content_size == 0))
                return false;
        return true;
}

static int entry_put_xattrs(Buf *to, const Entry *e) {
        int r = varint_put(to, e->n_xattrs);

        for (size_t i = 0; r == 0 && i < e->n_xattrs; i++) {
                const EntryXattr *x = &e->xattrs[i];
                size_t n = strlen(x->name);

                if (n < 1 || n > ENTRY_XATTR_NAME_MAX || x->size > ENTRY_XATTR_VALUE_MAX ||
                    (i > 0 && strcmp(e->xattrs[i - 1].name, x->name) >= 0))
                        return -EINVAL;
                r = string_put(to, x->name);
                if (r == 0)
                        r = varint_put(to, x->size);
                if (r == 0 && x->size > 0)
                        r = buf_put(to, x->value, x->size);
        }
        return r;
}

static int entry_put_attributes(Buf *to, const Entry *e) {
        int r = varint_put(to, e->mode);

        if (r == 0)
                r = varint_put(to, e->uid);
        if (r == 0)
                r = varint_put(to, e->gid);
        if (r == 0)
                r = varint_put_signed(to, e->mtime_sec);
        if (r == 0)
                r = buf_put_u32(to, e->mtime_nsec);
        return r;
}

static int entry_put_content(Buf *to, const Entry *e) {
        int r = varint_put(to, e->size);

        if (r == 0)
                r = buf_put_u8(to, (uint8_t) e->class);
        if (r == 0)
                r = varint_put(to, e->content_size);
        if (r == 0)
                r = buf_put(to, e->content, e->content_size);
        return r;
}

static int entry_put_fields(Buf *to, const Entry *e, unsigned fields) {
        int r = 0;

        if (fields & ENTRY_HAS_FLAGS)
                r = varint_put(to, e->flags);
        if (r == 0 && (fields & ENTRY_HAS_XATTRS))
                r = entry_put_xattrs(to, e);
        if (r == 0 && (fields & ENTRY_HAS_DEVICE))
                r = varint_put(to, e->major);
        if (r == 0 && (fields & ENTRY_HAS_DEVICE))
                r = varint_put(to, e->minor);
        if (r == 0 && (fields & ENTRY_HAS_TARGET))
                r = string_put(to, e->target);
        if (r == 0 && (fields & ENTRY_HAS_CONTENT))
                r = entry_put_content(to, e);
        return r;
}

int entry_encode(Buf *to, const Entry *e) {
        unsigned fields = entry_fields(e);
        size_t before = to->size;
        int r;

        if (!entry_is_encodable(e, fields))
                return -EINVAL;
        r = buf_put_u8(to, (uint8_t) e->type);
        if (r == 0)
                r = varint_put(to, fields);
        if (r == 0)
                r = string_put(to, e->name);
        if (r == 0 && e->type != ENTRY_HARDLINK)
                r = entry_put_attributes(to, e);
        if (r == 0)
                r = entry_put_fields(to, e, fields);
        if (r == 0 && to->size - before > ENTRY_ENCODED_MAX)
                r = -EMSGSIZE;
        if (r < 0)
                to->size = before; /* half an entry helps nobody */
        return r;
}

static uint32_t entry_get_u32(Reader *from) {
        uint64_t v = varint_get(from);

        if (v > UINT32_MAX)
                from->failed = true;
        return (uint32_t) v;
}

static void entry_get_attributes(Reader *from, Entry *e) {
        e->mode = entry_get_u32(from);
        e->uid = entry_get_u32(from);
        e->gid = entry_get_u32(from);
        e->mtime_sec = varint_get_signed(from);
        e->mtime_nsec = reader_u32(from);
        if ((e->mode & ~ENTRY_MODE_BITS) != 0 || e->mtime_nsec >= ENTRY_NSEC)
                from->failed = true;
}

static void entry_get_xattrs(Reader *from, Entry *e, EntryXattr *xattrs) {
        uint64_t n = varint_get(from);

        if (n < 1 || n > ENTRY_XATTRS_MAX)
                from->failed = true;
        for (uint64_t i = 0; i < n && !from->failed; i++) {
                EntryXattr *x = &xattrs[i];

                x->name = string_get(from, ENTRY_XATTR_NAME_MAX);
                x->size = entry_get_u32(from);
                if (!x->name || x->name[0] == 0 || x->size > ENTRY_XATTR_VALUE_MAX ||
                    (i > 0 && strcmp(xattrs[i - 1].name, x->name) >= 0)) {
                        from->failed = true;
                        break;
                }
                x->value = reader_bytes(from, x->size);
        }
        e->xattrs = xattrs;
        e->n_xattrs = (size_t) n;
}

static void entry_get_content(Reader *from, Entry *e) {
        uint64_t n;
        uint8_t class;

        e->size = varint_get(from);
        class = reader_u8(from);
        n = varint_get(from);
        if (e->size < 1 || e->size > INT64_MAX || !entry_class_is_valid(class) || n < 1 ||
            n > reader_left(from)) {
                from->failed = true;
                return;
        }
        e->class = (EntryClass) class;
        e->content_size = (size_t) n;
        e->content = reader_bytes(from, (size_t) n);
}

static void entry_get_fields(Reader *from, Entry *e, unsigned fields, EntryXattr *xattrs) {
        if (fields & ENTRY_HAS_FLAGS) {
                e->flags = entry_get_u32(from);
                if (e->flags == 0) /* then it would not have been written */
                        from->failed = true;
        }
        if (fields & ENTRY_HAS_XATTRS)
                entry_get_xattrs(from, e, xattrs);
        if (fields & ENTRY_HAS_DEVICE) {
                e->major = entry_get_u32(from);
                e->minor = entry_get_u32(from);
        }
        if (fields & ENTRY_HAS_TARGET) {
                e->target = string_get(from, ENTRY_TARGET_MAX);
                if (!e->target || e->target[0] == 0)
                        from->failed = true;
        }
        e->sparse = (fields & ENTRY_IS_SPARSE) != 0;
        if (fields & ENTRY_HAS_CONTENT)
                entry_get_content(from, e);
}

int entry_decode(Reader *from, Entry *ret, EntryXattr xattrs[ENTRY_XATTRS_MAX]) {
        const uint8_t *start = from->p;
        unsigned allowed, needed;
        uint64_t fields;
        Entry e = { 0 };

        e.type = (EntryType) reader_u8(from);
        fields = varint_get(from);
        e.name = string_get(from, ENTRY_NAME_MAX);
        if (from->failed || !entry_name_is_valid(e.name) ||
            !entry_type_fields(e.type, &allowed, &needed) || (fields & ~(uint64_t) allowed) != 0 ||
            (fields & needed) != needed)
                from->failed = true;
        if (!from->failed && e.type != ENTRY_HARDLINK)
                entry_get_attributes(from, &e);
        if (!from->failed)
                entry_get_fields(from, &e, (unsigned) fields, xattrs);
        if (from->failed || (size_t) (from->p - start) > ENTRY_ENCODED_MAX) {
                from->failed = true;
                return -EBADMSG;
        }
        *ret = e;
        return 0;
}
