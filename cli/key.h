#pragma once

/*
 * The private key of --key: read once and handed over as a sealed memfd, so that nobody can change
 * it after it was looked at and no path of the caller is opened by root.
 */

#include "cli/cli.h"

/* Owned fd, or a negative errno with the error set. */
int key_open(Cli *cli, const char *path);

/*
 * Writes the key that comes out of the pipe `fd` to a new file of ours alone, durably, or to
 * standard output if `path` is NULL. A file that is there already is not overwritten: it may be the
 * only copy of another key.
 */
int key_save(Cli *cli, int fd, const char *path);
