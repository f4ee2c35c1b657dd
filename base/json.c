#include "base/json.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/text.h"

#define JSON_DEPTH_MAX 16

json_object *json_parse(const char *text, size_t n) {
        struct json_tokener *t;
        json_object *o;

        if (n > INT_MAX)
                return NULL;
        t = json_tokener_new_ex(JSON_DEPTH_MAX);
        if (!t)
                return NULL;
        json_tokener_set_flags(t, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
        o = json_tokener_parse_ex(t, text, (int) n);
        if (json_tokener_get_error(t) != json_tokener_success ||
            json_tokener_get_parse_end(t) != n) {
                json_object_put(o);
                o = NULL;
        }
        json_tokener_free(t);
        return o;
}

static int get_typed(json_object *o, const char *key, enum json_type type, json_object **ret) {
        json_object *v;

        if (!json_object_is_type(o, json_type_object))
                return -EINVAL;
        if (!json_object_object_get_ex(o, key, &v))
                return -ENOENT;
        if (!json_object_is_type(v, type))
                return -EINVAL;
        *ret = v;
        return 0;
}

int json_get_string(json_object *o, const char *key, const char **ret) {
        json_object *v;
        int r = get_typed(o, key, json_type_string, &v);

        if (r < 0)
                return r;
        /* An embedded NUL would make the text differ from what is compared. */
        if (strlen(json_object_get_string(v)) != (size_t) json_object_get_string_len(v))
                return -EINVAL;
        *ret = json_object_get_string(v);
        return 0;
}

int json_get_u64(json_object *o, const char *key, uint64_t *ret) {
        json_object *v;
        int r = get_typed(o, key, json_type_int, &v);

        if (r < 0)
                return r;
        if (json_object_get_int64(v) < 0)
                return -EINVAL;
        *ret = json_object_get_uint64(v);
        return 0;
}

int json_get_bool(json_object *o, const char *key, bool *ret) {
        json_object *v;
        int r = get_typed(o, key, json_type_boolean, &v);

        if (r >= 0)
                *ret = json_object_get_boolean(v);
        return r;
}

int json_get_object(json_object *o, const char *key, json_object **ret) {
        return get_typed(o, key, json_type_object, ret);
}

int json_get_array(json_object *o, const char *key, json_object **ret) {
        return get_typed(o, key, json_type_array, ret);
}

int json_put(json_object *o, const char *key, json_object *value) {
        if (!o || !value) {
                json_object_put(value); /* taken in every case */
                return -ENOMEM;
        }
        if (json_object_object_add(o, key, value) < 0) {
                json_object_put(value);
                return -ENOMEM;
        }
        return 0;
}

int json_put_string(json_object *o, const char *key, const char *value) {
        return json_put(o, key, json_object_new_string(value ? value : ""));
}

int json_put_u64(json_object *o, const char *key, uint64_t value) {
        return json_put(o, key, json_object_new_uint64(value));
}

int json_put_bool(json_object *o, const char *key, bool value) {
        return json_put(o, key, json_object_new_boolean(value));
}

int json_put_path(json_object *o, const char *key, const char *path) {
        _cleanup_free_ char *text = text_escape(path);

        return text ? json_put_string(o, key, text) : -ENOMEM;
}

int json_get_path(json_object *o, const char *key, char **ret) {
        const char *text;
        int r = json_get_string(o, key, &text);

        return r < 0 ? r : text_unescape(text, ret);
}

const char *json_text(json_object *o) {
        return json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN |
                                                         JSON_C_TO_STRING_NOSLASHESCAPE);
}
