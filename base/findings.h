#pragma once

/*
 * What a diagnosis has found. Worker, agent and command line each add what only they can see. The
 * list has an end, since a worker sends it in one message and a service's user decides how much
 * there is to find; what is left out is counted.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"

#define FINDINGS_MAX       400
#define FINDINGS_BYTES_MAX ((size_t) 96 << 10)

typedef enum FindingSeverity {
        FINDING_OK,
        FINDING_NOTE,    /* works, and could be better; or could not be looked at */
        FINDING_WARNING, /* works today; a backup or restore may be missed one day */
        FINDING_ERROR,   /* a backup or restore fails, or is not good for anything */
} FindingSeverity;

typedef struct Findings {
        json_object *list, *rest; /* `rest`: further members of the report */
        size_t bytes;
        uint64_t counts[FINDING_ERROR + 1]; /* those left out included */
        uint64_t left_out;
        bool short_of_memory;
} Findings;

int findings_init(Findings *l); /* 0 or -ENOMEM */
void findings_done(Findings *l);

/* What a finding is about: a stable id, the service ("" for none), what it is (path, unit, name).
 */
typedef struct FindingAbout {
        const char *check, *service, *subject;
} FindingAbout;

#define ABOUT(check, subject) (&(FindingAbout){ check, "", subject })

/*
 * Adds one; texts are escaped here, so that names of files may stand in them. `remedy` may be NULL.
 * Good news gives way to bad: it may fill half of the list.
 */
void findings_add(Findings *l,
                  FindingSeverity severity,
                  const FindingAbout *about,
                  const char *remedy,
                  const char *format,
                  ...) __attribute__((format(printf, 5, 6)));

/* Adds the findings of another report, all of them. 0, -EINVAL if it is none, -ENOMEM. */
int findings_merge(Findings *l, json_object *report);

/* The report: worst, ok, notes, warnings, errors, left_out, findings, `rest`. Owned; NULL: no
 * memory. */
json_object *findings_report(Findings *l);
