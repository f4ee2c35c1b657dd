#pragma once

/*
 * What the verbs restore, plan and verify share: the request, the backup's record, what of it is
 * meant, the copies it can come from, and the check of databases that were rebuilt.
 */

#include "worker/intent.h"
#include "worker/selection.h"
#include "worker/stage.h"
#include "worker/state.h"

typedef struct Restore {
        Work *work;
        const char *restore_id, *backup_id, *type, *from;
        bool allow_partial, into;
        int directory; /* to restore into; borrowed from the request */
        Repo *repo;
        json_object *record;
        Selection selection;
        int hot_lock; /* -1: hot copies are passed over */
        ServiceLocks locks;
        Intent intent;
        uint64_t bytes, files;
        bool used_hot, used_local;
        json_object
                *lacking; /* paths of the selection that the backup could not read, at most 100 */
        uint64_t n_lacking;
} Restore;

#define RESTORE_INIT(w)                                                                            \
        ((Restore){ .work = (w), .directory = -1, .hot_lock = -1, .intent = INTENT_INIT })

void restore_done(Restore *r);

/* backup_id, restore_type, from, allow_partial. FAIL_INVALID_ARGUMENT; `remote` is for later. */
int restore_read_request(Restore *r, Failure *reterr);

/* Opens repository and record, chooses the services. FAIL_NO_SUCH_BACKUP, FAIL_NO_SUCH_SERVICE. */
int restore_load(Restore *r, Failure *reterr);

/* What the selection lacks; FAIL_NOT_RESTORABLE if the backup is partial and that not allowed. */
int restore_check_partial(Restore *r, Failure *reterr);

/* FAIL_NOT_RESTORABLE for `from` "remote": there is no remote copy yet. */
int restore_check_from(const Restore *r, Failure *reterr);

/*
 * The hot image that holds a live path, as `from` allows; none is NULL. FAIL_NOT_RESTORABLE when
 * "hot" was asked for and it is not there.
 */
int restore_open_hot(Restore *r,
                     const char *service,
                     const char *path,
                     Snapshot **ret,
                     Failure *reterr);

/* The rules in a service's facts. `*ret` and its texts are the caller's, also after a failure. */
int restore_excludes(json_object *source, char ***ret, size_t *ret_n);

/* Of several paths the largest kind of tree names the method; parts of trees are files to it. */
const char *restore_method(const Selection *s);

/* What staging made, and from where. */
void restore_count(Restore *r, const Stage *s, bool hot);

/*
 * FAIL_NOT_RESTORABLE when a live path cannot be exchanged now, with the reason. Touches nothing.
 * `ret_mount` (owned) is what is mounted there, NULL if nothing is.
 */
int restore_check_target(const Restore *r,
                         const SelectionItem *item,
                         Mounted **ret_mount,
                         Failure *reterr);

/*
 * quick_check of one database that was restored as `name` in `dirfd`, whose live path is `path`.
 * FAIL_INTEGRITY_FAILURE. Its times and those of the directory stay.
 */
int restore_check_database(Work *w, int dirfd, const char *name, const char *path, Failure *reterr);

/*
 * The same for a database that was staged by itself as `stage` in an area. Its owner, who checks
 * it, may not enter that, so it lies in a directory of the owner's for the while.
 */
int restore_check_staged_file(Work *w,
                              int area,
                              const char *stage,
                              const char *path,
                              Failure *reterr);
