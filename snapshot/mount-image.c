#include "snapshot/mount-image.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/cleanup.h"

/*
 * XFS refuses a second file system with the uuid of a mounted one, which every snapshot of one is:
 * `nouuid`. Never `norecovery` or `noload`: what was synced but not yet written back would be lost.
 * What ext4 does on errors stands in its superblock, which an image has from its origin; an image
 * that overflows gives errors, and must not bring the machine down with "panic".
 */

#define ATTRIBUTES                                                                                 \
        (MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW |       \
         MOUNT_ATTR_NOATIME)

#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif

/* What the kernel left in the context's log, without the letter and space before each line. */
static void read_words(int context, char *ret, size_t n) {
        ssize_t k = read(context, ret, n - 1);

        ret[k > 0 ? k : 0] = 0;
        if (k > 2 && ret[1] == ' ')
                memmove(ret, ret + 2, (size_t) k - 1);
        for (char *c = ret; *c; c++)
                if (iscntrl((unsigned char) *c))
                        *c = ' ';
}

/* "KEY=VALUE", or a flag if `value` is NULL. */
typedef struct Option {
        const char *key, *value;
} Option;

static int configure(int context, const char *device, const Option *options, size_t n) {
        if (fsconfig(context, FSCONFIG_SET_STRING, "source", device, 0) < 0)
                return -errno;
        for (size_t i = 0; i < n; i++)
                if (fsconfig(context, options[i].value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG,
                             options[i].key, options[i].value, 0) < 0)
                        return -errno;
        return fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0 ? -errno : 0;
}

static int mount_detached(const char *type,
                          const char *device,
                          const Option *options,
                          size_t n,
                          uint64_t attributes,
                          Failure *reterr) {
        _cleanup_close_ int context = fsopen(type, FSOPEN_CLOEXEC);
        char words[200] = "";
        int fd = -1, r;

        r = context < 0 ? -errno : configure(context, device, options, n);
        if (r >= 0) {
                fd = fsmount(context, FSMOUNT_CLOEXEC, (unsigned) attributes);
                r = fd < 0 ? -errno : 0;
        }
        if (r >= 0)
                return fd;
        if (context >= 0)
                read_words(context, words, sizeof(words));
        return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r, "cannot mount '%s' as %s%s%s%s", device,
                          type, *words ? " (" : "", words, *words ? ")" : "");
}

int image_mount(const char *type, const char *device, bool read_only, Failure *reterr) {
        Option options[3];
        size_t n = 0;

        if (read_only)
                options[n++] = (Option){ "ro", NULL };
        if (strcmp(type, "ext4") == 0)
                options[n++] = (Option){ "errors", "remount-ro" };
        if (strcmp(type, "xfs") == 0)
                options[n++] = (Option){ "nouuid", NULL };
        return mount_detached(type, device, options, n,
                              ATTRIBUTES | (read_only ? MOUNT_ATTR_RDONLY : 0), reterr);
}

int image_mount_btrfs(const char *device,
                      const char *key,
                      const char *value,
                      uint64_t attributes,
                      Failure *reterr) {
        return mount_detached("btrfs", device, &(Option){ key, value }, 1, attributes, reterr);
}

int image_make_read_only(int mount_fd) {
        _cleanup_close_ int context = -1;

        context = fspick(mount_fd, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH);
        if (context < 0 || fsconfig(context, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0 ||
            fsconfig(context, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) < 0)
                return -errno;
        return 0;
}
