#pragma once

/*
 * What statx would say of many files of one btrfs directory, read from the tree of inodes itself: a
 * look at a file that is not in the kernel's cache costs ten times as much. Only for subvolumes
 * that are read-only: elsewhere, what was written last is not in the tree yet.
 */

#include "archive/arc-dir.h"
#include "base/entry.h"

typedef struct ArcScan ArcScan;

int arc_scan_new(ArcScan **ret);
void arc_scan_free(ArcScan *s); /* NULL is fine */

/* A new root, open for reading: finds out if its files can be looked at this way. */
void arc_scan_begin(ArcScan *s, int fd);

/* A new listing, of the open directory `fd` of that root; borrowed until the next. */
void arc_scan_list(ArcScan *s, int fd, const ArcDir *listing);

/*
 * What the file or symbolic link with number `i` of the listing is, if it has one name only; NULL
 * if that has to be found out by a look at it. Cheap for rising numbers. Borrowed until the next
 * call.
 */
const EntryLocal *arc_scan_at(ArcScan *s, size_t i);
