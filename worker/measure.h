#pragma once

/* How much of a backup a request means, from its manifest: entries alone are read, no content. */

#include "repo/repo.h"
#include "worker/selection.h"
#include "worker/work.h"

typedef struct Measured {
        uint64_t bytes, entries; /* logical bytes */
} Measured;

/* Adds what the record sums up of all its services; nothing where it does not. */
void measure_record(json_object *record, Measured *ret);

/*
 * Adds what is held of `service` at and below `path` (NULL: all of it) to *ret. A hard link whose
 * file lies elsewhere counts as that file. -ECANCELED when interrupted.
 */
int measure_path(Work *w,
                 Repo *repo,
                 json_object *record,
                 const char *service,
                 const char *path,
                 Measured *ret,
                 Failure *reterr);

/* Fills the sizes of all items of a selection, and adds them up in *ret. */
int measure_selection(Work *w,
                      Repo *repo,
                      json_object *record,
                      Selection *s,
                      Measured *ret,
                      Failure *reterr);
