#pragma once

/*
 * What the files of the catalogue share.
 */

#include "sql/catalog.h"
#include "sql/db.h"
#include "sql/migrate.h"

#define CATALOG_HISTORY_USEC                                                                       \
        (UINT64_C(90) * 86400 * USEC_PER_SEC) /* jobs and restores that are over */

struct Catalog {
        Db *db;
        unsigned depth; /* of batches: only the outermost is a transaction */
        bool broken;    /* an inner one was given up, so the outermost must not commit */
};

/* Generated from sql/schema/. */
extern const Migration catalog_migrations[];
extern const size_t catalog_n_migrations;

/* The member of a complete dictionary; "" or 0 if it is not there. Borrowed. */
const char *catalog_string(json_object *o, const char *key);
uint64_t catalog_number(json_object *o, const char *key);

/* Parses column `column` of the current row: owned, -EUCLEAN if it is no object. */
int catalog_column_json(DbStmt *s, int column, json_object **ret, Failure *reterr);

/* Steps through all rows and collects the JSON of column 0; unreadable rows are left out with a
 * warning. */
int catalog_collect(DbStmt *s, json_object **ret, Failure *reterr);

/* Runs a prepared SELECT of one JSON column for one row. -ENOENT: no row. */
int catalog_get_one(DbStmt *s, json_object **ret, Failure *reterr);
