#pragma once

/*
 * The names in one directory, sorted by their bytes. Reused from directory to directory.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

typedef struct ArcDir ArcDir;

int arc_dir_new(ArcDir **ret);
void arc_dir_free(ArcDir *d);
DEFINE_CLEANUP(ArcDir *, arc_dir_free);

/*
 * Reads all names but "." and ".." from the beginning of the open directory `fd`. On failure the
 * names read until then are there.
 */
int arc_dir_read(ArcDir *d, int fd);

size_t arc_dir_count(const ArcDir *d);
const char *arc_dir_name(const ArcDir *d, size_t i); /* borrowed until the next read */
uint64_t arc_dir_ino(const ArcDir *d, size_t i);     /* as the directory says: only a hint, as is */
unsigned arc_dir_type(const ArcDir *d, size_t i);    /* DT_REG and the like */
