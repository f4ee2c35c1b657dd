#include "cli/fields.h"
#include "cli/follow.h"
#include "cli/output.h"

static void print_result(const Cli *cli, const FollowJob *job) {
        json_object *backups = field_list(job->summary, "backups");
        size_t n = backups ? json_object_array_length(backups) : 0;
        char freed[OUTPUT_CELL_MAX];

        output_size(field_u64(job->summary, "freed_bytes"), freed);
        for (size_t i = 0; i < n; i++)
                output_line("%s  past its retention",
                            json_object_get_string(json_object_array_get_idx(backups, i)));
        output_line("%s: %zu backups, %llu packs, %s",
                    cli->options.dry_run ? "would be removed" : "removed", n,
                    (unsigned long long) field_u64(job->summary, "packs"), freed);
}

int verb_prune(Cli *cli) {
        _cleanup_json_ json_object *options = json_object_new_object();
        ClientCall call = { .method = "Prune", .has_options = true, .options = options };
        _cleanup_follow_job_ FollowJob job = { 0 };
        int r = 0, code;

        if (!options || (cli->options.dry_run && json_put_bool(options, "dry_run", true) < 0))
                return cli_oom(&cli->error);
        if (!cli->options.dry_run)
                r = cli_confirm(cli, "Remove what is past its retention from the repository?");
        if (r >= 0)
                r = follow_run(cli, &call, &job);
        if (r < 0)
                return r;
        code = follow_exit_code(cli, &job);
        if (cli->options.json) {
                r = follow_print_json(cli, &job, NULL);
                return r < 0 ? r : code;
        }
        if (cli->options.no_wait)
                follow_print_queued(&job);
        else if (code == CLI_EXIT_DONE)
                print_result(cli, &job);
        return code;
}
