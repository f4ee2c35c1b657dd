/*
 * Methods about schedules. Their truth is in systemd's unit files: a worker of the configure class
 * changes them and tells what there is; the agent reads only what a run needs, at each run.
 */

#include <errno.h>
#include <string.h>
#include <time.h>

#include "agent/bus-internal.h"
#include "base/schedule.h"

static int
new_request(JobRequest *q, JobType type, const char *verb, const char *name, Failure *reterr) {
        q->type = type;
        q->verb = verb;
        q->parameters = json_object_new_object();
        return !q->parameters || (name && json_put_string(q->parameters, "name", name) < 0)
                       ? fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory")
                       : 0;
}

static int check_name(const char *name, Failure *reterr) {
        if (schedule_name_is_valid(name))
                return 0;
        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                        "'%.100s' is no name of a schedule: a letter, then up to 62 of a-z 0-9 _ -",
                        name);
}

/* A name, of a schedule that is there. */
static int read_known(sd_bus_message *call, const char **ret, Failure *reterr) {
        _cleanup_schedule_ Schedule s = { 0 };
        int r = sd_bus_message_read(call, "s", ret);

        if (r < 0)
                return bus_fail(reterr, r);
        r = check_name(*ret, reterr);
        if (r < 0)
                return r;
        r = schedule_load(*ret, &s, reterr);
        if (r >= 0 || reterr->code == FAIL_NO_SUCH_SCHEDULE)
                return r;
        *reterr = FAILURE_INIT; /* a broken one can be deleted; the worker says what is wrong */
        return 0;
}

int bus_schedule_set(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_job_request_ JobRequest q = { .uid = uid, .fds = JOB_FDS_INIT };
        const char *name, *frequency = NULL, *time = NULL, *calendar = NULL, *type = NULL,
                          *description = NULL;
        bool enabled = true, has_enabled = false, has_days = false;
        uint32_t days = 0;
        const BusOption options[] = {
                { "enabled", "b", &enabled, &has_enabled },
                { "frequency", "s", &frequency, NULL },
                { "time", "s", &time, NULL },
                { "calendar", "s", &calendar, NULL },
                { "retention_days", "u", &days, &has_days },
                { "backup_type", "s", &type, NULL },
                { "description", "s", &description, NULL },
        };
        int r = sd_bus_message_read(call, "s", &name);

        if (r < 0)
                return bus_fail(reterr, r);
        r = check_name(name, reterr);
        if (r >= 0)
                r = bus_read_options(call, options, ELEMENTSOF(options), reterr);
        if (r >= 0)
                r = new_request(&q, JOB_SCHEDULE, "set-schedule", name, reterr);
        if (r < 0)
                return r;
        if ((frequency && json_put_string(q.parameters, "frequency", frequency) < 0) ||
            (time && json_put_string(q.parameters, "time", time) < 0) ||
            (calendar && json_put_string(q.parameters, "calendar", calendar) < 0) ||
            (type && json_put_string(q.parameters, "backup_type", type) < 0) ||
            (description && json_put_string(q.parameters, "description", description) < 0) ||
            (has_enabled && json_put_bool(q.parameters, "enabled", enabled) < 0) ||
            (has_days && json_put_u64(q.parameters, "retention_days", days) < 0))
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        return bus_hold_submit(m, call, &q, bus_answer_empty, -1, reterr);
}

int bus_schedule_delete(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_job_request_ JobRequest q = { .uid = uid, .fds = JOB_FDS_INIT };
        const char *name;
        int r = read_known(call, &name, reterr);

        if (r >= 0)
                r = new_request(&q, JOB_SCHEDULE, "delete-schedule", name, reterr);
        return r < 0 ? r : bus_hold_submit(m, call, &q, bus_answer_empty, -1, reterr);
}

static int answer_list(sd_bus_message *call, const Job *j, int fd, Failure *reterr) {
        return bus_reply_list(call, j->rows, bus_append_schedule, reterr);
}

int bus_schedule_list(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_job_request_ JobRequest q = { .uid = uid, .fds = JOB_FDS_INIT };
        int r = bus_read_options(call, NULL, 0, reterr);

        if (r >= 0)
                r = new_request(&q, JOB_SCHEDULES, NULL, NULL, reterr);
        return r < 0 ? r : bus_hold_submit(m, call, &q, answer_list, -1, reterr);
}

static int answer_one(sd_bus_message *call, const Job *j, int fd, Failure *reterr) {
        const char *wanted = "", *name = "";

        if (sd_bus_message_rewind(call, true) < 0 || sd_bus_message_read(call, "s", &wanted) <= 0)
                return fail_set(reterr, FAIL_INTERNAL, EBADMSG, "the call cannot be read again");
        for (size_t i = 0; i < json_object_array_length(j->rows); i++) {
                json_object *row = json_object_array_get_idx(j->rows, i);

                if (json_get_string(row, "schedule_name", &name) >= 0 && strcmp(name, wanted) == 0)
                        return bus_reply_dictionary(call, row, bus_append_schedule, reterr);
        }
        return fail_set(reterr, FAIL_NO_SUCH_SCHEDULE, ENOENT, "no schedule '%s'", wanted);
}

int bus_schedule_get(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_job_request_ JobRequest q = { .uid = uid, .fds = JOB_FDS_INIT };
        const char *name;
        int r = read_known(call, &name, reterr);

        if (r >= 0)
                r = new_request(&q, JOB_SCHEDULES, NULL, name, reterr);
        return r < 0 ? r : bus_hold_submit(m, call, &q, answer_one, -1, reterr);
}

/* auto_NAME_20240115_020000, in local time as the calendar is. */
static void run_name(const char *schedule, char ret[128]) {
        time_t now = time(NULL);
        char stamp[32] = "";
        struct tm tm;

        if (!localtime_r(&now, &tm) || strftime(stamp, sizeof(stamp), "_%Y%m%d_%H%M%S", &tm) == 0)
                *stamp = 0;
        (void) snprintf(ret, 128, "auto_%s%s", schedule, stamp);
}

int bus_schedule_run(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_schedule_ Schedule s = { 0 };
        char name[128], created_by[BUS_CREATED_BY_MAX];
        const char *schedule;
        int r = sd_bus_message_read(call, "s", &schedule);

        if (r < 0)
                return bus_fail(reterr, r);
        r = check_name(schedule, reterr);
        if (r >= 0)
                r = schedule_load(schedule, &s, reterr);
        if (r < 0)
                return r;
        run_name(s.name, name);
        (void) snprintf(created_by, sizeof(created_by), "schedule:%s", s.name);
        return bus_backup_submit(m, call,
                                 &(BusNewBackup){ .type = s.backup_type,
                                                  .name = name,
                                                  .description = s.description,
                                                  .created_by = created_by,
                                                  .schedule = s.name,
                                                  .include_files = true },
                                 uid, reterr);
}
