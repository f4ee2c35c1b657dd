/*
 * Methods about the repository as a whole: what it is, what may go, what comes from elsewhere, and
 * its private key.
 */

#include <errno.h>

#include "agent/bus-internal.h"

int bus_repository_get(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_job_request_ JobRequest q = {
                .type = JOB_REPOSITORY,
                .uid = uid,
                .parameters = json_object_new_object(),
                .fds = JOB_FDS_INIT,
        };
        int r = bus_read_options(call, NULL, 0, reterr);

        return r < 0 ? r : bus_hold_submit(m, call, &q, bus_answer_summary, -1, reterr);
}

int bus_repository_prune(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_job_request_ JobRequest q = {
                .type = JOB_PRUNE,
                .uid = uid,
                .parameters = json_object_new_object(),
                .fds = JOB_FDS_INIT,
        };
        bool dry_run = false;
        const BusOption options[] = { { "dry_run", "b", &dry_run, NULL } };
        int r = bus_read_options(call, options, ELEMENTSOF(options), reterr);

        if (r < 0)
                return r;
        if (json_put_bool(q.parameters, "dry_run", dry_run) < 0)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        return bus_submit(m, call, &q, reterr);
}

static json_object *import_parameters(const RecordNew *n) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "backup_id", n->id) < 0 ||
            json_put_string(o, "backup_name", n->name) < 0 ||
            json_put_string(o, "description", n->description) < 0 ||
            json_put_string(o, "created_by", n->created_by) < 0)
                return NULL;
        return TAKE_PTR(o);
}

static int submit_import(Manager *m,
                         sd_bus_message *call,
                         JobRequest *q,
                         const RecordNew *n,
                         Failure *reterr) {
        _cleanup_json_ json_object *row = record_new_backup(n);
        Job *j;
        int r;

        if (!row)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        q->backup_id = n->id;
        q->parameters = import_parameters(n);
        q->backup = row;
        r = job_submit(m, q, &j, reterr);
        return r < 0 ? r : bus_reply_job(call, n->id, j, reterr);
}

/* What is in it only the archive says: the row has no services until the worker sends the record.
 */
int bus_repository_import(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_job_request_ JobRequest q = { .type = JOB_IMPORT,
                                               .uid = uid,
                                               .fds = JOB_FDS_INIT };
        const ConfigStrings none = { .n = 0 };
        char id[UUID_TEXT_MAX], created_by[BUS_CREATED_BY_MAX];
        RecordNew n = { .id = id,
                        .type = "full",
                        .description = "",
                        .created_by = created_by,
                        .services = &none };
        const BusOption options[] = { { "description", "s", &n.description, NULL } };
        int stream, r = bus_fail(reterr, sd_bus_message_read(call, "hs", &stream, &n.name));

        if (r >= 0)
                r = bus_read_options(call, options, ELEMENTSOF(options), reterr);
        if (r >= 0)
                r = bus_check_name(n.name, n.description, reterr);
        if (r >= 0)
                r = bus_keep_readable(stream, "stream", &q.fds.stream, reterr);
        if (r >= 0)
                r = bus_new_id(id, reterr);
        if (r < 0)
                return r;
        bus_created_by(uid, created_by);
        return submit_import(m, call, &q, &n, reterr);
}

int bus_key_export(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_job_request_ JobRequest q = {
                .type = JOB_CONFIGURE,
                .uid = uid,
                .verb = "export-key",
                .parameters = json_object_new_object(),
                .fds = JOB_FDS_INIT,
        };
        int stream, r = bus_read_options(call, NULL, 0, reterr);

        if (r >= 0)
                r = bus_make_stream(&q, &stream, reterr);
        return r < 0 ? r : bus_hold_submit(m, call, &q, bus_answer_fd, stream, reterr);
}

int bus_key_prove(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_job_request_ JobRequest q = {
                .type = JOB_CONFIGURE,
                .uid = uid,
                .verb = "prove-key",
                .parameters = json_object_new_object(),
                .fds = JOB_FDS_INIT,
        };
        int key, r = bus_fail(reterr, sd_bus_message_read(call, "h", &key));

        if (r >= 0)
                r = bus_keep_readable(key, "key", &q.fds.key, reterr);
        return r < 0 ? r : bus_hold_submit(m, call, &q, bus_answer_empty, -1, reterr);
}

int bus_key_forget(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_job_request_ JobRequest q = {
                .type = JOB_CONFIGURE,
                .uid = uid,
                .verb = "forget-key",
                .parameters = json_object_new_object(),
                .fds = JOB_FDS_INIT,
        };
        int r = bus_read_options(call, NULL, 0, reterr);

        return r < 0 ? r : bus_hold_submit(m, call, &q, bus_answer_empty, -1, reterr);
}
