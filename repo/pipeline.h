#pragma once

/*
 * A bounded ring of reused buffers between one reading thread and a few working ones:
 *
 *   caller: take, fill, submit ──▶ workers (any order) ──▶ writer (one)
 *      ▲                              │
 *      └── retire, in order of submission ◀┘
 *
 * All functions are for the caller's thread, except where said. The first failure of any thread
 * ends the pipeline: every later call returns it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/entry.h"
#include "base/fail.h"

#define PIPE_BUFFER_BYTES ((size_t) 1 << 20)
#define PIPE_BUFFERS      8 /* in flight; a bundle being filled is one of them */
#define PIPE_THREADS_MAX  4
#define PIPE_OUTPUTS_MAX  (PIPE_THREADS_MAX + 2)
#define PIPE_UNITS_MAX    1024 /* members of a bundle, leaves of a database */
#define PIPE_OUTPUT_EXTRA 4096 /* what sealing may add to a full buffer */

typedef struct Pipeline Pipeline;

/* A piece of a buffer that gets an id of its own; or, with size 0, a mark that keeps its place. */
typedef struct PipeUnit {
        uint32_t offset, size;
        uint8_t id[32]; /* filled in by the worker */
        void *owner;    /* the caller's, as are the two below */
        unsigned mark;
        uint64_t count;
} PipeUnit;

typedef struct PipeBuffer {
        uint8_t *data; /* PIPE_BUFFER_BYTES */
        size_t size;
        EntryClass class;
        PipeUnit *units; /* PIPE_UNITS_MAX */
        size_t n_units;
        struct PipeBuffer *next; /* the pipeline's, as is `done` */
        bool done;
} PipeBuffer;

/* What a worker hands to the writer. */
typedef struct PipeOutput {
        uint8_t *data; /* PIPE_BUFFER_BYTES + PIPE_OUTPUT_EXTRA */
        size_t size;
        unsigned number;         /* fixed, below PIPE_OUTPUTS_MAX */
        struct PipeOutput *next; /* the pipeline's */
} PipeOutput;

typedef struct PipeOps {
        /* In worker thread `thread`: handles one buffer; may take and put outputs. */
        int (*work)(void *userdata, unsigned thread, PipeBuffer *buffer, Failure *reterr);
        /* In the writer thread, in the order of pipeline_output_put(). */
        int (*write)(void *userdata, PipeOutput *output, Failure *reterr);
        /* In the caller's thread, in the order of submission, once the work is done. */
        int (*retire)(void *userdata, PipeBuffer *buffer, Failure *reterr);
} PipeOps;

/* The number of workers that suits this machine. */
unsigned pipeline_threads(void);

/* Makes one with `threads` workers (1 to PIPE_THREADS_MAX). No thread runs before the first submit.
 */
int pipeline_new(const PipeOps *ops, void *userdata, unsigned threads, Pipeline **ret);

/* Ends all threads, dropping what they had not begun; NULL is fine. */
void pipeline_free(Pipeline *p);
DEFINE_CLEANUP(Pipeline *, pipeline_free);

/*
 * An empty buffer, to be given back by submit. Retires what is done; waits if all are in use (the
 * caller may hold one back, never all of them).
 */
int pipeline_take(Pipeline *p, PipeBuffer **ret, Failure *reterr);
int pipeline_submit(Pipeline *p, PipeBuffer *buffer, Failure *reterr);

/* Waits until everything submitted was worked on, written and retired. */
int pipeline_drain(Pipeline *p, Failure *reterr);

/* For workers: waits for a free output; hands it to the writer; gives it back unused. */
int pipeline_output_take(Pipeline *p, PipeOutput **ret);
void pipeline_output_put(Pipeline *p, PipeOutput *output);
void pipeline_output_drop(Pipeline *p, PipeOutput *output);

/* Any thread: the mutex for what worker threads share with each other and with the caller. */
void pipeline_lock(Pipeline *p);
void pipeline_unlock(Pipeline *p);
