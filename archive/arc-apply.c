/*
 * An Entry's metadata onto a new object.
 *
 * Order of applying, where each step would undo one that came before its turn: owner (clears setuid
 * and capabilities), xattrs with ACLs (change the group bits of the mode), mode, times, flags (may
 * forbid all the others). Data comes before all of it, but for the flags that say how it is stored.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "archive/arc-internal.h"

#define PROC_FD_MAX  32
#define LIST_BYTES   4096
#define XATTR_STORED "btrfs." /* says how data is stored, and means nothing elsewhere */

/* What a new object takes over from its directory, and must lose if its entry does not have it. */
static const char *const inherited[] = {
        "btrfs.compression",
        "system.posix_acl_access",
        "system.posix_acl_default",
};

static const char *proc_path(int fd, char buf[PROC_FD_MAX]) {
        (void) snprintf(buf, PROC_FD_MAX, "/proc/self/fd/%d", fd);
        return buf;
}

static int apply_fail(Failure *reterr, int errnum, const char *what, const char *path) {
        char shown[ARC_SHOWN_MAX];

        return fail_errno(reterr, fail_code_for_write(errnum, FAIL_NOT_RESTORABLE), errnum,
                          "%s of '%s' cannot be set", what, arc_show(path, shown));
}

/* ---- flags ---- */

/* True if an object without this flag serves as well on a file system that does not know it. */
static bool flag_may_fail(uint32_t flag, int errnum) {
        if (flag & (FS_NODUMP_FL | FS_NOATIME_FL | FS_COMPR_FL | FS_NOCOMP_FL | FS_SYNC_FL |
                    FS_DIRSYNC_FL))
                return true;
        /* Where nothing is ever copied on write, there is nothing to switch off. */
        return flag == FS_NOCOW_FL && (errnum == EOPNOTSUPP || errnum == ENOTTY);
}

static int set_flags(int fd, unsigned flags) {
        return ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0 ? -errno : 0;
}

static const char *flag_text(uint32_t flag) {
        return flag == FS_IMMUTABLE_FL ? "immutable flag"
               : flag == FS_APPEND_FL  ? "append-only flag"
               : flag == FS_NOCOW_FL   ? "no-copy-on-write flag"
                                       : "flags";
}

int arc_flags_apply(int fd, uint32_t want, uint32_t mask, const char *path, Failure *reterr) {
        bool unsupported = false;
        unsigned now = 0;
        int r;

        mask &= ARC_FLAGS_MASK;
        if (ioctl(fd, FS_IOC_GETFLAGS, &now) < 0) {
                r = errno == ENOSYS ? -ENOTTY : -errno;
                unsupported = r == -ENOTTY || r == -EOPNOTSUPP;
                if (!unsupported)
                        return apply_fail(reterr, -r, flag_text(0), path);
        } else {
                if ((now & mask) == (want & mask))
                        return 0;
                r = set_flags(fd, (now & ~mask) | (want & mask));
                if (r >= 0)
                        return 0;
        }
        /* Together they were refused: one by one shows which, and saves the others. */
        for (uint32_t flag = 1; flag != 0 && flag <= mask; flag <<= 1) {
                if (!(mask & flag) || !((now ^ want) & flag))
                        continue;
                if (!unsupported)
                        r = set_flags(fd, now ^ flag);
                if (r >= 0)
                        now ^= flag;
                else if (!flag_may_fail(flag, -r))
                        return apply_fail(reterr, -r, flag_text(flag), path);
        }
        return 0;
}

/* ---- extended attributes ---- */

static int set_xattr(int fd, bool by_path, const EntryXattr *x, const char *path, Failure *reterr) {
        char what[300], proc[PROC_FD_MAX];
        int r;

        r = by_path ? setxattr(proc_path(fd, proc), x->name, x->value, x->size, 0)
                    : fsetxattr(fd, x->name, x->value, x->size, 0);
        if (r == 0)
                return 0;
        if (strncmp(x->name, XATTR_STORED, strlen(XATTR_STORED)) == 0)
                return 0;
        r = errno;
        (void) snprintf(what, sizeof(what), "extended attribute %s", x->name);
        return apply_fail(reterr, r, what, path);
}

static bool entry_has_xattr(const Entry *entry, const char *name) {
        for (size_t i = 0; i < entry->n_xattrs; i++)
                if (strcmp(entry->xattrs[i].name, name) == 0)
                        return true;
        return false;
}

static int
drop_inherited(int fd, bool by_path, const Entry *entry, const char *path, Failure *reterr) {
        char list[LIST_BYTES], proc[PROC_FD_MAX];
        ssize_t n;

        n = by_path ? listxattr(proc_path(fd, proc), list, sizeof(list))
                    : flistxattr(fd, list, sizeof(list));
        if (n < 0)
                return errno == EOPNOTSUPP
                               ? 0
                               : apply_fail(reterr, errno, "inherited attributes", path);
        for (const char *name = list; name < list + n; name += strlen(name) + 1)
                for (size_t i = 0; i < ELEMENTSOF(inherited); i++) {
                        if (strcmp(name, inherited[i]) != 0 || entry_has_xattr(entry, name))
                                continue;
                        if ((by_path ? removexattr(proc_path(fd, proc), name)
                                     : fremovexattr(fd, name)) < 0)
                                return apply_fail(reterr, errno, "inherited attributes", path);
                }
        return 0;
}

/* ---- together ---- */

int arc_meta_prepare(int fd, const Entry *entry, const char *path, Failure *reterr) {
        int r = drop_inherited(fd, false, entry, path, reterr);

        if (r < 0)
                return r;
        for (size_t i = 0; i < entry->n_xattrs; i++) {
                const EntryXattr *x = &entry->xattrs[i];

                if (strncmp(x->name, XATTR_STORED, strlen(XATTR_STORED)) != 0)
                        continue;
                r = set_xattr(fd, false, x, path, reterr);
                if (r < 0)
                        return r;
        }
        return arc_flags_apply(fd, entry->flags, ARC_FLAGS_DATA, path, reterr);
}

int arc_meta_inherits(int fd, const char *path, Failure *reterr) {
        unsigned flags = 0;

        if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 && errno != ENOTTY && errno != EOPNOTSUPP &&
            errno != ENOSYS)
                return apply_fail(reterr, errno, flag_text(0), path);
        if (flags & ARC_FLAGS_MASK)
                return 1;
        /* Labels of security modules are counted too: they are kept by the careful way. */
        if (flistxattr(fd, NULL, 0) > 0)
                return 1;
        return 0;
}

static int set_owner(int fd, const Entry *entry, const char *path, Failure *reterr) {
        /* -1 would mean "leave as it is" to the kernel. */
        if (entry->uid == UINT32_MAX || entry->gid == UINT32_MAX)
                return apply_fail(reterr, EINVAL, "owner", path);
        if (fchownat(fd, "", entry->uid, entry->gid, AT_EMPTY_PATH) < 0)
                return apply_fail(reterr, errno, "owner", path);
        return 0;
}

static int set_times(int fd, const Entry *entry, const char *path, Failure *reterr) {
        struct timespec times[2] = {
                { .tv_nsec = UTIME_OMIT },
                { .tv_sec = entry->mtime_sec, .tv_nsec = entry->mtime_nsec },
        };

        if (entry->mtime_nsec > 999999999)
                return apply_fail(reterr, EINVAL, "modification time", path);
        if (utimensat(fd, "", times, AT_EMPTY_PATH) < 0)
                return apply_fail(reterr, errno, "modification time", path);
        return 0;
}

int arc_meta_apply(int fd, const Entry *entry, uint32_t flags, const char *path, Failure *reterr) {
        bool by_path = entry->type != ENTRY_FILE && entry->type != ENTRY_DIRECTORY;
        char proc[PROC_FD_MAX];
        int r;

        r = set_owner(fd, entry, path, reterr);
        if (r >= 0 && by_path)
                r = drop_inherited(fd, by_path, entry, path, reterr);
        for (size_t i = 0; r >= 0 && i < entry->n_xattrs; i++)
                r = set_xattr(fd, by_path, &entry->xattrs[i], path, reterr);
        if (r < 0)
                return r;
        if (entry->type != ENTRY_SYMLINK) {
                r = by_path ? chmod(proc_path(fd, proc), entry->mode & 07777)
                            : fchmod(fd, entry->mode & 07777);
                if (r < 0)
                        return apply_fail(reterr, errno, "mode", path);
        }
        r = set_times(fd, entry, path, reterr);
        if (r < 0 || by_path)
                return r;
        return arc_flags_apply(fd, entry->flags, flags, path, reterr);
}

int arc_meta_apply_plain(int fd,
                         const Entry *entry,
                         const struct stat *st,
                         const char *path,
                         Failure *reterr) {
        mode_t mode = entry->mode & 07777;
        int r;

        if (entry->uid != st->st_uid || entry->gid != st->st_gid) {
                r = set_owner(fd, entry, path, reterr);
                if (r < 0)
                        return r;
        }
        if (mode != (st->st_mode & 07777) && fchmod(fd, mode) < 0)
                return apply_fail(reterr, errno, "mode", path);
        return set_times(fd, entry, path, reterr);
}
