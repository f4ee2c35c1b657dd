#pragma once

/*
 * File systems for tests: a sparse image on a loop device, mounted in a mount namespace of the
 * test's own. The image is unlinked and the device marked to detach by itself at once, so that a
 * test that crashes leaves nothing but an empty directory. Needs root: see loopfs_possible().
 */

#include <stdbool.h>

typedef struct Loopfs Loopfs;

/* Root with a mount namespace of its own from here on; false otherwise, and the test should skip.
 */
bool loopfs_possible(void);

/* `type`: btrfs, ext4, xfs or tmpfs. Fails the test if it cannot. */
Loopfs *loopfs_new(const char *type);

/* Absolute, clean, without links. Borrowed. */
const char *loopfs_path(const Loopfs *fs);

/* An owned path below it. */
char *loopfs_join(const Loopfs *fs, const char *below);

/* The loop device; NULL for tmpfs. Borrowed. */
const char *loopfs_device(const Loopfs *fs);

void loopfs_free(Loopfs *fs); /* unmounts, lazily if need be; NULL is fine */

/* Runs a shell command and fails the test if it does not succeed. */
void loopfs_run(const char *format, ...) __attribute__((format(printf, 1, 2)));
