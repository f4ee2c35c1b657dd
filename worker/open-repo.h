#pragma once

/* The repository as root's configuration names it, opened for one job. */

#include "repo/repo.h"
#include "worker/work.h"

#define LOCK_TIMEOUT_USEC UINT64_C(600000000) /* a job before this one may still be ending */

/*
 * Opens it (made if `create` and missing; else -ENOENT without a failure when there is none), takes
 * the packs lock shared and, with `writer`, the writer lock. Where the disk is full, a writer that
 * does not create has the worker's reserve to work with. FAIL_SOURCE_MISSING when one was used
 * at this path before and is gone. A private key that came with the request is used; one that does
 * not belong to the repository is refused.
 */
int open_repo(Work *w, bool create, bool writer, Repo **ret, Failure *reterr);

/* Tells the agent how much is stored and how much room is left. */
/* As open_repo() for a verb about one backup: without a repository there is FAIL_NO_SUCH_BACKUP. */
int open_repo_of(Work *w, bool writer, const char *backup_id, Repo **ret, Failure *reterr);

void open_repo_tell_space(Work *w, Repo *repo);
