#pragma once

/*
 * How the content of files is cut: units per class, holes and zero runs (docs/REPO-FORMAT.md).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/entry.h"

/* Bytes of one unit of a class; 0 for a class that has no content or is unknown. */
uint32_t chunk_unit(EntryClass class);

/* The class under which a file of this size is stored: LARGE is lowered to SMALL by size. */
EntryClass chunk_class(EntryClass wanted, uint64_t size);

/* True if all `n` bytes are zero; stops at the first that is not. */
bool chunk_is_zero(const void *data, size_t n);

/* A walk over what is data and what is hole in an open file, in whole units. */
typedef struct ChunkScan {
        int fd; /* borrowed */
        uint32_t unit;
        uint64_t size; /* where the walk ends */
} ChunkScan;

/*
 * What begins at `offset` (a multiple of the unit, below size): *ret_hole and the number of bytes,
 * a multiple of the unit except at the end. A unit with any data in it is data. A file system
 * that cannot tell, and a file that has become shorter, are data. 0 or a negative errno.
 */
int chunk_scan_next(const ChunkScan *scan, uint64_t offset, bool *ret_hole, uint64_t *ret_bytes);
