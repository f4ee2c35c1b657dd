#pragma once

/*
 * Which files with several names were seen: inode -> its first path. An inode is forgotten when all
 * its names were met, so memory goes with the links that are open, not with the tree.
 */

#include <stdbool.h>
#include <sys/stat.h>

typedef struct ArcLinks ArcLinks;

int arc_links_new(ArcLinks **ret);
void arc_links_free(ArcLinks *links);
void arc_links_clear(ArcLinks *links);

/*
 * The path of an earlier name of this file, or NULL. Borrowed until the next call. An inode number
 * that was given to another file meanwhile is not mistaken for the old one.
 */
const char *arc_links_find(ArcLinks *links, const struct statx *stx);

/* Remembers the first name of a file. 0 or -ENOMEM. */
int arc_links_add(ArcLinks *links, const struct statx *stx, const char *path);

/* One more name of it was met. */
void arc_links_met(ArcLinks *links, const struct statx *stx);
