/*
 * The schedule named "default" follows AUTO_BACKUP_* of /etc/default/holdpoint, which may be
 * readable for root alone: so it is a worker that looks. Once somebody has set it over D-Bus it is
 * theirs and stays as it is.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/schedule.h"
#include "worker/run.h"
#include "worker/systemd.h"

#define NAME   "default"
#define ORIGIN "defaults"

static const char *frequency_text(ConfigFrequency f) {
        switch (f) {
        case CONFIG_DAILY:
                return "daily";
        case CONFIG_WEEKLY:
                return "weekly";
        case CONFIG_MONTHLY:
                return "monthly";
        }
        return "";
}

static bool is_same(const Schedule *s, const ConfigSchedule *wanted, const char *time) {
        return strcmp(s->frequency, frequency_text(wanted->frequency)) == 0 &&
               strcmp(s->time, time) == 0 && strcmp(s->backup_type, wanted->backup_type) == 0;
}

/* Whether it is enabled, but does not run: a worker ended before it had started it. */
static bool is_half_done(void) {
        static const char timer[] = "holdpoint@" NAME ".timer";
        _cleanup_(systemd_closep) Systemd *s = NULL;
        _cleanup_free_ char *file = NULL, *state = NULL;
        Failure ignored = FAILURE_INIT; /* without systemd there is nothing to start */

        return systemd_open(&s, &ignored) >= 0 &&
               systemd_get_text(s, timer, "Unit", "UnitFileState", &file, &ignored) >= 0 &&
               systemd_get_text(s, timer, "Unit", "ActiveState", &state, &ignored) >= 0 &&
               strcmp(file, "enabled") == 0 && strcmp(state, "inactive") == 0;
}

/* 1 if something is to be done, 0 if not. A disabled one that is not there needs no timer. */
static int is_wanted(const ConfigSchedule *wanted, const char *time, Failure *reterr) {
        _cleanup_schedule_ Schedule s = { 0 };
        int r;

        if (!wanted->is_set)
                return 0;
        r = schedule_load(NAME, &s, reterr);
        if (r < 0 && reterr->code == FAIL_NO_SUCH_SCHEDULE) {
                *reterr = FAILURE_INIT;
                return wanted->enabled;
        }
        if (r < 0)
                return r;
        if (strcmp(s.origin, ORIGIN) != 0) {
                log_debug("schedule " NAME " was set by hand and stays");
                return 0;
        }
        return !is_same(&s, wanted, time) || !wanted->enabled || is_half_done();
}

/* The request of "set-schedule" that this comes to. */
static int fill_request(Work *w, const ConfigSchedule *wanted, const char *time) {
        json_object *o = w->request;

        return json_put_string(o, "name", NAME) < 0 || json_put_string(o, "origin", ORIGIN) < 0 ||
                               json_put_string(o, "frequency", frequency_text(wanted->frequency)) <
                                       0 ||
                               json_put_string(o, "time", time) < 0 ||
                               json_put_string(o, "backup_type", wanted->backup_type) < 0 ||
                               json_put_u64(o, "retention_days", w->config->retention_days) < 0 ||
                               json_put_bool(o, "enabled", wanted->enabled) < 0
                       ? -ENOMEM
                       : 0;
}

int run_default_schedule(Work *w,
                         const char **ret_result,
                         json_object **ret_summary,
                         Failure *reterr) {
        const ConfigSchedule *wanted = &w->config->default_schedule;
        char time[16];
        int r;

        (void) snprintf(time, sizeof(time), "%02u:%02u", wanted->hour, wanted->minute);
        r = is_wanted(wanted, time, reterr);
        if (r <= 0)
                return r;
        if (fill_request(w, wanted, time) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "schedule");
        return run_set_schedule(w, ret_result, ret_summary, reterr);
}
