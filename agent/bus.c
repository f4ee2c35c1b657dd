/*
 * The connection. Everything is exported before the name is asked for, so that no call of a client
 * that was waiting for the name meets half an object tree. Losing the connection ends the agent:
 * its service is started again, and jobs that ran are then known to be interrupted. The next agent
 * waits a while for the bus, so that systemd's limit for starts is not used up meanwhile.
 */

#include "agent/bus.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>

#include "agent/bus-internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/names.h"

#define WAIT_USEC      (60 * USEC_PER_SEC) /* less than systemd gives a service to start */
#define WAIT_STEP_USEC (250 * USEC_PER_MSEC)

static int export_objects(Manager *m) {
        int r = sd_bus_add_object_manager(m->bus, NULL, HP_BUS_ROOT);

        if (r >= 0)
                r = sd_bus_add_object_vtable(m->bus, NULL, HP_BUS_ROOT, HP_IFACE_MANAGER,
                                             bus_manager_vtable, m);
        if (r >= 0)
                r = sd_bus_add_fallback_vtable(m->bus, NULL, HP_BUS_JOB_PREFIX, HP_IFACE_JOB,
                                               bus_job_vtable, bus_job_object_find, m);
        if (r >= 0)
                r = sd_bus_add_node_enumerator(m->bus, NULL, HP_BUS_JOB_PREFIX, bus_job_enumerate,
                                               m);
        return r;
}

/* Nothing has begun yet: who ends us now, ends us at once. A reload is for later. */
static void wait_for_bus(void) {
        const struct timespec step = { .tv_nsec = WAIT_STEP_USEC * 1000 };
        sigset_t mask;

        (void) sigemptyset(&mask);
        (void) sigaddset(&mask, SIGHUP);
        (void) ppoll(NULL, 0, &step, &mask);
}

static int connect_bus(sd_bus **ret) {
        uint64_t end = clock_monotonic_usec() + WAIT_USEC;
        bool told = false;
        int r;

        while ((r = sd_bus_open_system(ret)) == -ECONNREFUSED || r == -ENOENT) {
                if (clock_monotonic_usec() >= end)
                        break;
                if (!told)
                        log_warning("The system bus is not there (%s): waiting", strerror(-r));
                told = true;
                wait_for_bus();
        }
        return r;
}

int bus_open(Manager *m, Failure *reterr) {
        int r = connect_bus(&m->bus);

        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot connect to the system bus");
        r = sd_bus_set_exit_on_disconnect(m->bus, true);
        if (r >= 0)
                r = export_objects(m);
        if (r >= 0)
                r = bus_hold_watch(m);
        if (r >= 0)
                r = sd_bus_attach_event(m->bus, m->event, SD_EVENT_PRIORITY_NORMAL);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot set up the bus") : 0;
}

int bus_own_name(Manager *m, Failure *reterr) {
        int r = sd_bus_request_name(m->bus, HP_BUS_NAME, 0);

        if (r == -EEXIST)
                return fail_set(reterr, FAIL_BUSY, EEXIST, "another agent runs already: it owns %s",
                                HP_BUS_NAME);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot own the name %s", HP_BUS_NAME)
                     : 0;
}

static void tell_changed(Manager *m);

void bus_close(Manager *m) {
        if (!m->bus)
                return;
        tell_changed(m);
        (void) sd_bus_set_exit_on_disconnect(m->bus, false);
        m->bus = sd_bus_flush_close_unref(m->bus);
}

static void warn(int r, const char *what) {
        if (r < 0)
                log_debug("%s could not be told: %s", what, strerror(-r));
}

static const char *const changing[] = {
        "State",           "Services",
        "RunningJobs",     "BackupCount",
        "StoredBytes",     "RepositoryFreeBytes",
        "LastSuccessUSec", "Overdue",
        "SuccessRate",     "RestoreSuccessRate",
};

static void tell_changed(Manager *m) {
        char *names[ELEMENTSOF(changing) + 1] = { NULL };
        size_t n = 0;

        m->changed_timer = sd_event_source_disable_unref(m->changed_timer);
        for (size_t i = 0; i < ELEMENTSOF(changing); i++)
                if (m->changed & (UINT32_C(1) << i))
                        names[n++] = (char *) changing[i];
        m->changed = 0;
        m->changed_usec = clock_monotonic_usec();
        if (n > 0)
                warn(sd_bus_emit_properties_changed_strv(m->bus, HP_BUS_ROOT, HP_IFACE_MANAGER,
                                                         names),
                     "changed properties");
}

static int on_changed(sd_event_source *source, uint64_t usec, void *userdata) {
        tell_changed(userdata);
        return 0;
}

/* What changes in one event goes out together, and a storm of short jobs makes no storm of signals.
 */
void bus_manager_changed(Manager *m, const char *property) {
        if (!m->bus)
                return;
        for (size_t i = 0; i < ELEMENTSOF(changing); i++)
                if (strcmp(changing[i], property) == 0)
                        m->changed |= UINT32_C(1) << i;
        if (!m->changed_timer &&
            sd_event_add_time(m->event, &m->changed_timer, CLOCK_MONOTONIC,
                              m->changed_usec + BUS_CHANGED_USEC, USEC_PER_MSEC, on_changed, m) < 0)
                tell_changed(m);
}

void bus_backup_added(Manager *m, const char *id) {
        warn(sd_bus_emit_signal(m->bus, HP_BUS_ROOT, HP_IFACE_MANAGER, "BackupAdded", "s", id),
             "a new backup");
}

void bus_backup_removed(Manager *m, const char *id) {
        warn(sd_bus_emit_signal(m->bus, HP_BUS_ROOT, HP_IFACE_MANAGER, "BackupRemoved", "s", id),
             "a removed backup");
}

void bus_service_overdue(Manager *m, const char *service, uint64_t since_usec) {
        warn(sd_bus_emit_signal(m->bus, HP_BUS_ROOT, HP_IFACE_MANAGER, "ServiceOverdue", "st",
                                service, since_usec),
             "an overdue service");
}
