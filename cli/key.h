#pragma once

/*
 * The private key of --key: read once and handed over as a sealed memfd, so that nobody can change
 * it after it was looked at and no path of the caller is opened by root.
 */

#include "cli/cli.h"

/* Owned fd, or a negative errno with the error set. */
int key_open(Cli *cli, const char *path);
