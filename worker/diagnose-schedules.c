/*
 * Whether backups happen by themselves: schedules as their files say, timers as systemd has them.
 */

#include <string.h>

#include "base/schedule.h"
#include "base/text.h"
#include "worker/diagnose.h"

static void add(Diagnosis *d,
                FindingSeverity severity,
                const Schedule *s,
                const char *remedy,
                const char *text) {
        findings_add(&d->findings, severity, ABOUT("schedule", s->name), remedy, "%s", text);
}

static void mark(Diagnosis *d, const Schedule *s) {
        const Config *c = d->work->config;

        for (size_t i = 0; i < c->n_services; i++)
                if (strcmp(s->backup_type, "full") == 0 ||
                    strcmp(s->backup_type, c->services[i].name) == 0)
                        d->services[i].scheduled = true;
}

/* How its last run ended. */
static void check_run(Diagnosis *d, const Schedule *s, const char *service) {
        _cleanup_free_ char *result = NULL, *remedy = NULL;
        Failure ignored = FAILURE_INIT; /* a unit that never ran is not loaded */

        if (systemd_get_text(d->systemd, service, "Service", "Result", &result, &ignored) < 0 ||
            strcmp(result, "success") == 0)
                return;
        remedy = text_printf("see 'journalctl -u %s' and 'holdpoint jobs'", service);
        findings_add(&d->findings, FINDING_ERROR, ABOUT("schedule.result", s->name), remedy,
                     "its last run failed (%s)", result);
}

/* As systemd has it; true if it will run by itself. */
static bool check_timer(Diagnosis *d, const Schedule *s, const char *timer) {
        _cleanup_free_ char *file = NULL, *active = NULL, *start = NULL;
        Failure f = FAILURE_INIT;
        uint64_t next = 0;

        if (systemd_get_text(d->systemd, timer, "Unit", "UnitFileState", &file, &f) < 0 ||
            systemd_get_text(d->systemd, timer, "Unit", "ActiveState", &active, &f) < 0 ||
            systemd_get_u64(d->systemd, timer, "Timer", "NextElapseUSecRealtime", &next, &f) < 0) {
                add(d, FINDING_WARNING, s, "see 'systemctl status' of its timer", f.text);
                return false;
        }
        start = text_printf("run 'systemctl start %s'", timer);
        if (strcmp(file, "enabled") != 0)
                add(d, FINDING_NOTE, s, "run 'holdpoint schedule set NAME --enabled yes'",
                    "is switched off");
        else if (strcmp(active, "active") != 0)
                add(d, FINDING_ERROR, s, start, "its timer is enabled, but does not run");
        else if (next == 0 || next == UINT64_MAX)
                add(d, FINDING_ERROR, s, "give it a calendar with 'holdpoint schedule set'",
                    "its timer will never elapse again");
        else {
                add(d, FINDING_OK, s, NULL, "its timer runs");
                return true;
        }
        return false;
}

static void check_schedule(Diagnosis *d, const Schedule *s) {
        _cleanup_free_ char *timer = text_printf("holdpoint@%s.timer", s->name),
                            *service = text_printf("holdpoint@%s.service", s->name);

        if (!timer || !service)
                return;
        if (d->work->config && strcmp(s->backup_type, "full") != 0 &&
            !config_service(d->work->config, s->backup_type))
                add(d, FINDING_ERROR, s,
                    "run 'holdpoint schedule set NAME --type TYPE', or delete it",
                    "backs up a service that is not configured any more");
        if (!d->systemd)
                return;
        if (check_timer(d, s, timer) && d->work->config)
                mark(d, s);
        check_run(d, s, service);
}

void diagnose_schedules(Diagnosis *d) {
        _cleanup_schedule_list_ ScheduleList l = { 0 };
        Failure f = FAILURE_INIT;
        const Config *c = d->work->config;

        if (schedule_list_load(&l, &f) < 0) {
                findings_add(&d->findings, FINDING_ERROR, ABOUT("schedule", schedule_unit_dir()),
                             "correct it, or set the schedule again with 'holdpoint schedule set'",
                             "%s", f.text);
                return;
        }
        for (size_t i = 0; i < l.n; i++)
                check_schedule(d, &l.items[i]);
        if (l.n == 0)
                findings_add(&d->findings, FINDING_WARNING, ABOUT("schedule", schedule_unit_dir()),
                             d->systemd ? "run 'holdpoint schedule set nightly --frequency daily "
                                          "--time 02:00 --type full'"
                                        : "call 'holdpoint create' from what runs things here",
                             "there is no schedule: backups are made by hand alone");
        for (size_t i = 0; l.n > 0 && d->systemd && c && i < c->n_services; i++)
                if (!d->services[i].scheduled)
                        findings_add(&d->findings, FINDING_WARNING,
                                     ABOUT_SERVICE("service.schedule", &c->services[i],
                                                   c->services[i].name),
                                     "set one with --type full, or for this service",
                                     "no schedule that runs backs it up");
}
