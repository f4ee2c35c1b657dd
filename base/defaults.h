#pragma once

/*
 * /etc/default/holdpoint: settings by environment, as earlier deployments have them. Root's file;
 * it may hold a passphrase, and is for root's eyes alone then.
 */

#include "base/config.h"
#include "base/secret.h"

typedef struct DefaultsNumber {
        uint32_t value;
        unsigned line; /* 0: not set */
} DefaultsNumber;

typedef struct Defaults {
        char *file;        /* where it was read, for messages; NULL: there is none for us */
        bool private;      /* others cannot read it */
        char *dir;         /* BACKUP_DIR */
        unsigned dir_line; /* and so on; 0: not set */
        DefaultsNumber retention_days, compression_level;
        unsigned passphrase_line;
        ConfigSchedule schedule; /* AUTO_BACKUP_* */
        unsigned schedule_line;  /* of its type */
        ConfigStrings warnings;  /* names that mean nothing here */
} Defaults;

/*
 * Reads it. One that is not there, or not ours to read, sets nothing. A value that is not allowed
 * is FAIL_CONFIGURATION_INVALID with file and line; so is a passphrase in a file that others may
 * read.
 */
int defaults_load(Defaults *ret, Failure *reterr);
void defaults_done(Defaults *d);

/* HOLDPOINT_DEFAULTS_FILE or /etc/default/holdpoint. */
const char *defaults_path(void);

/* BACKUP_ENCRYPTION_KEY of that file: 0, or -ENOENT if it is not set. */
int defaults_passphrase(Secret *ret, Failure *reterr);

/* Appends an owned line of text. -ENOMEM. */
int defaults_warn(ConfigStrings *warnings, const char *format, ...)
        __attribute__((format(printf, 2, 3)));
