#pragma once

/*
 * The dictionaries of backups and restores: their keys and types, and the gate through which what a
 * worker says about them has to pass before it is kept or shown.
 */

#include <stddef.h>

#include "base/config.h"
#include "base/fail.h"
#include "base/json.h"

typedef enum RecordKind {
        RECORD_STRING,      /* s */
        RECORD_NUMBER,      /* t */
        RECORD_COUNT,       /* u */
        RECORD_BOOL,        /* b */
        RECORD_STRINGS,     /* as */
        RECORD_STRING_MAP,  /* a{ss} */
        RECORD_DICTIONARIES /* aa{sv}: flat objects */
} RecordKind;

typedef enum RecordForm {
        FORM_TEXT,  /* valid UTF-8; tabs and line ends allowed */
        FORM_LABEL, /* no control characters */
        FORM_UUID,
        FORM_UUID_OR_EMPTY,
        FORM_TIME, /* RFC 3339 or empty */
        FORM_HEX,
        FORM_STATUS,
        FORM_STATE,
        FORM_JSON, /* an object, or empty */
} RecordForm;

typedef struct RecordField {
        const char *key;
        RecordKind kind;
        RecordForm form; /* RECORD_STRING only */
        size_t max;      /* bytes of a text */
} RecordField;

extern const RecordField record_backup_fields[];
extern const size_t record_n_backup_fields;
extern const RecordField record_restore_fields[];
extern const size_t record_n_restore_fields;
extern const RecordField record_schedule_fields[];
extern const size_t record_n_schedule_fields;

/* True for valid UTF-8 of at most `max` bytes whose only control characters are tabs and line ends.
 */
bool record_is_text(const char *s, size_t max);

/*
 * Reads a backup or restore that a worker sent: exactly the known keys, in table order, missing
 * ones empty, a wrong type or form an error that names the key. Unknown keys are left out. Owned.
 */
int record_read_backup(json_object *in, json_object **ret, Failure *reterr);
int record_read_restore(json_object *in, json_object **ret, Failure *reterr);
int record_read_schedule(json_object *in, json_object **ret, Failure *reterr);

/*
 * Reads the "summary" of a result: an object whose values have a D-Bus type (docs/DBUS.md): texts,
 * numbers, truths, lists of texts, such objects and lists of them. Owned; empty if there is none.
 */
int record_read_summary(json_object *message, json_object **ret, Failure *reterr);

/* What a new backup is made of; all borrowed. */
typedef struct RecordNew {
        const char *id, *name, *type, *description, *created_by;
        const char *schedule; /* NULL: none */
        const ConfigStrings *services;
        bool pinned;
} RecordNew;

/* The row of a backup that has just been asked for: status running. Owned, NULL if out of memory.
 */
json_object *record_new_backup(const RecordNew *n);

/* The row of a restore that begins: state staging. Owned, NULL if out of memory. */
json_object *
record_new_restore(const char *id, const char *backup_id, const ConfigStrings *services);

/* The services of a dictionary ("services"); owned. */
int record_services(json_object *o, ConfigStrings *ret);

/* Helpers for lists of names. */
void strings_done(ConfigStrings *s);
int strings_add(ConfigStrings *s, const char *item);
bool strings_has(const ConfigStrings *s, const char *item);
json_object *strings_to_json(const ConfigStrings *s);
#define _cleanup_strings_ _cleanup_(strings_done)
