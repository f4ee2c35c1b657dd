/*
 * Methods about restores. What a swap needs to be sure of (that the backup is good, that the target
 * is free, that this is the newest restore) is looked at by the job: it may change until then.
 */

#include <errno.h>
#include <string.h>

#include "agent/bus-internal.h"

#define RESTORES_MAX 500

#define PATHS_MAX 1000

typedef struct RestoreArguments {
        const char *id, *type, *from;
        bool confirm, allow_partial, has_paths, has_key, has_directory;
        int directory, key;
        ConfigStrings paths;
        char restore_id[UUID_TEXT_MAX];
} RestoreArguments;

#define RESTORE_ARGUMENTS_INIT ((RestoreArguments){ .from = "auto", .directory = -1, .key = -1 })

static void arguments_done(RestoreArguments *a) {
        strings_done(&a->paths);
}

#define _cleanup_arguments_ _cleanup_(arguments_done)

static int check_from(const char *from, Failure *reterr) {
        static const char *const known[] = { "auto", "hot", "local", "remote" };

        for (size_t i = 0; i < ELEMENTSOF(known); i++)
                if (strcmp(from, known[i]) == 0)
                        return 0;
        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                        "option 'from' is auto, hot, local or remote, not '%.100s'", from);
}

static int check_paths(const RestoreArguments *a, Failure *reterr) {
        if (!a->has_paths)
                return 0;
        if (a->paths.n == 0 || a->paths.n > PATHS_MAX)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'paths' has 1 to %d paths: leave it out to have all",
                                PATHS_MAX);
        for (size_t i = 0; i < a->paths.n; i++) {
                int r = *a->paths.items[i] ? bus_check_path(a->paths.items[i], reterr)
                                           : fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                                      "option 'paths' has an empty path");

                if (r < 0)
                        return r;
        }
        return 0;
}

/* The first options are those of a plan too. */
static int
read_arguments(sd_bus_message *call, RestoreArguments *a, bool is_plan, Failure *reterr) {
        const BusOption options[] = {
                { "paths", "as", &a->paths, &a->has_paths },
                { "from", "s", &a->from, NULL },
                { "allow_partial", "b", &a->allow_partial, NULL },
                { "key", "h", &a->key, &a->has_key },
                { "confirm", "b", &a->confirm, NULL },
                { "directory", "h", &a->directory, &a->has_directory },
        };
        int r = bus_read_id(call, "backup", &a->id, reterr);

        if (r >= 0)
                r = bus_fail(reterr, sd_bus_message_read(call, "s", &a->type));
        if (r >= 0)
                r = bus_read_options(call, options, ELEMENTSOF(options) - (is_plan ? 2 : 0),
                                     reterr);
        if (r >= 0)
                r = check_from(a->from, reterr);
        if (r >= 0)
                r = check_paths(a, reterr);
        if (r < 0)
                return r;
        if (strcmp(a->type, "full") != 0 && !text_is_service_name(a->type))
                return fail_set(reterr, FAIL_NO_SUCH_SERVICE, ENOENT,
                                "'%.100s' is neither 'full' nor a service", a->type);
        return 0;
}

static json_object *parameters(const RestoreArguments *a) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "restore_id", a->restore_id) < 0 ||
            json_put_string(o, "backup_id", a->id) < 0 ||
            json_put_string(o, "restore_type", a->type) < 0 ||
            json_put_string(o, "from", a->from) < 0 ||
            json_put(o, "paths", strings_to_json(&a->paths)) < 0 ||
            json_put_bool(o, "allow_partial", a->allow_partial) < 0)
                return NULL;
        return TAKE_PTR(o);
}

/* Looks the backup up and fills the request; `services` must live as long as it. */
static int prepare(Manager *m,
                   const RestoreArguments *a,
                   JobRequest *q,
                   ConfigStrings *services,
                   Failure *reterr) {
        _cleanup_json_ json_object *backup = NULL;
        int r = bus_load_backup(m, a->id, &backup, reterr);

        if (r >= 0)
                r = bus_choose_services(backup, strcmp(a->type, "full") == 0 ? "" : a->type,
                                        services, reterr);
        if (r < 0)
                return r;
        q->backup_id = a->id;
        q->services = services;
        q->allow_partial = a->allow_partial;
        return 0;
}

static int keep_fds(const RestoreArguments *a, uint32_t uid, JobFds *fds, Failure *reterr) {
        int r = a->has_directory ? bus_keep_directory(a->directory, uid, &fds->directory, reterr)
                                 : 0;

        if (r >= 0 && a->has_key)
                r = bus_keep_readable(a->key, "key", &fds->key, reterr);
        return r;
}

int bus_restore_plan(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_arguments_ RestoreArguments a = RESTORE_ARGUMENTS_INIT;
        _cleanup_strings_ ConfigStrings services = { .n = 0 };
        _cleanup_job_request_ JobRequest q = { .type = JOB_PLAN, .uid = uid, .fds = JOB_FDS_INIT };
        int r = read_arguments(call, &a, true, reterr);

        if (r >= 0)
                r = prepare(m, &a, &q, &services, reterr);
        if (r >= 0)
                r = keep_fds(&a, uid, &q.fds, reterr);
        if (r < 0)
                return r;
        if (strcmp(a.from, "remote") == 0)
                return -EOPNOTSUPP;
        q.parameters = parameters(&a);
        return bus_hold_submit(m, call, &q, bus_answer_summary, -1, reterr);
}

int bus_restore_start(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_arguments_ RestoreArguments a = RESTORE_ARGUMENTS_INIT;
        _cleanup_strings_ ConfigStrings services = { .n = 0 };
        _cleanup_job_request_ JobRequest q = {
                .type = JOB_RESTORE, .uid = uid, .restore_id = a.restore_id, .fds = JOB_FDS_INIT
        };
        Job *j;
        int r = read_arguments(call, &a, false, reterr);

        if (r >= 0)
                r = prepare(m, &a, &q, &services, reterr);
        if (r < 0)
                return r;
        if (!a.confirm)
                return fail_set(reterr, FAIL_NOT_CONFIRMED, EPERM,
                                "a restore replaces live data: repeat it with the option confirm "
                                "set to true");
        if (strcmp(a.from, "remote") == 0)
                return -EOPNOTSUPP;
        r = keep_fds(&a, uid, &q.fds, reterr);
        if (r >= 0)
                r = bus_new_id(a.restore_id, reterr);
        if (r < 0)
                return r;
        q.parameters = parameters(&a);
        r = job_submit(m, &q, &j, reterr);
        return r < 0 ? r : bus_reply_job(call, a.restore_id, j, reterr);
}

int bus_restore_list(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_json_ json_object *list = NULL;
        int r = bus_read_options(call, NULL, 0, reterr);

        if (r >= 0)
                r = catalog_list_restores(m->catalog, RESTORES_MAX, &list, reterr);
        return r < 0 ? r : bus_reply_list(call, list, bus_append_restore, reterr);
}

static int submit_on_restore(Manager *m,
                             sd_bus_message *call,
                             JobType type,
                             const char *id,
                             uint32_t uid,
                             Failure *reterr) {
        _cleanup_strings_ ConfigStrings services = { .n = 0 };
        _cleanup_json_ json_object *row = NULL;
        _cleanup_job_request_ JobRequest q = {
                .type = type,
                .uid = uid,
                .restore_id = id,
                .services = &services,
                .parameters = json_object_new_object(),
                .fds = JOB_FDS_INIT,
        };
        int r = catalog_get_restore(m->catalog, id, &row, reterr);

        if (r == -ENOENT)
                return fail_set(reterr, FAIL_NO_SUCH_RESTORE, ENOENT, "no restore %s", id);
        if (r < 0)
                return r;
        if (record_services(row, &services) < 0 ||
            json_get_string(row, "backup_id", &q.backup_id) < 0)
                return fail_set(reterr, FAIL_INTERNAL, EUCLEAN,
                                "the catalogue's row of restore %s is damaged", id);
        if (json_put_string(q.parameters, "restore_id", id) < 0)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        return bus_submit(m, call, &q, reterr);
}

int bus_restore_rollback(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        const char *id;
        int r = bus_read_id(call, "restore", &id, reterr);

        if (r >= 0)
                r = bus_read_options(call, NULL, 0, reterr);
        return r < 0 ? r : submit_on_restore(m, call, JOB_ROLLBACK, id, uid, reterr);
}

int bus_restore_confirm(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        const char *id;
        int r = bus_read_id(call, "restore", &id, reterr);

        return r < 0 ? r : submit_on_restore(m, call, JOB_CONFIRM, id, uid, reterr);
}
