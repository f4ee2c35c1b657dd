#pragma once

/*
 * What the files of archive/ share: one object pinned by descriptor, its metadata read and applied,
 * paths shown in messages.
 */

#include <limits.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "archive/arc.h"
#include "base/buf.h"
#include "base/cleanup.h"

/* Deeper than this is reported, not walked: nothing could remove it again either. */
#define ARC_DEPTH_MAX 4096

/* Nor does the format take a longer path of a directory, with room for one more name. */
#define ARC_DIR_MAX (65535 - 1 - ENTRY_NAME_MAX)

/* As many as the codec of entries takes. */
#define ARC_XATTRS_MAX 128

#define ARC_FLAGS_MASK                                                                             \
        ((uint32_t) (FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL | FS_NOCOW_FL | \
                     FS_COMPR_FL | FS_NOCOMP_FL | FS_SYNC_FL | FS_DIRSYNC_FL))

/* Those that would forbid us to make the object's children or further names. */
#define ARC_FLAGS_LOCKING ((uint32_t) (FS_IMMUTABLE_FL | FS_APPEND_FL))

/* Of directories, those that wait until their children are there; two would make that slow. */
#define ARC_FLAGS_LATE (ARC_FLAGS_LOCKING | (uint32_t) (FS_SYNC_FL | FS_DIRSYNC_FL))

/* Those that decide how data is written, and so come before it. */
#define ARC_FLAGS_DATA ((uint32_t) (FS_NOCOW_FL | FS_COMPR_FL | FS_NOCOMP_FL))

/* ---- paths ---- */

#define ARC_SHOWN_MAX 480

/* `path` for a message: escaped, its middle cut out when it is long. Returns `buf`. */
const char *arc_show(const char *path, char buf[ARC_SHOWN_MAX]);

/* True for a relative path of proper components ("" too: the root). */
bool arc_path_is_clean(const char *path);

/*
 * Opens the directory `path` (n bytes, may be longer than PATH_MAX; 0: dirfd itself) beneath dirfd,
 * no link followed, no mount crossed. fd or negative errno.
 */
int arc_open_below(int dirfd, const char *path, size_t n);

/* ---- one object ---- */

/* statx of `name` in dirfd, or of dirfd itself for "". No link followed. 0 or negative errno. */
int arc_statx(int dirfd, const char *name, struct statx *ret);

/* True if both are the same inode, of the same type. */
bool arc_same_inode(const struct statx *a, const struct statx *b);

void arc_local(const struct statx *stx, EntryLocal *ret);

typedef struct ArcObject {
        int path_fd; /* O_PATH: pins the inode before anything is opened; -1 if that was no need */
        int fd;      /* files and directories: open for reading; else -1 */
        struct statx stx;
} ArcObject;

#define ARC_OBJECT_INIT ((ArcObject){ .path_fd = -1, .fd = -1 })

/* Opens `name` in dirfd ("": dirfd itself) for arc_meta_read(). 0 or negative errno. */
int arc_object_open(int dirfd, const char *name, ArcObject *ret);

/*
 * The same at a third of the cost, for what is known to be a regular file and cannot become a
 * device or FIFO meanwhile: the names of a read-only image. -ESTALE if it is none.
 */
int arc_object_open_file(int dirfd, const char *name, ArcObject *ret);
void arc_object_done(ArcObject *o);

/* Room for what an Entry borrows; reused from object to object. */
typedef struct ArcMeta {
        char *list; /* names of extended attributes */
        Buf values;
        EntryXattr xattrs[ARC_XATTRS_MAX];
        char target[PATH_MAX + 1];
} ArcMeta;

int arc_meta_new(ArcMeta **ret);
void arc_meta_free(ArcMeta *m);
DEFINE_CLEANUP(ArcMeta *, arc_meta_free);

/*
 * Fills all of `ret` but service, dir and name; what it points to lies in `m` until the next call.
 * `path` is for the message. -EOPNOTSUPP for a socket.
 */
int arc_meta_read(ArcMeta *m, const ArcObject *o, const char *path, Entry *ret, Failure *reterr);

/* ---- applying ---- */

/* What decides how data will be stored, on a new and empty file or directory. */
int arc_meta_prepare(int fd, const Entry *entry, const char *path, Failure *reterr);

/*
 * Owner, xattrs, mode, times and those of the entry's flags that are in `flags`, in the order in
 * which none undoes another. `fd` may be O_PATH for what is neither file nor directory.
 */
int arc_meta_apply(int fd, const Entry *entry, uint32_t flags, const char *path, Failure *reterr);

/*
 * The same for a new file without xattrs and flags, whose directory gave it none either
 * (arc_meta_inherits() is 0). `st` is what it is now: what is right already is not set again.
 */
int arc_meta_apply_plain(int fd,
                         const Entry *entry,
                         const struct stat *st,
                         const char *path,
                         Failure *reterr);

/* 1 if a new and empty file has got attributes or flags from its directory or mount, 0 if not. */
int arc_meta_inherits(int fd, const char *path, Failure *reterr);

/* Makes the flags in `mask` of an open file or directory exactly those in `want`. */
int arc_flags_apply(int fd, uint32_t want, uint32_t mask, const char *path, Failure *reterr);

/* ---- content ---- */

/* arc_copy_content() that can be interrupted (-ECANCELED). */
int arc_copy_data(int src_fd,
                  int dst_fd,
                  bool (*interrupted)(void *),
                  void *userdata,
                  uint64_t *ret_copied);
