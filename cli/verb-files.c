#include <stdio.h>
#include <string.h>

#include "cli/fields.h"
#include "cli/ids.h"
#include "cli/output.h"
#include "cli/receive.h"

/* Like a long listing of ls: type and mode, owner, size, time, path. */
static void show_file(json_object *o) {
        char size[OUTPUT_CELL_MAX], when[OUTPUT_CELL_MAX];
        const char *target = field_text(o, "target"), *link = field_text(o, "link");
        const char *to = *target ? target : link;

        output_size(field_u64(o, "size"), size);
        output_time(field_text(o, "mtime"), when);
        output_line("%-9s %4s %5llu:%-5llu %6s  %s  %s%s%s", field_text(o, "type"),
                    field_text(o, "mode"), (unsigned long long) field_u64(o, "uid"),
                    (unsigned long long) field_u64(o, "gid"), size, when, field_text(o, "path"),
                    *to ? " -> " : "", to);
}

int verb_files(Cli *cli) {
        char id[IDS_MAX];
        const char *service = cli->options.service ?: "";
        const char *path = cli->n_operands > 1        ? cli->operands[1]
                           : cli->options.n_paths > 0 ? cli->options.paths[0]
                                                      : "";
        ClientCall call = { .method = "ListFiles",
                            .strings = { id, service, path },
                            .has_options = true };
        int r;

        if (cli->options.n_paths + cli->n_operands > 2)
                return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                                 "one path can be listed at a time");
        r = ids_backup(cli, cli->operands[0], cli->options.service, id);
        return r < 0 ? r : receive_lines(cli, &call, show_file);
}
