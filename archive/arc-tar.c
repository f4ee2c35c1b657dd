/*
 * Two writers of pax headers feed one output: names that are text go through the one that says
 * nothing of a character set, all others through the one that calls every name binary. libarchive
 * decides that once for an archive, and would change some names by itself (surrogates).
 *
 * The output is a second archive, of format raw, that compresses or does not.
 */

#include "archive/arc-tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "archive/arc-acl.h"
#include "archive/arc-internal.h"
#include "base/text.h"

#define BLOCK_BYTES ((size_t) 64 << 10)
#define ZERO_BYTES  ((size_t) 1 << 30) /* address space; the pages are never made */
#define FILL_BYTES  ((size_t) 1 << 20)
#define ZSTD_LEVEL  "3"
#define FAILED      (-1) /* what callbacks of libarchive return */

struct ArcTar {
        ArcTarParams params;
        struct archive *out, *text, *binary; /* `binary` is made when it is needed */
        struct archive_entry *entry;
        locale_t locale; /* one in which bytes are UTF-8; 0 if there is none */
        void *zeros;
        struct archive *file; /* what takes the content of the open file; NULL: none is open */
        uint64_t position, size;
        bool sparse;
        uint64_t large_acls;
        Failure failure; /* of the caller's write() */
        int error;
};

static int tar_fail(ArcTar *t, struct archive *a, const char *path, Failure *reterr) {
        char shown[ARC_SHOWN_MAX];
        int e = a ? archive_errno(a) : ENOMEM;

        if (t->error < 0) {
                if (reterr && reterr->code == FAIL_NONE)
                        *reterr = t->failure;
                return t->error;
        }
        return fail_set(reterr, FAIL_INTERNAL, e > 0 ? e : EIO,
                        "'%s' cannot be written to the archive: %s", arc_show(path, shown),
                        a && archive_error_string(a) ? archive_error_string(a) : "out of memory");
}

/* ---- outputs ---- */

static la_ssize_t write_out(struct archive *a, void *userdata, const void *data, size_t n) {
        ArcTar *t = userdata;

        if (t->error >= 0)
                t->error = t->params.write(t->params.userdata, data, n, &t->failure);
        if (t->error >= 0)
                return (la_ssize_t) n;
        archive_set_error(a, -t->error, "write");
        return FAILED;
}

/* What a writer of headers hands over, into the output. */
static la_ssize_t write_through(struct archive *a, void *userdata, const void *data, size_t n) {
        ArcTar *t = userdata;
        la_ssize_t done = archive_write_data(t->out, data, n);

        if (done == (la_ssize_t) n)
                return done;
        archive_set_error(a, archive_errno(t->out), "%s", "output");
        return FAILED;
}

static int open_out(ArcTar *t) {
        int r;

        t->out = archive_write_new();
        if (!t->out)
                return ARCHIVE_FATAL;
        r = archive_write_set_format_raw(t->out);
        if (r == ARCHIVE_OK)
                r = t->params.zstd ? archive_write_add_filter_zstd(t->out)
                                   : archive_write_add_filter_none(t->out);
        if (r == ARCHIVE_OK && t->params.zstd)
                r = archive_write_set_filter_option(t->out, "zstd", "compression-level",
                                                    ZSTD_LEVEL);
        if (r == ARCHIVE_OK)
                r = archive_write_set_bytes_per_block(t->out, BLOCK_BYTES);
        if (r == ARCHIVE_OK)
                r = archive_write_set_bytes_in_last_block(t->out, 1);
        if (r == ARCHIVE_OK)
                r = archive_write_open(t->out, t, NULL, write_out, NULL);
        if (r != ARCHIVE_OK)
                return r;
        archive_entry_set_filetype(t->entry, AE_IFREG);
        archive_entry_copy_pathname(t->entry, "tar");
        return archive_write_header(t->out, t->entry);
}

static int open_pax(ArcTar *t, bool binary, struct archive **ret) {
        int r;

        if (*ret)
                return ARCHIVE_OK;
        *ret = archive_write_new();
        if (!*ret)
                return ARCHIVE_FATAL;
        r = archive_write_set_format_pax(*ret);
        if (r == ARCHIVE_OK)
                r = archive_write_set_format_option(*ret, "pax", "xattrheader", "SCHILY");
        if (r == ARCHIVE_OK && binary)
                r = archive_write_set_format_option(*ret, "pax", "hdrcharset", "BINARY");
        if (r == ARCHIVE_OK)
                r = archive_write_set_bytes_per_block(*ret, 0);
        return r == ARCHIVE_OK ? archive_write_open(*ret, t, NULL, write_through, NULL) : r;
}

int arc_tar_new(const ArcTarParams *params, ArcTar **ret, Failure *reterr) {
        _cleanup_(arc_tar_freep) ArcTar *t = calloc(1, sizeof(*t));
        void *zeros;

        if (!t)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "archive");
        t->params = *params;
        t->locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t) 0);
        zeros = mmap(NULL, ZERO_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                     0);
        if (zeros != MAP_FAILED)
                t->zeros = zeros;
        t->entry = archive_entry_new();
        if (!t->zeros || !t->entry)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "archive");
        if (open_out(t) != ARCHIVE_OK)
                return tar_fail(t, t->out, "", reterr);
        if (open_pax(t, false, &t->text) != ARCHIVE_OK)
                return tar_fail(t, t->text, "", reterr);
        *ret = TAKE_PTR(t);
        return 0;
}

/* Not closed but failed: nothing more is written. */
static void drop(struct archive *a) {
        if (!a)
                return;
        (void) archive_write_fail(a);
        (void) archive_write_free(a);
}

void arc_tar_free(ArcTar *t) {
        if (!t)
                return;
        drop(t->text);
        drop(t->binary);
        drop(t->out);
        archive_entry_free(t->entry);
        if (t->zeros)
                (void) munmap(t->zeros, ZERO_BYTES);
        if (t->locale)
                freelocale(t->locale);
        free(t);
}

/* ---- headers ---- */

/*
 * libarchive writes what would end a keyword ("=") or is no text as %XX. GNU tar takes back those
 * that it makes itself (%3D, %25), bsdtar none.
 */
static int fill_xattrs(ArcTar *t, struct archive_entry *to, const Entry *entry) {
        bool large = false;

        for (size_t i = 0; i < entry->n_xattrs; i++) {
                const EntryXattr *x = &entry->xattrs[i];
                int r = arc_acl_add(to, x);

                if (r < 0)
                        return r;
                if (r != 1)
                        archive_entry_xattr_add_entry(to, x->name, x->value, x->size);
                large |= r == 2;
        }
        t->large_acls += large;
        return 0;
}

/*
 * A time before 1970 is a negative decimal number in pax, its fraction included. libarchive takes
 * the fraction as it is and puts it behind the seconds, so both are turned first. There is no minus
 * zero: the last second before 1970 loses its fraction.
 */
static void fill_time(struct archive_entry *to, const Entry *entry) {
        int64_t sec = entry->mtime_sec;
        uint32_t nsec = entry->mtime_nsec;

        if (sec == -1)
                nsec = 0;
        if (sec < 0 && nsec > 0) {
                sec++;
                nsec = 1000000000u - nsec;
        }
        archive_entry_set_mtime(to, sec, (long) nsec);
}

static unsigned file_type(EntryType type) {
        switch (type) {
        case ENTRY_DIRECTORY:
                return AE_IFDIR;
        case ENTRY_FILE:
        case ENTRY_HARDLINK:
                return AE_IFREG;
        case ENTRY_SYMLINK:
                return AE_IFLNK;
        case ENTRY_FIFO:
                return AE_IFIFO;
        case ENTRY_CHAR:
                return AE_IFCHR;
        case ENTRY_BLOCK:
                return AE_IFBLK;
        }
        return 0;
}

static int fill_header(ArcTar *t, const char *path, const Entry *entry, const char *link) {
        struct archive_entry *to = t->entry;

        archive_entry_clear(to);
        archive_entry_copy_pathname(to, path);
        archive_entry_set_filetype(to, file_type(entry->type));
        archive_entry_set_size(to, 0);
        if (entry->type == ENTRY_HARDLINK) {
                archive_entry_copy_hardlink(to, link);
                return 0;
        }
        archive_entry_set_perm(to, entry->mode & 07777);
        archive_entry_set_uid(to, entry->uid);
        archive_entry_set_gid(to, entry->gid);
        fill_time(to, entry);
        if (entry->flags)
                archive_entry_set_fflags(to, entry->flags, 0);
        if (entry->type == ENTRY_FILE)
                archive_entry_set_size(to, (int64_t) entry->size);
        if (entry->type == ENTRY_SYMLINK)
                archive_entry_copy_symlink(to, entry->target);
        if (entry->type == ENTRY_CHAR || entry->type == ENTRY_BLOCK) {
                archive_entry_set_rdevmajor(to, entry->major);
                archive_entry_set_rdevminor(to, entry->minor);
        }
        return fill_xattrs(t, to, entry);
}

static void fill_ranges(ArcTar *t, const ArcTarRange *data, size_t n) {
        t->sparse = data && !(n == 1 && data[0].offset == 0 && data[0].size == t->size);
        if (!t->sparse)
                return;
        for (size_t i = 0; i < n; i++)
                archive_entry_sparse_add_entry(t->entry, (int64_t) data[i].offset,
                                               (int64_t) data[i].size);
        if (n == 0) /* nothing but a hole */
                archive_entry_sparse_add_entry(t->entry, 0, 0);
}

/* True if libarchive can call it UTF-8 without changing it. */
static bool is_text(const ArcTar *t, const char *name) {
        if (t->locale)
                return text_is_utf8(name);
        for (; *name; name++)
                if (*name & 0x80)
                        return false;
        return true;
}

static int write_header(ArcTar *t, struct archive *a) {
        locale_t old = t->locale ? uselocale(t->locale) : (locale_t) 0;
        int r = archive_write_header(a, t->entry);

        if (old)
                (void) uselocale(old);
        return r;
}

int arc_tar_put(ArcTar *t,
                const char *path,
                const Entry *entry,
                const char *link,
                const ArcTarRange *data,
                size_t n_data,
                Failure *reterr) {
        const char *target = entry->type == ENTRY_HARDLINK  ? link
                             : entry->type == ENTRY_SYMLINK ? entry->target
                                                            : NULL;
        bool text = is_text(t, path) && (!target || is_text(t, target));
        struct archive **a = text ? &t->text : &t->binary;

        if (fill_header(t, path, entry, link) < 0)
                return tar_fail(t, NULL, path, reterr);
        t->position = 0;
        t->size = entry->type == ENTRY_FILE ? entry->size : 0;
        fill_ranges(t, data, n_data);
        /* A warning is that something was left out. */
        if (open_pax(t, !text, a) != ARCHIVE_OK || write_header(t, *a) != ARCHIVE_OK)
                return tar_fail(t, *a, path, reterr);
        t->file = t->size > 0 ? *a : NULL;
        if (t->file || archive_write_finish_entry(*a) == ARCHIVE_OK)
                return 0;
        return tar_fail(t, *a, path, reterr);
}

/* ---- content ---- */

static int put_bytes(ArcTar *t, const void *data, size_t n, Failure *reterr) {
        const uint8_t *p = data;

        while (n > 0) {
                la_ssize_t done = archive_write_data(t->file, p, n);

                if (done <= 0)
                        return tar_fail(t, t->file, "content", reterr);
                p += done;
                n -= (size_t) done;
                t->position += (uint64_t) done;
        }
        return 0;
}

/* In holes libarchive only counts; elsewhere these are bytes to write. */
static int put_zeros(ArcTar *t, uint64_t until, Failure *reterr) {
        size_t most = t->sparse ? ZERO_BYTES : FILL_BYTES;
        int r = 0;

        while (r >= 0 && t->position < until) {
                uint64_t left = until - t->position;

                if (t->params.interrupted && t->params.interrupted(t->params.userdata))
                        return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
                r = put_bytes(t, t->zeros, left < most ? (size_t) left : most, reterr);
        }
        return r;
}

int arc_tar_data(ArcTar *t, uint64_t offset, const void *data, size_t n, Failure *reterr) {
        int r;

        if (!t->file || offset < t->position || n > t->size - offset)
                return fail_set(reterr, FAIL_INTERNAL, EINVAL, "content that fits no file");
        r = put_zeros(t, offset, reterr);
        return r < 0 ? r : put_bytes(t, data, n, reterr);
}

int arc_tar_end_file(ArcTar *t, Failure *reterr) {
        struct archive *a = t->file;
        int r;

        if (!a)
                return 0;
        r = put_zeros(t, t->size, reterr);
        if (r < 0)
                return r;
        t->file = NULL;
        return archive_write_finish_entry(a) == ARCHIVE_OK ? 0 : tar_fail(t, a, "content", reterr);
}

int arc_tar_finish(ArcTar *t, Failure *reterr) {
        int r = arc_tar_end_file(t, reterr);

        if (r < 0)
                return r;
        if (archive_write_close(t->text) != ARCHIVE_OK)
                return tar_fail(t, t->text, "end", reterr);
        return archive_write_close(t->out) == ARCHIVE_OK ? 0 : tar_fail(t, t->out, "end", reterr);
}

uint64_t arc_tar_large_acls(const ArcTar *t) {
        return t->large_acls;
}
