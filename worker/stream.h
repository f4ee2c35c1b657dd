#pragma once

/*
 * The pipe to a reader outside: what list, diff and export write. The reader may be slow, gone or
 * ill-willed: it is waited for so long as it takes something, and never after the job was canceled.
 */

#include "base/buf.h"
#include "worker/work.h"

#define STREAM_STALL_MSEC 60000 /* a reader that takes nothing for so long is cut off */
int stream_stall_msec(void);    /* that, or less where root's environment says so, for tests */

typedef struct Stream {
        Work *work;
        int fd; /* owned, non-blocking */
        int stall_msec;
        Buf pending;
} Stream;

#define STREAM_INIT ((Stream){ .fd = -1 })

/* Takes the stream that came with the request. */
int stream_open(Work *w, Stream *ret, Failure *reterr);

/* Gives up: the reader gets what was sent, and no end. Fine on STREAM_INIT and after stream_end().
 */
void stream_done(Stream *s);

/* FAIL_CANCELED when the reader left or the job was canceled, FAIL_INTERRUPTED when it stalled. */
int stream_write(Stream *s, const void *data, size_t n, Failure *reterr);

/* One object on a line of its own. */
int stream_line(Stream *s, json_object *o, Failure *reterr);

/* Sends what is pending and closes. */
int stream_end(Stream *s, Failure *reterr);

/* The same after the line that says that all of it came. */
int stream_end_lines(Stream *s, uint64_t entries, Failure *reterr);
