#include <locale.h>
#include <stdio.h>

#include "cli/client.h"
#include "cli/options.h"
#include "cli/output.h"

/*
 * One object on stdout with --json, whatever happens: the verb prints it, or this does when the
 * verb came to nothing. The text for people always goes to stderr.
 */
static void print_error(const Cli *cli) {
        _cleanup_json_ json_object *o = NULL, *e = NULL;

        output_note("holdpoint: %s", cli->error.message);
        if (!cli->options.json || cli->printed)
                return;
        o = json_object_new_object();
        e = json_object_new_object();
        if (!o || !e || json_put_string(e, "name", cli->error.name) < 0 ||
            json_put_string(e, "message", cli->error.message) < 0 ||
            json_put(o, "error", TAKE_PTR(e)) < 0)
                return; /* the text is out */
        output_json(o);
}

static int run(Cli *cli, int argc, char **argv) {
        _cleanup_(client_closep) Client *client = NULL;
        const Verb *verb;
        int r = options_parse(cli, argc, argv, &verb);

        if (r == 1)
                return CLI_EXIT_DONE;
        if (r < 0)
                return r;
        r = client_open(&client, &cli->error);
        if (r < 0 && verb->run != verb_doctor)
                return r;
        cli->client = client;
        r = verb->run(cli);
        cli->client = NULL;
        return r;
}

int main(int argc, char **argv) {
        Cli cli = { .options = CLI_OPTIONS_INIT };
        int r;

        (void) setlocale(LC_CTYPE, ""); /* widths in tables; stays C if there is no such locale */
        r = run(&cli, argc, argv);
        if (cli.error.exit_code != 0)
                print_error(&cli);
        if (r < 0)
                r = cli.error.exit_code != 0 ? cli.error.exit_code : CLI_EXIT_FAILED;
        if (fflush(stdout) != 0 || ferror(stdout)) {
                output_note("holdpoint: the result could not be written");
                return r != 0 ? r : CLI_EXIT_FAILED;
        }
        return r;
}
