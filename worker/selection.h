#pragma once

/*
 * What of a backup a request means: services, and of these all that the backup holds, its databases
 * alone, or the paths that were named.
 */

#include "repo/repo.h"
#include "snapshot/snapshot.h"
#include "worker/work.h"

#define SELECTION_PATHS_MAX 1000 /* named in one request */

typedef struct SelectionItem {
        const char *service; /* borrowed from the record */
        char *root;          /* the recorded Path= that it is or lies below */
        char *path;
        TreeKind kind;           /* in the backup; TREE_ABSENT: a side file that it does not have */
        bool database;           /* a database file: what stands beside it live goes with it */
        bool side;               /* -wal, -shm or -journal of the database that follows */
        uint64_t bytes, entries; /* measure_selection() */
} SelectionItem;

typedef struct Selection {
        json_object *services; /* names, in the record's order */
        SelectionItem *items;
        size_t n;
        bool named;      /* the request named paths */
        bool files_only; /* no item is a Path= itself: parts of live trees are exchanged */
} Selection;

#define SELECTION_INIT ((Selection){ .services = NULL })

void selection_done(Selection *s);

/* The services of `type` ("full" or one name). FAIL_NO_SUCH_SERVICE. */
int selection_services(Selection *s, json_object *record, const char *type, Failure *reterr);

/*
 * Fills the items: the `paths` of the request (escaped; relative ones must be held under exactly
 * one Path=), else all. `in_place` adds the side files of databases, takes the databases alone
 * where the backup has no other files, and refuses what cannot be exchanged. FAIL_INVALID_ARGUMENT
 * for paths that are no paths, ambiguous, or inside each other; FAIL_NOT_RESTORABLE for what is not
 * held.
 */
int selection_items(Selection *s,
                    Work *w,
                    Repo *repo,
                    json_object *record,
                    bool in_place,
                    Failure *reterr);

/* The record's facts about one service: its paths and rules. Borrowed. */
int selection_source(json_object *record, const char *service, json_object **ret, Failure *reterr);
