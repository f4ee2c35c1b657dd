#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "cli/fields.h"
#include "cli/follow.h"
#include "cli/ids.h"
#include "cli/key.h"
#include "cli/output.h"
#include "cli/verb-plan.h"

static int put_paths(Cli *cli, json_object *o) {
        json_object *paths;

        if (cli->options.n_paths == 0)
                return 0;
        paths = json_object_new_array();
        for (size_t i = 0; paths && i < cli->options.n_paths; i++)
                if (json_object_array_add(paths, json_object_new_string(cli->options.paths[i])) <
                    0) {
                        json_object_put(paths);
                        paths = NULL;
                }
        return json_put(o, "paths", paths) < 0 ? cli_oom(&cli->error) : 0;
}

static int fill_options(Cli *cli, json_object *o) {
        /* The question was answered, or --yes given, before this is sent. */
        if ((!cli->options.dry_run && json_put_bool(o, "confirm", true) < 0) ||
            cli_put_string(o, "from", cli->options.from) < 0 ||
            (cli->options.allow_partial && json_put_bool(o, "allow_partial", true) < 0))
                return cli_oom(&cli->error);
        return put_paths(cli, o);
}

/* The directory of --into, made if it is missing: nobody else shall read what is extracted. */
static int open_into(Cli *cli, const char *path) {
        int fd;

        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return cli_error(&cli->error, CLI_EXIT_FAILED, "TargetInUse",
                                 "--into %s: cannot be made: %s", path, strerror(errno));
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return cli_error(&cli->error, CLI_EXIT_FAILED, "TargetInUse", "--into %s: %s", path,
                                 strerror(errno));
        return fd;
}

/* The restore type: --service, or what the backup itself is. */
static int find_type(Cli *cli, const char *id, json_object **ret_reply, const char **ret) {
        ClientCall call = { .method = "GetBackup", .strings = { id } };
        int r;

        *ret = cli->options.service;
        if (*ret)
                return 0;
        r = client_call(cli->client, &call, ret_reply, &cli->error);
        if (r >= 0)
                *ret = field_text(json_object_array_get_idx(*ret_reply, 0), "backup_type");
        return r;
}

static int ask(Cli *cli, const char *id, const char *type) {
        if (cli->options.into || cli->options.dry_run)
                return 0; /* nothing that lives is touched */
        return cli_confirm(
                cli,
                "Exchange the live data of %s%s for backup %.8s? What is there now is kept for a "
                "rollback.",
                strcmp(type, "full") == 0 ? "all services of it" : "service ",
                strcmp(type, "full") == 0 ? "" : type, id);
}

static void print_restore(Cli *cli, const FollowJob *job, const char *restore_id) {
        char size[OUTPUT_CELL_MAX], swap[OUTPUT_CELL_MAX], down[OUTPUT_CELL_MAX];

        output_size(field_u64(job->summary, "bytes"), size);
        output_duration(field_u64(job->summary, "swap_usec"), swap);
        output_duration(field_u64(job->summary, "units_down_usec"), down);
        if (cli->options.into) {
                output_line("%s  extracted into %s: %s in %llu files", restore_id,
                            cli->options.into, size,
                            (unsigned long long) field_u64(job->summary, "files"));
                return;
        }
        output_line("%s  active: method %s from the %s copy, %s; swap %s, units down %s",
                    restore_id, field_text(job->summary, "method"),
                    field_text(job->summary, "from"), size, swap, down);
        output_line(
                "'holdpoint rollback %.8s' goes back, 'holdpoint confirm %.8s' drops the old data",
                restore_id, restore_id);
}

static int
print_json(Cli *cli, const FollowJob *job, const char *restore_id, const char *backup_id) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "restore_id", restore_id) < 0 ||
            json_put_string(o, "backup_id", backup_id) < 0)
                return cli_oom(&cli->error);
        if (job->summary) {
                json_object_object_foreach(job->summary, key, value) {
                        if (json_object_object_add(o, key, json_object_get(value)) < 0)
                                return cli_oom(&cli->error);
                }
        }
        return follow_print_json(cli, job, o);
}

int verb_restore(Cli *cli) {
        _cleanup_json_ json_object *options = json_object_new_object(), *backup = NULL;
        _cleanup_close_ int into_fd = -1, key_fd = -1;
        _cleanup_follow_job_ FollowJob job = { 0 };
        ClientCall call = { .method = "RestoreBackup", .has_options = true, .options = options };
        const char *type = "", *restore_id;
        char id[IDS_MAX];
        int r, code;

        if (!options)
                return cli_oom(&cli->error);
        if (cli->options.into && cli->options.dry_run)
                return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                                 "--dry-run tells about an exchange of live data: leave out "
                                 "--into");
        r = ids_backup(cli, cli->operands[0], cli->options.service, id);
        if (r >= 0)
                r = find_type(cli, id, &backup, &type);
        if (r >= 0)
                r = ask(cli, id, type);
        if (r >= 0)
                r = fill_options(cli, options);
        if (r >= 0 && cli->options.into) {
                r = into_fd = open_into(cli, cli->options.into);
                call.fds[call.n_fds++] = (ClientFd){ "directory", into_fd };
        }
        if (r >= 0 && cli->options.key) {
                r = key_fd = key_open(cli, cli->options.key);
                call.fds[call.n_fds++] = (ClientFd){ "key", key_fd };
        }
        if (r < 0)
                return r;
        call.strings[0] = id;
        call.strings[1] = type;
        if (cli->options.dry_run)
                return plan_restore(cli, &call);
        r = follow_run(cli, &call, &job);
        if (r < 0)
                return r;
        restore_id = json_object_get_string(json_object_array_get_idx(job.reply, 0));
        code = follow_exit_code(cli, &job);
        if (cli->options.json) {
                r = print_json(cli, &job, restore_id ? restore_id : "", id);
                return r < 0 ? r : code;
        }
        if (cli->options.no_wait)
                follow_print_queued(&job);
        else if (code == CLI_EXIT_DONE || code == CLI_EXIT_PARTIAL)
                print_restore(cli, &job, restore_id ? restore_id : "");
        return code;
}
