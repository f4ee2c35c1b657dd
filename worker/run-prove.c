/*
 * verify with depth `restore`: the backup is restored into a private directory, walked like a live
 * tree, compared with the manifest entry by entry and byte by byte, compared with its hot copy, its
 * databases checked; then all of it is removed. What a crash leaves is found by its name: a
 * directory that no worker holds locked is nobody's.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/arc.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/step.h"
#include "base/text.h"
#include "worker/facts.h"
#include "worker/measure.h"
#include "worker/prove.h"
#include "worker/restore.h"
#include "worker/run.h"
#include "worker/target.h"
#include "worker/verified.h"

#define PROVE_PREFIX    "verify."
#define PROVE_SPARE     (UINT64_C(64) << 20) /* and a sixteenth of the backup */
#define PROVE_BUFFER    ((size_t) 256 << 10)
#define FLAGS_THAT_LOCK 0x30u /* immutable, append-only; others the file system may not have */

typedef struct Prove {
        Restore restore;
        int place, dir; /* where the directory lies; itself, locked */
        char *name;
        json_object *damaged;
        uint64_t n_damaged, databases, compared;
        RepoManifest *manifest; /* in step with the walk */
        Snapshot *image;        /* of the path that is walked; NULL: none */
        uint8_t *buffer;        /* two halves */
} Prove;

/* ---- leftovers ---- */

static bool is_ours(const char *name) {
        return strncmp(name, PROVE_PREFIX, strlen(PROVE_PREFIX)) == 0 &&
               text_is_uuid(name + strlen(PROVE_PREFIX));
}

/* Opens and locks one; -EWOULDBLOCK while a worker is at it. */
static int lock_directory(int place, const char *name) {
        _cleanup_close_ int fd = fs_open_dir(place, name);

        if (fd < 0)
                return fd;
        return flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : TAKE_FD(fd);
}

static void sweep(int place) {
        _cleanup_dir_ DIR *d = NULL;
        struct dirent *e;
        int copy = fs_open_dir(place, ".");

        d = copy < 0 ? NULL : fdopendir(copy);
        while (d && (e = readdir(d))) {
                _cleanup_close_ int fd = is_ours(e->d_name) ? lock_directory(place, e->d_name) : -1;
                Failure f = FAILURE_INIT;

                if (fd >= 0 && tree_remove(place, e->d_name, NULL, NULL, &f) < 0)
                        log_warning("leftover %s: %s", e->d_name, f.text);
                else if (fd >= 0)
                        log_message(MESSAGE_LEFTOVER_SWEPT, NULL,
                                    "removed %s, left by a verification that did not end",
                                    e->d_name);
        }
}

void prove_sweep(Work *w) {
        Failure ignored = FAILURE_INIT;
        _cleanup_close_ int own = state_open_dir(w->state_fd, "verify", &ignored);

        if (own >= 0)
                sweep(own);
        for (size_t i = 0; w->config && i < w->config->n_services; i++)
                for (size_t k = 0; k < w->config->services[i].paths.n; k++) {
                        Failure f = FAILURE_INIT;
                        _cleanup_close_ int area =
                                target_open_area(w->config->services[i].paths.items[k], false, &f);

                        if (area >= 0)
                                sweep(area);
                }
}

static void prove_done(Prove *p) {
        Failure f = FAILURE_INIT;

        if (p->dir >= 0 && tree_remove(p->place, p->name, NULL, NULL, &f) < 0)
                log_warning("%s is left, the next restore removes it: %s", p->name, f.text);
        fd_close(p->dir);
        fd_close(p->place);
        free(p->name);
        free(p->buffer);
        json_object_put(p->damaged);
        repo_manifest_free(p->manifest);
        snapshot_free(p->image);
        restore_done(&p->restore);
}

/* ---- the place ---- */

static bool has_room(int place, uint64_t bytes, uint64_t *ret_free) {
        uint64_t total;

        return fs_space(place, ret_free, &total) >= 0 &&
               *ret_free > bytes + bytes / 16 + PROVE_SPARE;
}

/* Where a restore would stage it, else the worker's own state. */
static int choose_place(Prove *p, Failure *reterr) {
        Restore *r = &p->restore;
        json_object *services = r->selection.services, *manifest;
        uint64_t bytes = 0, room = 0;

        if (json_get_object(r->record, "manifest", &manifest) >= 0)
                (void) json_get_u64(manifest, "bytes", &bytes);
        for (size_t i = 0; i < json_object_array_length(services); i++) {
                const ConfigService *c = config_service(
                        r->work->config,
                        json_object_get_string(json_object_array_get_idx(services, i)));

                for (size_t k = 0; c && k < c->paths.n; k++) {
                        Failure f = FAILURE_INIT;

                        p->place = target_open_area(c->paths.items[k], true, &f);
                        if (p->place >= 0 && has_room(p->place, bytes, &room))
                                return 0;
                        p->place = fd_close(p->place);
                }
        }
        p->place = state_open_dir(r->work->state_fd, "verify", reterr);
        if (p->place < 0 || has_room(p->place, bytes, &room))
                return p->place < 0 ? p->place : 0;
        return fail_set(reterr, FAIL_NO_SPACE, ENOSPC,
                        "restoring backup %s for its verification takes %llu bytes, and neither "
                        "the services' file systems nor the worker's state have that room",
                        r->backup_id, (unsigned long long) bytes);
}

static int make_directory(Prove *p, Failure *reterr) {
        Failure none = FAILURE_INIT;
        int r;

        p->name = text_printf(PROVE_PREFIX "%s", p->restore.backup_id);
        if (!p->name)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "verify");
        /* A subvolume is in no snapshot of what it lies in, and goes at once. */
        if (tree_make_subvolume(p->place, p->name, &none) < 0 &&
            mkdirat(p->place, p->name, 0700) < 0) {
                r = -errno;
                return r == -EEXIST ? fail_set(reterr, FAIL_BUSY, EBUSY,
                                               "backup %s is being verified by another job",
                                               p->restore.backup_id)
                                    : fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                                 "directory to verify in");
        }
        r = p->dir = lock_directory(p->place, p->name);
        if (r >= 0 && fchmod(p->dir, 0700) < 0)
                r = -errno;
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "directory to verify in") : 0;
}

/* ---- comparing ---- */

static int differs(Prove *p, const char *path, const char *what, Failure *reterr) {
        _cleanup_free_ char *text = text_escape(path);

        p->n_damaged++;
        if (text)
                (void) json_object_array_add(p->damaged, json_object_new_string(text));
        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                        "%s of backup %s, restored for a verification: %s", path,
                        p->restore.backup_id, what);
}

static bool same_xattrs(const Entry *a, const Entry *b) {
        if (a->n_xattrs != b->n_xattrs)
                return false;
        for (size_t i = 0; i < a->n_xattrs; i++)
                if (strcmp(a->xattrs[i].name, b->xattrs[i].name) != 0 ||
                    a->xattrs[i].size != b->xattrs[i].size ||
                    memcmp(a->xattrs[i].value, b->xattrs[i].value, a->xattrs[i].size) != 0)
                        return false;
        return true;
}

static bool same_text(const char *a, const char *b) {
        return strcmp(a ? a : "", b ? b : "") == 0;
}

/* NULL if what was restored is what the manifest says. */
static const char *find_difference(const Entry *made, const Entry *held) {
        if (made->type != held->type)
                return "another kind of file";
        if (!same_text(made->target, held->target))
                return "another link";
        if (made->type == ENTRY_HARDLINK)
                return NULL;
        if (made->mode != held->mode && made->type != ENTRY_SYMLINK)
                return "another mode";
        if (made->uid != held->uid || made->gid != held->gid)
                return "another owner";
        if (made->mtime_sec != held->mtime_sec || made->mtime_nsec != held->mtime_nsec)
                return "another time";
        if (made->size != held->size)
                return "another size";
        if (made->major != held->major || made->minor != held->minor)
                return "another device";
        if ((made->flags ^ held->flags) & FLAGS_THAT_LOCK)
                return "other flags";
        return same_xattrs(made, held) ? NULL : "other extended attributes";
}

typedef struct Content {
        Prove *prove;
        const char *path;
        int fd;
        uint64_t at; /* compared so far: what lies between chunks must be zero */
} Content;

static int compare_zeros(Content *c, uint64_t until, Failure *reterr) {
        uint8_t *half = c->prove->buffer;

        while (c->at < until) {
                size_t n = until - c->at < PROVE_BUFFER ? (size_t) (until - c->at) : PROVE_BUFFER;

                if (fd_pread_full(c->fd, half, n, c->at) != (ssize_t) n || half[0] != 0 ||
                    memcmp(half, half + 1, n - 1) != 0)
                        return differs(c->prove, c->path, "other content", reterr);
                c->at += n;
        }
        return 0;
}

static int
compare_chunk(void *userdata, uint64_t offset, const void *data, size_t n, Failure *reterr) {
        Content *c = userdata;
        int r = compare_zeros(c, offset, reterr);

        for (size_t at = 0; r >= 0 && at < n;) {
                size_t k = n - at < PROVE_BUFFER ? n - at : PROVE_BUFFER;

                if (fd_pread_full(c->fd, c->prove->buffer, k, offset + at) != (ssize_t) k ||
                    memcmp(c->prove->buffer, (const uint8_t *) data + at, k) != 0)
                        return differs(c->prove, c->path, "other content", reterr);
                at += k;
        }
        c->at = offset + n;
        if (r < 0)
                return r;
        c->prove->restore.work->bytes_done += n;
        work_progress(c->prove->restore.work, false);
        return work_check(c->prove->restore.work, reterr);
}

/* The hot copy is the same bytes, or one of the two cannot be relied on. */
static int compare_image(Prove *p, const Entry *held, const char *path, int fd, Failure *reterr) {
        _cleanup_close_ int image = -1;
        uint8_t *here = p->buffer, *there = p->buffer + PROVE_BUFFER;

        if (!p->image)
                return 0;
        image = snapshot_open_path(p->image, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
        for (uint64_t at = 0; at < held->size; at += PROVE_BUFFER) {
                size_t n =
                        held->size - at < PROVE_BUFFER ? (size_t) (held->size - at) : PROVE_BUFFER;

                if (image < 0 || fd_pread_full(fd, here, n, at) != (ssize_t) n ||
                    fd_pread_full(image, there, n, at) != (ssize_t) n ||
                    memcmp(here, there, n) != 0)
                        return differs(p, path, "the hot copy has other content", reterr);
        }
        return 0;
}

static int
on_entry(void *userdata, const Entry *made, const EntryLocal *local, int fd, Failure *reterr) {
        Prove *p = userdata;
        _cleanup_free_ char *path = text_printf("%s/%s", made->dir[1] ? made->dir : "", made->name);
        Content c = { .prove = p, .path = path, .fd = fd };
        Work *w = p->restore.work;
        uint64_t before = w->bytes_done;
        const Entry *held;
        const char *what;
        int r;

        if (!path)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "verify");
        r = repo_manifest_next(p->manifest, &held, reterr);
        if (r < 0)
                return r;
        if (r == 0 || strcmp(held->service, made->service) != 0 ||
            strcmp(held->dir, made->dir) != 0 || strcmp(held->name, made->name) != 0)
                return differs(p, path, "one was made that is not held, or is missing before it",
                               reterr);
        what = find_difference(made, held);
        if (what)
                return differs(p, path, what, reterr);
        p->compared++;
        w->files_done++;
        work_progress(w, false);
        step("compared");
        if (fd < 0)
                return work_check(w, reterr);
        r = repo_content_read(p->manifest, held, compare_chunk, &c, reterr);
        if (r >= 0)
                r = compare_zeros(&c, held->size, reterr);
        w->bytes_done = before + held->size; /* holes are done, too */
        return r < 0 ? r : compare_image(p, held, path, fd, reterr);
}

static int on_problem(void *userdata, const char *service, const char *path, const Failure *why) {
        Prove *p = userdata;
        Failure ignored = FAILURE_INIT;

        return differs(p, path, why->text, &ignored);
}

static bool is_interrupted(void *userdata) {
        Prove *p = userdata;

        return work_interrupted(p->restore.work);
}

/* Opens what was restored for a live path. */
static int open_restored(const Prove *p, const char *service, const char *path, int flags) {
        _cleanup_free_ char *relative = text_printf("%s%s", service, path);

        return relative ? fd_open_beneath(p->dir, relative, flags, 0, false) : -ENOMEM;
}

static int compare_service(Prove *p, const char *service, Failure *reterr) {
        const ArcSink sink = { .entry = on_entry,
                               .problem = on_problem,
                               .interrupted = is_interrupted,
                               .userdata = p };
        json_object *source, *paths;
        ArcRoot *roots;
        const Entry *left;
        size_t n;
        int r = selection_source(p->restore.record, service, &source, reterr);

        if (r < 0)
                return r;
        (void) json_get_array(source, "paths", &paths); /* it was just there */
        n = json_object_array_length(paths);
        roots = calloc(n + 1, sizeof(*roots));
        if (!roots)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "verify");
        for (size_t i = 0; i < n; i++)
                roots[i].fd = -1;
        for (size_t i = 0; r >= 0 && i < n; i++) {
                char *path = NULL;

                r = json_get_path(json_object_array_get_idx(paths, i), "path", &path);
                roots[i] = (ArcRoot){ .service = service, .path = path, .fd = -1 };
                if (r >= 0)
                        r = roots[i].fd = open_restored(p, service, path, O_PATH | O_NOFOLLOW);
                if (r < 0)
                        r = differs(p, path ? path : service, "it was not restored", reterr);
                if (r >= 0 && !p->image && n == 1)
                        r = restore_open_hot(&p->restore, service, path, &p->image, reterr);
        }
        if (r >= 0)
                r = repo_manifest_seek(p->manifest, service, "/", reterr);
        if (r >= 0)
                r = arc_walk(roots, n, &sink, reterr);
        if (r >= 0 && (r = repo_manifest_next(p->manifest, &left, reterr)) > 0)
                r = strcmp(left->service, service) == 0
                            ? differs(p, left->name, "it was not restored", reterr)
                            : 0;
        for (size_t i = 0; i < n; i++) {
                fd_close(roots[i].fd);
                free((char *) roots[i].path);
        }
        free(roots);
        snapshot_free(TAKE_PTR(p->image));
        return r;
}

/* ---- databases ---- */

static bool is_path_of_service(const Prove *p, const char *service, const char *path) {
        Failure ignored = FAILURE_INIT;
        json_object *source, *paths;

        if (selection_source(p->restore.record, service, &source, &ignored) < 0 ||
            json_get_array(source, "paths", &paths) < 0)
                return false;
        for (size_t i = 0; i < json_object_array_length(paths); i++) {
                _cleanup_free_ char *other = NULL;

                if (json_get_path(json_object_array_get_idx(paths, i), "path", &other) >= 0 &&
                    strcmp(other, path) == 0)
                        return true;
        }
        return false;
}

static int check_database(Prove *p, json_object *o, Failure *reterr) {
        _cleanup_free_ char *path = NULL, *dir = NULL;
        _cleanup_close_ int fd = -1;
        const char *verdict, *service, *name;

        if (json_get_path(o, "path", &path) < 0 || json_get_string(o, "check", &verdict) < 0 ||
            json_get_string(o, "service", &service) < 0 || strcmp(verdict, "ok") != 0)
                return 0;
        name = strrchr(path, '/') + 1;
        dir = strndup(path, (size_t) (name - 1 - path));
        fd = dir ? open_restored(p, service, dir, O_RDONLY | O_DIRECTORY) : -ENOMEM;
        if (fd < 0)
                return fail_errno(reterr, FAIL_INTEGRITY_FAILURE, -fd, "restored database %s",
                                  path);
        p->databases++;
        /* The directories above a Path= are root's alone here. */
        return is_path_of_service(p, service, path)
                       ? restore_check_staged_file(p->restore.work, fd, name, path, reterr)
                       : restore_check_database(p->restore.work, fd, name, path, reterr);
}

static int check_databases(Prove *p, Failure *reterr) {
        json_object *list;
        int r = 0;

        if (json_get_array(p->restore.record, "databases", &list) < 0)
                return 0;
        for (size_t i = 0; r >= 0 && i < json_object_array_length(list); i++) {
                r = check_database(p, json_object_array_get_idx(list, i), reterr);
                if (r >= 0)
                        r = work_check(p->restore.work, reterr);
        }
        return r;
}

/* ---- the verb ---- */

/* All is made once and read once. */
static void set_totals(Work *w, json_object *record) {
        Measured sum = { 0 };

        measure_record(record, &sum);
        w->bytes_total = 2 * sum.bytes;
        w->files_total = 2 * sum.entries;
        work_progress(w, true);
}

static int stage_service(Prove *p, const char *service, Failure *reterr) {
        Restore *r = &p->restore;
        Stage s = { .work = r->work, .repo = r->repo, .record = r->record, .service = service };
        int e = stage_aside(&s, p->dir, reterr);

        r->bytes += s.bytes;
        r->files += s.files;
        return e;
}

static int each_service(Prove *p,
                        int (*with)(Prove *p, const char *service, Failure *reterr),
                        Failure *reterr) {
        json_object *services = p->restore.selection.services;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < json_object_array_length(services); i++)
                r = with(p, json_object_get_string(json_object_array_get_idx(services, i)), reterr);
        return r;
}

static int prove(Prove *p, Failure *reterr) {
        Restore *q = &p->restore;
        int r = choose_place(p, reterr);

        if (r >= 0)
                r = make_directory(p, reterr);
        if (r >= 0)
                r = repo_manifest_open(q->repo, q->record, &p->manifest, reterr);
        if (r < 0)
                return r;
        work_phase(q->work, "stage");
        set_totals(q->work, q->record);
        r = each_service(p, stage_service, reterr);
        if (r < 0)
                return r;
        work_phase(q->work, "verify");
        r = each_service(p, compare_service, reterr);
        return r < 0 ? r : check_databases(p, reterr);
}

static json_object *prove_summary(const Prove *p) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "backup_id", p->restore.backup_id) < 0 ||
            json_put_string(o, "depth", "restore") < 0 ||
            json_put_u64(o, "bytes", p->restore.bytes) < 0 ||
            json_put_u64(o, "files", p->compared) < 0 ||
            json_put_u64(o, "databases", p->databases) < 0 ||
            json_put_u64(o, "damaged", p->n_damaged) < 0 ||
            json_put(o, "damaged_objects", json_object_get(p->damaged)) < 0)
                return NULL;
        return TAKE_PTR(o);
}

static void tell(Prove *p, bool sound) {
        Restore *r = &p->restore;
        Failure f = FAILURE_INIT;

        /* Retention may have removed it meanwhile: then there is nothing to be said of it. */
        if (!repo_has_backup(r->repo, r->backup_id))
                return;
        if (verified_note(r->work, r->backup_id, "restore", sound ? "sound" : "damaged", &f) < 0)
                log_warning("the verification of %s is not noted: %s", r->backup_id, f.text);
        work_stream(r->work, "backup", "backup", facts_dictionary(r->work, r->repo, r->record));
}

int run_prove(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(prove_done) Prove p = { .restore = RESTORE_INIT(w),
                                          .place = -1,
                                          .dir = -1,
                                          .damaged = json_object_new_array(),
                                          .buffer = malloc(2 * PROVE_BUFFER) };
        const char *depth;
        int r;

        if (!p.damaged || !p.buffer)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "verify");
        if ((r = work_uuid(w, "backup_id", &p.restore.backup_id, reterr)) < 0 ||
            (r = work_string(w, "depth", &depth, reterr)) < 0)
                return r;
        if (strcmp(depth, "restore") != 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "a restore worker verifies by restoring alone, not depth '%s'",
                                depth);
        p.restore.type = "full";
        p.restore.from = "auto";
        prove_sweep(w);
        r = restore_load(&p.restore, reterr);
        if (r >= 0)
                r = repo_need_private(p.restore.repo, reterr);
        if (r < 0)
                return r;
        work_accepted(w);
        r = prove(&p, reterr);
        work_progress(w, true);
        if (r >= 0 || reterr->code == FAIL_INTEGRITY_FAILURE)
                tell(&p, r >= 0);
        *ret_summary = prove_summary(&p);
        return r;
}
