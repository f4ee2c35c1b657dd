/*
 * Reading of arguments. What is not known is refused by name: an option that is silently ignored
 * ("allow_partail") makes the caller believe in something that does not happen.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/bus-internal.h"

#define OPTIONS_MAX 32

static const BusOption *
find(const BusOption *options, size_t n, const char *key, size_t *ret_index) {
        for (size_t i = 0; i < n; i++)
                if (strcmp(options[i].key, key) == 0) {
                        *ret_index = i;
                        return options + i;
                }
        return NULL;
}

static int read_strings(sd_bus_message *call, ConfigStrings *ret) {
        const char *item;
        int r = sd_bus_message_enter_container(call, 'v', "as");

        if (r >= 0)
                r = sd_bus_message_enter_container(call, 'a', "s");
        while (r >= 0 && (r = sd_bus_message_read(call, "s", &item)) > 0)
                r = strings_add(ret, item);
        for (int i = 0; r >= 0 && i < 2; i++)
                r = sd_bus_message_exit_container(call);
        return r;
}

static int read_value(sd_bus_message *call, const BusOption *o, Failure *reterr) {
        const char *contents;
        char type;
        int r, truth;

        r = sd_bus_message_peek_type(call, &type, &contents);
        if (r < 0)
                return bus_fail(reterr, r);
        if (strcmp(contents, o->type) != 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "option '%s' must be of type '%s', not '%s'", o->key, o->type,
                                contents);
        if (strcmp(o->type, "as") == 0)
                return bus_fail(reterr, read_strings(call, o->ret));
        if (*o->type != 'b')
                return bus_fail(reterr, sd_bus_message_read(call, "v", o->type, o->ret));
        r = sd_bus_message_read(call, "v", "b", &truth);
        if (r >= 0)
                *(bool *) o->ret = truth;
        return bus_fail(reterr, r);
}

static int
read_one(sd_bus_message *call, const BusOption *options, size_t n, bool *seen, Failure *reterr) {
        const BusOption *o;
        const char *key;
        size_t i;
        int r = sd_bus_message_read(call, "s", &key);

        if (r < 0)
                return bus_fail(reterr, r);
        o = find(options, n, key, &i);
        if (!o)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "unknown option '%.100s'",
                                key);
        if (seen[i])
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "option '%s' is given twice",
                                key);
        seen[i] = true;
        if (o->ret_set)
                *o->ret_set = true;
        return read_value(call, o, reterr);
}

int bus_read_options(sd_bus_message *call, const BusOption *options, size_t n, Failure *reterr) {
        bool seen[OPTIONS_MAX] = { false };
        int r = sd_bus_message_enter_container(call, 'a', "{sv}");

        if (r < 0)
                return bus_fail(reterr, r);
        while ((r = sd_bus_message_enter_container(call, 'e', "sv")) > 0) {
                r = read_one(call, options, n, seen, reterr);
                if (r < 0)
                        return r;
                r = sd_bus_message_exit_container(call);
                if (r < 0)
                        return bus_fail(reterr, r);
        }
        if (r >= 0)
                r = sd_bus_message_exit_container(call);
        return bus_fail(reterr, r);
}

/* D-Bus allows 64 levels of containers, so the recursion is bounded. */
static int add_size(sd_bus_message *m, size_t *total) {
        const char *contents, *text;
        uint64_t value;
        char type;
        int r, fd;

        while ((r = sd_bus_message_peek_type(m, &type, &contents)) > 0) {
                switch (type) {
                case 'a':
                case 'v':
                case 'r':
                case 'e':
                        r = sd_bus_message_enter_container(m, type, contents);
                        if (r >= 0)
                                r = add_size(m, total);
                        if (r >= 0)
                                r = sd_bus_message_exit_container(m);
                        break;
                case 's':
                case 'o':
                case 'g':
                        r = sd_bus_message_read_basic(m, type, &text);
                        if (r >= 0)
                                *total += strlen(text);
                        break;
                case 'h':
                        r = sd_bus_message_read_basic(m, type, &fd);
                        break;
                default:
                        r = sd_bus_message_read_basic(m, type, &value);
                }
                if (r < 0)
                        return r;
                *total += 8; /* numbers, and what surrounds texts and containers */
        }
        return r;
}

int bus_body_size(sd_bus_message *call, size_t *ret) {
        size_t total = 0;
        int r = add_size(call, &total);

        if (r >= 0)
                r = sd_bus_message_rewind(call, true);
        if (r < 0)
                return r;
        *ret = total;
        return 0;
}

int bus_read_id(sd_bus_message *call, const char *what, const char **ret, Failure *reterr) {
        int r = sd_bus_message_read(call, "s", ret);

        if (r < 0)
                return bus_fail(reterr, r);
        if (!text_is_uuid(*ret))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "'%.100s' is not the id of a %s (36 characters, lower case)", *ret,
                                what);
        return 0;
}
