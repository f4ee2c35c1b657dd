#include "cli/fields.h"
#include "cli/follow.h"
#include "cli/ids.h"
#include "cli/key.h"
#include "cli/output.h"

static void print_result(const char *id, const FollowJob *job) {
        char size[OUTPUT_CELL_MAX];

        output_size(field_u64(job->summary, "bytes"), size);
        output_line("%s  %s: %s in %llu objects of %llu packs checked, %llu damaged", id,
                    field_u64(job->summary, "damaged") > 0 ? "damaged" : "good", size,
                    (unsigned long long) field_u64(job->summary, "objects"),
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
                print_result(id, &job);
        return code;
}
