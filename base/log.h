#pragma once

/*
 * Log lines with structured fields: to the journal when systemd has connected this program (or
 * whoever started it) to it, else to stderr. Library folders log at debug level only; one line per
 * error, at the place that stops passing it on. No secrets, no file contents; what could drive a
 * terminal, and bytes that are not UTF-8, are written \xHH.
 *
 * A line may wait for the journal: what there is to say of a hold comes after the release.
 */

#include <stddef.h>
#include <stdint.h>
#include <syslog.h>

#include "base/messages.h"

typedef struct LogFields {
        uint32_t job;       /* its number, 0: none */
        const char *task;   /* its id, which no other job ever has; NULL: none, as all below */
        const char *backup; /* ids */
        const char *restore;
        const char *service;         /* or, of several: */
        const char *const *services; /* one field each */
        size_t n_services;
        const char *phase;
        const char *result;
        const char *error;           /* name as in base/fail.h */
        const char *method, *action; /* of a call on the bus, and what polkit was asked for */
        const uint32_t *uid;         /* who calls */
        const uint64_t *pause_usec, *bytes;
} LogFields;

/*
 * Names the program in lines on stderr; `program` is borrowed for ever. HOLDPOINT_DEBUG=1 in the
 * environment shows debug lines too. A program that was started with what log_env() gives begins
 * with those fields.
 */
void log_open(const char *program);

/* Lines above this level are not written. */
void log_limit(int max_level);

/* Of the running job: job, task, backup, restore, services and phase are copied, and all further
 * lines carry them. NULL clears them. */
void log_set_context(const LogFields *context);

/* The phase alone: a literal. */
void log_set_phase(const char *phase);

/*
 * Variables for the environment of a helper that log_open() takes up there. Owned "NAME=value"
 * strings; the number of them.
 */
#define LOG_ENV_MAX 8
size_t log_env(char *ret[LOG_ENV_MAX]);

/* `fields` go before those of the context. May be NULL. */
void log_fields(int level, const LogFields *fields, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

/* With a MESSAGE_ID, at the level that the list says. `fields` as above. */
void log_message(Message message, const LogFields *fields, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

#define log_write(level, ...) log_fields((level), NULL, __VA_ARGS__)
#define log_error(...)        log_write(LOG_ERR, __VA_ARGS__)
#define log_warning(...)      log_write(LOG_WARNING, __VA_ARGS__)
#define log_notice(...)       log_write(LOG_NOTICE, __VA_ARGS__)
#define log_info(...)         log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)        log_write(LOG_DEBUG, __VA_ARGS__)
