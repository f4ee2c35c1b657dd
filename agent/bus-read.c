/*
 * Methods that read a backup into a pipe of the caller: files, differences, the whole as a tar. The
 * agent makes the pipe and keeps neither end.
 */

#include <errno.h>
#include <string.h>

#include "agent/bus-internal.h"

/* "" and "all" are all services. */
static const char *service_or_all(const char *service) {
        return strcmp(service, "all") == 0 ? "" : service;
}

typedef struct OpenArguments {
        const char *id, *format, *service, *path;
        int key;
        bool has_key;
} OpenArguments;

static int read_open(sd_bus_message *call, OpenArguments *a, Failure *reterr) {
        const BusOption options[] = {
                { "format", "s", &a->format, NULL },
                { "service", "s", &a->service, NULL },
                { "path", "s", &a->path, NULL },
                { "key", "h", &a->key, &a->has_key },
        };
        int r = bus_read_id(call, "backup", &a->id, reterr);

        if (r >= 0)
                r = bus_read_options(call, options, ELEMENTSOF(options), reterr);
        if (r < 0)
                return r;
        if (strcmp(a->format, "tar") != 0 && strcmp(a->format, "tar.zst") != 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'format' is tar or tar.zst, not '%.100s'", a->format);
        a->service = service_or_all(a->service);
        return bus_check_path(a->path, reterr);
}

static json_object *open_parameters(const OpenArguments *a) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "backup_id", a->id) < 0 ||
            json_put_string(o, "format", a->format) < 0 ||
            json_put_string(o, "service", a->service) < 0 ||
            json_put_string(o, "path", a->path) < 0)
                return NULL;
        return TAKE_PTR(o);
}

int bus_read_open(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        OpenArguments a = { .format = "tar", .service = "", .path = "", .key = -1 };
        _cleanup_strings_ ConfigStrings services = { .n = 0 };
        _cleanup_json_ json_object *backup = NULL;
        _cleanup_job_request_ JobRequest q = {
                .type = JOB_EXPORT, .uid = uid, .services = &services, .fds = JOB_FDS_INIT
        };
        int r = read_open(call, &a, reterr);

        if (r >= 0)
                r = bus_load_backup(m, a.id, &backup, reterr);
        if (r >= 0)
                r = bus_choose_services(backup, a.service, &services, reterr);
        if (r >= 0 && a.has_key)
                r = bus_keep_readable(a.key, "key", &q.fds.key, reterr);
        if (r < 0)
                return r;
        q.backup_id = a.id;
        q.parameters = open_parameters(&a);
        return bus_submit_stream(m, call, &q, reterr);
}

static json_object *list_parameters(const char *id, const char *service, const char *path) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "backup_id", id) < 0 ||
            json_put_string(o, "service", service) < 0 || json_put_string(o, "path", path) < 0)
                return NULL;
        return TAKE_PTR(o);
}

int bus_read_list(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_strings_ ConfigStrings services = { .n = 0 };
        _cleanup_json_ json_object *backup = NULL;
        _cleanup_job_request_ JobRequest q = {
                .type = JOB_LIST, .uid = uid, .services = &services, .fds = JOB_FDS_INIT
        };
        const char *service, *path;
        int r = bus_read_id(call, "backup", &q.backup_id, reterr);

        if (r >= 0)
                r = bus_fail(reterr, sd_bus_message_read(call, "ss", &service, &path));
        if (r >= 0)
                r = bus_read_options(call, NULL, 0, reterr);
        if (r >= 0)
                r = bus_check_path(path, reterr);
        if (r >= 0)
                r = bus_load_backup(m, q.backup_id, &backup, reterr);
        if (r < 0)
                return r;
        service = service_or_all(service);
        r = bus_choose_services(backup, service, &services, reterr);
        if (r < 0)
                return r;
        q.parameters = list_parameters(q.backup_id, service, path);
        return bus_submit_stream(m, call, &q, reterr);
}

static json_object *diff_parameters(const char *a, const char *b, const char *service) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "backup_id", a) < 0 || json_put_string(o, "other_id", b) < 0 ||
            json_put_string(o, "service", service) < 0)
                return NULL;
        return TAKE_PTR(o);
}

/* A service may be in one of them only: all of it is added or removed then. */
static int choose_diff_services(json_object *a,
                                json_object *b,
                                const char *service,
                                ConfigStrings *ret,
                                Failure *reterr) {
        Failure ignored = FAILURE_INIT;
        int r = bus_choose_services(a, service, ret, &ignored);

        return r == -ENOENT ? bus_choose_services(b, service, ret, reterr) : r;
}

int bus_read_diff(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_strings_ ConfigStrings services = { .n = 0 };
        _cleanup_json_ json_object *a = NULL, *b = NULL;
        _cleanup_job_request_ JobRequest q = {
                .type = JOB_DIFF, .uid = uid, .services = &services, .fds = JOB_FDS_INIT
        };
        const char *service = "";
        const BusOption options[] = { { "service", "s", &service, NULL } };
        int r = bus_read_id(call, "backup", &q.backup_id, reterr);

        if (r >= 0)
                r = bus_read_id(call, "backup", &q.other_id, reterr);
        if (r >= 0)
                r = bus_read_options(call, options, ELEMENTSOF(options), reterr);
        if (r >= 0)
                r = bus_load_backup(m, q.backup_id, &a, reterr);
        if (r >= 0)
                r = bus_load_backup(m, q.other_id, &b, reterr);
        if (r < 0)
                return r;
        service = service_or_all(service);
        r = choose_diff_services(a, b, service, &services, reterr);
        if (r < 0)
                return r;
        q.parameters = diff_parameters(q.backup_id, q.other_id, service);
        return bus_submit_stream(m, call, &q, reterr);
}
