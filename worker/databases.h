#pragma once

/*
 * The databases of a backup after the point: recovered and checked in the image, or copied from
 * their pinned connections; and what is remembered of each so that an unchanged one is not read
 * again.
 */

#include "worker/point.h"
#include "worker/source.h"

/*
 * Looks at NAME, -wal and -journal of each database in the image, before recovery touches them, and
 * compares with what the last backup remembered: sets `unchanged`, and carries over its verdict. A
 * file that is not the one that was held is no longer `held`.
 */
int databases_compare(Work *w, Source *s, const Point *p, Failure *reterr);

/* Recovers those that are archived from images. One that cannot be is `failed`; its hold has the
 * failure. */
int databases_recover(Work *w, Source *s, const Point *p, Failure *reterr);

/* Copies the others to unlinked files in the state directory. */
int databases_copy(Work *w, Source *s, Point *p, Failure *reterr);

/* quick_check of images and copies whose DatabaseCheck= asks for it. A damaged one is `failed`. */
int databases_check(Work *w, Source *s, const Point *p, Failure *reterr);

/*
 * Remembers states and verdicts of the databases of each service, once the backup exists. They
 * belong to the base state that this backup wrote, and to no other.
 */
int databases_save(Work *w,
                   const Source *s,
                   const Point *p,
                   const char *backup_id,
                   Failure *reterr);

/* The list for the record: path, service, owner, captured, held, pause, check verdict and date.
 * Owned. */
json_object *databases_json(const Source *s);
