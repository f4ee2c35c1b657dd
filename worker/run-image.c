/*
 * open: a kept LVM image for another worker of root's, which reads it through the descriptor that
 * it gets, and hangs up when it is done. The one verb of the class `image`, so that the class that
 * restores needs neither LVM nor mounts. The agent has no part in it.
 */

#include <errno.h>
#include <string.h>

#include "base/fd.h"
#include "snapshot/snapshot.h"
#include "worker/run.h"

static int send_image(Work *w, const Snapshot *s, Failure *reterr) {
        _cleanup_json_ json_object *m = proto_new("image");
        int fd = snapshot_fd(s);
        int r = m ? proto_send(w->socket, m, &fd, 1) : -ENOMEM;

        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "handing an image over") : 0;
}

int run_open_image(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(snapshot_freep) Snapshot *s = NULL;
        json_object *identity;
        const char *provider;
        int r;

        if (json_get_object(w->request, "identity", &identity) < 0 ||
            json_get_string(identity, "provider", &provider) < 0 ||
            strcmp(provider, snapshot_kind_name(SNAPSHOT_LVM)) != 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "request: no LVM image");
        r = snapshot_open(identity, &s, reterr);
        if (r >= 0)
                r = snapshot_attach(s, reterr);
        if (r >= 0)
                r = send_image(w, s, reterr);
        while (r >= 0 && !work_interrupted(w))
                (void) fd_wait_readable(w->socket, 1000); /* it hangs up, or ends */
        return r;
}
