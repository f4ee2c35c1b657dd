#pragma once

/*
 * Inside a session: entries that wait for their content, and what reads it.
 */

#include "repo/ingest.h"
#include "repo/manifest.h"

/* An entry on its way to the manifest. Strings and xattrs are in `store`. */
typedef struct Pending {
        struct Pending *next;
        Entry entry;
        EntryLocal local;
        void *store;
        ContentWriter chunks;
        Buf content;        /* given, or made when the last unit was retired */
        size_t cost;        /* bytes of memory */
        unsigned in_flight; /* units in buffers that have not retired */
        bool open;          /* still being read */
        bool dropped;       /* nothing shall be recorded */
        bool given;         /* content came with the entry */
} Pending;

struct RepoSession {
        Repo *repo;
        RepoSessionParams params;
        uint8_t id[UUID_SIZE];
        Secret key;
        uint64_t session_bytes;

        Pipeline *pipeline;
        Ingest *ingest;
        PackWriter *content, *meta;
        Compressor *compressor; /* of metadata */
        MetaSink sink;
        ManifestWriter *manifest;

        PipeBuffer *bundle; /* being filled; small files only */
        Pending *first, *last;
        size_t n_pending, pending_cost;

        Buf order;    /* key of the last entry: service, dir, name */
        Entry newest; /* the same, pointing into `order` */
        bool has_newest;
        Buf probe; /* for trial encoding */

        RepoTotals totals;
        uint64_t handled, told; /* bytes of content; what on_bytes knows */
        bool finished, committed;
        int error; /* a failure that ended the session */
};

/* ---- session-read.c ---- */

/*
 * Cuts the file into units, which go to the pipeline or the open bundle. `p` is in the queue and
 * open; its class and size are set here to what was found. 0, REPO_E_SOURCE, REPO_E_CHANGED or
 * negative errno.
 */
int session_read_file(RepoSession *s, Pending *p, int fd, bool stable, Failure *reterr);

/* Hands the open bundle, if there is one, to the pipeline. */
int session_flush_bundle(RepoSession *s, Failure *reterr);

/* Counts bytes of content as dealt with, and tells the caller now and then. */
void session_count(RepoSession *s, uint64_t bytes);

/* ---- pending.c: the queue ---- */

/* A copy of everything but the content; owned. */
int pending_new(const Entry *entry, const EntryLocal *local, Pending **ret);
void pending_free(Pending *p);
DEFINE_CLEANUP(Pending *, pending_free);

/* Takes `p`. */
void session_enqueue(RepoSession *s, Pending *p);

/* Records one entry: manifest and on_entry. */
int session_emit(RepoSession *s, const Entry *entry, const EntryLocal *local, Failure *reterr);

/* Records what is complete at the head of the queue. */
int session_drain_queue(RepoSession *s, Failure *reterr);

/* PipeOps.retire: what became of the units of a buffer. */
int session_retire(RepoSession *s, PipeBuffer *buffer, Failure *reterr);
