#pragma once

/*
 * What people see: tables, sizes, times, progress. Text from elsewhere cannot drive the terminal.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"

#define OUTPUT_CELL_MAX 32

typedef struct OutputColumn {
        const char *title;
        bool right; /* align to the right */
        double cut; /* may be shortened, to about this share of the terminal; 0: never */
} OutputColumn;

typedef struct OutputTable OutputTable;

/* A table on stdout. 0 or -ENOMEM. */
int output_table_new(const OutputColumn *columns, size_t n, OutputTable **ret);
int output_table_add(OutputTable *t, const char *const *cells); /* n cells, borrowed */
int output_table_print(OutputTable *t);
void output_table_free(OutputTable *t);
DEFINE_CLEANUP(OutputTable *, output_table_free);

/* "12.3M": at most five characters and exact below 1000. */
void output_size(uint64_t bytes, char ret[OUTPUT_CELL_MAX]);

/* "12.3 ms", "4.5 s", "2:03 min". */
void output_duration(uint64_t usec, char ret[OUTPUT_CELL_MAX]);

/* RFC 3339 in UTC as local time on a terminal, unchanged elsewhere; empty stays empty. */
void output_time(const char *rfc3339, char ret[OUTPUT_CELL_MAX]);

/* An id cut to its first eight characters on a terminal. */
void output_id(const char *id, char ret[64]);

/* A copy without control characters. Owned, NULL if out of memory. */
char *output_clean(const char *text);

/* "a b c" of a list of strings. Owned. */
char *output_join(json_object *list);

/* printf to stdout or stderr through output_clean(). */
void output_line(const char *format, ...) __attribute__((format(printf, 1, 2)));
void output_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* "KEY value" on stdout; a list is joined. */
void output_member(const char *key, json_object *value);

/* One JSON value and a newline on stdout. */
void output_json(json_object *o);

/* A bar on stderr if that is a terminal, else one line per phase; nothing with `quiet` off a
 * terminal. */
typedef struct OutputProgress {
        bool quiet, shown;
        char phase[32];
} OutputProgress;

/* `job` is a dictionary of GetJob. */
void output_progress(OutputProgress *p, json_object *job);
void output_progress_end(OutputProgress *p);
