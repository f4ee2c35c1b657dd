#include <string.h>

#include "cli/fields.h"
#include "cli/follow.h"
#include "cli/ids.h"
#include "cli/key.h"
#include "cli/output.h"

/* What was not looked at to its end is neither good nor damaged. */
static const char *verdict(const FollowJob *job, int code) {
        return field_u64(job->summary, "damaged") > 0 ? "damaged"
               : code == CLI_EXIT_DONE                ? "good"
                                                      : NULL;
}

static void print_result(const char *id, const FollowJob *job, int code) {
        const char *word = verdict(job, code);
        char size[OUTPUT_CELL_MAX];

        if (!word)
                return;
        output_size(field_u64(job->summary, "bytes"), size);
        if (strcmp(field_text(job->summary, "depth"), "restore") == 0)
                output_line("%s  %s: %s in %llu files restored and compared, %llu databases "
                            "checked, %llu damaged",
                            id, word, size, (unsigned long long) field_u64(job->summary, "files"),
                            (unsigned long long) field_u64(job->summary, "databases"),
                            (unsigned long long) field_u64(job->summary, "damaged"));
        else
                output_line("%s  %s: %s in %llu objects of %llu packs checked, %llu damaged", id,
                            word, size, (unsigned long long) field_u64(job->summary, "objects"),
                            (unsigned long long) field_u64(job->summary, "packs"),
                            (unsigned long long) field_u64(job->summary, "damaged"));
}

int verb_verify(Cli *cli) {
        char id[IDS_MAX];
        _cleanup_json_ json_object *options = json_object_new_object();
        ClientCall call = {
                .method = "VerifyBackup", .strings = { id }, .has_options = true, .options = options
        };
        _cleanup_follow_job_ FollowJob job = { 0 };
        _cleanup_close_ int key_fd = -1;
        int r, code;

        if (!options || cli_put_string(options, "depth", cli->options.depth) < 0)
                return cli_oom(&cli->error);
        r = ids_backup(cli, cli->operands[0], cli->options.service, id);
        if (r >= 0 && cli->options.key) {
                r = key_fd = key_open(cli, cli->options.key);
                call.fds[call.n_fds++] = (ClientFd){ "key", key_fd };
        }
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
        else if (job.summary)
                print_result(id, &job, code);
        return code;
}
