/*
 * Everything goes through the Manager of org.freedesktop.systemd1. The signal that ends a job is
 * subscribed to before the job is made, so that none can end unseen.
 */

#include "worker/systemd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"

#define NAME    "org.freedesktop.systemd1"
#define ROOT    "/org/freedesktop/systemd1"
#define MANAGER NAME ".Manager"
#define SOCKET  "/run/systemd/private"
#define SLICE   (100 * USEC_PER_MSEC) /* how often an interruption is looked for */
#define ANSWER  (60 * USEC_PER_SEC)   /* a reload of many units takes its time */

struct Systemd {
        sd_bus *bus;
        bool direct;  /* to systemd itself, without names */
        char *job;    /* the path that is waited for, NULL: none */
        char *result; /* systemd's word for how it ended */
};

static void message_freep(sd_bus_message **m) {
        sd_bus_message_unref(*m);
}

#define _cleanup_message_   _cleanup_(message_freep)
#define _cleanup_bus_error_ _cleanup_(sd_bus_error_free)

static int refuse(Failure *reterr, int r, const sd_bus_error *error, const char *what) {
        const char *why = error && error->message ? error->message : strerror(r < 0 ? -r : EIO);

        return fail_set(reterr, FAIL_INTERNAL, r < 0 ? -r : EIO, "systemd: %s: %.300s", what, why);
}

static int on_job_removed(sd_bus_message *m, void *userdata, sd_bus_error *reterr_error) {
        const char *path, *unit, *result;
        Systemd *s = userdata;
        uint32_t id;

        if (s->job && sd_bus_message_read(m, "uoss", &id, &path, &unit, &result) > 0 &&
            strcmp(path, s->job) == 0 && !s->result)
                s->result = strdup(result); /* a missing copy looks like a time-out */
        return 0;
}

/* Without a subscriber systemd keeps its signals to itself. */
static int subscribe(Systemd *s) {
        int r = sd_bus_match_signal(s->bus, NULL, s->direct ? NULL : NAME, ROOT, MANAGER,
                                    "JobRemoved", on_job_removed, s);

        return r < 0 ? r
                     : sd_bus_call_method(s->bus, NAME, ROOT, MANAGER, "Subscribe", NULL, NULL,
                                          NULL);
}

static int connect_directly(Systemd *s) {
        int r = access(SOCKET, F_OK) < 0 ? -errno : sd_bus_new(&s->bus);

        s->direct = true;
        if (r >= 0)
                r = sd_bus_set_address(s->bus, "unix:path=" SOCKET);
        return r < 0 ? r : sd_bus_start(s->bus);
}

/* A bus that is there and does not know systemd means that there is none for us. */
static int connect_to(Systemd *s, bool early) {
        int r = sd_bus_open_system(&s->bus);

        if (r >= 0)
                return sd_bus_get_name_creds(s->bus, NAME, 0, NULL);
        return early ? connect_directly(s) : r;
}

static int open_it(bool early, Systemd **ret, Failure *reterr) {
        _cleanup_(systemd_closep) Systemd *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "systemd");
        if (connect_to(s, early) < 0)
                return -ENOENT;
        (void) sd_bus_set_method_call_timeout(s->bus, ANSWER); /* fails for 0 alone */
        r = subscribe(s);
        if (r < 0)
                return refuse(reterr, r, NULL, "cannot listen to it");
        *ret = TAKE_PTR(s);
        return 0;
}

int systemd_open(Systemd **ret, Failure *reterr) {
        return open_it(false, ret, reterr);
}

int systemd_open_early(Systemd **ret, Failure *reterr) {
        return open_it(true, ret, reterr);
}

char *systemd_mount_unit(const char *point) {
        static const char plain[] =
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_.";
        char *name = calloc(4 * strlen(point) + sizeof(".mount"), 1), *to = name;

        if (!name)
                return NULL;
        for (const char *c = point + 1; *c; c++)
                if (*c == '/')
                        *to++ = '-';
                else if (strchr(plain, *c) && !(*c == '.' && c == point + 1))
                        *to++ = *c;
                else
                        to += sprintf(to, "\\x%02x", (unsigned char) *c);
        strcpy(point[1] ? to : stpcpy(name, "-"), ".mount");
        return name;
}

void systemd_close(Systemd *s) {
        if (!s)
                return;
        sd_bus_flush_close_unref(s->bus);
        free(s->job);
        free(s->result);
        free(s);
}

bool systemd_is_stopping(Systemd *s) {
        _cleanup_bus_error_ sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_free_ char *state = NULL;

        return sd_bus_get_property_string(s->bus, NAME, ROOT, MANAGER, "SystemState", &error,
                                          &state) >= 0 &&
               strcmp(state, "stopping") == 0;
}

int systemd_reload(Systemd *s, Failure *reterr) {
        _cleanup_bus_error_ sd_bus_error error = SD_BUS_ERROR_NULL;
        int r = sd_bus_call_method(s->bus, NAME, ROOT, MANAGER, "Reload", &error, NULL, NULL);

        return r < 0 ? refuse(reterr, r, &error, "reload") : 0;
}

int systemd_enable(Systemd *s, const char *unit, bool enable, Failure *reterr) {
        _cleanup_bus_error_ sd_bus_error error = SD_BUS_ERROR_NULL;
        int r = enable ? sd_bus_call_method(s->bus, NAME, ROOT, MANAGER, "EnableUnitFiles", &error,
                                            NULL, "asbb", 1, unit, 0, 1)
                       : sd_bus_call_method(s->bus, NAME, ROOT, MANAGER, "DisableUnitFiles", &error,
                                            NULL, "asb", 1, unit, 0);

        return r < 0 ? refuse(reterr, r, &error, unit) : 0;
}

static int begin_job(Systemd *s, SystemdAction action, const char *unit, Failure *reterr) {
        static const char *const methods[] = { [SYSTEMD_START] = "StartUnit",
                                               [SYSTEMD_STOP] = "StopUnit",
                                               [SYSTEMD_RESTART] = "RestartUnit",
                                               [SYSTEMD_START_ALONE] = "StartUnit",
                                               [SYSTEMD_STOP_ALONE] = "StopUnit" };
        bool alone = action == SYSTEMD_START_ALONE || action == SYSTEMD_STOP_ALONE;
        _cleanup_bus_error_ sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_message_ sd_bus_message *reply = NULL;
        const char *path;
        int r = sd_bus_call_method(s->bus, NAME, ROOT, MANAGER, methods[action], &error, &reply,
                                   "ss", unit, alone ? "ignore-dependencies" : "replace");

        if (r >= 0)
                r = sd_bus_message_read(reply, "o", &path);
        if (r < 0)
                return refuse(reterr, r, &error, unit);
        free(s->job);
        free(s->result);
        s->result = NULL;
        s->job = strdup(path);
        return s->job ? 0 : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "systemd");
}

static int wait_job(Systemd *s,
                    const char *unit,
                    uint64_t timeout_usec,
                    bool (*interrupted)(void *userdata),
                    void *userdata,
                    Failure *reterr) {
        uint64_t deadline = clock_monotonic_usec() + timeout_usec;

        while (!s->result) {
                int r = sd_bus_process(s->bus, NULL);

                if (r < 0)
                        return refuse(reterr, r, NULL, unit);
                if (r > 0)
                        continue;
                if (interrupted && interrupted(userdata))
                        return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
                if (clock_monotonic_usec() >= deadline)
                        return fail_set(reterr, FAIL_INTERNAL, ETIMEDOUT,
                                        "systemd: %s: its job did not end within %llu s", unit,
                                        (unsigned long long) (timeout_usec / USEC_PER_SEC));
                r = sd_bus_wait(s->bus, SLICE);
                if (r < 0)
                        return refuse(reterr, r, NULL, unit);
        }
        return 0;
}

int systemd_run(Systemd *s,
                SystemdAction action,
                const char *unit,
                uint64_t timeout_usec,
                bool (*interrupted)(void *userdata),
                void *userdata,
                Failure *reterr) {
        int r = begin_job(s, action, unit, reterr);

        if (r >= 0)
                r = wait_job(s, unit, timeout_usec, interrupted, userdata, reterr);
        if (r < 0)
                return r;
        if (strcmp(s->result, "done") == 0)
                return 0;
        return fail_set(reterr, FAIL_INTERNAL, EIO,
                        "systemd: %s: %s; 'systemctl status %s' says more", unit, s->result, unit);
}

void systemd_reset_failed(Systemd *s, const char *unit) {
        _cleanup_bus_error_ sd_bus_error error = SD_BUS_ERROR_NULL;

        /* A unit that never ran has nothing to forget. */
        if (sd_bus_call_method(s->bus, NAME, ROOT, MANAGER, "ResetFailedUnit", &error, NULL, "s",
                               unit) < 0)
                log_debug("%s: %s", unit, error.message ?: "");
}

void systemd_forget(Systemd *s, const char *unit) {
        _cleanup_bus_error_ sd_bus_error error = SD_BUS_ERROR_NULL;

        systemd_reset_failed(s, unit);
        /* A unit without a file cannot be cleaned. */
        if (sd_bus_call_method(s->bus, NAME, ROOT, MANAGER, "CleanUnit", &error, NULL, "sas", unit,
                               1, "state") < 0)
                log_debug("%s: %s", unit, error.message ?: "");
}

static int load(Systemd *s, const char *unit, char **ret, Failure *reterr) {
        _cleanup_bus_error_ sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_message_ sd_bus_message *reply = NULL;
        const char *path;
        int r = sd_bus_call_method(s->bus, NAME, ROOT, MANAGER, "LoadUnit", &error, &reply, "s",
                                   unit);

        if (r >= 0)
                r = sd_bus_message_read(reply, "o", &path);
        if (r < 0)
                return refuse(reterr, r, &error, unit);
        *ret = strdup(path);
        return *ret ? 0 : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "systemd");
}

static int get(Systemd *s,
               const char *unit,
               const char *interface,
               const char *property,
               const char *type,
               sd_bus_message **ret,
               Failure *reterr) {
        _cleanup_bus_error_ sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_free_ char *path = NULL, *whole = text_printf(NAME ".%s", interface);
        int r = load(s, unit, &path, reterr);

        if (r < 0)
                return r;
        if (!whole)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "systemd");
        r = sd_bus_get_property(s->bus, NAME, path, whole, property, &error, ret, type);
        return r < 0 ? refuse(reterr, r, &error, unit) : 0;
}

int systemd_get_text(Systemd *s,
                     const char *unit,
                     const char *interface,
                     const char *property,
                     char **ret,
                     Failure *reterr) {
        _cleanup_message_ sd_bus_message *reply = NULL;
        const char *text;
        int r = get(s, unit, interface, property, "s", &reply, reterr);

        if (r < 0)
                return r;
        r = sd_bus_message_read(reply, "s", &text);
        if (r < 0)
                return refuse(reterr, r, NULL, unit);
        *ret = strdup(text);
        return *ret ? 0 : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "systemd");
}

int systemd_get_u64(Systemd *s,
                    const char *unit,
                    const char *interface,
                    const char *property,
                    uint64_t *ret,
                    Failure *reterr) {
        _cleanup_message_ sd_bus_message *reply = NULL;
        int r = get(s, unit, interface, property, "t", &reply, reterr);

        if (r < 0)
                return r;
        r = sd_bus_message_read(reply, "t", ret);
        return r < 0 ? refuse(reterr, r, NULL, unit) : 0;
}

int systemd_get_bool(Systemd *s,
                     const char *unit,
                     const char *interface,
                     const char *property,
                     bool *ret,
                     Failure *reterr) {
        _cleanup_message_ sd_bus_message *reply = NULL;
        int on, r = get(s, unit, interface, property, "b", &reply, reterr);

        if (r < 0)
                return r;
        r = sd_bus_message_read(reply, "b", &on);
        if (r < 0)
                return refuse(reterr, r, NULL, unit);
        *ret = on;
        return 0;
}

int systemd_will_start(Systemd *s, const char *unit, bool *ret, Failure *reterr) {
        static const char *const types[] = { "start", "restart", "try-restart" };
        _cleanup_bus_error_ sd_bus_error ended = SD_BUS_ERROR_NULL;
        _cleanup_message_ sd_bus_message *reply = NULL;
        _cleanup_free_ char *type = NULL;
        const char *path;
        uint32_t id;
        int r = get(s, unit, "Unit", "Job", "(uo)", &reply, reterr);

        *ret = false;
        if (r < 0)
                return r;
        r = sd_bus_message_read(reply, "(uo)", &id, &path);
        if (r < 0)
                return refuse(reterr, r, NULL, unit);
        if (id == 0 || sd_bus_get_property_string(s->bus, NAME, path, NAME ".Job", "JobType",
                                                  &ended, &type) < 0)
                return 0;
        for (size_t i = 0; i < ELEMENTSOF(types); i++)
                *ret = *ret || strcmp(type, types[i]) == 0;
        return 0;
}

static int append(char **text, const char *between, const char *more) {
        char *longer = text_printf("%s%s%s", *text ?: "", *text ? between : "", more);

        if (!longer)
                return -ENOMEM;
        free(*text);
        *text = longer;
        return 0;
}

int systemd_get_list(Systemd *s,
                     const char *unit,
                     const char *interface,
                     const char *property,
                     char **ret,
                     Failure *reterr) {
        _cleanup_message_ sd_bus_message *reply = NULL;
        _cleanup_free_ char *text = NULL;
        const char *item;
        int r = get(s, unit, interface, property, "as", &reply, reterr);

        if (r < 0)
                return r;
        r = sd_bus_message_enter_container(reply, 'a', "s");
        while (r > 0 && (r = sd_bus_message_read(reply, "s", &item)) > 0)
                if (append(&text, " ", item) < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "systemd");
        if (r < 0)
                return refuse(reterr, r, NULL, unit);
        *ret = text ? TAKE_PTR(text) : strdup("");
        return *ret ? 0 : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "systemd");
}

/* 1: one was taken; 0: there is none. */
static int take_pair(sd_bus_message *m, const char *members, char **text) {
        const char *a, *b;
        int r = sd_bus_message_enter_container(m, 'r', members);

        if (r <= 0)
                return r;
        r = sd_bus_message_read(m, "ss", &a, &b);
        if (r >= 0)
                r = append(text, "; ", a);
        if (r >= 0)
                r = append(text, " ", b);
        if (r >= 0 && members[2])
                r = sd_bus_message_skip(m, members + 2);
        return r < 0 ? r : sd_bus_message_exit_container(m) < 0 ? -EBADMSG : 1;
}

int systemd_get_pairs(Systemd *s,
                      const char *unit,
                      const char *interface,
                      const char *property,
                      const char *type,
                      char **ret,
                      Failure *reterr) {
        _cleanup_message_ sd_bus_message *reply = NULL;
        _cleanup_free_ char *text = NULL, *members = strndup(type + 2, strlen(type) - 3);
        int r = members ? get(s, unit, interface, property, type, &reply, reterr) : -ENOMEM;

        if (r < 0)
                return members ? r : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "systemd");
        r = sd_bus_message_enter_container(reply, 'a', type + 1);
        while (r > 0)
                r = take_pair(reply, members, &text);
        if (r < 0)
                return refuse(reterr, r, NULL, unit);
        *ret = text ? TAKE_PTR(text) : strdup("");
        return *ret ? 0 : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "systemd");
}

int systemd_get_calendar(Systemd *s, const char *timer, char **ret, Failure *reterr) {
        _cleanup_message_ sd_bus_message *reply = NULL;
        _cleanup_free_ char *text = NULL;
        const char *base, *expression;
        uint64_t next;
        int r = get(s, timer, "Timer", "TimersCalendar", "a(sst)", &reply, reterr);

        if (r < 0)
                return r;
        r = sd_bus_message_enter_container(reply, 'a', "(sst)");
        while (r > 0 && (r = sd_bus_message_read(reply, "(sst)", &base, &expression, &next)) > 0)
                if (append(&text, "; ", expression) < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "systemd");
        if (r < 0)
                return refuse(reterr, r, NULL, timer);
        *ret = text ? TAKE_PTR(text) : strdup("");
        return *ret ? 0 : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "systemd");
}
