/*
 * Dictionaries on the bus. What arrives here has passed record.c or was made by the agent; a row of
 * the catalogue that somebody edited by hand still cannot do more harm than a failed reply, since
 * values are taken by the kind in the table, not by what they look like.
 */

#include <errno.h>
#include <string.h>

#include "agent/bus-internal.h"

static int append_variant(sd_bus_message *m, json_object *v) {
        switch (json_object_get_type(v)) {
        case json_type_string:
                return sd_bus_message_append(m, "v", "s", json_object_get_string(v));
        case json_type_boolean:
                return sd_bus_message_append(m, "v", "b", (int) json_object_get_boolean(v));
        case json_type_double:
                return sd_bus_message_append(m, "v", "d", json_object_get_double(v));
        case json_type_int:
                return sd_bus_message_append(m, "v", "t", json_object_get_uint64(v));
        case json_type_array:
        case json_type_object:
        case json_type_null:
                break;
        }
        return sd_bus_message_append(m, "v", "s", "");
}

static int append_string_array(sd_bus_message *m, json_object *list) {
        int r = sd_bus_message_open_container(m, 'a', "s");

        for (size_t i = 0; r >= 0 && json_object_is_type(list, json_type_array) &&
                           i < json_object_array_length(list);
             i++) {
                json_object *item = json_object_array_get_idx(list, i);

                if (json_object_is_type(item, json_type_string))
                        r = sd_bus_message_append(m, "s", json_object_get_string(item));
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_map(sd_bus_message *m, json_object *o) {
        int r = sd_bus_message_open_container(m, 'a', "{ss}");

        if (r >= 0 && json_object_is_type(o, json_type_object)) {
                json_object_object_foreach(o, key, v) {
                        if (r >= 0)
                                r = sd_bus_message_append(m, "{ss}", key,
                                                          json_object_get_string(v));
                }
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_flat(sd_bus_message *m, json_object *o) {
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        if (r >= 0 && json_object_is_type(o, json_type_object)) {
                json_object_object_foreach(o, key, v) {
                        if (r >= 0)
                                r = sd_bus_message_open_container(m, 'e', "sv");
                        if (r >= 0)
                                r = sd_bus_message_append(m, "s", key);
                        if (r >= 0)
                                r = append_variant(m, v);
                        if (r >= 0)
                                r = sd_bus_message_close_container(m);
                }
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_flat_array(sd_bus_message *m, json_object *list) {
        int r = sd_bus_message_open_container(m, 'a', "a{sv}");

        for (size_t i = 0; r >= 0 && json_object_is_type(list, json_type_array) &&
                           i < json_object_array_length(list);
             i++)
                r = append_flat(m, json_object_array_get_idx(list, i));
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int in_variant(sd_bus_message *m,
                      const char *type,
                      json_object *v,
                      int (*append)(sd_bus_message *, json_object *)) {
        int r = sd_bus_message_open_container(m, 'v', type);

        if (r >= 0)
                r = append(m, v);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_kind(sd_bus_message *m, RecordKind kind, json_object *v) {
        switch (kind) {
        case RECORD_STRING:
                return sd_bus_message_append(
                        m, "v", "s",
                        json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "");
        case RECORD_NUMBER:
                return sd_bus_message_append(m, "v", "t", json_object_get_uint64(v));
        case RECORD_COUNT:
                return sd_bus_message_append(m, "v", "u", (uint32_t) json_object_get_uint64(v));
        case RECORD_BOOL:
                return sd_bus_message_append(m, "v", "b", (int) json_object_get_boolean(v));
        case RECORD_STRINGS:
                return in_variant(m, "as", v, append_string_array);
        case RECORD_STRING_MAP:
                return in_variant(m, "a{ss}", v, append_map);
        case RECORD_DICTIONARIES:
                return in_variant(m, "aa{sv}", v, append_flat_array);
        }
        return -EINVAL;
}

static int append_record(sd_bus_message *m, json_object *o, const RecordField *fields, size_t n) {
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        for (size_t i = 0; r >= 0 && i < n; i++) {
                json_object *v = NULL;

                (void) json_object_object_get_ex(o, fields[i].key, &v);
                r = sd_bus_message_open_container(m, 'e', "sv");
                if (r >= 0)
                        r = sd_bus_message_append(m, "s", fields[i].key);
                if (r >= 0)
                        r = append_kind(m, fields[i].kind, v);
                if (r >= 0)
                        r = sd_bus_message_close_container(m);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

int bus_append_backup(sd_bus_message *m, json_object *backup) {
        return append_record(m, backup, record_backup_fields, record_n_backup_fields);
}

int bus_append_restore(sd_bus_message *m, json_object *restore) {
        return append_record(m, restore, record_restore_fields, record_n_restore_fields);
}

static int append_summaries(sd_bus_message *m, json_object *list) {
        int r = sd_bus_message_open_container(m, 'a', "a{sv}");

        for (size_t i = 0; r >= 0 && i < json_object_array_length(list); i++)
                r = bus_append_summary(m, json_object_array_get_idx(list, i));
        return r < 0 ? r : sd_bus_message_close_container(m);
}

int bus_append_schedule(sd_bus_message *m, json_object *schedule) {
        return append_record(m, schedule, record_schedule_fields, record_n_schedule_fields);
}

/* A list with nothing in it says by its name alone what it is one of. */
static bool is_list_of_dictionaries(const char *key, json_object *list) {
        static const char *const keys[] = { "findings", "paths", "recipients" };

        if (json_object_array_length(list) > 0)
                return json_object_is_type(json_object_array_get_idx(list, 0), json_type_object);
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                if (strcmp(key, keys[i]) == 0)
                        return true;
        return false;
}

static int append_summary_value(sd_bus_message *m, const char *key, json_object *v) {
        if (json_object_is_type(v, json_type_object))
                return in_variant(m, "a{sv}", v, bus_append_summary);
        if (!json_object_is_type(v, json_type_array))
                return append_variant(m, v);
        if (is_list_of_dictionaries(key, v))
                return in_variant(m, "aa{sv}", v, append_summaries);
        return in_variant(m, "as", v, append_string_array);
}

int bus_append_summary(sd_bus_message *m, json_object *summary) {
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        if (r >= 0 && json_object_is_type(summary, json_type_object)) {
                json_object_object_foreach(summary, key, v) {
                        if (r >= 0)
                                r = sd_bus_message_open_container(m, 'e', "sv");
                        if (r >= 0)
                                r = sd_bus_message_append(m, "s", key);
                        if (r >= 0)
                                r = append_summary_value(m, key, v);
                        if (r >= 0)
                                r = sd_bus_message_close_container(m);
                }
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_job_value(sd_bus_message *m, const char *type, json_object *v) {
        switch (*type) {
        case 'u':
                return sd_bus_message_append(m, "v", "u", (uint32_t) json_object_get_uint64(v));
        case 'd':
                return sd_bus_message_append(m, "v", "d", json_object_get_double(v));
        case 'o':
                return sd_bus_message_append(m, "v", "o", json_object_get_string(v));
        case 't':
                return append_kind(m, RECORD_NUMBER, v);
        case 'b':
                return append_kind(m, RECORD_BOOL, v);
        case 'a':
                return strcmp(type, "as") == 0 ? append_kind(m, RECORD_STRINGS, v)
                                               : in_variant(m, "a{sv}", v, bus_append_summary);
        default:
                return append_kind(m, RECORD_STRING, v);
        }
}

int bus_append_job(sd_bus_message *m, json_object *job) {
        static const struct {
                const char *key, *type;
        } keys[] = {
                { "id", "u" },
                { "job", "o" },
                { "task_id", "s" },
                { "type", "s" },
                { "backup_id", "s" },
                { "restore_id", "s" },
                { "services", "as" },
                { "started_by_uid", "u" },
                { "queued_usec", "t" },
                { "started_usec", "t" },
                { "finished_usec", "t" },
                { "state", "s" },
                { "phase", "s" },
                { "progress", "d" },
                { "bytes_done", "t" },
                { "bytes_total", "t" },
                { "files_done", "t" },
                { "files_total", "t" },
                { "rate", "t" },
                { "expected_end_usec", "t" },
                { "pause_usec", "t" },
                { "cancelable", "b" },
                { "result", "s" },
                { "error_name", "s" },
                { "error_message", "s" },
                { "summary", "a{sv}" },
        };
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(keys); i++) {
                json_object *v = NULL;

                if (!json_object_object_get_ex(job, keys[i].key, &v))
                        continue;
                r = sd_bus_message_open_container(m, 'e', "sv");
                if (r >= 0)
                        r = sd_bus_message_append(m, "s", keys[i].key);
                if (r >= 0)
                        r = append_job_value(m, keys[i].type, v);
                if (r >= 0)
                        r = sd_bus_message_close_container(m);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

int bus_append_strings(sd_bus_message *m, const ConfigStrings *list) {
        int r = sd_bus_message_open_container(m, 'a', "s");

        for (size_t i = 0; r >= 0 && i < list->n; i++)
                r = sd_bus_message_append(m, "s", list->items[i]);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

int bus_reply_list(sd_bus_message *call,
                   json_object *list,
                   int (*append)(sd_bus_message *, json_object *),
                   Failure *reterr) {
        _cleanup_message_ sd_bus_message *reply = NULL;
        int r = sd_bus_message_new_method_return(call, &reply);

        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "a{sv}");
        for (size_t i = 0; r >= 0 && i < json_object_array_length(list); i++)
                r = append(reply, json_object_array_get_idx(list, i));
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        if (r >= 0)
                r = sd_bus_message_send(reply);
        return bus_fail(reterr, r);
}

int bus_reply_dictionary(sd_bus_message *call,
                         json_object *o,
                         int (*append)(sd_bus_message *, json_object *),
                         Failure *reterr) {
        _cleanup_message_ sd_bus_message *reply = NULL;
        int r = sd_bus_message_new_method_return(call, &reply);

        if (r >= 0)
                r = append(reply, o);
        if (r >= 0)
                r = sd_bus_message_send(reply);
        return bus_fail(reterr, r);
}

int bus_reply_job(sd_bus_message *call, const char *id, const Job *j, Failure *reterr) {
        char path[JOB_PATH_MAX];

        job_path(j->id, path);
        return bus_fail(reterr, id ? sd_bus_reply_method_return(call, "so", id, path)
                                   : sd_bus_reply_method_return(call, "o", path));
}
