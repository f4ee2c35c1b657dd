#include "worker/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/text.h"

/* A record: sizes of place and entry, where the content is, its size; then both. */
#define HEADER_SIZE 24
#define PLACE_MAX   ((size_t) 256 + 65536 + 256) /* service, dir, name */
#define ENTRY_MAX   ((size_t) 2 << 20)
#define ALIGNMENT   UINT64_C(4096)
#define COPY_BYTES  ((size_t) 128 << 10)

typedef struct Record {
        uint64_t at;
        uint32_t n_place, n_entry;
        uint64_t base, size; /* of the content */
} Record;

struct Spool {
        int dirfd, index, content;
        uint64_t *records; /* where each begins in `index` */
        size_t n, allocated;
        uint64_t end;          /* of `index` */
        uint64_t base, end_of; /* content of the entry that was put last; where the next begins */
        Buf encoded;
        uint8_t *place[2], *entry, *copy;
        EntryXattr xattrs[ENTRY_XATTRS_MAX];
        int error; /* of a comparison */
};

static int failed(int r, Failure *reterr) {
        return fail_errno(reterr, fail_code_for_write(-r, FAIL_INTERNAL), -r,
                          "temporary files of an import");
}

static int open_unnamed(int dirfd) {
        int fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

        return fd < 0 ? -errno : fd;
}

int spool_new(int dirfd, Spool **ret, Failure *reterr) {
        _cleanup_(spool_freep) Spool *s = calloc(1, sizeof(*s));

        if (!s)
                return failed(-ENOMEM, reterr);
        s->dirfd = dirfd;
        s->index = open_unnamed(dirfd);
        s->content = open_unnamed(dirfd);
        s->encoded = BUF_INIT(ENTRY_MAX + PLACE_MAX + HEADER_SIZE);
        s->place[0] = malloc(PLACE_MAX);
        s->place[1] = malloc(PLACE_MAX);
        s->entry = malloc(ENTRY_MAX);
        s->copy = malloc(COPY_BYTES);
        if (s->index < 0 || s->content < 0)
                return failed(s->index < 0 ? s->index : s->content, reterr);
        if (!s->place[0] || !s->place[1] || !s->entry || !s->copy)
                return failed(-ENOMEM, reterr);
        *ret = TAKE_PTR(s);
        return 0;
}

void spool_free(Spool *s) {
        if (!s)
                return;
        fd_close(s->index);
        fd_close(s->content);
        free(s->records);
        buf_done(&s->encoded);
        free(s->place[0]);
        free(s->place[1]);
        free(s->entry);
        free(s->copy);
        free(s);
}

size_t spool_count(const Spool *s) {
        return s->n;
}

/* ---- in ---- */

static int add_record(Spool *s, Failure *reterr) {
        if (s->n == SPOOL_ENTRIES_MAX)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, E2BIG,
                                "the archive has more than %d entries; import it in parts",
                                SPOOL_ENTRIES_MAX);
        if (s->n == s->allocated) {
                size_t n = s->allocated * 2 + 1024;
                uint64_t *grown = realloc(s->records, n * sizeof(*grown));

                if (!grown)
                        return failed(-ENOMEM, reterr);
                s->records = grown;
                s->allocated = n;
        }
        s->records[s->n++] = s->end;
        return 0;
}

int spool_put(Spool *s, const Entry *entry, Failure *reterr) {
        const char *const place[] = { entry->service, entry->dir, entry->name };
        static const uint8_t empty[HEADER_SIZE];
        Entry plain = *entry;
        size_t n_place;
        int r = 0;

        plain.size = 0; /* there is no list of chunks yet */
        buf_clear(&s->encoded);
        r = buf_put(&s->encoded, empty, sizeof(empty));
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(place); i++)
                r = buf_put(&s->encoded, place[i], strlen(place[i]) + 1);
        n_place = s->encoded.size - HEADER_SIZE;
        if (r >= 0)
                r = n_place > PLACE_MAX ? -ENAMETOOLONG : entry_encode(&s->encoded, &plain);
        if (r < 0)
                return failed(r, reterr);
        s->base = s->end_of;
        if (entry->size > (uint64_t) INT64_MAX - ALIGNMENT - s->base)
                return failed(-EFBIG, reterr);
        s->end_of = (s->base + entry->size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        put_le32(s->encoded.data, (uint32_t) n_place);
        put_le32(s->encoded.data + 4, (uint32_t) (s->encoded.size - HEADER_SIZE - n_place));
        put_le64(s->encoded.data + 8, s->base);
        put_le64(s->encoded.data + 16, entry->size);
        r = add_record(s, reterr);
        if (r < 0)
                return r;
        r = fd_pwrite_full(s->index, s->encoded.data, s->encoded.size, s->end);
        s->end += s->encoded.size;
        return r < 0 ? failed(r, reterr) : 0;
}

int spool_write(Spool *s, uint64_t offset, const void *data, size_t n, Failure *reterr) {
        int r = fd_pwrite_full(s->content, data, n, s->base + offset);

        return r < 0 ? failed(r, reterr) : 0;
}

/* ---- out ---- */

static int read_exactly(int fd, void *data, size_t n, uint64_t at) {
        ssize_t r = fd_pread_full(fd, data, n, at);

        return r < 0 ? (int) r : (size_t) r == n ? 0 : -EIO;
}

static int read_record(Spool *s, uint64_t at, Record *ret) {
        uint8_t header[HEADER_SIZE];
        int r = read_exactly(s->index, header, sizeof(header), at);

        *ret = (Record){ .at = at + HEADER_SIZE,
                         .n_place = get_le32(header),
                         .n_entry = get_le32(header + 4),
                         .base = get_le64(header + 8),
                         .size = get_le64(header + 16) };
        return r < 0 ? r : ret->n_place > PLACE_MAX || ret->n_entry > ENTRY_MAX ? -EIO : 0;
}

static int read_place(Spool *s, const Record *record, uint8_t *buffer, Entry *ret) {
        int r = read_exactly(s->index, buffer, record->n_place, record->at);

        if (r < 0)
                return r;
        ret->service = (const char *) buffer;
        ret->dir = ret->service + strlen(ret->service) + 1;
        ret->name = ret->dir + strlen(ret->dir) + 1;
        return 0;
}

static int compare_places(const Entry *a, const Entry *b) {
        int r = strcmp(a->service, b->service);

        if (r == 0)
                r = text_path_compare(a->dir, b->dir);
        return r != 0 ? r : strcmp(a->name, b->name);
}

static int compare_records(const void *a, const void *b, void *userdata) {
        Spool *s = userdata;
        Record x, y;
        Entry p, q;
        int r = s->error;

        if (r >= 0)
                r = read_record(s, *(const uint64_t *) a, &x);
        if (r >= 0)
                r = read_record(s, *(const uint64_t *) b, &y);
        if (r >= 0)
                r = read_place(s, &x, s->place[0], &p);
        if (r >= 0)
                r = read_place(s, &y, s->place[1], &q);
        if (r >= 0)
                return compare_places(&p, &q);
        s->error = r;
        return 0;
}

int spool_sort(Spool *s, Failure *reterr) {
        if (s->n > 1)
                qsort_r(s->records, s->n, sizeof(*s->records), compare_records, s);
        for (size_t i = 1; s->error >= 0 && i < s->n; i++) {
                _cleanup_free_ char *text = NULL;

                if (compare_records(&s->records[i - 1], &s->records[i], s) != 0 || s->error < 0)
                        continue;
                text = text_escape((const char *) s->place[0] + strlen((const char *) s->place[0]) +
                                   1);
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EEXIST,
                                "the archive has one path twice, in %s", text ? text : "");
        }
        return s->error < 0 ? failed(s->error, reterr) : 0;
}

int spool_get(Spool *s, size_t i, Entry *ret, Failure *reterr) {
        Entry place;
        Record record;
        Reader from;
        int r = read_record(s, s->records[i], &record);

        if (r >= 0)
                r = read_place(s, &record, s->place[0], &place);
        if (r >= 0)
                r = read_exactly(s->index, s->entry, record.n_entry, record.at + record.n_place);
        if (r < 0)
                return failed(r, reterr);
        from = READER_INIT(s->entry, record.n_entry);
        r = entry_decode(&from, ret, s->xattrs);
        if (r < 0)
                return failed(r, reterr);
        ret->service = place.service;
        ret->dir = place.dir;
        ret->name = place.name;
        ret->size = record.size;
        return 0;
}

int spool_find(Spool *s,
               const char *service,
               const char *dir,
               const char *name,
               size_t *ret,
               Failure *reterr) {
        const Entry wanted = { .service = service, .dir = dir, .name = name };
        size_t low = 0, high = s->n;

        while (low < high) {
                size_t middle = low + (high - low) / 2;
                Record record;
                Entry place;
                int r = read_record(s, s->records[middle], &record);

                if (r >= 0)
                        r = read_place(s, &record, s->place[1], &place);
                if (r < 0)
                        return failed(r, reterr);
                r = compare_places(&place, &wanted);
                if (r == 0) {
                        *ret = middle;
                        return 1;
                }
                if (r < 0)
                        low = middle + 1;
                else
                        high = middle;
        }
        return 0;
}

int spool_type(Spool *s, size_t i, EntryType *ret, Failure *reterr) {
        Record record;
        uint8_t type = 0;
        int r = read_record(s, s->records[i], &record);

        if (r >= 0) /* the first byte of an encoded entry */
                r = read_exactly(s->index, &type, 1, record.at + record.n_place);
        if (r < 0)
                return failed(r, reterr);
        *ret = (EntryType) type;
        return 0;
}

/* Copies what is data of `size` bytes at `base` to the beginning of `fd`. */
static int copy_content(Spool *s, int fd, uint64_t base, uint64_t size) {
        uint64_t at = base, end = base + size;

        while (at < end) {
                off_t data = lseek(s->content, (off_t) at, SEEK_DATA);
                off_t hole;
                int r;

                if (data < 0)
                        return errno == ENXIO ? 0 : -errno;
                if ((uint64_t) data >= end)
                        return 0;
                hole = lseek(s->content, data, SEEK_HOLE);
                if (hole < 0)
                        return -errno;
                for (at = (uint64_t) data; at < end && at < (uint64_t) hole;) {
                        uint64_t left = ((uint64_t) hole < end ? (uint64_t) hole : end) - at;
                        size_t n = left < COPY_BYTES ? (size_t) left : COPY_BYTES;

                        r = read_exactly(s->content, s->copy, n, at);
                        if (r >= 0)
                                r = fd_pwrite_full(fd, s->copy, n, at - base);
                        if (r < 0)
                                return r;
                        at += n;
                }
        }
        return 0;
}

int spool_open_content(Spool *s, size_t i, int *ret_fd, Failure *reterr) {
        _cleanup_close_ int fd = open_unnamed(s->dirfd);
        Record record;
        int r = fd < 0 ? fd : read_record(s, s->records[i], &record);

        /* What the archive did not write, the spool's file may not have either. */
        if (r >= 0 && (ftruncate(s->content, (off_t) s->end_of) < 0 ||
                       ftruncate(fd, (off_t) record.size) < 0))
                r = -errno;
        if (r >= 0)
                r = copy_content(s, fd, record.base, record.size);
        if (r < 0)
                return failed(r, reterr);
        *ret_fd = TAKE_FD(fd);
        return 0;
}
