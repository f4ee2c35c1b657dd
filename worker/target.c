#include "worker/target.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "worker/remount.h"

void target_done(Target *t) {
        t->parent = fd_close(t->parent);
        t->area = fd_close(t->area);
}

/* Nobody takes a snapshot here. */
static int pass_on(const Failure *f, Failure *reterr) {
        FailCode code = f->code == FAIL_SNAPSHOT_FAILED ? FAIL_NOT_RESTORABLE : f->code;

        return fail_set(reterr, code, f->errnum, "%s", f->text);
}

int target_find_mount(const char *path, Mounted **ret, Failure *reterr) {
        _cleanup_(mounted_freep) Mounted *m = NULL;
        Failure f = FAILURE_INIT;
        int r = mounted_find(path, &m, &f);

        if (r >= 0 && m)
                r = remount_check(m, &f);
        if (r < 0)
                return pass_on(&f, reterr);
        *ret = TAKE_PTR(m);
        return 0;
}

int target_open_area(const char *path, bool create, Failure *reterr) {
        Failure f = FAILURE_INIT;
        bool is_root = false;
        int area = area_open(path, create, NULL, &is_root, &f);

        if (area < 0 && !is_root)
                return pass_on(&f, reterr);
        if (!is_root)
                return area;
        fd_close(area);
        return fail_set(reterr, FAIL_NOT_RESTORABLE, EBUSY,
                        "%s is the root of its mount and cannot be exchanged; restore it aside "
                        "with --into",
                        path);
}

static int open_parent(const char *path, Failure *reterr) {
        _cleanup_free_ char *dir = strdup(path);
        int fd;

        if (!dir)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", path);
        *strrchr(dir, '/') = 0;
        fd = fd_open_absolute(*dir ? dir : "/", O_RDONLY | O_DIRECTORY);
        return fd < 0 ? fail_errno(reterr, FAIL_NOT_RESTORABLE, -fd, "%s, the directory of %s",
                                   *dir ? dir : "/", path)
                      : fd;
}

int target_open(const char *path, Mounted *mount, bool create, Target *ret, Failure *reterr) {
        Failure f = FAILURE_INIT;

        ret->name = mount ? mounted_name(mount) : strrchr(path, '/') + 1;
        ret->parent = mount ? mounted_open_parent(mount, reterr) : open_parent(path, reterr);
        if (ret->parent < 0)
                return ret->parent;
        if (!mount) {
                ret->area = target_open_area(path, create, reterr);
                return ret->area < 0 ? ret->area : 0;
        }
        ret->area = mounted_open_area(mount, create, NULL, &f);
        return ret->area < 0 ? pass_on(&f, reterr) : 0;
}
