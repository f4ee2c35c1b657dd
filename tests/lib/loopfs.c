/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "tests/lib/loopfs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#define IMAGE_BYTES ((off_t) 384 << 20) /* mkfs.xfs takes no less than 300 MiB */

struct Loopfs {
        char *path;
        char *device;
};

bool loopfs_possible(void) {
        if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0)
                return false;
        return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

void loopfs_run(const char *format, ...) {
        char *command;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vasprintf(&command, format, ap);
        va_end(ap);
        assert_true(r > 0);
        r = system(command);
        if (r != 0)
                fail_msg("'%s' failed: %d", command, r);
        free(command);
}

/* Returns the open device, which must stay open until it is mounted. */
static int attach(int image, char **ret_device) {
        for (int try = 0; try < 50; try++) {
                struct loop_config config = {
                        .fd = (unsigned) image,
                        .info.lo_flags = LO_FLAGS_AUTOCLEAR,
                };
                int control, n, fd;
                char *device;

                control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
                assert_true(control >= 0);
                n = ioctl(control, LOOP_CTL_GET_FREE);
                close(control);
                assert_true(n >= 0);
                assert_true(asprintf(&device, "/dev/loop%d", n) > 0);
                fd = open(device, O_RDWR | O_CLOEXEC);
                if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
                        *ret_device = device;
                        return fd;
                }
                /* Somebody else took it between the two calls. */
                if (fd >= 0)
                        close(fd);
                free(device);
                usleep(20000);
        }
        fail_msg("no free loop device: %s", strerror(errno));
        return -1;
}

static void mount_image(Loopfs *fs, const char *type) {
        char *image;
        int fd, loop;

        assert_true(asprintf(&image, "%s.img", fs->path) > 0);
        fd = open(image, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, IMAGE_BYTES), 0);
        loopfs_run("mkfs.%s -q %s >/dev/null", type, image);
        loop = attach(fd, &fs->device);
        close(fd);
        assert_int_equal(unlink(image), 0);
        free(image);
        if (mount(fs->device, fs->path, type, 0, NULL) < 0)
                fail_msg("cannot mount %s: %s", type, strerror(errno));
        close(loop);
}

Loopfs *loopfs_new(const char *type) {
        const char *tmp = getenv("TMPDIR");
        Loopfs *fs = calloc(1, sizeof(*fs));
        char *template;

        assert_non_null(fs);
        assert_true(asprintf(&template, "%s/loopfs-XXXXXX", tmp && *tmp ? tmp : "/tmp") > 0);
        assert_non_null(mkdtemp(template));
        fs->path = realpath(template, NULL);
        assert_non_null(fs->path);
        free(template);
        if (strcmp(type, "tmpfs") == 0)
                assert_int_equal(mount("loopfs", fs->path, type, 0, NULL), 0);
        else
                mount_image(fs, type);
        return fs;
}

const char *loopfs_path(const Loopfs *fs) {
        return fs->path;
}

const char *loopfs_device(const Loopfs *fs) {
        return fs->device;
}

char *loopfs_join(const Loopfs *fs, const char *below) {
        char *path;

        assert_true(asprintf(&path, "%s/%s", fs->path, below) > 0);
        return path;
}

void loopfs_free(Loopfs *fs) {
        if (!fs)
                return;
        /* All that a test has mounted there; it may have left descriptors open. */
        while (umount2(fs->path, MNT_DETACH) == 0)
                ;
        (void) rmdir(fs->path);
        free(fs->path);
        free(fs->device);
        free(fs);
}
