/*
 * Order at the start: catalogue, interrupted jobs marked, then the bus and last its name: whoever
 * finds the name finds an agent that answers truly. At the end the other way round: workers are
 * hung up on (they stop at a safe point), their jobs are written down, the bus is flushed.
 */

#include "agent/manager.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "agent/bus.h"
#include "agent/catalogue.h"
#include "agent/job.h"
#include "agent/reconcile.h"
#include "agent/service.h"
#include "base/clock.h"
#include "base/defaults.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/names.h"

const char *manager_state_dir(void) {
        const char *dir = getenv(HP_ENV_STATE);

        return dir && *dir ? dir : HP_DEFAULT_STATE;
}

static void stop(Manager *m, const char *reason) {
        Failure why = FAILURE_INIT;

        (void) sd_notify(false, "STOPPING=1\nSTATUS=Stopping");
        m->stopping = true;
        bus_manager_changed(m, "State");
        (void) fail_set(&why, FAIL_INTERRUPTED, ESHUTDOWN, "%s", reason);
        for (size_t i = 0; i < m->n_jobs;) {
                Job *j = m->jobs[i];

                if (j->state == JOB_FINISHED) {
                        i++;
                        continue;
                }
                job_finish(j, JOB_INTERRUPTED, &why, NULL);
                i = 0; /* the list may have become shorter */
        }
}

static int on_stop(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata) {
        Manager *m = userdata;

        log_info("Stopping");
        stop(m, "the agent was stopped");
        return sd_event_exit(m->event, 0);
}

static int on_hup(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata) {
        Failure why = FAILURE_INIT;

        (void) manager_reload(userdata, &why); /* logged there */
        return 0;
}

static void tell_warnings(const Config *config) {
        for (size_t i = 0; i < config->warnings.n; i++)
                log_warning("%s", config->warnings.items[i]);
}

/*
 * What /etc/default/holdpoint says about the schedule `default` is followed by a worker: the file
 * may be readable for root alone.
 */
static void follow_default_schedule(Manager *m) {
        _cleanup_job_request_ JobRequest q = {
                .type = JOB_SCHEDULE,
                .uid = JOB_UID_INTERNAL,
                .verb = "default-schedule",
                .parameters = json_object_new_object(),
                .fds = JOB_FDS_INIT,
        };
        bool hidden = access(defaults_path(), R_OK) < 0 && errno == EACCES;
        Failure why = FAILURE_INIT;

        if (!m->config->default_schedule.is_set && !hidden)
                return;
        if (job_submit(m, &q, NULL, &why) < 0)
                log_warning("The schedule 'default' is not looked after: %s", why.text);
}

/* Jobs that run have read their configuration themselves: nothing here concerns them. */
static void use_config(Manager *m, Config *config) {
        bool moved = strcmp(m->config->repository_path, config->repository_path) != 0;

        config_free(m->config);
        m->config = config;
        log_message(MESSAGE_CONFIGURATION_RELOADED, NULL, "Configuration read again: %zu services",
                    config->n_services);
        tell_warnings(config);
        bus_manager_changed(m, "Services");
        if (moved)
                reconcile_request(m); /* other backups */
        service_update_overdue(m);
        follow_default_schedule(m);
}

int manager_reload(Manager *m, Failure *reterr) {
        Config *config = NULL;
        int r;

        catalogue_return(m); /* somebody may have made room */
        (void) sd_notifyf(false, "RELOADING=1\nMONOTONIC_USEC=%llu",
                          (unsigned long long) clock_monotonic_usec());
        r = config_load(config_dir(), &config, reterr);
        if (r < 0)
                log_message(MESSAGE_CONFIGURATION_REFUSED,
                            &(LogFields){ .error = fail_name(reterr->code) },
                            "The configuration was not read again, the old one stays: %s",
                            reterr->text);
        else
                use_config(m, config);
        (void) sd_notify(false, "READY=1");
        return r;
}

static int open_loop(Manager *m, Failure *reterr) {
        int r = sd_event_default(&m->event);

        if (r >= 0)
                r = sd_event_add_signal(m->event, NULL, SIGTERM, on_stop, m);
        if (r >= 0)
                r = sd_event_add_signal(m->event, NULL, SIGINT, on_stop, m);
        if (r >= 0)
                r = sd_event_add_signal(m->event, NULL, SIGHUP, on_hup, m);
        if (r >= 0)
                r = sd_event_set_watchdog(m->event, true);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot set up the event loop") : 0;
}

int manager_new(Config *config, Manager **ret, Failure *reterr) {
        _cleanup_(manager_freep) Manager *m = calloc(1, sizeof(*m));
        const char *workers = getenv(HP_ENV_WORKERS);
        int r;

        if (!m) {
                config_free(config);
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        }
        m->config = config;
        m->workers_dir = workers && *workers ? workers : HP_DEFAULT_WORKERS;
        m->workers_reachable = true;
        r = open_loop(m, reterr);
        if (r >= 0)
                r = catalogue_open(m, reterr);
        if (r >= 0)
                r = bus_open(m, reterr);
        if (r >= 0)
                r = bus_own_name(m, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(m);
        return 0;
}

int manager_run(Manager *m) {
        int r;

        reconcile_request(m);
        follow_default_schedule(m);
        (void) sd_notifyf(false, "READY=1\nSTATUS=%zu services", m->config->n_services);
        log_info("Running with %zu services", m->config->n_services);
        tell_warnings(m->config);
        r = sd_event_loop(m->event);
        if (r < 0)
                log_error("The event loop failed: %s", strerror(-r));
        else if (r > 0)
                log_error("The connection to the bus is lost");
        if (!m->stopping)
                stop(m, r > 0 ? "the agent lost the system bus" : "the agent could not go on");
        catalogue_return(m);
        return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

Manager *manager_free(Manager *m) {
        if (!m)
                return NULL;
        /* Objects are told to go only while there is somebody to tell. */
        bus_close(m);
        for (size_t i = 0; i < m->n_jobs; i++)
                job_free(m->jobs[i]);
        free(m->jobs);
        sd_event_source_disable_unref(m->queue_source);
        sd_event_source_disable_unref(m->reconcile_timer);
        sd_event_source_disable_unref(m->overdue_timer);
        sd_event_source_disable_unref(m->return_timer);
        sd_event_source_disable_unref(m->changed_timer);
        strings_done(&m->overdue);
        service_forget(m);
        bus_audit_forget(m);
        sd_event_unref(m->event);
        catalog_free(m->catalog);
        config_free(m->config);
        free(m);
        return NULL;
}
