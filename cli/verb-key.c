#include <string.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/key.h"
#include "cli/output.h"

static int print_state(Cli *cli, const char *key, const char *text) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!cli->options.json) {
                output_line("%s", text);
                return 0;
        }
        if (!o || json_put_bool(o, key, true) < 0)
                return cli_oom(&cli->error);
        output_json(o);
        return 0;
}

static int key_export(Cli *cli) {
        _cleanup_close_ int fd = -1;
        ClientCall call = { .method = "ExportRecoveryKey", .has_options = true, .ret_fd = &fd };
        const char *path = cli->options.output;
        bool to_stdout = !path || strcmp(path, "-") == 0;
        int r;

        if (to_stdout && cli->options.json)
                return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                                 "--json and the key cannot both go to standard output: give a "
                                 "file with -o");
        r = client_call(cli->client, &call, NULL, &cli->error);
        if (r >= 0)
                r = key_save(cli, fd, to_stdout ? NULL : path);
        if (r < 0)
                return r;
        output_note("Keep this key away from this host. 'holdpoint key prove FILE' shows that the "
                    "copy opens the backups.");
        return to_stdout ? 0 : print_state(cli, "exported", path);
}

static int key_prove(Cli *cli) {
        _cleanup_close_ int fd = -1;
        ClientCall call = { .method = "ProveRecoveryKey", .stream = &fd };
        int r;

        if (cli->n_operands != 2)
                return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                                 "'holdpoint key prove' needs the FILE with the key");
        r = fd = key_open(cli, cli->operands[1]);
        if (r >= 0)
                r = client_call(cli->client, &call, NULL, &cli->error);
        return r < 0 ? r : print_state(cli, "proven", "proven: this key opens the backups");
}

static int key_forget(Cli *cli) {
        ClientCall call = { .method = "ForgetPrivateKey", .has_options = true };
        int r = cli_confirm(cli, "Take the private key off this host? Restores from the repository "
                                 "then need --key FILE with the recovery key.");

        if (r >= 0)
                r = client_call(cli->client, &call, NULL, &cli->error);
        return r < 0 ? r
                     : print_state(cli, "forgotten", "the private key is no longer on this host");
}

int verb_key(Cli *cli) {
        static const struct {
                const char *name;
                size_t operands;
                VerbFunction run;
        } actions[] = {
                { "export-recovery", 1, key_export },
                { "prove", 2, key_prove },
                { "forget-private", 1, key_forget },
        };

        for (size_t i = 0; i < ELEMENTSOF(actions); i++)
                if (strcmp(cli->operands[0], actions[i].name) == 0 &&
                    cli->n_operands <= actions[i].operands)
                        return actions[i].run(cli);
        return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                         "'holdpoint key' knows export-recovery, prove FILE and forget-private, "
                         "not '%s'",
                         cli->operands[cli->n_operands > 1 ? 1 : 0]);
}
