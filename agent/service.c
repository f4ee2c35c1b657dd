/*
 * The age of a backup is what the clock says, but not less than how long we have known of it: a
 * clock that is set back must not make a service look fresh. For the same reason the timer counts
 * time since boot, and looks again now and then.
 */

#include "agent/service.h"

#include <errno.h>
#include <string.h>
#include <utlist.h>

#include "agent/bus.h"
#include "base/clock.h"
#include "base/log.h"

#define USEC_PER_HOUR (3600 * USEC_PER_SEC)
#define LOOK_USEC     (10 * 60 * USEC_PER_SEC) /* again, whatever the clock says */
#define SERVICE_BYTES 64                       /* 63 and the end */

struct ServiceSeen {
        char service[SERVICE_BYTES], backup_id[UUID_TEXT_MAX];
        uint64_t since_usec; /* boottime */
        ServiceSeen *next;
};

void service_forget(Manager *m) {
        ServiceSeen *s, *next;

        LL_FOREACH_SAFE(m->seen, s, next)
        free(s);
        m->seen = NULL;
}

/* How long we have known that `id` is the last good backup of a service; 0 without memory. */
static uint64_t known_usec(Manager *m, const char *service, const char *id) {
        uint64_t now = clock_boottime_usec();
        ServiceSeen *s;

        LL_FOREACH(m->seen, s)
        if (strcmp(s->service, service) == 0)
                break;
        if (!s) {
                s = calloc(1, sizeof(*s));
                if (!s)
                        return 0;
                (void) snprintf(s->service, sizeof(s->service), "%s", service);
                LL_PREPEND(m->seen, s);
        }
        if (strcmp(s->backup_id, id) != 0) {
                (void) snprintf(s->backup_id, sizeof(s->backup_id), "%s", id);
                s->since_usec = now;
        }
        return now - s->since_usec;
}

static void forget_removed(Manager *m) {
        ServiceSeen *s, *next;

        LL_FOREACH_SAFE(m->seen, s, next)
        if (!config_service(m->config, s->service)) {
                LL_DELETE(m->seen, s);
                free(s);
        }
}

static int on_overdue_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        service_update_overdue(userdata);
        return 0;
}

static void set_timer(Manager *m, uint64_t usec) {
        int r;

        m->overdue_timer = sd_event_source_disable_unref(m->overdue_timer);
        r = sd_event_add_time_relative(m->event, &m->overdue_timer, CLOCK_BOOTTIME, usec,
                                       USEC_PER_SEC, on_overdue_timer, m);
        if (r < 0)
                log_warning("Cannot set the timer for overdue services (%s), ignoring",
                            strerror(-r));
}

static void tell(Manager *m, const ConfigService *s, uint64_t last) {
        log_message(MESSAGE_SERVICE_OVERDUE, &(LogFields){ .service = s->name },
                    "Service '%s' is overdue: no completed backup for %u hours", s->name,
                    s->max_age_hours);
        bus_service_overdue(m, s->name, last);
}

/* One second late on purpose: at the very moment it is not yet older than allowed. */
static int judge(Manager *m, const ConfigService *s, ConfigStrings *overdue, uint64_t *next) {
        const uint64_t max = s->max_age_hours * USEC_PER_HOUR;
        uint64_t now = clock_realtime_usec(), last = 0, age, known;
        Failure why = FAILURE_INIT;
        char id[UUID_TEXT_MAX] = "";
        int r = catalog_last_success(m->catalog, s->name, &last, id, &why);

        if (r < 0 && r != -ENOENT) {
                log_error("Cannot tell whether '%s' is overdue: %s", s->name, why.text);
                return r;
        }
        known = known_usec(m, s->name, id);
        age = now > last ? now - last : 0;
        if (known > age)
                age = known;
        if (*id && age < max) {
                if (strings_has(&m->overdue, s->name))
                        log_message(MESSAGE_SERVICE_CAUGHT_UP,
                                    &(LogFields){ .service = s->name, .backup = id },
                                    "Service '%s' is no longer overdue", s->name);
                if (max - age + USEC_PER_SEC < *next)
                        *next = max - age + USEC_PER_SEC;
                return 0;
        }
        if (!strings_has(&m->overdue, s->name))
                tell(m, s, last);
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
        uint64_t next = LOOK_USEC;
        ConfigStrings old;
        size_t i;

        if (!m->judged || m->stopping)
                return;
        forget_removed(m);
        for (i = 0; i < m->config->n_services; i++)
                if (judge(m, m->config->services + i, &overdue, &next) < 0)
                        break; /* told already; what was known stays */
        set_timer(m, i == m->config->n_services ? next : LOOK_USEC);
        if (i < m->config->n_services)
                return;
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
