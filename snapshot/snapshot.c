#include "snapshot/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/text.h"
#include "snapshot/lvm.h"
#include "snapshot/snapshot-internal.h"

static const char *const kind_names[] = {
        [SNAPSHOT_AUTO] = "auto",
        [SNAPSHOT_BTRFS] = "btrfs",
        [SNAPSHOT_LVM] = "lvm",
        [SNAPSHOT_NONE] = "none",
};

static const SnapshotOps *const providers[ELEMENTSOF(kind_names)] = {
        [SNAPSHOT_BTRFS] = &btrfs_ops,
        [SNAPSHOT_LVM] = &lvm_ops,
        [SNAPSHOT_NONE] = &none_ops,
};

const char *snapshot_kind_name(SnapshotKind kind) {
        return kind_names[kind];
}

int snapshot_kind_parse(const char *text, SnapshotKind *ret) {
        for (size_t i = 0; i < ELEMENTSOF(kind_names); i++)
                if (strcmp(text, kind_names[i]) == 0) {
                        *ret = (SnapshotKind) i;
                        return 0;
                }
        return -EINVAL;
}

/* What `auto` means for the open path. */
static SnapshotKind choose(int fd) {
        if (place_is_btrfs(fd))
                return SNAPSHOT_BTRFS;
        return lvm_is_candidate(fd, NULL) ? SNAPSHOT_LVM : SNAPSHOT_NONE;
}

static int find_as(const char *path, SnapshotKind kind, Volume **ret, Failure *reterr) {
        _cleanup_(volume_freep) Volume *v = calloc(1, sizeof(*v));
        int r;

        if (!v)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        v->ops = providers[kind];
        v->fd = v->area_fd = -1;
        r = v->ops->find(v, path, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(v);
        return 0;
}

static int find_none(const char *path, const Failure *why, Volume **ret, Failure *reterr) {
        _cleanup_(volume_freep) Volume *v = NULL;
        int r = find_as(path, SNAPSHOT_NONE, &v, reterr);

        if (r < 0)
                return r;
        v->fallback = malloc(sizeof(*v->fallback));
        if (!v->fallback)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        *v->fallback = *why;
        *ret = TAKE_PTR(v);
        return 0;
}

int volume_find(const char *path, SnapshotKind kind, Volume **ret, Failure *reterr) {
        _cleanup_close_ int fd = -1;
        bool is_auto = kind == SNAPSHOT_AUTO;
        Failure why = FAILURE_INIT;
        int r;

        fd = place_open(path, O_PATH, FAIL_SNAPSHOT_FAILED, reterr);
        if (fd < 0)
                return fd;
        if (kind == SNAPSHOT_BTRFS && !place_is_btrfs(fd))
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, EOPNOTSUPP,
                                "'%s' does not lie on btrfs: set Snapshot=auto or Snapshot=none",
                                path);
        if (is_auto)
                kind = choose(fd);
        r = find_as(path, kind, ret, &why);
        if (r == -EOPNOTSUPP && is_auto && kind == SNAPSHOT_LVM)
                return find_none(path, &why, ret, reterr);
        if (r < 0 && reterr)
                *reterr = why;
        return r;
}

void volume_free(Volume *v) {
        if (!v)
                return;
        if (v->ops->forget)
                v->ops->forget(v);
        fd_close(v->fd);
        fd_close(v->area_fd);
        free(v->root);
        free(v->area);
        free(v->fallback);
        json_object_put(v->mount);
        free(v);
}

SnapshotKind volume_kind(const Volume *v) {
        return v->ops->kind;
}

const Failure *volume_fallback(const Volume *v) {
        return v->fallback;
}

bool volume_equal(const Volume *a, const Volume *b) {
        return a->ops == b->ops && a->subvolume == b->subvolume &&
               memcmp(a->fsid, b->fsid, sizeof(a->fsid)) == 0;
}

const char *volume_root(const Volume *v) {
        return v->root;
}

int volume_root_fd(const Volume *v) {
        return v->fd;
}

int volume_area_fd(const Volume *v) {
        return v->area_fd;
}

int snapshot_prepare(Volume *const *volumes,
                     size_t n,
                     size_t i,
                     const char *name,
                     Failure *reterr) {
        if (!place_is_name(name))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "'%s' cannot be the name of a snapshot", name);
        return volumes[i]->ops->prepare ? volumes[i]->ops->prepare(volumes, n, i, name, reterr) : 0;
}

static Snapshot *snapshot_new(const SnapshotOps *ops) {
        Snapshot *s = calloc(1, sizeof(*s));

        if (s) {
                s->ops = ops;
                s->fd = s->area_fd = -1;
        }
        return s;
}

int snapshot_take(Volume *v, const char *name, Snapshot **ret, Failure *reterr) {
        _cleanup_(snapshot_freep) Snapshot *s = NULL;
        int r;

        if (!place_is_name(name))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "'%s' cannot be the name of a snapshot", name);
        s = snapshot_new(v->ops);
        if (s)
                s->root = strdup(v->root);
        if (!s || !s->root)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        memcpy(s->fsid, v->fsid, sizeof(s->fsid));
        r = v->ops->take(v, name, s, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

int snapshot_attach(Snapshot *s, Failure *reterr) {
        return s->ops->attach ? s->ops->attach(s, reterr) : 0;
}

int snapshot_fd(const Snapshot *s) {
        return s->fd;
}

int snapshot_open_path(const Snapshot *s, const char *path, int flags) {
        const char *below;

        if (!text_is_clean_path(path) || !text_path_is_below(path, s->root))
                return -EINVAL;
        below = path + (strcmp(s->root, "/") == 0 ? 0 : strlen(s->root));
        if (*below == '/')
                below++;
        /* Only the live system has mounts that belong to what is read. */
        return fd_open_beneath(s->fd, *below ? below : ".", flags, 0,
                               s->ops->kind == SNAPSHOT_NONE);
}

bool volume_same_fs(const Volume *a, const Volume *b) {
        return a->ops == b->ops && memcmp(a->fsid, b->fsid, sizeof(a->fsid)) == 0;
}

/* A file system under load takes long for a sync: the images before this one may have had theirs.
 */
static bool is_synced(Snapshot *const *images, size_t i) {
        if (images[i]->ops->kind == SNAPSHOT_NONE)
                return true;
        for (size_t k = 0; k < i; k++)
                if (!images[k]->sealed && images[k]->ops == images[i]->ops &&
                    memcmp(images[k]->fsid, images[i]->fsid, sizeof(images[i]->fsid)) == 0)
                        return true;
        return false;
}

/* One failed sync voids the image: it is not tried again. */
static int sync_image(const Snapshot *s, Failure *reterr) {
        FailCode code;

        if (syncfs(s->fd) == 0)
                return 0;
        code = errno == ENOSPC || errno == EDQUOT ? FAIL_SNAPSHOT_FULL : FAIL_SNAPSHOT_FAILED;
        return fail_errno(reterr, code, errno, "cannot sync the snapshot of '%s'", s->root);
}

int snapshot_seal(Snapshot *const *images, size_t n, Failure *reterr) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < n; i++)
                if (!images[i]->sealed)
                        r = images[i]->ops->freeze(images[i], reterr);
        for (size_t i = 0; r >= 0 && i < n; i++)
                if (!images[i]->sealed && !is_synced(images, i))
                        r = sync_image(images[i], reterr);
        for (size_t i = 0; r >= 0 && i < n; i++)
                if (!images[i]->sealed)
                        r = images[i]->ops->identify(images[i], reterr);
        return r;
}

int snapshot_watch(Snapshot *s, Failure *reterr) {
        return s->ops->watch ? s->ops->watch(s, reterr) : 0;
}

int snapshot_keep(Snapshot *s, Failure *reterr) {
        return s->ops->keep ? s->ops->keep(s, reterr) : 1;
}

int snapshot_check(Snapshot *s, Failure *reterr) {
        return s->ops->check(s, reterr);
}

void snapshot_free(Snapshot *s) {
        if (!s)
                return;
        if (s->ops->close)
                s->ops->close(s);
        fd_close(s->fd);
        fd_close(s->area_fd);
        free(s->root);
        free(s->area);
        json_object_put(s->mount);
        free(s->name);
        free(s);
}

int snapshot_drop(Snapshot *s, Failure *reterr) {
        int r = s->ops->drop(s, reterr);

        snapshot_free(s);
        return r;
}

json_object *snapshot_identity(const Snapshot *s) {
        _cleanup_json_ json_object *o = NULL;

        if (!s->sealed && s->ops->kind != SNAPSHOT_NONE)
                return NULL;
        o = json_object_new_object();
        if (!o || json_put_string(o, "provider", snapshot_kind_name(s->ops->kind)) < 0 ||
            json_put_path(o, "root", s->root) < 0 || s->ops->describe(s, o) < 0)
                return NULL;
        return TAKE_PTR(o);
}

int snapshot_open(json_object *identity, Snapshot **ret, Failure *reterr) {
        _cleanup_(snapshot_freep) Snapshot *s = NULL;
        const char *provider;
        SnapshotKind kind;
        int r;

        if (json_get_string(identity, "provider", &provider) < 0 ||
            snapshot_kind_parse(provider, &kind) < 0 || !providers[kind])
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EINVAL,
                                "the record of a kept image names no known provider");
        s = snapshot_new(providers[kind]);
        if (!s)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        r = json_get_path(identity, "root", &s->root);
        if (r < 0 || !text_is_clean_path(s->root))
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EINVAL,
                                "the record of a kept image has no root");
        r = s->ops->open(identity, s, reterr);
        if (r < 0)
                return r;
        s->sealed = true;
        *ret = TAKE_PTR(s);
        return 0;
}
