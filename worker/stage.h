#pragma once

/*
 * Trees made aside from a backup: from a hot copy, or from the manifest with content out of the
 * repository (or, by clone, out of the hot copy's image).
 */

#include "repo/repo.h"
#include "snapshot/snapshot.h"
#include "worker/intent.h"
#include "worker/work.h"

/* The hot image that holds the content of what lies below a live path. */
typedef struct StageImage {
        const char *path;
        Snapshot *image;
} StageImage;

typedef struct Stage {
        Work *work;
        Repo *repo;
        json_object *record;
        const char *service;
        const StageImage *images; /* where content comes from; what is in none: the repository */
        size_t n_images;
        const char *const *only; /* stage_aside(): these live paths, with all below; NULL: all */
        size_t n_only;
        uint64_t held_bytes, held_files; /* of the tree of stage_tree(); 0: not known */
        uint64_t bytes, files;           /* what was made */
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

/*
 * Makes SERVICE/ABSOLUTE/PATH… of the whole service, or of `s->only`, below `dirfd`, which is the
 * caller's. Directories above what is made are root's alone.
 */
int stage_aside(Stage *s, int dirfd, Failure *reterr);

/*
 * Makes the files `s->only` under their own names in `dirfd`, all or none. FAIL_TARGET_IN_USE when
 * one is there already. `id` makes the name of the private directory they are made in first.
 */
int stage_files_aside(Stage *s, int dirfd, const char *id, Failure *reterr);
