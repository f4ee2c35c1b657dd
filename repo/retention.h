#pragma once

/*
 * Which backups may go: a pure function of the records, root's rules and the clock, which is not
 * trusted. docs/adr has why each rule is as it is.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum RetentionReason {
        RETENTION_KEEP_PINNED,
        RETENTION_KEEP_FUTURE,  /* dated after now: counts for nothing until the clock gets there */
        RETENTION_KEEP_MINIMUM, /* one of the newest good ones of a service */
        RETENTION_KEEP_RECENT,  /* not old enough */
        RETENTION_DROP_EXPIRED,
} RetentionReason;

/* One record; everything but `reason` is input and borrowed. */
typedef struct RetentionRecord {
        const char *id, *parent_id; /* parent: "" if it started from nothing */
        const char *schedule;       /* "" if made by hand */
        uint64_t created_usec;
        bool good;   /* completed, and no verification has found it damaged */
        bool lesser; /* databases alone, or imported: stands in for no other kind */
        bool pinned;
        const char *const *services;
        size_t n_services;
        RetentionReason reason;
        uint64_t time_usec; /* what the rules take for its time */
} RetentionRecord;

/* A schedule's own number of days, for the backups that it made. */
typedef struct RetentionSchedule {
        const char *name;
        uint32_t days;
} RetentionSchedule;

typedef struct RetentionRules {
        uint32_t days;            /* at least 1 */
        uint32_t minimum_backups; /* per service, at least 1 */
        const RetentionSchedule *schedules;
        size_t n_schedules;
} RetentionRules;

/*
 * Sorts the records, newest first, and gives each a reason:
 *  - a backup is as old as its instant says, but always newer than the one it started from (a clock
 *    set back while it was made);
 *  - a pinned one stays; one that lies after `now_usec` stays, and counts for nothing else;
 *  - of each service the newest `minimum_backups` good ones stay, lesser ones not counted; so many
 *    good ones of any kind stay, too;
 *  - what is older than its days goes, where the time between two backups, or since the last one,
 *    counts at most half of those days: a clock that jumped ahead makes nothing old at once.
 */
void retention_decide(const RetentionRules *rules,
                      uint64_t now_usec,
                      RetentionRecord *records,
                      size_t n);

bool retention_drops(RetentionReason reason);
const char *retention_reason_text(RetentionReason reason);
