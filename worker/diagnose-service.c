/*
 * One service: what can be frozen, what can be exchanged, what databases are there, and what its
 * backups are worth. Snapshot and exchange are tried, not guessed: on names of our own in the area,
 * which the next backup sweeps if we are killed in between. Of an LVM snapshot all is tried but the
 * one command that makes it, which would hold up writers.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/text.h"
#include "snapshot/snapshot.h"
#include "worker/diagnose-database.h"
#include "worker/diagnose.h"
#include "worker/hot.h"
#include "worker/source.h"
#include "worker/state.h"
#include "worker/target.h"

#define PROBLEMS_TOLD_MAX 20
#define BUSY_USEC         (2 * USEC_PER_SEC) /* a short job is worth the wait */
#define HOUR_USEC         (UINT64_C(3600) * USEC_PER_SEC)
#define DAY_USEC          (24 * HOUR_USEC)

/* A backup that nobody has looked at for a month is a hope. */
#define VERIFY_AGE_USEC (31 * DAY_USEC)

#define PROBE_NAME 64

/* ---- snapshots ---- */

/*
 * Names of images of a backup that never was: a sweep knows what to do with them. The lock keeps it
 * away meanwhile; where it is taken, a backup is at it right now, which is proof enough.
 */
static int probe_begin(Diagnosis *d, char ret[PROBE_NAME], Failure *reterr) {
        char id[UUID_TEXT_MAX];
        uint8_t uuid[16];
        int r = text_uuid_new(uuid);

        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot make an id");
        text_uuid_format(uuid, id);
        (void) snprintf(ret, PROBE_NAME, "hot.%s.0", id);
        return d->work->state_fd < 0 ? -EBADF : hot_lock(d->work, false, reterr);
}

static int try_snapshot(Diagnosis *d, Volume *v, Failure *reterr) {
        _cleanup_close_ int lock = -1;
        Failure busy = FAILURE_INIT;
        Snapshot *image = NULL;
        char name[PROBE_NAME];
        int r;

        if (volume_kind(v) == SNAPSHOT_NONE)
                return 0;
        lock = probe_begin(d, name, &busy);
        if (lock < 0)
                return 0;
        if (volume_kind(v) == SNAPSHOT_LVM) {
                lock = fd_close(lock); /* nothing is made that could be swept */
                return snapshot_prepare(&v, 1, 0, name, reterr);
        }
        /* Nobody waits inside of the ioctl for what was dirty before. */
        if (syncfs(volume_root_fd(v)) < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, errno, "cannot sync '%s'",
                                  volume_root(v));
        r = snapshot_take(v, name, &image, reterr);
        return r < 0 ? r : snapshot_drop(image, reterr);
}

static void
check_swapfile(Diagnosis *d, const ConfigService *c, const Volume *v, const char *path) {
        struct stat root, file;

        if (*path != '/' || stat(path, &file) < 0 || !S_ISREG(file.st_mode) ||
            fstat(volume_root_fd(v), &root) < 0 || file.st_dev != root.st_dev)
                return;
        findings_add(&d->findings, FINDING_ERROR, ABOUT_SERVICE("service.swap", c, path),
                     "move the swap file into a subvolume of its own",
                     "is a swap file in the subvolume %s, which cannot be frozen meanwhile",
                     volume_root(v));
}

/* A subvolume with a file that is swapped to cannot be frozen. */
static void check_swapfiles(Diagnosis *d, const ConfigService *c, const Volume *v) {
        _cleanup_file_ FILE *f = fopen("/proc/swaps", "re");
        _cleanup_free_ char *line = NULL;
        size_t size = 0;

        while (f && volume_kind(v) == SNAPSHOT_BTRFS && getline(&line, &size, f) > 0) {
                line[strcspn(line, " \t\n")] = 0;
                check_swapfile(d, c, v, line);
        }
}

/* Why a path on a logical volume is read without a snapshot. */
static void tell_fallback(Diagnosis *d, const FindingAbout *about, const Failure *why) {
        findings_add(&d->findings, FINDING_WARNING, about,
                     "mend that; Snapshot=none says that it is meant so",
                     "no snapshots here: %s; until then databases are of one instant, other files "
                     "are read while they change",
                     why->text);
}

static void tell_volume(Diagnosis *d, const ConfigService *c, const char *path, const Volume *v) {
        const FindingAbout about = { "service.snapshot", c->name, path };
        bool own = strcmp(volume_root(v), path) == 0;

        if (volume_fallback(v))
                tell_fallback(d, &about, volume_fallback(v));
        else if (volume_kind(v) == SNAPSHOT_NONE)
                findings_add(
                        &d->findings,
                        c->snapshot == CONFIG_SNAPSHOT_NONE ? FINDING_NOTE : FINDING_WARNING,
                        &about,
                        c->snapshot == CONFIG_SNAPSHOT_NONE
                                ? NULL
                                : "move it to btrfs or a logical volume; Snapshot=none says "
                                  "that it is meant so",
                        "no snapshots here: databases are of one instant, other files are read "
                        "while they change");
        else if (own || volume_kind(v) != SNAPSHOT_BTRFS)
                findings_add(&d->findings, FINDING_OK, &about, NULL, "%s snapshots work",
                             snapshot_kind_name(volume_kind(v)));
        else
                findings_add(
                        &d->findings, FINDING_NOTE, &about,
                        "make it a subvolume of its own: its hot copies then hold nothing else",
                        "btrfs snapshots work, of all that lies in %s", volume_root(v));
}

/* A pool that only hot copies keep too full: the next backup drops them first. */
static bool has_room_again(Diagnosis *d, const Volume *v, const Failure *why) {
        return why->code == FAIL_SNAPSHOT_FULL && d->work->state_fd >= 0 &&
               hot_may_make_room(d->work, v);
}

static bool check_volume(Diagnosis *d, const ConfigService *c, const char *path) {
        _cleanup_(volume_freep) Volume *v = NULL;
        Failure f = FAILURE_INIT;
        int r = volume_find(path, source_snapshot_kind(c), &v, &f);

        if (r >= 0) {
                check_swapfiles(d, c, v); /* which would be why the next cannot be */
                r = try_snapshot(d, v, &f);
                if (r < 0 && has_room_again(d, v, &f)) {
                        findings_add(&d->findings, FINDING_WARNING,
                                     ABOUT_SERVICE("service.snapshot", c, path),
                                     "extend the pool: if the hot copies in it, which the next "
                                     "backup drops first, do not make enough room, it fails",
                                     "%s", f.text);
                        return true;
                }
        }
        if (r < 0) {
                bool missing = f.code == FAIL_SOURCE_MISSING;

                findings_add(&d->findings, FINDING_ERROR,
                             ABOUT_SERVICE(missing ? "service.path" : "service.snapshot", c, path),
                             missing ? "mount or create it, or correct Path=" : NULL, "%s", f.text);
                return false;
        }
        tell_volume(d, c, path, v);
        return true;
}

/* ---- exchange ---- */

static int make_file(int area, const char *name) {
        _cleanup_close_ int fd = openat(area, name, O_CREAT | O_EXCL | O_CLOEXEC, 0600);

        return fd < 0 ? -errno : 0;
}

static int try_exchange(Diagnosis *d, int area, Failure *reterr) {
        _cleanup_close_ int lock = -1, other = -1;
        char a[PROBE_NAME], b[PROBE_NAME];
        Failure busy = FAILURE_INIT;
        int r;

        lock = probe_begin(d, a, &busy);
        if (lock >= 0)
                other = probe_begin(d, b, &busy);
        if (other < 0)
                return 0;
        r = make_file(area, a);
        if (r >= 0)
                r = make_file(area, b);
        if (r >= 0 && renameat2(area, a, area, b, RENAME_EXCHANGE) < 0)
                r = -errno;
        (void) unlinkat(area, a, 0); /* an empty file of ours, which the next sweep would find */
        (void) unlinkat(area, b, 0);
        return r < 0 ? fail_errno(reterr, FAIL_NOT_RESTORABLE, -r,
                                  "two files beside it cannot be exchanged")
                     : 0;
}

static void check_exchange(Diagnosis *d, const ConfigService *c, const char *path) {
        _cleanup_(mounted_freep) Mounted *mount = NULL;
        _cleanup_(target_done) Target target = TARGET_INIT;
        Failure f = FAILURE_INIT;
        int r = target_find_mount(path, &mount, &f);

        if (r >= 0)
                r = target_open(path, mount, true, &target, &f);
        if (r >= 0)
                r = try_exchange(d, target.area, &f);

        if (r < 0)
                findings_add(&d->findings, FINDING_WARNING,
                             ABOUT_SERVICE("service.restore", c, path),
                             "restores of it can only be extracted aside (--into) until that is "
                             "mended",
                             "%s", f.text);
        else
                findings_add(&d->findings, FINDING_OK, ABOUT_SERVICE("service.restore", c, path),
                             NULL, "can be exchanged");
}

/* ---- what lies in it ---- */

static void tell_problems(Diagnosis *d, const ConfigService *c, const Source *s) {
        for (size_t i = 0; i < s->n_problems; i++) {
                if (i == PROBLEMS_TOLD_MAX) {
                        findings_add(&d->findings, FINDING_WARNING,
                                     ABOUT_SERVICE("service.nested", c, c->name), NULL,
                                     "%zu more like these", s->n_problems - i);
                        return;
                }
                findings_add(
                        &d->findings, FINDING_WARNING,
                        ABOUT_SERVICE("service.nested", c, s->problems[i].path),
                        "leave it out with Exclude=, or make it a Path= of a service of its own",
                        "%s", s->problems[i].why.text);
        }
}

static void look_inside(Diagnosis *d, const ConfigService *c) {
        _cleanup_json_ json_object *names = json_object_new_array();
        _cleanup_(source_done) Source s = { 0 };
        Failure f = FAILURE_INIT;
        int r;

        if (!names || json_object_array_add(names, json_object_new_string(c->name)) < 0)
                return;
        r = source_open(d->work, names, &s, &f);
        if (r >= 0)
                r = source_discover(d->work, &s, &f);
        if (r < 0) {
                findings_add(&d->findings, FINDING_ERROR,
                             ABOUT_SERVICE(f.code == FAIL_SNAPSHOT_FAILED ? "service.nested"
                                                                          : "service.databases",
                                           c, c->name),
                             "until then its backups fail", "%s", f.text);
                return;
        }
        tell_problems(d, c, &s);
        diagnose_databases(d, c, &s);
}

/* ---- what its backups are worth ---- */

static unsigned long long days(uint64_t usec) {
        return (unsigned long long) (usec / DAY_USEC);
}

static void check_verified(Diagnosis *d, const ConfigService *c, const DiagnosedService *s) {
        const FindingAbout about = { "service.verified", c->name, c->name };
        _cleanup_free_ char *remedy =
                text_printf("run 'holdpoint verify latest --service %s --depth restore'", c->name);
        uint64_t now = clock_realtime_usec();

        if (s->damaged)
                findings_add(&d->findings, FINDING_ERROR, &about,
                             "make a new backup now; look for errors of the disk in the journal",
                             "its newest backup was found damaged");
        else if (s->verified_usec == 0)
                findings_add(&d->findings, FINDING_WARNING, &about, remedy,
                             "no backup of it was ever verified");
        else if (now > s->verified_usec && now - s->verified_usec > VERIFY_AGE_USEC)
                findings_add(&d->findings, FINDING_WARNING, &about, remedy,
                             "none of its backups was verified for %llu days",
                             days(now - s->verified_usec));
        else
                findings_add(&d->findings, FINDING_OK, &about, NULL,
                             "verified less than %llu days ago",
                             days(now > s->verified_usec ? now - s->verified_usec : 0) + 1);
}

static void check_backups(Diagnosis *d, const ConfigService *c, const DiagnosedService *s) {
        const FindingAbout about = { "service.backup", c->name, c->name };
        _cleanup_free_ char *remedy = text_printf("run 'holdpoint create %s'", c->name);
        uint64_t now = clock_realtime_usec(), age = now > s->last_usec ? now - s->last_usec : 0;

        if (!d->has_records)
                return;
        if (s->last_usec == 0) {
                findings_add(&d->findings, FINDING_WARNING, &about, remedy,
                             "there is no completed backup of it");
                return;
        }
        if (age > c->max_age_hours * HOUR_USEC)
                findings_add(
                        &d->findings, FINDING_ERROR, &about, remedy,
                        "overdue: the last completed backup is %llu hours old, MaxAgeHours= is "
                        "%u; 'holdpoint jobs' tells why",
                        (unsigned long long) (age / HOUR_USEC), c->max_age_hours);
        else
                findings_add(&d->findings, FINDING_OK, &about, NULL,
                             "the last completed backup is %llu hours old",
                             (unsigned long long) (age / HOUR_USEC));
        check_verified(d, c, s);
}

static void look_at_data(Diagnosis *d, const ConfigService *c) {
        bool good = true;

        for (size_t i = 0; i < c->paths.n; i++) {
                const char *path = c->paths.items[i];
                _cleanup_close_ int fd = -1;

                if (!check_volume(d, c, path)) {
                        good = false;
                        continue;
                }
                check_exchange(d, c, path);
                fd = fd_open_absolute(path, O_PATH);
                if (fd >= 0)
                        diagnose_space(d, fd, ABOUT_SERVICE("service.space", c, path),
                                       "make room: snapshots keep what changes, and a restore is "
                                       "staged here");
        }
        if (good)
                look_inside(d, c);
}

void diagnose_service(Diagnosis *d, const ConfigService *c, const DiagnosedService *seen) {
        _cleanup_close_ int lock = -1;
        Failure busy = FAILURE_INIT;

        /* Directories that are open here would keep a restore from its exchange: it waits instead.
         */
        if (d->work->state_fd >= 0 &&
            state_lock_service(d->work, c->name, BUSY_USEC, &lock, &busy) < 0)
                findings_add(&d->findings, FINDING_NOTE, ABOUT_SERVICE("service.busy", c, c->name),
                             "try again when it has ended; 'holdpoint jobs' shows it",
                             "a job of it is running: its data was not looked at");
        else
                look_at_data(d, c);
        check_backups(d, c, seen);
}
