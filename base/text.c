#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"

/* Length of the valid UTF-8 sequence at `s`, 0 if there is none (RFC 3629: no surrogates, no
 * overlong). */
static size_t utf8_length(const uint8_t *s) {
        uint32_t c;
        size_t n;

        if (s[0] < 0x80)
                return s[0] ? 1 : 0;
        if (s[0] >= 0xc2 && s[0] <= 0xdf)
                n = 2, c = s[0] & 0x1f;
        else if (s[0] >= 0xe0 && s[0] <= 0xef)
                n = 3, c = s[0] & 0x0f;
        else if (s[0] >= 0xf0 && s[0] <= 0xf4)
                n = 4, c = s[0] & 0x07;
        else
                return 0;
        for (size_t i = 1; i < n; i++) {
                if ((s[i] & 0xc0) != 0x80)
                        return 0;
                c = c << 6 | (s[i] & 0x3f);
        }
        if ((n == 3 && c < 0x800) || (n == 4 && c < 0x10000) || c > 0x10ffff ||
            (c >= 0xd800 && c <= 0xdfff))
                return 0;
        return n;
}

/* True for C0, DEL and C1 controls: bytes that could drive a terminal. */
static bool utf8_is_control(const uint8_t *s, size_t n) {
        return (n == 1 && (s[0] < 0x20 || s[0] == 0x7f)) || (n == 2 && s[0] == 0xc2 && s[1] < 0xa0);
}

static char *escape(const char *bytes, bool backslash) {
        const uint8_t *s = (const uint8_t *) bytes;
        size_t n = strlen(bytes);
        char *out, *o;

        out = o = malloc(n * 4 + 1);
        if (!out)
                return NULL;
        while (*s) {
                size_t len = utf8_length(s);

                if (len > 0 && !(backslash && *s == '\\') && !utf8_is_control(s, len)) {
                        memcpy(o, s, len);
                        o += len;
                        s += len;
                        continue;
                }
                for (size_t i = 0; i < (len > 0 ? len : 1); i++)
                        o += sprintf(o, "\\x%02x", *s++);
        }
        *o = 0;
        return out;
}

char *text_escape(const char *bytes) {
        return escape(bytes, true);
}

char *text_defuse(const char *text) {
        return escape(text, false);
}

static int hex_digit(char c) {
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        if (c >= 'A' && c <= 'F')
                return c - 'A' + 10;
        return -1;
}

int text_unescape(const char *text, char **ret) {
        _cleanup_free_ char *out = malloc(strlen(text) + 1);
        char *o = out;

        if (!out)
                return -ENOMEM;
        while (*text) {
                int hi, lo;

                if (*text != '\\') {
                        *o++ = *text++;
                        continue;
                }
                if (text[1] != 'x' || (hi = hex_digit(text[2])) < 0 ||
                    (lo = hex_digit(text[3])) < 0 || (hi == 0 && lo == 0))
                        return -EINVAL;
                *o++ = (char) (hi << 4 | lo);
                text += 4;
        }
        *o = 0;
        *ret = TAKE_PTR(out);
        return 0;
}

bool text_is_utf8(const char *bytes) {
        const uint8_t *s = (const uint8_t *) bytes;
        size_t n;

        while ((n = utf8_length(s)) > 0)
                s += n;
        return *s == 0;
}

bool text_is_uuid(const char *s) {
        for (int i = 0; i < 36; i++) {
                if (i == 8 || i == 13 || i == 18 || i == 23) {
                        if (s[i] != '-')
                                return false;
                } else if (!(s[i] >= '0' && s[i] <= '9') && !(s[i] >= 'a' && s[i] <= 'f'))
                        return false;
        }
        return s[36] == 0;
}

int text_uuid_parse(const char *s, uint8_t ret[16]) {
        if (!text_is_uuid(s))
                return -EINVAL;
        for (int i = 0; i < 16; i++) {
                if (*s == '-')
                        s++;
                ret[i] = (uint8_t) (hex_digit(s[0]) << 4 | hex_digit(s[1]));
                s += 2;
        }
        return 0;
}

void text_uuid_format(const uint8_t uuid[16], char ret[UUID_TEXT_MAX]) {
        char *o = ret;

        for (int i = 0; i < 16; i++) {
                if (i == 4 || i == 6 || i == 8 || i == 10)
                        *o++ = '-';
                o += sprintf(o, "%02x", uuid[i]);
        }
}

int text_uuid_new(uint8_t ret[16]) {
        ssize_t n = getrandom(ret, 16, 0);

        if (n != 16)
                return n < 0 ? -errno : -EIO;
        ret[6] = (uint8_t) ((ret[6] & 0x0f) | 0x40); /* RFC 9562: version 4, variant 10 */
        ret[8] = (uint8_t) ((ret[8] & 0x3f) | 0x80);
        return 0;
}

bool text_is_service_name(const char *s) {
        size_t n = strlen(s);

        if (n < 1 || n > 63 || !(s[0] >= 'a' && s[0] <= 'z'))
                return false;
        for (size_t i = 1; i < n; i++)
                if (!(s[i] >= 'a' && s[i] <= 'z') && !(s[i] >= '0' && s[i] <= '9') && s[i] != '_' &&
                    s[i] != '-')
                        return false;
        return true;
}

bool text_is_label(const char *s, size_t max) {
        const uint8_t *p = (const uint8_t *) s;

        if (strlen(s) > max)
                return false;
        while (*p) {
                size_t n = utf8_length(p);

                if (n == 0 || utf8_is_control(p, n))
                        return false;
                p += n;
        }
        return true;
}

void text_hex(const uint8_t *data, size_t n, char *ret) {
        static const char digits[] = "0123456789abcdef";

        for (size_t i = 0; i < n; i++) {
                *ret++ = digits[data[i] >> 4];
                *ret++ = digits[data[i] & 15];
        }
        *ret = 0;
}

int text_unhex(const char *text, uint8_t *ret, size_t n) {
        if (strlen(text) != 2 * n)
                return -EINVAL;
        for (size_t i = 0; i < n; i++) {
                int hi = hex_digit(text[2 * i]), lo = hex_digit(text[2 * i + 1]);

                if (hi < 0 || lo < 0)
                        return -EINVAL;
                ret[i] = (uint8_t) (hi << 4 | lo);
        }
        return 0;
}

char *text_printf(const char *format, ...) {
        va_list ap;
        char *s;
        int n;

        va_start(ap, format);
        n = vasprintf(&s, format, ap);
        va_end(ap);
        return n < 0 ? NULL : s;
}

int text_to_u64(const char *s, uint64_t *ret) {
        unsigned long long v;
        char *end;

        if (!isdigit((unsigned char) s[0]))
                return -EINVAL;
        errno = 0;
        v = strtoull(s, &end, 10);
        if (errno)
                return -errno;
        if (*end)
                return -EINVAL;
        *ret = v;
        return 0;
}

bool text_is_clean_path(const char *path) {
        const char *p = path;

        if (*p != '/')
                return false;
        if (p[1] == 0)
                return true;
        while (*p == '/') {
                size_t n = strcspn(++p, "/");

                if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
                        return false;
                p += n;
        }
        return true;
}

bool text_path_is_below(const char *path, const char *dir) {
        size_t n = strlen(dir);

        if (n == 1)
                return true;
        return strncmp(path, dir, n) == 0 && (path[n] == 0 || path[n] == '/');
}

int text_path_compare(const char *a, const char *b) {
        /* A slash sorts before every other byte, and the end of a path before a slash. */
        while (*a && *a == *b)
                a++, b++;
        if (*a == *b)
                return 0;
        if (*a == 0 || *b == 0)
                return *a == 0 ? -1 : 1;
        if (*a == '/' || *b == '/')
                return *a == '/' ? -1 : 1;
        return (uint8_t) *a < (uint8_t) *b ? -1 : 1;
}
