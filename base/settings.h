#pragma once

/*
 * Strict INI files: a table says which Section.Key exists, how its value is read and where it goes.
 * Whatever the table does not name is an error with "file:line: what, and what is allowed".
 * Comments stand on lines of their own; a line is one assignment, never continued.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/fail.h"

#define SETTINGS_FILE_MAX ((size_t) 1 << 20)
#define SETTINGS_LINE_MAX 8192
#define SETTINGS_LIST_MAX 1024

typedef struct SettingsRule SettingsRule;

/* One value and where it stands. Everything is borrowed for the duration of the call. */
typedef struct SettingsValue {
        const SettingsRule *rule;
        const char *file;
        unsigned line;
        const char *text; /* without surrounding blanks */
} SettingsValue;

/* Reads `v` into `target`. 0, or a negative errno with `reterr` filled (settings_refuse()). */
typedef int (*SettingsParser)(const SettingsValue *v, void *target, Failure *reterr);

struct SettingsRule {
        const char *section, *key;
        SettingsParser parse;
        size_t offset;     /* of the target in the structure */
        uint64_t min, max; /* settings_parse_u32() */
        const char *const
                *words; /* settings_parse_word(): the index is the value; ends with NULL */
        bool repeatable;
};

/* One value of a repeatable key, or a single one whose place is wanted later. */
typedef struct SettingsItem {
        char *text;
        unsigned line;
} SettingsItem;

typedef struct SettingsList {
        SettingsItem *items;
        size_t n;
} SettingsList;

typedef struct SettingsTable {
        const SettingsRule *rules;
        size_t n;
} SettingsTable;

/*
 * Reads the file `name` in `dirfd`, called `label` in messages, into `target`. The file must be a
 * regular one of root or of the caller that nobody else may write: whoever may write it decides
 * what root's workers read and replace. Returns 0; -ENOENT if there is none (`reterr` untouched);
 * else a negative errno and FAIL_CONFIGURATION_INVALID.
 */
int settings_load(int dirfd,
                  const char *name,
                  const char *label,
                  const SettingsTable *table,
                  void *target,
                  Failure *reterr);

/* As above for text that is here already. */
int settings_parse(const char *text,
                   size_t n,
                   const char *label,
                   const SettingsTable *table,
                   void *target,
                   Failure *reterr);

/* The same test of owner and mode for a directory of such files. `label` names it in `reterr`. */
int settings_check_dir(int fd, const char *label, Failure *reterr);

/* "file:line: Key=value: <why>" into `reterr`. Returns -EINVAL. */
int settings_refuse(const SettingsValue *v, Failure *reterr, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

/* Parsers. Targets: uint32_t; int; char * (owned, replaced); SettingsItem (owned, replaced). */
int settings_parse_u32(const SettingsValue *v, void *target, Failure *reterr);
int settings_parse_word(const SettingsValue *v, void *target, Failure *reterr);
int settings_parse_string(const SettingsValue *v, void *target, Failure *reterr);
int settings_parse_path(const SettingsValue *v, void *target, Failure *reterr); /* SettingsItem */

/* Targets: SettingsList, appended to; for repeatable keys. */
int settings_parse_list(const SettingsValue *v, void *target, Failure *reterr);
int settings_parse_path_list(const SettingsValue *v, void *target, Failure *reterr);

void settings_item_done(SettingsItem *i);
void settings_list_done(SettingsList *l);
