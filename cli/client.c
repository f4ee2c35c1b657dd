#include "cli/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-bus.h>

#include "base/clock.h"
#include "base/names.h"
#include "base/text.h"

/*
 * The only place of the program that knows sd-bus. D-Bus values become JSON of the same shape, so
 * that what --json prints is what the agent said and verbs need no second set of types.
 *
 * Signals reach root and the group holdpoint only, so nobody may depend on them: they make waiting
 * shorter, the state itself is always asked for.
 */

#define CLIENT_TIMEOUT_USEC (120 * USEC_PER_SEC) /* a person may be asked for a password */
#define CLIENT_EVENTS_MAX   256
#define SYSTEMD             "org.freedesktop.systemd1"
#define CLIENT_DEPTH_MAX    16

struct Client {
        sd_bus *bus;
        json_object *events; /* array */
        bool gone;
};

static int read_value(sd_bus_message *m, int depth, json_object **ret);

static int refuse(CliError *error, int r, const sd_bus_error *e, const char *what) {
        const char *name = e && e->name ? e->name : NULL;

        if (name && e->message && *e->message) {
                cli_error_from_name(error, name, e->message);
                return r < 0 ? r : -EIO;
        }
        if (r == -ENOMEM)
                return cli_oom(error);
        if (name)
                cli_error_from_name(error, name, what);
        else if (r == -ECONNRESET || r == -ENOTCONN || r == -ETIMEDOUT || r == -EPIPE)
                (void) cli_error(error, CLI_EXIT_NO_AGENT, "Disconnected",
                                 "%s: the system bus hung up", what);
        else
                (void) cli_error(error, CLI_EXIT_FAILED, "Internal", "%s: %s", what, strerror(-r));
        return r < 0 ? r : -EIO;
}

int client_open(Client **ret, CliError *error) {
        _cleanup_(client_closep) Client *c = calloc(1, sizeof(*c));
        int r;

        if (!c || !(c->events = json_object_new_array()))
                return cli_oom(error);
        r = sd_bus_open_system(&c->bus);
        if (r < 0) {
                (void) cli_error(error, CLI_EXIT_NO_AGENT, "NoServer",
                                 "cannot connect to the system bus: %s; is dbus running?",
                                 strerror(-r));
                return r;
        }
        (void) sd_bus_set_method_call_timeout(c->bus, CLIENT_TIMEOUT_USEC); /* fails for 0 alone */
        *ret = TAKE_PTR(c);
        return 0;
}

void client_close(Client *c) {
        if (!c)
                return;
        (void) sd_bus_flush_close_unref(c->bus);
        json_object_put(c->events);
        free(c);
}

static json_object *new_basic(char type, const void *p) {
        switch (type) {
        case SD_BUS_TYPE_BOOLEAN:
                return json_object_new_boolean(*(const int *) p != 0);
        case SD_BUS_TYPE_BYTE:
                return json_object_new_int(*(const uint8_t *) p);
        case SD_BUS_TYPE_INT16:
                return json_object_new_int(*(const int16_t *) p);
        case SD_BUS_TYPE_UINT16:
                return json_object_new_int(*(const uint16_t *) p);
        case SD_BUS_TYPE_INT32:
        case SD_BUS_TYPE_UNIX_FD: /* a number here: nobody asks for descriptors through this door */
                return json_object_new_int(*(const int32_t *) p);
        case SD_BUS_TYPE_UINT32:
                return json_object_new_int64(*(const uint32_t *) p);
        case SD_BUS_TYPE_INT64:
                return json_object_new_int64(*(const int64_t *) p);
        case SD_BUS_TYPE_UINT64:
                return json_object_new_uint64(*(const uint64_t *) p);
        case SD_BUS_TYPE_DOUBLE:
                return json_object_new_double(*(const double *) p);
        default: /* string, object path, signature */
                return json_object_new_string(*(const char *const *) p);
        }
}

static int read_basic(sd_bus_message *m, char type, json_object **ret) {
        union {
                uint64_t any;
                double d;
                const char *s;
        } value = { 0 };
        int r = sd_bus_message_read_basic(m, type, &value);

        if (r < 0)
                return r;
        *ret = new_basic(type, &value);
        return *ret ? 0 : -ENOMEM;
}

/* The entered dictionary as an object; keys that are not strings do not occur in our interface. */
static int read_dict(sd_bus_message *m, int depth, json_object *o) {
        int r;

        while ((r = sd_bus_message_at_end(m, false)) == 0) {
                _cleanup_json_ json_object *value = NULL;
                const char *key, *contents;
                char type;

                r = sd_bus_message_peek_type(m, &type, &contents);
                if (r < 0)
                        return r;
                r = sd_bus_message_enter_container(m, type, contents);
                if (r >= 0)
                        r = sd_bus_message_read_basic(m, SD_BUS_TYPE_STRING, &key);
                if (r >= 0)
                        r = read_value(m, depth + 1, &value);
                if (r >= 0)
                        r = json_put(o, key, TAKE_PTR(value));
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
                if (r < 0)
                        return r;
        }
        return r < 0 ? r : 0;
}

static int read_sequence(sd_bus_message *m, int depth, json_object *array) {
        int r;

        while ((r = sd_bus_message_at_end(m, false)) == 0) {
                json_object *value = NULL;

                r = read_value(m, depth + 1, &value);
                if (r < 0)
                        return r;
                if (json_object_array_add(array, value) < 0) {
                        json_object_put(value);
                        return -ENOMEM;
                }
        }
        return r < 0 ? r : 0;
}

static int read_value(sd_bus_message *m, int depth, json_object **ret) {
        _cleanup_json_ json_object *o = NULL;
        const char *contents;
        bool is_dict;
        char type;
        int r = sd_bus_message_peek_type(m, &type, &contents);

        if (r <= 0)
                return r < 0 ? r : -EBADMSG;
        if (depth > CLIENT_DEPTH_MAX)
                return -EBADMSG;
        if (!contents)
                return read_basic(m, type, ret);

        r = sd_bus_message_enter_container(m, type, contents);
        if (r < 0)
                return r;
        is_dict = type == SD_BUS_TYPE_ARRAY && contents[0] == SD_BUS_TYPE_DICT_ENTRY_BEGIN;
        if (type == SD_BUS_TYPE_VARIANT) {
                r = read_value(m, depth + 1, &o);
        } else {
                o = is_dict ? json_object_new_object() : json_object_new_array();
                if (!o)
                        return -ENOMEM;
                r = is_dict ? read_dict(m, depth, o) : read_sequence(m, depth, o);
        }
        if (r >= 0)
                r = sd_bus_message_exit_container(m);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

static int read_all(sd_bus_message *m, json_object **ret) {
        _cleanup_json_ json_object *all = json_object_new_array();
        int r;

        if (!all)
                return -ENOMEM;
        r = read_sequence(m, 0, all);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(all);
        return 0;
}

static int append_variant(sd_bus_message *m, json_object *value) {
        int r;

        switch (json_object_get_type(value)) {
        case json_type_boolean:
                return sd_bus_message_append(m, "v", "b", json_object_get_boolean(value));
        case json_type_int:
                return sd_bus_message_append(m, "v", "u", (uint32_t) json_object_get_uint64(value));
        case json_type_string:
                return sd_bus_message_append(m, "v", "s", json_object_get_string(value));
        case json_type_array:
                r = sd_bus_message_open_container(m, SD_BUS_TYPE_VARIANT, "as");
                if (r >= 0)
                        r = sd_bus_message_open_container(m, SD_BUS_TYPE_ARRAY, "s");
                for (size_t i = 0; r >= 0 && i < json_object_array_length(value); i++)
                        r = sd_bus_message_append(
                                m, "s",
                                json_object_get_string(json_object_array_get_idx(value, i)));
                if (r >= 0)
                        r = sd_bus_message_close_container(m);
                return r < 0 ? r : sd_bus_message_close_container(m);
        case json_type_null:
        case json_type_double:
        case json_type_object:
                break;
        }
        return -EINVAL;
}

static int append_options(sd_bus_message *m, const ClientCall *call) {
        int r = sd_bus_message_open_container(m, SD_BUS_TYPE_ARRAY, "{sv}");

        if (r < 0)
                return r;
        if (call->options) {
                json_object_object_foreach(call->options, key, value) {
                        r = sd_bus_message_open_container(m, SD_BUS_TYPE_DICT_ENTRY, "sv");
                        if (r >= 0)
                                r = sd_bus_message_append(m, "s", key);
                        if (r >= 0)
                                r = append_variant(m, value);
                        if (r >= 0)
                                r = sd_bus_message_close_container(m);
                        if (r < 0)
                                return r;
                }
        }
        for (size_t i = 0; i < call->n_fds; i++) {
                r = sd_bus_message_append(m, "{sv}", call->fds[i].key, "h", call->fds[i].fd);
                if (r < 0)
                        return r;
        }
        return sd_bus_message_close_container(m);
}

static int append_arguments(sd_bus_message *m, const ClientCall *call) {
        int r = 0;

        if (call->stream)
                r = sd_bus_message_append(m, "h", *call->stream);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(call->strings) && call->strings[i]; i++)
                r = sd_bus_message_append(m, "s", call->strings[i]);
        if (r >= 0 && call->number)
                r = sd_bus_message_append(m, "u", *call->number);
        if (r >= 0 && call->flag)
                r = sd_bus_message_append(m, "b", (int) *call->flag);
        if (r >= 0 && call->has_options)
                r = append_options(m, call);
        return r;
}

/* The descriptors of a message go with it. */
static int keep_fd(sd_bus_message *reply, int *ret) {
        int fd, r = sd_bus_message_read_basic(reply, SD_BUS_TYPE_UNIX_FD, &fd);

        if (r <= 0)
                return r < 0 ? r : -EBADMSG;
        *ret = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        return *ret < 0 ? -errno : sd_bus_message_rewind(reply, true);
}

/*
 * Answered when a worker has ended, and that may have to wait for a backup of many hours first.
 * Whoever does not want to wait ends the program; an agent that goes away ends the call.
 */
static bool is_held(const char *method) {
        static const char *const held[] = {
                "PinBackup",        "PlanRestore",      "GetRepository",  "SetSchedule",
                "GetSchedule",      "ListSchedules",    "DeleteSchedule", "ExportRecoveryKey",
                "ProveRecoveryKey", "ForgetPrivateKey", "Diagnose",
        };

        for (size_t i = 0; i < ELEMENTSOF(held); i++)
                if (strcmp(method, held[i]) == 0)
                        return true;
        return false;
}

int client_call(Client *c, const ClientCall *call, json_object **ret, CliError *error) {
        __attribute__((cleanup(sd_bus_message_unrefp))) sd_bus_message *m = NULL, *reply = NULL;
        __attribute__((cleanup(sd_bus_error_free))) sd_bus_error e = SD_BUS_ERROR_NULL;
        char path[sizeof(HP_BUS_JOB_PREFIX) + 16] = HP_BUS_ROOT;
        int r;

        if (call->job > 0)
                (void) snprintf(path, sizeof(path), HP_BUS_JOB_PREFIX "/_%u", call->job);
        r = sd_bus_message_new_method_call(c->bus, &m, HP_BUS_NAME, path,
                                           call->job > 0 ? HP_IFACE_JOB : HP_IFACE_MANAGER,
                                           call->method);
        if (r >= 0)
                r = append_arguments(m, call);
        if (r >= 0 && isatty(STDIN_FILENO))
                r = sd_bus_message_set_allow_interactive_authorization(m, true);
        if (r == -EINVAL)
                return cli_error(error, CLI_EXIT_USAGE, "InvalidArgument",
                                 "%s: an argument is not UTF-8; write other bytes as \\xHH",
                                 call->method);
        if (r < 0)
                return refuse(error, r, NULL, call->method);
        r = sd_bus_call(c->bus, m, is_held(call->method) ? UINT64_MAX : 0, &e, &reply);
        if (r < 0)
                return refuse(error, r, &e, call->method);
        if (call->ret_fd)
                r = keep_fd(reply, call->ret_fd);
        if (r >= 0 && ret)
                r = read_all(reply, ret);
        return r < 0 ? refuse(error, r, NULL, call->method) : 0;
}

static int on_signal(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Client *c = userdata;
        _cleanup_json_ json_object *event = json_object_new_object();
        json_object *args = NULL;

        /* Best effort by design: whoever waits asks for the state as well. */
        if (!event || json_object_array_length(c->events) >= CLIENT_EVENTS_MAX ||
            read_all(m, &args) < 0)
                return 0;
        if (json_put_string(event, "signal", sd_bus_message_get_member(m)) < 0) {
                json_object_put(args);
                return 0;
        }
        if (json_put_string(event, "path", sd_bus_message_get_path(m)) < 0 ||
            json_put(event, "args", args) < 0)
                return 0;
        if (json_object_array_add(c->events, event) >= 0)
                event = NULL;
        return 0;
}

static int on_owner_changed(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        const char *name, *old_owner, *new_owner;
        Client *c = userdata;

        if (sd_bus_message_read(m, "sss", &name, &old_owner, &new_owner) >= 0 && *old_owner)
                c->gone = true;
        return 0;
}

char *client_unit_state(Client *c, const char *unit) {
        __attribute__((cleanup(sd_bus_message_unrefp))) sd_bus_message *reply = NULL;
        char *state = NULL;
        const char *path;
        int r = sd_bus_call_method(c->bus, SYSTEMD, "/org/freedesktop/systemd1", SYSTEMD ".Manager",
                                   "LoadUnit", NULL, &reply, "s", unit);

        if (r >= 0)
                r = sd_bus_message_read(reply, "o", &path);
        if (r >= 0)
                r = sd_bus_get_property_string(c->bus, SYSTEMD, path, SYSTEMD ".Unit",
                                               "ActiveState", NULL, &state);
        return r < 0 ? NULL : state;
}

int client_watch(Client *c, CliError *error) {
        int r;

        r = sd_bus_add_match(c->bus, NULL,
                             "type='signal',sender='" HP_BUS_NAME "',path_namespace='" HP_BUS_ROOT
                             "'",
                             on_signal, c);
        if (r >= 0)
                r = sd_bus_add_match(c->bus, NULL,
                                     "type='signal',sender='org.freedesktop.DBus',"
                                     "interface='org.freedesktop.DBus',member='NameOwnerChanged',"
                                     "arg0='" HP_BUS_NAME "'",
                                     on_owner_changed, c);
        return r < 0 ? refuse(error, r, NULL, "listening to the agent") : 0;
}

/* Handles all that has arrived. Returns a negative errno when the connection is gone. */
static int process_all(Client *c) {
        int r;

        do
                r = sd_bus_process(c->bus, NULL);
        while (r > 0);
        return r;
}

ClientWake client_wait(Client *c, int signal_fd, int msec) {
        struct pollfd fds[2] = { { .fd = sd_bus_get_fd(c->bus), .events = POLLIN },
                                 { .fd = signal_fd, .events = POLLIN } };
        int r = process_all(c);

        if (r < 0 || c->gone)
                return CLIENT_WAKE_GONE;
        if (json_object_array_length(c->events) > 0)
                return CLIENT_WAKE_EVENT;

        r = poll(fds, ELEMENTSOF(fds), msec); /* a negative descriptor is left out by poll() */
        if (r < 0 && errno != EINTR)
                return CLIENT_WAKE_GONE;
        if (r > 0 && (fds[1].revents & POLLIN))
                return CLIENT_WAKE_INTERRUPT;
        if (process_all(c) < 0 || c->gone)
                return CLIENT_WAKE_GONE;
        return json_object_array_length(c->events) > 0 ? CLIENT_WAKE_EVENT : CLIENT_WAKE_TIMEOUT;
}

json_object *client_next_event(Client *c) {
        json_object *event;

        if (json_object_array_length(c->events) == 0)
                return NULL;
        event = json_object_get(json_object_array_get_idx(c->events, 0));
        (void) json_object_array_del_idx(c->events, 0, 1); /* cannot fail: there is one */
        return event;
}
