#include "cli/client.h"
#include "cli/fields.h"
#include "cli/output.h"

int verb_repository(Cli *cli) {
        ClientCall call = { .method = "GetRepository", .has_options = true };
        _cleanup_json_ json_object *reply = NULL;
        json_object *o;
        int r = client_call(cli->client, &call, &reply, &cli->error);

        if (r < 0)
                return r;
        o = json_object_array_get_idx(reply, 0);
        if (cli->options.json) {
                output_json(o);
                return 0;
        }
        json_object_object_foreach(o, key, value) {
                output_member(key, value);
        }
        return 0;
}
