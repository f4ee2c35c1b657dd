/*
 * The agent answers with a report. Where it does not answer, that is the first thing to tell, and
 * the bus may know more about its unit.
 */

#include <errno.h>
#include <string.h>

#include "base/findings.h"
#include "cli/client.h"
#include "cli/fields.h"
#include "cli/output.h"

/* The worst first; as in a report, and as people read it. */
static const struct {
        const char *severity, *count, *title;
} groups[] = {
        { "error", "errors", "ERRORS" },
        { "warning", "warnings", "WARNINGS" },
        { "note", "notes", "NOTES" },
        { "ok", "ok", "GOOD" },
};

static void print_finding(json_object *f, bool good) {
        const char *service = field_text(f, "service"), *subject = field_text(f, "subject"),
                   *remedy = field_text(f, "remedy");
        bool both = *service && strcmp(service, subject) != 0;

        if (good) {
                output_line("  %-22s %s%s%s: %s", field_text(f, "check"), both ? service : "",
                            both ? " " : "", subject, field_text(f, "text"));
                return;
        }
        output_line("  %-22s %s%s%s", field_text(f, "check"), both ? service : "", both ? " " : "",
                    subject);
        output_line("    %s", field_text(f, "text"));
        if (*remedy)
                output_line("    -> %s", remedy);
}

static void print_report(json_object *report) {
        json_object *rows = field_list(report, "findings");
        size_t n = rows ? json_object_array_length(rows) : 0;
        bool first = true;

        for (size_t g = 0; g < ELEMENTSOF(groups); g++) {
                uint64_t count = field_u64(report, groups[g].count);

                if (count == 0)
                        continue;
                if (!first)
                        output_line("%s", "");
                output_line("%s (%llu)", groups[g].title, (unsigned long long) count);
                first = false;
                for (size_t i = 0; i < n; i++) {
                        json_object *f = json_object_array_get_idx(rows, i);

                        if (strcmp(field_text(f, "severity"), groups[g].severity) == 0)
                                print_finding(f, g + 1 == ELEMENTSOF(groups));
                }
        }
        if (field_u64(report, "left_out") > 0)
                output_line("%llu more were found and are not shown",
                            (unsigned long long) field_u64(report, "left_out"));
}

/* What a unit that should run does instead. */
static void tell_unit(Cli *cli, Findings *l, const char *unit, const char *remedy) {
        _cleanup_free_ char *state = cli->client ? client_unit_state(cli->client, unit) : NULL;

        if (state && strcmp(state, "active") != 0)
                findings_add(l, FINDING_ERROR, ABOUT("units", unit), remedy, "is %s", state);
}

/* Takes over what is in cli->error. */
static int tell_unreachable(Cli *cli, json_object **ret) {
        Findings l;
        int r = findings_init(&l);

        if (r >= 0) {
                findings_add(&l, FINDING_ERROR, ABOUT("agent", "holdpointd"),
                             "run 'systemctl start holdpointd'; if that fails, 'holdpointd "
                             "--check-config' and 'journalctl -u holdpointd' tell why",
                             "the agent does not answer, so nothing else could be looked at: %s",
                             cli->error.message);
                tell_unit(cli, &l, "holdpointd.service", "see 'systemctl status holdpointd'");
                tell_unit(cli, &l, "dbus.socket", "see 'systemctl status dbus.socket'");
                *ret = findings_report(&l);
        }
        findings_done(&l);
        if (r < 0 || !*ret)
                return cli_oom(&cli->error);
        cli->error = (CliError){ .exit_code = 0 };
        return 0;
}

static int exit_code(json_object *report) {
        if (field_u64(report, "errors") > 0)
                return CLI_EXIT_FAILED;
        return field_u64(report, "warnings") > 0 ? CLI_EXIT_PARTIAL : CLI_EXIT_DONE;
}

int verb_doctor(Cli *cli) {
        ClientCall call = { .method = "Diagnose", .has_options = true };
        _cleanup_json_ json_object *reply = NULL, *alone = NULL;
        json_object *report;
        bool reached = true;
        int r = cli->client ? client_call(cli->client, &call, &reply, &cli->error) : -ENOTCONN;

        if (r < 0 && cli->error.exit_code == CLI_EXIT_NO_AGENT) {
                reached = false;
                r = tell_unreachable(cli, &alone);
        }
        if (r < 0)
                return r;
        report = reached ? json_object_array_get_idx(reply, 0) : alone;
        if (cli->options.json)
                output_json(report);
        else
                print_report(report);
        return reached ? exit_code(report) : CLI_EXIT_NO_AGENT;
}
