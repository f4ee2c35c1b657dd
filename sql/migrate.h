#pragma once

/*
 * Schema versions: numbered migrations, kept in PRAGMA user_version.
 */

#include <stddef.h>
#include <stdint.h>

#include "sql/db.h"

typedef struct Migration {
        uint32_t number; /* 1, 2, 3 … without gaps */
        const char *sql;
} Migration;

/*
 * Brings `db` to the newest version, all missing migrations in one transaction. Returns 0;
 * -ENOTSUP when the database is newer than this program; else as db.h says.
 */
int migrate_apply(Db *db, const Migration *migrations, size_t n, Failure *reterr);
