#pragma once

/*
 * Records of backups: the facts that the worker writes into them, and the dictionary that users
 * see.
 */

#include "repo/repo.h"
#include "worker/collect.h"
#include "worker/point.h"

/* What a create request says about the backup. All borrowed from the request. */
typedef struct FactsRequest {
        const char *backup_id, *name, *type, *description, *created_by, *schedule;
        bool include_files, pinned;
} FactsRequest;

/*
 * The facts of a finished backup, without what repo_session_commit() adds. `partial` decides the
 * status. Owned; NULL if out of memory.
 */
json_object *
facts_new(const FactsRequest *q, const Source *s, const Point *p, const Collect *c, bool partial);

/* What an import says about its backup. All borrowed. */
typedef struct FactsImport {
        const char *backup_id, *name, *description, *created_by;
        uint64_t instant_usec;
        json_object *services, *sources; /* names; service -> {paths, excludes} */
} FactsImport;

/* The facts of an imported backup: completed, and consistent as far as its maker made it so:
 * `none`. */
json_object *facts_new_import(const FactsImport *q);

/* The weakest consistency of all services ("application" "crash" "none"). Literal. */
const char *facts_consistency(const Source *s);

/*
 * A record as the dictionary of D-Bus (docs/DBUS.md): adds file_path, copies, pinned, metadata.
 * Owned; NULL if out of memory or the record lacks what it must have.
 */
json_object *facts_dictionary(Work *w, Repo *repo, json_object *record);
