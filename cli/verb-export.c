#include <string.h>
#include <unistd.h>

#include "cli/fields.h"
#include "cli/ids.h"
#include "cli/key.h"
#include "cli/output.h"
#include "cli/receive.h"

static bool ends_with(const char *s, const char *end) {
        size_t n = strlen(s), m = strlen(end);

        return n > m && strcmp(s + n - m, end) == 0;
}

/* Without --format the name decides: backup.tar is not compressed, everything else is. */
static const char *choose_format(const CliOptions *o) {
        if (o->format)
                return o->format;
        return o->output && ends_with(o->output, ".tar") ? "tar" : "tar.zst";
}

static int fill_options(Cli *cli, json_object *o) {
        const CliOptions *given = &cli->options;

        if (given->n_paths > 1)
                return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                                 "'holdpoint export' takes one --path: a file or a directory");
        if (json_put_string(o, "format", choose_format(given)) < 0 ||
            cli_put_string(o, "service", given->service) < 0 ||
            cli_put_string(o, "path", given->n_paths > 0 ? given->paths[0] : NULL) < 0)
                return cli_oom(&cli->error);
        return 0;
}

static bool goes_to_stdout(const CliOptions *o) {
        return !o->output || strcmp(o->output, "-") == 0;
}

static int check_output(Cli *cli) {
        if (!goes_to_stdout(&cli->options))
                return 0;
        if (isatty(STDOUT_FILENO))
                return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                                 "an archive is nothing for a terminal: give a file with -o");
        if (cli->options.json)
                return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                                 "--json and the archive cannot both go to standard output: give "
                                 "a file with -o");
        return 0;
}

static void print_result(const Cli *cli, const FollowJob *job) {
        char size[OUTPUT_CELL_MAX];

        output_size(field_u64(job->summary, "bytes"), size);
        output_line("%s  %s in %llu files", cli->options.output, size,
                    (unsigned long long) field_u64(job->summary, "files"));
}

int verb_export(Cli *cli) {
        _cleanup_json_ json_object *options = json_object_new_object();
        _cleanup_follow_job_ FollowJob job = { 0 };
        _cleanup_close_ int key_fd = -1;
        char id[IDS_MAX];
        ClientCall call = {
                .method = "OpenBackup", .strings = { id }, .has_options = true, .options = options
        };
        int r = check_output(cli), code;

        if (!options)
                return cli_oom(&cli->error);
        if (r >= 0)
                r = fill_options(cli, options);
        if (r >= 0)
                r = ids_backup(cli, cli->operands[0], cli->options.service, id);
        if (r >= 0 && cli->options.key) {
                r = key_fd = key_open(cli, cli->options.key);
                call.fds[call.n_fds++] = (ClientFd){ "key", key_fd };
        }
        if (r >= 0)
                r = receive_file(cli, &call, cli->options.output, 0600, &job);
        if (r < 0)
                return r;
        code = follow_exit_code(cli, &job);
        if (goes_to_stdout(&cli->options))
                return code;
        if (cli->options.json) {
                r = follow_print_json(cli, &job, NULL);
                return r < 0 ? r : code;
        }
        if (code == CLI_EXIT_DONE)
                print_result(cli, &job);
        return code;
}
