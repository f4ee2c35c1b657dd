#pragma once

/*
 * What the last verification of each backup has found: a file verified/BACKUP-ID.json in the
 * worker's state. It is about a copy and a time, so it is no part of the record; if it is lost, the
 * backup counts as not verified.
 */

#include "worker/work.h"

/* Notes it durably; `depth` and `result` ("sound" or "damaged") are literals. */
int verified_note(Work *w,
                  const char *backup_id,
                  const char *depth,
                  const char *result,
                  Failure *reterr);

/* Adds verified_at, verified_depth, verified_result ("" if never). 0 or -ENOMEM. */
int verified_put(Work *w, const char *backup_id, json_object *dictionary);

/* True if the last verification found damage. */
bool verified_is_damaged(Work *w, const char *backup_id);

/* The backup is gone. */
void verified_forget(Work *w, const char *backup_id);
