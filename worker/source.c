#include "worker/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/step.h"
#include "base/text.h"

#define SQLITE_HEADER   "SQLite format 3"
#define SQLITE_PAGE_MIN 512

/* ---- services, paths, volumes ---- */

/* A volume is read through one mount: its image is reached by the paths of that. */
static int check_mount(const Volume *v, const char *path, Failure *reterr) {
        if (text_path_is_below(path, volume_root(v)))
                return 0;
        return fail_set(reterr, FAIL_SNAPSHOT_FAILED, EXDEV,
                        "%s lies on the same logical volume as %s, but is reached through another "
                        "mount: configure all paths by one of the two",
                        path, volume_root(v));
}

static int find_volume(Source *s, SourcePath *p, SnapshotKind kind, Failure *reterr) {
        _cleanup_(volume_freep) Volume *v = NULL;
        SourceService *service = &s->services[p->service];
        int r = volume_find(p->path, kind, &v, reterr);

        if (r < 0)
                return r;
        if (volume_fallback(v) && service->fallback.code == FAIL_NONE)
                service->fallback = *volume_fallback(v);
        for (p->volume = 0; p->volume < s->n_volumes; p->volume++)
                if (volume_equal(s->volumes[p->volume], v))
                        return check_mount(s->volumes[p->volume], p->path, reterr);
        s->volumes[s->n_volumes++] = TAKE_PTR(v);
        return 0;
}

static int identify_path(const Source *s, SourcePath *p, Failure *reterr) {
        _cleanup_close_ int fd = -1;
        struct stat st;

        fd = fd_open_absolute(p->path, O_PATH | O_NOFOLLOW);
        if (fd < 0 || fstat(fd, &st) < 0)
                return fail_errno(reterr, FAIL_SOURCE_MISSING, fd < 0 ? -fd : errno, "%s", p->path);
        if (volume_kind(s->volumes[p->volume]) == SNAPSHOT_BTRFS &&
            strcmp(p->path, volume_root(s->volumes[p->volume])) == 0)
                p->kind = TREE_SUBVOLUME;
        else if (S_ISDIR(st.st_mode))
                p->kind = TREE_DIRECTORY;
        else if (S_ISREG(st.st_mode))
                p->kind = TREE_FILE;
        else
                return fail_set(reterr, FAIL_SOURCE_MISSING, EINVAL,
                                "%s is neither a directory nor a file", p->path);
        return 0;
}

SnapshotKind source_snapshot_kind(const ConfigService *c) {
        switch (c->snapshot) {
        case CONFIG_SNAPSHOT_BTRFS:
                return SNAPSHOT_BTRFS;
        case CONFIG_SNAPSHOT_LVM:
                return SNAPSHOT_LVM;
        case CONFIG_SNAPSHOT_NONE:
                return SNAPSHOT_NONE;
        case CONFIG_SNAPSHOT_AUTO:
                break;
        }
        return SNAPSHOT_AUTO;
}

static int open_service(Source *s, size_t i, Failure *reterr) {
        SourceService *service = &s->services[i];
        const ConfigService *c = service->config;
        int r;

        r = globs_new((const char *const *) c->excludes.items, c->excludes.n, &service->rules,
                      reterr);
        if (r < 0) {
                fail_prefix(reterr, "%s", c->file);
                return r;
        }
        service->uses_image = true;
        for (size_t k = 0; k < c->paths.n; k++) {
                SourcePath *p = &s->paths[s->n_paths++];

                *p = (SourcePath){ .service = i, .path = c->paths.items[k] };
                r = find_volume(s, p, source_snapshot_kind(c), reterr);
                if (r >= 0)
                        r = identify_path(s, p, reterr);
                if (r < 0) {
                        fail_prefix(reterr, "service %s", c->name);
                        return r;
                }
                if (volume_kind(s->volumes[p->volume]) == SNAPSHOT_NONE)
                        service->uses_image = false;
        }
        return 0;
}

static int compare_services(const void *a, const void *b) {
        return strcmp(((const SourceService *) a)->config->name,
                      ((const SourceService *) b)->config->name);
}

static int name_services(Work *w, json_object *names, Source *s, Failure *reterr) {
        size_t n = json_object_array_length(names), n_paths = 0;

        if (n == 0)
                return fail_set(reterr, FAIL_NO_SUCH_SERVICE, ENOENT,
                                "no service is configured; add a file to services.d/");
        s->services = calloc(n, sizeof(*s->services));
        if (!s->services)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "services");
        for (size_t i = 0; i < n; i++) {
                const char *name = json_object_get_string(json_object_array_get_idx(names, i));
                const ConfigService *c = name ? config_service(w->config, name) : NULL;

                if (!c)
                        return fail_set(reterr, FAIL_NO_SUCH_SERVICE, ENOENT,
                                        "no service '%s' is configured", name ? name : "");
                for (size_t k = 0; k < i; k++)
                        if (s->services[k].config == c)
                                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                                "service '%s' is named twice", name);
                s->services[s->n_services++].config = c;
                n_paths += c->paths.n;
        }
        qsort(s->services, n, sizeof(*s->services), compare_services);
        s->paths = calloc(n_paths, sizeof(*s->paths));
        s->volumes = calloc(n_paths, sizeof(Volume *));
        s->refused = calloc(n, sizeof(*s->refused));
        if (!s->paths || !s->volumes || !s->refused)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "services");
        return 0;
}

int source_open(Work *w, json_object *services, Source *ret, Failure *reterr) {
        int r = name_services(w, services, ret, reterr);

        for (size_t i = 0; r >= 0 && i < ret->n_services;) {
                Failure f = FAILURE_INIT;

                r = open_service(ret, i, &f);
                if (r >= 0)
                        i++;
                else
                        r = source_refuse(ret, i, r, &f, reterr);
        }
        return r;
}

void source_close(Source *s) {
        for (size_t i = 0; i < s->n_volumes; i++)
                volume_free(TAKE_PTR(s->volumes[i]));
        for (size_t i = 0; i < s->n_databases; i++)
                s->databases[i].live_dirfd = fd_close(s->databases[i].live_dirfd);
}

void source_done(Source *s) {
        for (size_t i = 0; i < s->n_services; i++)
                globs_free(s->services[i].rules);
        for (size_t i = 0; i < s->n_volumes; i++)
                volume_free(s->volumes[i]);
        for (size_t i = 0; i < s->n_databases; i++) {
                free(s->databases[i].path);
                fd_close(s->databases[i].live_dirfd);
                fd_close(s->databases[i].copy_fd);
        }
        for (size_t i = 0; i < s->n_problems; i++)
                free(s->problems[i].path);
        free(s->problems);
        free(s->refused);
        free(s->services);
        free(s->paths);
        free(s->volumes);
        free(s->databases);
        free(s->holds);
        *s = (Source){ 0 };
}

/* ---- databases ---- */

bool source_is_sqlite(int fd, uint64_t size) {
        char header[sizeof(SQLITE_HEADER)];

        /* A database is whole pages; the smallest page is 512 bytes. */
        return size >= SQLITE_PAGE_MIN && size % SQLITE_PAGE_MIN == 0 &&
               fd_pread_full(fd, header, sizeof(header), 0) == sizeof(header) &&
               memcmp(header, SQLITE_HEADER, sizeof(header)) == 0;
}

typedef struct Discovery {
        Work *work;
        Source *source;
        size_t path;             /* the one being walked */
        uint64_t repository_ino; /* of its directory, on whatever file system; 0 if there is none */
        Failure *reterr;
} Discovery;

/*
 * The configuration compares paths as text; through a link or a bind mount the repository may lie
 * in a service all the same, and each backup would hold the ones before.
 */
static int
refuse_repository(const Discovery *d, const char *dir, const char *name, Failure *reterr) {
        const char *repository = d->work->config->repository_path;
        _cleanup_free_ char *path = text_printf("%s/%s", dir[1] ? dir : "", name);
        _cleanup_close_ int fd = -1;
        struct stat here, there;

        if (!path)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", name);
        fd = fd_open_absolute(path, O_PATH);
        if (fd < 0 || fstat(fd, &here) < 0 || stat(repository, &there) < 0 ||
            here.st_dev != there.st_dev || here.st_ino != there.st_ino)
                return 0;
        return fail_set(reterr, FAIL_CONFIGURATION_INVALID, ELOOP,
                        "service %s: %s is the repository %s itself; move one of them, or leave it "
                        "out with Exclude=",
                        d->source->services[d->source->paths[d->path].service].config->name, path,
                        repository);
}

static int add_database(Source *s,
                        const SourcePath *p,
                        const char *path,
                        const EntryLocal *local,
                        Failure *reterr) {
        SourceDatabase *grown, *d;
        _cleanup_close_ int dirfd = -1;
        _cleanup_free_ char *copy = strdup(path), *dir = strdup(path);
        const ConfigService *c = s->services[p->service].config;

        if (!copy || !dir)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", path);
        *strrchr(dir, '/') = 0;
        dirfd = fd_open_absolute(*dir ? dir : "/", O_PATH | O_DIRECTORY);
        if (dirfd < 0)
                return fail_errno(reterr, FAIL_SOURCE_MISSING, -dirfd, "%s", dir);
        grown = realloc(s->databases, (s->n_databases + 1) * sizeof(*grown));
        if (!grown)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", path);
        s->databases = grown;
        d = &s->databases[s->n_databases++];
        *d = (SourceDatabase){
                .service = p->service,
                .volume = p->volume,
                .live_dirfd = TAKE_FD(dirfd),
                .ino = local->ino,
                .size = local->size,
                .uid = local->uid,
                .gid = local->gid,
                .copy_fd = -1,
                .copy = c->capture == CONFIG_CAPTURE_ONLINE_BACKUP ||
                        volume_kind(s->volumes[p->volume]) == SNAPSHOT_NONE,
                .path = TAKE_PTR(copy),
        };
        d->name = strrchr(d->path, '/') + 1;
        if (d->copy)
                s->services[p->service].online = true;
        return 0;
}

/* Everything but what may be a database is settled at the first look: nothing else is opened. */
static int discover_known(void *userdata,
                          const char *service,
                          const char *dir,
                          const char *name,
                          const EntryLocal *local,
                          Failure *reterr) {
        Discovery *d = userdata;
        SourceService *s = &d->source->services[d->source->paths[d->path].service];

        s->files++;
        step("scan");
        if (S_ISDIR(local->mode) && local->ino == d->repository_ino) {
                int r = refuse_repository(d, dir, name, reterr);

                return r < 0 ? r : 1;
        }
        if (!S_ISREG(local->mode))
                return 1;
        s->bytes += local->size;
        if (s->config->databases != CONFIG_DATABASES_AUTO)
                return 1;
        return local->size < SQLITE_PAGE_MIN || local->size % SQLITE_PAGE_MIN != 0;
}

static int
add_problem(Source *s, size_t service, const char *path, const Failure *why, bool walk_tells) {
        SourceProblem *grown;
        char *copy;

        if (s->n_problems == SOURCE_PROBLEMS_MAX)
                return 0; /* partial it is anyway */
        grown = realloc(s->problems, (s->n_problems + 1) * sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        s->problems = grown;
        copy = strdup(path);
        if (!copy)
                return -ENOMEM;
        s->problems[s->n_problems++] = (SourceProblem){ service, copy, *why, walk_tells };
        return 0;
}

/* What a service's user can make happen: it is said of this service and stops no other one. */
static int leave_unheld(Source *s, size_t service, const char *path, const Failure *why) {
        s->services[service].unheld = true;
        return add_problem(s, service, path, why, false);
}

static int
discover_entry(void *userdata, const Entry *e, const EntryLocal *local, int fd, Failure *reterr) {
        Discovery *d = userdata;
        size_t service = d->source->paths[d->path].service;
        _cleanup_free_ char *path = NULL;
        Failure f = FAILURE_INIT;
        int r;

        /* A hard link to one is the same database: it is held once, under its first name. */
        if (e->type != ENTRY_FILE || fd < 0 || !source_is_sqlite(fd, local->size))
                return 0;
        path = text_printf("%s/%s", strcmp(e->dir, "/") == 0 ? "" : e->dir, e->name);
        if (!path)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "databases");
        if (d->source->n_databases >= SOURCE_DATABASES_MAX) {
                if (d->source->services[service].unheld)
                        return 0;
                (void) fail_set(&f, FAIL_CONFIGURATION_INVALID, E2BIG,
                                "more than %d databases, %s is not held; name those that matter "
                                "with Database= or leave some out with Exclude=",
                                SOURCE_DATABASES_MAX, path);
                return leave_unheld(d->source, service, path, &f);
        }
        r = add_database(d->source, &d->source->paths[d->path], path, local, &f);
        if (r < 0 && f.code == FAIL_SOURCE_MISSING)
                return 0; /* moved away meanwhile; if the image has it, it was not held */
        if (r < 0)
                *reterr = f;
        return r;
}

/*
 * What a snapshot does not show: a nested subvolume, or a mount. All else is told by the backup
 * itself.
 */
static int
discover_problem(void *userdata, const char *service, const char *path, const Failure *why) {
        Discovery *d = userdata;
        const SourcePath *p = &d->source->paths[d->path];

        if (why->code == FAIL_NOT_RESTORABLE && why->errnum == EXDEV)
                return add_problem(d->source, p->service, path, why,
                                   volume_kind(d->source->volumes[p->volume]) == SNAPSHOT_NONE);
        if (why->code != FAIL_SNAPSHOT_FAILED)
                return 0;
        return fail_set(
                d->reterr, FAIL_SNAPSHOT_FAILED, EXDEV,
                "service %s: %s is a nested subvolume, which a snapshot leaves empty; make it a "
                "Path= of its own service or leave it out with Exclude=",
                service, path);
}

static bool discover_interrupted(void *userdata) {
        const Discovery *x = userdata;

        return work_interrupted(x->work);
}

static int walk_live(Work *w, Source *s, size_t i, Failure *reterr) {
        SourcePath *p = &s->paths[i];
        _cleanup_close_ int fd = fd_open_absolute(p->path, O_PATH | O_NOFOLLOW);
        Discovery d = { .work = w, .source = s, .path = i, .reterr = reterr };
        ArcRoot root = { .service = s->services[p->service].config->name,
                         .path = p->path,
                         .fd = fd,
                         .rules = s->services[p->service].rules };
        ArcSink sink = { .known = discover_known,
                         .entry = discover_entry,
                         .problem = discover_problem,
                         .interrupted = discover_interrupted,
                         .userdata = &d };

        struct stat repository;

        if (fd < 0)
                return fail_errno(reterr, FAIL_SOURCE_MISSING, -fd, "service %s: %s", root.service,
                                  p->path);
        if (stat(w->config->repository_path, &repository) == 0)
                d.repository_ino = repository.st_ino;
        /* discover_problem() fills reterr itself; the walk must not find it taken before. */
        return arc_walk(&root, 1, &sink, reterr);
}

static int add_listed(Source *s, size_t i, const char *path, Failure *reterr) {
        SourcePath *p = &s->paths[i];
        const char *service = s->services[p->service].config->name;
        _cleanup_close_ int fd = fd_open_absolute(path, O_PATH | O_NOFOLLOW);
        EntryLocal local = { 0 };
        struct stat st;

        if (s->n_databases == SOURCE_DATABASES_MAX)
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, E2BIG,
                                "service %s: more than %d databases", service,
                                SOURCE_DATABASES_MAX);
        if (fd < 0 || fstat(fd, &st) < 0)
                return fail_errno(reterr, FAIL_SOURCE_MISSING, fd < 0 ? -fd : errno,
                                  "service %s: database %s", service, path);
        if (!S_ISREG(st.st_mode))
                return fail_set(reterr, FAIL_SOURCE_MISSING, EINVAL,
                                "service %s: database %s is no regular file", service, path);
        local.ino = st.st_ino;
        local.uid = st.st_uid;
        local.gid = st.st_gid;
        return add_database(s, p, path, &local, reterr);
}

static int discover_path(Work *w, Source *s, size_t i, Failure *reterr) {
        const ConfigService *c = s->services[s->paths[i].service].config;
        int r = walk_live(w, s, i, reterr);

        if (c->databases != CONFIG_DATABASES_LIST)
                return r;
        for (size_t k = 0; r >= 0 && k < c->database_paths.n; k++)
                if (text_path_is_below(c->database_paths.items[k], s->paths[i].path))
                        r = add_listed(s, i, c->database_paths.items[k], reterr);
        return r;
}

int source_make_holds(Source *s, Failure *reterr) {
        free(TAKE_PTR(s->holds));
        if (s->n_databases == 0)
                return 0;
        s->holds = calloc(s->n_databases, sizeof(*s->holds));
        if (!s->holds)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "databases");
        for (size_t i = 0; i < s->n_databases; i++) {
                SourceDatabase *d = &s->databases[i];

                s->holds[i] = (HoldDatabase){
                        .path = d->path,
                        .dirfd = d->live_dirfd,
                        .name = d->name,
                        .uid = d->uid,
                        .gid = d->gid,
                        .pin = d->copy,
                };
        }
        return 0;
}

static int discover_service(Work *w, Source *s, size_t service, Failure *reterr) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < s->n_paths; i++)
                if (s->paths[i].service == service)
                        r = discover_path(w, s, i, reterr);
        return r;
}

int source_discover(Work *w, Source *s, Failure *reterr) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < s->n_services;) {
                Failure f = FAILURE_INIT;

                r = discover_service(w, s, i, &f);
                if (r >= 0)
                        i++;
                else
                        r = source_refuse(s, i, r, &f, reterr);
        }
        return r < 0 ? r : source_make_holds(s, reterr);
}

SourceDatabase *source_database(const Source *s, const char *path) {
        for (size_t i = 0; i < s->n_databases; i++)
                if (strcmp(s->databases[i].path, path) == 0)
                        return &s->databases[i];
        return NULL;
}
