#include "cli/client.h"
#include "cli/fields.h"
#include "cli/output.h"

static const OutputColumn columns[] = {
        { "ID" },
        { "CREATED" },
        { "TYPE", .cut = 0.2 },
        { "STATUS" },
        { "SIZE", .right = true },
        { "NEW", .right = true },
        { "NAME", .cut = 0.1 },
};

static int print_table(Cli *cli, json_object *rows) {
        _cleanup_(output_table_freep) OutputTable *t = NULL;

        if (output_table_new(columns, ELEMENTSOF(columns), &t) < 0)
                return cli_oom(&cli->error);
        for (size_t i = 0; i < json_object_array_length(rows); i++) {
                json_object *b = json_object_array_get_idx(rows, i);
                char id[64], created[OUTPUT_CELL_MAX], size[OUTPUT_CELL_MAX],
                        new_size[OUTPUT_CELL_MAX];
                const char *cells[] = {
                        id,   created,  field_text(b, "backup_type"), field_text(b, "status"),
                        size, new_size, field_text(b, "backup_name")
                };

                output_id(field_text(b, "backup_id"), id);
                output_time(field_text(b, "created_at"), created);
                output_size(field_u64(b, "bytes"), size);
                output_size(field_u64(b, "new_bytes"), new_size);
                if (output_table_add(t, cells) < 0)
                        return cli_oom(&cli->error);
        }
        return output_table_print(t) < 0 ? cli_oom(&cli->error) : 0;
}

static int fill_options(Cli *cli, json_object *o) {
        const CliOptions *given = &cli->options;

        if (cli_put_string(o, "type", given->type) < 0 ||
            cli_put_string(o, "status", given->status) < 0 ||
            cli_put_string(o, "service", given->service) < 0 ||
            (given->has_page && json_put_u64(o, "page", given->page) < 0) ||
            (given->has_limit && json_put_u64(o, "limit", given->limit) < 0))
                return cli_oom(&cli->error);
        return 0;
}

static int print_json(Cli *cli, uint64_t total, json_object *rows) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_u64(o, "total", total) < 0 ||
            json_put(o, "backups", json_object_get(rows)) < 0)
                return cli_oom(&cli->error);
        output_json(o);
        return 0;
}

int verb_list(Cli *cli) {
        _cleanup_json_ json_object *options = json_object_new_object(), *reply = NULL;
        ClientCall call = { .method = "ListBackups", .has_options = true, .options = options };
        json_object *rows;
        uint64_t total;
        size_t n;
        int r;

        if (!options)
                return cli_oom(&cli->error);
        r = fill_options(cli, options);
        if (r >= 0)
                r = client_call(cli->client, &call, &reply, &cli->error);
        if (r < 0)
                return r;
        total = json_object_get_uint64(json_object_array_get_idx(reply, 0));
        rows = json_object_array_get_idx(reply, 1);
        n = json_object_array_length(rows);
        if (cli->options.json)
                return print_json(cli, total, rows);
        if (n > 0)
                r = print_table(cli, rows);
        if (r >= 0 && n < total)
                output_note("%zu of %llu backups; --page and --limit show others", n,
                            (unsigned long long) total);
        return r;
}
