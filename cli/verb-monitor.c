#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/client.h"
#include "cli/fields.h"
#include "cli/output.h"

static const char *const shown[] = { "JobNew", "JobRemoved", "BackupAdded", "BackupRemoved",
                                     "ServiceOverdue" };

static bool is_shown(const char *signal) {
        for (size_t i = 0; i < ELEMENTSOF(shown); i++)
                if (strcmp(shown[i], signal) == 0)
                        return true;
        return false;
}

static int print_event(Cli *cli, json_object *event) {
        json_object *args = field_list(event, "args");
        char now[CLOCK_TEXT_MAX], when[OUTPUT_CELL_MAX];
        _cleanup_free_ char *text = args ? output_join(args) : NULL;

        clock_format(clock_realtime_usec(), now);
        if (cli->options.json) {
                if (json_put_string(event, "time", now) < 0)
                        return cli_oom(&cli->error);
                output_json(event);
                return 0;
        }
        output_time(now, when);
        output_line("%s  %-14s %s", when, field_text(event, "signal"), text ? text : "");
        (void) fflush(stdout); /* main() looks at the stream at the end */
        return 0;
}

int verb_monitor(Cli *cli) {
        ClientCall call = { .method = "GetStatus", .has_options = true };
        int r = client_watch(cli->client, &cli->error);

        /* Signals reach root and the group alone; this tells others why they would wait for ever,
         * and everybody whether there is an agent at all. */
        if (r >= 0)
                r = client_call(cli->client, &call, NULL, &cli->error);
        while (r >= 0) {
                json_object *event;

                switch (client_wait(cli->client, -1, -1)) {
                case CLIENT_WAKE_GONE:
                        return cli_error(&cli->error, CLI_EXIT_NO_AGENT, "Disconnected",
                                         "the agent went away");
                case CLIENT_WAKE_EVENT:
                case CLIENT_WAKE_TIMEOUT:
                case CLIENT_WAKE_INTERRUPT:
                        break;
                }
                while (r >= 0 && (event = client_next_event(cli->client))) {
                        if (is_shown(field_text(event, "signal")))
                                r = print_event(cli, event);
                        json_object_put(event);
                }
        }
        return r;
}
