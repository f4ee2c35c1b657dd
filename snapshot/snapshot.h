#pragma once

/*
 * Points in time of file systems. A Volume is what is frozen as one (a btrfs subvolume, a logical
 * volume, or nothing); a provider is a small table of functions, one file each.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/fail.h"
#include "base/json.h"

typedef enum SnapshotKind {
        SNAPSHOT_AUTO, /* btrfs where the path lies on btrfs, else lvm where it can, else none */
        SNAPSHOT_BTRFS,
        SNAPSHOT_LVM,
        SNAPSHOT_NONE,
} SnapshotKind;

const char *snapshot_kind_name(SnapshotKind kind); /* "auto" "btrfs" "lvm" "none" */
int snapshot_kind_parse(const char *text, SnapshotKind *ret);

typedef struct Volume Volume;
typedef struct Snapshot Snapshot;

/*
 * The volume that holds `path` (absolute, clean, from root's configuration; no component may be a
 * link). FAIL_SOURCE_MISSING, FAIL_SNAPSHOT_FAILED when `kind` is not possible there, with
 * the reason; FAIL_SNAPSHOT_FULL when it is, but for want of room. Opens the volume's root and, on
 * btrfs, its area. For LVM the root is that of the mount, and LVM is asked, which may wait.
 */
int volume_find(const char *path, SnapshotKind kind, Volume **ret, Failure *reterr);
void volume_free(Volume *v);
DEFINE_CLEANUP(Volume *, volume_free);

SnapshotKind volume_kind(const Volume *v); /* never AUTO */

/*
 * Of a volume that `auto` found to be NONE: why no snapshot can be made, though the path lies on a
 * logical volume. NULL where nothing is in the way but the file system. Borrowed.
 */
const Failure *volume_fallback(const Volume *v);
bool volume_equal(const Volume *a, const Volume *b);
const char *volume_root(const Volume *v); /* absolute live path of its root; for NONE: "/" */
int volume_root_fd(const Volume *v);      /* borrowed */
int volume_area_fd(const Volume *v);      /* borrowed; -1 where images lie in none */

/*
 * All that a snapshot needs before databases are held: checks that it can be made, and for LVM
 * starts the process that makes it. `name` as for snapshot_take(), of the volume `i` among those
 * of one point. FAIL_SNAPSHOT_FULL, FAIL_SNAPSHOT_FAILED.
 */
int snapshot_prepare(Volume *const *volumes, size_t n, size_t i, const char *name, Failure *reterr);

/*
 * Makes the snapshot `name` (one component, self-describing: hot.BACKUP-ID.N) in the volume's area,
 * writable. Only the ioctl, or the one LVM command, happens here: everything that may wait was done
 * by snapshot_prepare() or before. Safe to call from several threads for different volumes. NONE:
 * succeeds, image = live.
 */
int snapshot_take(Volume *v, const char *name, Snapshot **ret, Failure *reterr);

/*
 * Makes the image's files reachable; nothing else but snapshot_drop() and snapshot_free() works
 * before. After the hold, since it may take long: LVM's are mounted, where nobody sees it. A new
 * image is writable, a kept one that was opened is not.
 */
int snapshot_attach(Snapshot *s, Failure *reterr);

/* Root directory of the image (borrowed); for NONE the live root "/". */
int snapshot_fd(const Snapshot *s);

/* Opens the image of the live `path` (below volume_root()) with fd_open_beneath(). fd or -errno. */
int snapshot_open_path(const Snapshot *s, const char *path, int flags);

/* True if one sync serves both: they lie on one file system. */
bool volume_same_fs(const Volume *a, const Volume *b);

/*
 * Sets the images read-only, syncs each file system once, and records its identity. After this it
 * is never written again. NONE: nothing.
 */
int snapshot_seal(Snapshot *const *images, size_t n, Failure *reterr);

/*
 * To be called twice a second or so while an image is in use: an LVM snapshot that fills up is made
 * larger while there is room. FAIL_SNAPSHOT_FULL once it is of no use any more, or harms its pool.
 */
int snapshot_watch(Snapshot *s, Failure *reterr);

/* Invalid or overflown images are found here, after the last byte was read. btrfs: always fine. */
int snapshot_check(Snapshot *s, Failure *reterr);

/*
 * The sealed image is wanted after this job: nothing of it can be read any more by this handle. 1;
 * 0 if it is not of a kind that is kept (a classic LVM snapshot), so that it is to be dropped.
 */
int snapshot_keep(Snapshot *s, Failure *reterr);

void snapshot_free(Snapshot *s); /* closes; a kept image stays on disk, may wait for LVM */
DEFINE_CLEANUP(Snapshot *, snapshot_free);

/* Removes the image from disk; frees it in any case. */
int snapshot_drop(Snapshot *s, Failure *reterr);

/*
 * Identity of a sealed image as JSON: provider, root (live path), and what the provider knows it
 * by. btrfs: area path, the mount whose top level it is on, name, uuid, parent_uuid, subvolume id,
 * ctransid (after sealing and syncfs; never `generation`), otransid. LVM: uuids of VG, volume,
 * origin and pool, its tag. Owned; NULL if it is not sealed or memory is short.
 */
json_object *snapshot_identity(const Snapshot *s);

/*
 * Opens a kept image by its recorded identity. FAIL_SOURCE_MISSING if it is gone,
 * FAIL_INTEGRITY_FAILURE if what is there is not it (uuid, parent, read-only flag, ctransid). Its
 * files are there after snapshot_attach(). A process that may not use LVM is told what is wrong
 * only then, by the one that opens the image for it, and its snapshot_drop() is -EPERM.
 */
int snapshot_open(json_object *identity, Snapshot **ret, Failure *reterr);

/*
 * True if the kept image of this identity takes room where snapshots of `v` need it: the same thin
 * pool. `v` is one whose snapshot_prepare() was refused, or is done.
 */
bool snapshot_shares_room(json_object *identity, const Volume *v);

/* Who is asked about, and told of, snapshots that Holdpoint made in LVM. */
typedef struct SnapshotSweep {
        bool (*is_ours)(void *userdata, const char *vg_uuid); /* the volume group */
        bool (*is_leftover)(void *userdata, const char *name);
        void (*told)(void *userdata, const char *name, const Failure *why); /* NULL: removed */
        void *userdata;
} SnapshotSweep;

/* True if the path lies on a logical volume that snapshots may be made of; of this group, or of any
 * (NULL). */
bool snapshot_is_lvm(const char *path, const char *vg_uuid);

/*
 * Removes the snapshots with Holdpoint's tags that are leftovers: never any by its name alone, and
 * none in a volume group that is not ours, where they may be those of another machine. Returns how
 * many. The areas of btrfs are their owner's to look through.
 */
int snapshot_sweep_lvm(const SnapshotSweep *sweep, Failure *reterr);

/* ---- areas: the `.holdpoint` directory of a target ---- */

/*
 * Opens (made if needed: root, 0700) the area for `target`: at the root of the subvolume, or
 * elsewhere of the mount, that holds the target's parent. If target is itself the root of its
 * mount, the area inside it, and *ret_is_root is true. An area that is not root's own 0700
 * directory is refused. Returns an fd; `ret_path` (owned, may be NULL) its absolute path. Without
 * `create` a missing one is -ENOENT with FAIL_SOURCE_MISSING, and *ret_is_root still true or false.
 */
int area_open(const char *target, bool create, char **ret_path, bool *ret_is_root, Failure *reterr);

/* ---- trees: what the swap works on ---- */

typedef enum TreeKind {
        TREE_ABSENT,
        TREE_FILE,
        TREE_DIRECTORY,
        TREE_SUBVOLUME,
        TREE_OTHER
} TreeKind;

/*
 * Identity of one tree, stable over renames: fsid + subvolume id + uuid for a subvolume, else fsid
 * (or device) + inode + birth time.
 */
typedef struct TreeId {
        TreeKind kind;
        uint8_t fsid[16];
        uint64_t ino, subvolume, btime_sec;
        uint32_t btime_nsec;
        uint8_t uuid[16];
} TreeId;

int tree_identify(int dirfd,
                  const char *name,
                  TreeId *ret,
                  Failure *reterr); /* absent is success */
bool tree_id_equal(const TreeId *a, const TreeId *b);

/* True if the directory lies on the file system that the tree was on, by the file system's own id.
 */
bool tree_is_on_fs(int dirfd, const TreeId *id);
json_object *tree_id_json(const TreeId *id); /* owned */
int tree_id_read(json_object *o, TreeId *ret);

/* A new empty subvolume, or a writable snapshot of `image_fd` (a subvolume root), in `dirfd`. */
int tree_make_subvolume(int dirfd, const char *name, Failure *reterr);
int tree_make_snapshot(int image_fd, int dirfd, const char *name, Failure *reterr);

/*
 * Removes a tree of any kind in an area. A subvolume with a nested subvolume in it is -ENOTEMPTY
 * and stays; never recursive across subvolumes. Absent is success.
 */
int tree_remove(int dirfd,
                const char *name,
                bool (*interrupted)(void *),
                void *userdata,
                Failure *reterr);

/*
 * renameat2(RENAME_EXCHANGE), or RENAME_NOREPLACE when exactly one side is absent, then fsync of
 * both parents. Identities are compared before (-ESTALE, FAIL_TARGET_IN_USE, when a name is not
 * what `a`/`b` say).
 */
int tree_exchange(int dirfd_a,
                  const char *name_a,
                  const TreeId *a,
                  int dirfd_b,
                  const char *name_b,
                  const TreeId *b,
                  Failure *reterr);

/*
 * Proof that nobody holds `path`: open files, working and root directories, mappings, mounts on or
 * below it, in every process and mount namespace but the caller itself. A /proc entry that cannot
 * be read counts as busy. 0, or -EBUSY with FAIL_TARGET_IN_USE naming process and what it holds. A
 * subvolume that is mounted at `path` is not held by that mount, nor by its copies in other
 * namespaces that come and go with it.
 */
int tree_prove_unused(const char *path, Failure *reterr);

/* A place in a file system, as mount tables show it. */
typedef struct TreePlace {
        dev_t dev;
        char *where; /* owned */
} TreePlace;

/* The place of what is mounted at `path`; and proof that no mount of any namespace shows it or a
 * part of it any more. As above. */
int tree_find_mounted(const char *path, TreePlace *ret, Failure *reterr);
int tree_prove_unmounted(const TreePlace *place, const char *path, Failure *reterr);
