#include "archive/arc-untar.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <locale.h>
#include <string.h>

#include "archive/arc-acl.h"
#include "archive/arc-internal.h"

#define READ_BYTES   ((size_t) 64 << 10)
#define END_BYTES    1024  /* two blocks of zeros end a tar */
#define PATH_BYTES   65535 /* of a path, as manifests allow */
#define TARGET_BYTES 65535
#define XATTR_BYTES  ((size_t) 64 << 10)

struct ArcUntar {
        struct archive *archive;
        locale_t locale;
        ssize_t (*read)(void *userdata, void *data, size_t n, Failure *reterr);
        void *userdata;
        uint8_t buffer[READ_BYTES];
        uint8_t tail[END_BYTES]; /* the last bytes that were read */
        size_t n_tail;
        Failure failure; /* of read() */
        int error;
        struct archive_entry *entry;
        EntryXattr xattrs[ARC_XATTRS_MAX];
        Buf acls[2];
        ArcUntarDropped dropped;
};

/* ---- bytes ---- */

static void keep_tail(ArcUntar *u, size_t n) {
        size_t keep;

        if (n >= END_BYTES) {
                memcpy(u->tail, u->buffer + n - END_BYTES, END_BYTES);
                u->n_tail = END_BYTES;
                return;
        }
        keep = u->n_tail < END_BYTES - n ? u->n_tail : END_BYTES - n;
        memmove(u->tail, u->tail + u->n_tail - keep, keep);
        memcpy(u->tail + keep, u->buffer, n);
        u->n_tail = keep + n;
}

static ssize_t take_bytes(ArcUntar *u) {
        ssize_t n =
                u->error < 0 ? u->error : u->read(u->userdata, u->buffer, READ_BYTES, &u->failure);

        if (n < 0)
                u->error = (int) n;
        else
                keep_tail(u, (size_t) n);
        return n;
}

static la_ssize_t read_callback(struct archive *a, void *userdata, const void **ret) {
        ArcUntar *u = userdata;
        ssize_t n = take_bytes(u);

        if (n < 0) {
                archive_set_error(a, (int) -n, "read");
                return ARCHIVE_FATAL;
        }
        *ret = u->buffer;
        return n;
}

static int bad_archive(ArcUntar *u, Failure *reterr) {
        const char *why = archive_error_string(u->archive);

        if (u->error < 0) {
                if (reterr && reterr->code == FAIL_NONE)
                        *reterr = u->failure;
                return u->error;
        }
        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EBADMSG,
                        "this is no whole tar (pax, plain or zstd): %s", why ? why : "malformed");
}

int arc_untar_new(ssize_t (*read)(void *userdata, void *data, size_t n, Failure *reterr),
                  void *userdata,
                  ArcUntar **ret,
                  Failure *reterr) {
        _cleanup_(arc_untar_freep) ArcUntar *u = calloc(1, sizeof(*u));

        if (!u)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "archive");
        u->read = read;
        u->userdata = userdata;
        u->locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t) 0);
        u->archive = archive_read_new();
        if (!u->archive)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "archive");
        if (archive_read_support_format_tar(u->archive) != ARCHIVE_OK ||
            archive_read_support_filter_zstd(u->archive) != ARCHIVE_OK ||
            archive_read_open(u->archive, u, NULL, read_callback, NULL) != ARCHIVE_OK)
                return bad_archive(u, reterr);
        *ret = TAKE_PTR(u);
        return 0;
}

void arc_untar_free(ArcUntar *u) {
        if (!u)
                return;
        if (u->archive)
                (void) archive_read_free(u->archive);
        if (u->locale)
                freelocale(u->locale);
        for (size_t i = 0; i < ELEMENTSOF(u->acls); i++)
                buf_done(&u->acls[i]);
        free(u);
}

const ArcUntarDropped *arc_untar_dropped(const ArcUntar *u) {
        return &u->dropped;
}

/* libarchive takes the end of the bytes for the end of the archive: an archive cut off between two
 * members would pass for a whole one. zstd has an end of its own. */
static int check_end(ArcUntar *u, Failure *reterr) {
        ssize_t n;

        do
                n = take_bytes(u);
        while (n > 0);
        if (n < 0)
                return bad_archive(u, reterr);
        if (archive_filter_code(u->archive, 0) == ARCHIVE_FILTER_ZSTD)
                return 0;
        for (size_t i = 0; i < u->n_tail; i++)
                if (u->tail[i] != 0)
                        u->n_tail = 0;
        return u->n_tail == END_BYTES
                       ? 0
                       : fail_set(reterr, FAIL_INVALID_ARGUMENT, EBADMSG,
                                  "the archive has no end: only a part of it came; send all of it");
}

/* ---- names ---- */

static int refuse(const char *path, const char *why, Failure *reterr) {
        char shown[ARC_SHOWN_MAX];

        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "'%s' in the archive: %s",
                        arc_show(path ? path : "", shown), why);
}

/* "./" before and "/" behind are how some programs write paths. */
static int clean_path(char *path, const char **ret, Failure *reterr) {
        size_t n;

        while (path[0] == '.' && path[1] == '/')
                path += 2;
        n = strlen(path);
        while (n > 1 && path[n - 1] == '/')
                path[--n] = 0;
        if (n > PATH_BYTES)
                return refuse(path, "its path is too long", reterr);
        if (n == 0 || path[0] == '/' || !arc_path_is_clean(path))
                return refuse(path, "paths must be relative, without '..' and the like", reterr);
        for (const char *p = path; *p; p += strcspn(p, "/"), p += *p == '/')
                if (strcspn(p, "/") > ENTRY_NAME_MAX)
                        return refuse(path, "a name in it is longer than 255 bytes", reterr);
        *ret = path;
        return 0;
}

/* ---- attributes ---- */

/* libarchive hands the names of attributes out as they were written: %XX as GNU tar does it. */
static void unmark(char *name) {
        char *o = name;

        for (const char *p = name; *p; p++) {
                unsigned value;

                if (*p == '%' && sscanf(p + 1, "%2x", &value) == 1 && value > 0 && p[1] && p[2]) {
                        *o++ = (char) value;
                        p += 2;
                } else
                        *o++ = *p;
        }
        *o = 0;
}

static int compare_xattrs(const void *a, const void *b) {
        return strcmp(((const EntryXattr *) a)->name, ((const EntryXattr *) b)->name);
}

/* The attribute itself, where a writer put it beside the text, says all of it. */
static int copy_acl(ArcUntar *u, const char *wanted, Buf *ret) {
        const char *name;
        const void *value;
        size_t size;

        (void) archive_entry_xattr_reset(u->entry);
        while (archive_entry_xattr_next(u->entry, &name, &value, &size) == ARCHIVE_OK)
                if (strcmp(name, wanted) == 0 && size <= XATTR_BYTES)
                        return arc_acl_copy(value, size, ret);
        return 0;
}

static int take_acl(ArcUntar *u, int type, size_t i, const char *name, Entry *ret) {
        int r = copy_acl(u, name, &u->acls[i]);

        if (r == 0)
                r = arc_acl_encode(u->entry, type, &u->acls[i]);
        if (r == -EINVAL) {
                u->dropped.xattrs++;
                if (type == ARCHIVE_ENTRY_ACL_TYPE_ACCESS)
                        ret->mode = arc_acl_mode_without(u->entry, ret->mode);
        }
        if (r <= 0)
                return r == -EINVAL ? 0 : r;
        if (type == ARCHIVE_ENTRY_ACL_TYPE_ACCESS)
                ret->mode = arc_acl_mode(&u->acls[i], ret->mode);
        u->xattrs[ret->n_xattrs++] = (EntryXattr){ .name = name,
                                                   .value = u->acls[i].data,
                                                   .size = (uint32_t) u->acls[i].size };
        return 0;
}

static bool has_xattr(const Entry *e, const char *name) {
        for (size_t i = 0; i < e->n_xattrs; i++)
                if (strcmp(e->xattrs[i].name, name) == 0)
                        return true;
        return false;
}

static int take_xattrs(ArcUntar *u, const char *path, Entry *ret, Failure *reterr) {
        const char *name;
        const void *value;
        size_t size;
        int r;

        ret->xattrs = u->xattrs;
        r = take_acl(u, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, 0, ARC_ACL_ACCESS, ret);
        if (r >= 0 && ret->type == ENTRY_DIRECTORY)
                r = take_acl(u, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, 1, ARC_ACL_DEFAULT, ret);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "archive");
        (void) archive_entry_xattr_reset(u->entry);
        while (archive_entry_xattr_next(u->entry, &name, &value, &size) == ARCHIVE_OK) {
                unmark((char *) name); /* the entry's own memory */
                if (strncmp(name, "user.", 5) != 0) {
                        u->dropped.xattrs += !has_xattr(ret, name); /* an ACL that was taken */
                        continue;
                }
                if (ret->n_xattrs == ARC_XATTRS_MAX || size > XATTR_BYTES ||
                    strlen(name) > ENTRY_NAME_MAX)
                        return refuse(path, "its extended attributes are too many or too large",
                                      reterr);
                u->xattrs[ret->n_xattrs++] =
                        (EntryXattr){ .name = name, .value = value, .size = (uint32_t) size };
        }
        qsort(u->xattrs, ret->n_xattrs, sizeof(*u->xattrs), compare_xattrs);
        for (size_t i = 1; i < ret->n_xattrs; i++)
                if (strcmp(u->xattrs[i - 1].name, u->xattrs[i].name) == 0)
                        return refuse(path, "an extended attribute comes twice", reterr);
        return 0;
}

/* The reverse of what the writer does with times before 1970: pax has a decimal number. */
static void take_time(struct archive_entry *from, Entry *ret) {
        int64_t sec = archive_entry_mtime(from);
        long nsec = archive_entry_mtime_nsec(from);

        if (nsec < 0 || nsec >= 1000000000)
                nsec = 0;
        if (sec < 0 && nsec > 0 && sec > INT64_MIN) {
                sec--;
                nsec = 1000000000 - nsec;
        }
        ret->mtime_sec = sec;
        ret->mtime_nsec = (uint32_t) nsec;
}

static int take_owner(struct archive_entry *from, const char *path, Entry *ret, Failure *reterr) {
        int64_t uid = archive_entry_uid(from), gid = archive_entry_gid(from);

        /* The last one means "leave as it is" to the kernel. */
        if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
                return refuse(path, "its owner is no number of a user and a group", reterr);
        ret->uid = (uint32_t) uid;
        ret->gid = (uint32_t) gid;
        return 0;
}

static void take_mode(ArcUntar *u, Entry *ret) {
        uint32_t mode = archive_entry_perm(u->entry) & 07777;
        unsigned long set = 0, clear = 0;

        if (ret->type != ENTRY_DIRECTORY && mode & 06000) {
                u->dropped.modes++;
                mode &= ~06000u;
        }
        ret->mode = mode;
        archive_entry_fflags(u->entry, &set, &clear);
        u->dropped.flags += set != 0;
}

/* The type, and what belongs to it alone. 1, 0 for what is left out, negative errno. */
static int take_type(ArcUntar *u, const char *path, Entry *ret, Failure *reterr) {
        const char *link = archive_entry_hardlink(u->entry);
        int64_t size = archive_entry_size(u->entry);
        const char *target;

        if (link) {
                ret->type = ENTRY_HARDLINK;
                return clean_path((char *) link, &ret->target, reterr) < 0 ? -EINVAL : 1;
        }
        switch (archive_entry_filetype(u->entry)) {
        case AE_IFDIR:
                ret->type = ENTRY_DIRECTORY;
                return 1;
        case AE_IFIFO:
                ret->type = ENTRY_FIFO;
                return 1;
        case AE_IFREG:
                if (size < 0)
                        return refuse(path, "its size is impossible", reterr);
                ret->type = ENTRY_FILE;
                ret->size = (uint64_t) size;
                ret->sparse = archive_entry_sparse_count(u->entry) > 0;
                return 1;
        case AE_IFLNK:
                target = archive_entry_symlink(u->entry);
                if (!target || !*target || strlen(target) > TARGET_BYTES)
                        return refuse(path, "it is a link to nothing", reterr);
                ret->type = ENTRY_SYMLINK;
                ret->target = target;
                return 1;
        case AE_IFCHR:
        case AE_IFBLK:
                u->dropped.devices++;
                return 0;
        default:
                return refuse(path, "it is of no kind that a backup holds", reterr);
        }
}

/* 1, 0 for what is left out, negative errno. */
static int take_entry(ArcUntar *u, const char **ret_path, Entry *ret, Failure *reterr) {
        const char *name = archive_entry_pathname(u->entry);
        int r;

        *ret = (Entry){ .class = ENTRY_CLASS_NONE };
        if (!name)
                return refuse("", "a member has no name", reterr);
        r = clean_path((char *) name, ret_path, reterr);
        if (r >= 0)
                r = take_type(u, *ret_path, ret, reterr);
        if (r <= 0 || ret->type == ENTRY_HARDLINK)
                return r;
        take_mode(u, ret);
        take_time(u->entry, ret);
        r = take_owner(u->entry, *ret_path, ret, reterr);
        if (r >= 0)
                r = take_xattrs(u, *ret_path, ret, reterr);
        return r < 0 ? r : 1;
}

int arc_untar_next(ArcUntar *u, const char **ret_path, Entry *ret, Failure *reterr) {
        locale_t old = u->locale ? uselocale(u->locale) : (locale_t) 0;
        int r = 0;

        while (r == 0) {
                int e = archive_read_next_header(u->archive, &u->entry);

                if (e == ARCHIVE_EOF) {
                        r = check_end(u, reterr);
                        break;
                }
                /* A warning is that something was not understood. */
                r = e != ARCHIVE_OK ? bad_archive(u, reterr) : take_entry(u, ret_path, ret, reterr);
        }
        if (old)
                (void) uselocale(old);
        return r;
}

int arc_untar_data(
        ArcUntar *u,
        int (*sink)(void *userdata, uint64_t offset, const void *data, size_t n, Failure *reterr),
        void *userdata,
        Failure *reterr) {
        uint64_t size = (uint64_t) archive_entry_size(u->entry), end = 0;

        for (;;) {
                const void *data;
                la_int64_t offset;
                size_t n;
                int r = archive_read_data_block(u->archive, &data, &n, &offset);

                if (r == ARCHIVE_EOF)
                        return 0;
                if (r != ARCHIVE_OK)
                        return bad_archive(u, reterr);
                if (n == 0)
                        continue;
                if (offset < 0 || (uint64_t) offset < end || n > size ||
                    (uint64_t) offset > size - n)
                        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EBADMSG,
                                        "the archive has content outside of its file");
                end = (uint64_t) offset + n;
                r = sink(userdata, (uint64_t) offset, data, n, reterr);
                if (r < 0)
                        return r;
        }
}
