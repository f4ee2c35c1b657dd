#include "agent/service.h"

#include <errno.h>
#include <string.h>

#include "agent/bus.h"
#include "base/clock.h"
#include "base/log.h"

#define USEC_PER_HOUR (3600 * USEC_PER_SEC)

static int on_overdue_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        service_update_overdue(userdata);
        return 0;
}

static void set_timer(Manager *m, uint64_t next_usec) {
        int r;

        sd_event_source_disable_unref(m->overdue_timer);
        m->overdue_timer = NULL;
        if (next_usec == UINT64_MAX)
                return;
        r = sd_event_add_time(m->event, &m->overdue_timer, CLOCK_REALTIME, next_usec, USEC_PER_SEC,
                              on_overdue_timer, m);
        if (r < 0)
                log_warning("Cannot set the timer for overdue services (%s), ignoring",
                            strerror(-r));
}

/* One second late on purpose: at the very moment it is not yet older than allowed. */
static int
judge(Manager *m, const ConfigService *s, uint64_t now, ConfigStrings *overdue, uint64_t *next) {
        Failure why = FAILURE_INIT;
        char id[UUID_TEXT_MAX];
        uint64_t last = 0, due;
        int r = catalog_last_success(m->catalog, s->name, &last, id, &why);

        if (r < 0 && r != -ENOENT) {
                log_error("Cannot tell whether '%s' is overdue: %s", s->name, why.text);
                return r;
        }
        due = last + s->max_age_hours * USEC_PER_HOUR;
        if (r != -ENOENT && due > now) {
                if (due + USEC_PER_SEC < *next)
                        *next = due + USEC_PER_SEC;
                return 0;
        }
        if (!strings_has(&m->overdue, s->name)) {
                log_warning("Service '%s' is overdue: no completed backup for %u hours", s->name,
                            s->max_age_hours);
                bus_service_overdue(m, s->name, last);
        }
        return strings_add(overdue, s->name);
}

static bool are_equal(const ConfigStrings *a, const ConfigStrings *b) {
        if (a->n != b->n)
                return false;
        for (size_t i = 0; i < a->n; i++)
                if (strcmp(a->items[i], b->items[i]) != 0)
                        return false;
        return true;
}

void service_update_overdue(Manager *m) {
        _cleanup_strings_ ConfigStrings overdue = { .n = 0 };
        uint64_t now = clock_realtime_usec(), next = UINT64_MAX;
        ConfigStrings old;

        if (!m->judged || m->stopping)
                return;
        for (size_t i = 0; i < m->config->n_services; i++)
                if (judge(m, m->config->services + i, now, &overdue, &next) < 0)
                        return; /* told already; what was known stays */
        set_timer(m, next);
        if (are_equal(&m->overdue, &overdue))
                return;
        old = m->overdue;
        m->overdue = overdue;
        overdue = old;
        bus_manager_changed(m, "Overdue");
}

int service_names(const Manager *m, ConfigStrings *ret) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < m->config->n_services; i++)
                r = strings_add(ret, m->config->services[i].name);
        return r;
}
