#pragma once

/*
 * Foreign archives -> entries: hostile input. Formats tar and pax alone, plain or in zstd, through
 * libarchive. Every name is checked here; what a stranger may not bring is left out and counted.
 */

#include <sys/types.h>

#include "base/cleanup.h"
#include "base/entry.h"
#include "base/fail.h"

typedef struct ArcUntar ArcUntar;

/* What was left out. */
typedef struct ArcUntarDropped {
        uint64_t devices; /* device nodes, with all they are */
        uint64_t modes;   /* setuid and setgid bits of files */
        uint64_t xattrs;  /* of other namespaces than user., ACLs apart; and bad ACLs */
        uint64_t flags;   /* file flags: immutable and the like */
} ArcUntarDropped;

/* `read` gives up to `n` bytes of the archive: the count, 0 at its end, negative errno. */
int arc_untar_new(ssize_t (*read)(void *userdata, void *data, size_t n, Failure *reterr),
                  void *userdata,
                  ArcUntar **ret,
                  Failure *reterr);
void arc_untar_free(ArcUntar *u); /* NULL is fine */
DEFINE_CLEANUP(ArcUntar *, arc_untar_free);

/*
 * The next object: 1, 0 at the end of a whole archive, negative errno. `ret` has neither service
 * nor dir nor name, *ret_path is the relative path of proper components, a hard link has that of
 * its file as `target`. All is borrowed until the next call. FAIL_INVALID_ARGUMENT names what is
 * not allowed.
 */
int arc_untar_next(ArcUntar *u, const char **ret_path, Entry *ret, Failure *reterr);

/* The content of the file that came last, in ascending order; what is left out is zeros. */
int arc_untar_data(
        ArcUntar *u,
        int (*sink)(void *userdata, uint64_t offset, const void *data, size_t n, Failure *reterr),
        void *userdata,
        Failure *reterr);

const ArcUntarDropped *arc_untar_dropped(const ArcUntar *u);
