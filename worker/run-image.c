/*
 * What another worker of root's cannot open by itself, so that the class that restores needs
 * neither LVM nor mounts. The agent has no part in it. open: a kept LVM image, which that worker
 * reads through the descriptor that it gets, hanging up when it is done. top: the top level of a
 * btrfs, where a mounted subvolume has its name; nobody but that worker holds it then.
 */

#include <errno.h>
#include <string.h>

#include "base/fd.h"
#include "base/text.h"
#include "snapshot/mounted.h"
#include "snapshot/snapshot.h"
#include "worker/run.h"

static int send_image(Work *w, int fd, Failure *reterr) {
        _cleanup_json_ json_object *m = proto_new("image");
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
                r = send_image(w, snapshot_fd(s), reterr);
        while (r >= 0 && !work_interrupted(w))
                (void) fd_wait_readable(w->socket, 1000); /* it hangs up, or ends */
        return r;
}

int run_open_top(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_free_ char *source = NULL;
        _cleanup_close_ int fd = -1;
        uint8_t fsid[16];
        const char *text;
        int r = work_string(w, "fsid", &text, reterr);

        if (r < 0)
                return r;
        if (text_uuid_parse(text, fsid) < 0 || json_get_path(w->request, "source", &source) < 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "request: no file system");
        fd = mounted_mount_top(fsid, source, reterr);
        return fd < 0 ? fd : send_image(w, fd, reterr);
}
