/*
 * The intent says `held` before the first trace of it is in /run, and says so until the last one is
 * gone: whatever a crash leaves is found, and let go of, by a recovery.
 */

#include "worker/units.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/step.h"
#include "worker/unit-hold.h"

#define JOB_TIMEOUT_USEC (600 * USEC_PER_SEC) /* what a unit itself allows is mostly less */
#define WATCH_STEP_USEC  (200 * USEC_PER_MSEC)

void units_done(Units *u) {
        systemd_close(u->systemd);
        free(u->check);
}

/* ---- which there are ---- */

static const ConfigService *service_at(Work *w, json_object *services, size_t i) {
        return config_service(w->config,
                              json_object_get_string(json_object_array_get_idx(services, i)));
}

static const char *first_unit(const ConfigService *c) {
        return c && c->units.n > 0 ? c->units.items[0] : c ? c->health_check_unit : NULL;
}

static int open_systemd(const ConfigService *c, Systemd **ret, Failure *reterr) {
        int r = systemd_open(ret, reterr);

        if (r != -ENOENT)
                return r;
        return fail_set(reterr, FAIL_NOT_RESTORABLE, EOPNOTSUPP,
                        "service %s: unit %s would have to be stopped and started around the swap, "
                        "and there is no systemd on the bus that could; restore aside with --into, "
                        "or stop the service yourself and take Unit= and HealthCheckUnit= out of "
                        "%s for the while",
                        c->name, first_unit(c), c->file);
}

static int is_state(Systemd *s,
                    const char *unit,
                    const char *interface,
                    const char *property,
                    const char *wanted,
                    Failure *reterr) {
        _cleanup_free_ char *text = NULL;
        int r = systemd_get_text(s, unit, interface, property, &text, reterr);

        return r < 0 ? r : strcmp(text, wanted) == 0;
}

static int check_unit(Systemd *s, const ConfigService *c, const char *unit, Failure *reterr) {
        _cleanup_free_ char *load = NULL;
        int r = systemd_get_text(s, unit, "Unit", "LoadState", &load, reterr);

        if (r < 0 || strcmp(load, "loaded") == 0 || strcmp(load, "masked") == 0)
                return r;
        return fail_set(reterr, FAIL_NOT_RESTORABLE, ENOENT,
                        "service %s: systemd has no unit %s that could be stopped and started "
                        "(%s); correct Unit= in %s",
                        c->name, unit, load, c->file);
}

/* Starting another kind of service says nothing about its success. */
static int check_health_unit(Systemd *s, const ConfigService *c, Failure *reterr) {
        const char *unit = c->health_check_unit;
        int r = is_state(s, unit, "Unit", "LoadState", "loaded", reterr);

        if (r > 0)
                r = is_state(s, unit, "Service", "Type", "oneshot", reterr);
        if (r != 0)
                return r < 0 ? r : 0;
        return fail_set(reterr, FAIL_NOT_RESTORABLE, ENOENT,
                        "service %s: %s is no oneshot unit of systemd that could check it; correct "
                        "HealthCheckUnit= in %s",
                        c->name, unit, c->file);
}

int units_check(Work *w, json_object *services, Failure *reterr) {
        _cleanup_(systemd_closep) Systemd *s = NULL;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < json_object_array_length(services); i++) {
                const ConfigService *c = service_at(w, services, i);

                if (!first_unit(c))
                        continue;
                if (!s)
                        r = open_systemd(c, &s, reterr);
                for (size_t k = 0; r >= 0 && k < c->units.n; k++)
                        r = check_unit(s, c, c->units.items[k], reterr);
                if (r >= 0 && c->health_check_unit)
                        r = check_health_unit(s, c, reterr);
        }
        return r;
}

/* A unit that systemd tries to start over and over again is meant to run. */
static bool is_up(const char *state) {
        return strcmp(state, "active") == 0 || strcmp(state, "reloading") == 0 ||
               strcmp(state, "activating") == 0;
}

/*
 * One that does its work and ends, caught at it: it is stopped and not started again, for that
 * would wait for all of its work, and find it ended where a unit that stays up is wanted.
 */
static int is_passing(Systemd *s, const char *unit, const char *state, Failure *reterr) {
        size_t n = strlen(unit), m = strlen(".service");
        bool remains = false;
        int r;

        if (strcmp(state, "activating") != 0 || n <= m || strcmp(unit + n - m, ".service") != 0)
                return 0;
        r = is_state(s, unit, "Service", "Type", "oneshot", reterr);
        if (r > 0) {
                r = systemd_get_bool(s, unit, "Service", "RemainAfterExit", &remains, reterr);
                return r < 0 ? r : !remains;
        }
        return r;
}

static int choose_unit(Units *u, const char *name, bool *ret_active, Failure *reterr) {
        _cleanup_free_ char *id = NULL, *state = NULL;
        int r = systemd_get_text(u->systemd, name, "Unit", "Id", &id, reterr);

        if (r >= 0)
                r = systemd_get_text(u->systemd, name, "Unit", "ActiveState", &state, reterr);
        if (r >= 0)
                r = is_passing(u->systemd, id, state, reterr);
        if (r < 0)
                return r;
        *ret_active = is_up(state) && r == 0;
        /* Stopping it takes the place of the job that would have started it again. */
        if (!is_up(state))
                r = systemd_will_start(u->systemd, id, ret_active, reterr);
        if (r < 0)
                return r;
        return intent_add_unit(u->intent, id, *ret_active) < 0
                       ? fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "units")
                       : 0;
}

/* A check of a service that does not run would say nothing. */
static int choose_service(Units *u, const ConfigService *c, Failure *reterr) {
        bool active, any = c->units.n == 0;
        uint64_t delay = c->health_delay_sec * USEC_PER_SEC;
        int r = u->systemd ? 0 : open_systemd(c, &u->systemd, reterr);

        for (size_t k = 0; r >= 0 && k < c->units.n; k++) {
                r = choose_unit(u, c->units.items[k], &active, reterr);
                any = any || (r >= 0 && active);
        }
        if (r < 0 || !any)
                return r;
        if (c->units.n > 0 && delay > u->delay_usec)
                u->delay_usec = delay;
        if (c->health_check_unit)
                u->check[u->n_check++] = c->health_check_unit;
        return 0;
}

int units_choose(Units *u, Failure *reterr) {
        json_object *services = u->intent->services;
        int r = 0;

        intent_clear_units(u->intent);
        u->check = calloc(json_object_array_length(services) + 1, sizeof(*u->check));
        if (!u->check)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "units");
        for (size_t i = 0; r >= 0 && i < json_object_array_length(services); i++) {
                const ConfigService *c = service_at(u->work, services, i);

                if (first_unit(c))
                        r = choose_service(u, c, reterr);
        }
        return r;
}

int units_reach(Units *u, Failure *reterr) {
        int r = systemd_open(&u->systemd, reterr);

        if (r != -ENOENT)
                return r;
        return fail_set(
                reterr, FAIL_INTERNAL, EHOSTDOWN,
                "restore %s: its units stay down, since there is no systemd on the bus that "
                "could start them; then run holdpoint-worker --recover",
                u->intent->restore_id);
}

/* ---- down and up ---- */

static bool any_active(const Intent *i) {
        bool any = false;

        for (size_t k = 0; k < i->n_units; k++)
                any = any || i->units[k].active;
        return any;
}

static int stop(Units *u, const char *unit, Failure *reterr) {
        _cleanup_free_ char *state = NULL;
        Failure f = FAILURE_INIT;
        int r = systemd_run(u->systemd, SYSTEMD_STOP, unit, JOB_TIMEOUT_USEC, work_interrupted,
                            u->work, &f);

        if (r < 0 && f.code != FAIL_CANCELED)
                return fail_set(reterr, FAIL_TARGET_IN_USE, EBUSY, "unit %s cannot be stopped: %s",
                                unit, f.text);
        if (r < 0) {
                *reterr = f;
                return r;
        }
        r = systemd_get_text(u->systemd, unit, "Unit", "ActiveState", &state, reterr);
        if (r < 0 || strcmp(state, "inactive") == 0 || strcmp(state, "failed") == 0)
                return r;
        return fail_set(reterr, FAIL_TARGET_IN_USE, EBUSY, "unit %s was stopped and is %s", unit,
                        state);
}

/* In the reverse order of starting. */
static int stop_all(Units *u, Failure *reterr) {
        Intent *i = u->intent;
        int r = 0;

        for (size_t k = i->n_units; r >= 0 && k-- > 0;) {
                r = stop(u, i->units[k].name, reterr);
                step("unit-stopped");
        }
        if (r >= 0)
                log_info("units are down");
        return r;
}

int units_take_down(Units *u, Failure *reterr) {
        Intent *i = u->intent;
        bool first = i->down_since_usec == 0 && any_active(i);
        int r;

        if (!u->systemd || i->n_units == 0)
                return 0;
        work_phase(u->work, "stop");
        i->held = true;
        if (first)
                i->down_since_usec = clock_monotonic_usec();
        r = intent_save(u->work, i, reterr);
        step("units-held");
        if (r >= 0)
                r = unit_hold_write(i, reterr);
        if (r >= 0)
                r = systemd_reload(u->systemd, reterr);
        step("units-blocked");
        if (first)
                i->down_since_usec = clock_monotonic_usec();
        return r < 0 ? r : stop_all(u, reterr);
}

static int start(Units *u, const char *unit, Failure *reterr) {
        Failure f = FAILURE_INIT;
        int r;

        systemd_reset_failed(u->systemd, unit);
        r = systemd_run(u->systemd, SYSTEMD_START, unit, JOB_TIMEOUT_USEC, NULL, NULL, &f);
        return r < 0 ? fail_set(reterr, FAIL_NOT_RESTORABLE, f.errnum, "unit %s did not start: %s",
                                unit, f.text)
                     : 0;
}

static void count_down_time(Intent *i) {
        uint64_t now = clock_monotonic_usec();

        if (i->down_since_usec > 0 && i->down_since_usec < now)
                i->units_down_usec += now - i->down_since_usec;
        i->down_since_usec = 0;
}

int units_bring_up(Units *u, Failure *reterr) {
        Intent *i = u->intent;
        int r = 0;

        if (!u->systemd || !i->held)
                return 0;
        work_phase(u->work, "start");
        r = unit_hold_lift(i, reterr);
        step("units-let-go");
        for (size_t k = 0; k < i->n_units; k++) {
                Failure f = FAILURE_INIT;

                if (!i->units[k].active || start(u, i->units[k].name, &f) >= 0)
                        continue;
                if (r >= 0) {
                        *reterr = f;
                        r = -f.errnum;
                }
        }
        count_down_time(i);
        step("units-up");
        return r;
}

/* ---- health ---- */

static int did_not_stay(Units *u, const char *unit, Failure *reterr) {
        Failure ignored = FAILURE_INIT;
        _cleanup_free_ char *state = NULL;

        (void) systemd_get_text(u->systemd, unit, "Unit", "ActiveState", &state, &ignored);
        return fail_set(reterr, FAIL_NOT_RESTORABLE, EIO,
                        "unit %s did not stay active after its start (it is %s); 'systemctl status "
                        "%s' says more",
                        unit, state ? state : "gone", unit);
}

/* The moment since which it is active; 0: it is not. */
static int active_since(Units *u, const char *unit, uint64_t *ret, Failure *reterr) {
        _cleanup_free_ char *state = NULL;
        int r = systemd_get_text(u->systemd, unit, "Unit", "ActiveState", &state, reterr);

        *ret = 0;
        if (r < 0 || (strcmp(state, "active") != 0 && strcmp(state, "reloading") != 0))
                return r;
        return systemd_get_u64(u->systemd, unit, "Unit", "ActiveEnterTimestampMonotonic", ret,
                               reterr);
}

/* One that systemd has started again meanwhile did not stay up either. */
static int look(Units *u, uint64_t *since, Failure *reterr) {
        Intent *i = u->intent;

        for (size_t k = 0; k < i->n_units; k++) {
                uint64_t now;
                int r;

                if (!i->units[k].active)
                        continue;
                r = active_since(u, i->units[k].name, &now, reterr);
                if (r < 0)
                        return r;
                if (now == 0 || (since[k] && since[k] != now))
                        return did_not_stay(u, i->units[k].name, reterr);
                since[k] = now;
        }
        return 0;
}

static int watch_active(Units *u, Failure *reterr) {
        _cleanup_free_ uint64_t *since = calloc(u->intent->n_units + 1, sizeof(*since));
        uint64_t end = clock_monotonic_usec() + u->delay_usec, now;
        int r;

        if (!since)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "units");
        for (;;) {
                r = look(u, since, reterr);
                now = clock_monotonic_usec();
                if (r < 0 || now >= end)
                        return r;
                (void) usleep(
                        (useconds_t) (end - now < WATCH_STEP_USEC ? end - now : WATCH_STEP_USEC));
        }
}

static int run_check(Units *u, const char *unit, Failure *reterr) {
        Failure f = FAILURE_INIT, ignored = FAILURE_INIT;

        /* Anew, if it is one that stays active after its success. */
        if (systemd_run(u->systemd, SYSTEMD_RESTART, unit, JOB_TIMEOUT_USEC, NULL, NULL, &f) >= 0)
                return 0;
        /* One that hangs may have the data open, and would be in the way of going back. */
        (void) systemd_run(u->systemd, SYSTEMD_STOP, unit, JOB_TIMEOUT_USEC, NULL, NULL, &ignored);
        return fail_set(reterr, FAIL_NOT_RESTORABLE, EIO, "health check %s: %s", unit, f.text);
}

int units_watch(Units *u, Failure *reterr) {
        int r = 0;

        if (!u->systemd || (!any_active(u->intent) && u->n_check == 0))
                return 0;
        work_phase(u->work, "health");
        r = watch_active(u, reterr);
        for (size_t k = 0; r >= 0 && k < u->n_check; k++)
                r = run_check(u, u->check[k], reterr);
        step("watched");
        return r;
}

int units_release(Units *u, Failure *reterr) {
        Intent *i = u->intent;
        Failure f = FAILURE_INIT;
        int r = 0;

        if (!i->held)
                return 0;
        if (u->systemd)
                r = unit_hold_remove(i, reterr);
        /* Without its flag a drop-in that systemd still remembers holds nothing. */
        if (r >= 0 && u->systemd && systemd_reload(u->systemd, &f) < 0)
                log_warning("%s", f.text);
        step("units-released");
        if (r < 0)
                return r;
        i->held = false;
        i->down_since_usec = 0;
        return intent_save(u->work, i, reterr);
}
