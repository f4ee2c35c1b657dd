#pragma once

/*
 * Durable changes to directories. All paths are relative to a directory descriptor; a name is one
 * component. One failed fsync voids the object: nothing here retries one.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"

/* Opens `name` as a directory, without following a link. fd or negative errno. */
int fs_open_dir(int dirfd, const char *name);

/* As above, made first with `mode` if it is missing; the parent is synced when it was made. */
int fs_ensure_dir(int dirfd, const char *name, mode_t mode);

/* As above for an absolute path, with all missing parents (0755 for them). */
int fs_ensure_path(const char *path, mode_t mode);

/*
 * Replaces or creates `name` with exactly these bytes: temporary file in the same directory, fsync,
 * rename, fsync of the directory. 0 or negative errno; on failure the old file is untouched.
 */
int fs_write_atomic(int dirfd, const char *name, const void *data, size_t n, mode_t mode);

/* Reads a whole regular file of at most `max` bytes into `ret`. -EFBIG if it is larger. */
int fs_read_file(int dirfd, const char *name, size_t max, Buf *ret);

/*
 * Opens `name` for flock(), made if it is missing; one that is there will do where nothing can be
 * written. fd or negative errno.
 */
int fs_open_lock(int dirfd, const char *name);

/* unlink + fsync of the directory; a missing file is fine. */
int fs_unlink_durable(int dirfd, const char *name);

/* fsync of a directory (or any fd). 0 or negative errno. */
int fs_sync(int fd);

/*
 * Removes `name` and all below it without leaving its file system, following no link and opening
 * nothing but directories. Immutable and append-only flags are cleared on the way. A nested btrfs
 * subvolume or a mount stays and makes it -ENOTEMPTY or -EXDEV. `interrupted` may be NULL.
 */
int fs_remove_tree(int dirfd, const char *name, bool (*interrupted)(void *), void *userdata);

/* Free and total bytes of the file system. */
int fs_space(int fd, uint64_t *ret_free, uint64_t *ret_total);
