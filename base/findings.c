#include "base/findings.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

#define TEXT_MAX 1200 /* a whole Failure, and what stands before it */

static const char *const severity_names[] = {
        [FINDING_OK] = "ok",
        [FINDING_NOTE] = "note",
        [FINDING_WARNING] = "warning",
        [FINDING_ERROR] = "error",
};

/* Members of the report, and what they count. */
static const char *const count_keys[] = {
        [FINDING_OK] = "ok",
        [FINDING_NOTE] = "notes",
        [FINDING_WARNING] = "warnings",
        [FINDING_ERROR] = "errors",
};

int findings_init(Findings *l) {
        *l = (Findings){ .list = json_object_new_array(), .rest = json_object_new_object() };
        return l->list && l->rest ? 0 : -ENOMEM;
}

void findings_done(Findings *l) {
        json_object_put(l->list);
        json_object_put(l->rest);
        l->list = l->rest = NULL;
}

static json_object *
row_new(FindingSeverity severity, const FindingAbout *about, const char *text, const char *remedy) {
        _cleanup_json_ json_object *row = json_object_new_object();

        if (!row || json_put_string(row, "severity", severity_names[severity]) < 0 ||
            json_put_string(row, "check", about->check) < 0 ||
            json_put_string(row, "service", about->service) < 0 ||
            json_put_path(row, "subject", about->subject ? about->subject : "") < 0 ||
            json_put_path(row, "text", text) < 0 ||
            json_put_path(row, "remedy", remedy ? remedy : "") < 0)
                return NULL;
        return TAKE_PTR(row);
}

static bool has_room(const Findings *l, FindingSeverity severity, size_t more) {
        unsigned part = severity >= FINDING_WARNING ? 1 : 2;

        return json_object_array_length(l->list) < FINDINGS_MAX / part &&
               l->bytes + more <= FINDINGS_BYTES_MAX / part;
}

void findings_add(Findings *l,
                  FindingSeverity severity,
                  const FindingAbout *about,
                  const char *remedy,
                  const char *format,
                  ...) {
        _cleanup_json_ json_object *row = NULL;
        char text[TEXT_MAX];
        size_t n;
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap); /* cut text is still the truth */
        va_end(ap);
        l->counts[severity]++;
        row = row_new(severity, about, text, remedy);
        n = row ? strlen(json_text(row) ?: "") : 0;
        if (n > 0 && !has_room(l, severity, n)) {
                l->left_out++;
                return;
        }
        if (n == 0 || json_object_array_add(l->list, json_object_get(row)) < 0) {
                json_object_put(row);
                row = NULL;
                l->short_of_memory = true;
                return;
        }
        l->bytes += n + 1;
}

static bool is_count(const char *key) {
        for (size_t i = 0; i < ELEMENTSOF(count_keys); i++)
                if (strcmp(key, count_keys[i]) == 0)
                        return true;
        return strcmp(key, "worst") == 0 || strcmp(key, "left_out") == 0 ||
               strcmp(key, "findings") == 0;
}

/* What the report has beside its findings goes over as it is. */
static int take_rest(Findings *l, json_object *report) {
        json_object_object_foreach(report, key, value) {
                if (!is_count(key) && json_put(l->rest, key, json_object_get(value)) < 0)
                        return -ENOMEM;
        }
        return 0;
}

int findings_merge(Findings *l, json_object *report) {
        json_object *rows;
        uint64_t n;

        if (json_get_array(report, "findings", &rows) < 0)
                return -EINVAL;
        for (size_t i = 0; i < ELEMENTSOF(count_keys); i++)
                l->counts[i] += json_get_u64(report, count_keys[i], &n) < 0 ? 0 : n;
        l->left_out += json_get_u64(report, "left_out", &n) < 0 ? 0 : n;
        for (size_t i = 0; i < json_object_array_length(rows); i++) {
                json_object *row = json_object_array_get_idx(rows, i);

                if (json_object_array_add(l->list, json_object_get(row)) < 0) {
                        json_object_put(row);
                        return -ENOMEM;
                }
        }
        return take_rest(l, report);
}

json_object *findings_report(Findings *l) {
        json_object *o = l->rest;
        size_t worst = 0;

        if (l->short_of_memory)
                return NULL;
        for (size_t i = 0; i < ELEMENTSOF(count_keys); i++) {
                worst = l->counts[i] > 0 ? i : worst;
                if (json_put_u64(o, count_keys[i], l->counts[i]) < 0)
                        return NULL;
        }
        if (json_put_string(o, "worst", severity_names[worst]) < 0 ||
            json_put_u64(o, "left_out", l->left_out) < 0 ||
            json_put(o, "findings", json_object_get(l->list)) < 0)
                return NULL;
        return json_object_get(o);
}
