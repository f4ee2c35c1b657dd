#pragma once

/*
 * Entries <-> tar archives (pax), through libarchive. Owners are numbers, names are bytes, times
 * have nanoseconds; ACLs, capabilities and other extended attributes are written as GNU tar and
 * bsdtar read them.
 */

#include "base/cleanup.h"
#include "base/entry.h"
#include "base/fail.h"

/* ---- writing ---- */

typedef struct ArcTar ArcTar;

typedef struct ArcTarParams {
        bool zstd; /* compressed as one zstd frame */
        /* Takes the bytes of the archive. A negative result ends it, and comes out again. */
        int (*write)(void *userdata, const void *data, size_t n, Failure *reterr);
        bool (*interrupted)(void *userdata); /* polled in long holes; may be NULL */
        void *userdata;
} ArcTarParams;

/* A part of a file that has data. */
typedef struct ArcTarRange {
        uint64_t offset, size;
} ArcTarRange;

int arc_tar_new(const ArcTarParams *params, ArcTar **ret, Failure *reterr);

/*
 * Begins one object. `path` is its name in the archive; `link`, for ENTRY_HARDLINK, that of the
 * file. Service, dir and name of the entry are not looked at. With `data` a file is stored as
 * sparse: `n_data` ranges in ascending order, none of them empty. A file with a size is followed by
 * arc_tar_data() and arc_tar_end_file().
 */
int arc_tar_put(ArcTar *t,
                const char *path,
                const Entry *entry,
                const char *link,
                const ArcTarRange *data,
                size_t n_data,
                Failure *reterr);

/* Content in ascending order of offset; what is left out is zeros. */
int arc_tar_data(ArcTar *t, uint64_t offset, const void *data, size_t n, Failure *reterr);
int arc_tar_end_file(ArcTar *t, Failure *reterr);

/* Writes the blocks that say "this is the end". Without it no reader takes the archive for whole.
 */
int arc_tar_finish(ArcTar *t, Failure *reterr);
void arc_tar_free(ArcTar *t); /* NULL is fine */

/* How many objects had an ACL that names a user or group beyond INT_MAX: no program on libarchive
 * (bsdtar) gives those their rights. */
uint64_t arc_tar_large_acls(const ArcTar *t);
DEFINE_CLEANUP(ArcTar *, arc_tar_free);
