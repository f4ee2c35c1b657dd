#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/client.h"
#include "cli/fields.h"
#include "cli/output.h"

static const OutputColumn columns[] = {
        { "SERVICE", .cut = true },
        { "LAST SUCCESS" },
        { "AGE", .right = true },
        { "STATE" },
};

static bool list_has(json_object *list, const char *name) {
        size_t n = list ? json_object_array_length(list) : 0;

        for (size_t i = 0; i < n; i++)
                if (strcmp(json_object_get_string(json_object_array_get_idx(list, i)), name) == 0)
                        return true;
        return false;
}

/* When the newest completed backup of a service was begun; empty if there is none. */
static int last_success(Cli *cli, const char *service, char ret[OUTPUT_CELL_MAX]) {
        _cleanup_json_ json_object *options = json_object_new_object(), *reply = NULL;
        ClientCall call = { .method = "ListBackups", .has_options = true, .options = options };
        json_object *rows;
        int r;

        *ret = 0;
        if (!options || json_put_string(options, "service", service) < 0 ||
            json_put_string(options, "status", "completed") < 0 ||
            json_put_u64(options, "limit", 1) < 0)
                return cli_oom(&cli->error);
        r = client_call(cli->client, &call, &reply, &cli->error);
        if (r < 0)
                return r;
        rows = json_object_array_get_idx(reply, 1);
        if (json_object_array_length(rows) > 0)
                (void) snprintf(ret, OUTPUT_CELL_MAX, "%s",
                                field_text(json_object_array_get_idx(rows, 0), "created_at"));
        return 0;
}

static int add_service(Cli *cli, OutputTable *t, const char *name, bool overdue) {
        char last[OUTPUT_CELL_MAX], when[OUTPUT_CELL_MAX], age[OUTPUT_CELL_MAX] = "";
        const char *cells[] = { name, when, age, overdue ? "overdue" : "good" };
        uint64_t usec, now = clock_realtime_usec();
        int r = last_success(cli, name, last);

        if (r < 0)
                return r;
        if (!*last)
                cells[3] = overdue ? "overdue" : "no backup yet";
        else if (clock_parse(last, &usec) >= 0 && usec <= now)
                output_duration(now - usec, age);
        output_time(last, when);
        return output_table_add(t, cells) < 0 ? cli_oom(&cli->error) : 0;
}

static int print_services(Cli *cli, json_object *status) {
        _cleanup_(output_table_freep) OutputTable *t = NULL;
        json_object *services = field_list(status, "services"),
                    *overdue = field_list(status, "overdue");
        size_t n = services ? json_object_array_length(services) : 0;
        int r = 0;

        if (n == 0) {
                output_line("no services are configured; see holdpoint.conf(5)");
                return 0;
        }
        if (output_table_new(columns, ELEMENTSOF(columns), &t) < 0)
                return cli_oom(&cli->error);
        for (size_t i = 0; r >= 0 && i < n; i++) {
                const char *name = json_object_get_string(json_object_array_get_idx(services, i));

                r = add_service(cli, t, name, list_has(overdue, name));
        }
        if (r >= 0 && output_table_print(t) < 0)
                r = cli_oom(&cli->error);
        return r;
}

static int print_status(Cli *cli, json_object *s) {
        char stored[OUTPUT_CELL_MAX], free_bytes[OUTPUT_CELL_MAX];
        json_object *running = field_list(s, "running_jobs");

        output_size(field_u64(s, "stored_bytes"), stored);
        output_size(field_u64(s, "repository_free_bytes"), free_bytes);
        output_line("Agent       %s, version %s", field_text(s, "state"), field_text(s, "version"));
        output_line("Repository  %llu backups, %s stored, %s free",
                    (unsigned long long) field_u64(s, "backup_count"), stored, free_bytes);
        output_line(
                "Success     %.0f%% of the backups and %.0f%% of the restores of the last 30 days",
                field_double(s, "success_rate") * 100,
                field_double(s, "restore_success_rate") * 100);
        output_line("Running     %zu jobs", running ? json_object_array_length(running) : 0);
        output_line("%s", "");
        return print_services(cli, s);
}

int verb_status(Cli *cli) {
        ClientCall call = { .method = "GetStatus", .has_options = true };
        _cleanup_json_ json_object *reply = NULL;
        json_object *status, *overdue;
        int r = client_call(cli->client, &call, &reply, &cli->error);

        if (r < 0)
                return r;
        status = json_object_array_get_idx(reply, 0);
        if (cli->options.json)
                output_json(status);
        else
                r = print_status(cli, status);
        if (r < 0)
                return r;
        overdue = field_list(status, "overdue");
        return overdue && json_object_array_length(overdue) > 0 ? CLI_EXIT_FAILED : CLI_EXIT_DONE;
}
