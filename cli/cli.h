#pragma once

/*
 * What the parts of the command line share: the options as typed, the error that ends the program,
 * and the table of verbs. A verb is a function from these to an exit code; it prints its result and
 * leaves printing of errors to main().
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"

typedef struct Client Client;

/* Exit codes that are not an error of base/fail.h. */
enum {
        CLI_EXIT_DONE = 0,
        CLI_EXIT_FAILED = 1,
        CLI_EXIT_USAGE = 2,
        CLI_EXIT_PARTIAL = 3,
        CLI_EXIT_NOT_AUTHORISED = 4,
        CLI_EXIT_NO_SUCH_THING = 5,
        CLI_EXIT_CANCELED = 7,
        CLI_EXIT_NO_AGENT = 9,
};

typedef struct CliError {
        int exit_code;  /* 0: no error */
        char name[128]; /* as on D-Bus, without our own prefix */
        char message[1024];
} CliError;

#define CLI_PATHS_MAX 64

typedef struct CliOptions {
        bool json, yes, no_wait, pinned, allow_partial, dry_run;
        int include_files, enabled; /* -1: not given */
        const char *name, *description, *service, *into, *from, *depth, *type, *status, *key,
                *format, *output, *frequency, *time, *calendar, *state, *backup_id;
        const char *paths[CLI_PATHS_MAX];
        size_t n_paths;
        bool has_level, has_page, has_limit, has_retention;
        uint32_t level, page, limit, retention;
} CliOptions;

#define CLI_OPTIONS_INIT ((CliOptions){ .include_files = -1, .enabled = -1 })

typedef struct Cli {
        CliOptions options;
        char **operands;
        size_t n_operands;
        Client *client;
        CliError error;
        bool printed; /* the one JSON object is out, the error in it */
} Cli;

/* Returns an exit code, or a negative errno with cli->error filled. */
typedef int (*VerbFunction)(Cli *cli);

typedef struct Verb {
        const char *name;
        const char *operands; /* as shown by help */
        size_t min, max;
        const char *options; /* letters of the options it takes, see options.c */
        VerbFunction run;
        const char *help;
} Verb;

int verb_create(Cli *cli);
int verb_list(Cli *cli);
int verb_show(Cli *cli);
int verb_restore(Cli *cli);
int verb_restores(Cli *cli);
int verb_rollback(Cli *cli);
int verb_confirm(Cli *cli);
int verb_delete(Cli *cli);
int verb_pin(Cli *cli);
int verb_unpin(Cli *cli);
int verb_prune(Cli *cli);
int verb_verify(Cli *cli);
int verb_status(Cli *cli);
int verb_jobs(Cli *cli);
int verb_cancel(Cli *cli);
int verb_monitor(Cli *cli);
int verb_files(Cli *cli);
int verb_diff(Cli *cli);
int verb_export(Cli *cli);
int verb_import(Cli *cli);
int verb_key(Cli *cli);
int verb_repository(Cli *cli);
int verb_schedule(Cli *cli);
int verb_doctor(Cli *cli); /* works without a bus: cli->client may be NULL, cli->error says why */

/* Fills `e` (keeping an error that is there) and returns -EINVAL. */
int cli_error(CliError *e, int exit_code, const char *name, const char *format, ...)
        __attribute__((format(printf, 4, 5)));

/* "out of memory" as an error; returns -ENOMEM. */
int cli_oom(CliError *e);

/* Sets exit code and name from an error name of D-Bus or of a job's result, ours with or without
 * prefix. */
void cli_error_from_name(CliError *e, const char *name, const char *message);

/*
 * For verbs that destroy or exchange data: asks `question` on a terminal (default no), is silent
 * with
 * --yes, and refuses without either. 0 to go on; else an error is set.
 */
int cli_confirm(Cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Adds an option of the same type if it was given. */
int cli_put_string(json_object *options, const char *key, const char *value);
