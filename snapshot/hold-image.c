/*
 * Work on databases of a frozen image: one helper process for each, as its owner, so that one which
 * hangs or breaks SQLite takes nobody with it. The helper recovers; what it claims is looked at
 * again here.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/proto.h"
#include "base/text.h"
#include "snapshot/hold-helper.h"
#include "snapshot/hold.h"

#define SEND_USEC  (5 * USEC_PER_SEC)
#define GRACE_USEC (2 * USEC_PER_SEC) /* past the helper's own limit, before it is killed */

/* The file itself, by descriptor: its times are put back whatever happens to its name. */
static int open_database(const HoldDatabase *db, struct stat *ret, Failure *reterr) {
        _cleanup_close_ int fd = fd_open_beneath(db->dirfd, db->name, O_PATH, 0, false);

        if (fd < 0)
                return fail_errno(reterr, FAIL_SOURCE_MISSING, -fd, "%s", db->path);
        if (fstat(fd, ret) < 0)
                return fail_errno(reterr, FAIL_SOURCE_MISSING, errno, "%s", db->path);
        if (!S_ISREG(ret->st_mode) || ret->st_uid != db->uid)
                return fail_set(reterr, FAIL_SOURCE_MISSING, EINVAL,
                                "%s is not a regular file of uid %u in the image", db->path,
                                db->uid);
        return TAKE_FD(fd);
}

static int put_times(int fd, const struct stat *st, const char *path, Failure *reterr) {
        struct timespec times[2] = { st->st_atim, st->st_mtim };
        char name[32];

        (void) snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
        if (utimensat(AT_FDCWD, name, times, 0) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot put the times of %s back",
                                  path);
        return 0;
}

static int require_no_side_files(const HoldDatabase *db, Failure *reterr) {
        static const char *const suffixes[] = { "-journal", "-wal", "-shm" };

        for (size_t i = 0; i < ELEMENTSOF(suffixes); i++) {
                _cleanup_free_ char *name = text_printf("%s%s", db->name, suffixes[i]);
                struct stat st;

                if (!name)
                        return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
                if (fstatat(db->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT)
                        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EEXIST,
                                        "%s%s is still there after the recovery", db->path,
                                        suffixes[i]);
        }
        return 0;
}

static json_object *image_message(const HoldImage *image) {
        json_object *m = proto_new("image");

        if (m && json_put_path(m, "live", image->live) < 0) {
                json_object_put(m);
                m = NULL;
        }
        return m;
}

static int send_job(HoldHelper *h, const HoldImageJob *job, size_t i, const char *verb) {
        uint64_t deadline = clock_monotonic_usec() + SEND_USEC;
        json_object *m;
        int r = hold_helper_send(h, hold_helper_database(&job->databases[i], i),
                                 job->databases[i].dirfd, deadline);

        for (size_t k = 0; r >= 0 && k < job->n_images; k++)
                r = hold_helper_send(h, image_message(&job->images[k]), job->images[k].fd,
                                     deadline);
        if (r < 0)
                return r;
        m = proto_new(verb);
        if (m && json_put_u64(m, "timeout_usec", job->timeout_usec) < 0) {
                json_object_put(m);
                m = NULL;
        }
        return hold_helper_send(h, m, -1, deadline);
}

/* Runs `verb` for one database in a helper of its own; `ret` is the one answer about it. */
static int run_helper(const HoldImageJob *job,
                      size_t i,
                      const char *verb,
                      json_object **ret,
                      Failure *reterr) {
        const HoldDatabase *db = &job->databases[i];
        _cleanup_(hold_helper_done) HoldHelper h = HOLD_HELPER_INIT;
        HoldWait wait = { 0, job->interrupted, job->userdata };
        int r;

        h.uid = db->uid;
        h.gid = db->gid;
        r = hold_helper_start(&h, job->libexec_dir, "image", reterr);
        if (r < 0)
                return r;
        wait.deadline_usec = clock_monotonic_usec() + job->timeout_usec + GRACE_USEC;
        r = send_job(&h, job, i, verb);
        if (r >= 0)
                r = hold_helper_recv(&h, &wait, ret);
        if (r == -ECANCELED)
                return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
        if (r == -ETIMEDOUT)
                return fail_set(reterr, FAIL_BUSY, ETIMEDOUT,
                                "%s: %s took longer than %ju s and was ended", db->path, verb,
                                (uintmax_t) (job->timeout_usec / USEC_PER_SEC));
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "%s: its helper ended unexpectedly",
                                  db->path);
        return 0;
}

/* The failure that a "failed" or "damaged" answer carries. */
static void answer_failure(json_object *m, const HoldDatabase *db, Failure *reterr) {
        Failure f = FAILURE_INIT;
        json_object *o;

        if (json_get_object(m, "failure", &o) < 0)
                (void) fail_set(&f, FAIL_INTERNAL, EBADMSG, "%s: the helper gave no reason",
                                db->path);
        else
                proto_failure_read(o, &f);
        (void) fail_set(reterr, f.code, f.errnum, "%s", f.text);
}

static int recover_one(const HoldImageJob *job, size_t i, Failure *reterr) {
        const HoldDatabase *db = &job->databases[i];
        _cleanup_json_ json_object *m = NULL;
        _cleanup_close_ int fd = -1;
        struct stat dir, file;
        int r;

        r = hold_helper_allowed(db, reterr);
        if (r < 0)
                return r;
        if (fstat(db->dirfd, &dir) < 0)
                return fail_errno(reterr, FAIL_SOURCE_MISSING, errno, "the directory of %s",
                                  db->path);
        fd = open_database(db, &file, reterr);
        if (fd < 0)
                return fd;
        r = run_helper(job, i, "recover", &m, reterr);
        if (r >= 0 && strcmp(proto_type(m), "recovered") != 0) {
                answer_failure(m, db, reterr);
                r = -EIO;
        }
        if (r >= 0)
                r = require_no_side_files(db, reterr);
        /* Also of one that failed: it is archived as it is. The first failure is the one that is
         * told. */
        if (put_times(fd, &file, db->path, reterr) < 0 ||
            put_times(db->dirfd, &dir, "the directory of a database", reterr) < 0)
                r = r < 0 ? r : -EIO;
        return r;
}

static bool canceled(const HoldImageJob *job) {
        return job->interrupted && job->interrupted(job->userdata);
}

int hold_recover(const HoldImageJob *job, Failure *reterr) {
        for (size_t i = 0; i < job->n; i++) {
                HoldDatabase *db = &job->databases[i];

                if (canceled(job))
                        return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
                db->failure = FAILURE_INIT;
                (void) recover_one(job, i, &db->failure); /* the failure says it */
                if (db->failure.code == FAIL_CANCELED)
                        return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
        }
        return 0;
}

static HoldVerdict check_one(const HoldImageJob *job, size_t i, Failure *reterr) {
        _cleanup_json_ json_object *m = NULL;
        const char *type;

        if (hold_helper_allowed(&job->databases[i], reterr) < 0 ||
            run_helper(job, i, "check", &m, reterr) < 0)
                return HOLD_UNCHECKED;
        type = proto_type(m);
        if (strcmp(type, "sound") == 0)
                return HOLD_OK;
        answer_failure(m, &job->databases[i], reterr);
        return strcmp(type, "damaged") == 0 ? HOLD_DAMAGED : HOLD_UNCHECKED;
}

int hold_check(const HoldImageJob *job, HoldVerdict *verdicts, Failure *reterr) {
        for (size_t i = 0; i < job->n; i++) {
                HoldDatabase *db = &job->databases[i];

                if (canceled(job))
                        return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
                db->failure = FAILURE_INIT;
                verdicts[i] = check_one(job, i, &db->failure);
                if (db->failure.code == FAIL_CANCELED)
                        return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
        }
        return 0;
}
