#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "cli/fields.h"
#include "cli/follow.h"
#include "cli/ids.h"
#include "cli/output.h"

static int open_archive(Cli *cli, const char *path, int *ret) {
        if (strcmp(path, "-") == 0) {
                *ret = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
        } else {
                *ret = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        }
        return *ret < 0 ? cli_error(&cli->error, CLI_EXIT_FAILED, "SourceMissing", "%s: %s", path,
                                    strerror(errno))
                        : 0;
}

static void print_result(const char *id, const FollowJob *job) {
        char size[OUTPUT_CELL_MAX];
        uint64_t dropped = field_u64(job->summary, "dropped_devices") +
                           field_u64(job->summary, "dropped_modes") +
                           field_u64(job->summary, "dropped_xattrs") +
                           field_u64(job->summary, "dropped_flags");

        output_size(field_u64(job->summary, "bytes"), size);
        output_line("%s  imported: %s in %llu files", id, size,
                    (unsigned long long) field_u64(job->summary, "files"));
        if (dropped > 0)
                output_note("%llu privileges, devices and special attributes were left out; "
                            "'holdpoint jobs %u' tells how many of each",
                            (unsigned long long) dropped, job->id);
}

/* The id is in the summary, once there is one. */
static int print_json(Cli *cli, const FollowJob *job, const char *id) {
        _cleanup_json_ json_object *o =
                job->summary ? json_object_get(job->summary) : json_object_new_object();

        if (!o || json_put_string(o, "backup_id", id) < 0)
                return cli_oom(&cli->error);
        return follow_print_json(cli, job, o);
}

int verb_import(Cli *cli) {
        _cleanup_json_ json_object *options = json_object_new_object();
        _cleanup_follow_job_ FollowJob job = { 0 };
        _cleanup_close_ int archive = -1;
        char name[IDS_NAME_MAX];
        ClientCall call = { .method = "ImportBackup",
                            .stream = &archive,
                            .strings = { cli->options.name ?: name },
                            .has_options = true,
                            .options = options };
        const char *id;
        int r, code;

        if (!options || cli_put_string(options, "description", cli->options.description) < 0)
                return cli_oom(&cli->error);
        ids_new_name("import", name);
        r = open_archive(cli, cli->operands[0], &archive);
        if (r >= 0)
                r = follow_run(cli, &call, &job);
        if (r < 0)
                return r;
        id = json_object_get_string(json_object_array_get_idx(job.reply, 0)) ?: "";
        code = follow_exit_code(cli, &job);
        if (cli->options.json) {
                r = print_json(cli, &job, id);
                return r < 0 ? r : code;
        }
        if (cli->options.no_wait) {
                output_line("%s", id);
                follow_print_queued(&job);
        } else if (code == CLI_EXIT_DONE) {
                print_result(id, &job);
        }
        return code;
}
