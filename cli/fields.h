#pragma once

/*
 * Members of what the agent answered, for people: a missing one is empty or zero. Scripts get the
 * whole answer with --json and can tell.
 */

#include "base/json.h"

static inline const char *field_text(json_object *o, const char *key) {
        const char *s = "";

        return json_get_string(o, key, &s) < 0 ? "" : s;
}

static inline uint64_t field_u64(json_object *o, const char *key) {
        uint64_t v = 0;

        return json_get_u64(o, key, &v) < 0 ? 0 : v;
}

static inline bool field_bool(json_object *o, const char *key) {
        bool v = false;

        return json_get_bool(o, key, &v) >= 0 && v;
}

static inline double field_double(json_object *o, const char *key) {
        json_object *v;

        return json_object_object_get_ex(o, key, &v) ? json_object_get_double(v) : 0.0;
}

/* Borrowed; NULL if it is missing or no list. */
static inline json_object *field_list(json_object *o, const char *key) {
        json_object *v = NULL;

        return json_get_array(o, key, &v) < 0 ? NULL : v;
}
