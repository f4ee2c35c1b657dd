#pragma once

/*
 * Trees as text, and copies of them by way of entries, for the tests of archive/.
 */

#include <stdbool.h>
#include <stddef.h>

#include "archive/arc.h"

/* What a walk handed out: one owned line per entry, problems apart, both in order. */
typedef struct ArcLines {
        char **lines;
        size_t n, allocated;
        char **problems; /* "CODE ERRNO path" */
        size_t n_problems, problems_allocated;
} ArcLines;

void arc_lines_done(ArcLines *l);

/* Index of the line of the entry with this path below the root, or -1. */
int arc_lines_find(const ArcLines *l, const char *relative);

/*
 * Walks `path` under the name "/tree" and lists it: path, type, mode, owner, mtime, flags &
 * `flags_mask`, size, device, target, xattrs, and the content's hash.
 */
void arc_lines_read(const char *path, uint32_t flags_mask, ArcLines *ret);

/* Fails the test at the first line that differs. */
void arc_lines_assert_equal(const ArcLines *a, const ArcLines *b);

/* walk -> extract: makes `dst` (which must not exist or be empty) what `src` is. 0 or the failure.
 */
int arc_tree_clone(const char *src, const char *dst, Failure *reterr);

/* Fails unless rsync, comparing all it knows by itself, finds nothing to do. */
void arc_tree_assert_rsync(const char *src, const char *dst);

/* A hash of the bytes, good enough to tell test data apart. */
uint64_t arc_hash(uint64_t seed, const void *data, size_t n);

/*
 * Fills the empty directory `at` with one of everything: odd names, modes, times, xattrs, ACLs,
 * capabilities, links, devices, holes, flags. No socket.
 */
void arc_tree_fill(const char *at, bool btrfs);

/* Lifts the flags that would keep the file system from being cleaned up. */
void arc_tree_unlock(const char *at);
