#include <string.h>

#include "cli/client.h"
#include "cli/fields.h"
#include "cli/ids.h"
#include "cli/output.h"

static const OutputColumn columns[] = {
        { "DATABASE", .cut = 0.1 }, { "OWNER" }, { "CAPTURED" },
        { "PAUSE", .right = true }, { "CHECK" },
};

/* A member of a database's row in whatever type it comes, as text. */
static const char *any_text(json_object *o, const char *key) {
        json_object *v;

        return json_object_object_get_ex(o, key, &v) && v ? json_object_get_string(v) : "";
}

static int print_databases(Cli *cli, json_object *rows) {
        _cleanup_(output_table_freep) OutputTable *t = NULL;
        size_t n = rows ? json_object_array_length(rows) : 0;

        if (n == 0)
                return 0;
        if (output_table_new(columns, ELEMENTSOF(columns), &t) < 0)
                return cli_oom(&cli->error);
        for (size_t i = 0; i < n; i++) {
                json_object *d = json_object_array_get_idx(rows, i);
                char pause[OUTPUT_CELL_MAX];
                const char *cells[] = { any_text(d, "path"), any_text(d, "owner"),
                                        any_text(d, "captured"), pause, any_text(d, "check") };

                output_duration(field_u64(d, "pause_usec"), pause);
                if (output_table_add(t, cells) < 0)
                        return cli_oom(&cli->error);
        }
        output_line("%s", "");
        return output_table_print(t) < 0 ? cli_oom(&cli->error) : 0;
}

static void print_line(const char *title, const char *value) {
        if (*value)
                output_line("%-12s %s", title, value);
}

static void print_times(json_object *b) {
        char created[OUTPUT_CELL_MAX], completed[OUTPUT_CELL_MAX];

        output_time(field_text(b, "created_at"), created);
        output_time(field_text(b, "completed_at"), completed);
        print_line("Created", created);
        print_line("Completed", completed);
}

static void print_sizes(json_object *b) {
        char size[OUTPUT_CELL_MAX], new_size[OUTPUT_CELL_MAX], pause[OUTPUT_CELL_MAX];

        output_size(field_u64(b, "bytes"), size);
        output_size(field_u64(b, "new_bytes"), new_size);
        output_duration(field_u64(b, "pause_usec"), pause);
        output_line("%-12s %s in %llu files, %s new in the repository", "Size", size,
                    (unsigned long long) field_u64(b, "files"), new_size);
        output_line("%-12s %s, pause %s", "Consistency", field_text(b, "consistency"), pause);
}

static void print_consistency(json_object *b) {
        json_object *services;

        if (json_get_object(b, "service_consistency", &services) < 0)
                return;
        json_object_object_foreach(services, name, value) {
                output_line("%-12s   %s: %s", "", name, json_object_get_string(value));
        }
}

/* Why it failed, and what could not be read: the part of the metadata that people need. */
static void print_problems(json_object *b) {
        const char *text = field_text(b, "metadata");
        _cleanup_json_ json_object *metadata = json_parse(text, strlen(text));
        json_object *error, *problems;
        size_t n;

        if (!metadata)
                return;
        if (json_get_object(metadata, "error", &error) >= 0)
                output_line("%-12s %s: %s", "Error", field_text(error, "name"),
                            field_text(error, "text"));
        problems = field_list(metadata, "problems");
        n = problems ? json_object_array_length(problems) : 0;
        for (size_t i = 0; i < n; i++) {
                json_object *p = json_object_array_get_idx(problems, i);

                output_line("%-12s %s: %s", i == 0 ? "Problems" : "", field_text(p, "path"),
                            json_get_object(p, "error", &error) >= 0 ? field_text(error, "text")
                                                                     : "");
        }
        if (n < field_u64(metadata, "problems_total"))
                output_line("%-12s and %llu more", "",
                            (unsigned long long) (field_u64(metadata, "problems_total") - n));
}

static int print_backup(Cli *cli, json_object *b) {
        _cleanup_free_ char *services = output_join(field_list(b, "services"));
        _cleanup_free_ char *copies = output_join(field_list(b, "copies"));

        if (!services || !copies)
                return cli_oom(&cli->error);
        print_line("Backup", field_text(b, "backup_id"));
        print_line("Name", field_text(b, "backup_name"));
        print_line("Description", field_text(b, "description"));
        print_line("Type", field_text(b, "backup_type"));
        print_line("Status", field_text(b, "status"));
        print_line("Services", services);
        print_line("Copies", copies);
        print_line("Pinned", field_bool(b, "pinned") ? "yes" : "no");
        print_line("By", field_text(b, "created_by"));
        print_times(b);
        print_sizes(b);
        print_consistency(b);
        print_line("Parent", field_text(b, "parent_id"));
        print_line("Checksum", field_text(b, "checksum"));
        print_line("Record", field_text(b, "file_path"));
        print_problems(b);
        return print_databases(cli, field_list(b, "databases"));
}

/* What `create` said of this backup when it ended, so that scripts read both the same way. */
static const char *result_of_status(const char *status) {
        if (strcmp(status, "completed") == 0)
                return "done";
        return strcmp(status, "running") == 0 ? "" : status;
}

int verb_show(Cli *cli) {
        char id[IDS_MAX];
        ClientCall call = { .method = "GetBackup", .strings = { id } };
        _cleanup_json_ json_object *reply = NULL;
        json_object *backup;
        int r = ids_backup(cli, cli->operands[0], cli->options.service, id);

        if (r >= 0)
                r = client_call(cli->client, &call, &reply, &cli->error);
        if (r < 0)
                return r;
        backup = json_object_array_get_idx(reply, 0);
        if (!cli->options.json)
                return print_backup(cli, backup);
        if (json_put_string(backup, "result", result_of_status(field_text(backup, "status"))) < 0)
                return cli_oom(&cli->error);
        output_json(backup);
        return 0;
}
