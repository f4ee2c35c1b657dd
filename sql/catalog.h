#pragma once

/*
 * The catalogue: the agent's copy of the backups and restores there are, and the history of its
 * jobs. Expendable: a damaged file is moved aside and filled again by a reconcile. Backups,
 * restores and jobs travel as JSON objects in the keys of the D-Bus dictionaries (docs/DBUS.md),
 * complete and checked by the caller. No SQL elsewhere in the agent.
 *
 * Results: 0, -ENOENT where there is no such row, else as sql/db.h says.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/fail.h"
#include "base/json.h"
#include "base/text.h"

typedef struct Catalog Catalog;

#define CATALOG_FILE "catalogue.db"

/*
 * Opens or creates DIR/catalogue.db and brings its schema up to date. A damaged file is renamed to
 * catalogue.db.damaged-TIME, a warning is logged and an empty one made. -ENOTSUP when it is newer
 * than this program. Owned.
 */
int catalog_open(const char *dir, Catalog **ret, Failure *reterr);
void catalog_free(Catalog *c);
DEFINE_CLEANUP(Catalog *, catalog_free);
#define _cleanup_catalog_ _cleanup_(catalog_freep)

/*
 * Goes on in DIR/catalogue.db, which becomes a copy of this one. -EBUSY within a batch. On
 * failure everything is as before.
 */
int catalog_move(Catalog *c, const char *dir, Failure *reterr);

/*
 * Makes one transaction (one fsync) of the calls in between; batches nest. Commit and cancel end
 * what begin began. A cancelled inner batch, or a failed commit, leaves nothing of the outermost.
 */
int catalog_batch_begin(Catalog *c, Failure *reterr);
int catalog_batch_commit(Catalog *c, Failure *reterr);
void catalog_batch_cancel(Catalog *c);

/*
 * Adds or replaces a backup. `ret_added` (may be NULL) is true if there was no completed or partial
 * backup of this id before and now there is. An unchanged row is not written: 0, else 1.
 */
int catalog_put_backup(Catalog *c, json_object *backup, bool *ret_added, Failure *reterr);

/*
 * What is written while it is relaxed waits for no disk: it survives the agent, and a power cut
 * once anything else was written since. Nothing within a batch.
 */
void catalog_relax(Catalog *c, bool relaxed);

/* Owned. */
int catalog_get_backup(Catalog *c, const char *id, json_object **ret, Failure *reterr);

/* Sets status failed and {"error": {"name", "text"}} in metadata. */
int catalog_fail_backup(Catalog *c, const char *id, const Failure *why, Failure *reterr);

int catalog_delete_backup(Catalog *c, const char *id, Failure *reterr);

typedef struct CatalogFilter {
        const char *type, *status, *service; /* NULL: all */
        uint64_t offset;
        uint32_t limit;
} CatalogFilter;

/* Newest first. `ret` is an owned array; `ret_total` counts what matches, whatever the limit. */
int catalog_list_backups(Catalog *c,
                         const CatalogFilter *f,
                         uint64_t *ret_total,
                         json_object **ret,
                         Failure *reterr);

/* Backups that are completed or partial. */
int catalog_count_backups(Catalog *c, uint64_t *ret, Failure *reterr);

/* The newest completed backup (that holds `service`, if not NULL): when, and its id. -ENOENT: none.
 */
int catalog_last_success(Catalog *c,
                         const char *service,
                         uint64_t *ret_usec,
                         char ret_id[UUID_TEXT_MAX],
                         Failure *reterr);

/* Restores. 1 if the row was written, 0 if it was so. The list is newest first, at most `limit`. */
int catalog_put_restore(Catalog *c, json_object *restore, Failure *reterr);
int catalog_get_restore(Catalog *c, const char *id, json_object **ret, Failure *reterr);
int catalog_list_restores(Catalog *c, uint32_t limit, json_object **ret, Failure *reterr);

/* Makes the copy of the schedules what `rows` says. */
int catalog_replace_schedules(Catalog *c, json_object *rows, Failure *reterr);

/*
 * Jobs: `task` is the job's dictionary, its number in "id". Finished ones are read back; an insert
 * drops what ended more than 90 days ago and all but the newest reconciles.
 */
int catalog_put_task(Catalog *c, json_object *task, Failure *reterr);
int catalog_get_task(Catalog *c, uint32_t id, json_object **ret, Failure *reterr);
typedef struct CatalogTaskFilter {
        const char *type, *backup_id; /* NULL: all */
        bool finished;                /* those alone */
        uint64_t since_usec;          /* of the finished ones */
        uint64_t offset;
        uint32_t limit;
} CatalogTaskFilter;

/* Newest first; `ret` is an owned array. */
int catalog_list_tasks(Catalog *c,
                       const CatalogTaskFilter *filter,
                       json_object **ret,
                       Failure *reterr);
int catalog_task_progress(Catalog *c, uint32_t id, unsigned percent, Failure *reterr);

/* The highest number ever given to a job, 0 if none. */
int catalog_highest_task(Catalog *c, uint32_t *ret, Failure *reterr);

/* How the jobs of `type` that ended since then went: done, and all but the canceled ones. */
int catalog_task_rate(Catalog *c,
                      const char *type,
                      uint64_t since_usec,
                      uint64_t *ret_done,
                      uint64_t *ret_all,
                      Failure *reterr);

/*
 * At start: jobs that were queued or running are interrupted, running backups failed, with `why`.
 * `ret` is an owned array of these jobs as they are now.
 */
int catalog_interrupt(Catalog *c, const Failure *why, json_object **ret, Failure *reterr);

/*
 * A reconcile: start, then put and mark each backup and restore that exists, then finish, which
 * removes kept backups that were not marked (`ret_removed`, an owned array of ids) and settles the
 * restores that no intent knows any more. catalog_put_backup() of a kept backup marks it too, so
 * that one made meanwhile stays.
 */
int catalog_reconcile_start(Catalog *c, Failure *reterr);
int catalog_reconcile_mark(Catalog *c, const char *id, Failure *reterr);
int catalog_reconcile_finish(Catalog *c, json_object **ret_removed, Failure *reterr);
