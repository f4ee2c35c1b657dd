#include "cli/follow.h"
#include "cli/ids.h"
#include "cli/output.h"

int verb_delete(Cli *cli) {
        char id[IDS_MAX];
        ClientCall call = { .method = "DeleteBackup", .strings = { id }, .has_options = true };
        _cleanup_follow_job_ FollowJob job = { 0 };
        int r, code;

        r = ids_backup(cli, cli->operands[0], NULL, id);
        if (r >= 0)
                r = cli_confirm(cli, "Delete backup %s for ever?", id);
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
                output_line("%s  deleted", id);
        return code;
}
