/*
 * A worker is root, but the agent does not take its word for the shape of things: what passes here
 * goes to the bus as typed values and to the catalogue, where a wrong type would break every reader
 * for good. Order of keys is fixed by the tables, so equal records are equal texts.
 */

#include "agent/record.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"

#define DICTIONARY_KEYS_MAX 32
#define LIST_MAX            10000
#define SUMMARY_KEYS_MAX    64
#define SUMMARY_TEXT_MAX    16384
#define SUMMARY_DEPTH_MAX   4

const RecordField record_backup_fields[] = {
        { "backup_id", RECORD_STRING, FORM_UUID, 36 },
        { "backup_name", RECORD_STRING, FORM_LABEL, 255 },
        { "backup_type", RECORD_STRING, FORM_LABEL, 63 },
        { "description", RECORD_STRING, FORM_TEXT, 4096 },
        { "created_by", RECORD_STRING, FORM_LABEL, 255 },
        { "status", RECORD_STRING, FORM_STATUS, 20 },
        { "created_at", RECORD_STRING, FORM_TIME, 31 },
        { "completed_at", RECORD_STRING, FORM_TIME, 31 },
        { "bytes", RECORD_NUMBER, FORM_TEXT, 0 },
        { "backup_size", RECORD_NUMBER, FORM_TEXT, 0 },
        { "new_bytes", RECORD_NUMBER, FORM_TEXT, 0 },
        { "files", RECORD_NUMBER, FORM_TEXT, 0 },
        { "file_path", RECORD_STRING, FORM_LABEL, 4096 },
        { "checksum", RECORD_STRING, FORM_HEX, 64 },
        { "services", RECORD_STRINGS, FORM_LABEL, 63 },
        { "copies", RECORD_STRINGS, FORM_LABEL, 63 },
        { "pinned", RECORD_BOOL, FORM_TEXT, 0 },
        { "parent_id", RECORD_STRING, FORM_UUID_OR_EMPTY, 36 },
        { "schedule", RECORD_STRING, FORM_LABEL, 63 },
        { "consistency", RECORD_STRING, FORM_LABEL, 20 },
        { "service_consistency", RECORD_STRING_MAP, FORM_LABEL, 63 },
        { "pause_usec", RECORD_NUMBER, FORM_TEXT, 0 },
        { "databases", RECORD_DICTIONARIES, FORM_LABEL, 8192 },
        { "verified_at", RECORD_STRING, FORM_TIME, 31 },
        { "verified_depth", RECORD_STRING, FORM_LABEL, 20 },
        { "verified_result", RECORD_STRING, FORM_LABEL, 20 },
        { "metadata", RECORD_STRING, FORM_JSON, 65536 },
};
const size_t record_n_backup_fields = ELEMENTSOF(record_backup_fields);

const RecordField record_restore_fields[] = {
        { "restore_id", RECORD_STRING, FORM_UUID, 36 },
        { "backup_id", RECORD_STRING, FORM_UUID, 36 },
        { "services", RECORD_STRINGS, FORM_LABEL, 63 },
        { "state", RECORD_STRING, FORM_STATE, 20 },
        { "created_at", RECORD_STRING, FORM_TIME, 31 },
        { "completed_at", RECORD_STRING, FORM_TIME, 31 },
        { "units_down_usec", RECORD_NUMBER, FORM_TEXT, 0 },
        { "error", RECORD_STRING, FORM_TEXT, 8192 },
};
const size_t record_n_restore_fields = ELEMENTSOF(record_restore_fields);

const RecordField record_schedule_fields[] = {
        { "schedule_name", RECORD_STRING, FORM_LABEL, 63 },
        { "enabled", RECORD_BOOL, 0, 0 },
        { "frequency", RECORD_STRING, FORM_LABEL, 20 },
        { "time", RECORD_STRING, FORM_LABEL, 10 },
        { "calendar", RECORD_STRING, FORM_LABEL, 4096 },
        { "backup_type", RECORD_STRING, FORM_LABEL, 63 },
        { "retention_days", RECORD_COUNT, 0, 0 },
        { "description", RECORD_STRING, FORM_LABEL, 255 },
        { "last_run", RECORD_STRING, FORM_TIME, 40 },
        { "next_run", RECORD_STRING, FORM_TIME, 40 },
        { "last_result", RECORD_STRING, FORM_LABEL, 40 },
};
const size_t record_n_schedule_fields = ELEMENTSOF(record_schedule_fields);

static bool is_one_of(const char *s, const char *const *list, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (strcmp(s, list[i]) == 0)
                        return true;
        return false;
}

bool record_is_text(const char *s, size_t max) {
        _cleanup_free_ char *flat = NULL;

        if (strlen(s) > max)
                return false;
        flat = strdup(s);
        if (!flat)
                return false;
        for (char *p = flat; *p; p++)
                if (*p == '\n' || *p == '\t' || *p == '\r')
                        *p = ' ';
        return text_is_label(flat, max);
}

static bool is_hex(const char *s) {
        return strspn(s, "0123456789abcdef") == strlen(s);
}

static bool is_json_object(const char *s) {
        _cleanup_json_ json_object *o = json_parse(s, strlen(s));

        return json_object_is_type(o, json_type_object);
}

static bool has_form(const char *s, RecordForm form, size_t max) {
        static const char *const statuses[] = { "running", "completed", "partial", "failed" };
        static const char *const states[] = { "staging",     "swapping",  "active",
                                              "rolled_back", "confirmed", "failed" };
        uint64_t usec;

        if (strlen(s) > max)
                return false;
        switch (form) {
        case FORM_TEXT:
                return record_is_text(s, max);
        case FORM_LABEL:
                return text_is_label(s, max);
        case FORM_UUID:
                return text_is_uuid(s);
        case FORM_UUID_OR_EMPTY:
                return !*s || text_is_uuid(s);
        case FORM_TIME:
                return !*s || clock_parse(s, &usec) >= 0;
        case FORM_HEX:
                return is_hex(s);
        case FORM_STATUS:
                return is_one_of(s, statuses, ELEMENTSOF(statuses));
        case FORM_STATE:
                return is_one_of(s, states, ELEMENTSOF(states));
        case FORM_JSON:
                return !*s || (text_is_label(s, max) && is_json_object(s));
        }
        return false;
}

static bool is_string(json_object *v, RecordForm form, size_t max) {
        return json_object_is_type(v, json_type_string) &&
               strlen(json_object_get_string(v)) == (size_t) json_object_get_string_len(v) &&
               has_form(json_object_get_string(v), form, max);
}

static bool is_flat_object(json_object *o, bool strings_only, size_t max) {
        if (!json_object_is_type(o, json_type_object) || json_object_object_length(o) > LIST_MAX ||
            (!strings_only && json_object_object_length(o) > DICTIONARY_KEYS_MAX))
                return false;
        json_object_object_foreach(o, key, v) {
                bool number =
                        json_object_is_type(v, json_type_int) && json_object_get_int64(v) >= 0;

                if (!*key || !text_is_label(key, 63))
                        return false;
                if (is_string(v, FORM_LABEL, max))
                        continue;
                if (strings_only || (!number && !json_object_is_type(v, json_type_boolean)))
                        return false;
        }
        return true;
}

static bool is_list(json_object *v, const RecordField *f) {
        if (!json_object_is_type(v, json_type_array) || json_object_array_length(v) > LIST_MAX)
                return false;
        for (size_t i = 0; i < json_object_array_length(v); i++) {
                json_object *item = json_object_array_get_idx(v, i);

                if (f->kind == RECORD_STRINGS ? !is_string(item, FORM_LABEL, f->max)
                                              : !is_flat_object(item, false, f->max))
                        return false;
        }
        return true;
}

static bool is_valid(json_object *v, const RecordField *f) {
        switch (f->kind) {
        case RECORD_STRING:
                return is_string(v, f->form, f->max);
        case RECORD_NUMBER:
                return json_object_is_type(v, json_type_int) && json_object_get_int64(v) >= 0;
        case RECORD_COUNT:
                return json_object_is_type(v, json_type_int) && json_object_get_int64(v) >= 0 &&
                       json_object_get_uint64(v) <= UINT32_MAX;
        case RECORD_BOOL:
                return json_object_is_type(v, json_type_boolean);
        case RECORD_STRINGS:
        case RECORD_DICTIONARIES:
                return is_list(v, f);
        case RECORD_STRING_MAP:
                return is_flat_object(v, true, f->max);
        }
        return false;
}

static json_object *empty_value(const RecordField *f) {
        switch (f->kind) {
        case RECORD_STRING:
                return json_object_new_string("");
        case RECORD_NUMBER:
        case RECORD_COUNT:
                return json_object_new_uint64(0);
        case RECORD_BOOL:
                return json_object_new_boolean(false);
        case RECORD_STRINGS:
        case RECORD_DICTIONARIES:
                return json_object_new_array();
        case RECORD_STRING_MAP:
                return json_object_new_object();
        }
        return NULL;
}

static bool must_be_there(const RecordField *f) {
        return f->form == FORM_UUID || f->form == FORM_STATUS || f->form == FORM_STATE;
}

static int read_fields(json_object *in,
                       const RecordField *fields,
                       size_t n,
                       json_object **ret,
                       Failure *reterr) {
        _cleanup_json_ json_object *out = json_object_new_object();

        if (!out)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        for (size_t i = 0; i < n; i++) {
                const RecordField *f = fields + i;
                json_object *v = NULL;

                if (json_object_object_get_ex(in, f->key, &v)) {
                        if (!is_valid(v, f))
                                return fail_set(reterr, FAIL_INTERNAL, EBADMSG,
                                                "the worker sent a bad value for '%s'", f->key);
                        v = json_object_get(v);
                } else if (must_be_there(f))
                        return fail_set(reterr, FAIL_INTERNAL, EBADMSG, "the worker sent no '%s'",
                                        f->key);
                else
                        v = empty_value(f);
                if (!v || json_put(out, f->key, v) < 0)
                        return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        }
        *ret = TAKE_PTR(out);
        return 0;
}

int record_read_backup(json_object *in, json_object **ret, Failure *reterr) {
        json_object *bytes, *size;
        int r = read_fields(in, record_backup_fields, record_n_backup_fields, ret, reterr);

        if (r < 0)
                return r;
        /* Two names for one thing; a worker may send either. */
        (void) json_object_object_get_ex(*ret, "bytes", &bytes);
        (void) json_object_object_get_ex(*ret, "backup_size", &size);
        if (json_object_get_uint64(bytes) == 0)
                (void) json_object_set_uint64(bytes, json_object_get_uint64(size));
        (void) json_object_set_uint64(size, json_object_get_uint64(bytes));
        return 0;
}

int record_read_restore(json_object *in, json_object **ret, Failure *reterr) {
        return read_fields(in, record_restore_fields, record_n_restore_fields, ret, reterr);
}

int record_read_schedule(json_object *in, json_object **ret, Failure *reterr) {
        return read_fields(in, record_schedule_fields, record_n_schedule_fields, ret, reterr);
}

static bool is_summary(json_object *o, unsigned depth, const char **ret_bad);

/* A list has texts alone or dictionaries alone: it has one type on the bus. */
static bool is_summary_list(json_object *v, unsigned depth) {
        const RecordField strings = { .kind = RECORD_STRINGS, .max = SUMMARY_TEXT_MAX };
        const char *bad;

        if (is_list(v, &strings))
                return true;
        for (size_t i = 0; i < json_object_array_length(v); i++)
                if (i >= LIST_MAX || !is_summary(json_object_array_get_idx(v, i), depth, &bad))
                        return false;
        return true;
}

static bool is_summary_value(json_object *v, unsigned depth) {
        const char *bad;

        switch (json_object_get_type(v)) {
        case json_type_string:
                return is_string(v, FORM_TEXT, SUMMARY_TEXT_MAX);
        case json_type_int:
                return json_object_get_int64(v) >= 0;
        case json_type_boolean:
        case json_type_double:
                return true;
        case json_type_array:
                return depth > 0 && is_summary_list(v, depth - 1);
        case json_type_object:
                return depth > 0 && is_summary(v, depth - 1, &bad);
        case json_type_null:
                break;
        }
        return false;
}

static bool is_summary(json_object *o, unsigned depth, const char **ret_bad) {
        *ret_bad = "keys";
        if (!json_object_is_type(o, json_type_object) ||
            json_object_object_length(o) > SUMMARY_KEYS_MAX)
                return false;
        json_object_object_foreach(o, key, v) {
                if (!*key || !text_is_label(key, 63))
                        return false;
                *ret_bad = key;
                if (!is_summary_value(v, depth))
                        return false;
        }
        return true;
}

int record_read_summary(json_object *message, json_object **ret, Failure *reterr) {
        _cleanup_json_ json_object *none = json_object_new_object();
        json_object *in = none;
        const char *bad;
        int r = json_get_object(message, "summary", &in);

        if (!none)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        if (r < 0 && r != -ENOENT)
                return fail_set(reterr, FAIL_INTERNAL, EBADMSG, "a summary that is no object");
        if (!is_summary(in, SUMMARY_DEPTH_MAX, &bad))
                return fail_set(reterr, FAIL_INTERNAL, EBADMSG, "a summary with bad '%s'", bad);
        *ret = json_object_get(in);
        return 0;
}

json_object *record_new_backup(const RecordNew *n) {
        _cleanup_json_ json_object *in = json_object_new_object();
        json_object *services = strings_to_json(n->services), *out;
        Failure why = FAILURE_INIT;
        char now[CLOCK_TEXT_MAX];

        clock_format(clock_realtime_usec(), now);
        if (!in || json_put(in, "services", services) < 0 ||
            json_put_string(in, "backup_id", n->id) < 0 ||
            json_put_string(in, "backup_name", n->name) < 0 ||
            json_put_string(in, "backup_type", n->type) < 0 ||
            json_put_string(in, "description", n->description) < 0 ||
            json_put_string(in, "created_by", n->created_by) < 0 ||
            json_put_string(in, "schedule", n->schedule) < 0 ||
            json_put_string(in, "status", "running") < 0 ||
            json_put_string(in, "created_at", now) < 0 ||
            json_put_bool(in, "pinned", n->pinned) < 0)
                return NULL;
        return record_read_backup(in, &out, &why) < 0 ? NULL : out;
}

json_object *
record_new_restore(const char *id, const char *backup_id, const ConfigStrings *services) {
        _cleanup_json_ json_object *in = json_object_new_object();
        json_object *list = strings_to_json(services), *out;
        Failure why = FAILURE_INIT;
        char now[CLOCK_TEXT_MAX];

        clock_format(clock_realtime_usec(), now);
        if (!in || json_put(in, "services", list) < 0 ||
            json_put_string(in, "restore_id", id) < 0 ||
            json_put_string(in, "backup_id", backup_id) < 0 ||
            json_put_string(in, "state", "staging") < 0 ||
            json_put_string(in, "created_at", now) < 0)
                return NULL;
        return record_read_restore(in, &out, &why) < 0 ? NULL : out;
}

int record_services(json_object *o, ConfigStrings *ret) {
        json_object *list;
        int r = json_get_array(o, "services", &list);

        for (size_t i = 0; r >= 0 && i < json_object_array_length(list); i++)
                r = strings_add(ret, json_object_get_string(json_object_array_get_idx(list, i)));
        return r;
}

void strings_done(ConfigStrings *s) {
        for (size_t i = 0; i < s->n; i++)
                free(s->items[i]);
        free(s->items);
        *s = (ConfigStrings){ .n = 0 };
}

int strings_add(ConfigStrings *s, const char *item) {
        char **items = reallocarray(s->items, s->n + 1, sizeof(*items));

        if (!items)
                return -ENOMEM;
        s->items = items;
        items[s->n] = strdup(item);
        if (!items[s->n])
                return -ENOMEM;
        s->n++;
        return 0;
}

bool strings_has(const ConfigStrings *s, const char *item) {
        for (size_t i = 0; i < s->n; i++)
                if (strcmp(s->items[i], item) == 0)
                        return true;
        return false;
}

json_object *strings_to_json(const ConfigStrings *s) {
        json_object *list = json_object_new_array();

        for (size_t i = 0; list && i < s->n; i++) {
                json_object *item = json_object_new_string(s->items[i]);

                if (!item || json_object_array_add(list, item) < 0) {
                        json_object_put(item);
                        json_object_put(list);
                        return NULL;
                }
        }
        return list;
}
