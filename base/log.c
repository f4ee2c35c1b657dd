#include "base/log.h"

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

/* The one mutable file-scope state beside the LVM handle: a process has one log. */
static struct {
        const char *program;
        int max_level;
        bool journal;
        uint32_t job;
        char backup[UUID_TEXT_MAX];
        char service[64];
        char phase[32];
} log_state = { .program = "holdpoint", .max_level = LOG_INFO };

void log_open(const char *program) {
        const char *debug = getenv("HOLDPOINT_DEBUG");

        log_state.program = program;
        /* systemd sets JOURNAL_STREAM for its services; elsewhere stderr is where people look. */
        log_state.journal = getenv("JOURNAL_STREAM") != NULL;
        if (debug && strcmp(debug, "0") != 0)
                log_state.max_level = LOG_DEBUG;
}

static void copy_text(char *to, size_t n, const char *from) {
        (void) snprintf(to, n, "%s", from ? from : "");
}

void log_set_context(const LogContext *c) {
        static const LogContext none = { 0 };

        if (!c)
                c = &none;
        log_state.job = c->job;
        copy_text(log_state.backup, sizeof(log_state.backup), c->backup);
        copy_text(log_state.service, sizeof(log_state.service), c->service);
        copy_text(log_state.phase, sizeof(log_state.phase), c->phase);
}

static void write_stderr(int level, const char *text) {
        if (log_state.job)
                (void) fprintf(stderr, "<%d>%s: job %u: %s\n", level, log_state.program,
                               log_state.job, text);
        else
                (void) fprintf(stderr, "<%d>%s: %s\n", level, log_state.program, text);
}

static void write_journal(int level, const char *text) {
        char fields[6][128];
        struct iovec iov[8];
        int n = 0, f = 0;
        _cleanup_free_ char *message = text_printf("MESSAGE=%s", text);

        if (!message) {
                write_stderr(level, text);
                return;
        }
        iov[n++] = (struct iovec){ message, strlen(message) };
        (void) snprintf(fields[f++], sizeof(fields[0]), "PRIORITY=%d", level);
        (void) snprintf(fields[f++], sizeof(fields[0]), "SYSLOG_IDENTIFIER=%s", log_state.program);
        if (log_state.job)
                (void) snprintf(fields[f++], sizeof(fields[0]), HP_FIELD_JOB "=%u", log_state.job);
        if (*log_state.backup)
                (void) snprintf(fields[f++], sizeof(fields[0]), HP_FIELD_BACKUP "=%s",
                                log_state.backup);
        if (*log_state.service)
                (void) snprintf(fields[f++], sizeof(fields[0]), HP_FIELD_SERVICE "=%s",
                                log_state.service);
        if (*log_state.phase)
                (void) snprintf(fields[f++], sizeof(fields[0]), HP_FIELD_PHASE "=%s",
                                log_state.phase);
        for (int i = 0; i < f; i++)
                iov[n++] = (struct iovec){ fields[i], strlen(fields[i]) };
        if (sd_journal_sendv(iov, n) < 0)
                write_stderr(level, text);
}

void log_write(int level, const char *format, ...) {
        char text[2048];
        va_list ap;

        if (level > log_state.max_level)
                return;
        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        for (char *p = text; *p; p++) /* paths are escaped by callers; this is the last guard */
                if ((unsigned char) *p < 0x20 || *p == 0x7f)
                        *p = '?';
        if (log_state.journal)
                write_journal(level, text);
        else
                write_stderr(level, text);
}
