/*
 * Methods about restores. What a swap needs to be sure of (that the backup is good, that the target
 * is free, that this is the newest restore) is looked at by the job: it may change until then.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/bus-internal.h"

#define RESTORES_MAX 500

typedef struct RestoreArguments {
        const char *id, *type, *from;
        bool confirm, allow_partial, has_paths, has_key, has_directory;
        int directory, key;
        char restore_id[UUID_TEXT_MAX];
} RestoreArguments;

static int check_from(const char *from, Failure *reterr) {
        static const char *const known[] = { "auto", "hot", "local", "remote" };

        for (size_t i = 0; i < ELEMENTSOF(known); i++)
                if (strcmp(from, known[i]) == 0)
                        return 0;
        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                        "option 'from' is auto, hot, local or remote, not '%.100s'", from);
}

static int read_restore(sd_bus_message *call, RestoreArguments *a, Failure *reterr) {
        const BusOption options[] = {
                { "confirm", "b", &a->confirm, NULL },
                { "paths", "as", NULL, &a->has_paths },
                { "from", "s", &a->from, NULL },
                { "directory", "h", &a->directory, &a->has_directory },
                { "allow_partial", "b", &a->allow_partial, NULL },
                { "key", "h", &a->key, &a->has_key },
        };
        int r = bus_read_id(call, "backup", &a->id, reterr);

        if (r < 0)
                return r;
        r = sd_bus_message_read(call, "s", &a->type);
        if (r < 0)
                return bus_fail(reterr, r);
        r = bus_read_options(call, options, ELEMENTSOF(options), reterr);
        if (r >= 0)
                r = check_from(a->from, reterr);
        if (r < 0)
                return r;
        if (strcmp(a->type, "full") != 0 && !text_is_service_name(a->type))
                return fail_set(reterr, FAIL_NO_SUCH_SERVICE, ENOENT,
                                "'%.100s' is neither 'full' nor a service", a->type);
        return 0;
}

/* The services of the backup that are meant; takes over `all`. */
static int choose_services(json_object *backup,
                           const RestoreArguments *a,
                           ConfigStrings *ret,
                           Failure *reterr) {
        _cleanup_strings_ ConfigStrings all = { .n = 0 };

        if (record_services(backup, &all) < 0)
                return fail_set(reterr, FAIL_INTERNAL, EUCLEAN,
                                "the catalogue's row of backup %s is damaged", a->id);
        if (strcmp(a->type, "full") == 0) {
                *ret = all;
                all = (ConfigStrings){ .n = 0 };
                return 0;
        }
        if (!strings_has(&all, a->type))
                return fail_set(reterr, FAIL_NO_SUCH_SERVICE, ENOENT,
                                "backup %s does not hold service '%s'", a->id, a->type);
        return strings_add(ret, a->type) < 0
                       ? fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory")
                       : 0;
}

static int take_directory(const RestoreArguments *a, int *ret, Failure *reterr) {
        _cleanup_close_ int fd = -1;
        struct stat st;

        if (!a->has_directory)
                return 0;
        if (fstat(a->directory, &st) < 0 || !S_ISDIR(st.st_mode))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, ENOTDIR,
                                "option 'directory' is not a directory");
        fd = fcntl(a->directory, F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot keep the directory");
        *ret = TAKE_FD(fd);
        return 0;
}

static int new_restore_id(RestoreArguments *a, Failure *reterr) {
        uint8_t uuid[16];
        int r = text_uuid_new(uuid);

        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot make an id");
        text_uuid_format(uuid, a->restore_id);
        return 0;
}

static json_object *restore_request(const RestoreArguments *a) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "restore_id", a->restore_id) < 0 ||
            json_put_string(o, "backup_id", a->id) < 0 ||
            json_put_string(o, "restore_type", a->type) < 0 ||
            json_put_string(o, "from", a->from) < 0 ||
            json_put_bool(o, "allow_partial", a->allow_partial) < 0 ||
            json_put_bool(o, "into", a->has_directory) < 0)
                return NULL;
        return TAKE_PTR(o);
}

static int submit_restore(Manager *m,
                          sd_bus_message *call,
                          RestoreArguments *a,
                          const ConfigStrings *services,
                          uint32_t uid,
                          Failure *reterr) {
        JobRequest request = {
                .type = JOB_RESTORE,
                .uid = uid,
                .backup_id = a->id,
                .restore_id = a->restore_id,
                .services = services,
                .directory = -1,
                .allow_partial = a->allow_partial,
        };
        Job *j;
        int r = take_directory(a, &request.directory, reterr);

        if (r < 0)
                return r;
        request.request = restore_request(a);
        r = job_submit(m, &request, &j, reterr);
        return r < 0 ? r : bus_reply_job(call, a->restore_id, j, reterr);
}

int bus_restore_start(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        RestoreArguments a = { .from = "auto", .directory = -1, .key = -1 };
        _cleanup_strings_ ConfigStrings services = { .n = 0 };
        _cleanup_json_ json_object *backup = NULL;
        int r = read_restore(call, &a, reterr);

        if (r < 0)
                return r;
        r = catalog_get_backup(m->catalog, a.id, &backup, reterr);
        if (r == -ENOENT)
                return fail_set(reterr, FAIL_NO_SUCH_BACKUP, ENOENT, "no backup %s", a.id);
        if (r >= 0)
                r = choose_services(backup, &a, &services, reterr);
        if (r < 0)
                return r;
        if (!a.confirm)
                return fail_set(reterr, FAIL_NOT_CONFIRMED, EPERM,
                                "a restore replaces live data: repeat it with the option confirm "
                                "set to true");
        if (a.has_paths || a.has_key || strcmp(a.from, "remote") == 0)
                return -EOPNOTSUPP;
        r = new_restore_id(&a, reterr);
        return r < 0 ? r : submit_restore(m, call, &a, &services, uid, reterr);
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
        const char *backup_id;
        json_object *o;
        Job *j;
        int r = catalog_get_restore(m->catalog, id, &row, reterr);

        if (r == -ENOENT)
                return fail_set(reterr, FAIL_NO_SUCH_RESTORE, ENOENT, "no restore %s", id);
        if (r < 0)
                return r;
        if (record_services(row, &services) < 0 ||
            json_get_string(row, "backup_id", &backup_id) < 0)
                return fail_set(reterr, FAIL_INTERNAL, EUCLEAN,
                                "the catalogue's row of restore %s is damaged", id);
        o = json_object_new_object();
        if (!o || json_put_string(o, "restore_id", id) < 0) {
                json_object_put(o);
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        }
        r = job_submit(m,
                       &(JobRequest){
                               .type = type,
                               .uid = uid,
                               .backup_id = backup_id,
                               .restore_id = id,
                               .services = &services,
                               .request = o,
                               .directory = -1,
                       },
                       &j, reterr);
        return r < 0 ? r : bus_reply_job(call, NULL, j, reterr);
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
