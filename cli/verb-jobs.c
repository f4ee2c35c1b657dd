#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/fields.h"
#include "cli/ids.h"
#include "cli/output.h"

static const OutputColumn columns[] = {
        { "JOB", .right = true },  { "TYPE" },   { "STATE" },   { "PHASE" },
        { "DONE", .right = true }, { "RESULT" }, { "STARTED" }, { "BACKUP" },
        { "ERROR", .cut = 0.1 },
};

static int add_row(Cli *cli, OutputTable *t, json_object *job) {
        char id[OUTPUT_CELL_MAX], percent[OUTPUT_CELL_MAX] = "", backup[64],
                                  started[OUTPUT_CELL_MAX], utc[CLOCK_TEXT_MAX];
        const char *cells[] = {
                id,
                field_text(job, "type"),
                field_text(job, "state"),
                field_text(job, "phase"),
                percent,
                field_text(job, "result"),
                started,
                backup,
                field_text(job, "error_message"),
        };

        (void) snprintf(id, sizeof(id), "%llu", (unsigned long long) field_u64(job, "id"));
        if (strcmp(field_text(job, "state"), "finished") != 0)
                (void) snprintf(percent, sizeof(percent), "%d%%",
                                (int) (field_double(job, "progress") * 100));
        clock_format(field_u64(job, "started_usec"), utc);
        output_time(utc, started);
        output_id(field_text(job, "backup_id"), backup);
        return output_table_add(t, cells) < 0 ? cli_oom(&cli->error) : 0;
}

static int print_table(Cli *cli, json_object *rows) {
        _cleanup_(output_table_freep) OutputTable *t = NULL;
        int r;

        if (output_table_new(columns, ELEMENTSOF(columns), &t) < 0)
                return cli_oom(&cli->error);
        for (size_t i = 0; i < json_object_array_length(rows); i++) {
                r = add_row(cli, t, json_object_array_get_idx(rows, i));
                if (r < 0)
                        return r;
        }
        return output_table_print(t) < 0 ? cli_oom(&cli->error) : 0;
}

static int show_job(Cli *cli) {
        _cleanup_json_ json_object *reply = NULL;
        json_object *job;
        uint32_t id;
        ClientCall call = { .method = "GetJob", .number = &id };
        int r = ids_job(cli, cli->operands[0], &id);

        if (r >= 0)
                r = client_call(cli->client, &call, &reply, &cli->error);
        if (r < 0)
                return r;
        job = json_object_array_get_idx(reply, 0);
        if (cli->options.json) {
                output_json(job);
                return 0;
        }
        json_object_object_foreach(job, key, value) {
                output_line("%-18s %s", key,
                            json_object_is_type(value, json_type_object) ||
                                            json_object_is_type(value, json_type_array)
                                    ? json_text(value)
                                    : json_object_get_string(value));
        }
        return 0;
}

/* The beginning of an id will do, as everywhere; a whole one need not be there any more. */
static int fill_options(Cli *cli, json_object *o) {
        const CliOptions *given = &cli->options;
        char id[IDS_MAX];
        int r = given->backup_id ? ids_backup(cli, given->backup_id, NULL, id) : 0;

        if (r < 0)
                return r;
        if (cli_put_string(o, "state", given->state) < 0 ||
            cli_put_string(o, "type", given->type) < 0 ||
            (given->backup_id && json_put_string(o, "backup_id", id) < 0) ||
            (given->has_page && json_put_u64(o, "page", given->page) < 0) ||
            (given->has_limit && json_put_u64(o, "limit", given->limit) < 0))
                return cli_oom(&cli->error);
        return 0;
}

int verb_jobs(Cli *cli) {
        _cleanup_json_ json_object *options = json_object_new_object(), *reply = NULL, *o = NULL;
        ClientCall call = { .method = "ListJobs", .has_options = true, .options = options };
        json_object *rows;
        int r;

        if (!options)
                return cli_oom(&cli->error);
        r = fill_options(cli, options);
        if (r >= 0 && cli->n_operands > 0)
                return json_object_object_length(options) == 0
                               ? show_job(cli)
                               : cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                                           "one job is shown as it is: leave out the options");
        if (r >= 0)
                r = client_call(cli->client, &call, &reply, &cli->error);
        if (r < 0)
                return r;
        rows = json_object_array_get_idx(reply, 0);
        if (!cli->options.json)
                return json_object_array_length(rows) > 0 ? print_table(cli, rows) : 0;
        o = json_object_new_object();
        if (!o || json_put(o, "jobs", json_object_get(rows)) < 0)
                return cli_oom(&cli->error);
        output_json(o);
        return 0;
}
