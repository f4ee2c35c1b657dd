#pragma once

/*
 * Strings: the one escaping of bytes that are not text, ids, names, hex.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A path or name as users see it in JSON, on D-Bus and on the command line: valid UTF-8 as it is,
 * except that control characters, the backslash and every byte that is not part of valid UTF-8 are
 * written \xHH. Returns an owned string, NULL if out of memory.
 */
char *text_escape(const char *bytes);

/*
 * For lines in a log: as text_escape(), but a backslash stays, since what is in the line was
 * escaped already. Owned, NULL if out of memory.
 */
char *text_defuse(const char *text);

/* The reverse of text_escape(). Returns 0 and an owned string, -EINVAL for a malformed escape or
 * \x00, -ENOMEM. */
int text_unescape(const char *text, char **ret);

/* True if all of it is valid UTF-8: no surrogates, nothing overlong. */
bool text_is_utf8(const char *bytes);

/* UUIDs as text: 36 characters, lower case. */
#define UUID_TEXT_MAX 37
bool text_is_uuid(const char *s);
int text_uuid_parse(const char *s, uint8_t ret[16]); /* 0 or -EINVAL */
void text_uuid_format(const uint8_t uuid[16], char ret[UUID_TEXT_MAX]);
int text_uuid_new(uint8_t ret[16]); /* random, version 4; 0 or negative errno */

/* Names of services and schedules: [a-z][a-z0-9_-]{0,62}. Reserved words are not looked at. */
bool text_is_service_name(const char *s);

/* True for valid UTF-8 without control characters, at most `max` bytes. */
bool text_is_label(const char *s, size_t max);

/* `ret` takes 2 * n + 1 bytes. */
void text_hex(const uint8_t *data, size_t n, char *ret);
int text_unhex(const char *text, uint8_t *ret, size_t n); /* exactly n bytes; 0 or -EINVAL */

/* An owned formatted string, NULL if out of memory. */
char *text_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Decimal number, nothing else around it. 0, -EINVAL or -ERANGE. */
int text_to_u64(const char *s, uint64_t *ret);

/* True if `path` is absolute, without "." or "..", doubled or trailing slashes (but "/"). */
bool text_is_clean_path(const char *path);

/* True if `path` is `dir` or lies below it; both clean and absolute. */
bool text_path_is_below(const char *path, const char *dir);

/* Compares two clean absolute paths component by component: "/a/b" before "/a-b". */
int text_path_compare(const char *a, const char *b);
