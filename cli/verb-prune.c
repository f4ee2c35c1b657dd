#include "cli/fields.h"
#include "cli/follow.h"
#include "cli/output.h"

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
                output_line("%s", cli->options.dry_run ? "nothing was removed" : "done");
        return code;
}
