/*
 * Which paths are left out. Each glob is a row of components; a path is fed to it one component at
 * a time while a bit set says which components of the glob may come next, so `**` never backtracks:
 * the cost is components of the glob times components of the path, whatever they say.
 *
 * Within a component only the last `*` is ever taken back, which is enough for exact matching and
 * bounds the cost by the product of the two lengths.
 */

#include "base/globs.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

#define GLOB_PARTS_MAX 62 /* bits of the set, less the one that means "matched" */
#define GLOB_BYTES_MAX 4096

typedef struct GlobPart {
        const char *text; /* into Glob.text */
        size_t n;
        bool any; /* the whole component is `**` */
} GlobPart;

typedef struct Glob {
        char *text;
        char *prefix;
        GlobPart *parts;
        size_t n_parts;
} Glob;

struct Globs {
        Glob *globs;
        size_t n;
};

/*
 * The next character of [*p, end) as a code point. A byte that is not part of valid UTF-8 is a
 * character of its own, outside Unicode's range, so that `?` and sets see names as people do and
 * still match any bytes.
 */
static uint32_t next_char(const char **p, const char *end) {
        const uint8_t *s = (const uint8_t *) *p;
        size_t left = (size_t) (end - *p), n;
        uint32_t c;

        if (s[0] < 0x80)
                n = 1, c = s[0];
        else if (s[0] >= 0xc2 && s[0] < 0xe0)
                n = 2, c = s[0] & 0x1fU;
        else if (s[0] >= 0xe0 && s[0] < 0xf0)
                n = 3, c = s[0] & 0x0fU;
        else if (s[0] >= 0xf0 && s[0] < 0xf5)
                n = 4, c = s[0] & 0x07U;
        else
                n = 0, c = 0;
        if (n == 0 || n > left)
                goto byte;
        for (size_t i = 1; i < n; i++) {
                if ((s[i] & 0xc0) != 0x80)
                        goto byte;
                c = c << 6 | (s[i] & 0x3fU);
        }
        *p += n;
        return c;
byte:
        *p += 1;
        return 0x110000U + s[0];
}

/*
 * Reads the set that begins after '[' at *p and leaves *p behind its ']'. 1 if `c` is in it, 0 if
 * not, -EINVAL if it is not closed or a range runs backwards.
 */
static int set_has(const char **p, const char *end, uint32_t c) {
        const char *s = *p;
        bool negate = false, found = false, first = true;

        if (s < end && (*s == '!' || *s == '^')) {
                negate = true;
                s++;
        }
        for (;; first = false) {
                uint32_t from, to;

                if (s >= end)
                        return -EINVAL;
                if (*s == ']' && !first) {
                        *p = s + 1;
                        return found != negate;
                }
                from = to = next_char(&s, end);
                if (end - s >= 2 && s[0] == '-' && s[1] != ']') {
                        s++;
                        to = next_char(&s, end);
                }
                if (from > to)
                        return -EINVAL;
                if (c >= from && c <= to)
                        found = true;
        }
}

/* One step of `p` (not at '*') against one character of `s`: true and both advanced, or false. */
static bool step_matches(const char **p, const char *p_end, const char **s, const char *s_end) {
        const char *q = *p, *t = *s;
        uint32_t c = next_char(&t, s_end);
        bool ok;

        if (*q == '?') {
                q++;
                ok = true;
        } else if (*q == '[') {
                q++;
                ok = set_has(&q, p_end, c) > 0;
        } else {
                ok = next_char(&q, p_end) == c;
        }
        if (ok) {
                *p = q;
                *s = t;
        }
        return ok;
}

static bool part_matches(const GlobPart *part, const char *s, size_t n) {
        const char *p = part->text, *p_end = p + part->n, *s_end = s + n;
        const char *star = NULL, *retry = NULL;

        while (s < s_end) {
                if (p < p_end && *p == '*') {
                        star = ++p;
                        retry = s;
                } else if (p < p_end && step_matches(&p, p_end, &s, s_end)) {
                        continue;
                } else if (star) {
                        (void) next_char(&retry, s_end); /* the star takes one character more */
                        p = star;
                        s = retry;
                } else {
                        return false;
                }
        }
        while (p < p_end && *p == '*')
                p++;
        return p == p_end;
}

/* Adds `i`, and what follows it if it is a `**` that may stand for nothing. */
static uint64_t activate(const Glob *g, uint64_t set, size_t i) {
        set |= (uint64_t) 1 << i;
        while (i + 1 < g->n_parts && g->parts[i].any)
                set |= (uint64_t) 1 << ++i;
        return set;
}

/* True if the path or a directory above it matches. */
static bool glob_matches(const Glob *g, const char *path) {
        uint64_t active = activate(g, 0, 0);

        while (*path && active) {
                size_t n = strcspn(path, "/");
                uint64_t next = 0;

                for (size_t i = 0; i < g->n_parts; i++) {
                        if (!(active & (uint64_t) 1 << i))
                                continue;
                        if (g->parts[i].any) {
                                next = activate(g, next, i);
                                if (i + 1 == g->n_parts)
                                        return true;
                        } else if (part_matches(&g->parts[i], path, n)) {
                                if (i + 1 == g->n_parts)
                                        return true;
                                next = activate(g, next, i + 1);
                        }
                }
                active = next;
                path += n;
                if (*path == '/')
                        path++;
        }
        return false;
}

/* NULL if the component may stand in a glob, else what is wrong with it. */
static const char *part_fault(const char *text, size_t n) {
        const char *end = text + n;

        if (n == 0)
                return "it has an empty component";
        if ((n == 1 && text[0] == '.') || (n == 2 && memcmp(text, "..", 2) == 0))
                return "'.' and '..' are not allowed";
        for (const char *p = text; p < end;) {
                if (*p == '*' && end - p >= 2 && p[1] == '*' && n != 2)
                        return "'**' must be a component of its own";
                if (*p++ == '[' && set_has(&p, end, 0) < 0)
                        return "a '[' is not closed, or a range runs backwards";
        }
        return NULL;
}

static bool part_is_literal(const GlobPart *part) {
        for (size_t i = 0; i < part->n; i++)
                if (strchr("*?[", part->text[i]))
                        return false;
        return true;
}

/* The leading components without wildcards; never the last one, which names the match itself. */
static char *glob_prefix(const Glob *g) {
        size_t n = 0;

        for (size_t i = 0; i + 1 < g->n_parts && part_is_literal(&g->parts[i]); i++)
                n = (size_t) (g->parts[i].text - g->text) + g->parts[i].n;
        return strndup(g->text, n);
}

static int glob_init(Glob *g, const char *text, Failure *reterr) {
        size_t n = strlen(text), n_parts = 1;
        const char *fault = NULL, *p;

        if (n == 0)
                fault = "it is empty";
        else if (text[0] == '/')
                fault = "it must be relative to the service's Path";
        else if (n > GLOB_BYTES_MAX)
                fault = "it is too long";
        for (size_t i = 0; i < n; i++)
                n_parts += text[i] == '/';
        if (!fault && n_parts > GLOB_PARTS_MAX)
                fault = "it has too many components";
        if (!fault) {
                g->text = strdup(text);
                g->parts = calloc(n_parts, sizeof(*g->parts));
                if (!g->text || !g->parts)
                        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "Exclude=");
                p = g->text;
                for (size_t i = 0; i < n_parts && !fault; i++) {
                        size_t part = strcspn(p, "/");

                        fault = part_fault(p, part);
                        g->parts[i] = (GlobPart){
                                .text = p,
                                .n = part,
                                .any = part == 2 && memcmp(p, "**", 2) == 0,
                        };
                        p += part + 1;
                }
        }
        if (fault) {
                _cleanup_free_ char *shown = text_escape(text);

                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                                "'%.400s' is not a usable glob: %s", shown ? shown : "?", fault);
        }
        g->n_parts = n_parts;
        g->prefix = glob_prefix(g);
        return g->prefix ? 0 : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "Exclude=");
}

int globs_new(const char *const *texts, size_t n, Globs **ret, Failure *reterr) {
        _cleanup_(globs_freep) Globs *rules = calloc(1, sizeof(*rules));
        int r;

        if (!rules || !(rules->globs = calloc(n ? n : 1, sizeof(*rules->globs))))
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "Exclude=");
        for (; rules->n < n; rules->n++) {
                r = glob_init(&rules->globs[rules->n], texts[rules->n], reterr);
                if (r < 0) {
                        rules->n++; /* the half-made one is freed too */
                        return r;
                }
        }
        *ret = TAKE_PTR(rules);
        return 0;
}

void globs_free(Globs *rules) {
        if (!rules)
                return;
        for (size_t i = 0; rules->globs && i < rules->n; i++) {
                free(rules->globs[i].text);
                free(rules->globs[i].prefix);
                free(rules->globs[i].parts);
        }
        free(rules->globs);
        free(rules);
}

bool globs_exclude(const Globs *rules, const char *path) {
        for (size_t i = 0; rules && i < rules->n; i++)
                if (glob_matches(&rules->globs[i], path))
                        return true;
        return false;
}

const char *globs_prefix(const Globs *rules, size_t i) {
        return rules && i < rules->n ? rules->globs[i].prefix : NULL;
}
