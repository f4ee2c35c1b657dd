#pragma once

/*
 * The point in time: all databases held, all volumes frozen, released. The only place beside
 * repo/pipeline.c where threads run: snapshots of different volumes are taken at once.
 */

#include "worker/source.h"

typedef struct Point {
        Snapshot **snapshots;  /* one per volume of the source */
        Hold *hold;            /* still there for copies from pinned connections; may be NULL */
        uint64_t instant_usec; /* real time at which the volumes were frozen */
        uint64_t pause_usec;   /* the whole hold */
        size_t failed;         /* after a failure: the volume of which no image could be made */
} Point;

#define POINT_FAILED_NONE SIZE_MAX

/*
 * Takes the point. `holds[i].held` tells per database whether the hold was kept. FAIL_HOLD_TIMEOUT
 * if one could not be had and the configuration says `fail`. On failure nothing is left behind but
 * what point_done() frees.
 */
int point_take(Work *w, Source *s, const char *backup_id, Point *ret, Failure *reterr);

/*
 * True for a file that changed so shortly before the instant, or later, that it may have changed
 * again under the same times: clocks of file systems tick every few milliseconds. Nothing that is
 * remembered of it may say "unchanged" to the next backup.
 */
bool point_is_racy(const Point *p, int64_t ctime_sec, uint32_t ctime_nsec);

/* Removes the snapshots from disk (a failed backup). */
void point_drop(Point *p, size_t n_volumes);
void point_done(Point *p, size_t n_volumes); /* closes; images stay */
