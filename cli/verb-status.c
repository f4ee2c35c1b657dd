#include "base/clock.h"
#include "cli/client.h"
#include "cli/fields.h"
#include "cli/output.h"

static const OutputColumn columns[] = {
        { "SERVICE", .cut = 0.1 },
        { "LAST SUCCESS" },
        { "AGE", .right = true },
        { "STATE" },
};

static int add_service(Cli *cli, OutputTable *t, json_object *service) {
        uint64_t last = field_u64(service, "last_success_usec"), now = clock_realtime_usec();
        bool overdue = field_bool(service, "overdue");
        char utc[CLOCK_TEXT_MAX], when[OUTPUT_CELL_MAX], age[OUTPUT_CELL_MAX] = "";
        const char *cells[] = { field_text(service, "service"), when, age,
                                overdue    ? "overdue"
                                : last > 0 ? "good"
                                           : "no backup yet" };

        clock_format(last, utc);
        output_time(utc, when);
        if (last > 0 && last <= now)
                output_duration((now - last) / (60 * USEC_PER_SEC) * (60 * USEC_PER_SEC), age);
        return output_table_add(t, cells) < 0 ? cli_oom(&cli->error) : 0;
}

static int print_services(Cli *cli, json_object *status) {
        _cleanup_(output_table_freep) OutputTable *t = NULL;
        json_object *services = field_list(status, "service_status");
        size_t n = services ? json_object_array_length(services) : 0;

        if (n == 0) {
                output_line("no services are configured; see holdpoint.conf(5)");
                return 0;
        }
        if (output_table_new(columns, ELEMENTSOF(columns), &t) < 0)
                return cli_oom(&cli->error);
        for (size_t i = 0; i < n; i++) {
                int r = add_service(cli, t, json_object_array_get_idx(services, i));

                if (r < 0)
                        return r;
        }
        return output_table_print(t) < 0 ? cli_oom(&cli->error) : 0;
}

/* Without the private key nothing can be restored; it must not be on this host alone. */
static void print_keys(json_object *s) {
        if (field_u64(s, "backup_count") == 0 ||
            !json_object_object_get_ex(s, "recovery_proven", NULL))
                return;
        if (!field_bool(s, "recovery_proven"))
                output_line("Key         NOT SAFE: %s",
                            field_bool(s, "recovery_exported")
                                    ? "the recovery key was not proven; run holdpoint key prove"
                                    : "no recovery key was handed out; run holdpoint key "
                                      "export-recovery");
        else
                output_line("Key         recovery key proven, the private key is %s",
                            field_bool(s, "private_key") ? "on this host" : "not on this host");
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
        if (!field_bool(s, "workers_reachable"))
                output_line("Workers     not reachable; see the sockets holdpoint-*.socket");
        print_keys(s);
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
