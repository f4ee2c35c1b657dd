#pragma once

/*
 * Log lines with structured fields: to the journal when stderr is connected to it or the journal's
 * socket exists, else to stderr. Library folders log at debug level only; one line per error, at
 * the place that stops passing it on. No secrets, no file contents; control characters are escaped.
 */

#include <stdint.h>
#include <syslog.h>

typedef struct LogContext {
        uint32_t job;       /* 0: none */
        const char *backup; /* NULL: none, as all below */
        const char *service;
        const char *phase;
        const char *result;
} LogContext;

/*
 * Names the program in lines on stderr; `program` is borrowed for ever. HOLDPOINT_DEBUG=1 in the
 * environment shows debug lines too.
 */
void log_open(const char *program);

/* Fields of the running job that all further lines carry; copied. NULL clears them. */
void log_set_context(const LogContext *context);

void log_write(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_write(LOG_ERR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_notice(...)  log_write(LOG_NOTICE, __VA_ARGS__)
#define log_info(...)    log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_write(LOG_DEBUG, __VA_ARGS__)
