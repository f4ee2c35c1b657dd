/*
 * The manager's properties and GetStatus: the same figures, told twice because properties cannot be
 * checked per caller.
 */

#include <errno.h>
#include <string.h>

#include "agent/bus-internal.h"
#include "agent/service.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/names.h"

#define RATE_SPAN_USEC (UINT64_C(30) * 86400 * USEC_PER_SEC)

static bool is_running(const Job *j) {
        return j->state == JOB_RUNNING || j->state == JOB_CANCELING;
}

static const char *state_text(const Manager *m) {
        if (m->stopping)
                return "stopping";
        for (size_t i = 0; i < m->n_jobs; i++)
                if (is_running(m->jobs[i]))
                        return "running";
        return "idle";
}

static int append_services(sd_bus_message *reply, Manager *m) {
        _cleanup_strings_ ConfigStrings names = { .n = 0 };
        int r = service_names(m, &names);

        return r < 0 ? r : bus_append_strings(reply, &names);
}

static int append_running(sd_bus_message *reply, Manager *m) {
        int r = sd_bus_message_open_container(reply, 'a', "o");

        for (size_t i = 0; r >= 0 && i < m->n_jobs; i++) {
                char path[JOB_PATH_MAX];

                if (!is_running(m->jobs[i]))
                        continue;
                job_path(m->jobs[i]->id, path);
                r = sd_bus_message_append(reply, "o", path);
        }
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

static double success_rate(Manager *m, const char *type) {
        uint64_t done, all;
        Failure why = FAILURE_INIT;

        if (catalog_task_rate(m->catalog, type, clock_ago_usec(RATE_SPAN_USEC), &done, &all, &why) <
            0) {
                log_warning("Cannot tell how the jobs went, ignoring: %s", why.text);
                return 0;
        }
        return all == 0 ? 1 : (double) done / (double) all;
}

static uint64_t last_success(Manager *m, const char *service, char id[UUID_TEXT_MAX]) {
        Failure why = FAILURE_INIT;
        uint64_t usec = 0;
        int r = catalog_last_success(m->catalog, service, &usec, id, &why);

        if (r < 0 && r != -ENOENT)
                log_warning("Cannot tell the last good backup, ignoring: %s", why.text);
        return r < 0 ? 0 : usec;
}

static uint64_t number_of(Manager *m, const char *property) {
        char id[UUID_TEXT_MAX];
        Failure why = FAILURE_INIT;
        uint64_t n = 0;

        if (strcmp(property, "StoredBytes") == 0)
                return m->stored_bytes;
        if (strcmp(property, "RepositoryFreeBytes") == 0)
                return m->free_bytes;
        if (strcmp(property, "LastSuccessUSec") == 0)
                return last_success(m, NULL, id);
        if (catalog_count_backups(m->catalog, &n, &why) < 0)
                log_warning("Cannot count the backups, ignoring: %s", why.text);
        return n;
}

/* Appends the value of a property, without a variant around it. */
static int append_property(sd_bus_message *reply, Manager *m, const char *property) {
        if (strcmp(property, "Version") == 0)
                return sd_bus_message_append(reply, "s", HOLDPOINT_VERSION);
        if (strcmp(property, "State") == 0)
                return sd_bus_message_append(reply, "s", state_text(m));
        if (strcmp(property, "Services") == 0)
                return append_services(reply, m);
        if (strcmp(property, "RunningJobs") == 0)
                return append_running(reply, m);
        if (strcmp(property, "Overdue") == 0)
                return bus_append_strings(reply, &m->overdue);
        if (strcmp(property, "SuccessRate") == 0)
                return sd_bus_message_append(reply, "d", success_rate(m, "backup"));
        if (strcmp(property, "RestoreSuccessRate") == 0)
                return sd_bus_message_append(reply, "d", success_rate(m, "restore"));
        return sd_bus_message_append(reply, "t", number_of(m, property));
}

int bus_status_property(sd_bus *bus,
                        const char *path,
                        const char *interface,
                        const char *property,
                        sd_bus_message *reply,
                        void *userdata,
                        sd_bus_error *reterr_error) {
        return append_property(reply, userdata, property);
}

static int append_service(sd_bus_message *reply, Manager *m, const ConfigService *s) {
        char id[UUID_TEXT_MAX] = "";
        uint64_t last = last_success(m, s->name, id);

        return sd_bus_message_append(reply, "a{sv}", 6, "service", "s", s->name, "description", "s",
                                     s->description ? s->description : "", "last_success_usec", "t",
                                     last, "last_backup_id", "s", id, "max_age_hours", "u",
                                     s->max_age_hours, "overdue", "b",
                                     (int) strings_has(&m->overdue, s->name));
}

static int append_service_status(sd_bus_message *reply, Manager *m) {
        int r = sd_bus_message_open_container(reply, 'e', "sv");

        if (r >= 0)
                r = sd_bus_message_append(reply, "s", "service_status");
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'v', "aa{sv}");
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "a{sv}");
        for (size_t i = 0; r >= 0 && i < m->config->n_services; i++)
                r = append_service(reply, m, m->config->services + i);
        for (int i = 0; r >= 0 && i < 3; i++)
                r = sd_bus_message_close_container(reply);
        return r;
}

static int append_status(sd_bus_message *reply, Manager *m) {
        static const struct {
                const char *key, *property, *type;
        } keys[] = {
                { "version", "Version", "s" },
                { "state", "State", "s" },
                { "services", "Services", "as" },
                { "running_jobs", "RunningJobs", "ao" },
                { "backup_count", "BackupCount", "t" },
                { "stored_bytes", "StoredBytes", "t" },
                { "repository_free_bytes", "RepositoryFreeBytes", "t" },
                { "last_success_usec", "LastSuccessUSec", "t" },
                { "overdue", "Overdue", "as" },
                { "success_rate", "SuccessRate", "d" },
                { "restore_success_rate", "RestoreSuccessRate", "d" },
        };
        int r = sd_bus_message_open_container(reply, 'a', "{sv}");

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(keys); i++) {
                r = sd_bus_message_open_container(reply, 'e', "sv");
                if (r >= 0)
                        r = sd_bus_message_append(reply, "s", keys[i].key);
                if (r >= 0)
                        r = sd_bus_message_open_container(reply, 'v', keys[i].type);
                if (r >= 0)
                        r = append_property(reply, m, keys[i].property);
                for (int k = 0; r >= 0 && k < 2; k++)
                        r = sd_bus_message_close_container(reply);
        }
        if (r >= 0)
                r = sd_bus_message_append(reply, "{sv}", "workers_reachable", "b",
                                          (int) m->workers_reachable);
        if (r >= 0 && m->keys.known)
                r = sd_bus_message_append(reply, "{sv}{sv}{sv}", "private_key", "b",
                                          (int) m->keys.private_key, "recovery_exported", "b",
                                          (int) m->keys.recovery_exported, "recovery_proven", "b",
                                          (int) m->keys.recovery_proven);
        if (r >= 0)
                r = append_service_status(reply, m);
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

int bus_status_get(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_message_ sd_bus_message *reply = NULL;
        int r = bus_read_options(call, NULL, 0, reterr);

        if (r < 0)
                return r;
        r = sd_bus_message_new_method_return(call, &reply);
        if (r >= 0)
                r = append_status(reply, m);
        if (r >= 0)
                r = sd_bus_message_send(reply);
        return bus_fail(reterr, r);
}

int bus_status_reload(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        int r = manager_reload(m, reterr);

        return r < 0 ? r : bus_fail(reterr, sd_bus_reply_method_return(call, NULL));
}
