#pragma once

/*
 * Streams of the agent: JSON lines, printed as they come or shown to people; and files that are
 * whole or not there.
 */

#include "cli/follow.h"

/*
 * Makes the call and prints its lines: unchanged with --json, else through `show`, which gets each
 * but the end mark (borrowed). A job that is done without an end mark is an error. Returns an exit
 * code, or a negative errno with the error set.
 */
int receive_lines(Cli *cli, ClientCall *call, void (*show)(json_object *line));

/*
 * Makes the call and writes its stream to `path` (NULL or "-": standard output, which must not be a
 * terminal), with `mode` for a new file. A file is written beside its place, synced and renamed
 * when the job is done; after anything else what was there before is there still.
 */
int receive_file(Cli *cli, ClientCall *call, const char *path, mode_t mode, FollowJob *ret);
