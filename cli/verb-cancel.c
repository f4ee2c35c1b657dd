#include <string.h>

#include "cli/client.h"
#include "cli/fields.h"
#include "cli/ids.h"
#include "cli/output.h"

int verb_cancel(Cli *cli) {
        uint32_t id;
        ClientCall get = { .method = "GetJob", .number = &id };
        ClientCall cancel = { .method = "Cancel", .has_options = true };
        _cleanup_json_ json_object *reply = NULL, *o = json_object_new_object();
        json_object *job;
        int r = ids_job(cli, cli->operands[0], &id);

        /* Asked for first: the object of a finished job is gone after a while, its record is not.
         */
        if (r >= 0)
                r = client_call(cli->client, &get, &reply, &cli->error);
        if (r < 0)
                return r;
        job = json_object_array_get_idx(reply, 0);
        if (strcmp(field_text(job, "state"), "finished") == 0)
                return cli_error(&cli->error, CLI_EXIT_FAILED, "InvalidArgument",
                                 "job %u has ended already (%s)", id, field_text(job, "result"));
        cancel.job = id;
        r = client_call(cli->client, &cancel, NULL, &cli->error);
        if (r < 0)
                return r;
        if (!cli->options.json) {
                output_line("job %u is being canceled; it stops at its next safe point", id);
                return 0;
        }
        if (!o || json_put_u64(o, "job", id) < 0 || json_put_string(o, "state", "canceling") < 0)
                return cli_oom(&cli->error);
        output_json(o);
        return 0;
}
