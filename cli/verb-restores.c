#include <string.h>

#include "cli/client.h"
#include "cli/fields.h"
#include "cli/output.h"

static const OutputColumn columns[] = {
        { "RESTORE" },
        { "BACKUP" },
        { "CREATED" },
        { "STATE" },
        { "DOWN", .right = true },
        { "SERVICES", .cut = 0.1 },
};

static int print_table(Cli *cli, json_object *rows) {
        _cleanup_(output_table_freep) OutputTable *t = NULL;

        if (output_table_new(columns, ELEMENTSOF(columns), &t) < 0)
                return cli_oom(&cli->error);
        for (size_t i = 0; i < json_object_array_length(rows); i++) {
                json_object *row = json_object_array_get_idx(rows, i);
                _cleanup_free_ char *services = output_join(field_list(row, "services"));
                char id[64], backup[64], created[OUTPUT_CELL_MAX], down[OUTPUT_CELL_MAX];
                const char *cells[] = { id,   backup,  created, field_text(row, "state"),
                                        down, services };

                output_id(field_text(row, "restore_id"), id);
                output_id(field_text(row, "backup_id"), backup);
                output_time(field_text(row, "created_at"), created);
                output_duration(field_u64(row, "units_down_usec"), down);
                if (!services || output_table_add(t, cells) < 0)
                        return cli_oom(&cli->error);
        }
        return output_table_print(t) < 0 ? cli_oom(&cli->error) : 0;
}

static bool holds(json_object *row, const char *service) {
        json_object *services = field_list(row, "services");
        size_t n = services ? json_object_array_length(services) : 0;

        for (size_t i = 0; i < n; i++)
                if (strcmp(json_object_get_string(json_object_array_get_idx(services, i)),
                           service) == 0)
                        return true;
        return false;
}

/* Those of one service. Owned. */
static json_object *filter(json_object *rows, const char *service) {
        _cleanup_json_ json_object *kept = json_object_new_array();

        for (size_t i = 0; kept && i < json_object_array_length(rows); i++) {
                json_object *row = json_object_array_get_idx(rows, i);

                if ((!service || holds(row, service)) &&
                    json_object_array_add(kept, json_object_get(row)) < 0) {
                        json_object_put(row);
                        return NULL;
                }
        }
        return TAKE_PTR(kept);
}

int verb_restores(Cli *cli) {
        _cleanup_json_ json_object *reply = NULL, *rows = NULL, *o = NULL;
        ClientCall call = { .method = "ListRestores", .has_options = true };
        int r;

        r = client_call(cli->client, &call, &reply, &cli->error);
        if (r < 0)
                return r;
        rows = filter(json_object_array_get_idx(reply, 0), cli->options.service);
        if (!rows)
                return cli_oom(&cli->error);
        if (!cli->options.json)
                return json_object_array_length(rows) > 0 ? print_table(cli, rows) : 0;
        o = json_object_new_object();
        if (!o || json_put(o, "restores", json_object_get(rows)) < 0)
                return cli_oom(&cli->error);
        output_json(o);
        return 0;
}
