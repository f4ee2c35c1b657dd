#include "worker/databases.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/proc.h"
#include "base/text.h"
#include "worker/state.h"

#define RECOVER_TIMEOUT_USEC (600 * USEC_PER_SEC)
#define CHECK_TIMEOUT_USEC   (1800 * USEC_PER_SEC)
#define CHECK_NAME           "check.db"

static const char *const state_names[3] = { "main", "wal", "journal" };
static const char *const state_suffixes[3] = { "", "-wal", "-journal" };
static const char *const verdict_names[] = {
        [HOLD_UNCHECKED] = "unchecked",
        [HOLD_OK] = "ok",
        [HOLD_DAMAGED] = "damaged",
};

/* ---- what is remembered ---- */

static void remembered_name(const char *service, char ret[80]) {
        (void) snprintf(ret, 80, "%s.databases", service);
}

static int put_state(json_object *o, const char *key, const SourceFileState *f) {
        json_object *v = json_object_new_object();

        if (!v)
                return -ENOMEM;
        if (f->present &&
            (json_put_u64(v, "ino", f->ino) < 0 || json_put_u64(v, "size", f->size) < 0 ||
             json_put_u64(v, "mtime", f->mtime_nsec) < 0 ||
             json_put_u64(v, "ctime", f->ctime_nsec) < 0)) {
                json_object_put(v);
                return -ENOMEM;
        }
        return json_put(o, key, v);
}

static bool get_state(json_object *o, const char *key, SourceFileState *ret) {
        json_object *v;

        *ret = (SourceFileState){ 0 };
        if (json_get_object(o, key, &v) < 0)
                return false;
        if (json_object_object_length(v) == 0)
                return true;
        ret->present = true;
        return json_get_u64(v, "ino", &ret->ino) >= 0 && json_get_u64(v, "size", &ret->size) >= 0 &&
               json_get_u64(v, "mtime", &ret->mtime_nsec) >= 0 &&
               json_get_u64(v, "ctime", &ret->ctime_nsec) >= 0;
}

static bool same_state(const SourceFileState *a, const SourceFileState *b) {
        /* An empty log or journal says what a missing one says. The hold itself makes some. */
        if (a->size == 0 && b->size == 0)
                return true;
        if (!a->present || !b->present)
                return false;
        return a->ino == b->ino && a->size == b->size && a->mtime_nsec == b->mtime_nsec &&
               a->ctime_nsec == b->ctime_nsec;
}

static uint64_t nsec_of(const struct timespec *t) {
        return (uint64_t) t->tv_sec * 1000000000 + (uint64_t) t->tv_nsec;
}

/* The directory that holds the database in the image. fd or negative errno. */
static int open_image_dir(const SourceDatabase *d, const Point *p) {
        _cleanup_free_ char *dir = strdup(d->path);

        if (!dir)
                return -ENOMEM;
        *strrchr(dir, '/') = 0;
        return snapshot_open_path(p->snapshots[d->volume], *dir ? dir : "/", O_PATH | O_DIRECTORY);
}

/* Whether the journal may still be rolled back: SQLite writes its magic last and zeroes it first.
 */
static bool is_hot(int dir, const char *name) {
        static const uint8_t zeroes[8] = { 0 };
        _cleanup_close_ int fd = fd_open_beneath(dir, name, O_RDONLY | O_NONBLOCK, 0, false);
        uint8_t head[sizeof(zeroes)] = { 0 };

        return fd < 0 || fd_pread_full(fd, head, sizeof(head), 0) < 0 ||
               memcmp(head, zeroes, sizeof(head)) != 0;
}

static int look_at(SourceDatabase *d, HoldDatabase *h, const Point *p, Failure *reterr) {
        _cleanup_close_ int dir = open_image_dir(d, p);

        if (dir == -ENOENT || dir == -ENOTDIR || dir == -ELOOP || dir == -EXDEV) {
                d->gone = true;
                return 0;
        }
        if (dir < 0)
                return fail_errno(reterr, FAIL_SOURCE_MISSING, -dir, "%s in the image", d->path);
        for (size_t i = 0; i < ELEMENTSOF(d->state); i++) {
                _cleanup_free_ char *name = text_printf("%s%s", d->name, state_suffixes[i]);
                struct stat st;

                if (!name)
                        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", d->path);
                d->state[i] = (SourceFileState){ 0 };
                if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                        continue;
                d->state[i] = (SourceFileState){ .present = true,
                                                 .ino = st.st_ino,
                                                 .size = (uint64_t) st.st_size,
                                                 .mtime_nsec = nsec_of(&st.st_mtim),
                                                 .ctime_nsec = nsec_of(&st.st_ctim) };
                if (i == 2 && st.st_size > 0)
                        d->hot = is_hot(dir, name);
        }
        d->gone = !d->state[0].present;
        if (!d->gone && d->state[0].ino != d->ino && h->held) {
                h->held = false;
                (void) fail_set(&h->failure, FAIL_SOURCE_MISSING, ESTALE,
                                "%s was replaced before it could be held", d->path);
                log_warning("%s", h->failure.text);
        }
        return 0;
}

/* Reads what is remembered of a service's databases; NULL: nothing, so they are read again. */
static json_object *read_remembered(SourceService *service, int dir) {
        _cleanup_json_ json_object *all = NULL;
        Failure ignored = FAILURE_INIT;
        json_object *databases;
        const char *id;
        char name[80];
        int r;

        remembered_name(service->config->name, name);
        r = state_read_json(dir, name, &all, &ignored);
        if (r == -ENOENT)
                return NULL;
        if (r < 0 || json_get_string(all, "backup_id", &id) < 0 || !text_is_uuid(id) ||
            json_get_object(all, "databases", &databases) < 0) {
                log_warning("database states of service %s are damaged: reading them again",
                            service->config->name);
                return NULL;
        }
        (void) snprintf(service->states_of, sizeof(service->states_of), "%s", id);
        return json_object_get(databases);
}

static void compare_one(SourceDatabase *d, json_object *remembered) {
        _cleanup_free_ char *key = text_escape(d->path);
        const char *verdict;
        json_object *o;
        bool same = true;

        if (d->gone || d->hot || !key || json_get_object(remembered, key, &o) < 0)
                return;
        for (size_t i = 0; i < ELEMENTSOF(d->state); i++) {
                SourceFileState old;

                same = get_state(o, state_names[i], &old) && same_state(&old, &d->state[i]) && same;
        }
        if (!same)
                return;
        d->unchanged = true;
        if (json_get_string(o, "check", &verdict) >= 0 && strcmp(verdict, "ok") == 0 &&
            json_get_u64(o, "checked_usec", &d->checked_usec) >= 0)
                d->verdict = HOLD_OK;
}

int databases_compare(Work *w, Source *s, const Point *p, Failure *reterr) {
        _cleanup_close_ int dir = -1;
        size_t last = SIZE_MAX;
        _cleanup_json_ json_object *remembered = NULL;

        dir = state_open_dir(w->state_fd, "base", reterr);
        if (dir < 0)
                return dir;
        for (size_t i = 0; i < s->n_databases; i++) {
                SourceDatabase *d = &s->databases[i];
                int r;

                /* A copy comes from a moving file: nothing says that it is the same. */
                if (d->copy)
                        continue;
                r = look_at(d, &s->holds[i], p, reterr);
                if (r < 0)
                        return r;
                if (d->service != last) {
                        last = d->service;
                        json_object_put(TAKE_PTR(remembered));
                        remembered = read_remembered(&s->services[last], dir);
                }
                if (remembered)
                        compare_one(d, remembered);
        }
        return 0;
}

static bool is_racy(const SourceDatabase *d, const Point *p) {
        for (size_t i = 0; i < ELEMENTSOF(d->state); i++) {
                uint64_t ctime = d->state[i].ctime_nsec;

                /* The hold itself makes an empty log: what is written to it changes its size. */
                if (d->state[i].size > 0 && point_is_racy(p, (int64_t) (ctime / 1000000000),
                                                          (uint32_t) (ctime % 1000000000)))
                        return true;
        }
        return false;
}

static json_object *remembered_json(const SourceDatabase *d) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "check", verdict_names[d->verdict]) < 0 ||
            json_put_u64(o, "checked_usec", d->checked_usec) < 0)
                return NULL;
        for (size_t i = 0; i < ELEMENTSOF(d->state); i++)
                if (put_state(o, state_names[i], &d->state[i]) < 0)
                        return NULL;
        return TAKE_PTR(o);
}

static int save_service(int dir,
                        const Source *s,
                        size_t service,
                        const Point *p,
                        const char *backup_id,
                        Failure *reterr) {
        _cleanup_json_ json_object *o = json_object_new_object();
        json_object *all = json_object_new_object();
        bool any = false;
        char name[80];

        if (!o || json_put_string(o, "backup_id", backup_id) < 0 ||
            json_put(o, "databases", all) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "database states");
        for (size_t i = 0; i < s->n_databases; i++) {
                const SourceDatabase *d = &s->databases[i];
                _cleanup_free_ char *key = NULL;

                if (d->service != service || d->copy || d->failed || d->gone || d->hot ||
                    is_racy(d, p))
                        continue;
                any = true;
                key = text_escape(d->path);
                if (!key || json_put(all, key, remembered_json(d)) < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "database states");
        }
        remembered_name(s->services[service].config->name, name);
        /* None: what may stand there belongs to another backup, and is not believed. */
        return any ? state_write_json(dir, name, o, reterr) : 0;
}

int databases_save(Work *w,
                   const Source *s,
                   const Point *p,
                   const char *backup_id,
                   Failure *reterr) {
        _cleanup_close_ int dir = state_open_dir(w->state_fd, "base", reterr);
        int r = dir;

        for (size_t k = 0; r >= 0 && k < s->n_services; k++)
                r = save_service(dir, s, k, p, backup_id, reterr);
        return r < 0 ? r : 0;
}

/* ---- work in the image ---- */

/* A job for helpers in the image: which databases, their image directories, where images lie. */
typedef struct ImageJob {
        HoldDatabase *databases;
        size_t *index; /* of each in Source.databases */
        size_t n;
        HoldImage *images;
        size_t n_images;
} ImageJob;

static void image_job_done(ImageJob *j) {
        for (size_t i = 0; i < j->n; i++)
                fd_close(j->databases[i].dirfd);
        for (size_t i = 0; i < j->n_images; i++)
                fd_close(j->images[i].fd);
        free(j->databases);
        free(j->index);
        free(j->images);
}

/*
 * Super-journals are looked up in every image of this backup: one transaction may span services. By
 * path, not by volume: a path is what the journal names.
 */
static int add_images(ImageJob *j, const Source *s, const Point *p, Failure *reterr) {
        j->images = calloc(s->n_paths + s->n_volumes, sizeof(*j->images));
        if (!j->images)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "images");
        for (size_t i = 0; i < s->n_volumes; i++) {
                int fd;

                if (volume_kind(s->volumes[i]) == SNAPSHOT_NONE)
                        continue;
                fd = snapshot_open_path(p->snapshots[i], volume_root(s->volumes[i]),
                                        O_PATH | O_DIRECTORY);
                if (fd < 0)
                        return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -fd, "image of %s",
                                          volume_root(s->volumes[i]));
                j->images[j->n_images++] =
                        (HoldImage){ .live = volume_root(s->volumes[i]), .fd = fd };
        }
        return 0;
}

static int add_database(ImageJob *j, const Source *s, const Point *p, size_t i, Failure *reterr) {
        const SourceDatabase *d = &s->databases[i];
        int dir = open_image_dir(d, p);

        if (dir < 0)
                return fail_errno(reterr, FAIL_SOURCE_MISSING, -dir, "%s in the image", d->path);
        j->databases[j->n] = (HoldDatabase){
                .path = d->path, .dirfd = dir, .name = d->name, .uid = d->uid, .gid = d->gid
        };
        j->index[j->n++] = i;
        return 0;
}

static int image_job_new(ImageJob *j,
                         const Source *s,
                         const Point *p,
                         bool (*wanted)(const Source *, size_t),
                         Failure *reterr) {
        int r = 0;

        *j = (ImageJob){ 0 };
        j->databases = calloc(s->n_databases + 1, sizeof(*j->databases));
        j->index = calloc(s->n_databases + 1, sizeof(*j->index));
        if (!j->databases || !j->index)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "databases");
        for (size_t i = 0; r >= 0 && i < s->n_databases; i++)
                if (wanted(s, i))
                        r = add_database(j, s, p, i, reterr);
        return r < 0 || j->n == 0 ? r : add_images(j, s, p, reterr);
}

static HoldImageJob helper_job(Work *w, ImageJob *j, uint64_t timeout_usec) {
        return (HoldImageJob){
                .libexec_dir = proc_libexec_dir(),
                .databases = j->databases,
                .n = j->n,
                .images = j->images,
                .n_images = j->n_images,
                .timeout_usec = timeout_usec,
                .interrupted = work_interrupted,
                .userdata = w,
        };
}

/* Marks it and keeps the reason with its hold, where the record finds it. */
static void set_failed(Source *s, size_t i, const Failure *why) {
        s->databases[i].failed = true;
        s->databases[i].unchanged = false;
        s->holds[i].failure = *why;
        log_message(MESSAGE_DATABASE_NOT_GOOD,
                    &(LogFields){ .service = s->services[s->databases[i].service].config->name,
                                  .error = fail_name(why->code) },
                    "%s: %s", s->databases[i].path, why->text);
}

static bool wants_recovery(const Source *s, size_t i) {
        return !s->databases[i].copy && !s->databases[i].gone;
}

int databases_recover(Work *w, Source *s, const Point *p, Failure *reterr) {
        _cleanup_(image_job_done) ImageJob j = { 0 };
        HoldImageJob job;
        int r = image_job_new(&j, s, p, wants_recovery, reterr);

        if (r < 0 || j.n == 0)
                return r;
        job = helper_job(w, &j, RECOVER_TIMEOUT_USEC);
        r = hold_recover(&job, reterr);
        if (r < 0)
                return r;
        for (size_t i = 0; i < j.n; i++)
                if (j.databases[i].failure.code != FAIL_NONE)
                        set_failed(s, j.index[i], &j.databases[i].failure);
        return work_check(w, reterr);
}

static bool is_check_due(const Source *s, size_t i) {
        const SourceDatabase *d = &s->databases[i];
        const ConfigService *c = s->services[d->service].config;

        if (d->failed || d->gone || c->check == CONFIG_CHECK_NEVER)
                return false;
        if (d->verdict != HOLD_OK)
                return true;
        return c->check == CONFIG_CHECK_AGE &&
               d->checked_usec + c->check_age_usec <= clock_realtime_usec();
}

static bool wants_check(const Source *s, size_t i) {
        return !s->databases[i].copy && is_check_due(s, i);
}

static void take_verdict(Source *s, size_t i, HoldVerdict verdict, const Failure *why) {
        SourceDatabase *d = &s->databases[i];

        d->verdict = verdict;
        if (verdict == HOLD_OK)
                d->checked_usec = clock_realtime_usec();
        else if (verdict == HOLD_DAMAGED)
                set_failed(s, i, why);
        else /* not found bad, only not looked at to the end: said in the record */
                log_warning("%s: not checked: %s", d->path, why->text);
}

/* A name for the copy while it is checked, where its owner can open it but nothing else. */
static int name_copy(const SourceDatabase *d, int dir) {
        char link[32];

        (void) snprintf(link, sizeof(link), "/proc/self/fd/%d", d->copy_fd);
        (void) unlinkat(dir, CHECK_NAME, 0); /* of a run that was killed */
        if (fchmod(dir, 0711) < 0 || fchown(d->copy_fd, d->uid, d->gid) < 0 ||
            linkat(AT_FDCWD, link, dir, CHECK_NAME, AT_SYMLINK_FOLLOW) < 0)
                return -errno;
        return 0;
}

static int check_copy(Work *w, Source *s, size_t i, Failure *reterr) {
        const SourceDatabase *d = &s->databases[i];
        _cleanup_close_ int dir = state_open_dir(w->state_fd, "copies", reterr);
        HoldDatabase one = {
                .path = d->path, .dirfd = dir, .name = CHECK_NAME, .uid = d->uid, .gid = d->gid
        };
        ImageJob j = { .databases = &one, .n = 1 };
        HoldImageJob job = helper_job(w, &j, CHECK_TIMEOUT_USEC);
        HoldVerdict verdict = HOLD_UNCHECKED;
        int r;

        if (dir < 0)
                return dir;
        r = name_copy(d, dir);
        if (r < 0)
                return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "the copy of %s", d->path);
        r = hold_check(&job, &verdict, reterr);
        (void) unlinkat(dir, CHECK_NAME, 0);
        if (r >= 0)
                take_verdict(s, i, verdict, &one.failure);
        return r;
}

static int check_copies(Work *w, Source *s, Failure *reterr) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < s->n_databases; i++)
                if (s->databases[i].copy && is_check_due(s, i))
                        r = check_copy(w, s, i, reterr);
        return r;
}

static int check_images(Work *w, Source *s, const Point *p, Failure *reterr) {
        _cleanup_(image_job_done) ImageJob j = { 0 };
        _cleanup_free_ HoldVerdict *verdicts = NULL;
        HoldImageJob job;
        int r = image_job_new(&j, s, p, wants_check, reterr);

        if (r < 0 || j.n == 0)
                return r;
        verdicts = calloc(j.n, sizeof(*verdicts));
        if (!verdicts)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "databases");
        job = helper_job(w, &j, CHECK_TIMEOUT_USEC);
        r = hold_check(&job, verdicts, reterr);
        if (r < 0)
                return r;
        for (size_t i = 0; i < j.n; i++)
                take_verdict(s, j.index[i], verdicts[i], &j.databases[i].failure);
        return 0;
}

int databases_check(Work *w, Source *s, const Point *p, Failure *reterr) {
        int r = check_images(w, s, p, reterr);

        if (r >= 0)
                r = check_copies(w, s, reterr);
        return r < 0 ? r : work_check(w, reterr);
}

/* ---- copies ---- */

static int copy_one(Work *w, Source *s, Point *p, size_t i, Failure *reterr) {
        SourceDatabase *d = &s->databases[i];
        Failure f = FAILURE_INIT;
        struct stat st;
        int r;

        d->copy_fd = openat(w->state_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (d->copy_fd < 0)
                return fail_errno(reterr, fail_code_for_write(errno, FAIL_INTERNAL), errno,
                                  "file for a copy of %s", d->path);
        r = p->hold ? hold_copy(p->hold, i, d->copy_fd, &f)
                    : fail_set(&f, FAIL_HOLD_TIMEOUT, EBUSY, "no connection to it");
        if (r == -ECANCELED || f.code == FAIL_NO_SPACE) {
                *reterr = f;
                return r;
        }
        if (r < 0 || fstat(d->copy_fd, &st) < 0) {
                set_failed(s, i, &f);
                d->copy_fd = fd_close(d->copy_fd);
                return 0;
        }
        d->copy_size = (uint64_t) st.st_size;
        return 0;
}

int databases_copy(Work *w, Source *s, Point *p, Failure *reterr) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < s->n_databases; i++) {
                if (s->databases[i].copy)
                        r = copy_one(w, s, p, i, reterr);
                if (r >= 0)
                        r = work_check(w, reterr);
        }
        /* Lets the pinned transactions go, so that the service's log can be checkpointed again. */
        hold_free(TAKE_PTR(p->hold));
        return r;
}

/* ---- the record ---- */

static json_object *database_json(const Source *s, size_t i) {
        _cleanup_json_ json_object *o = json_object_new_object();
        const SourceDatabase *d = &s->databases[i];
        const HoldDatabase *h = &s->holds[i];
        char date[CLOCK_TEXT_MAX];

        clock_format(d->checked_usec, date);
        if (!o || json_put_path(o, "path", d->path) < 0 ||
            json_put_string(o, "service", s->services[d->service].config->name) < 0 ||
            json_put_u64(o, "owner", d->uid) < 0 ||
            json_put_string(o, "captured", d->copy ? "online-backup" : "image") < 0 ||
            json_put_bool(o, "held", h->held) < 0 || json_put_bool(o, "wal", h->wal) < 0 ||
            json_put_u64(o, "pause_usec", h->pause_usec) < 0 ||
            json_put_string(o, "check",
                            d->failed && d->verdict != HOLD_DAMAGED
                                    ? "failed"
                                    : verdict_names[d->verdict]) < 0 ||
            json_put_string(o, "checked_at", date) < 0)
                return NULL;
        if (h->failure.code != FAIL_NONE && json_put_path(o, "problem", h->failure.text) < 0)
                return NULL;
        return TAKE_PTR(o);
}

json_object *databases_json(const Source *s) {
        _cleanup_json_ json_object *list = json_object_new_array();

        for (size_t i = 0; list && i < s->n_databases; i++) {
                json_object *o = database_json(s, i);

                if (!o || json_object_array_add(list, o) < 0) {
                        json_object_put(o);
                        return NULL;
                }
        }
        return TAKE_PTR(list);
}
