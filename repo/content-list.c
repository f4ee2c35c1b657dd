/*
 * The writer holds one open run back until its neighbour is known, and at most one LIST record's
 * worth of closed runs: a file of any size costs this much memory plus 32 bytes per LIST record.
 * The form depends on the content alone, never on how it arrived.
 */

#include <errno.h>

#include "repo/chunk.h"
#include "repo/content.h"
#include "repo/varint.h"

#define VARINT_MAX 10
/* Ids of LIST records in one entry: leaves room for the rest of the entry. */
#define CONTENT_LISTS_MAX ((size_t) ENTRY_ENCODED_MAX / 2)

void content_writer_done(ContentWriter *w) {
        buf_done(&w->runs);
        buf_done(&w->ids);
        buf_done(&w->lists);
}

/* Puts the open run behind the closed ones. */
static int content_close_run(ContentWriter *w) {
        int r;

        if (w->n == 0)
                return 0;
        r = varint_put(&w->runs, w->n << 2 | w->kind);
        if (r == 0 && w->kind == RUN_DATA)
                r = buf_put(&w->runs, w->ids.data, w->ids.size);
        w->n = 0;
        buf_clear(&w->ids);
        return r;
}

static int content_flush_list(ContentWriter *w, MetaSink *m, Failure *reterr) {
        uint8_t id[ID_SIZE];
        int r;

        r = content_close_run(w);
        if (r < 0 || w->runs.size == 0)
                return r;
        if (w->lists.size + ID_SIZE > CONTENT_LISTS_MAX)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EFBIG, "File is too large");
        r = meta_put(m, CLASS_LIST, w->runs.data, w->runs.size, id, reterr);
        if (r < 0)
                return r;
        buf_clear(&w->runs);
        return buf_put(&w->lists, id, ID_SIZE);
}

int content_add_data(ContentWriter *w, MetaSink *m, const uint8_t id[ID_SIZE], Failure *reterr) {
        int r = 0;

        if (w->n > 0 && w->kind != RUN_DATA)
                r = content_close_run(w);
        if (r == 0 && w->runs.size + w->ids.size + ID_SIZE + VARINT_MAX > LIST_MAX)
                r = content_flush_list(w, m, reterr);
        if (r == 0)
                r = buf_put(&w->ids, id, ID_SIZE);
        if (r < 0)
                return r;
        w->kind = RUN_DATA;
        w->n++;
        return 0;
}

int content_add_run(ContentWriter *w, MetaSink *m, unsigned kind, uint64_t n, Failure *reterr) {
        int r = 0;

        if (n == 0)
                return 0;
        if (w->n > 0 && w->kind != kind)
                r = content_close_run(w);
        if (r == 0 && w->runs.size + VARINT_MAX > LIST_MAX)
                r = content_flush_list(w, m, reterr);
        if (r < 0)
                return r;
        w->kind = kind;
        w->n += n;
        return 0;
}

int content_finish(ContentWriter *w, MetaSink *m, Buf *ret, Failure *reterr) {
        bool direct;
        int r;

        r = content_close_run(w);
        if (r < 0)
                return r;
        direct = w->lists.size == 0 && 1 + w->runs.size <= CONTENT_INLINE_MAX;
        if (!direct) {
                r = content_flush_list(w, m, reterr);
                if (r < 0)
                        return r;
        }
        r = buf_put_u8(ret, direct ? CONTENT_DIRECT : CONTENT_INDIRECT);
        if (r < 0)
                return r;
        return direct ? buf_put(ret, w->runs.data, w->runs.size)
                      : buf_put(ret, w->lists.data, w->lists.size);
}

static int content_bad(Failure *reterr) {
        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG, "The list of chunks is malformed");
}

int content_reader_open(ContentReader *c, Repo *repo, const Entry *entry, Failure *reterr) {
        uint32_t unit = chunk_unit(entry->class);

        if (unit == 0 || entry->size == 0 || entry->size > INT64_MAX || entry->content_size < 1 ||
            (entry->class == ENTRY_CLASS_SMALL && entry->size > unit))
                return content_bad(reterr);
        c->repo = repo;
        c->left = (entry->size + unit - 1) / unit;
        c->runs = READER_INIT(entry->content, 0);
        c->lists = c->runs;
        c->list = BUF_INIT(RECORD_PLAIN_MAX);
        if (entry->content[0] == CONTENT_DIRECT)
                c->runs = READER_INIT(entry->content + 1, entry->content_size - 1);
        else if (entry->content[0] == CONTENT_INDIRECT && (entry->content_size - 1) % ID_SIZE == 0)
                c->lists = READER_INIT(entry->content + 1, entry->content_size - 1);
        else
                return content_bad(reterr);
        return 0;
}

void content_reader_done(ContentReader *c) {
        buf_done(&c->list);
}

/* Opens the next LIST record, if there is one. 1, 0, negative errno. */
static int content_next_list(ContentReader *c, Failure *reterr) {
        const uint8_t *id;
        int r = 0;

        if (reader_left(&c->lists) == 0)
                return 0;
        id = reader_bytes(&c->lists, ID_SIZE);
        if (c->on_list)
                r = c->on_list(c->userdata, id, reterr);
        if (r == 0)
                r = meta_load(c->repo, CLASS_LIST, id, &c->list, reterr);
        if (r < 0)
                return r;
        if (c->list.size == 0 || c->list.size > LIST_MAX)
                return content_bad(reterr);
        c->runs = READER_INIT(c->list.data, c->list.size);
        return 1;
}

int content_reader_next(ContentReader *c, ContentRun *ret, Failure *reterr) {
        ContentRun run = { 0 };
        uint64_t v;
        int r;

        if (reader_left(&c->runs) == 0) {
                r = content_next_list(c, reterr);
                if (r < 0)
                        return r;
                if (r == 0) /* the end: all units must have been there */
                        return c->left == 0 ? 0 : content_bad(reterr);
        }
        v = varint_get(&c->runs);
        run.kind = (unsigned) (v & 3);
        run.n = v >> 2;
        if (c->runs.failed || run.kind > RUN_ZERO || run.n == 0 || run.n > c->left)
                return content_bad(reterr);
        if (run.kind == RUN_DATA) {
                if (run.n > reader_left(&c->runs) / ID_SIZE)
                        return content_bad(reterr);
                run.ids = reader_bytes(&c->runs, (size_t) run.n * ID_SIZE);
        }
        c->left -= run.n;
        *ret = run;
        return 1;
}

bool content_is_valid(const Entry *entry) {
        ContentReader c = CONTENT_READER_INIT;
        ContentRun run;
        int r;

        if (content_reader_open(&c, NULL, entry, NULL) < 0)
                return false;
        if (reader_left(&c.lists) > 0)
                return true;
        do
                r = content_reader_next(&c, &run, NULL);
        while (r > 0);
        content_reader_done(&c);
        return r == 0;
}
