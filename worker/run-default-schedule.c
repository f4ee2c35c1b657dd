/*
 * The schedule named "default" follows AUTO_BACKUP_* and the days of /etc/default/holdpoint, which
 * may be readable for root alone: so it is a worker that looks. Once somebody has set it over D-Bus
 * or switched its timer with systemctl, it is theirs and stays as it is.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/schedule.h"
#include "worker/run.h"
#include "worker/schedule-change.h"

#define NAME          "default"
#define TIME_TEXT_MAX 16

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

static void write_time(const ConfigSchedule *wanted, char text[TIME_TEXT_MAX]) {
        (void) snprintf(text, TIME_TEXT_MAX, "%02u:%02u", wanted->hour, wanted->minute);
}

/* All that the file says, but for whether the timer is on. */
static bool is_same(const Work *w, const Schedule *s) {
        const ConfigSchedule *wanted = &w->config->default_schedule;
        char time[TIME_TEXT_MAX];

        write_time(wanted, time);
        return strcmp(s->frequency, frequency_text(wanted->frequency)) == 0 &&
               strcmp(s->time, time) == 0 && strcmp(s->backup_type, wanted->backup_type) == 0 &&
               s->retention_days == w->config->retention_days;
}

static bool is_followed(const Schedule *s) {
        return strncmp(s->origin, SCHEDULE_FOLLOWS, strlen(SCHEDULE_FOLLOWS)) == 0;
}

static int is_wanted(Work *w, const Schedule *was, bool enabled, Failure *reterr) {
        const ConfigSchedule *wanted = &w->config->default_schedule;
        bool left_on, left_off;

        if (!was->name)
                return 1;
        left_on = strcmp(was->origin, SCHEDULE_FOLLOWS_ENABLED) == 0;
        left_off = strcmp(was->origin, SCHEDULE_FOLLOWS_DISABLED) == 0;
        if (!is_followed(was) || (left_on && !enabled) || (left_off && enabled)) {
                log_info("schedule " NAME " was %s by hand and stays as it is",
                         !is_followed(was) ? "set"
                         : enabled         ? "enabled"
                                           : "disabled");
                return 0;
        }
        if (!left_on && !left_off)
                return 1; /* not all of the last change was made */
        return !is_same(w, was) || wanted->enabled != enabled;
}

/* One that is off and not there needs no timer, and no systemd. */
static bool is_needless(const ConfigSchedule *wanted) {
        _cleanup_schedule_ Schedule s = { 0 };
        Failure why = FAILURE_INIT;

        return !wanted->is_set || (!wanted->enabled && schedule_load(NAME, &s, &why) < 0 &&
                                   why.code == FAIL_NO_SUCH_SCHEDULE);
}

/* The request of "set-schedule" that this comes to. */
static int fill_request(Work *w, const ConfigSchedule *wanted) {
        const char *frequency = frequency_text(wanted->frequency);
        json_object *o = w->request;
        char time[TIME_TEXT_MAX];

        write_time(wanted, time);
        return json_put_string(o, "name", NAME) < 0 ||
                               json_put_string(o, "origin", SCHEDULE_FOLLOWS) < 0 ||
                               json_put_string(o, "frequency", frequency) < 0 ||
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

        if (is_needless(wanted))
                return 0;
        if (fill_request(w, wanted) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "schedule");
        return schedule_change(w, is_wanted, reterr);
}
