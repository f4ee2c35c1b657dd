/*
 * Schedules are systemd's: a drop-in for holdpoint@NAME.timer says when and what, "enabled" is what
 * systemctl says, and when it ran is what systemd remembers. A change is written, read by systemd,
 * and taken back if systemd does not understand it. Every verb tells all schedules there are then.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/schedule.h"
#include "base/step.h"
#include "base/text.h"
#include "worker/run.h"
#include "worker/schedule-change.h"
#include "worker/systemd.h"

#define UNIT_TIMEOUT_USEC (60 * USEC_PER_SEC)
#define DEFAULT_FREQUENCY "daily"
#define DEFAULT_TIME      "02:00"

static int open_systemd(Systemd **ret, Failure *reterr) {
        int r = systemd_open(ret, reterr);

        if (r == -ENOENT && reterr->code == FAIL_NONE)
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EOPNOTSUPP,
                                "schedules are timers of systemd, and there is no systemd on the "
                                "bus; call 'holdpoint create' from what runs things here");
        return r;
}

/* One change of the unit files at a time; released with the worker. */
static int lock_schedules(Work *w, Failure *reterr) {
        int fd = openat(w->state_fd, "schedules.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

        if (fd >= 0 && flock(fd, LOCK_EX) >= 0)
                return fd;
        (void) fail_errno(reterr, FAIL_INTERNAL, errno, "cannot lock the schedules");
        return fd_close(fd);
}

static char *unit_of(const char *name, const char *suffix) {
        return text_printf("holdpoint@%s.%s", name, suffix);
}

/* ---- telling ---- */

static int put_time(json_object *o, const char *key, uint64_t usec) {
        char text[CLOCK_TEXT_MAX];

        clock_format(usec == UINT64_MAX ? 0 : usec, text);
        return json_put_string(o, key, text);
}

static int put_settings(json_object *o, const Schedule *s) {
        const char *const texts[][2] = { { "schedule_name", s->name },
                                         { "backup_type", s->backup_type },
                                         { "description", s->description },
                                         { "frequency", s->frequency },
                                         { "time", s->time } };

        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                if (json_put_string(o, texts[i][0], texts[i][1]) < 0)
                        return -ENOMEM;
        return json_put_u64(o, "retention_days", s->retention_days);
}

/* What systemd knows; a unit that it cannot load is a disabled one without a past. */
static int put_state(Systemd *systemd, json_object *o, const Schedule *s) {
        _cleanup_free_ char *timer = unit_of(s->name, "timer"), *file = NULL, *calendar = NULL,
                            *result = NULL, *service = unit_of(s->name, "service");
        uint64_t next = 0, last = 0;
        Failure why = FAILURE_INIT;

        if (!timer || !service)
                return -ENOMEM;
        if (systemd_get_text(systemd, timer, "Unit", "UnitFileState", &file, &why) < 0 ||
            systemd_get_calendar(systemd, timer, &calendar, &why) < 0 ||
            systemd_get_u64(systemd, timer, "Timer", "NextElapseUSecRealtime", &next, &why) < 0 ||
            systemd_get_u64(systemd, timer, "Timer", "LastTriggerUSec", &last, &why) < 0 ||
            systemd_get_text(systemd, service, "Service", "Result", &result, &why) < 0)
                log_warning("schedule %s: %s", s->name, why.text);
        return json_put_bool(o, "enabled", file && strcmp(file, "enabled") == 0) < 0 ||
                               json_put_string(o, "calendar", calendar ?: s->calendar) < 0 ||
                               put_time(o, "next_run", next) < 0 ||
                               put_time(o, "last_run", last) < 0 ||
                               json_put_string(o, "last_result", last && result ? result : "") < 0
                       ? -ENOMEM
                       : 0;
}

static int tell_all(Work *w, Systemd *systemd, Failure *reterr) {
        _cleanup_schedule_list_ ScheduleList l = { 0 };
        int r = schedule_list_load(&l, reterr);

        for (size_t i = 0; r >= 0 && i < l.n; i++) {
                _cleanup_json_ json_object *o = json_object_new_object();

                if (!o || put_settings(o, &l.items[i]) < 0 ||
                    put_state(systemd, o, &l.items[i]) < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "schedules");
                work_stream(w, "schedule", "schedule", TAKE_PTR(o));
        }
        return r;
}

int run_list_schedules(Work *w,
                       const char **ret_result,
                       json_object **ret_summary,
                       Failure *reterr) {
        _cleanup_(systemd_closep) Systemd *systemd = NULL;
        int r = open_systemd(&systemd, reterr);

        if (r < 0)
                return r;
        work_accepted(w);
        return tell_all(w, systemd, reterr);
}

/* ---- changing ---- */

static int replace(char **text, const char *with, Failure *reterr) {
        char *copy = strdup(with);

        if (!copy)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "schedule");
        free(*text);
        *text = copy;
        return 0;
}

/* A member of the request if it is there; else `ret` stays. */
static int take(Work *w, const char *key, const char **ret, Failure *reterr) {
        return json_object_object_get_ex(w->request, key, NULL) ? work_string(w, key, ret, reterr)
                                                                : 0;
}

static int take_calendar(Work *w, Schedule *s, Failure *reterr) {
        const char *frequency = NULL, *time = NULL, *calendar = NULL;
        int r = take(w, "frequency", &frequency, reterr);

        if (r >= 0)
                r = take(w, "time", &time, reterr);
        if (r >= 0)
                r = take(w, "calendar", &calendar, reterr);
        if (r < 0)
                return r;
        if (calendar && (frequency || time))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "a calendar takes the place of frequency and time: give one of "
                                "them");
        if (calendar) {
                if (!schedule_calendar_is_clean(calendar))
                        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                        "'%.100s' is no calendar expression; see systemd.time(7)",
                                        calendar);
                return replace(&s->calendar, calendar, reterr) < 0 ||
                                       replace(&s->frequency, "", reterr) < 0 ||
                                       replace(&s->time, "", reterr) < 0
                               ? -ENOMEM
                               : 0;
        }
        if (s->calendar && !frequency && !time)
                return 0; /* as it was */
        if (!frequency)
                frequency = s->frequency && *s->frequency ? s->frequency : DEFAULT_FREQUENCY;
        if (!time)
                time = s->time && *s->time ? s->time : DEFAULT_TIME;
        free(s->calendar);
        s->calendar = NULL;
        r = schedule_calendar(frequency, time, &s->calendar, reterr);
        if (r >= 0)
                r = replace(&s->frequency, frequency, reterr);
        return r < 0 ? r : replace(&s->time, time, reterr);
}

static int check_type(const Work *w, const char *type, Failure *reterr) {
        if (strcmp(type, "full") == 0 || config_service(w->config, type))
                return 0;
        return fail_set(reterr, FAIL_NO_SUCH_SERVICE, ENOENT,
                        "no service '%.100s' is configured, and it is not 'full'", type);
}

static int take_rest(Work *w, Schedule *s, Failure *reterr) {
        const char *type = s->backup_type ?: "full", *description = s->description ?: "",
                   *origin = "";
        uint64_t days = s->backup_type ? s->retention_days : w->config->retention_days;
        int r = take(w, "backup_type", &type, reterr);

        if (r >= 0)
                r = take(w, "description", &description, reterr);
        if (r >= 0)
                r = take(w, "origin", &origin, reterr);
        if (r >= 0)
                r = check_type(w, type, reterr);
        if (r < 0)
                return r;
        if (json_object_object_get_ex(w->request, "retention_days", NULL) &&
            json_get_u64(w->request, "retention_days", &days) < 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "request: retention_days");
        if (days < 1 || days > SCHEDULE_DAYS_MAX)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "retention_days is 1 to %d",
                                SCHEDULE_DAYS_MAX);
        /* A backslash at the end would join two lines of a unit file. */
        if (!text_is_label(description, 255) || strchr(description, '\\'))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "a description has at most 255 bytes, without control characters "
                                "and backslashes");
        s->retention_days = (uint32_t) days;
        r = replace(&s->backup_type, type, reterr);
        if (r >= 0)
                r = replace(&s->description, description, reterr);
        return r < 0 ? r : replace(&s->origin, origin, reterr);
}

typedef struct Change {
        Systemd *systemd;
        const char *name;
        char *timer;
        Schedule was; /* before; its name is NULL if there was none, or a broken one */
        bool broken, was_enabled, switched;
} Change;

static void change_done(Change *c) {
        systemd_close(c->systemd);
        free(c->timer);
        schedule_done(&c->was);
}

static int run_timer(const Change *c, bool on, Failure *reterr) {
        return systemd_run(c->systemd, on ? SYSTEMD_RESTART : SYSTEMD_STOP, c->timer,
                           UNIT_TIMEOUT_USEC, NULL, NULL, reterr);
}

static int switch_timer(Change *c, bool on, Failure *reterr) {
        int r;

        c->switched = true;
        r = systemd_enable(c->systemd, c->timer, on, reterr);
        if (r >= 0)
                r = systemd_reload(c->systemd, reterr);
        return r < 0 ? r : run_timer(c, on, reterr);
}

/*
 * Puts back what was there; its file first, since systemd does little with a timer that it does not
 * understand. What cannot be put back is said, beside the failure that led here.
 */
static void take_back(Change *c) {
        Failure why = FAILURE_INIT;
        int r = c->was.name ? schedule_save(&c->was, &why) : schedule_remove(c->name, &why);

        if (r >= 0 && c->switched)
                r = systemd_enable(c->systemd, c->timer, c->was_enabled, &why);
        if (r >= 0)
                r = systemd_reload(c->systemd, &why);
        if (r >= 0 && c->switched)
                r = run_timer(c, c->was_enabled, &why);
        if (r < 0)
                log_warning("schedule %s: what was before could not be put back: %s", c->name,
                            why.text);
}

/* Writes it and makes systemd read it; a calendar that systemd passes over is refused. */
static int apply(Change *c, const Schedule *s, Failure *reterr) {
        _cleanup_free_ char *calendar = NULL;
        int r = schedule_save(s, reterr);

        if (r < 0)
                return r;
        step("schedule-written");
        r = systemd_reload(c->systemd, reterr);
        if (r >= 0)
                r = systemd_get_calendar(c->systemd, c->timer, &calendar, reterr);
        if (r >= 0 && !*calendar)
                r = fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                             "systemd does not understand the calendar '%s'; see systemd.time(7), "
                             "and try it with 'systemd-analyze calendar'",
                             s->calendar);
        return r;
}

/* systemd takes a day that never comes, and one that is over, for a calendar like any other. */
static int check_elapses(Change *c, const Schedule *s, Failure *reterr) {
        uint64_t next;
        int r = systemd_get_u64(c->systemd, c->timer, "Timer", "NextElapseUSecRealtime", &next,
                                reterr);

        if (r < 0 || (next > 0 && next < UINT64_MAX))
                return r;
        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                        "the calendar '%s' never comes: no backup would be made; try it with "
                        "'systemd-analyze calendar'",
                        s->calendar);
}

/*
 * A new one is enabled before it is there: ended in between, it is not there at all, and the next
 * attempt begins anew. The other way round that would find one that somebody has switched off.
 */
static int change(Change *c, const Schedule *s, bool enabled, Failure *reterr) {
        int r = 0;

        if (enabled && !c->was.name) {
                c->switched = true;
                r = systemd_enable(c->systemd, c->timer, true, reterr);
        }
        if (r >= 0)
                r = apply(c, s, reterr);
        if (r >= 0)
                r = switch_timer(c, enabled, reterr);
        if (r >= 0 && enabled)
                r = check_elapses(c, s, reterr);
        if (r < 0)
                take_back(c);
        return r;
}

/* What systemd says of the timer of a schedule that is there. */
static int load_enabled(Change *c, Failure *reterr) {
        _cleanup_free_ char *state = NULL;
        int r = systemd_get_text(c->systemd, c->timer, "Unit", "UnitFileState", &state, reterr);

        if (r >= 0)
                c->was_enabled = strcmp(state, "enabled") == 0;
        return r;
}

static int begin_change(Work *w, Change *c, int *ret_lock, Failure *reterr) {
        int r = work_string(w, "name", &c->name, reterr);

        if (r >= 0 && !schedule_name_is_valid(c->name))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "'%.100s' is no name of a schedule: a letter, then up to 62 of "
                                "a-z 0-9 _ -",
                                c->name);
        if (r >= 0)
                r = open_systemd(&c->systemd, reterr);
        if (r >= 0)
                r = *ret_lock = lock_schedules(w, reterr);
        if (r < 0)
                return r;
        c->timer = unit_of(c->name, "timer");
        if (!c->timer)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "schedule");
        r = schedule_load(c->name, &c->was, reterr);
        if (r >= 0)
                return 0;
        /* A broken one is replaced as one that is not there. */
        c->broken = reterr->code == FAIL_CONFIGURATION_INVALID;
        if (c->broken)
                log_warning("schedule %s: %s", c->name, reterr->text);
        else if (reterr->code != FAIL_NO_SUCH_SCHEDULE)
                return r;
        *reterr = FAILURE_INIT;
        return 0;
}

/* Guessed too short, what it has kept for years would go with the next prune. */
static int check_retention_known(Work *w, const Change *c, Failure *reterr) {
        if (!c->broken || json_object_object_get_ex(w->request, "retention_days", NULL))
                return 0;
        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                        "the file of schedule '%s' is broken (the journal says where), and with it "
                        "how long its backups are kept: correct it, or give --retention-days",
                        c->name);
}

static int copy_schedule(const Schedule *from, const char *name, Schedule *ret, Failure *reterr) {
        int r = replace(&ret->name, name, reterr);

        if (!from->name || r < 0)
                return r;
        ret->retention_days = from->retention_days;
        if (replace(&ret->backup_type, from->backup_type, reterr) < 0 ||
            replace(&ret->description, from->description, reterr) < 0 ||
            replace(&ret->frequency, from->frequency, reterr) < 0 ||
            replace(&ret->time, from->time, reterr) < 0 ||
            replace(&ret->calendar, from->calendar, reterr) < 0)
                return -ENOMEM;
        return 0;
}

/* Another one that cannot be read does not undo what was done. */
static int tell_done(Work *w, const Change *c, const char *done, Failure *reterr) {
        Failure why = FAILURE_INIT;
        int r = tell_all(w, c->systemd, &why);

        return r < 0 ? fail_set(reterr, why.code, why.errnum,
                                "schedule '%s' is %s, but not all schedules can be told: %s",
                                c->name, done, why.text)
                     : 0;
}

/* Last of all: from here on, another state of the timer is somebody's will. */
static int note_switched(Change *c, Schedule *s, bool enabled, Failure *reterr) {
        int r;

        if (!*s->origin)
                return 0;
        step("schedule-switched");
        r = replace(&s->origin, enabled ? SCHEDULE_FOLLOWS_ENABLED : SCHEDULE_FOLLOWS_DISABLED,
                    reterr);
        if (r >= 0)
                r = schedule_save(s, reterr);
        return r < 0 ? r : systemd_reload(c->systemd, reterr);
}

static int set(Work *w, Change *c, Failure *reterr) {
        _cleanup_schedule_ Schedule s = { 0 };
        bool enabled;
        int r = check_retention_known(w, c, reterr);

        if (r >= 0)
                r = copy_schedule(&c->was, c->name, &s, reterr);
        if (r >= 0)
                r = take_calendar(w, &s, reterr);
        if (r >= 0)
                r = take_rest(w, &s, reterr);
        if (r >= 0)
                r = work_bool(w, "enabled", !c->was.name || c->was_enabled, &enabled, reterr);
        if (r < 0)
                return r;
        work_accepted(w);
        (void) umask(0022); /* unit files are no secrets, and the agent reads ours */
        r = change(c, &s, enabled, reterr);
        if (r >= 0)
                r = note_switched(c, &s, enabled, reterr);
        if (r < 0)
                return r;
        log_message(MESSAGE_SCHEDULE_SET, NULL, "schedule %s: %s backup at '%s', kept %u days, %s",
                    s.name, s.backup_type, s.calendar, s.retention_days,
                    enabled ? "enabled" : "disabled");
        return tell_done(w, c, "set", reterr);
}

int schedule_change(Work *w, ScheduleCheck *check, Failure *reterr) {
        _cleanup_(change_done) Change c = { 0 };
        _cleanup_schedule_ Schedule broken = { 0 };
        _cleanup_close_ int lock = -1;
        int r = begin_change(w, &c, &lock, reterr);

        if (r >= 0 && c.broken && check)
                return schedule_load(c.name, &broken, reterr); /* nobody has asked for another */
        if (r >= 0 && c.was.name)
                r = load_enabled(&c, reterr);
        if (r >= 0 && check) {
                r = check(w, &c.was, c.was_enabled, reterr);
                if (r <= 0)
                        return r;
        }
        return r < 0 ? r : set(w, &c, reterr);
}

int run_set_schedule(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        return schedule_change(w, NULL, reterr);
}

int run_delete_schedule(Work *w,
                        const char **ret_result,
                        json_object **ret_summary,
                        Failure *reterr) {
        _cleanup_(change_done) Change c = { 0 };
        _cleanup_free_ char *service = NULL;
        _cleanup_close_ int lock = -1;
        int r = begin_change(w, &c, &lock, reterr);

        if (r < 0)
                return r;
        if (!c.was.name && !c.broken)
                return fail_set(reterr, FAIL_NO_SUCH_SCHEDULE, ENOENT, "no schedule '%s'", c.name);
        service = unit_of(c.name, "service");
        if (!service)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "schedule");
        work_accepted(w);
        r = switch_timer(&c, false, reterr);
        if (r < 0)
                return r;
        systemd_forget(c.systemd, c.timer);
        systemd_forget(c.systemd, service);
        r = schedule_remove(c.name, reterr);
        if (r >= 0)
                r = systemd_reload(c.systemd, reterr);
        if (r < 0)
                return r;
        log_message(MESSAGE_SCHEDULE_DELETED, NULL, "schedule %s is deleted", c.name);
        return tell_done(w, &c, "deleted", reterr);
}
