#include "cli/output.h"

#include <errno.h>
#include <libsmartcols.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "base/clock.h"
#include "base/text.h"
#include "cli/fields.h"

/*
 * Descriptions, names and messages were written by somebody else, perhaps long ago and elsewhere;
 * every one of them passes output_clean() on its way to a terminal. JSON is exact and needs none:
 * json-c writes control characters as \u escapes.
 */

#define BAR_WIDTH 20

struct OutputTable {
        struct libscols_table *table;
        size_t n;
};

int output_table_new(const OutputColumn *columns, size_t n, OutputTable **ret) {
        _cleanup_(output_table_freep) OutputTable *t = calloc(1, sizeof(*t));

        if (!t || !(t->table = scols_new_table()))
                return -ENOMEM;
        t->n = n;
        for (size_t i = 0; i < n; i++) {
                int flags = (columns[i].right ? SCOLS_FL_RIGHT : 0) |
                            (columns[i].cut > 0 ? SCOLS_FL_TRUNC : 0);

                if (!scols_table_new_column(t->table, columns[i].title, columns[i].cut, flags))
                        return -ENOMEM;
        }
        *ret = TAKE_PTR(t);
        return 0;
}

int output_table_add(OutputTable *t, const char *const *cells) {
        struct libscols_line *line = scols_table_new_line(t->table, NULL);

        if (!line)
                return -ENOMEM;
        for (size_t i = 0; i < t->n; i++) {
                char *text = output_clean(cells[i] && *cells[i] ? cells[i] : "-");

                if (!text)
                        return -ENOMEM;
                if (scols_line_refer_data(line, i, text) < 0) {
                        free(text);
                        return -ENOMEM;
                }
        }
        return 0;
}

int output_table_print(OutputTable *t) {
        return scols_print_table(t->table) < 0 ? -EIO : 0;
}

void output_table_free(OutputTable *t) {
        if (!t)
                return;
        scols_unref_table(t->table);
        free(t);
}

void output_size(uint64_t bytes, char ret[OUTPUT_CELL_MAX]) {
        static const char units[] = "BKMGTPE";
        double v = (double) bytes;
        int i = 0;

        while (v >= 1000 && units[i + 1]) {
                v /= 1024;
                i++;
        }
        (void) snprintf(ret, OUTPUT_CELL_MAX, i == 0 || v >= 99.95 ? "%.0f%c" : "%.1f%c", v,
                        units[i]);
}

void output_duration(uint64_t usec, char ret[OUTPUT_CELL_MAX]) {
        uint64_t seconds = usec / USEC_PER_SEC;

        if (usec == 0)
                (void) snprintf(ret, OUTPUT_CELL_MAX, "0");
        else if (usec < USEC_PER_SEC)
                (void) snprintf(ret, OUTPUT_CELL_MAX, "%.1f ms", (double) usec / 1000.0);
        else if (seconds < 60)
                (void) snprintf(ret, OUTPUT_CELL_MAX, "%.1f s", (double) usec / 1e6);
        else if (seconds < 3600)
                (void) snprintf(ret, OUTPUT_CELL_MAX, "%u:%02u min", (unsigned) (seconds / 60),
                                (unsigned) (seconds % 60));
        else if (seconds < 48 * 3600)
                (void) snprintf(ret, OUTPUT_CELL_MAX, "%u:%02u h", (unsigned) (seconds / 3600),
                                (unsigned) (seconds / 60 % 60));
        else
                (void) snprintf(ret, OUTPUT_CELL_MAX, "%u days", (unsigned) (seconds / 86400));
}

void output_time(const char *rfc3339, char ret[OUTPUT_CELL_MAX]) {
        uint64_t usec;
        struct tm tm;
        time_t t;

        (void) snprintf(ret, OUTPUT_CELL_MAX, "%s", rfc3339);
        if (!isatty(STDOUT_FILENO) || clock_parse(rfc3339, &usec) < 0)
                return;
        t = (time_t) (usec / USEC_PER_SEC);
        if (localtime_r(&t, &tm))
                (void) strftime(ret, OUTPUT_CELL_MAX, "%Y-%m-%d %H:%M", &tm);
}

void output_id(const char *id, char ret[64]) {
        (void) snprintf(ret, 64, isatty(STDOUT_FILENO) ? "%.8s" : "%s", id);
}

char *output_clean(const char *text) {
        char *copy = strdup(text);

        for (unsigned char *p = (unsigned char *) copy; p && *p; p++) {
                if (*p < 0x20 || *p == 0x7f)
                        *p = '?';
                else if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0) /* C1 controls in UTF-8 */
                        *p = p[1] = '?';
        }
        return copy;
}

char *output_join(json_object *list) {
        char *text = strdup("");
        size_t n = list ? json_object_array_length(list) : 0;

        for (size_t i = 0; text && i < n; i++) {
                const char *item = json_object_get_string(json_object_array_get_idx(list, i));
                char *longer = text_printf("%s%s%s", text, i > 0 ? " " : "", item ? item : "");

                free(text);
                text = longer;
        }
        return text;
}

__attribute__((format(printf, 2, 0))) static void
write_line(FILE *f, const char *format, va_list ap) {
        _cleanup_free_ char *text = NULL, *clean = NULL;

        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        clean = text ? output_clean(text) : NULL;
        (void) fprintf(f, "%s\n", clean ? clean : "out of memory"); /* main() looks at the stream */
}

void output_line(const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        write_line(stdout, format, ap);
        va_end(ap);
}

void output_note(const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        write_line(stderr, format, ap);
        va_end(ap);
}

void output_member(const char *key, json_object *value) {
        _cleanup_free_ char *joined =
                json_object_is_type(value, json_type_array) ? output_join(value) : NULL;

        output_line("%-22s %s", key, joined ? joined : json_object_get_string(value));
}

void output_json(json_object *o) {
        (void) printf("%s\n", json_text(o)); /* main() looks at the stream */
        (void) fflush(stdout);               /* monitor's readers want each line at once */
}

static unsigned terminal_width(void) {
        struct winsize size;

        return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

static void draw_bar(json_object *job, const char *phase) {
        char bar[BAR_WIDTH + 1], rate[OUTPUT_CELL_MAX] = "", left[OUTPUT_CELL_MAX] = "", line[256];
        double progress = field_double(job, "progress");
        uint64_t end = field_u64(job, "expected_end_usec"), now = clock_realtime_usec();
        int full;

        progress = progress < 0 ? 0 : progress > 1 ? 1 : progress;
        full = (int) (progress * BAR_WIDTH);
        for (int i = 0; i < BAR_WIDTH; i++)
                bar[i] = i < full ? '#' : '.';
        bar[BAR_WIDTH] = 0;
        if (field_u64(job, "rate") > 0)
                output_size(field_u64(job, "rate"), rate);
        if (end > now && end - now < 7 * 24 * 3600 * USEC_PER_SEC)
                output_duration(end - now, left);
        (void) snprintf(line, sizeof(line), "[%s] %3d%%  %s%s%s%s%s%s", bar, (int) (progress * 100),
                        phase, *rate ? "  " : "", rate, *rate ? "/s" : "", *left ? "  left " : "",
                        left);
        (void) fprintf(stderr, "\r\033[K%.*s", (int) terminal_width() - 1, line);
        (void) fflush(stderr);
}

void output_progress(OutputProgress *p, json_object *job) {
        const char *state = field_text(job, "state"), *phase = field_text(job, "phase");
        _cleanup_free_ char *clean = output_clean(*phase ? phase : state);

        if (!clean)
                return; /* a missing bar is no failure */
        if (isatty(STDERR_FILENO)) {
                draw_bar(job, clean);
                p->shown = true;
        } else if (!p->quiet && strncmp(p->phase, clean, sizeof(p->phase) - 1) != 0) {
                (void) fprintf(stderr, "%s\n", clean);
        }
        (void) snprintf(p->phase, sizeof(p->phase), "%s", clean);
}

void output_progress_end(OutputProgress *p) {
        if (p->shown)
                (void) fputs("\r\033[K", stderr);
        p->shown = false;
}
