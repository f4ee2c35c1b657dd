#pragma once

/*
 * Trees made aside from a backup: from a hot copy, or from the manifest with content out of the
 * repository (or, by clone, out of the hot copy's image).
 */

#include "repo/repo.h"
#include "snapshot/snapshot.h"
#include "worker/intent.h"
#include "worker/work.h"

typedef struct Stage {
        Work *work;
        Repo *repo;
        json_object *record;
        const char *service;
        Snapshot *hot;         /* image to take content from; NULL: the repository */
        uint64_t bytes, files; /* what was made */
} Stage;

/*
 * Makes the tree of one path of `s->service` as `name` in `dirfd`; `kind` is what stands for it in
 * the record. A subvolume is made as such where the file system has them; from its own hot image it
 * is one snapshot, without what `excludes` left out. Synced on return.
 */
int stage_tree(Stage *s,
               const char *path,
               TreeKind kind,
               int dirfd,
               const char *name,
               char *const *excludes,
               size_t n_excludes,
               Failure *reterr);

/* Makes SERVICE/ABSOLUTE/PATH… of the whole service below `dirfd`, which is the caller's. */
int stage_aside(Stage *s, int dirfd, Failure *reterr);
