/*
 * Job objects. Progress arrives ten times a second and more; the bus is told four times at most:
 * the first change at once, what follows within a third of a second together.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/bus-internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/names.h"

#define HISTORY_USEC (UINT64_C(7) * 86400 * USEC_PER_SEC)
#define HISTORY_MAX  500

int bus_job_object_find(sd_bus *bus,
                        const char *path,
                        const char *interface,
                        void *userdata,
                        void **ret_found,
                        sd_bus_error *reterr_error) {
        static const char prefix[] = HP_BUS_JOB_PREFIX "/_";
        char again[JOB_PATH_MAX];
        uint64_t id;
        Job *j;

        if (strncmp(path, prefix, sizeof(prefix) - 1) != 0 ||
            text_to_u64(path + sizeof(prefix) - 1, &id) < 0 || id > UINT32_MAX)
                return 0;
        job_path((uint32_t) id, again);
        j = job_find(userdata, (uint32_t) id);
        if (!j || strcmp(path, again) != 0) /* "_07" is no name of job 7 */
                return 0;
        *ret_found = j;
        return 1;
}

int bus_job_enumerate(sd_bus *bus,
                      const char *prefix,
                      void *userdata,
                      char ***ret_nodes,
                      sd_bus_error *reterr_error) {
        Manager *m = userdata;
        char **nodes = calloc(m->n_jobs + 1, sizeof(*nodes));

        if (!nodes)
                return -ENOMEM;
        for (size_t i = 0; i < m->n_jobs; i++) {
                nodes[i] = malloc(JOB_PATH_MAX);
                if (!nodes[i]) {
                        while (i > 0)
                                free(nodes[--i]);
                        free(nodes);
                        return -ENOMEM;
                }
                job_path(m->jobs[i]->id, nodes[i]);
        }
        *ret_nodes = nodes;
        return 0;
}

static uint64_t number_of(const Job *j, const char *property) {
        const struct {
                const char *property;
                uint64_t value;
        } numbers[] = {
                { "StartedUSec", j->started_usec },
                { "BytesDone", j->bytes_done },
                { "BytesTotal", j->bytes_total },
                { "FilesDone", j->files_done },
                { "FilesTotal", j->files_total },
                { "Rate", job_rate(j) },
                { "ExpectedEndUSec", job_expected_end_usec(j) },
                { "PauseUSec", j->pause_usec },
        };

        for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
                if (strcmp(numbers[i].property, property) == 0)
                        return numbers[i].value;
        return 0;
}

static const char *text_of(const Job *j, const char *property, char error[128]) {
        if (strcmp(property, "Type") == 0)
                return job_type_text(j->type);
        if (strcmp(property, "BackupId") == 0)
                return j->backup_id;
        if (strcmp(property, "State") == 0)
                return job_state_text(j->state);
        if (strcmp(property, "Phase") == 0)
                return j->phase;
        if (strcmp(property, "Result") == 0)
                return job_result_text(j->result);
        job_error_name(j, error);
        return error;
}

static int get_text(sd_bus *bus,
                    const char *path,
                    const char *interface,
                    const char *property,
                    sd_bus_message *reply,
                    void *userdata,
                    sd_bus_error *reterr_error) {
        char error[128];

        return sd_bus_message_append(reply, "s", text_of(userdata, property, error));
}

static int get_number(sd_bus *bus,
                      const char *path,
                      const char *interface,
                      const char *property,
                      sd_bus_message *reply,
                      void *userdata,
                      sd_bus_error *reterr_error) {
        return sd_bus_message_append(reply, "t", number_of(userdata, property));
}

static int get_message(sd_bus *bus,
                       const char *path,
                       const char *interface,
                       const char *property,
                       sd_bus_message *reply,
                       void *userdata,
                       sd_bus_error *reterr_error) {
        const Job *j = userdata;
        _cleanup_free_ char *text = text_escape(j->failure.text);

        return text ? sd_bus_message_append(reply, "s", text) : -ENOMEM;
}

static int get_other(sd_bus *bus,
                     const char *path,
                     const char *interface,
                     const char *property,
                     sd_bus_message *reply,
                     void *userdata,
                     sd_bus_error *reterr_error) {
        const Job *j = userdata;

        if (strcmp(property, "Id") == 0)
                return sd_bus_message_append(reply, "u", j->id);
        if (strcmp(property, "StartedByUID") == 0)
                return sd_bus_message_append(reply, "u", j->uid);
        if (strcmp(property, "Progress") == 0)
                return sd_bus_message_append(reply, "d", j->progress);
        if (strcmp(property, "Cancelable") == 0)
                return sd_bus_message_append(reply, "b", (int) job_is_cancelable(j));
        return bus_append_strings(reply, &j->services);
}

static int cancel(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        void *job;
        int r = bus_read_options(call, NULL, 0, reterr);

        if (r < 0)
                return r;
        /* It may have gone while the caller was looked at. */
        if (bus_job_object_find(m->bus, sd_bus_message_get_path(call), HP_IFACE_JOB, m, &job,
                                NULL) <= 0)
                return fail_set(reterr, FAIL_NO_SUCH_JOB, ENOENT, "the job has gone");
        r = job_cancel(job, reterr);
        return r < 0 ? r : bus_fail(reterr, sd_bus_reply_method_return(call, NULL));
}

static int on_cancel(sd_bus_message *call, void *userdata, sd_bus_error *reterr_error) {
        static const BusMethod method = { "Cancel", cancel };

        return bus_auth_call(((Job *) userdata)->manager, call, &method);
}

#define CHANGES SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE
#define FIXED   SD_BUS_VTABLE_PROPERTY_CONST

const sd_bus_vtable bus_job_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_PROPERTY("Id", "u", get_other, 0, FIXED),
        SD_BUS_PROPERTY("Type", "s", get_text, 0, FIXED),
        SD_BUS_PROPERTY("BackupId", "s", get_text, 0, FIXED),
        SD_BUS_PROPERTY("Services", "as", get_other, 0, FIXED),
        SD_BUS_PROPERTY("StartedByUID", "u", get_other, 0, FIXED),
        SD_BUS_PROPERTY("StartedUSec", "t", get_number, 0, CHANGES),
        SD_BUS_PROPERTY("State", "s", get_text, 0, CHANGES),
        SD_BUS_PROPERTY("Phase", "s", get_text, 0, CHANGES),
        SD_BUS_PROPERTY("Progress", "d", get_other, 0, CHANGES),
        SD_BUS_PROPERTY("BytesDone", "t", get_number, 0, CHANGES),
        SD_BUS_PROPERTY("BytesTotal", "t", get_number, 0, CHANGES),
        SD_BUS_PROPERTY("FilesDone", "t", get_number, 0, CHANGES),
        SD_BUS_PROPERTY("FilesTotal", "t", get_number, 0, CHANGES),
        SD_BUS_PROPERTY("Rate", "t", get_number, 0, CHANGES),
        SD_BUS_PROPERTY("ExpectedEndUSec", "t", get_number, 0, CHANGES),
        SD_BUS_PROPERTY("PauseUSec", "t", get_number, 0, CHANGES),
        SD_BUS_PROPERTY("Cancelable", "b", get_other, 0, CHANGES),
        SD_BUS_PROPERTY("Result", "s", get_text, 0, CHANGES),
        SD_BUS_PROPERTY("ErrorName", "s", get_text, 0, CHANGES),
        SD_BUS_PROPERTY("ErrorMessage", "s", get_message, 0, CHANGES),
        SD_BUS_METHOD_WITH_ARGS("Cancel",
                                SD_BUS_ARGS("a{sv}", options),
                                SD_BUS_NO_RESULT,
                                on_cancel,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_SIGNAL_WITH_ARGS("Finished", SD_BUS_ARGS("s", result, "a{sv}", summary), 0),
        SD_BUS_VTABLE_END,
};

static void tell_changed(Job *j) {
        char *changing[] = { (char *) "StartedUSec",  (char *) "State",
                             (char *) "Phase",        (char *) "Progress",
                             (char *) "BytesDone",    (char *) "BytesTotal",
                             (char *) "FilesDone",    (char *) "FilesTotal",
                             (char *) "Rate",         (char *) "ExpectedEndUSec",
                             (char *) "PauseUSec",    (char *) "Cancelable",
                             (char *) "Result",       (char *) "ErrorName",
                             (char *) "ErrorMessage", NULL };
        char path[JOB_PATH_MAX];
        int r;

        j->changed = sd_event_source_disable_unref(j->changed);
        j->changed_usec = clock_monotonic_usec();
        job_path(j->id, path);
        r = sd_bus_emit_properties_changed_strv(j->manager->bus, path, HP_IFACE_JOB, changing);
        if (r < 0)
                log_debug("Job %u: its change could not be told: %s", j->id, strerror(-r));
}

static int on_changed(sd_event_source *source, uint64_t usec, void *userdata) {
        tell_changed(userdata);
        return 0;
}

void bus_job_changed(Job *j) {
        uint64_t now = clock_monotonic_usec();

        if (j->changed)
                return;
        if (now - j->changed_usec >= BUS_CHANGED_USEC ||
            sd_event_add_time(j->manager->event, &j->changed, CLOCK_MONOTONIC,
                              j->changed_usec + BUS_CHANGED_USEC, USEC_PER_MSEC, on_changed, j) < 0)
                tell_changed(j);
}

void bus_job_added(Job *j) {
        Manager *m = j->manager;
        char path[JOB_PATH_MAX];
        int r;

        job_path(j->id, path);
        r = sd_bus_emit_object_added(m->bus, path);
        if (r >= 0)
                r = sd_bus_emit_signal(m->bus, HP_BUS_ROOT, HP_IFACE_MANAGER, "JobNew", "uoss",
                                       j->id, path, job_type_text(j->type), j->backup_id);
        if (r < 0)
                log_debug("Job %u: it could not be announced: %s", j->id, strerror(-r));
}

static int send_end(Job *j, bool from_manager) {
        _cleanup_message_ sd_bus_message *signal = NULL;
        char path[JOB_PATH_MAX];
        int r;

        job_path(j->id, path);
        r = sd_bus_message_new_signal(j->manager->bus, &signal, from_manager ? HP_BUS_ROOT : path,
                                      from_manager ? HP_IFACE_MANAGER : HP_IFACE_JOB,
                                      from_manager ? "JobRemoved" : "Finished");
        if (r >= 0 && from_manager)
                r = sd_bus_message_append(signal, "uo", j->id, path);
        if (r >= 0)
                r = sd_bus_message_append(signal, "s", job_result_text(j->result));
        if (r >= 0)
                r = bus_append_summary(signal, j->summary);
        return r < 0 ? r : sd_bus_send(j->manager->bus, signal, NULL);
}

void bus_job_finished(Job *j) {
        int r;

        if (!j->manager->bus)
                return;
        tell_changed(j);
        r = send_end(j, false);
        if (r >= 0)
                r = send_end(j, true);
        if (r < 0)
                log_debug("Job %u: its end could not be told: %s", j->id, strerror(-r));
        bus_hold_answer(j);
        bus_manager_changed(j->manager, "RunningJobs");
        bus_manager_changed(j->manager, "State");
}

void bus_job_gone(Job *j) {
        char path[JOB_PATH_MAX];

        job_path(j->id, path);
        if (sd_bus_emit_object_removed(j->manager->bus, path) < 0)
                log_debug("Job %u: that its object goes could not be told", j->id);
}

typedef struct ListArguments {
        uint32_t page, limit;
        const char *state, *type, *backup_id;
} ListArguments;

static int read_list(sd_bus_message *call, ListArguments *a, Failure *reterr) {
        const BusOption options[] = {
                { "page", "u", &a->page, NULL },           { "limit", "u", &a->limit, NULL },
                { "state", "s", &a->state, NULL },         { "type", "s", &a->type, NULL },
                { "backup_id", "s", &a->backup_id, NULL },
        };
        JobState state;
        int r = bus_read_options(call, options, ELEMENTSOF(options), reterr);

        if (r < 0)
                return r;
        if (a->page < 1 || a->limit < 1 || a->limit > HISTORY_MAX)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'page' begins with 1 and 'limit' is 1 to %d", HISTORY_MAX);
        if (strcmp(a->state, "all") != 0 && job_state_from_text(a->state, &state) < 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'state' is all, queued, running, canceling or finished, "
                                "not '%.100s'",
                                a->state);
        if (strcmp(a->type, "all") != 0 && !job_type_is_known(a->type))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'type' is all or a type of job, not '%.100s'", a->type);
        if (*a->backup_id && !text_is_uuid(a->backup_id))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option 'backup_id' is not the id of a backup: '%.100s'",
                                a->backup_id);
        return 0;
}

/* What is not finished the agent alone knows. */
static int list_live(Manager *m, const ListArguments *a, json_object *list) {
        uint64_t skip = (uint64_t) (a->page - 1) * a->limit;

        for (size_t i = m->n_jobs; i > 0 && json_object_array_length(list) < a->limit; i--) {
                const Job *j = m->jobs[i - 1];
                json_object *o;

                if (strcmp(job_state_text(j->state), a->state) != 0 ||
                    (strcmp(a->type, "all") != 0 && strcmp(job_type_text(j->type), a->type) != 0) ||
                    (*a->backup_id && strcmp(j->backup_id, a->backup_id) != 0))
                        continue;
                if (skip > 0) {
                        skip--;
                        continue;
                }
                o = job_to_json(j);
                if (!o || json_object_array_add(list, o) < 0) {
                        json_object_put(o);
                        return -ENOMEM;
                }
        }
        return 0;
}

/* Live jobs are truer than their rows; both are newest first. */
static int refresh(Manager *m, json_object *list) {
        for (size_t i = 0; i < json_object_array_length(list); i++) {
                uint64_t id = 0;
                json_object *live;
                const Job *j;

                (void) json_get_u64(json_object_array_get_idx(list, i), "id", &id);
                j = job_find(m, (uint32_t) id);
                if (!j)
                        continue;
                live = job_to_json(j);
                if (!live || json_object_array_put_idx(list, i, live) < 0) {
                        json_object_put(live);
                        return -ENOMEM;
                }
        }
        return 0;
}

static int list_rows(Manager *m, const ListArguments *a, json_object **ret, Failure *reterr) {
        const CatalogTaskFilter f = {
                .type = strcmp(a->type, "all") == 0 ? NULL : a->type,
                .backup_id = *a->backup_id ? a->backup_id : NULL,
                .finished = strcmp(a->state, "finished") == 0,
                .since_usec = clock_ago_usec(HISTORY_USEC),
                .offset = (uint64_t) (a->page - 1) * a->limit,
                .limit = a->limit,
        };

        return catalog_list_tasks(m->catalog, &f, ret, reterr);
}

int bus_job_list(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        ListArguments a = {
                .page = 1, .limit = HISTORY_MAX, .state = "all", .type = "all", .backup_id = ""
        };
        _cleanup_json_ json_object *list = NULL;
        bool live;
        int r = read_list(call, &a, reterr);

        if (r < 0)
                return r;
        live = strcmp(a.state, "all") != 0 && strcmp(a.state, "finished") != 0;
        if (live)
                list = json_object_new_array();
        else
                r = list_rows(m, &a, &list, reterr);
        if (r < 0)
                return r;
        if (!list || (live ? list_live(m, &a, list) : refresh(m, list)) < 0)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        return bus_reply_list(call, list, bus_append_job, reterr);
}

int bus_job_get(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_json_ json_object *o = NULL;
        uint32_t id;
        Job *j;
        int r = sd_bus_message_read(call, "u", &id);

        if (r < 0)
                return bus_fail(reterr, r);
        j = job_find(m, id);
        if (j) {
                o = job_to_json(j);
                r = o ? 0 : fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        } else
                r = catalog_get_task(m->catalog, id, &o, reterr);
        if (r == -ENOENT)
                return fail_set(reterr, FAIL_NO_SUCH_JOB, ENOENT, "no job %u", id);
        return r < 0 ? r : bus_reply_dictionary(call, o, bus_append_job, reterr);
}
