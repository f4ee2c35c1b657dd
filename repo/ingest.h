#pragma once

/*
 * What becomes of a full buffer: ids, look-up, compression, sealing, and the way into content
 * packs. These are the stages of a Pipeline; the thread that owns the session only makes and frees
 * it.
 */

#include "repo/pipeline.h"
#include "repo/repo-internal.h"

typedef struct Ingest Ingest;

/* Borrows all; `content` is used under pipeline_lock(). Call ingest_attach() before any submit. */
int ingest_new(Repo *repo, PackWriter *content, unsigned level, Ingest **ret);
void ingest_attach(Ingest *in, Pipeline *pipeline);
void ingest_free(Ingest *in); /* after the pipeline; NULL is fine */
DEFINE_CLEANUP(Ingest *, ingest_free);

/* PipeOps.work and .write; the userdata is the Ingest. */
int ingest_work(Ingest *in, unsigned thread, PipeBuffer *buffer, Failure *reterr);
int ingest_write(Ingest *in, PipeOutput *output, Failure *reterr);
