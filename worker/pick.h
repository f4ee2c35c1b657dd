#pragma once

/*
 * Which entries of a backup a request means: all, those of a service, or a path with everything
 * below it. Paths are what design and manual say: absolute as on the live system, or relative to
 * exactly one Path= that the backup recorded.
 */

#include "repo/repo.h"
#include "worker/work.h"

typedef struct Pick {
        json_object *services; /* names, in the order of the manifest; owned */
        bool all;              /* every service of the backup */
        char *path;            /* absolute; NULL: everything of the services */
} Pick;

#define PICK_INIT ((Pick){ .all = false })

/*
 * Understands `service` ("": all of the backup) and `path` (escaped text; "": everything).
 * FAIL_NO_SUCH_SERVICE, FAIL_INVALID_ARGUMENT for what is no path or fits under several Path=,
 * FAIL_SOURCE_MISSING for a relative path that is under none.
 */
int pick_resolve(Repo *repo,
                 json_object *record,
                 const char *service,
                 const char *path,
                 Pick *ret,
                 Failure *reterr);
void pick_done(Pick *p);

/* True if an entry with this absolute path would be among them. */
bool pick_has_path(const Pick *p, const char *path);

/*
 * Hands out the entries in manifest order; only the blocks that may hold some are read. `entry` is
 * borrowed for the call, in which `m` must not be moved. A negative result ends it.
 * FAIL_SOURCE_MISSING if the path is not in the backup; -ECANCELED when interrupted.
 */
int pick_each(const Pick *p,
              Work *w,
              RepoManifest *m,
              int (*on_entry)(void *userdata, const Entry *entry, Failure *reterr),
              void *userdata,
              Failure *reterr);

/* The absolute path of an entry. Owned; NULL if out of memory. */
char *pick_entry_path(const Entry *entry);
