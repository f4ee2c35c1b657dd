#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "snapshot/snapshot-internal.h"

/*
 * No snapshot: the image is the live system, so that whoever reads it needs no second way. Files
 * may change under the reader, who has to look (and says `consistency none`).
 */

static int none_find(Volume *v, const char *path, Failure *reterr) {
        v->root = strdup("/");
        if (!v->root)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        v->fd = place_open("/", O_RDONLY | O_DIRECTORY, FAIL_SNAPSHOT_FAILED, reterr);
        return v->fd < 0 ? v->fd : 0;
}

static int none_take(Volume *v, const char *name, Snapshot *s, Failure *reterr) {
        int fd = fd_reopen(v->fd, O_RDONLY | O_DIRECTORY);

        if (fd < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -fd, "cannot open '/'");
        s->fd = fd;
        return 0;
}

static int none_done(Snapshot *s, Failure *reterr) {
        s->sealed = true;
        return 0;
}

static int none_describe(const Snapshot *s, json_object *o) {
        return 0;
}

static int none_open(json_object *identity, Snapshot *s, Failure *reterr) {
        return fail_set(
                reterr, FAIL_SOURCE_MISSING, ENOENT,
                "this backup was made without a snapshot: there is no image of it on this disk");
}

const SnapshotOps none_ops = {
        .kind = SNAPSHOT_NONE,
        .find = none_find,
        .take = none_take,
        .freeze = none_done,
        .identify = none_done,
        .check = none_done,
        .drop = none_done,
        .describe = none_describe,
        .open = none_open,
};
