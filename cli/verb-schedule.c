#include <string.h>

#include "cli/fields.h"
#include "cli/follow.h"
#include "cli/output.h"

static const OutputColumn columns[] = {
        { "SCHEDULE", .cut = 0.1 },
        { "ENABLED" },
        { "TYPE", .cut = 0.1 },
        { "CALENDAR", .cut = 0.2 },
        { "DAYS", .right = true },
        { "LAST RUN" },
        { "RESULT" },
        { "NEXT RUN" },
};

static int add_row(Cli *cli, OutputTable *t, json_object *s) {
        char days[OUTPUT_CELL_MAX], last[OUTPUT_CELL_MAX], next[OUTPUT_CELL_MAX];
        const char *cells[] = { field_text(s, "schedule_name"),
                                field_bool(s, "enabled") ? "yes" : "no",
                                field_text(s, "backup_type"),
                                field_text(s, "calendar"),
                                days,
                                last,
                                field_text(s, "last_result"),
                                next };

        (void) snprintf(days, sizeof(days), "%llu",
                        (unsigned long long) field_u64(s, "retention_days"));
        output_time(field_text(s, "last_run"), last);
        output_time(field_text(s, "next_run"), next);
        return output_table_add(t, cells) < 0 ? cli_oom(&cli->error) : 0;
}

static int print_table(Cli *cli, json_object *rows) {
        _cleanup_(output_table_freep) OutputTable *t = NULL;

        if (output_table_new(columns, ELEMENTSOF(columns), &t) < 0)
                return cli_oom(&cli->error);
        for (size_t i = 0; i < json_object_array_length(rows); i++) {
                int r = add_row(cli, t, json_object_array_get_idx(rows, i));

                if (r < 0)
                        return r;
        }
        return output_table_print(t) < 0 ? cli_oom(&cli->error) : 0;
}

static int list(Cli *cli) {
        ClientCall call = { .method = "ListSchedules", .has_options = true };
        _cleanup_json_ json_object *reply = NULL, *o = NULL;
        json_object *rows;
        int r = client_call(cli->client, &call, &reply, &cli->error);

        if (r < 0)
                return r;
        rows = json_object_array_get_idx(reply, 0);
        if (!cli->options.json) {
                if (json_object_array_length(rows) > 0)
                        return print_table(cli, rows);
                output_note("no schedules; make one with 'holdpoint schedule set NAME'");
                return 0;
        }
        o = json_object_new_object();
        if (json_put(o, "schedules", json_object_get(rows)) < 0)
                return cli_oom(&cli->error);
        output_json(o);
        return 0;
}

/* What it is now, as the agent has it. */
static int print_one(Cli *cli, const char *name) {
        ClientCall call = { .method = "GetSchedule", .strings = { name } };
        _cleanup_json_ json_object *reply = NULL;
        json_object *schedule;
        int r = client_call(cli->client, &call, &reply, &cli->error);

        if (r < 0)
                return r;
        schedule = json_object_array_get_idx(reply, 0);
        if (cli->options.json) {
                output_json(schedule);
                return 0;
        }
        json_object_object_foreach(schedule, key, value) {
                output_member(key, value);
        }
        return 0;
}

static int show(Cli *cli) {
        return print_one(cli, cli->operands[1]);
}

static int set(Cli *cli) {
        const CliOptions *given = &cli->options;
        const char *name = cli->operands[1];
        _cleanup_json_ json_object *o = json_object_new_object();
        ClientCall call = {
                .method = "SetSchedule", .strings = { name }, .has_options = true, .options = o
        };
        int r;

        if (!o || cli_put_string(o, "frequency", given->frequency) < 0 ||
            cli_put_string(o, "time", given->time) < 0 ||
            cli_put_string(o, "calendar", given->calendar) < 0 ||
            cli_put_string(o, "backup_type", given->type) < 0 ||
            cli_put_string(o, "description", given->description) < 0 ||
            (given->enabled >= 0 && json_put_bool(o, "enabled", given->enabled > 0) < 0) ||
            (given->has_retention && json_put_u64(o, "retention_days", given->retention) < 0))
                return cli_oom(&cli->error);
        r = client_call(cli->client, &call, NULL, &cli->error);
        return r < 0 ? r : print_one(cli, name);
}

static int delete (Cli *cli) {
        const char *name = cli->operands[1];
        ClientCall call = { .method = "DeleteSchedule", .strings = { name } };
        _cleanup_json_ json_object *o = json_object_new_object();
        int r = cli_confirm(cli, "Delete schedule %s? Its backups stay.", name);

        if (r >= 0)
                r = client_call(cli->client, &call, NULL, &cli->error);
        if (r < 0)
                return r;
        if (!cli->options.json) {
                output_line("%s  deleted", name);
                return 0;
        }
        if (!o || json_put_string(o, "schedule_name", name) < 0 ||
            json_put_bool(o, "deleted", true) < 0)
                return cli_oom(&cli->error);
        output_json(o);
        return 0;
}

/* What holdpoint@NAME.service does: its exit code is the unit's. */
static int run(Cli *cli) {
        ClientCall call = { .method = "RunSchedule", .strings = { cli->operands[1] } };
        _cleanup_follow_job_ FollowJob job = { 0 };
        int r = follow_run(cli, &call, &job), code;
        const char *id;

        if (r < 0)
                return r;
        id = json_object_get_string(json_object_array_get_idx(job.reply, 0));
        code = follow_exit_code(cli, &job);
        if (cli->options.json) {
                r = follow_print_json(cli, &job, NULL);
                return r < 0 ? r : code;
        }
        if (cli->options.no_wait)
                follow_print_queued(&job);
        else if (code == CLI_EXIT_DONE)
                output_line("%s  completed", id ? id : "");
        return code;
}

int verb_schedule(Cli *cli) {
        static const struct {
                const char *name;
                size_t operands;
                VerbFunction run;
        } actions[] = {
                { "list", 1, list }, { "show", 2, show },     { "set", 2, set },
                { "run", 2, run },   { "delete", 2, delete },
        };

        if (cli->n_operands == 0)
                return list(cli);
        for (size_t i = 0; i < ELEMENTSOF(actions); i++)
                if (strcmp(cli->operands[0], actions[i].name) == 0) {
                        if (cli->n_operands == actions[i].operands)
                                return actions[i].run(cli);
                        return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                                         "'holdpoint schedule %s' %s", actions[i].name,
                                         actions[i].operands == 1 ? "takes no name"
                                                                  : "needs the NAME of a schedule");
                }
        return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                         "'holdpoint schedule' knows list, show, set, run and delete, not '%s'",
                         cli->operands[0]);
}
