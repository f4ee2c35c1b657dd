#include "base/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/text.h"

/*
 * libinih is lenient: it takes "key: value", cuts section names at the first bracket, splits long
 * lines and goes on after errors. A backup that quietly reads less than was written is worse than
 * none, so the lines are judged by our reader before the library sees them; the library then splits
 * what is known to be well formed. It tells its handler no line number either: the reader counts.
 */
typedef struct SettingsRun {
        const char *text, *end;
        const char *label;
        unsigned line;
        const SettingsTable *table;
        bool *seen; /* per rule: set in this file */
        bool in_section;
        void *target;
        Failure *reterr;
        int result;
} SettingsRun;

#define BLANKS " \t"

__attribute__((format(printf, 2, 3))) static void
run_refuse(SettingsRun *run, const char *format, ...) {
        _cleanup_free_ char *text = NULL;
        va_list ap;

        if (run->result < 0)
                return;
        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        va_end(ap);
        run->result = fail_set(run->reterr, FAIL_CONFIGURATION_INVALID, text ? EINVAL : ENOMEM,
                               "%s:%u: %s", run->label, run->line, text ? text : "out of memory");
}

int settings_refuse(const SettingsValue *v, Failure *reterr, const char *format, ...) {
        _cleanup_free_ char *text = NULL, *value = text_escape(v->text);
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        va_end(ap);
        if (!text || !value)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL, "%s:%u: %s=%.200s: %s", v->file,
                        v->line, v->rule->key, value, text);
}

/* "[A] [B]" or, with a section, "X= Y=": what the table allows. Owned, NULL if out of memory. */
static char *allowed_names(const SettingsTable *table, const char *section) {
        char *names = strdup("");

        for (size_t i = 0; names && i < table->n; i++) {
                const SettingsRule *rule = &table->rules[i];
                char *longer;

                if (section && strcmp(rule->section, section) != 0)
                        continue;
                if (!section && i > 0 && strcmp(rule->section, table->rules[i - 1].section) == 0)
                        continue;
                longer = section ? text_printf("%s %s=", names, rule->key)
                                 : text_printf("%s [%s]", names, rule->section);
                free(names);
                names = longer;
        }
        return names;
}

static bool section_is_known(const SettingsTable *table, const char *name, size_t n) {
        for (size_t i = 0; i < table->n; i++)
                if (strlen(table->rules[i].section) == n &&
                    memcmp(table->rules[i].section, name, n) == 0)
                        return true;
        return false;
}

static void check_section(SettingsRun *run, const char *line) {
        const char *close = strchr(line, ']');
        _cleanup_free_ char *allowed = NULL;

        if (!close || close[1]) {
                run_refuse(run, "'%s' is not a section; write [Name] and nothing after it", line);
                return;
        }
        if (section_is_known(run->table, line + 1, (size_t) (close - line - 1))) {
                run->in_section = true;
                return;
        }
        allowed = allowed_names(run->table, NULL);
        run_refuse(run, "unknown section %s; allowed here:%s", line, allowed ? allowed : "");
}

static void check_line(SettingsRun *run, const char *line) {
        const char *stop = strpbrk(line, "=:");

        if (line[0] == 0 || line[0] == '#' || line[0] == ';')
                return;
        if (line[0] == '[')
                check_section(run, line);
        else if (!stop || *stop != '=' || stop == line)
                run_refuse(run, "'%.100s' is not Key=Value, a [Section] or a # comment", line);
        else if (!run->in_section)
                run_refuse(run, "'%.100s' stands before the first [Section]", line);
}

/* The fgets of libinih: one whole, checked line without leading blanks, or NULL at the end. */
static char *read_line(char *buffer, int size, void *stream) {
        SettingsRun *run = stream;
        const char *newline;
        size_t n;

        if (run->result < 0 || run->text == run->end)
                return NULL;
        run->line++;
        newline = memchr(run->text, '\n', (size_t) (run->end - run->text));
        n = (size_t) ((newline ? newline : run->end) - run->text);
        if (n + 2 > (size_t) size) {
                run_refuse(run, "the line is longer than %d bytes", size - 2);
                return NULL;
        }
        if (memchr(run->text, 0, n)) {
                run_refuse(run, "a zero byte in the line; the file must be text");
                return NULL;
        }
        memcpy(buffer, run->text, n);
        buffer[n] = 0;
        run->text += n + (newline ? 1 : 0);

        while (n > 0 && strchr(BLANKS "\r", buffer[n - 1]))
                buffer[--n] = 0;
        /* An indented line would be taken as a continuation. */
        memmove(buffer, buffer + strspn(buffer, BLANKS), n - strspn(buffer, BLANKS) + 1);
        for (char *p = buffer; *p; p++)
                if (*p == '\t')
                        *p = ' ';
        if (!text_is_label(buffer, SETTINGS_LINE_MAX))
                run_refuse(run, "the line holds control characters or is not UTF-8");
        else
                check_line(run, buffer);
        if (run->result < 0)
                return NULL;
        (void) strcat(buffer, "\n"); /* room for it was checked above */
        return buffer;
}

static int handle_value(void *userdata, const char *section, const char *key, const char *text) {
        SettingsRun *run = userdata;
        _cleanup_free_ char *allowed = NULL;

        if (run->result < 0)
                return 0;
        for (size_t i = 0; i < run->table->n; i++) {
                const SettingsRule *rule = &run->table->rules[i];
                SettingsValue v = { rule, run->label, run->line, text };

                if (strcmp(rule->section, section) != 0 || strcmp(rule->key, key) != 0)
                        continue;
                if (run->seen[i] && !rule->repeatable) {
                        run_refuse(run, "%s= is set a second time in this file; once is allowed",
                                   key);
                        return 0;
                }
                run->seen[i] = true;
                run->result = rule->parse(&v, (char *) run->target + rule->offset, run->reterr);
                return run->result >= 0;
        }
        allowed = allowed_names(run->table, section);
        run_refuse(run, "unknown key %s= in [%s]; allowed:%s", key, section,
                   allowed ? allowed : "");
        return 0;
}

int settings_parse(const char *text,
                   size_t n,
                   const char *label,
                   const SettingsTable *table,
                   void *target,
                   Failure *reterr) {
        _cleanup_free_ bool *seen = calloc(table->n + 1, sizeof(bool));
        SettingsRun run = { .text = text,
                            .end = text + n,
                            .label = label,
                            .table = table,
                            .seen = seen,
                            .target = target,
                            .reterr = reterr };
        int r;

        if (!seen)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");

        /* The library's knobs, always to the same values: whole lines of our length, no comment
         * after a value (a ';' may be part of a path), no continuation, no forgiving of a BOM. */
        ini_use_stack = false;
        ini_max_line = ini_initial_alloc = SETTINGS_LINE_MAX;
        ini_allow_inline_comments = false;
        ini_allow_multiline = false;
        ini_allow_bom = false;

        r = ini_parse_stream(read_line, &run, handle_value, &run);
        if (run.result < 0)
                return run.result;
        if (r == -2)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        if (r != 0)
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL, "%s:%d: not understood",
                                label, r);
        return 0;
}

static int check_owner(const struct stat *st, const char *label, Failure *reterr) {
        if (st->st_uid != 0 && st->st_uid != geteuid())
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EPERM,
                                "%s: belongs to uid %u; it must be root's (chown root)", label,
                                st->st_uid);
        if (st->st_mode & (S_IWGRP | S_IWOTH))
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EPERM,
                                "%s: is writable by others than its owner (chmod go-w)", label);
        return 0;
}

int settings_check_dir(int fd, const char *label, Failure *reterr) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return fail_errno(reterr, FAIL_CONFIGURATION_INVALID, errno, "%s", label);
        return check_owner(&st, label, reterr);
}

int settings_load(int dirfd,
                  const char *name,
                  const char *label,
                  const SettingsTable *table,
                  void *target,
                  Failure *reterr) {
        _cleanup_close_ int fd = -1;
        _cleanup_free_ char *text = NULL;
        struct stat st;
        ssize_t n;
        int r;

        /* O_NONBLOCK: a FIFO put here must not stop the program before it is refused. */
        fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0 && errno == ENOENT && faccessat(dirfd, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                return -ENOENT;
        if (fd < 0 || fstat(fd, &st) < 0)
                return fail_errno(reterr, FAIL_CONFIGURATION_INVALID, errno, "%s: cannot be read",
                                  label);
        if (!S_ISREG(st.st_mode))
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                                "%s: is not a regular file", label);
        r = check_owner(&st, label, reterr);
        if (r < 0)
                return r;

        text = malloc(SETTINGS_FILE_MAX + 1);
        if (!text)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        n = fd_read_full(fd, text, SETTINGS_FILE_MAX + 1);
        if (n < 0)
                return fail_errno(reterr, FAIL_CONFIGURATION_INVALID, (int) -n,
                                  "%s: cannot be read", label);
        if ((size_t) n > SETTINGS_FILE_MAX)
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EFBIG,
                                "%s: is larger than %zu bytes", label, SETTINGS_FILE_MAX);
        return settings_parse(text, (size_t) n, label, table, target, reterr);
}

int settings_parse_u32(const SettingsValue *v, void *target, Failure *reterr) {
        uint64_t n;

        if (text_to_u64(v->text, &n) < 0 || n < v->rule->min || n > v->rule->max)
                return settings_refuse(v, reterr, "must be a whole number from %llu to %llu",
                                       (unsigned long long) v->rule->min,
                                       (unsigned long long) v->rule->max);
        *(uint32_t *) target = (uint32_t) n;
        return 0;
}

int settings_parse_word(const SettingsValue *v, void *target, Failure *reterr) {
        _cleanup_free_ char *allowed = strdup("");

        for (int i = 0; v->rule->words[i]; i++) {
                char *longer;

                if (strcmp(v->rule->words[i], v->text) == 0) {
                        *(int *) target = i;
                        return 0;
                }
                longer = text_printf("%s%s%s", allowed ? allowed : "", i > 0 ? ", " : "",
                                     v->rule->words[i]);
                free(allowed);
                allowed = longer;
        }
        return settings_refuse(v, reterr, "allowed: %s", allowed ? allowed : "other words");
}

int settings_parse_string(const SettingsValue *v, void *target, Failure *reterr) {
        char *copy;

        if (!text_is_label(v->text, 255))
                return settings_refuse(v, reterr, "must be at most 255 bytes of text");
        copy = strdup(v->text);
        if (!copy)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        free(*(char **) target);
        *(char **) target = copy;
        return 0;
}

static int check_path(const SettingsValue *v, Failure *reterr) {
        if (v->text[0] != '/')
                return settings_refuse(v, reterr, "must be an absolute path");
        if (!text_is_clean_path(v->text))
                return settings_refuse(
                        v, reterr,
                        "must be without '.', '..', doubled slashes and a slash at the end");
        if (strlen(v->text) >= 4096)
                return settings_refuse(v, reterr, "must be shorter than 4096 bytes");
        return 0;
}

int settings_parse_path(const SettingsValue *v, void *target, Failure *reterr) {
        SettingsItem *item = target;
        char *copy;
        int r = check_path(v, reterr);

        if (r < 0)
                return r;
        copy = strdup(v->text);
        if (!copy)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        settings_item_done(item);
        *item = (SettingsItem){ copy, v->line };
        return 0;
}

int settings_parse_list(const SettingsValue *v, void *target, Failure *reterr) {
        SettingsList *list = target;
        SettingsItem *items;
        char *copy;

        if (list->n >= SETTINGS_LIST_MAX)
                return settings_refuse(v, reterr, "more than %d of these are not allowed",
                                       SETTINGS_LIST_MAX);
        items = reallocarray(list->items, list->n + 1, sizeof(*items));
        if (!items)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        list->items = items;
        copy = strdup(v->text);
        if (!copy)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        list->items[list->n++] = (SettingsItem){ copy, v->line };
        return 0;
}

int settings_parse_path_list(const SettingsValue *v, void *target, Failure *reterr) {
        int r = check_path(v, reterr);

        return r < 0 ? r : settings_parse_list(v, target, reterr);
}

void settings_item_done(SettingsItem *i) {
        free(i->text);
        *i = (SettingsItem){ 0 };
}

void settings_list_done(SettingsList *l) {
        for (size_t i = 0; i < l->n; i++)
                free(l->items[i].text);
        free(l->items);
        *l = (SettingsList){ 0 };
}
