/*
 * The journal takes entries of many fields, and a field may stand in one more than once: a line
 * about three services is found under each of their names.
 *
 * Who may write to the journal may write any field but those that begin with an underscore. The
 * fields here are for finding lines; `_UID` and `_SYSTEMD_UNIT` say whose they are.
 */

#define SD_JOURNAL_SUPPRESS_LOCATION /* it would always be this file */

#include "base/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/names.h"
#include "base/text.h"

#define TEXT_MAX     2048
#define SERVICES_MAX 64 /* of a line; more have the line of the whole job alone */
#define FIELDS_MAX   (SERVICES_MAX + 20)

/* The one mutable file-scope state beside the LVM handle: a process has one log. */
static struct {
        const char *program;
        int max_level;
        bool journal;
        uint32_t job;
        char task[UUID_TEXT_MAX];
        char backup[UUID_TEXT_MAX];
        char restore[UUID_TEXT_MAX];
        char phase[32];
        char *services[SERVICES_MAX];
        size_t n_services;
} log_state = { .program = "holdpoint", .max_level = LOG_INFO };

static const struct {
        const char *id;
        int level;
} messages[] = { [MESSAGE_NONE] = { "", LOG_INFO },
#define X(name, id, level) [name] = { id, level },
                 MESSAGES(X)
#undef X
};

/* ---- fields of all lines ---- */

static void copy_text(char *to, size_t n, const char *from) {
        (void) snprintf(to, n, "%s", from ? from : "");
}

/* Without memory a field is missing; the line is not. */
static void add_service(const char *name, size_t length) {
        char *copy = log_state.n_services < SERVICES_MAX ? strndup(name, length) : NULL;

        if (copy)
                log_state.services[log_state.n_services++] = copy;
}

static void forget_services(void) {
        while (log_state.n_services > 0)
                free(log_state.services[--log_state.n_services]);
}

void log_set_context(const LogFields *c) {
        static const LogFields none = { 0 };

        if (!c)
                c = &none;
        log_state.job = c->job;
        copy_text(log_state.task, sizeof(log_state.task), c->task);
        copy_text(log_state.backup, sizeof(log_state.backup), c->backup);
        copy_text(log_state.restore, sizeof(log_state.restore), c->restore);
        copy_text(log_state.phase, sizeof(log_state.phase), c->phase);
        forget_services();
        if (c->service)
                add_service(c->service, strlen(c->service));
        for (size_t i = 0; i < c->n_services; i++)
                add_service(c->services[i], strlen(c->services[i]));
}

void log_set_phase(const char *phase) {
        copy_text(log_state.phase, sizeof(log_state.phase), phase);
}

/* ---- from one program to the next ---- */

static char *joined_services(void) {
        char *text = strdup("");

        for (size_t i = 0; text && i < log_state.n_services; i++) {
                char *longer = text_printf("%s%s%s", text, i > 0 ? "," : "", log_state.services[i]);

                free(text);
                text = longer;
        }
        return text;
}

size_t log_env(char *ret[LOG_ENV_MAX]) {
        _cleanup_free_ char *services = joined_services(),
                            *job = text_printf("%" PRIu32, log_state.job);
        const struct {
                const char *name, *value;
        } all[LOG_ENV_MAX] = {
                { HP_ENV_JOURNAL, getenv(HP_ENV_JOURNAL) },
                { HP_ENV_DEBUG, getenv(HP_ENV_DEBUG) },
                { HP_FIELD_JOB, log_state.job ? job : NULL },
                { HP_FIELD_TASK, log_state.task },
                { HP_FIELD_BACKUP, log_state.backup },
                { HP_FIELD_RESTORE, log_state.restore },
                { HP_FIELD_SERVICE, services },
                { HP_FIELD_PHASE, log_state.phase },
        };
        size_t n = 0;

        for (size_t i = 0; i < LOG_ENV_MAX; i++)
                if (all[i].value && *all[i].value &&
                    (ret[n] = text_printf("%s=%s", all[i].name, all[i].value)))
                        n++;
        return n;
}

static void take_env(void) {
        const char *job = getenv(HP_FIELD_JOB), *service = getenv(HP_FIELD_SERVICE);
        uint64_t number = 0;

        if (job && text_to_u64(job, &number) >= 0 && number <= UINT32_MAX)
                log_state.job = (uint32_t) number;
        copy_text(log_state.task, sizeof(log_state.task), getenv(HP_FIELD_TASK));
        copy_text(log_state.backup, sizeof(log_state.backup), getenv(HP_FIELD_BACKUP));
        copy_text(log_state.restore, sizeof(log_state.restore), getenv(HP_FIELD_RESTORE));
        copy_text(log_state.phase, sizeof(log_state.phase), getenv(HP_FIELD_PHASE));
        while (service && *service) {
                size_t n = strcspn(service, ",");

                add_service(service, n);
                service += n + (service[n] == ',');
        }
}

void log_open(const char *program) {
        const char *debug = getenv(HP_ENV_DEBUG);

        log_state.program = program;
        /* systemd sets JOURNAL_STREAM for its services; elsewhere stderr is where people look. */
        log_state.journal = getenv(HP_ENV_JOURNAL) != NULL;
        if (debug && strcmp(debug, "0") != 0)
                log_state.max_level = LOG_DEBUG;
        take_env();
}

void log_limit(int max_level) {
        log_state.max_level = max_level;
}

/* ---- one line ---- */

typedef struct Entry {
        struct iovec fields[FIELDS_MAX];
        int n;
} Entry;

static void entry_done(Entry *e) {
        for (int i = 0; i < e->n; i++)
                free(e->fields[i].iov_base);
}

static void put_text(Entry *e, const char *name, const char *value) {
        _cleanup_free_ char *clean = value && *value ? text_defuse(value) : NULL;
        char *field = clean && e->n < FIELDS_MAX ? text_printf("%s=%s", name, clean) : NULL;

        if (field)
                e->fields[e->n++] = (struct iovec){ field, strlen(field) };
}

static void put_number(Entry *e, const char *name, uint64_t value) {
        char text[24];

        (void) snprintf(text, sizeof(text), "%" PRIu64, value);
        put_text(e, name, text);
}

/* What the line says itself goes before what all lines of the job say. */
static const char *either(const char *own, const char *context) {
        return own ? own : context;
}

static void put_services(Entry *e, const LogFields *f) {
        put_text(e, HP_FIELD_SERVICE, f->service);
        for (size_t i = 0; i < f->n_services && i < SERVICES_MAX; i++)
                put_text(e, HP_FIELD_SERVICE, f->services[i]);
        for (size_t i = 0; !f->service && f->n_services == 0 && i < log_state.n_services; i++)
                put_text(e, HP_FIELD_SERVICE, log_state.services[i]);
}

static void put_fields(Entry *e, const LogFields *f) {
        uint32_t job = f->job ? f->job : log_state.job;

        if (job)
                put_number(e, HP_FIELD_JOB, job);
        put_text(e, HP_FIELD_TASK, either(f->task, log_state.task));
        put_text(e, HP_FIELD_BACKUP, either(f->backup, log_state.backup));
        put_text(e, HP_FIELD_RESTORE, either(f->restore, log_state.restore));
        put_services(e, f);
        put_text(e, HP_FIELD_PHASE, either(f->phase, log_state.phase));
        put_text(e, HP_FIELD_RESULT, f->result);
        put_text(e, HP_FIELD_ERROR, f->error);
        put_text(e, HP_FIELD_METHOD, f->method);
        put_text(e, HP_FIELD_ACTION, f->action);
        if (f->uid)
                put_number(e, HP_FIELD_CALLER_UID, *f->uid);
        if (f->pause_usec)
                put_number(e, HP_FIELD_PAUSE, *f->pause_usec);
        if (f->bytes)
                put_number(e, HP_FIELD_BYTES, *f->bytes);
}

static void write_stderr(int level, const LogFields *f, const char *text) {
        uint32_t job = f->job ? f->job : log_state.job;

        if (job)
                (void) fprintf(stderr, "<%d>%s: job %u: %s\n", level, log_state.program, job, text);
        else
                (void) fprintf(stderr, "<%d>%s: %s\n", level, log_state.program, text);
}

static int write_journal(int level, Message message, const LogFields *f, const char *text) {
        _cleanup_(entry_done) Entry e = { .n = 0 };

        put_text(&e, "MESSAGE", text);
        if (e.n == 0)
                return -1;
        put_number(&e, "PRIORITY", (uint64_t) level);
        put_text(&e, "SYSLOG_IDENTIFIER", log_state.program);
        put_text(&e, "MESSAGE_ID", messages[message].id);
        put_fields(&e, f);
        return sd_journal_sendv(e.fields, e.n);
}

__attribute__((format(printf, 4, 0))) static void
write_line(int level, Message message, const LogFields *fields, const char *format, va_list ap) {
        static const LogFields none = { 0 };
        const LogFields *f = fields ? fields : &none;
        _cleanup_free_ char *clean = NULL;
        char text[TEXT_MAX];

        if (level > log_state.max_level)
                return;
        (void) vsnprintf(text, sizeof(text), format, ap);
        clean = text_defuse(text);
        if (!clean)
                return; /* no memory for a line */
        if (!log_state.journal || write_journal(level, message, f, clean) < 0)
                write_stderr(level, f, clean);
}

void log_fields(int level, const LogFields *fields, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        write_line(level, MESSAGE_NONE, fields, format, ap);
        va_end(ap);
}

void log_message(Message message, const LogFields *fields, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        write_line(messages[message].level, message, fields, format, ap);
        va_end(ap);
}
