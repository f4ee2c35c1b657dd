#include "cli/options.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/names.h"
#include "base/text.h"

/*
 * Every option of D-Bus is the long option of the same name, and a verb takes those of its method:
 * one that it does not know is an error, never ignored, since "restore --path" without the path
 * would replace everything.
 */

typedef enum OptionId {
        OPTION_HELP = 'h',
        OPTION_VERSION = 'V',
        OPTION_JSON = 'j',
        OPTION_YES = 'y',
        OPTION_NO_WAIT = 'W',
        OPTION_NAME = 'n',
        OPTION_DESCRIPTION = 'd',
        OPTION_INCLUDE_FILES = 'I',
        OPTION_NO_INCLUDE_FILES = 'i',
        OPTION_LEVEL = 'c',
        OPTION_PINNED = 'P',
        OPTION_SERVICE = 's',
        OPTION_INTO = 'x',
        OPTION_FROM = 'f',
        OPTION_PARTIAL = 'a',
        OPTION_PATH = 'p',
        OPTION_DEPTH = 'D',
        OPTION_PAGE = 'g',
        OPTION_LIMIT = 'l',
        OPTION_TYPE = 't',
        OPTION_STATUS = 'S',
        OPTION_KEY = 'k',
        OPTION_DRY_RUN = 'r',
        OPTION_FORMAT = 'F',
        OPTION_FREQUENCY = 'q',
        OPTION_TIME = 'T',
        OPTION_CALENDAR = 'C',
        OPTION_RETENTION = 'R',
        OPTION_ENABLED = 'e',
        OPTION_OUTPUT = 'o',
        OPTION_STATE = 'E',
        OPTION_BACKUP_ID = 'B',
} OptionId;

typedef struct OptionInfo {
        OptionId id;
        const char *name, *argument, *help;
        int has_arg;
} OptionInfo;

static const OptionInfo option_table[] = {
        { OPTION_NAME, "name", "NAME", "name of the backup", required_argument },
        { OPTION_DESCRIPTION, "description", "TEXT", "describe the backup", required_argument },
        { OPTION_INCLUDE_FILES, "include-files", "BOOL",
          "back up files beside the databases (default: yes)", optional_argument },
        { OPTION_NO_INCLUDE_FILES, "no-include-files", NULL, "back up the databases alone",
          no_argument },
        { OPTION_LEVEL, "compression-level", "N", "0 (none) to 9", required_argument },
        { OPTION_PINNED, "pinned", NULL, "never remove it by retention", no_argument },
        { OPTION_SERVICE, "service", "SERVICE", "this service only", required_argument },
        { OPTION_PATH, "path", "PATH", "this path only; repeatable", required_argument },
        { OPTION_INTO, "into", "DIR", "extract into DIR and leave the live data alone",
          required_argument },
        { OPTION_FROM, "from", "COPY", "auto, hot or local", required_argument },
        { OPTION_PARTIAL, "allow-partial", NULL, "accept a backup that is only partial",
          no_argument },
        { OPTION_KEY, "key", "FILE", "private key, if it is not on this host", required_argument },
        { OPTION_DEPTH, "depth", "DEPTH", "metadata, data or restore", required_argument },
        { OPTION_TYPE, "type", "TYPE", "full, a service, or all; of jobs: theirs",
          required_argument },
        { OPTION_STATUS, "status", "STATUS", "running, completed, partial, failed, or all",
          required_argument },
        { OPTION_STATE, "state", "STATE", "queued, running, canceling, finished, or all",
          required_argument },
        { OPTION_BACKUP_ID, "backup-id", "ID", "jobs of this backup", required_argument },
        { OPTION_PAGE, "page", "N", "page of the list, from 1", required_argument },
        { OPTION_LIMIT, "limit", "N", "rows of a page, 1 to 500", required_argument },
        { OPTION_FORMAT, "format", "FORMAT", "tar or tar.zst (default: by the name of --output)",
          required_argument },
        { OPTION_OUTPUT, "output", "FILE", "write to FILE (also -o; default: standard output)",
          required_argument },
        { OPTION_FREQUENCY, "frequency", "WORD", "daily, weekly or monthly", required_argument },
        { OPTION_TIME, "time", "HH:MM", "when, with --frequency", required_argument },
        { OPTION_CALENDAR, "calendar", "EXPRESSION", "when, as in systemd.time(7)",
          required_argument },
        { OPTION_RETENTION, "retention-days", "N", "how long its backups are kept",
          required_argument },
        { OPTION_ENABLED, "enabled", "BOOL", "whether it runs by itself (default: yes)",
          required_argument },
        { OPTION_DRY_RUN, "dry-run", NULL, "tell what would be done", no_argument },
        { OPTION_YES, "yes", NULL, "do not ask", no_argument },
        { OPTION_NO_WAIT, "no-wait", NULL, "do not wait for the job to end", no_argument },
        { OPTION_JSON, "json", NULL, "print one JSON object", no_argument },
        { OPTION_HELP, "help", NULL, "show this help", no_argument },
        { OPTION_VERSION, "version", NULL, "show the version", no_argument },
};

static const Verb verb_table[] = {
        { "create", "full|SERVICE", 1, 1, "ndIicPW", verb_create, "back up all services, or one" },
        { "list", "", 0, 0, "tSsgl", verb_list, "list backups, newest first" },
        { "show", "ID", 1, 1, "s", verb_show, "show one backup" },
        { "restore", "ID", 1, 1, "spxfakryW", verb_restore,
          "exchange live data for a backup, or extract it aside" },
        { "files", "ID [PATH]", 1, 2, "sp", verb_files, "list the files of a backup" },
        { "diff", "ID ID", 2, 2, "s", verb_diff, "tell what differs between two backups" },
        { "export", "ID", 1, 1, "spFok", verb_export, "write a backup as a tar archive" },
        { "import", "FILE", 1, 1, "ndW", verb_import, "make a backup of an exported tar archive" },
        { "restores", "", 0, 0, "s", verb_restores, "list restores, newest first" },
        { "rollback", "RESTORE", 1, 1, "yW", verb_rollback,
          "exchange a restore for what it replaced, and back" },
        { "confirm", "RESTORE", 1, 1, "yW", verb_confirm,
          "keep a restore and drop what it replaced" },
        { "verify", "ID", 1, 1, "DskW", verb_verify, "check what is stored of a backup" },
        { "delete", "ID", 1, 1, "yW", verb_delete, "remove a backup" },
        { "pin", "ID", 1, 1, "", verb_pin, "keep a backup from retention" },
        { "unpin", "ID", 1, 1, "", verb_unpin, "leave a backup to retention" },
        { "prune", "", 0, 0, "ryW", verb_prune, "remove what no backup needs" },
        { "jobs", "[JOB]", 0, 1, "EtBgl", verb_jobs, "list jobs, or show one" },
        { "cancel", "JOB", 1, 1, "", verb_cancel, "cancel a job" },
        { "status", "", 0, 0, "", verb_status,
          "state of the agent, the services and the repository" },
        { "doctor", "", 0, 0, "", verb_doctor,
          "look for what is wrong, and tell what to do about it" },
        { "monitor", "", 0, 0, "", verb_monitor, "print what happens, until interrupted" },
        { "key", "export-recovery|prove FILE|forget-private", 1, 2, "oy", verb_key,
          "the private key: copy it, prove the copy, take it off this host" },
        { "schedule", "[list|show|set|run|delete [NAME]]", 0, 2, "qTCRetdyW", verb_schedule,
          "backups by themselves: list, show, set, run or delete schedules" },
        { "repository", "", 0, 0, "", verb_repository, "facts about the repository" },
        { NULL },
};

const Verb *options_verbs(void) {
        return verb_table;
}

static void print_option(const OptionInfo *o) {
        char text[64];

        (void) snprintf(text, sizeof(text), "--%s%s%s%s", o->name,
                        o->has_arg == optional_argument ? "[" : "", o->argument ? "=" : "",
                        o->argument ? o->argument : "");
        (void) printf("  %s%-*s %s\n", text, (int) (28 - strlen(text)),
                      o->has_arg == optional_argument ? "]" : "", o->help);
}

static bool option_fits(const Verb *verb, OptionId id) {
        return id == OPTION_JSON || id == OPTION_HELP || id == OPTION_VERSION ||
               strchr(verb->options, (int) id);
}

void options_print_verb_help(const Verb *verb) {
        (void) printf("holdpoint %s%s%s [OPTION...]\n\n%s\n\n", verb->name,
                      *verb->operands ? " " : "", verb->operands, verb->help);
        for (size_t i = 0; i < ELEMENTSOF(option_table); i++)
                if (option_fits(verb, option_table[i].id))
                        print_option(&option_table[i]);
}

void options_print_help(void) {
        (void) printf("holdpoint VERB [OPTION...]\n\nBack up services while they run.\n\n");
        for (const Verb *v = verb_table; v->name; v++)
                (void) printf("  %-10s %-13s %s\n", v->name,
                              strlen(v->operands) > 13 ? "..." : v->operands, v->help);
        (void) printf("\nEvery verb takes --json, and --help for its own options.\n"
                      "ID and RESTORE may be shortened while they fit one, or be 'latest'.\n"
                      "Exit codes: 0 done, 1 failed, 2 usage, 3 partial, 4 not authorised, 5 no "
                      "such thing,\n"
                      "6 busy, 7 canceled, 8 integrity failure, 9 agent not reachable. See "
                      "holdpoint(1).\n");
}

__attribute__((format(printf, 2, 3))) static int usage_error(Cli *cli, const char *format, ...) {
        char text[512];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap); /* cut text is still the truth */
        va_end(ap);
        return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                         "%s; see 'holdpoint --help'", text);
}

static int parse_number(Cli *cli,
                        const char *option,
                        const char *text,
                        uint64_t min,
                        uint64_t max,
                        uint32_t *ret) {
        uint64_t n;

        if (text_to_u64(text, &n) < 0 || n < min || n > max)
                return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                                 "--%s takes a whole number from %llu to %llu, not '%s'", option,
                                 (unsigned long long) min, (unsigned long long) max, text);
        *ret = (uint32_t) n;
        return 0;
}

static int parse_bool(Cli *cli, const char *option, const char *text, int *ret) {
        static const char *const words[] = { "no", "yes", "false", "true", "0", "1", "off", "on" };

        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (strcmp(words[i], text) == 0) {
                        *ret = (int) (i % 2);
                        return 0;
                }
        return usage_error(cli, "--%s takes yes or no, not '%s'", option, text);
}

static int set_option(Cli *cli, OptionId id, const char *text) {
        CliOptions *o = &cli->options;

        switch (id) {
        case OPTION_HELP:
        case OPTION_VERSION:
                break;
        case OPTION_JSON:
                o->json = true;
                break;
        case OPTION_YES:
                o->yes = true;
                break;
        case OPTION_NO_WAIT:
                o->no_wait = true;
                break;
        case OPTION_PINNED:
                o->pinned = true;
                break;
        case OPTION_PARTIAL:
                o->allow_partial = true;
                break;
        case OPTION_DRY_RUN:
                o->dry_run = true;
                break;
        case OPTION_NO_INCLUDE_FILES:
                o->include_files = 0;
                break;
        case OPTION_INCLUDE_FILES:
                o->include_files = 1;
                return text ? parse_bool(cli, "include-files", text, &o->include_files) : 0;
        case OPTION_NAME:
                o->name = text;
                break;
        case OPTION_DESCRIPTION:
                o->description = text;
                break;
        case OPTION_SERVICE:
                o->service = text;
                break;
        case OPTION_INTO:
                o->into = text;
                break;
        case OPTION_FROM:
                o->from = text;
                break;
        case OPTION_DEPTH:
                o->depth = text;
                break;
        case OPTION_TYPE:
                o->type = text;
                break;
        case OPTION_STATUS:
                o->status = text;
                break;
        case OPTION_STATE:
                o->state = text;
                break;
        case OPTION_BACKUP_ID:
                o->backup_id = text;
                break;
        case OPTION_FREQUENCY:
                o->frequency = text;
                break;
        case OPTION_TIME:
                o->time = text;
                break;
        case OPTION_CALENDAR:
                o->calendar = text;
                break;
        case OPTION_RETENTION:
                o->has_retention = true;
                return parse_number(cli, "retention-days", text, 1, 36500, &o->retention);
        case OPTION_ENABLED:
                return parse_bool(cli, "enabled", text, &o->enabled);
        case OPTION_FORMAT:
                o->format = text;
                break;
        case OPTION_OUTPUT:
                o->output = text;
                break;
        case OPTION_KEY:
                o->key = text;
                break;
        case OPTION_PATH:
                if (o->n_paths >= CLI_PATHS_MAX)
                        return usage_error(cli, "--path can be given %d times, no more",
                                           CLI_PATHS_MAX);
                o->paths[o->n_paths++] = text;
                break;
        case OPTION_LEVEL:
                o->has_level = true;
                return parse_number(cli, "compression-level", text, 0, 9, &o->level);
        case OPTION_PAGE:
                o->has_page = true;
                return parse_number(cli, "page", text, 1, UINT32_MAX, &o->page);
        case OPTION_LIMIT:
                o->has_limit = true;
                return parse_number(cli, "limit", text, 1, 500, &o->limit);
        }
        return 0;
}

static const char *option_name(int id) {
        for (size_t i = 0; i < ELEMENTSOF(option_table); i++)
                if ((int) option_table[i].id == id)
                        return option_table[i].name;
        return "?";
}

static const Verb *find_verb(const char *name) {
        for (const Verb *v = verb_table; v->name; v++)
                if (strcmp(v->name, name) == 0)
                        return v;
        return NULL;
}

/* The given options as the letters of the verb table, in `ret_given`. */
static int read_options(Cli *cli, int argc, char **argv, char *ret_given, size_t given_max) {
        struct option longs[ELEMENTSOF(option_table) + 1] = { 0 };
        size_t n = 0;
        int id, r;

        for (size_t i = 0; i < ELEMENTSOF(option_table); i++)
                longs[i] = (struct option){ option_table[i].name, option_table[i].has_arg, NULL,
                                            (int) option_table[i].id };
        opterr = 0; /* the messages are ours */
        while ((id = getopt_long(argc, argv, ":ho:", longs, NULL)) >= 0) {
                const char *word = argv[optind - 1];

                if (id == ':')
                        return usage_error(cli, "%s needs a value", word);
                if (id == '?')
                        return usage_error(cli, "'%s' is no option of holdpoint", word);
                r = set_option(cli, (OptionId) id, optarg);
                if (r < 0)
                        return r;
                if (!strchr(ret_given, id) && n + 1 < given_max)
                        ret_given[n++] = (char) id;
        }
        return 0;
}

static int check_verb(Cli *cli, const Verb *verb, const char *given) {
        for (const char *p = given; *p; p++)
                if (!option_fits(verb, (OptionId) *p))
                        return usage_error(cli, "--%s is no option of 'holdpoint %s'",
                                           option_name(*p), verb->name);
        if (cli->n_operands < verb->min)
                return usage_error(cli, "'holdpoint %s' needs %s", verb->name, verb->operands);
        if (cli->n_operands > verb->max)
                return usage_error(cli, "'holdpoint %s' has no use for '%s'", verb->name,
                                   cli->operands[verb->max]);
        return 0;
}

/* Errors of usage are JSON too, those of options that come before it included. */
static void look_for_json(Cli *cli, int argc, char **argv) {
        for (int i = 1; i < argc; i++)
                if (strcmp(argv[i], "--json") == 0)
                        cli->options.json = true;
}

int options_parse(Cli *cli, int argc, char **argv, const Verb **ret) {
        char given[ELEMENTSOF(option_table) + 1] = "";
        const Verb *verb = NULL;
        int r;

        look_for_json(cli, argc, argv);
        r = read_options(cli, argc, argv, given, sizeof(given));
        if (r < 0)
                return r;
        if (strchr(given, OPTION_VERSION)) {
                (void) printf("holdpoint %s\n", HOLDPOINT_VERSION);
                return 1;
        }
        if (optind < argc && strcmp(argv[optind], "help") != 0) {
                verb = find_verb(argv[optind]);
                if (!verb)
                        return usage_error(cli, "'%s' is no verb of holdpoint", argv[optind]);
        } else if (optind + 1 < argc) {
                verb = find_verb(argv[optind + 1]);
                if (!verb)
                        return usage_error(cli, "'%s' is no verb of holdpoint", argv[optind + 1]);
                options_print_verb_help(verb);
                return 1;
        } else if (optind < argc || strchr(given, OPTION_HELP)) {
                options_print_help();
                return 1;
        } else {
                return usage_error(cli, "what shall be done?");
        }
        if (strchr(given, OPTION_HELP)) {
                options_print_verb_help(verb);
                return 1;
        }
        cli->operands = argv + optind + 1;
        cli->n_operands = (size_t) (argc - optind - 1);
        r = check_verb(cli, verb, given);
        if (r < 0)
                return r;
        *ret = verb;
        return 0;
}
