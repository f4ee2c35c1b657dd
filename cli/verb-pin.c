#include "cli/client.h"
#include "cli/ids.h"
#include "cli/output.h"

static int set_pinned(Cli *cli, bool pinned) {
        char id[IDS_MAX];
        ClientCall call = { .method = "PinBackup", .strings = { id }, .flag = &pinned };
        _cleanup_json_ json_object *o = json_object_new_object();
        int r = ids_backup(cli, cli->operands[0], NULL, id);

        if (r >= 0)
                r = client_call(cli->client, &call, NULL, &cli->error);
        if (r < 0)
                return r;
        if (!cli->options.json) {
                output_line("%s  %s", id, pinned ? "pinned" : "not pinned");
                return 0;
        }
        if (!o || json_put_string(o, "backup_id", id) < 0 || json_put_bool(o, "pinned", pinned) < 0)
                return cli_oom(&cli->error);
        output_json(o);
        return 0;
}

int verb_pin(Cli *cli) {
        return set_pinned(cli, true);
}

int verb_unpin(Cli *cli) {
        return set_pinned(cli, false);
}
