#include <string.h>

#include "cli/fields.h"
#include "cli/ids.h"
#include "cli/output.h"
#include "cli/receive.h"

static void show_change(json_object *o) {
        _cleanup_free_ char *what = output_join(field_list(o, "what"));
        const char *change = field_text(o, "change");
        bool added = strcmp(change, "added") == 0, removed = strcmp(change, "removed") == 0;

        output_line("%s %s%s%s%s",
                    added     ? "+"
                    : removed ? "-"
                              : "M",
                    field_text(o, "path"), what && *what ? "  (" : "", what ? what : "",
                    what && *what ? ")" : "");
}

int verb_diff(Cli *cli) {
        char a[IDS_MAX], b[IDS_MAX];
        _cleanup_json_ json_object *options = json_object_new_object();
        ClientCall call = { .method = "DiffBackups",
                            .strings = { a, b },
                            .has_options = true,
                            .options = options };
        int r;

        if (!options || cli_put_string(options, "service", cli->options.service) < 0)
                return cli_oom(&cli->error);
        r = ids_backup(cli, cli->operands[0], cli->options.service, a);
        if (r >= 0)
                r = ids_backup(cli, cli->operands[1], cli->options.service, b);
        return r < 0 ? r : receive_lines(cli, &call, show_change);
}
