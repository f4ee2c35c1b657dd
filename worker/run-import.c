/*
 * import: a tar with names SERVICE/ABSOLUTE/PATH becomes a backup. The archive is a stranger's:
 * nothing in it is ever extracted. Its entries wait in unnamed files of the worker's state until
 * they can go into a session in manifest order, and only what a manifest may hold goes.
 */

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "archive/arc-untar.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/step.h"
#include "base/text.h"
#include "worker/facts.h"
#include "worker/open-repo.h"
#include "worker/request-fds.h"
#include "worker/run.h"
#include "worker/spool.h"
#include "worker/stream.h"

#define SERVICES_MAX  100
#define ROOTS_MAX     1000
#define SQLITE_HEADER "SQLite format 3"

typedef struct Import {
        Work *work;
        const char *backup_id, *name, *description, *created_by;
        int stream;
        ArcUntar *untar;
        Spool *spool;
        Repo *repo;
        RepoSession *session;
        RepoTotals totals;
        json_object *services, *sources; /* names; service -> paths and excludes */
        size_t n_roots;
        uint64_t instant_usec;
} Import;

static void import_done(Import *x) {
        repo_session_free(x->session);
        arc_untar_free(x->untar);
        spool_free(x->spool);
        repo_close(x->repo);
        json_object_put(x->services);
        json_object_put(x->sources);
        fd_close(x->stream);
}

static int out_of_memory(Failure *reterr) {
        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "import");
}

static int refuse(const Entry *e, const char *why, Failure *reterr) {
        _cleanup_free_ char *dir = text_escape(e->dir), *name = text_escape(e->name);

        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "%s%s/%.255s in the archive: %s",
                        e->service, dir && dir[1] ? dir : "", name ? name : "", why);
}

/* ---- the archive ---- */

static ssize_t read_stream(void *userdata, void *data, size_t n, Failure *reterr) {
        Import *x = userdata;
        int stall = stream_stall_msec();

        for (;;) {
                struct pollfd fds[] = { { .fd = x->stream, .events = POLLIN },
                                        { .fd = x->work->socket, .events = POLLIN } };
                int r = poll(fds, ELEMENTSOF(fds), stall);
                ssize_t got;

                if (r == 0)
                        return fail_set(reterr, FAIL_INTERRUPTED, ETIMEDOUT,
                                        "the archive gave nothing for %d seconds; begin again",
                                        stall / 1000);
                if (r > 0 && fds[1].revents && work_check(x->work, reterr) < 0)
                        return -ECANCELED;
                if (r <= 0 || !fds[0].revents)
                        continue;
                got = read(x->stream, data, n);
                if (got >= 0 || (errno != EINTR && errno != EAGAIN))
                        return got >= 0 ? got
                                        : fail_errno(reterr, FAIL_SOURCE_MISSING, errno,
                                                     "reading the archive");
        }
}

static int write_spool(void *userdata, uint64_t offset, const void *data, size_t n, Failure *e) {
        Import *x = userdata;

        x->work->bytes_done += n;
        work_progress(x->work, false);
        return spool_write(x->spool, offset, data, n, e);
}

/* SERVICE/ABSOLUTE/PATH, taken apart in `copy`. 1, 0 for the directory of a service itself. */
static int split_path(char *copy, Entry *e, Failure *reterr) {
        char *slash = strchr(copy, '/'), *last;

        if (slash)
                *slash = 0;
        if (!text_is_service_name(copy) || config_is_reserved(copy))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "paths in the archive must begin with the name of a service");
        if (!slash)
                return e->type == ENTRY_DIRECTORY
                               ? 0
                               : fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                          "'%s' in the archive is no directory of a service", copy);
        e->service = copy;
        last = strrchr(slash + 1, '/');
        e->name = last ? last + 1 : slash + 1;
        if (last)
                *last = 0;
        return 1;
}

static int take_entry(Import *x, const char *path, Entry *e, Failure *reterr) {
        _cleanup_free_ char *copy = strdup(path), *dir = NULL, *target = NULL;
        size_t n;
        int r;

        if (!copy)
                return out_of_memory(reterr);
        r = split_path(copy, e, reterr);
        if (r <= 0)
                return r;
        n = strlen(e->service);
        dir = e->name > copy + n + 1 ? text_printf("/%s", copy + n + 1) : strdup("/");
        if (!dir)
                return out_of_memory(reterr);
        e->dir = dir;
        if (e->type == ENTRY_HARDLINK) {
                if (strncmp(e->target, e->service, n) != 0 || e->target[n] != '/')
                        return refuse(e, "it is a hard link to outside of its service", reterr);
                target = strdup(e->target + n);
                if (!target)
                        return out_of_memory(reterr);
                e->target = target;
        }
        r = spool_put(x->spool, e, reterr);
        if (r >= 0 && e->type == ENTRY_FILE && e->size > 0)
                r = arc_untar_data(x->untar, write_spool, x, reterr);
        return r;
}

static int read_archive(Import *x, Failure *reterr) {
        const char *path;
        Entry e;
        int r = arc_untar_new(read_stream, x, &x->untar, reterr);

        if (r >= 0)
                r = spool_new(x->work->state_fd, &x->spool, reterr);
        while (r >= 0 && (r = arc_untar_next(x->untar, &path, &e, reterr)) > 0) {
                r = take_entry(x, path, &e, reterr);
                x->work->files_done++;
                work_progress(x->work, false);
                if (r >= 0 && work_interrupted(x->work))
                        r = work_check(x->work, reterr);
        }
        if (r >= 0 && spool_count(x->spool) == 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, ENODATA,
                                "the archive holds nothing of any service");
        return r < 0 ? r : spool_sort(x->spool, reterr);
}

/* ---- what it says of directories ---- */

/* 1 if `path` of the service is a directory of the archive, 0 if it is not there. */
static int find_directory(Import *x, const Entry *e, const char *path, Failure *reterr) {
        const char *slash = strrchr(path, '/');
        _cleanup_free_ char *dir = NULL;
        EntryType type = 0;
        size_t at;
        int r;

        if (!slash || !slash[1])
                return 0; /* "/" */
        dir = slash == path ? strdup("/") : strndup(path, (size_t) (slash - path));
        if (!dir)
                return out_of_memory(reterr);
        r = spool_find(x->spool, e->service, dir, slash + 1, &at, reterr);
        if (r > 0)
                r = spool_type(x->spool, at, &type, reterr) < 0 ? -EIO : 1;
        if (r > 0 && type != ENTRY_DIRECTORY)
                return refuse(e, "what should be its directory is none", reterr);
        return r;
}

/* Above a root nothing of the archive may be: neither a link nor a directory with a gap below. */
static int check_root(Import *x, const Entry *e, Failure *reterr) {
        _cleanup_free_ char *path = strdup(e->dir);

        if (!path)
                return out_of_memory(reterr);
        for (char *slash; (slash = strrchr(path, '/')) && slash > path;) {
                int r;

                *slash = 0;
                r = find_directory(x, e, path, reterr);
                if (r != 0)
                        return r < 0 ? r : refuse(e, "its directory is missing", reterr);
        }
        return 0;
}

/* The service's part of the record, made at its first entry. */
static int source_of(Import *x, const char *service, json_object **ret_paths, Failure *reterr) {
        json_object *source;

        if (json_get_object(x->sources, service, &source) < 0) {
                if (json_object_array_length(x->services) == SERVICES_MAX)
                        return fail_set(reterr, FAIL_INVALID_ARGUMENT, E2BIG,
                                        "the archive has more than %d services", SERVICES_MAX);
                source = json_object_new_object();
                if (json_put(x->sources, service, source) < 0 ||
                    json_put(source, "paths", json_object_new_array()) < 0 ||
                    json_put(source, "excludes", json_object_new_array()) < 0 ||
                    json_object_array_add(x->services, json_object_new_string(service)) < 0)
                        return out_of_memory(reterr);
        }
        return json_get_array(source, "paths", ret_paths) < 0 ? out_of_memory(reterr) : 0;
}

/* What has no directory in the archive stands for a Path= of its service. */
static int add_root(Import *x, const Entry *e, Failure *reterr) {
        _cleanup_free_ char *path = text_printf("%s/%s", e->dir[1] ? e->dir : "", e->name);
        _cleanup_json_ json_object *o = json_object_new_object();
        json_object *paths;
        int r;

        if (e->type != ENTRY_DIRECTORY && e->type != ENTRY_FILE)
                return refuse(e,
                              "what stands for a path of its service must be a directory or file",
                              reterr);
        if (++x->n_roots > ROOTS_MAX)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, E2BIG,
                                "the archive lacks too many directories");
        r = source_of(x, e->service, &paths, reterr);
        if (r < 0)
                return r;
        if (!path || !o || json_put_path(o, "path", path) < 0 ||
            json_put_string(o, "kind", e->type == ENTRY_FILE ? "file" : "directory") < 0 ||
            json_object_array_add(paths, json_object_get(o)) < 0)
                return out_of_memory(reterr);
        return 0;
}

/* ---- into the repository ---- */

static int check_link(Import *x, const Entry *e, size_t i, Failure *reterr) {
        const char *slash = strrchr(e->target, '/');
        _cleanup_free_ char *dir =
                slash == e->target ? strdup("/") : strndup(e->target, (size_t) (slash - e->target));
        EntryType type;
        size_t at;
        int r;

        if (!dir)
                return out_of_memory(reterr);
        r = spool_find(x->spool, e->service, dir, slash + 1, &at, reterr);
        if (r > 0 && spool_type(x->spool, at, &type, reterr) < 0)
                return -EIO;
        if (r < 0)
                return r;
        if (r == 0 || type == ENTRY_DIRECTORY || type == ENTRY_HARDLINK)
                return refuse(e, "it is a hard link to nothing of the archive that can have one",
                              reterr);
        return at < i ? 0
                      : refuse(e, "it is a hard link before its file; pack with tar --sort=name",
                               reterr);
}

static int add_file(Import *x, size_t i, Entry *e, Failure *reterr) {
        EntryLocal local = { .size = e->size, .nlink = 1 };
        _cleanup_close_ int fd = -1;
        char header[sizeof(SQLITE_HEADER)];
        int r = e->size > 0 ? spool_open_content(x->spool, i, &fd, reterr) : 0;

        if (r < 0)
                return r;
        if (e->size > 0) {
                e->class = ENTRY_CLASS_LARGE;
                if (fd_pread_full(fd, header, sizeof(header), 0) == sizeof(header) &&
                    memcmp(header, SQLITE_HEADER, sizeof(header)) == 0)
                        e->class = ENTRY_CLASS_SQLITE;
        }
        r = repo_session_add(x->session, e, &local, fd, false, reterr);
        return r > 0 ? -EIO : r;
}

static int add_entry(Import *x, size_t i, bool new_run, bool *in_root_run, Failure *reterr) {
        EntryLocal local = { .nlink = 1 };
        Entry e;
        int r = spool_get(x->spool, i, &e, reterr);

        if (r >= 0 && new_run) {
                r = find_directory(x, &e, e.dir, reterr);
                *in_root_run = r == 0;
                if (r == 0)
                        r = check_root(x, &e, reterr);
        }
        if (r >= 0 && *in_root_run)
                r = add_root(x, &e, reterr);
        if (r >= 0 && e.type == ENTRY_HARDLINK)
                r = check_link(x, &e, i, reterr);
        if (r < 0)
                return r;
        if (e.type == ENTRY_FILE)
                return add_file(x, i, &e, reterr);
        r = repo_session_add(x->session, &e, &local, -1, false, reterr);
        return r > 0 ? -EIO : r;
}

static int store(Import *x, Failure *reterr) {
        RepoSessionParams params = {
                .level = x->work->config->compression_level,
                .pack_bytes = (uint64_t) x->work->config->pack_size_mib << 20,
        };
        _cleanup_free_ char *run = NULL;
        bool in_root_run = false;
        int r = repo_session_begin(x->repo, &params, &x->session, reterr);

        for (size_t i = 0; r >= 0 && i < spool_count(x->spool); i++) {
                _cleanup_free_ char *now = NULL;
                bool new_run;
                Entry e;

                r = spool_get(x->spool, i, &e, reterr);
                if (r < 0)
                        return r;
                now = text_printf("%s%s", e.service, e.dir);
                if (!now)
                        return out_of_memory(reterr);
                new_run = !run || strcmp(run, now) != 0;
                r = add_entry(x, i, new_run, &in_root_run, reterr);
                free(run);
                run = TAKE_PTR(now);
                if (r >= 0 && work_interrupted(x->work))
                        r = work_check(x->work, reterr);
        }
        return r < 0 ? r : repo_session_finish(x->session, &x->totals, reterr);
}

/* ---- the verb ---- */

static int prepare(Import *x, Failure *reterr) {
        Work *w = x->work;
        int r;

        if ((r = work_uuid(w, "backup_id", &x->backup_id, reterr)) < 0 ||
            (r = work_string(w, "backup_name", &x->name, reterr)) < 0 ||
            (r = work_string(w, "description", &x->description, reterr)) < 0 ||
            (r = work_string(w, "created_by", &x->created_by, reterr)) < 0 ||
            (r = request_take_fd(w, REQUEST_FD_STREAM, &x->stream, reterr)) < 0 ||
            (r = open_repo(w, true, true, &x->repo, reterr)) < 0)
                return r;
        if (repo_has_backup(x->repo, x->backup_id))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EEXIST, "backup %s is there already",
                                x->backup_id);
        x->services = json_object_new_array();
        x->sources = json_object_new_object();
        x->instant_usec = clock_realtime_usec();
        return x->services && x->sources ? 0 : out_of_memory(reterr);
}

static json_object *make_summary(const Import *x) {
        const ArcUntarDropped *d = arc_untar_dropped(x->untar);
        json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "backup_id", x->backup_id) < 0 ||
            json_put_u64(o, "bytes", x->totals.bytes) < 0 ||
            json_put_u64(o, "new_bytes", x->totals.new_bytes) < 0 ||
            json_put_u64(o, "files", x->totals.entries) < 0 ||
            json_put_u64(o, "dropped_devices", d->devices) < 0 ||
            json_put_u64(o, "dropped_modes", d->modes) < 0 ||
            json_put_u64(o, "dropped_xattrs", d->xattrs) < 0 ||
            json_put_u64(o, "dropped_flags", d->flags) < 0) {
                json_object_put(o);
                return NULL;
        }
        return o;
}

static void tell_dropped(const ArcUntarDropped *d) {
        if (d->devices + d->modes + d->xattrs + d->flags > 0)
                log_warning("left out of the import: %llu device nodes, setuid and setgid of %llu "
                            "files, %llu extended attributes, flags of %llu files",
                            (unsigned long long) d->devices, (unsigned long long) d->modes,
                            (unsigned long long) d->xattrs, (unsigned long long) d->flags);
}

static int commit(Import *x, json_object **ret_record, Failure *reterr) {
        const FactsImport q = { .backup_id = x->backup_id,
                                .name = x->name,
                                .description = x->description,
                                .created_by = x->created_by,
                                .instant_usec = x->instant_usec,
                                .services = x->services,
                                .sources = x->sources };
        _cleanup_json_ json_object *facts = facts_new_import(&q);

        if (!facts)
                return out_of_memory(reterr);
        work_commit(x->work);
        return repo_session_commit(x->session, x->backup_id, facts, &x->totals, ret_record, reterr);
}

int run_import(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(import_done) Import x = { .work = w, .stream = -1 };
        _cleanup_json_ json_object *record = NULL;
        int r = prepare(&x, reterr);

        if (r < 0)
                return r;
        work_accepted(w);
        work_phase(w, "scan");
        r = read_archive(&x, reterr);
        if (r < 0)
                return r;
        tell_dropped(arc_untar_dropped(x.untar));
        work_phase(w, "store");
        r = store(&x, reterr);
        step("stored");
        if (r >= 0)
                r = work_check(w, reterr);
        if (r >= 0)
                r = commit(&x, &record, reterr);
        if (r < 0)
                return r;
        work_progress(w, true);
        open_repo_tell_space(w, x.repo);
        work_stream(w, "backup", "backup", facts_dictionary(w, x.repo, record));
        *ret_summary = make_summary(&x);
        return 0;
}
