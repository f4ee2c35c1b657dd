/*
 * A chunk is stored by whoever claims its id first. Claims bridge the time from the look-up, which
 * found nothing, until pack_done(), from where on the index knows the id; both happen under the
 * same mutex, so equal content in one run is stored once however the threads are timed.
 */

#include "repo/ingest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CLAIM_BUCKETS 4096 /* a power of two */
#define CLAIMS_MAX    ((PIPE_BUFFERS + PIPE_OUTPUTS_MAX) * PIPE_UNITS_MAX)
#define CLAIM_NONE    UINT32_MAX

/* The ids that are on their way into a pack: chains in a fixed pool. */
typedef struct Claim {
        uint8_t id[ID_SIZE];
        uint32_t next;
} Claim;

/* What belongs to one worker thread. */
typedef struct IngestThread {
        Crypto *crypto;
        Compressor *compressor;
        uint8_t *compressed; /* PIPE_BUFFER_BYTES */
        PackMember *members; /* PIPE_UNITS_MAX */
        uint8_t *member_ids;
} IngestThread;

/* What the writer must know of an output: its place, and the ids it answers for. */
typedef struct IngestNote {
        PackSlot slot;
        uint32_t n_ids;
        uint8_t (*ids)[ID_SIZE]; /* PIPE_UNITS_MAX */
} IngestNote;

struct Ingest {
        Repo *repo;
        PackWriter *content;
        Pipeline *pipeline;
        unsigned level;
        IngestThread threads[PIPE_THREADS_MAX];
        IngestNote notes[PIPE_OUTPUTS_MAX];
        uint32_t buckets[CLAIM_BUCKETS], free_claim;
        Claim *claims; /* CLAIMS_MAX */
};

/* Ids are uniform, any bits of them will do. */
static uint32_t *claim_bucket(Ingest *in, const uint8_t id[ID_SIZE]) {
        return &in->buckets[get_le32(id) & (CLAIM_BUCKETS - 1)];
}

/* 1 if `id` was not claimed and is now, 0 if it was. */
static int claim_take(Ingest *in, const uint8_t id[ID_SIZE]) {
        uint32_t *bucket = claim_bucket(in, id), n;

        for (n = *bucket; n != CLAIM_NONE; n = in->claims[n].next)
                if (memcmp(in->claims[n].id, id, ID_SIZE) == 0)
                        return 0;
        n = in->free_claim;
        if (n == CLAIM_NONE)
                return -ENOBUFS;
        in->free_claim = in->claims[n].next;
        memcpy(in->claims[n].id, id, ID_SIZE);
        in->claims[n].next = *bucket;
        *bucket = n;
        return 1;
}

static void claim_release(Ingest *in, const uint8_t id[ID_SIZE]) {
        for (uint32_t *at = claim_bucket(in, id); *at != CLAIM_NONE; at = &in->claims[*at].next) {
                uint32_t n = *at;

                if (memcmp(in->claims[n].id, id, ID_SIZE) != 0)
                        continue;
                *at = in->claims[n].next;
                in->claims[n].next = in->free_claim;
                in->free_claim = n;
                return;
        }
}

int ingest_new(Repo *repo, PackWriter *content, unsigned level, Ingest **ret) {
        _cleanup_(ingest_freep) Ingest *in = calloc(1, sizeof(*in));

        if (!in)
                return -ENOMEM;
        in->repo = repo;
        in->content = content;
        in->level = level;
        for (size_t i = 0; i < CLAIM_BUCKETS; i++)
                in->buckets[i] = CLAIM_NONE;
        *ret = TAKE_PTR(in);
        return 0;
}

void ingest_attach(Ingest *in, Pipeline *pipeline) {
        in->pipeline = pipeline;
}

void ingest_free(Ingest *in) {
        if (!in)
                return;
        for (unsigned i = 0; i < PIPE_THREADS_MAX; i++) {
                IngestThread *t = &in->threads[i];

                crypto_freep(&t->crypto);
                compress_freep(&t->compressor);
                free(t->compressed);
                free(t->members);
                free(t->member_ids);
        }
        for (unsigned i = 0; i < PIPE_OUTPUTS_MAX; i++)
                free(in->notes[i].ids);
        free(in->claims);
        free(in);
}

/* Contexts cost memory: each thread makes its own with its first buffer. */
static int ingest_thread(Ingest *in, unsigned number, IngestThread **ret) {
        IngestThread *t = &in->threads[number];
        int r;

        if (!t->crypto) {
                r = crypto_new(&in->repo->keys, &t->crypto);
                if (r < 0)
                        return r;
        }
        if (!t->compressor) {
                r = compress_new(in->level, &t->compressor);
                if (r < 0)
                        return r;
        }
        if (!t->compressed)
                t->compressed = malloc(PIPE_BUFFER_BYTES);
        if (!t->members)
                t->members = calloc(PIPE_UNITS_MAX, sizeof(*t->members));
        if (!t->member_ids)
                t->member_ids = malloc((size_t) PIPE_UNITS_MAX * ID_SIZE);
        if (!t->compressed || !t->members || !t->member_ids)
                return -ENOMEM;
        *ret = t;
        return 0;
}

/* Under the mutex: the pool of claims, made with the first. */
static int ingest_claims_ready(Ingest *in) {
        if (in->claims)
                return 0;
        in->claims = malloc(CLAIMS_MAX * sizeof(*in->claims));
        if (!in->claims)
                return -ENOMEM;
        for (uint32_t i = 0; i < CLAIMS_MAX; i++)
                in->claims[i].next = i + 1 < CLAIMS_MAX ? i + 1 : CLAIM_NONE;
        in->free_claim = 0;
        return 0;
}

/* Finds out which units are new, and claims them: their numbers go to `fresh`. */
static int
ingest_claim(Ingest *in, PipeBuffer *b, uint16_t *fresh, size_t *ret_n, Failure *reterr) {
        size_t n = 0;
        int r;

        pipeline_lock(in->pipeline);
        r = ingest_claims_ready(in);
        for (size_t i = 0; r >= 0 && i < b->n_units; i++) {
                IndexPlace place;

                if (b->units[i].size == 0)
                        continue;
                r = index_find_sound(in->repo->index, b->units[i].id, &place, reterr);
                if (r == 0)
                        r = claim_take(in, b->units[i].id);
                else if (r > 0)
                        continue;
                if (r > 0)
                        fresh[n++] = (uint16_t) i;
        }
        pipeline_unlock(in->pipeline);
        *ret_n = n;
        return r < 0 ? r : 0;
}

/* Compresses, finds a place, seals, and hands over to the writer. `ids` become its to release. */
static int ingest_store(Ingest *in,
                        IngestThread *t,
                        PackRecord *record,
                        const uint8_t *ids,
                        uint32_t n_ids,
                        Failure *reterr) {
        IngestNote *note;
        PipeOutput *out;
        size_t size;
        int r;

        r = compress_run(t->compressor, record->data, record->plain, t->compressed, &size);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "Content cannot be compressed");
        record->compressed = r > 0;
        record->size = r > 0 ? (uint32_t) size : record->plain;
        if (r > 0)
                record->data = t->compressed;

        r = pipeline_output_take(in->pipeline, &out);
        if (r < 0)
                return r;
        note = &in->notes[out->number];
        if (!note->ids)
                note->ids = malloc((size_t) PIPE_UNITS_MAX * ID_SIZE);
        r = note->ids ? 0 : -ENOMEM;
        if (r == 0) {
                memcpy(note->ids, ids, (size_t) n_ids * ID_SIZE);
                note->n_ids = n_ids;
                pipeline_lock(in->pipeline);
                r = pack_reserve(in->content, record, &note->slot, reterr);
                pipeline_unlock(in->pipeline);
        }
        if (r == 0 && note->slot.stored > PIPE_BUFFER_BYTES + PIPE_OUTPUT_EXTRA)
                r = -EMSGSIZE;
        if (r == 0)
                r = pack_seal(&note->slot, t->crypto, record, out->data);
        if (r < 0) {
                pipeline_output_drop(in->pipeline, out);
                return fail_errno(reterr, FAIL_INTERNAL, -r, "Content cannot be sealed");
        }
        out->size = note->slot.stored;
        pipeline_output_put(in->pipeline, out);
        return 0;
}

static int ingest_chunks(Ingest *in,
                         IngestThread *t,
                         PipeBuffer *b,
                         const uint16_t *fresh,
                         size_t n,
                         Failure *reterr) {
        for (size_t i = 0; i < n; i++) {
                const PipeUnit *u = &b->units[fresh[i]];
                PackRecord record = { .class = (uint8_t) b->class, .plain = u->size };
                int r;

                memcpy(record.id, u->id, ID_SIZE);
                record.data = b->data + u->offset;
                r = ingest_store(in, t, &record, u->id, 1, reterr);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* The new members move together to the front of the buffer, which nobody needs any more. */
static int ingest_bundle(Ingest *in,
                         IngestThread *t,
                         PipeBuffer *b,
                         const uint16_t *fresh,
                         size_t n,
                         Failure *reterr) {
        PackRecord record = {
                .class = CLASS_BUNDLE,
                .data = b->data,
                .members = t->members,
                .n_members = (uint32_t) n,
        };
        int r;

        for (size_t i = 0; i < n; i++) {
                const PipeUnit *u = &b->units[fresh[i]];

                memmove(b->data + record.plain, b->data + u->offset, u->size);
                t->members[i] = (PackMember){ .offset = record.plain, .size = u->size };
                memcpy(t->members[i].id, u->id, ID_SIZE);
                memcpy(t->member_ids + i * ID_SIZE, u->id, ID_SIZE);
                record.plain += u->size;
        }
        r = crypto_id(t->crypto, CLASS_BUNDLE, t->member_ids, n * ID_SIZE, record.id);
        if (r < 0)
                return r;
        return ingest_store(in, t, &record, t->member_ids, (uint32_t) n, reterr);
}

int ingest_work(Ingest *in, unsigned thread, PipeBuffer *b, Failure *reterr) {
        uint16_t fresh[PIPE_UNITS_MAX];
        IngestThread *t;
        size_t n;
        int r;

        r = ingest_thread(in, thread, &t);
        if (r < 0)
                return r;
        for (size_t i = 0; i < b->n_units; i++) {
                PipeUnit *u = &b->units[i];

                if (u->size == 0)
                        continue;
                r = crypto_id(t->crypto, (uint8_t) b->class, b->data + u->offset, u->size, u->id);
                if (r < 0)
                        return r;
        }
        r = ingest_claim(in, b, fresh, &n, reterr);
        if (r < 0 || n == 0)
                return r;
        if (b->class == ENTRY_CLASS_SMALL)
                return ingest_bundle(in, t, b, fresh, n, reterr);
        return ingest_chunks(in, t, b, fresh, n, reterr);
}

int ingest_write(Ingest *in, PipeOutput *out, Failure *reterr) {
        IngestNote *note = &in->notes[out->number];
        int r;

        r = pack_write(&note->slot, out->data, reterr);
        if (r < 0)
                return r;
        pipeline_lock(in->pipeline);
        r = pack_done(in->content, &note->slot, reterr);
        for (uint32_t i = 0; r >= 0 && i < note->n_ids; i++)
                claim_release(in, note->ids[i]);
        pipeline_unlock(in->pipeline);
        return r;
}
