/*
 * Retention is what turns a wrong clock, or a flood of useless backups, into lost data. Hence: time
 * is read off the records as well as off the clock, and what is kept for a service is counted in
 * good backups alone.
 */

#include "repo/retention.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define USEC_PER_DAY (86400 * USEC_PER_SEC)

/* By id: a parent is looked up in this order. */
static int compare_id(const void *a, const void *b) {
        const RetentionRecord *x = a, *y = b;

        return strcmp(x->id, y->id);
}

static int newest_first(const void *a, const void *b) {
        const RetentionRecord *x = a, *y = b;

        if (x->time_usec != y->time_usec)
                return x->time_usec < y->time_usec ? 1 : -1;
        if (x->created_usec != y->created_usec)
                return x->created_usec < y->created_usec ? 1 : -1;
        return compare_id(a, b);
}

/*
 * Times may only grow, and only up to that of a record that is not in the future. Chains are
 * followed link by link: as many rounds as the longest one has links out of order, and never more
 * than there are records.
 */
static void take_times_of_parents(uint64_t now, RetentionRecord *records, size_t n) {
        bool changed = true;

        qsort(records, n, sizeof(*records), compare_id);
        for (size_t round = 0; changed && round < n; round++) {
                changed = false;
                for (size_t i = 0; i < n; i++) {
                        RetentionRecord key = { .id = records[i].parent_id }, *parent;

                        parent =
                                *key.id ? bsearch(&key, records, n, sizeof(key), compare_id) : NULL;
                        if (!parent || parent->time_usec >= now ||
                            parent->time_usec < records[i].time_usec)
                                continue;
                        records[i].time_usec = parent->time_usec + 1;
                        changed = true;
                }
        }
}

static bool has_service(const RetentionRecord *r, const char *service) {
        for (size_t i = 0; i < r->n_services; i++)
                if (strcmp(r->services[i], service) == 0)
                        return true;
        return false;
}

/*
 * True if fewer than `minimum` good backups of this service are newer that hold as much. Sorted,
 * newest first.
 */
static bool is_needed(const RetentionRecord *records,
                      size_t at,
                      const char *service,
                      uint64_t now,
                      uint32_t minimum) {
        uint32_t newer = 0;

        for (size_t i = 0; i < at && newer < minimum; i++)
                newer += records[i].good && records[i].time_usec <= now &&
                         (!records[i].lesser || records[at].lesser) &&
                         has_service(&records[i], service);
        return newer < minimum;
}

static bool is_minimum(const RetentionRecord *records, size_t at, uint64_t now, uint32_t minimum) {
        const RetentionRecord *r = &records[at];

        for (size_t i = 0; r->good && i < r->n_services; i++)
                if (is_needed(records, at, r->services[i], now, minimum))
                        return true;
        return false;
}

/* The time that has passed over record `at`, no single stretch of it counted beyond `stretch`. */
static uint64_t
age(const RetentionRecord *records, size_t at, uint64_t now, uint64_t stretch, uint64_t enough) {
        uint64_t sum = 0, later = now;

        for (size_t i = 0; i <= at && sum <= enough; i++) {
                uint64_t gap;

                if (records[i].time_usec > now)
                        continue;
                gap = later - records[i].time_usec;
                sum += gap < stretch ? gap : stretch;
                later = records[i].time_usec;
        }
        return sum;
}

static uint32_t days_of(const RetentionRules *rules, const RetentionRecord *r) {
        for (size_t i = 0; *r->schedule && i < rules->n_schedules; i++)
                if (strcmp(rules->schedules[i].name, r->schedule) == 0)
                        return rules->schedules[i].days;
        return rules->days;
}

static RetentionReason
judge(const RetentionRules *rules, uint64_t now, const RetentionRecord *records, size_t at) {
        uint64_t limit = days_of(rules, &records[at]) * USEC_PER_DAY;

        if (records[at].pinned)
                return RETENTION_KEEP_PINNED;
        if (records[at].time_usec > now)
                return RETENTION_KEEP_FUTURE;
        if (is_minimum(records, at, now, rules->minimum_backups))
                return RETENTION_KEEP_MINIMUM;
        return age(records, at, now, limit / 2, limit) > limit ? RETENTION_DROP_EXPIRED
                                                               : RETENTION_KEEP_RECENT;
}

void retention_decide(const RetentionRules *rules,
                      uint64_t now_usec,
                      RetentionRecord *records,
                      size_t n) {
        if (n == 0)
                return;
        for (size_t i = 0; i < n; i++)
                records[i].time_usec = records[i].created_usec;
        take_times_of_parents(now_usec, records, n);
        qsort(records, n, sizeof(*records), newest_first);
        for (size_t i = 0; i < n; i++)
                records[i].reason = judge(rules, now_usec, records, i);
}

bool retention_drops(RetentionReason reason) {
        return reason == RETENTION_DROP_EXPIRED;
}

const char *retention_reason_text(RetentionReason reason) {
        switch (reason) {
        case RETENTION_KEEP_PINNED:
                return "pinned";
        case RETENTION_KEEP_FUTURE:
                return "dated in the future";
        case RETENTION_KEEP_MINIMUM:
                return "one of the newest of a service";
        case RETENTION_KEEP_RECENT:
                return "recent";
        case RETENTION_DROP_EXPIRED:
                return "expired";
        }
        return "";
}
