#include <string.h>

#include "cli/fields.h"
#include "cli/follow.h"
#include "cli/ids.h"
#include "cli/output.h"

static int fill_options(Cli *cli, json_object *o) {
        const CliOptions *given = &cli->options;

        if (cli_put_string(o, "description", given->description) < 0 ||
            (given->include_files >= 0 &&
             json_put_bool(o, "include_files", given->include_files > 0) < 0) ||
            (given->has_level && json_put_u64(o, "compression_level", given->level) < 0) ||
            (given->pinned && json_put_bool(o, "pinned", true) < 0))
                return cli_oom(&cli->error);
        return 0;
}

/* The record as the agent has it now, for --json and for the line that sums up. */
static int get_backup(Cli *cli, const char *id, json_object **ret) {
        ClientCall call = { .method = "GetBackup", .strings = { id } };
        _cleanup_json_ json_object *reply = NULL;
        int r = client_call(cli->client, &call, &reply, &cli->error);

        if (r < 0)
                return r;
        *ret = json_object_get(json_object_array_get_idx(reply, 0));
        return 0;
}

static void print_backup(json_object *b) {
        char size[OUTPUT_CELL_MAX], new_size[OUTPUT_CELL_MAX], pause[OUTPUT_CELL_MAX];
        _cleanup_free_ char *services = output_join(field_list(b, "services"));

        output_size(field_u64(b, "bytes"), size);
        output_size(field_u64(b, "new_bytes"), new_size);
        output_duration(field_u64(b, "pause_usec"), pause);
        output_line("%s  %s", field_text(b, "backup_id"), field_text(b, "status"));
        output_line("%s: %s in %llu files, %s new; pause %s, consistency %s",
                    services ? services : "", size, (unsigned long long) field_u64(b, "files"),
                    new_size, pause, field_text(b, "consistency"));
}

int verb_create(Cli *cli) {
        _cleanup_json_ json_object *options = json_object_new_object(), *backup = NULL;
        ClientCall call = { .method = "CreateBackup",
                            .strings = { cli->operands[0],
                                         cli->options.name ? cli->options.name : "" },
                            .has_options = true,
                            .options = options };
        _cleanup_follow_job_ FollowJob job = { 0 };
        char name[IDS_NAME_MAX];
        const char *id;
        int r, code;

        if (!options)
                return cli_oom(&cli->error);
        if (!cli->options.name) {
                ids_new_name("manual", name);
                call.strings[1] = name;
        }
        r = fill_options(cli, options);
        if (r >= 0)
                r = follow_run(cli, &call, &job);
        if (r < 0)
                return r;
        id = json_object_get_string(json_object_array_get_idx(job.reply, 0));
        code = follow_exit_code(cli, &job);
        r = get_backup(cli, id ? id : "", &backup);
        if (r < 0)
                return code != 0 ? code : r;
        if (cli->options.json) {
                r = follow_print_json(cli, &job, backup);
                return r < 0 ? r : code;
        }
        if (cli->options.no_wait) {
                output_line("%s", id ? id : "");
                follow_print_queued(&job);
        } else if (code == CLI_EXIT_DONE || code == CLI_EXIT_PARTIAL) {
                print_backup(backup);
        }
        return code;
}
