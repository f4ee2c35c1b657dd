#pragma once

/*
 * Entries that come in any order, kept in unlinked files until they can be handed out in manifest
 * order. In memory is one number for each of them.
 */

#include "repo/repo.h"

#define SPOOL_ENTRIES_MAX 2000000

typedef struct Spool Spool;

/* Its files are unnamed ones in `dirfd`. */
int spool_new(int dirfd, Spool **ret, Failure *reterr);
void spool_free(Spool *s);
DEFINE_CLEANUP(Spool *, spool_free);

/* Adds one. The content of a file with a size follows, before the next entry. */
int spool_put(Spool *s, const Entry *entry, Failure *reterr);
int spool_write(Spool *s, uint64_t offset, const void *data, size_t n, Failure *reterr);

/* Puts them in order. FAIL_INVALID_ARGUMENT if one place comes twice. */
int spool_sort(Spool *s, Failure *reterr);

size_t spool_count(const Spool *s);

/* The entry at place `i` of the order, borrowed until the next call. */
int spool_get(Spool *s, size_t i, Entry *ret, Failure *reterr);

/* Looks one up: 1 and its place, 0, negative errno. What spool_get() gave stays. */
int spool_find(Spool *s,
               const char *service,
               const char *dir,
               const char *name,
               size_t *ret,
               Failure *reterr);

/* The type of the entry at place `i`. What spool_get() gave stays. */
int spool_type(Spool *s, size_t i, EntryType *ret, Failure *reterr);

/* A file with the content of the entry at place `i` from its beginning, holes kept. Caller closes.
 */
int spool_open_content(Spool *s, size_t i, int *ret_fd, Failure *reterr);
