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

typedef struct CreateArguments {
        const char *type, *name, *description;
        bool include_files, pinned, has_level;
        uint32_t level;
        char id[UUID_TEXT_MAX], created_by[32];
} CreateArguments;

static int read_create(sd_bus_message *call, CreateArguments *a, Failure *reterr) {
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
        if (!*a->name || !text_is_label(a->name, NAME_MAX_BYTES))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "the name of a backup has 1 to %d bytes and no control characters",
                                NAME_MAX_BYTES);
        if (!record_is_text(a->description, TEXT_MAX_BYTES))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'description' has at most %d bytes and no control "
                                "characters but line ends and tabs",
                                TEXT_MAX_BYTES);
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

static int new_id(char ret[UUID_TEXT_MAX], Failure *reterr) {
        uint8_t uuid[16];
        int r = text_uuid_new(uuid);

        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot make an id");
        text_uuid_format(uuid, ret);
        return 0;
}

static json_object *create_request(const CreateArguments *a, const ConfigStrings *services) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "backup_id", a->id) < 0 ||
            json_put_string(o, "backup_name", a->name) < 0 ||
            json_put_string(o, "backup_type", a->type) < 0 ||
            json_put_string(o, "description", a->description) < 0 ||
            json_put_string(o, "created_by", a->created_by) < 0 ||
            json_put_string(o, "schedule", "") < 0 ||
            json_put(o, "services", strings_to_json(services)) < 0 ||
            (a->has_level && json_put_u64(o, "level", a->level) < 0) ||
            json_put_bool(o, "pinned", a->pinned) < 0 ||
            json_put_bool(o, "include_files", a->include_files) < 0)
                return NULL;
        return TAKE_PTR(o);
}

int bus_backup_create(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        CreateArguments a = { .description = "", .include_files = true };
        _cleanup_strings_ ConfigStrings services = { .n = 0 };
        _cleanup_json_ json_object *row = NULL;
        JobRequest request;
        Job *j;
        int r = read_create(call, &a, reterr);

        if (r >= 0)
                r = choose_services(m, a.type, &services, reterr);
        if (r >= 0)
                r = new_id(a.id, reterr);
        if (r < 0)
                return r;
        (void) snprintf(a.created_by, sizeof(a.created_by), "uid:%u", uid);
        row = record_new_backup(&(RecordNew){
                .id = a.id,
                .name = a.name,
                .type = a.type,
                .description = a.description,
                .created_by = a.created_by,
                .services = &services,
                .pinned = a.pinned,
        });
        request = (JobRequest){
                .type = JOB_BACKUP,
                .uid = uid,
                .backup_id = a.id,
                .services = &services,
                .request = create_request(&a, &services),
                .backup = row,
                .directory = -1,
        };
        if (!row) {
                json_object_put(request.request);
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        }
        r = job_submit(m, &request, &j, reterr);
        return r < 0 ? r : bus_reply_job(call, a.id, j, reterr);
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

static int load_backup(Manager *m, const char *id, json_object **ret, Failure *reterr) {
        int r = catalog_get_backup(m->catalog, id, ret, reterr);

        if (r == -ENOENT)
                return fail_set(reterr, FAIL_NO_SUCH_BACKUP, ENOENT, "no backup %s", id);
        return r;
}

int bus_backup_get(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_json_ json_object *backup = NULL;
        const char *id;
        int r = bus_read_id(call, "backup", &id, reterr);

        if (r >= 0)
                r = load_backup(m, id, &backup, reterr);
        return r < 0 ? r : bus_reply_dictionary(call, backup, bus_append_backup, reterr);
}

/* A job about one backup whose request is its id and perhaps a depth. */
static int submit_simple(Manager *m,
                         sd_bus_message *call,
                         JobType type,
                         uint32_t uid,
                         json_object *backup,
                         const char *depth,
                         Failure *reterr) {
        _cleanup_strings_ ConfigStrings services = { .n = 0 };
        const char *id;
        json_object *o;
        Job *j;
        int r = record_services(backup, &services);

        if (r < 0 || json_get_string(backup, "backup_id", &id) < 0)
                return fail_set(reterr, FAIL_INTERNAL, EUCLEAN,
                                "the catalogue's row of this backup is damaged");
        o = json_object_new_object();
        if (!o || json_put_string(o, "backup_id", id) < 0 ||
            (depth && json_put_string(o, "depth", depth) < 0)) {
                json_object_put(o);
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        }
        r = job_submit(m,
                       &(JobRequest){
                               .type = type,
                               .uid = uid,
                               .backup_id = id,
                               .services = &services,
                               .request = o,
                               .directory = -1,
                       },
                       &j, reterr);
        return r < 0 ? r : bus_reply_job(call, NULL, j, reterr);
}

int bus_backup_delete(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_json_ json_object *backup = NULL;
        const char *id;
        int r = bus_read_id(call, "backup", &id, reterr);

        if (r >= 0)
                r = bus_read_options(call, NULL, 0, reterr);
        if (r >= 0)
                r = load_backup(m, id, &backup, reterr);
        return r < 0 ? r : submit_simple(m, call, JOB_DELETE, uid, backup, NULL, reterr);
}

int bus_backup_verify(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_json_ json_object *backup = NULL;
        const char *id, *depth = "data";
        bool has_key = false;
        int key = -1;
        const BusOption options[] = {
                { "depth", "s", &depth, NULL },
                { "key", "h", &key, &has_key },
        };
        int r = bus_read_id(call, "backup", &id, reterr);

        if (r >= 0)
                r = bus_read_options(call, options, ELEMENTSOF(options), reterr);
        if (r < 0)
                return r;
        if (strcmp(depth, "metadata") != 0 && strcmp(depth, "data") != 0 &&
            strcmp(depth, "restore") != 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'depth' is metadata, data or restore, not '%.100s'", depth);
        r = load_backup(m, id, &backup, reterr);
        if (r < 0)
                return r;
        if (has_key || strcmp(depth, "data") != 0)
                return -EOPNOTSUPP;
        return submit_simple(m, call, JOB_VERIFY, uid, backup, depth, reterr);
}
