#pragma once

/*
 * Strict access to JSON objects from peers: a wrong type is an error, not a conversion.
 */

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

static inline void json_free(json_object *o) {
        json_object_put(o);
}

DEFINE_CLEANUP(json_object *, json_free);
#define _cleanup_json_ _cleanup_(json_freep)

/* Parses exactly one JSON value of bounded depth. Returns owned, or NULL if it is not one. */
json_object *json_parse(const char *text, size_t n);

/* Each returns 0, -ENOENT if the key is missing, -EINVAL if it has another type or range. */
int json_get_string(json_object *o, const char *key, const char **ret); /* borrowed from `o` */
int json_get_u64(json_object *o, const char *key, uint64_t *ret);
int json_get_bool(json_object *o, const char *key, bool *ret);
int json_get_object(json_object *o, const char *key, json_object **ret); /* borrowed */
int json_get_array(json_object *o, const char *key, json_object **ret);  /* borrowed */

/* Adds a member; the value is owned by `o` afterwards. 0 or -ENOMEM. */
int json_put(json_object *o, const char *key, json_object *value);
int json_put_string(json_object *o, const char *key, const char *value); /* NULL adds "" */
int json_put_u64(json_object *o, const char *key, uint64_t value);
int json_put_bool(json_object *o, const char *key, bool value);

/* As json_put_string() with text_escape() applied: for paths and names of files. */
int json_put_path(json_object *o, const char *key, const char *path);

/* Reads a path written by json_put_path(); owned. 0, -ENOENT, -EINVAL, -ENOMEM. */
int json_get_path(json_object *o, const char *key, char **ret);

/* The text, without spaces and with slashes as they are; borrowed from `o` until it changes. */
const char *json_text(json_object *o);
