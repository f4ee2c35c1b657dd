/*
 * A stop of a mount unit stops whatever requires it, and a start waits for whatever comes before
 * it: early in boot for ever. Here units are stopped and started alone. What came of it is read
 * from the kernel, and what is behind a mount from the file system, never from an answer.
 */

#include "worker/remount.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/names.h"
#include "base/text.h"
#include "worker/systemd.h"

#define FSTAB            "/etc/fstab"
#define GENERATED        "/run/systemd/generator"
#define LINE_MAX_BYTES   8192
#define JOB_TIMEOUT_USEC (120 * USEC_PER_SEC)

/* ---- would it come back ---- */

static int refuse(const Mounted *m, const char *where, const char *why, Failure *reterr) {
        return fail_set(reterr, FAIL_NOT_RESTORABLE, EINVAL,
                        "%s is mounted by %s %s; mount it by subvol=%s there, or restore it aside "
                        "with --into",
                        m->point, where, why, m->subvolume);
}

/* Both are paths from the top level, with or without a slash in front. */
static bool is_same_subvolume(const char *option, size_t n, const char *subvolume) {
        while (n > 0 && *option == '/') {
                option++;
                n--;
        }
        return strlen(subvolume + 1) == n && strncmp(option, subvolume + 1, n) == 0;
}

static int check_options(const Mounted *m, const char *where, char *options, Failure *reterr) {
        const struct mntent entry = { .mnt_opts = options };
        const char *subvol = hasmntopt(&entry, "subvol");

        if (hasmntopt(&entry, "bind") || hasmntopt(&entry, "rbind"))
                return refuse(m, where, "as a bind mount, which would keep the old tree", reterr);
        if (hasmntopt(&entry, "subvolid"))
                return refuse(m, where, "with subvolid=, which would bring the old tree back",
                              reterr);
        if (!subvol || strncmp(subvol, "subvol=", 7) != 0)
                return refuse(m, where, "without subvol=, which would bring the old tree back",
                              reterr);
        subvol += 7;
        return is_same_subvolume(subvol, strcspn(subvol, ","), m->subvolume)
                       ? 0
                       : refuse(m, where, "as another subvolume than is mounted there now", reterr);
}

/* What is mounted by hand comes back as it was; what is in the table must come back at boot, too.
 */
static int check_fstab(const Mounted *m, Failure *reterr) {
        const char *path = getenv(HP_ENV_FSTAB);
        char text[LINE_MAX_BYTES];
        struct mntent entry;
        FILE *f = setmntent(path && *path ? path : FSTAB, "re");
        int r = 0;

        while (f && r >= 0 && getmntent_r(f, &entry, text, sizeof(text))) {
                size_t n = strlen(entry.mnt_dir);

                while (n > 1 && entry.mnt_dir[n - 1] == '/')
                        entry.mnt_dir[--n] = 0;
                if (strcmp(entry.mnt_dir, m->point) == 0)
                        r = check_options(m, path && *path ? path : FSTAB, entry.mnt_opts, reterr);
        }
        if (f)
                endmntent(f);
        return r;
}

/* The last Options= of the [Mount] section wins; a percent sign is written twice. */
static int read_options(const char *path, char **options) {
        _cleanup_file_ FILE *f = fopen(path, "re");
        _cleanup_free_ char *line = NULL;
        size_t allocated = 0;
        bool inside = false;

        if (!f)
                return -errno;
        while (getline(&line, &allocated, f) > 0) {
                char *from = line + strspn(line, " \t"), *to;

                if (*from == '[')
                        inside = strncmp(from, "[Mount]", 7) == 0;
                if (!inside || strncmp(from, "Options=", 8) != 0)
                        continue;
                free(*options);
                *options = to = strdup(from + 8);
                if (!to)
                        return -ENOMEM;
                for (from = to; *from && *from != '\n'; from++) {
                        *to++ = *from;
                        from += from[0] == '%' && from[1] == '%';
                }
                *to = 0;
        }
        return 0;
}

static int check_unit(const Mounted *m, Systemd *s, const char *unit, Failure *reterr) {
        _cleanup_free_ char *fragment = NULL, *drop_ins = NULL, *options = NULL;
        char *save = NULL;
        int r = systemd_get_text(s, unit, "Unit", "FragmentPath", &fragment, reterr);

        if (r >= 0)
                r = systemd_get_list(s, unit, "Unit", "DropInPaths", &drop_ins, reterr);
        if (r < 0)
                return r;
        if (!*fragment)
                return refuse(m, "hand", "and systemd could not mount it again; add it to " FSTAB,
                              reterr);
        r = read_options(fragment, &options);
        for (char *p = strtok_r(drop_ins, " ", &save); r >= 0 && p; p = strtok_r(NULL, " ", &save))
                r = read_options(p, &options);
        if (r < 0)
                return fail_errno(reterr, FAIL_NOT_RESTORABLE, -r, "the files of unit %s", unit);
        if (!options && !(options = strdup("")))
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", unit);
        return check_options(m, strncmp(fragment, GENERATED, strlen(GENERATED)) == 0 ? FSTAB : unit,
                             options, reterr);
}

int remount_check(const Mounted *m, Failure *reterr) {
        _cleanup_(systemd_closep) Systemd *s = NULL;
        _cleanup_free_ char *unit = systemd_mount_unit(m->point);
        int r = systemd_open_early(&s, reterr);

        if (!unit)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", m->point);
        return r == -ENOENT ? check_fstab(m, reterr) : r < 0 ? r : check_unit(m, s, unit, reterr);
}

/* ---- what is behind it ---- */

static int open_parent(const char *point) {
        _cleanup_free_ char *dir = strdup(point);

        if (!dir)
                return -ENOMEM;
        *strrchr(dir, '/') = 0;
        return fd_open_absolute(*dir ? dir : "/", O_RDONLY | O_DIRECTORY);
}

int remount_look(const Mounted *m, TreeId *ret, Failure *reterr) {
        _cleanup_close_ int parent = -1;
        int r = mounted_is_up(m, reterr);

        *ret = (TreeId){ .kind = TREE_ABSENT };
        if (r <= 0)
                return r;
        parent = open_parent(m->point);
        if (parent < 0)
                return fail_errno(reterr, FAIL_NOT_RESTORABLE, -parent, "the directory of %s",
                                  m->point);
        return tree_identify(parent, strrchr(m->point, '/') + 1, ret, reterr);
}

/* ---- away and back ---- */

static int run_job(const Mounted *m, Systemd *s, SystemdAction action, Failure *reterr) {
        _cleanup_free_ char *unit = systemd_mount_unit(m->point);

        if (!unit)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", m->point);
        systemd_reset_failed(s, unit);
        return systemd_run(s, action, unit, JOB_TIMEOUT_USEC, NULL, NULL, reterr);
}

static int unmount(const Mounted *m, Failure *reterr) {
        _cleanup_(systemd_closep) Systemd *s = NULL;
        Failure f = FAILURE_INIT;
        int r = systemd_open_early(&s, reterr);

        if (r == -ENOENT)
                return umount2(m->point, UMOUNT_NOFOLLOW) == 0
                               ? 0
                               : fail_errno(reterr, FAIL_TARGET_IN_USE, errno,
                                            "%s cannot be unmounted", m->point);
        if (r < 0)
                return r;
        r = run_job(m, s, SYSTEMD_STOP_ALONE, &f);
        if (r < 0)
                return fail_set(reterr, FAIL_TARGET_IN_USE, EBUSY, "%s cannot be unmounted: %s",
                                m->point, f.text);
        r = mounted_is_up(m, reterr);
        if (r <= 0)
                return r;
        /* What is seen here is not what the host has: nothing can be told of that. */
        if (run_job(m, s, SYSTEMD_START_ALONE, &f) < 0)
                log_error("%s: %s", m->point, f.text);
        return fail_set(reterr, FAIL_NOT_RESTORABLE, EBUSY,
                        "%s was unmounted, and is mounted here all the same: this worker does not "
                        "follow the host's mounts (MountFlags= of its unit); it was mounted again",
                        m->point);
}

/* Only what is the subvolume by its name may go. */
static int check_is_it(const Mounted *m, const TreePlace *place, const TreeId *shown, Failure *f) {
        if (shown->kind == TREE_SUBVOLUME && strcmp(place->where, m->subvolume) == 0 &&
            memcmp(shown->fsid, m->fsid, sizeof(m->fsid)) == 0)
                return 0;
        return fail_set(f, FAIL_NOT_RESTORABLE, ESTALE,
                        "what is mounted at %s now is not the subvolume %s: mount that there, or "
                        "nothing",
                        m->point, m->subvolume);
}

int remount_away(const Mounted *m, Failure *reterr) {
        TreePlace place = { .where = NULL };
        TreeId shown;
        int r = remount_look(m, &shown, reterr);

        if (r < 0 || shown.kind == TREE_ABSENT)
                return r;
        r = tree_find_mounted(m->point, &place, reterr);
        if (r >= 0)
                r = check_is_it(m, &place, &shown, reterr);
        if (r >= 0)
                r = unmount(m, reterr);
        if (r >= 0)
                r = tree_prove_unmounted(&place, m->point, reterr);
        free(place.where);
        return r;
}

static int mount_here(const Mounted *m, Failure *reterr) {
        _cleanup_close_ int at = fd_open_absolute(m->point, O_PATH | O_DIRECTORY);
        _cleanup_close_ int fd = -1;

        if (at < 0)
                return fail_errno(reterr, FAIL_NOT_RESTORABLE, -at, "%s", m->point);
        fd = mounted_mount(m, reterr);
        if (fd < 0)
                return fd;
        if (move_mount(fd, "", at, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
                return fail_errno(reterr, FAIL_NOT_RESTORABLE, errno, "mounting %s", m->point);
        return 0;
}

static int mount_again(const Mounted *m, Failure *reterr) {
        _cleanup_(systemd_closep) Systemd *s = NULL;
        int r = systemd_open_early(&s, reterr);

        if (r == -ENOENT)
                return mount_here(m, reterr);
        return r < 0 ? r : run_job(m, s, SYSTEMD_START_ALONE, reterr);
}

int remount_back(const Mounted *m, const TreeId *expected, Failure *reterr) {
        Failure f = FAILURE_INIT;
        TreeId shown;
        int r = remount_look(m, &shown, reterr);

        if (r < 0)
                return r;
        if (shown.kind == TREE_ABSENT) {
                r = mount_again(m, &f);
                if (r < 0)
                        return fail_set(reterr, FAIL_NOT_RESTORABLE, f.errnum,
                                        "%s cannot be mounted again: %s", m->point, f.text);
                r = remount_look(m, &shown, reterr);
        }
        if (r < 0 || tree_id_equal(&shown, expected))
                return r;
        return fail_set(reterr, FAIL_NOT_RESTORABLE, ESTALE,
                        shown.kind == TREE_ABSENT
                                ? "%s was mounted again, and is not there: see its mount unit"
                                : "%s is mounted, and what is behind it is not the tree that it "
                                  "should be: see how it is mounted",
                        m->point);
}
