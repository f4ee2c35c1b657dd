#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/step.h"
#include "base/text.h"
#include "snapshot/btrfs.h"
#include "snapshot/snapshot-internal.h"

/*
 * The swap of two trees. An exchange is one atomic rename that becomes durable with the fsync of
 * the *parent* directories; the fsync of what was swapped does not do it (measured on btrfs). What
 * an interrupted swap left behind is told by identities alone, so they must survive a rename, a
 * remount and a reboot: hence the identity of the file system by its own id and never by a device
 * number, which for btrfs and device-mapper is handed out anew.
 */

/* The head of what XFS_IOC_FSGEOMETRY_V1 returns, whose header Debian has in a package of XFS's
 * own. */
typedef struct XfsGeometry {
        uint32_t sizes[8];
        uint64_t blocks[4];
        uint8_t uuid[16];
        uint32_t rest[7];
} XfsGeometry;

#define XFS_GEOMETRY_IOCTL _IOR('X', 100, XfsGeometry)

/* A directory may be given as O_PATH, on which neither ioctl() nor fsync() works. */
static int readable(int dirfd) {
        int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        return fd < 0 ? -errno : fd;
}

/* `fd` is a directory, opened for reading, of the file system in question. */
static int file_system_id(int fd, uint8_t ret[16]) {
        struct statfs fs;
        struct stat st;
        uint64_t id;

        if (fstatfs(fd, &fs) < 0)
                return -errno;
        if ((unsigned long) fs.f_type == BTRFS_SUPER_MAGIC)
                return btrfs_fsid(fd, ret);
        if ((unsigned long) fs.f_type == XFS_SUPER_MAGIC) {
                XfsGeometry geometry; /* its f_fsid is only the device number */

                if (ioctl(fd, XFS_GEOMETRY_IOCTL, &geometry) < 0)
                        return -errno;
                memcpy(ret, geometry.uuid, sizeof(geometry.uuid));
                return 0;
        }
        memset(ret, 0, 16);
        memcpy(&id, &fs.f_fsid, sizeof(id)); /* ext4: made of its uuid */
        if (id == 0) {
                if (fstat(fd, &st) < 0)
                        return -errno;
                id = st.st_dev;
        }
        put_le64(ret, id);
        return 0;
}

static int describe_subvolume(int fd, TreeId *id) {
        BtrfsSubvolume info;
        int r = btrfs_subvolume_info(fd, &info);

        if (r < 0)
                return r;
        id->kind = TREE_SUBVOLUME;
        id->subvolume = info.id;
        memcpy(id->uuid, info.uuid, sizeof(id->uuid));
        return 0;
}

/* Inode numbers and birth times repeat in each snapshot: a plain tree is known with its subvolume.
 */
static int describe_plain(int dirfd, const Place *place, TreeId *id) {
        if (S_ISREG(place->mode))
                id->kind = TREE_FILE;
        else if (S_ISDIR(place->mode) && !(place->ino == BTRFS_STUB_INO && place_is_btrfs(dirfd)))
                id->kind = TREE_DIRECTORY;
        else
                id->kind = TREE_OTHER;
        id->btime_sec = place->btime_sec;
        id->btime_nsec = place->btime_nsec;
        return place_is_btrfs(dirfd) ? btrfs_subvolume_id(dirfd, &id->subvolume) : 0;
}

/* Opens nothing that may be waited for or that has side effects: `name` may be a FIFO or a device.
 */
static int identify(int dirfd, const char *name, TreeId *ret) {
        _cleanup_close_ int fd = -1, dir = -1;
        TreeId id = { 0 };
        Place place, above;
        int r;

        fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT) {
                *ret = (TreeId){ .kind = TREE_ABSENT };
                return 0;
        }
        r = fd < 0 ? -errno : place_stat(fd, &place);
        if (r < 0)
                return r;
        if (S_ISDIR(place.mode) && !(place.ino == BTRFS_STUB_INO && place_is_btrfs(fd)))
                dir = fd_reopen(fd, O_RDONLY | O_DIRECTORY);
        else
                dir = readable(dirfd);
        if (dir < 0)
                return dir;
        r = place_stat(dir, &above);
        if (r >= 0 && above.mount != place.mount)
                r = -EXDEV; /* a file that is a mount point: the directory says nothing about it */
        if (r < 0)
                return r;
        r = file_system_id(dir, id.fsid);
        if (r < 0)
                return r;
        id.ino = place.ino;
        r = place_is_subvolume(fd, &place) ? describe_subvolume(dir, &id)
                                           : describe_plain(dir, &place, &id);
        if (r < 0)
                return r;
        *ret = id;
        return 0;
}

int tree_identify(int dirfd, const char *name, TreeId *ret, Failure *reterr) {
        int r = place_is_name(name) ? identify(dirfd, name, ret) : -EINVAL;

        if (r == -EXDEV)
                return fail_set(reterr, FAIL_TARGET_IN_USE, EXDEV,
                                "'%s' is a file mounted by itself: unmount it first", name);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot identify '%s'", name);
        return 0;
}

bool tree_id_equal(const TreeId *a, const TreeId *b) {
        if (a->kind != b->kind)
                return false;
        if (a->kind == TREE_ABSENT)
                return true;
        if (memcmp(a->fsid, b->fsid, sizeof(a->fsid)) != 0 || a->subvolume != b->subvolume)
                return false;
        if (a->kind == TREE_SUBVOLUME)
                return memcmp(a->uuid, b->uuid, sizeof(a->uuid)) == 0;
        return a->ino == b->ino && a->btime_sec == b->btime_sec && a->btime_nsec == b->btime_nsec;
}

bool tree_is_on_fs(int dirfd, const TreeId *id) {
        _cleanup_close_ int fd = readable(dirfd);
        uint8_t fsid[16];

        return fd >= 0 && file_system_id(fd, fsid) >= 0 && memcmp(fsid, id->fsid, 16) == 0;
}

static const char *const kind_names[] = {
        [TREE_ABSENT] = "absent",       [TREE_FILE] = "file",   [TREE_DIRECTORY] = "directory",
        [TREE_SUBVOLUME] = "subvolume", [TREE_OTHER] = "other",
};

json_object *tree_id_json(const TreeId *id) {
        _cleanup_json_ json_object *o = json_object_new_object();
        char fsid[2 * sizeof(id->fsid) + 1], uuid[2 * sizeof(id->uuid) + 1];

        text_hex(id->fsid, sizeof(id->fsid), fsid);
        text_hex(id->uuid, sizeof(id->uuid), uuid);
        if (!o || json_put_string(o, "kind", kind_names[id->kind]) < 0 ||
            json_put_string(o, "fsid", fsid) < 0 || json_put_u64(o, "ino", id->ino) < 0 ||
            json_put_u64(o, "subvolume", id->subvolume) < 0 ||
            json_put_string(o, "uuid", uuid) < 0 ||
            json_put_u64(o, "btime_sec", id->btime_sec) < 0 ||
            json_put_u64(o, "btime_nsec", id->btime_nsec) < 0)
                return NULL;
        return TAKE_PTR(o);
}

int tree_id_read(json_object *o, TreeId *ret) {
        const char *kind, *fsid, *uuid;
        TreeId id = { 0 };
        uint64_t nsec;
        size_t i;

        if (json_get_string(o, "kind", &kind) < 0 || json_get_string(o, "fsid", &fsid) < 0 ||
            json_get_string(o, "uuid", &uuid) < 0 || json_get_u64(o, "ino", &id.ino) < 0 ||
            json_get_u64(o, "subvolume", &id.subvolume) < 0 ||
            json_get_u64(o, "btime_sec", &id.btime_sec) < 0 ||
            json_get_u64(o, "btime_nsec", &nsec) < 0)
                return -EINVAL;
        for (i = 0; i < ELEMENTSOF(kind_names); i++)
                if (strcmp(kind, kind_names[i]) == 0)
                        break;
        if (i == ELEMENTSOF(kind_names) || nsec > UINT32_MAX ||
            text_unhex(fsid, id.fsid, sizeof(id.fsid)) < 0 ||
            text_unhex(uuid, id.uuid, sizeof(id.uuid)) < 0)
                return -EINVAL;
        id.kind = (TreeKind) i;
        id.btime_nsec = (uint32_t) nsec;
        *ret = id;
        return 0;
}

static int make_failed(int r, const char *name, Failure *reterr) {
        return fail_errno(reterr, fail_code_for_write(r, FAIL_NOT_RESTORABLE), -r,
                          "cannot make the subvolume '%s'", name);
}

int tree_make_subvolume(int dirfd, const char *name, Failure *reterr) {
        _cleanup_close_ int fd = readable(dirfd);
        int r = fd < 0 ? fd : !place_is_name(name) ? -EINVAL : btrfs_subvolume_create(fd, name);

        return r < 0 ? make_failed(r, name, reterr) : 0;
}

int tree_make_snapshot(int image_fd, int dirfd, const char *name, Failure *reterr) {
        _cleanup_close_ int fd = readable(dirfd);
        int r = fd < 0                 ? fd
                : !place_is_name(name) ? -EINVAL
                                       : btrfs_subvolume_snapshot(image_fd, fd, name);

        return r < 0 ? make_failed(r, name, reterr) : 0;
}

int tree_remove(int dirfd,
                const char *name,
                bool (*interrupted)(void *),
                void *userdata,
                Failure *reterr) {
        TreeId id;
        int r;

        r = tree_identify(dirfd, name, &id, reterr);
        if (r < 0)
                return r;
        if (id.kind == TREE_SUBVOLUME) {
                _cleanup_close_ int fd = readable(dirfd);

                r = fd < 0 ? fd : btrfs_subvolume_delete(fd, name);
        } else
                r = fs_remove_tree(dirfd, name, interrupted, userdata);
        if (r >= 0 || r == -ENOENT)
                return 0;
        if (r == -ECANCELED)
                return fail_set(reterr, FAIL_CANCELED, ECANCELED, "removing '%s' was canceled",
                                name);
        if (r == -ENOTEMPTY || r == -EXDEV)
                return fail_set(reterr, FAIL_TARGET_IN_USE, -r,
                                "'%s' has a subvolume or a mount in it, which may be live and is "
                                "not touched: "
                                "move that out, then remove '%s' again",
                                name, name);
        return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot remove '%s'", name);
}

static bool is_locked(int dirfd, const char *name) {
        _cleanup_close_ int fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        Place place;

        return fd >= 0 && place_stat(fd, &place) >= 0 && place.locked;
}

typedef struct Side {
        int dirfd;
        const char *name;
} Side;

static int locked_failure(const Side *side, Failure *reterr) {
        const char *name = is_locked(side->dirfd, side->name) ? side->name
                           : is_locked(side->dirfd, ".")      ? "its parent"
                                                              : NULL;

        if (!name)
                return 0;
        return fail_set(reterr, FAIL_TARGET_IN_USE, EPERM,
                        "cannot swap '%s': %s%s%s is immutable or append-only; clear that with "
                        "chattr -i -a",
                        side->name, name == side->name ? "'" : "", name,
                        name == side->name ? "'" : "");
}

static int rename_failed(int r, const Side *a, const Side *b, Failure *reterr) {
        if (r == -EPERM && (locked_failure(a, reterr) < 0 || locked_failure(b, reterr) < 0))
                return r;
        if (r == -EXDEV)
                return fail_set(
                        reterr, FAIL_NOT_RESTORABLE, EXDEV,
                        "cannot swap '%s' and '%s': they lie in different subvolumes or mounts "
                        "(ReadWritePaths= of a unit makes a mount, too)",
                        a->name, b->name);
        if (r == -EBUSY)
                return fail_set(
                        reterr, FAIL_TARGET_IN_USE, EBUSY,
                        "cannot swap '%s' and '%s': one of them is a mount point or a swap file",
                        a->name, b->name);
        if (r == -EEXIST || r == -ENOENT)
                return fail_set(reterr, FAIL_TARGET_IN_USE, ESTALE,
                                "'%s' or '%s' was changed by somebody else: nothing was swapped",
                                a->name, b->name);
        return fail_errno(reterr, fail_code_for_write(r, FAIL_NOT_RESTORABLE), -r,
                          "cannot swap '%s' and '%s'", a->name, b->name);
}

/* Is each name what it should be? */
static int expect(const Side *a,
                  const TreeId *id_a,
                  const Side *b,
                  const TreeId *id_b,
                  const char *when,
                  Failure *reterr) {
        const Side *wrong = NULL;
        TreeId found_a, found_b;
        int r;

        r = tree_identify(a->dirfd, a->name, &found_a, reterr);
        if (r >= 0)
                r = tree_identify(b->dirfd, b->name, &found_b, reterr);
        if (r < 0)
                return r;
        if (!tree_id_equal(&found_a, id_a))
                wrong = a;
        else if (!tree_id_equal(&found_b, id_b))
                wrong = b;
        if (!wrong)
                return 0;
        return fail_set(reterr, FAIL_TARGET_IN_USE, ESTALE,
                        "'%s' is not the tree that it was, %s: somebody else changed it",
                        wrong->name, when);
}

static int sync_dir(int dirfd) {
        _cleanup_close_ int fd = readable(dirfd);

        return fd < 0 ? fd : fs_sync(fd);
}

/* A tree with the modification time it has; nothing if it is not there. */
typedef struct Keeper {
        int fd;
        struct stat st;
} Keeper;

static Keeper keep_time(const Side *side) {
        Keeper k = { .fd = openat(side->dirfd, side->name, O_PATH | O_NOFOLLOW | O_CLOEXEC) };

        if (k.fd >= 0 && fstat(k.fd, &k.st) < 0)
                k.fd = fd_close(k.fd);
        return k;
}

/* On xfs a directory that gets another parent has been modified: its ".." is another one. */
static void put_time_back(Keeper *k) {
        struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, k->st.st_mtim };
        struct stat now;

        if (k->fd >= 0 && fstat(k->fd, &now) == 0 &&
            (now.st_mtim.tv_sec != k->st.st_mtim.tv_sec ||
             now.st_mtim.tv_nsec != k->st.st_mtim.tv_nsec))
                (void) utimensat(k->fd, "", times, AT_EMPTY_PATH); /* only a time, after the fact */
        k->fd = fd_close(k->fd);
}

static int exchange(const Side *a, const TreeId *id_a, const Side *b, const TreeId *id_b) {
        const Side *from = id_a->kind == TREE_ABSENT ? b : a, *to = from == a ? b : a;
        bool one = id_a->kind == TREE_ABSENT || id_b->kind == TREE_ABSENT;
        Keeper kept_a = keep_time(a), kept_b = keep_time(b);
        int r = 0;

        if (renameat2(from->dirfd, from->name, to->dirfd, to->name,
                      one ? RENAME_NOREPLACE : RENAME_EXCHANGE) < 0)
                r = -errno;
        put_time_back(&kept_a);
        put_time_back(&kept_b);
        if (r < 0)
                return r;
        step("tree-exchanged");
        r = sync_dir(a->dirfd);
        if (r >= 0)
                r = sync_dir(b->dirfd);
        /* Positive: swapped, but perhaps not for good. */
        return r < 0 ? -r : 0;
}

int tree_exchange(int dirfd_a,
                  const char *name_a,
                  const TreeId *a,
                  int dirfd_b,
                  const char *name_b,
                  const TreeId *b,
                  Failure *reterr) {
        Side side_a = { dirfd_a, name_a }, side_b = { dirfd_b, name_b };
        int r;

        if (a->kind == TREE_ABSENT && b->kind == TREE_ABSENT)
                return fail_set(reterr, FAIL_SOURCE_MISSING, ENOENT,
                                "neither '%s' nor '%s' is there", name_a, name_b);
        r = expect(&side_a, a, &side_b, b, "before the swap", reterr);
        if (r < 0)
                return r;
        r = exchange(&side_a, a, &side_b, b);
        if (r < 0)
                return rename_failed(r, &side_a, &side_b, reterr);
        if (r > 0)
                return fail_errno(reterr, FAIL_INTERNAL, r,
                                  "'%s' and '%s' were swapped, but it could not be made durable",
                                  name_a, name_b);
        return expect(&side_a, b, &side_b, a, "after the swap", reterr);
}
