#include "base/envfile.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/secret.h"

/*
 * The rules are those of systemd.exec(5). A value may hold a passphrase: it is put together in a
 * Secret, once, and nowhere else.
 */

#define BLANKS " \t\r"

typedef struct Reader {
        const char *at, *end;
        unsigned line;
        const char *label;
        char *value; /* room for the whole text */
        size_t n;    /* bytes in it */
        size_t kept; /* of these, up to here blanks at the end are part of it */
} Reader;

static bool at_newline(const Reader *r) {
        return r->at == r->end || *r->at == '\n';
}

static void skip(Reader *r, const char *chars) {
        while (r->at < r->end && *r->at && strchr(chars, *r->at))
                r->at++;
}

static void put(Reader *r, char c) {
        r->value[r->n++] = c;
}

/* Takes one character and counts its line. */
static char take(Reader *r) {
        char c = *r->at++;

        r->line += c == '\n';
        return c;
}

static int open_quote(const Reader *r, unsigned line, Failure *reterr) {
        return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                        "%s:%u: a quote is opened and not closed", r->label, line);
}

static int read_single(Reader *r, Failure *reterr) {
        unsigned line = r->line;

        while (r->at < r->end) {
                char c = take(r);

                if (c == '\'')
                        return 0;
                put(r, c);
        }
        return open_quote(r, line, reterr);
}

static int read_double(Reader *r, Failure *reterr) {
        unsigned line = r->line;

        while (r->at < r->end) {
                char c = take(r);

                if (c == '"')
                        return 0;
                if (c == '\\' && r->at < r->end) {
                        char next = take(r);

                        if (next == '\n')
                                continue;
                        if (!strchr("\"\\`$", next))
                                put(r, c);
                        c = next;
                }
                put(r, c);
        }
        return open_quote(r, line, reterr);
}

/* Up to the end of the line; quotes in it are part of it. */
static void read_plain(Reader *r) {
        while (!at_newline(r)) {
                char c = take(r);

                if (c == '\\' && r->at < r->end) {
                        c = take(r);
                        if (c == '\n')
                                continue;
                        put(r, c);
                        r->kept = r->n; /* an escaped blank stays */
                } else if (c != '\\') {
                        put(r, c);
                }
        }
        while (r->n > r->kept && strchr(BLANKS, r->value[r->n - 1]))
                r->n--;
}

static int read_value(Reader *r, Failure *reterr) {
        int e = 0;

        r->n = r->kept = 0;
        for (;;) {
                skip(r, BLANKS);
                if (at_newline(r))
                        return 0;
                if (*r->at == '\'' || *r->at == '"')
                        e = take(r) == '"' ? read_double(r, reterr) : read_single(r, reterr);
                else
                        break;
                if (e < 0)
                        return e;
                r->kept = r->n;
        }
        read_plain(r);
        return 0;
}

/* A comment may be continued, too. */
static void skip_line(Reader *r) {
        bool comment = !at_newline(r) && (*r->at == '#' || *r->at == ';');

        while (!at_newline(r))
                if (take(r) == '\\' && comment && r->at < r->end)
                        (void) take(r);
}

#define NAME_MAX_BYTES 255

static int read_line(Reader *r, EnvfileOnValue on_value, void *userdata, Failure *reterr) {
        char name[NAME_MAX_BYTES + 1];
        unsigned line = r->line;
        const char *equals, *newline;
        size_t n;
        int e;

        skip(r, BLANKS);
        newline = memchr(r->at, '\n', (size_t) (r->end - r->at));
        equals = memchr(r->at, '=', (size_t) ((newline ? newline : r->end) - r->at));
        if (at_newline(r) || *r->at == '#' || *r->at == ';' || !equals) {
                skip_line(r);
                return 0;
        }
        n = (size_t) (equals - r->at);
        while (n > 0 && strchr(BLANKS, r->at[n - 1]))
                n--;
        if (n > NAME_MAX_BYTES)
                n = NAME_MAX_BYTES;
        memcpy(name, r->at, n);
        name[n] = 0;
        r->at = equals + 1;
        e = read_value(r, reterr);
        if (e < 0)
                return e;
        r->value[r->n] = 0;
        return on_value(userdata, name, r->value, r->n, line, reterr);
}

static int refuse_zero(const char *text, const char *zero, const char *label, Failure *reterr) {
        unsigned line = 1;

        for (const char *p = text; p < zero; p++)
                line += *p == '\n';
        return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                        "%s:%u: a zero byte in the line; the file must be text", label, line);
}

int envfile_parse(const char *text,
                  size_t n,
                  const char *label,
                  EnvfileOnValue on_value,
                  void *userdata,
                  Failure *reterr) {
        _cleanup_secret_ Secret value = SECRET_INIT;
        Reader r = { .at = text, .end = text + n, .line = 1, .label = label };
        const char *zero = n > 0 ? memchr(text, 0, n) : NULL;
        int e;

        if (n > ENVFILE_MAX)
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EFBIG,
                                "%s: is larger than %zu bytes", label, ENVFILE_MAX);
        if (zero)
                return refuse_zero(text, zero, label, reterr);
        e = secret_new(&value, n + 1);
        if (e < 0)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        r.value = (char *) value.data;
        while (e >= 0 && r.at < r.end) {
                e = read_line(&r, on_value, userdata, reterr);
                if (e >= 0 && r.at < r.end)
                        (void) take(&r); /* the newline */
        }
        return e;
}
