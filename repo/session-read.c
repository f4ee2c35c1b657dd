/*
 * The reading end of the pipeline. A byte is copied once, from the page cache into the buffer in
 * which it will be hashed and compressed. Holes are marks between units, so that a list of chunks
 * comes out of the pipeline in the order of the file.
 *
 * The source may be live: it may shrink, grow or fail at any moment. What was handed over for a
 * file that turns out not to be recorded is garbage in a pack, which is harmless.
 */

#include <errno.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "repo/chunk.h"
#include "repo/session.h"

#define SESSION_TELL_BYTES (UINT64_C(1) << 20)

/* One file on its way into buffers. */
typedef struct FileReader {
        RepoSession *s;
        Pending *p;
        int fd;
        bool stable;
        uint32_t unit;
        uint64_t offset;
        PipeBuffer *buffer; /* of this file; NULL: none is open */
} FileReader;

void session_count(RepoSession *s, uint64_t bytes) {
        s->handled += bytes;
        if (!s->params.on_bytes || s->handled - s->told < SESSION_TELL_BYTES)
                return;
        s->told = s->handled;
        s->params.on_bytes(s->params.userdata, s->handled);
}

static int session_interrupted(RepoSession *s, Failure *reterr) {
        if (!repo_is_interrupted(s->repo))
                return 0;
        return fail_set(reterr, FAIL_CANCELED, ECANCELED, "Canceled");
}

int session_flush_bundle(RepoSession *s, Failure *reterr) {
        PipeBuffer *b = TAKE_PTR(s->bundle);

        return b ? pipeline_submit(s->pipeline, b, reterr) : 0;
}

/* What an id takes until its entry is recorded, from the worker to the encoded list. */
#define UNIT_COST ((size_t) 3 * ID_SIZE)

static void
session_add_unit(RepoSession *s, PipeBuffer *b, Pending *p, uint32_t offset, uint32_t size) {
        b->units[b->n_units++] = (PipeUnit){ .offset = offset, .size = size, .owner = p };
        p->in_flight++;
        p->cost += UNIT_COST;
        s->pending_cost += UNIT_COST;
}

static void session_add_mark(PipeBuffer *b, Pending *p, unsigned kind, uint64_t n) {
        b->units[b->n_units++] = (PipeUnit){ .owner = p, .mark = kind, .count = n };
        p->in_flight++;
}

static int session_source_failed(const Pending *p, int error, Failure *reterr) {
        (void) fail_errno(reterr, FAIL_SOURCE_MISSING, -error, "%s/%s cannot be read", p->entry.dir,
                          p->entry.name);
        return REPO_E_SOURCE;
}

static int session_source_changed(const Pending *p, Failure *reterr) {
        (void) fail_set(reterr, FAIL_SOURCE_MISSING, ESTALE, "%s/%s changed while it was read",
                        p->entry.dir, p->entry.name);
        return REPO_E_CHANGED;
}

/* After the reading: is the file still the one that `local` describes? */
static int session_check_stable(const Pending *p, int fd, Failure *reterr) {
        const EntryLocal *l = &p->local;
        struct stat st;

        if (fstat(fd, &st) < 0)
                return session_source_failed(p, -errno, reterr);
        if ((uint64_t) st.st_ino != l->ino || (uint64_t) st.st_size != l->size ||
            st.st_mtim.tv_sec != l->mtime_sec || (uint32_t) st.st_mtim.tv_nsec != l->mtime_nsec ||
            st.st_ctim.tv_sec != l->ctime_sec || (uint32_t) st.st_ctim.tv_nsec != l->ctime_nsec)
                return session_source_changed(p, reterr);
        return 0;
}

/* The file ended early: that is its size now, or it changed. */
static int session_cut_short(Pending *p, uint64_t size, bool stable, Failure *reterr) {
        if (stable)
                return session_source_changed(p, reterr);
        p->entry.size = size;
        if (size == 0)
                p->entry.class = ENTRY_CLASS_NONE;
        return 0;
}

static int session_read_small(FileReader *f, Failure *reterr) {
        RepoSession *s = f->s;
        Pending *p = f->p;
        PipeBuffer *b;
        ssize_t n;
        int r;

        if (!s->bundle) {
                r = pipeline_take(s->pipeline, &s->bundle, reterr);
                if (r < 0)
                        return r;
                s->bundle->class = ENTRY_CLASS_SMALL;
        }
        b = s->bundle;
        n = fd_pread_full(f->fd, b->data + b->size, (size_t) p->entry.size, 0);
        if (n < 0)
                return session_source_failed(p, (int) n, reterr);
        if ((uint64_t) n < p->entry.size) {
                r = session_cut_short(p, (uint64_t) n, f->stable, reterr);
                if (r != 0 || n == 0)
                        return r;
        }
        if (f->stable) { /* before it is in the bundle, so that nothing has to be undone */
                r = session_check_stable(p, f->fd, reterr);
                if (r != 0)
                        return r;
        }

        if (chunk_is_zero(b->data + b->size, (size_t) n))
                session_add_mark(b, p, RUN_ZERO, 1);
        else {
                session_add_unit(s, b, p, (uint32_t) b->size, (uint32_t) n);
                b->size += (size_t) n;
        }
        s->totals.read_bytes += (uint64_t) n;
        session_count(s, (uint64_t) n);
        if (b->size >= BUNDLE_TARGET || b->n_units == PIPE_UNITS_MAX)
                return session_flush_bundle(s, reterr);
        return 0;
}

static int session_submit(FileReader *f, Failure *reterr) {
        PipeBuffer *b = TAKE_PTR(f->buffer);

        return b ? pipeline_submit(f->s->pipeline, b, reterr) : 0;
}

/* A buffer with room for one more unit of data. */
static int session_buffer(FileReader *f, Failure *reterr) {
        PipeBuffer *b = f->buffer;
        int r;

        if (b && b->size + f->unit <= PIPE_BUFFER_BYTES && b->n_units < PIPE_UNITS_MAX)
                return 0;
        r = session_submit(f, reterr);
        if (r < 0)
                return r;
        r = session_interrupted(f->s, reterr);
        if (r < 0)
                return r;
        r = pipeline_take(f->s->pipeline, &f->buffer, reterr);
        if (r == 0)
                f->buffer->class = f->p->entry.class;
        return r;
}

static int session_skip_hole(FileReader *f, uint64_t bytes, Failure *reterr) {
        int r;

        r = session_buffer(f, reterr);
        if (r < 0)
                return r;
        session_add_mark(f->buffer, f->p, RUN_HOLE, (bytes + f->unit - 1) / f->unit);
        f->offset += bytes;
        session_count(f->s, bytes);
        return 0;
}

/* Names the units of `n` bytes that were just read; zero ones cost no room. */
static void session_cut_units(FileReader *f, size_t n) {
        PipeBuffer *b = f->buffer;

        for (size_t at = 0, base = b->size; at < n; at += f->unit) {
                size_t size = n - at < f->unit ? n - at : f->unit;

                if (chunk_is_zero(b->data + base + at, size)) {
                        session_add_mark(b, f->p, RUN_ZERO, 1);
                        continue;
                }
                session_add_unit(f->s, b, f->p, (uint32_t) (base + at), (uint32_t) size);
                b->size = base + at + size;
        }
}

/* Reads up to `bytes`, as much as one buffer takes. *ret_ended: the file was shorter. */
static int session_read_data(FileReader *f, uint64_t bytes, bool *ret_ended, Failure *reterr) {
        size_t room;
        ssize_t n;
        int r;

        r = session_buffer(f, reterr);
        if (r < 0)
                return r;
        room = PIPE_BUFFER_BYTES - f->buffer->size;
        room -= room % f->unit;
        if (room / f->unit > PIPE_UNITS_MAX - f->buffer->n_units)
                room = (PIPE_UNITS_MAX - f->buffer->n_units) * f->unit;
        if (bytes < room)
                room = (size_t) bytes;

        n = fd_pread_full(f->fd, f->buffer->data + f->buffer->size, room, f->offset);
        if (n < 0)
                return session_source_failed(f->p, (int) n, reterr);
        session_cut_units(f, (size_t) n);
        f->offset += (uint64_t) n;
        f->s->totals.read_bytes += (uint64_t) n;
        session_count(f->s, (uint64_t) n);
        *ret_ended = (size_t) n < room;
        return 0;
}

static int session_read_units(FileReader *f, Failure *reterr) {
        ChunkScan scan = { .fd = f->fd, .unit = f->unit, .size = f->p->entry.size };

        while (f->offset < scan.size) {
                uint64_t bytes;
                bool hole, ended = false;
                int r;

                r = chunk_scan_next(&scan, f->offset, &hole, &bytes);
                if (r < 0)
                        return session_source_failed(f->p, r, reterr);
                if (hole) {
                        r = session_skip_hole(f, bytes, reterr);
                        if (r < 0)
                                return r;
                        continue;
                }
                for (uint64_t end = f->offset + bytes; f->offset < end;) {
                        r = session_read_data(f, end - f->offset, &ended, reterr);
                        if (r != 0)
                                return r;
                        if (ended)
                                return session_cut_short(f->p, f->offset, f->stable, reterr);
                }
        }
        return f->stable ? session_check_stable(f->p, f->fd, reterr) : 0;
}

/* What has not been handed over of a file that shall not be recorded goes back unused. */
static void session_discard(FileReader *f) {
        if (!f->buffer)
                return;
        f->p->in_flight -= (unsigned) f->buffer->n_units;
        f->buffer->n_units = 0;
        f->buffer->size = 0;
}

int session_read_file(RepoSession *s, Pending *p, int fd, bool stable, Failure *reterr) {
        FileReader f = { .s = s, .p = p, .fd = fd, .stable = stable };
        int outcome, r;

        r = session_interrupted(s, reterr);
        if (r < 0)
                return r;
        p->entry.class = chunk_class(p->entry.class, p->entry.size);
        f.unit = chunk_unit(p->entry.class);
        if (p->entry.class == ENTRY_CLASS_SMALL)
                return session_read_small(&f, reterr);

        outcome = session_read_units(&f, reterr);
        if (outcome != 0)
                session_discard(&f);
        r = session_submit(&f, outcome < 0 ? NULL : reterr);
        return outcome != 0 ? outcome : r;
}
