#include "worker/base-state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/text.h"
#include "repo/repo.h"

#define BASE_MAGIC      "HPBASE01"
#define BASE_FRAME_SIZE ((size_t) 256 << 10) /* flushed once it is this full */
#define BASE_FRAME_MAX  ((size_t) 64 << 20)

enum { ITEM_DIRECTORY = 1, ITEM_ENTRY = 2 };

struct BaseReader {
        FILE *file;
        char *service;
        bool warned;
        Buf frame;
        Reader at;
        char backup[UUID_TEXT_MAX];
        char *signature;
        char *dir; /* of the entries that come now */
        bool have; /* `entry` is the next one not yet asked for */
        Entry entry;
        EntryLocal local;
        EntryXattr xattrs[ENTRY_XATTRS_MAX];
};

struct BaseWriter {
        int dirfd;
        FILE *file;
        char *name, *tmp;
        Buf frame, encoded;
        char *dir;
        bool committed;
};

/* ---- local facts ---- */

static int put_local(Buf *b, const EntryLocal *l) {
        int r = 0;

        r |= buf_put_u64(b, l->ino);
        r |= buf_put_u64(b, l->size);
        r |= buf_put_u64(b, (uint64_t) l->mtime_sec);
        r |= buf_put_u64(b, (uint64_t) l->ctime_sec);
        r |= buf_put_u32(b, l->mtime_nsec);
        r |= buf_put_u32(b, l->ctime_nsec);
        r |= buf_put_u32(b, l->mode);
        r |= buf_put_u32(b, l->nlink);
        r |= buf_put_u32(b, l->uid);
        r |= buf_put_u32(b, l->gid);
        return r < 0 ? -ENOMEM : 0;
}

static void get_local(Reader *r, EntryLocal *ret) {
        ret->ino = reader_u64(r);
        ret->size = reader_u64(r);
        ret->mtime_sec = (int64_t) reader_u64(r);
        ret->ctime_sec = (int64_t) reader_u64(r);
        ret->mtime_nsec = reader_u32(r);
        ret->ctime_nsec = reader_u32(r);
        ret->mode = reader_u32(r);
        ret->nlink = reader_u32(r);
        ret->uid = reader_u32(r);
        ret->gid = reader_u32(r);
}

/* ---- reader ---- */

static bool doubt(BaseReader *b) {
        if (!b->warned)
                log_warning("base state of service %s is damaged: reading %s again", b->service,
                            b->signature ? "what comes after that" : "everything");
        b->warned = true;
        return false;
}

/* Loads the next whole frame; false at the end or at the first doubt. */
static bool read_frame(BaseReader *b) {
        uint8_t head[8];
        uint32_t length;
        size_t n;

        b->at = READER_INIT(b->frame.data, 0);
        n = fread(head, 1, sizeof(head), b->file);
        if (n == 0 && b->signature && !ferror(b->file))
                return false; /* the end */
        if (n != sizeof(head))
                return doubt(b);
        length = get_le32(head);
        buf_clear(&b->frame);
        if (length > BASE_FRAME_MAX || buf_reserve(&b->frame, length) < 0)
                return doubt(b);
        if (fread(b->frame.data, 1, length, b->file) != length ||
            crc32c(0, b->frame.data, length) != get_le32(head + 4))
                return doubt(b);
        b->frame.size = length;
        b->at = READER_INIT(b->frame.data, length);
        return true;
}

static char *reader_string(Reader *r) {
        uint32_t n = reader_u32(r);
        const uint8_t *p = reader_bytes(r, n);

        return p ? strndup((const char *) p, n) : NULL;
}

static bool read_header(BaseReader *b) {
        const uint8_t *p;

        if (!read_frame(b))
                return false;
        p = reader_bytes(&b->at, 8);
        if (!p || memcmp(p, BASE_MAGIC, 8) != 0)
                return false;
        p = reader_bytes(&b->at, 16);
        if (!p)
                return false;
        text_uuid_format(p, b->backup);
        b->signature = reader_string(&b->at);
        return b->signature && reader_left(&b->at) == 0;
}

int base_reader_open(int base_dirfd, const char *service, BaseReader **ret) {
        BaseReader *b;
        int fd;

        *ret = NULL;
        fd = openat(base_dirfd, service, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return 0;
        b = calloc(1, sizeof(*b));
        if (!b) {
                fd_close(fd);
                return -ENOMEM;
        }
        b->frame = BUF_INIT(BASE_FRAME_MAX);
        b->service = strdup(service);
        b->file = fdopen(fd, "r");
        if (!b->file)
                fd_close(fd);
        if (!b->service || !b->file) {
                base_reader_free(b);
                return -ENOMEM;
        }
        if (!read_header(b)) {
                (void) doubt(b);
                base_reader_free(b);
                return 0;
        }
        *ret = b;
        return 0;
}

void base_reader_free(BaseReader *b) {
        if (!b)
                return;
        if (b->file)
                (void) fclose(b->file); /* only read */
        buf_done(&b->frame);
        free(b->signature);
        free(b->service);
        free(b->dir);
        free(b);
}

const char *base_reader_backup(const BaseReader *b) {
        return b->backup;
}

const char *base_reader_signature(const BaseReader *b) {
        return b->signature;
}

/* Decodes one item; false when this frame has no more. */
static bool next_item(BaseReader *b) {
        uint8_t kind;

        if (reader_left(&b->at) == 0)
                return false;
        kind = reader_u8(&b->at);
        if (kind == ITEM_DIRECTORY) {
                free(b->dir);
                b->dir = reader_string(&b->at);
                return b->dir != NULL;
        }
        if (kind != ITEM_ENTRY || !b->dir)
                return false;
        get_local(&b->at, &b->local);
        (void) reader_u32(&b->at); /* length: for readers that skip */
        if (entry_decode(&b->at, &b->entry, b->xattrs) < 0 || b->at.failed)
                return false;
        b->entry.dir = b->dir;
        b->have = true;
        return true;
}

static bool advance(BaseReader *b) {
        b->have = false;
        while (!b->have) {
                if (next_item(b))
                        continue;
                if (!read_frame(b))
                        return false;
        }
        return true;
}

static int
key_compare(const char *dir_a, const char *name_a, const char *dir_b, const char *name_b) {
        int c = text_path_compare(dir_a, dir_b);

        return c ? c : strcmp(name_a, name_b);
}

int base_reader_find(BaseReader *b,
                     const char *dir,
                     const char *name,
                     Entry *ret,
                     EntryLocal *ret_local) {
        int c = -1;

        while ((b->have || advance(b)) &&
               (c = key_compare(b->entry.dir, b->entry.name, dir, name)) < 0)
                b->have = false;
        if (!b->have || c != 0)
                return 0;
        *ret = b->entry;
        *ret_local = b->local;
        return 1;
}

/* ---- writer ---- */

static int flush_frame(BaseWriter *b) {
        uint8_t head[8];

        put_le32(head, (uint32_t) b->frame.size);
        put_le32(head + 4, crc32c(0, b->frame.data, b->frame.size));
        if (fwrite(head, 1, sizeof(head), b->file) != sizeof(head) ||
            fwrite(b->frame.data, 1, b->frame.size, b->file) != b->frame.size)
                return -(errno ? errno : EIO);
        buf_clear(&b->frame);
        return 0;
}

static int put_string(Buf *b, const char *s) {
        int r = buf_put_u32(b, (uint32_t) strlen(s));

        return r < 0 ? r : buf_put(b, s, strlen(s));
}

static int write_header(BaseWriter *b, const char *backup_id, const char *signature) {
        uint8_t uuid[16];
        int r = text_uuid_parse(backup_id, uuid);

        if (r >= 0)
                r = buf_put(&b->frame, BASE_MAGIC, 8);
        if (r >= 0)
                r = buf_put(&b->frame, uuid, 16);
        if (r >= 0)
                r = put_string(&b->frame, signature);
        return r < 0 ? r : flush_frame(b);
}

int base_writer_new(int base_dirfd,
                    const char *service,
                    const char *backup_id,
                    const char *signature,
                    BaseWriter **ret,
                    Failure *reterr) {
        BaseWriter *b = calloc(1, sizeof(*b));
        int fd, r = -ENOMEM;

        if (!b)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "base state of service %s",
                                  service);
        b->dirfd = base_dirfd;
        b->frame = BUF_INIT(BASE_FRAME_MAX);
        b->encoded = BUF_INIT(BASE_FRAME_MAX);
        b->name = strdup(service);
        b->tmp = text_printf(".%s.new", service);
        if (b->name && b->tmp) {
                fd = openat(base_dirfd, b->tmp,
                            O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
                b->file = fd < 0 ? NULL : fdopen(fd, "w");
                r = b->file ? write_header(b, backup_id, signature) : -errno;
        }
        if (r < 0) {
                base_writer_free(b);
                return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "base state of service %s", service);
        }
        *ret = b;
        return 0;
}

/* Every frame begins with its directory. */
static int put_directory(BaseWriter *b, const char *dir) {
        int r;

        if (b->frame.size >= BASE_FRAME_SIZE) {
                r = flush_frame(b);
                if (r < 0)
                        return r;
        }
        if (b->frame.size > 0 && b->dir && strcmp(b->dir, dir) == 0)
                return 0;
        if (!b->dir || strcmp(b->dir, dir) != 0) {
                free(b->dir);
                b->dir = strdup(dir);
                if (!b->dir)
                        return -ENOMEM;
        }
        r = buf_put_u8(&b->frame, ITEM_DIRECTORY);
        return r < 0 ? r : put_string(&b->frame, dir);
}

int base_writer_add(BaseWriter *b, const Entry *entry, const EntryLocal *local, Failure *reterr) {
        int r = put_directory(b, entry->dir);

        buf_clear(&b->encoded);
        if (r >= 0)
                r = entry_encode(&b->encoded, entry);
        if (r >= 0)
                r = buf_put_u8(&b->frame, ITEM_ENTRY);
        if (r >= 0)
                r = put_local(&b->frame, local);
        if (r >= 0)
                r = buf_put_u32(&b->frame, (uint32_t) b->encoded.size);
        if (r >= 0)
                r = buf_put(&b->frame, b->encoded.data, b->encoded.size);
        if (r < 0)
                return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "base state of service %s", b->name);
        return 0;
}

int base_writer_commit(BaseWriter *b, Failure *reterr) {
        int r = b->frame.size > 0 ? flush_frame(b) : 0;

        if (r >= 0 && fclose(TAKE_PTR(b->file)) != 0)
                r = -errno;
        if (r >= 0 && renameat(b->dirfd, b->tmp, b->dirfd, b->name) < 0)
                r = -errno;
        if (r < 0)
                return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "base state of service %s", b->name);
        b->committed = true;
        return 0;
}

void base_writer_free(BaseWriter *b) {
        if (!b)
                return;
        if (b->file)
                (void) fclose(b->file); /* it is thrown away */
        if (!b->committed && b->tmp)
                (void) unlinkat(b->dirfd, b->tmp, 0);
        buf_done(&b->frame);
        buf_done(&b->encoded);
        free(b->name);
        free(b->tmp);
        free(b->dir);
        free(b);
}
