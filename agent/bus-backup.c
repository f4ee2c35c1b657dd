/*
 * Methods about backups: read the arguments, ask the catalogue or queue a job.
 */

#include <errno.h>
#include <string.h>

#include "agent/bus-internal.h"
#include "agent/service.h"

#define LIMIT_DEFAULT  20
#define LIMIT_MAX      500
#define NAME_MAX_BYTES 255
#define TEXT_MAX_BYTES 4096
#define LEVEL_MAX      9

int bus_check_name(const char *name, const char *description, Failure *reterr) {
        if (!*name || !text_is_label(name, NAME_MAX_BYTES))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "the name of a backup has 1 to %d bytes and no control characters",
                                NAME_MAX_BYTES);
        if (!record_is_text(description, TEXT_MAX_BYTES))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'description' has at most %d bytes and no control "
                                "characters but line ends and tabs",
                                TEXT_MAX_BYTES);
        return 0;
}

void bus_created_by(uint32_t uid, char ret[BUS_CREATED_BY_MAX]) {
        (void) snprintf(ret, BUS_CREATED_BY_MAX, "uid:%u", uid);
}

static int read_create(sd_bus_message *call, BusNewBackup *a, Failure *reterr) {
        const BusOption options[] = {
                { "description", "s", &a->description, NULL },
                { "include_files", "b", &a->include_files, NULL },
                { "compression_level", "u", &a->level, &a->has_level },
                { "pinned", "b", &a->pinned, NULL },
        };
        int r = sd_bus_message_read(call, "ss", &a->type, &a->name);

        if (r < 0)
                return bus_fail(reterr, r);
        r = bus_read_options(call, options, ELEMENTSOF(options), reterr);
        if (r < 0)
                return r;
        r = bus_check_name(a->name, a->description, reterr);
        if (r < 0)
                return r;
        if (a->has_level && a->level > LEVEL_MAX)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'compression_level' is 0 to %d, not %u", LEVEL_MAX,
                                a->level);
        return 0;
}

static int choose_services(Manager *m, const char *type, ConfigStrings *ret, Failure *reterr) {
        int r;

        if (strcmp(type, "full") == 0) {
                if (m->config->n_services == 0)
                        return fail_set(reterr, FAIL_NO_SUCH_SERVICE, ENOENT,
                                        "no services are configured: describe one in "
                                        "%s/services.d/NAME.conf",
                                        config_dir());
                r = service_names(m, ret);
        } else if (!config_service(m->config, type))
                return fail_set(reterr, FAIL_NO_SUCH_SERVICE, ENOENT,
                                "no service '%.100s' is configured, and it is not 'full'", type);
        else
                r = strings_add(ret, type);
        return r < 0 ? fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory") : 0;
}

static json_object *
create_parameters(const BusNewBackup *n, const char *id, const ConfigStrings *services) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "backup_id", id) < 0 ||
            json_put_string(o, "backup_name", n->name) < 0 ||
            json_put_string(o, "backup_type", n->type) < 0 ||
            json_put_string(o, "description", n->description) < 0 ||
            json_put_string(o, "created_by", n->created_by) < 0 ||
            json_put_string(o, "schedule", n->schedule) < 0 ||
            json_put(o, "services", strings_to_json(services)) < 0 ||
            (n->has_level && json_put_u64(o, "level", n->level) < 0) ||
            json_put_bool(o, "pinned", n->pinned) < 0 ||
            json_put_bool(o, "include_files", n->include_files) < 0)
                return NULL;
        return TAKE_PTR(o);
}

int bus_backup_submit(Manager *m,
                      sd_bus_message *call,
                      const BusNewBackup *n,
                      uint32_t uid,
                      Failure *reterr) {
        _cleanup_strings_ ConfigStrings services = { .n = 0 };
        _cleanup_json_ json_object *row = NULL;
        _cleanup_job_request_ JobRequest q = {
                .type = JOB_BACKUP, .uid = uid, .services = &services, .fds = JOB_FDS_INIT
        };
        char id[UUID_TEXT_MAX];
        Job *j;
        int r = choose_services(m, n->type, &services, reterr);

        if (r >= 0)
                r = bus_new_id(id, reterr);
        if (r < 0)
                return r;
        row = record_new_backup(&(RecordNew){
                .id = id,
                .name = n->name,
                .type = n->type,
                .description = n->description,
                .created_by = n->created_by,
                .schedule = n->schedule,
                .services = &services,
                .pinned = n->pinned,
        });
        if (!row)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        q.backup_id = id;
        q.backup = row;
        q.parameters = create_parameters(n, id, &services);
        r = job_submit(m, &q, &j, reterr);
        if (r < 0)
                return r;
        (void) snprintf(j->schedule, sizeof(j->schedule), "%s", n->schedule);
        return bus_reply_job(call, id, j, reterr);
}

int bus_backup_create(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        char created_by[BUS_CREATED_BY_MAX];
        BusNewBackup n = {
                .description = "", .created_by = created_by, .schedule = "", .include_files = true
        };
        int r = read_create(call, &n, reterr);

        bus_created_by(uid, created_by);
        return r < 0 ? r : bus_backup_submit(m, call, &n, uid, reterr);
}

static int check_filter(CatalogFilter *f, Failure *reterr) {
        static const char *const statuses[] = { "running", "completed", "partial", "failed" };
        bool known = false;

        if (strcmp(f->type, "all") == 0)
                f->type = NULL;
        else if (strcmp(f->type, "full") != 0 && !text_is_service_name(f->type))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'type' is all, full or a service, not '%.100s'", f->type);
        if (strcmp(f->service, "all") == 0)
                f->service = NULL;
        else if (!text_is_service_name(f->service))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'service' is all or a service, not '%.100s'", f->service);
        if (strcmp(f->status, "all") == 0) {
                f->status = NULL;
                return 0;
        }
        for (size_t i = 0; i < ELEMENTSOF(statuses); i++)
                known = known || strcmp(f->status, statuses[i]) == 0;
        if (!known)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'status' is all, running, completed, partial or failed, "
                                "not '%.100s'",
                                f->status);
        return 0;
}

int bus_backup_list(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        CatalogFilter f = {
                .type = "all", .status = "all", .service = "all", .limit = LIMIT_DEFAULT
        };
        uint32_t page = 1;
        const BusOption options[] = {
                { "page", "u", &page, NULL },         { "limit", "u", &f.limit, NULL },
                { "type", "s", &f.type, NULL },       { "status", "s", &f.status, NULL },
                { "service", "s", &f.service, NULL },
        };
        _cleanup_json_ json_object *list = NULL;
        _cleanup_message_ sd_bus_message *reply = NULL;
        uint64_t total;
        int r = bus_read_options(call, options, ELEMENTSOF(options), reterr);

        if (r < 0)
                return r;
        if (page < 1)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'page' begins with 1");
        if (f.limit < 1 || f.limit > LIMIT_MAX)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'limit' is 1 to %d, not %u", LIMIT_MAX, f.limit);
        f.offset = (uint64_t) (page - 1) * f.limit;
        r = check_filter(&f, reterr);
        if (r >= 0)
                r = catalog_list_backups(m->catalog, &f, &total, &list, reterr);
        if (r < 0)
                return r;
        r = sd_bus_message_new_method_return(call, &reply);
        if (r >= 0)
                r = sd_bus_message_append(reply, "u",
                                          total > UINT32_MAX ? UINT32_MAX : (uint32_t) total);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "a{sv}");
        for (size_t i = 0; r >= 0 && i < json_object_array_length(list); i++)
                r = bus_append_backup(reply, json_object_array_get_idx(list, i));
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        if (r >= 0)
                r = sd_bus_message_send(reply);
        return bus_fail(reterr, r);
}

int bus_backup_get(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_json_ json_object *backup = NULL;
        const char *id;
        int r = bus_read_id(call, "backup", &id, reterr);

        if (r >= 0)
                r = bus_load_backup(m, id, &backup, reterr);
        return r < 0 ? r : bus_reply_dictionary(call, backup, bus_append_backup, reterr);
}

/* Makes the request of a job about one backup and all of its services. */
static int prepare(JobRequest *q, json_object *backup, ConfigStrings *services, Failure *reterr) {
        int r = bus_choose_services(backup, "", services, reterr);

        if (r < 0)
                return r;
        q->services = services;
        q->parameters = json_object_new_object();
        return json_put_string(q->parameters, "backup_id", q->backup_id) < 0
                       ? fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory")
                       : 0;
}

int bus_backup_delete(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_strings_ ConfigStrings services = { .n = 0 };
        _cleanup_json_ json_object *backup = NULL;
        _cleanup_job_request_ JobRequest q = { .type = JOB_DELETE,
                                               .uid = uid,
                                               .fds = JOB_FDS_INIT };
        int r = bus_read_id(call, "backup", &q.backup_id, reterr);

        if (r >= 0)
                r = bus_read_options(call, NULL, 0, reterr);
        if (r >= 0)
                r = bus_load_backup(m, q.backup_id, &backup, reterr);
        if (r >= 0)
                r = prepare(&q, backup, &services, reterr);
        return r < 0 ? r : bus_submit(m, call, &q, reterr);
}

int bus_backup_pin(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_strings_ ConfigStrings services = { .n = 0 };
        _cleanup_json_ json_object *backup = NULL;
        _cleanup_job_request_ JobRequest q = { .type = JOB_PIN, .uid = uid, .fds = JOB_FDS_INIT };
        int pinned, r = bus_read_id(call, "backup", &q.backup_id, reterr);

        if (r >= 0)
                r = bus_fail(reterr, sd_bus_message_read(call, "b", &pinned));
        if (r >= 0)
                r = bus_load_backup(m, q.backup_id, &backup, reterr);
        if (r >= 0)
                r = prepare(&q, backup, &services, reterr);
        if (r < 0)
                return r;
        if (json_put_bool(q.parameters, "pinned", pinned) < 0)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        return bus_hold_submit(m, call, &q, bus_answer_empty, -1, reterr);
}

typedef struct VerifyArguments {
        const char *depth;
        int key;
        bool has_key;
} VerifyArguments;

static int read_verify(sd_bus_message *call, VerifyArguments *a, Failure *reterr) {
        const BusOption options[] = {
                { "depth", "s", &a->depth, NULL },
                { "key", "h", &a->key, &a->has_key },
        };
        bool restore;
        int r = bus_read_options(call, options, ELEMENTSOF(options), reterr);

        if (r < 0)
                return r;
        restore = strcmp(a->depth, "restore") == 0;
        if (!restore && strcmp(a->depth, "metadata") != 0 && strcmp(a->depth, "data") != 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'depth' is metadata, data or restore, not '%.100s'",
                                a->depth);
        if (a->has_key && !restore)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'key' is for the depth restore: %s needs none", a->depth);
        return 0;
}

int bus_backup_verify(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        VerifyArguments a = { .depth = "data", .key = -1 };
        _cleanup_strings_ ConfigStrings services = { .n = 0 };
        _cleanup_json_ json_object *backup = NULL;
        _cleanup_job_request_ JobRequest q = { .uid = uid, .fds = JOB_FDS_INIT };
        int r = bus_read_id(call, "backup", &q.backup_id, reterr);

        if (r >= 0)
                r = read_verify(call, &a, reterr);
        if (r >= 0)
                r = bus_load_backup(m, q.backup_id, &backup, reterr);
        if (r >= 0)
                r = prepare(&q, backup, &services, reterr);
        if (r >= 0 && a.has_key)
                r = bus_keep_readable(a.key, "key", &q.fds.key, reterr);
        if (r < 0)
                return r;
        q.type = strcmp(a.depth, "restore") == 0 ? JOB_VERIFY_RESTORE : JOB_VERIFY;
        if (json_put_string(q.parameters, "depth", a.depth) < 0)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        return bus_submit(m, call, &q, reterr);
}
