#pragma once

/*
 * Chunk lists: what an entry's content looks like in a manifest (docs/REPO-FORMAT.md, "Chunks"),
 * and the metadata records that lists and manifests are made of.
 */

#include "repo/repo-internal.h"

typedef struct Pipeline Pipeline;

/* ---- meta.c: writing metadata records ---- */

/* Where metadata goes. Everything is borrowed but the two buffers. */
typedef struct MetaSink {
        Repo *repo;
        PackWriter *writer;
        Compressor *compressor;
        Pipeline *pipeline; /* its mutex guards index and packs; NULL without threads */
        Buf compressed, scratch;
} MetaSink;

/* Stores a record of `class` unless the repository has it already; its id goes to `ret_id`. */
int meta_put(MetaSink *m,
             uint8_t class,
             const void *data,
             size_t n,
             uint8_t ret_id[ID_SIZE],
             Failure *reterr);
void meta_done(MetaSink *m);

/* Reads a record of one of the metadata classes into `ret`, checked against its id. */
int meta_load(Repo *repo, uint8_t class, const uint8_t id[ID_SIZE], Buf *ret, Failure *reterr);

/* ---- content-list.c: writing a chunk list ---- */

/* Runs come in the order of the file; equal neighbours are joined, so that a list has one form. */
typedef struct ContentWriter {
        Buf runs;      /* complete runs of the current LIST record */
        Buf ids;       /* of the open run, if it is DATA */
        unsigned kind; /* of the open run */
        uint64_t n;    /* its units; 0: none is open */
        Buf lists;     /* ids of the LIST records written so far */
} ContentWriter;

void content_writer_done(ContentWriter *w);

/* Adds one unit of data, or `n` units of RUN_HOLE or RUN_ZERO. */
int content_add_data(ContentWriter *w, MetaSink *m, const uint8_t id[ID_SIZE], Failure *reterr);
int content_add_run(ContentWriter *w, MetaSink *m, unsigned kind, uint64_t n, Failure *reterr);

/* Appends the encoded list to `ret`. Nothing may be added afterwards. */
int content_finish(ContentWriter *w, MetaSink *m, Buf *ret, Failure *reterr);

/* ---- content-list.c: reading one ---- */

typedef struct ContentRun {
        unsigned kind;
        uint64_t n;
        const uint8_t *ids; /* DATA: n ids, borrowed until the next call */
} ContentRun;

typedef struct ContentReader {
        Repo *repo;
        Reader runs, lists;
        uint64_t left; /* units that are still to come */
        Buf list;
        /* Called for each LIST record before it is read; may be NULL. */
        int (*on_list)(void *userdata, const uint8_t id[ID_SIZE], Failure *reterr);
        void *userdata;
} ContentReader;

#define CONTENT_READER_INIT ((ContentReader){ .left = 0 })

/* `entry` is borrowed, and has content. FAIL_INTEGRITY_FAILURE for what is no list. */
int content_reader_open(ContentReader *c, Repo *repo, const Entry *entry, Failure *reterr);
void content_reader_done(ContentReader *c);

/* 1 and the next run, 0 after the last, negative errno. */
int content_reader_next(ContentReader *c, ContentRun *ret, Failure *reterr);

/*
 * True if the list is well formed and covers the file exactly, as far as that can be seen without
 * reading records.
 */
bool content_is_valid(const Entry *entry);

/* ---- content.c ---- */

/* The records that were opened last: bundles are decoded once for consecutive members. */
#define CONTENT_CACHE_N 6

typedef struct ContentCache {
        struct {
                uint64_t pack_no, used;
                uint32_t ordinal;
                Buf plain;
        } slots[CONTENT_CACHE_N];
        uint64_t clock;
        Buf chunk;
        size_t last_slot;     /* of the member that was read last, */
        uint64_t last_offset; /* and where it ended */
} ContentCache;

void content_cache_done(ContentCache *cache);
