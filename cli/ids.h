#pragma once

/*
 * Ids as people type them: whole, a prefix that fits one, or `latest`.
 */

#include "cli/cli.h"

#define IDS_MAX 37

/*
 * Backups: `latest` is the newest completed one, that holds `service` if one is given. 0, or a
 * negative errno with the error set: none (exit 5), several (exit 2, listed), not an id (exit 2).
 */
int ids_backup(Cli *cli, const char *text, const char *service, char ret[IDS_MAX]);

/* Restores: `latest` is the newest that can still be rolled back or confirmed. As above. */
int ids_restore(Cli *cli, const char *text, char ret[IDS_MAX]);

/*
 * A name for what was given none: PREFIX_20240115_020000, in the local time of whoever types, as
 * scheduled runs are named.
 */
#define IDS_NAME_MAX 64
void ids_new_name(const char *prefix, char ret[IDS_NAME_MAX]);

/* Jobs have numbers. */
int ids_job(Cli *cli, const char *text, uint32_t *ret);
