#include <string.h>

#include "cli/fields.h"
#include "cli/follow.h"
#include "cli/ids.h"
#include "cli/output.h"

static int run(Cli *cli, ClientCall *call, const char *id) {
        _cleanup_follow_job_ FollowJob job = { 0 };
        char swap[OUTPUT_CELL_MAX];
        int r, code;

        call->strings[0] = id;
        r = follow_run(cli, call, &job);
        if (r < 0)
                return r;
        code = follow_exit_code(cli, &job);
        if (cli->options.json) {
                r = follow_print_json(cli, &job, NULL);
                return r < 0 ? r : code;
        }
        if (cli->options.no_wait) {
                follow_print_queued(&job);
        } else if (code == CLI_EXIT_DONE) {
                const char *state = field_text(job.summary, "state");

                /* A confirmation swaps nothing: the figure there is that of the restore. */
                output_duration(field_u64(job.summary, "swap_usec"), swap);
                if (field_u64(job.summary, "swap_usec") > 0 && strcmp(state, "confirmed") != 0)
                        output_line("%s  %s; swap %s", id, state, swap);
                else
                        output_line("%s  %s", id, state);
        }
        return code;
}

int verb_rollback(Cli *cli) {
        ClientCall call = { .method = "RollbackRestore", .has_options = true };
        char id[IDS_MAX];
        int r = ids_restore(cli, cli->operands[0], id);

        if (r >= 0)
                r = cli_confirm(cli, "Exchange the live data with what restore %.8s replaced?", id);
        return r < 0 ? r : run(cli, &call, id);
}

int verb_confirm(Cli *cli) {
        ClientCall call = { .method = "ConfirmRestore" };
        char id[IDS_MAX];
        int r = ids_restore(cli, cli->operands[0], id);

        if (r >= 0)
                r = cli_confirm(cli,
                                "Drop the data that restore %.8s replaced? There is no rollback "
                                "after that.",
                                id);
        return r < 0 ? r : run(cli, &call, id);
}
