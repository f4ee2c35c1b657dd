#pragma once

/*
 * File descriptors: whole reads and writes, and the open flags that untrusted directories need.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Reads until `n` bytes or the end of the file. Returns the count or a negative errno. */
ssize_t fd_read_full(int fd, void *data, size_t n);
ssize_t fd_pread_full(int fd, void *data, size_t n, uint64_t offset);

/* Writes all of it. 0 or a negative errno. */
int fd_write_full(int fd, const void *data, size_t n);
int fd_pwrite_full(int fd, const void *data, size_t n, uint64_t offset);

/*
 * Opens `path` below `dirfd` with openat2: beneath it, no magic links, no symbolic links at all,
 * and with `xdev` false no mount crossed. O_CLOEXEC is added. Returns an fd or a negative errno.
 */
int fd_open_beneath(int dirfd, const char *path, int flags, mode_t mode, bool xdev);

/* Opens an absolute path of a trusted configuration without following links in any component. */
int fd_open_absolute(const char *path, int flags);

/* Reopens an O_PATH (or other) descriptor through /proc/self/fd. */
int fd_reopen(int fd, int flags);

/* Waits until `fd` is readable or hung up: 1, 0 on timeout (`msec` < 0: none), negative errno. */
int fd_wait_readable(int fd, int msec);
