#pragma once

/*
 * Manifest order into the order of an archive. In the manifest all directories of a directory come
 * before what is in any of them; who extracts an archive sets the times of a directory when it is
 * left, so there each comes right before its own content. Directories wait here, a bounded amount
 * of them; what does not fit is read again.
 */

#include "repo/repo.h"

typedef struct DirOrder DirOrder;

/*
 * Entries come out through `on_entry`. `again` is a cursor of its own over the same manifest;
 * borrowed.
 */
int dir_order_new(RepoManifest *again,
                  int (*on_entry)(void *userdata, const Entry *entry, Failure *reterr),
                  void *userdata,
                  DirOrder **ret,
                  Failure *reterr);
void dir_order_free(DirOrder *o);
DEFINE_CLEANUP(DirOrder *, dir_order_free);

/* Takes the next entry in manifest order. */
int dir_order_put(DirOrder *o, const Entry *entry, Failure *reterr);

/* Hands out what still waits. */
int dir_order_finish(DirOrder *o, Failure *reterr);
