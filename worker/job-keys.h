#pragma once

/* Keys as a job meets them: where root keeps them, the one that came with the request. */

#include "base/secret.h"
#include "repo/keys.h"
#include "worker/work.h"

/* `dir` is owned and must outlive what was filled. 0 or -ENOMEM with reterr. */
int job_keys_places(char **ret_dir, KeyPlaces *ret, Failure *reterr);

/*
 * The private key that came with the request, read whole (a file, a memfd or a pipe, at most 64
 * KiB, within a minute). -ENOENT without reterr if none came. May wait for a pipe.
 */
int job_keys_receive(Work *w, Secret *ret, Failure *reterr);

/* Tells the agent whether the private key is here and its recovery copy is safe. */
void job_keys_tell(Work *w);
