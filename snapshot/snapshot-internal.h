#pragma once

/*
 * What the files of this folder share: places on disk, the table of a provider, volumes and images.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/fail.h"
#include "base/json.h"
#include "snapshot/snapshot.h"

/* ---- places (place.c) ---- */

typedef struct Place {
        uint64_t mount; /* id of the mount, as in mountinfo */
        dev_t dev;      /* on btrfs: of the subvolume */
        uint64_t ino;
        mode_t mode;
        uid_t uid;
        gid_t gid;
        uint64_t btime_sec;
        uint32_t btime_nsec;
        bool locked; /* immutable or append-only */
} Place;

/* What an open descriptor (O_PATH is enough) is. 0 or negative errno. */
int place_stat(int fd, Place *ret);

bool place_is_btrfs(int fd);
bool place_is_subvolume(int fd, const Place *place); /* the root of one */

/* True if `name` is one component: not empty, no slash, neither "." nor "..". */
bool place_is_name(const char *name);

/*
 * Opens an absolute clean path without following a link in any component; the link is named in the
 * failure. FAIL_SOURCE_MISSING if it is not there, else `code`.
 */
int place_open(const char *path, int flags, FailCode code, Failure *reterr);

/* The directory of `path`: owned; "/" for "/". */
char *place_parent(const char *path);

/*
 * The nearest root at or above `path`: of a subvolume, else of the mount. Nothing above the mount
 * that holds `path` is looked at. Returns a readable descriptor and the owned path.
 */
int place_find_root(const char *path,
                    char **ret_path,
                    bool *ret_is_subvolume,
                    FailCode code,
                    Failure *reterr);

/* ---- areas (area.c) ---- */

/* Refuses a directory that is not root's alone. `path` is for the message. */
int area_check(int fd, const char *path, Failure *reterr);

/* 1 if `target` is the root of a mount, 0 if not or absent; a link is refused. */
int area_is_mount_root(const char *target, Failure *reterr);

/* The area at the root of the subvolume that holds `dir`, a path relative to the file system's top
 * level `top`. As area_open(). */
int area_open_on_top(int top, const char *dir, bool create, char **ret_path, Failure *reterr);

/* ---- volumes and images (snapshot.c) ---- */

/* A provider. Functions that it does not need are NULL: all but find, take, freeze … open. */
typedef struct SnapshotOps {
        SnapshotKind kind;
        /* Fills what is the provider's own of a volume that has ops and kind; -EOPNOTSUPP: what
         * lies there is of a kind that cannot be frozen. */
        int (*find)(Volume *v, const char *path, Failure *reterr);
        void (*forget)(Volume *v);
        int (*prepare)(Volume *const *all, size_t n, size_t i, const char *name, Failure *reterr);
        int (*take)(Volume *v, const char *name, Snapshot *s, Failure *reterr);
        int (*attach)(Snapshot *s, Failure *reterr);
        int (*freeze)(Snapshot *s, Failure *reterr);   /* nobody writes it any more */
        int (*identify)(Snapshot *s, Failure *reterr); /* once all of it is on disk */
        int (*watch)(Snapshot *s, Failure *reterr);
        int (*check)(Snapshot *s, Failure *reterr);
        int (*keep)(Snapshot *s, Failure *reterr);
        int (*drop)(Snapshot *s, Failure *reterr);
        int (*describe)(const Snapshot *s, json_object *o);
        int (*open)(json_object *identity, Snapshot *s, Failure *reterr);
        void (*close)(Snapshot *s);
} SnapshotOps;

extern const SnapshotOps btrfs_ops;
extern const SnapshotOps lvm_ops;
extern const SnapshotOps none_ops;

struct Volume {
        const SnapshotOps *ops;
        char *root;
        int fd;
        char *area; /* of btrfs alone, as area_fd and mount */
        int area_fd;
        json_object *mount; /* it is mounted by itself, and its area lies on the top level */
        uint8_t fsid[16];
        uint64_t subvolume;
        struct LvmOrigin *lvm; /* of LVM's alone, as in an image */
        Failure *fallback;     /* why `auto` did not become LVM's; NULL: it was not to */
};

struct Snapshot {
        const SnapshotOps *ops;
        char *root; /* live path of the volume */
        int fd;
        char *area, *name;
        int area_fd;
        json_object *mount; /* as in a volume */
        uint8_t fsid[16];
        bool sealed;
        struct LvmImage *lvm;
        /* From here on: known once sealed. */
        uint8_t uuid[16], parent_uuid[16];
        uint64_t subvolume, ctransid, otransid;
};
