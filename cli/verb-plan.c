#include "cli/verb-plan.h"

#include <string.h>

#include "cli/client.h"
#include "cli/fields.h"
#include "cli/output.h"

static void show_rows(const char *key, json_object *rows) {
        for (size_t i = 0; i < json_object_array_length(rows); i++) {
                json_object *row = json_object_array_get_idx(rows, i);

                if (!json_object_is_type(row, json_type_object)) {
                        output_line("%-22s %s", key, json_object_get_string(row));
                        continue;
                }
                output_line("%-22s %s", key, field_text(row, "path"));
                json_object_object_foreach(row, name, value) {
                        if (strcmp(name, "path") != 0)
                                output_line("  %-20s %s", name, json_object_get_string(value));
                }
        }
}

static void show(json_object *plan) {
        char size[OUTPUT_CELL_MAX];

        json_object_object_foreach(plan, key, value) {
                if (json_object_is_type(value, json_type_array)) {
                        show_rows(key, value);
                } else if (strcmp(key, "bytes") == 0) {
                        output_size(json_object_get_uint64(value), size);
                        output_line("%-22s %s", key, size);
                } else {
                        output_member(key, value);
                }
        }
}

int plan_restore(Cli *cli, ClientCall *call) {
        _cleanup_json_ json_object *reply = NULL;
        json_object *plan;
        int r;

        call->method = "PlanRestore";
        r = client_call(cli->client, call, &reply, &cli->error);
        if (r < 0)
                return r;
        plan = json_object_array_get_idx(reply, 0);
        if (cli->options.json) {
                output_json(plan);
                cli->printed = true;
        } else {
                show(plan);
        }
        if (field_bool(plan, "possible"))
                return CLI_EXIT_DONE;
        return cli_error(&cli->error, CLI_EXIT_FAILED, "NotRestorable", "it cannot be done: %s",
                         field_text(plan, "reason"));
}
