/*
 * The flag is one for all units of a restore, so that they are let go of at once, and without
 * waiting for systemd to read anything while the service is down.
 */

#include "worker/unit-hold.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/fs.h"
#include "base/names.h"
#include "base/proc.h"
#include "base/text.h"

#define SYSTEMCTL "/bin/systemctl"

static char *drop_in_dir(const IntentUnit *unit) {
        return text_printf(HP_RUNTIME_UNIT_DIR "/%s.d", unit->name);
}

static char *drop_in_name(const Intent *i) {
        return text_printf("holdpoint-%s.conf", i->restore_id);
}

static int write_drop_in(const Intent *i, const IntentUnit *unit, Failure *reterr) {
        _cleanup_free_ char *dir = drop_in_dir(unit), *name = drop_in_name(i);
        _cleanup_free_ char *text =
                text_printf("# Holdpoint keeps this unit down while it restores data of it.\n"
                            "[Unit]\n"
                            "AssertPathExists=!" HP_HELD_DIR "/%s\n",
                            i->restore_id);
        _cleanup_close_ int fd = -1;
        int r = dir && name && text ? 0 : -ENOMEM;

        if (r >= 0)
                r = fd = fs_ensure_path(dir, 0755);
        if (r >= 0)
                r = fs_write_atomic(fd, name, text, strlen(text), 0644);
        return r < 0 ? fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "keeping unit %s down", unit->name)
                     : 0;
}

static int write_flag(const Intent *i, Failure *reterr) {
        _cleanup_close_ int dir = fs_ensure_path(HP_HELD_DIR, 0755);
        int r = dir < 0 ? dir : fs_write_atomic(dir, i->restore_id, "", 0, 0644);

        return r < 0 ? fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "flag of restore %s", i->restore_id)
                     : 0;
}

int unit_hold_write(const Intent *i, Failure *reterr) {
        int r = 0;

        for (size_t k = 0; r >= 0 && k < i->n_units; k++)
                r = write_drop_in(i, &i->units[k], reterr);
        return r < 0 ? r : write_flag(i, reterr);
}

bool unit_hold_exists(const Intent *i) {
        bool exists = false;

        for (size_t k = 0; !exists && k < i->n_units; k++) {
                _cleanup_free_ char *dir = drop_in_dir(&i->units[k]), *name = drop_in_name(i);
                _cleanup_free_ char *path = dir && name ? text_printf("%s/%s", dir, name) : NULL;

                exists = path && access(path, F_OK) == 0;
        }
        return exists;
}

int unit_hold_lift(const Intent *i, Failure *reterr) {
        _cleanup_free_ char *path = text_printf(HP_HELD_DIR "/%s", i->restore_id);

        if (!path || (unlink(path) < 0 && errno != ENOENT))
                return fail_errno(reterr, FAIL_INTERNAL, path ? errno : ENOMEM,
                                  "flag of restore %s", i->restore_id);
        (void) rmdir(HP_HELD_DIR); /* another restore may have its flag there */
        return 0;
}

int unit_hold_remove(const Intent *i, Failure *reterr) {
        _cleanup_free_ char *name = drop_in_name(i);
        int r = name ? 0 : -ENOMEM;

        for (size_t k = 0; r >= 0 && k < i->n_units; k++) {
                _cleanup_free_ char *dir = drop_in_dir(&i->units[k]);
                _cleanup_free_ char *path = dir ? text_printf("%s/%s", dir, name) : NULL;

                if (!path)
                        r = -ENOMEM;
                else if (unlink(path) < 0 && errno != ENOENT)
                        r = -errno;
                else
                        (void) rmdir(dir); /* others may have theirs there */
        }
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "drop-ins of restore %s",
                                  i->restore_id)
                     : 0;
}

int unit_hold_reload_early(Failure *reterr) {
        static const char *const argv[] = { SYSTEMCTL, "daemon-reload", NULL };
        const ProcSpawn spawn = { .path = SYSTEMCTL, .argv = argv, .socket = -1 };
        _cleanup_close_ int pidfd = -1;
        siginfo_t info = { .si_pid = 0 };
        pid_t pid;
        int r = proc_spawn(&spawn, &pid, &pidfd, reterr);

        if (r < 0)
                return r;
        if (waitid(P_PIDFD, (id_t) pidfd, &info, WEXITED) < 0 || info.si_code != CLD_EXITED ||
            info.si_status != 0)
                return fail_set(reterr, FAIL_INTERNAL, EIO, "systemctl daemon-reload failed");
        return 0;
}
