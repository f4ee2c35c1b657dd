#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/names.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/output.h"

#define STANDARD_PREFIX "org.freedesktop.DBus.Error."

/* Names that are not ours, and what they mean to the caller of a program. */
static const struct {
        const char *name;
        int exit_code;
} standard_names[] = {
        { "AccessDenied", CLI_EXIT_NOT_AUTHORISED },
        { "AuthFailed", CLI_EXIT_NOT_AUTHORISED },
        { "InteractiveAuthorizationRequired", CLI_EXIT_NOT_AUTHORISED },
        { "ServiceUnknown", CLI_EXIT_NO_AGENT },
        { "NameHasNoOwner", CLI_EXIT_NO_AGENT },
        { "NoReply", CLI_EXIT_NO_AGENT },
        { "NoServer", CLI_EXIT_NO_AGENT },
        { "Disconnected", CLI_EXIT_NO_AGENT },
        { "Timeout", CLI_EXIT_NO_AGENT },
        { "TimedOut", CLI_EXIT_NO_AGENT },
        { "InvalidArgs", CLI_EXIT_USAGE },
};

int cli_error(CliError *e, int exit_code, const char *name, const char *format, ...) {
        va_list ap;

        if (e->exit_code != 0)
                return -EINVAL;
        e->exit_code = exit_code;
        (void) snprintf(e->name, sizeof(e->name), "%s", name);
        va_start(ap, format);
        (void) vsnprintf(e->message, sizeof(e->message), format, ap);
        va_end(ap);
        return -EINVAL;
}

int cli_oom(CliError *e) {
        (void) cli_error(e, CLI_EXIT_FAILED, "Internal", "out of memory");
        return -ENOMEM;
}

static int exit_code_of(const char *name) {
        FailCode code = fail_from_name(name);

        if (code != FAIL_INTERNAL)
                return fail_exit_code(code);
        for (size_t i = 0; i < ELEMENTSOF(standard_names); i++)
                if (strcmp(standard_names[i].name, name) == 0)
                        return standard_names[i].exit_code;
        return CLI_EXIT_FAILED;
}

static const char *hint_of(int exit_code, const char *name) {
        if (strcmp(name, "ServiceUnknown") == 0 || strcmp(name, "NameHasNoOwner") == 0)
                return "; is holdpointd running?";
        if (exit_code == CLI_EXIT_NOT_AUTHORISED)
                return "; this user may not do that";
        return "";
}

void cli_error_from_name(CliError *e, const char *name, const char *message) {
        if (strncmp(name, HP_BUS_ERROR_PREFIX, strlen(HP_BUS_ERROR_PREFIX)) == 0)
                name += strlen(HP_BUS_ERROR_PREFIX);
        else if (strncmp(name, STANDARD_PREFIX, strlen(STANDARD_PREFIX)) == 0)
                name += strlen(STANDARD_PREFIX);
        (void) cli_error(e, exit_code_of(name), name, "%s%s%s",
                         strcmp(name, "NotSupported") == 0 ? "the agent does not support this: "
                                                           : "",
                         message && *message ? message : name, hint_of(exit_code_of(name), name));
}

int cli_confirm(Cli *cli, const char *format, ...) {
        _cleanup_free_ char *question = NULL, *clean = NULL;
        char answer[16];
        va_list ap;

        if (cli->options.yes)
                return 0;
        if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
                return cli_error(
                        &cli->error, CLI_EXIT_USAGE, "NotConfirmed",
                        "this changes or removes data and nobody is here to ask; add --yes");
        va_start(ap, format);
        if (vasprintf(&question, format, ap) < 0)
                question = NULL;
        va_end(ap);
        clean = question ? output_clean(question) : NULL;
        if (!clean)
                return cli_oom(&cli->error);
        (void) fprintf(stderr, "%s [y/N] ", clean);
        (void) fflush(stderr);
        if (fgets(answer, sizeof(answer), stdin) &&
            (strcmp(answer, "y\n") == 0 || strcmp(answer, "yes\n") == 0 ||
             strcmp(answer, "Y\n") == 0))
                return 0;
        return cli_error(&cli->error, CLI_EXIT_USAGE, "NotConfirmed",
                         "not confirmed; nothing was done");
}

int cli_put_string(json_object *options, const char *key, const char *value) {
        return value ? json_put_string(options, key, value) : 0;
}
