/*
 * Retention as a table, as properties under a clock that jumps, and against a simple model where
 * nothing jumps.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "repo/retention.h"

#define DAY (86400 * USEC_PER_SEC)
#define NOW (20000 * DAY)

static const char *const app[] = { "app" }, *const web[] = { "web" },
                         *const both[] = { "app", "web" };

#define AGED(name, days)                                                                           \
        {                                                                                          \
                .id = (name), .parent_id = "", .schedule = "", .created_usec = NOW - (days) *DAY,  \
                .good = true, .services = app, .n_services = 1                                     \
        }

static RetentionRules plain_rules(uint32_t days, uint32_t minimum) {
        return (RetentionRules){ .days = days, .minimum_backups = minimum };
}

static RetentionReason reason_of(const RetentionRecord *r, size_t n, const char *id) {
        for (size_t i = 0; i < n; i++)
                if (strcmp(r[i].id, id) == 0)
                        return r[i].reason;
        fail_msg("%s is lost", id);
        return RETENTION_KEEP_PINNED;
}

static void decide(const RetentionRules *rules, RetentionRecord *r, size_t n) {
        retention_decide(rules, NOW, r, n);
}

/* ---- the table ---- */

static void test_nothing(void **state) {
        RetentionRules rules = plain_rules(30, 1);

        retention_decide(&rules, NOW, NULL, 0);
}

static void test_age(void **state) {
        RetentionRules rules = plain_rules(30, 1);
        RetentionRecord r[] = { AGED("a", 0),  AGED("b", 10), AGED("c", 20),
                                AGED("d", 30), AGED("e", 31), AGED("f", 32) };

        decide(&rules, r, ELEMENTSOF(r));
        assert_int_equal(reason_of(r, 6, "a"), RETENTION_KEEP_MINIMUM);
        assert_int_equal(reason_of(r, 6, "b"), RETENTION_KEEP_RECENT);
        assert_int_equal(reason_of(r, 6, "d"), RETENTION_KEEP_RECENT); /* not older than 30 days */
        assert_int_equal(reason_of(r, 6, "e"), RETENTION_DROP_EXPIRED);
        assert_int_equal(reason_of(r, 6, "f"), RETENTION_DROP_EXPIRED);
        assert_string_equal(retention_reason_text(RETENTION_DROP_EXPIRED), "expired");
}

static void test_last_good_stays(void **state) {
        RetentionRules rules = plain_rules(1, 2);
        RetentionRecord r[] = { AGED("partial", 1), AGED("a", 2), AGED("b", 3), AGED("c", 4),
                                AGED("d", 5) };

        r[0].good = false;
        decide(&rules, r, ELEMENTSOF(r));
        assert_int_equal(reason_of(r, 5, "a"), RETENTION_KEEP_MINIMUM);
        assert_int_equal(reason_of(r, 5, "b"), RETENTION_KEEP_MINIMUM);
        assert_int_equal(reason_of(r, 5, "c"), RETENTION_DROP_EXPIRED);
        assert_int_equal(reason_of(r, 5, "partial"), RETENTION_KEEP_RECENT);
}

/* The last one of a service may be an old backup of several. */
static void test_each_service(void **state) {
        RetentionRules rules = plain_rules(1, 1);
        RetentionRecord r[] = { AGED("a", 0), AGED("b", 2), AGED("full", 4), AGED("old", 6) };

        r[2].services = both;
        r[2].n_services = 2;
        r[3].services = web;
        decide(&rules, r, ELEMENTSOF(r));
        assert_int_equal(reason_of(r, 4, "a"), RETENTION_KEEP_MINIMUM);
        assert_int_equal(reason_of(r, 4, "b"),
                         RETENTION_KEEP_RECENT); /* one gap counts half a day */
        assert_int_equal(reason_of(r, 4, "full"), RETENTION_KEEP_MINIMUM);
        assert_int_equal(reason_of(r, 4, "old"), RETENTION_DROP_EXPIRED);
}

/* Databases alone, however many, are no reason to give up the last backup that has the files. */
static void test_lesser(void **state) {
        RetentionRules rules = plain_rules(1, 1);
        RetentionRecord r[] = { AGED("db1", 0), AGED("db2", 1),   AGED("db3", 2),
                                AGED("db4", 3), AGED("whole", 4), AGED("old", 5) };

        for (size_t i = 0; i < 4; i++)
                r[i].lesser = true;
        decide(&rules, r, ELEMENTSOF(r));
        assert_int_equal(reason_of(r, 6, "db1"), RETENTION_KEEP_MINIMUM);
        assert_int_equal(reason_of(r, 6, "db4"), RETENTION_DROP_EXPIRED);
        assert_int_equal(reason_of(r, 6, "whole"), RETENTION_KEEP_MINIMUM);
        assert_int_equal(reason_of(r, 6, "old"), RETENTION_DROP_EXPIRED);
        /* A whole one has what a lesser one has. */
        r[0] = (RetentionRecord) AGED("whole", 0);
        r[1] = (RetentionRecord) AGED("db", 4);
        r[1].lesser = true;
        decide(&rules, r, 2);
        assert_int_equal(reason_of(r, 2, "whole"), RETENTION_KEEP_MINIMUM);
        r[2] = (RetentionRecord) AGED("other", 2);
        r[3] = (RetentionRecord) AGED("another", 3);
        decide(&rules, r, 4);
        assert_int_equal(reason_of(r, 4, "db"), RETENTION_DROP_EXPIRED);
}

static void test_pinned(void **state) {
        RetentionRules rules = plain_rules(1, 1);
        RetentionRecord r[] = { AGED("a", 1), AGED("b", 2), AGED("c", 3), AGED("d", 400) };

        r[3].pinned = true;
        decide(&rules, r, ELEMENTSOF(r));
        assert_int_equal(reason_of(r, 4, "c"), RETENTION_DROP_EXPIRED);
        assert_int_equal(reason_of(r, 4, "d"), RETENTION_KEEP_PINNED);
}

/* A record from the future is none of the newest ones, and makes nobody old. */
static void test_future(void **state) {
        RetentionRules rules = plain_rules(2, 1);
        RetentionRecord r[] = { AGED("a", 0), AGED("b", 1), AGED("future", 0) };

        r[2].created_usec = NOW + 365 * DAY;
        decide(&rules, r, ELEMENTSOF(r));
        assert_int_equal(reason_of(r, 3, "future"), RETENTION_KEEP_FUTURE);
        assert_int_equal(reason_of(r, 3, "a"), RETENTION_KEEP_MINIMUM);
        assert_int_equal(reason_of(r, 3, "b"), RETENTION_KEEP_RECENT);
}

/* The clock jumps a year ahead: half of the days count as passed, no more. */
static void test_jump_ahead(void **state) {
        RetentionRules rules = plain_rules(30, 1);
        RetentionRecord r[40];

        for (unsigned i = 0; i < ELEMENTSOF(r); i++) {
                static char ids[ELEMENTSOF(r)][8];

                (void) snprintf(ids[i], sizeof(ids[i]), "%02u", i);
                r[i] = (RetentionRecord) AGED(ids[i], i);
        }
        retention_decide(&rules, NOW + 365 * DAY, r, ELEMENTSOF(r));
        assert_int_equal(reason_of(r, ELEMENTSOF(r), "15"), RETENTION_KEEP_RECENT);
        assert_int_equal(reason_of(r, ELEMENTSOF(r), "16"), RETENTION_DROP_EXPIRED);
}

/* Made while the clock stood a year back: as new as the one that it started from. */
static void test_set_back(void **state) {
        RetentionRules rules = plain_rules(30, 1);
        RetentionRecord r[] = { AGED("x", 365), AGED("y", 364), AGED("a", 1), AGED("b", 20),
                                AGED("c", 40),  AGED("d", 50),  AGED("e", 60) };

        r[0].parent_id = "a";
        r[1].parent_id = "x";
        decide(&rules, r, ELEMENTSOF(r));
        assert_int_equal(reason_of(r, 7, "y"), RETENTION_KEEP_MINIMUM);
        assert_int_equal(reason_of(r, 7, "x"), RETENTION_KEEP_RECENT);
        assert_int_equal(reason_of(r, 7, "a"), RETENTION_KEEP_RECENT);
        assert_int_equal(reason_of(r, 7, "e"), RETENTION_DROP_EXPIRED);
        /* Parents that go in a circle end nowhere, and in the same place. */
        r[0].parent_id = r[1].id;
        r[1].parent_id = r[0].id;
        decide(&rules, r, ELEMENTSOF(r));
}

/* A child of a record from the future is not drawn there. */
static void test_parent_in_future(void **state) {
        RetentionRules rules = plain_rules(30, 1);
        RetentionRecord r[] = { AGED("future", 0), AGED("a", 1), AGED("b", 2) };

        r[0].created_usec = NOW + DAY;
        r[1].parent_id = "future";
        decide(&rules, r, ELEMENTSOF(r));
        assert_int_equal(reason_of(r, 3, "a"), RETENTION_KEEP_MINIMUM);
}

static void test_schedules(void **state) {
        RetentionSchedule own[] = { { "hourly", 2 }, { "monthly", 400 } };
        RetentionRules rules = {
                .days = 30, .minimum_backups = 1, .schedules = own, .n_schedules = 2
        };
        RetentionRecord r[] = { AGED("a", 0),  AGED("h1", 1), AGED("h2", 2), AGED("h3", 3),
                                AGED("b", 15), AGED("c", 29), AGED("d", 33), AGED("m", 45) };

        r[1].schedule = r[2].schedule = r[3].schedule = "hourly";
        r[7].schedule = "monthly";
        r[6].schedule = "gone"; /* a schedule that was deleted: the general rule */
        decide(&rules, r, ELEMENTSOF(r));
        assert_int_equal(reason_of(r, 8, "h1"), RETENTION_KEEP_RECENT);
        assert_int_equal(reason_of(r, 8, "h2"), RETENTION_KEEP_RECENT);
        assert_int_equal(reason_of(r, 8, "h3"), RETENTION_DROP_EXPIRED);
        assert_int_equal(reason_of(r, 8, "c"), RETENTION_KEEP_RECENT);
        assert_int_equal(reason_of(r, 8, "d"), RETENTION_DROP_EXPIRED);
        assert_int_equal(reason_of(r, 8, "m"), RETENTION_KEEP_RECENT);
}

/* ---- at random ---- */

#define RANDOM_MAX 60

static uint64_t seed;

static uint64_t dice(uint64_t sides) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        return seed % sides;
}

typedef struct Case {
        RetentionRules rules;
        char ids[RANDOM_MAX][24];
        RetentionRecord r[RANDOM_MAX];
        size_t n;
} Case;

/* `wild`: dates all over the place, parents at random. Else one after the other, without a gap
 * that would count less than it is. */
static void make_case(Case *c, bool wild) {
        uint64_t at = NOW - DAY / 4;

        c->rules = plain_rules(2 + (uint32_t) dice(20), 1 + (uint32_t) dice(3));
        c->n = 1 + dice(RANDOM_MAX - 1);
        for (size_t i = 0; i < c->n; i++) {
                unsigned which = (unsigned) dice(3);

                (void) snprintf(c->ids[i], sizeof(c->ids[i]), "%03u%c", (unsigned) dice(900),
                                'a' + (int) i % 26);
                for (size_t k = 0; k < i; k++)
                        if (strcmp(c->ids[k], c->ids[i]) == 0)
                                (void) snprintf(c->ids[i], sizeof(c->ids[i]), "x%zu", i);
                c->r[i] = (RetentionRecord){
                        .id = c->ids[i],
                        .parent_id = wild && i > 0 && dice(2) ? c->ids[dice(i)] : "",
                        .schedule = "",
                        .created_usec = wild ? NOW + 100 * DAY - dice(400 * DAY) : at,
                        .good = dice(4) > 0,
                        .pinned = dice(8) == 0,
                        .services = which == 0   ? app
                                    : which == 1 ? web
                                                 : both,
                        .n_services = which == 2 ? 2 : 1,
                };
                at -= 1 + dice(c->rules.days * DAY / 2);
        }
}

static bool serves(const RetentionRecord *r, const char *service) {
        for (size_t i = 0; i < r->n_services; i++)
                if (strcmp(r->services[i], service) == 0)
                        return true;
        return false;
}

/* Newest first, as they are after the decision. */
static void expect_promises(const Case *c) {
        for (size_t k = 0; k < 2; k++) {
                uint32_t wanted = c->rules.minimum_backups;

                for (size_t i = 0; i < c->n; i++) {
                        const RetentionRecord *r = &c->r[i];

                        if (!r->good || r->time_usec > NOW || !serves(r, both[k]) || wanted == 0)
                                continue;
                        assert_false(retention_drops(r->reason));
                        wanted--;
                }
        }
        for (size_t i = 0; i < c->n; i++) {
                const RetentionRecord *r = &c->r[i];

                if (!retention_drops(r->reason))
                        continue;
                assert_false(r->pinned);
                assert_true(r->created_usec <= NOW);
                assert_true(r->time_usec >= r->created_usec);
                assert_true(NOW - r->time_usec > c->rules.days * DAY);
        }
}

static void test_promises_at_random(void **state) {
        seed = 1;
        for (int n = 0; n < 5000; n++) {
                Case c, shuffled;

                make_case(&c, true);
                shuffled = c;
                for (size_t i = shuffled.n; i > 1; i--) {
                        size_t k = dice(i);
                        RetentionRecord swap = shuffled.r[i - 1];

                        shuffled.r[i - 1] = shuffled.r[k];
                        shuffled.r[k] = swap;
                }
                decide(&c.rules, c.r, c.n);
                decide(&shuffled.rules, shuffled.r, shuffled.n);
                expect_promises(&c);
                for (size_t i = 0; i < c.n; i++)
                        assert_int_equal(c.r[i].reason,
                                         reason_of(shuffled.r, shuffled.n, c.r[i].id));
        }
}

/* Where no clock jumped the rules are those that everybody knows. */
static bool model_drops(const Case *c, size_t at) {
        const RetentionRecord *r = &c->r[at];

        if (r->pinned || NOW - r->created_usec <= c->rules.days * DAY)
                return false;
        for (size_t k = 0; r->good && k < r->n_services; k++) {
                uint32_t newer = 0;

                for (size_t i = 0; i < c->n; i++)
                        newer += c->r[i].good && c->r[i].created_usec > r->created_usec &&
                                 serves(&c->r[i], r->services[k]);
                if (newer < c->rules.minimum_backups)
                        return false;
        }
        return true;
}

static void test_model_at_random(void **state) {
        unsigned dropped = 0;

        seed = 2;
        for (int n = 0; n < 5000; n++) {
                Case c;

                make_case(&c, false);
                decide(&c.rules, c.r, c.n);
                for (size_t i = 0; i < c.n; i++) {
                        assert_int_equal(retention_drops(c.r[i].reason), model_drops(&c, i));
                        dropped += retention_drops(c.r[i].reason);
                }
        }
        assert_true(dropped > 5000);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_nothing),         cmocka_unit_test(test_age),
                cmocka_unit_test(test_last_good_stays), cmocka_unit_test(test_each_service),
                cmocka_unit_test(test_lesser),          cmocka_unit_test(test_pinned),
                cmocka_unit_test(test_future),          cmocka_unit_test(test_jump_ahead),
                cmocka_unit_test(test_set_back),        cmocka_unit_test(test_parent_in_future),
                cmocka_unit_test(test_schedules),       cmocka_unit_test(test_promises_at_random),
                cmocka_unit_test(test_model_at_random),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
