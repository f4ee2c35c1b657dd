#include "worker/collect.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/names.h"
#include "base/step.h"
#include "base/text.h"
#include "worker/state.h"

#define UNSTABLE_TRIES 3

int collect_init(Collect *c,
                 Work *w,
                 Source *s,
                 Repo *repo,
                 const char *backup_id,
                 bool include_files,
                 Failure *reterr) {
        *c = (Collect){
                .work = w,
                .source = s,
                .repo = repo,
                .backup_id = backup_id,
                .include_files = include_files,
                .service = SIZE_MAX,
        };
        c->base_dir = state_open_dir(w->state_fd, "base", reterr);
        if (c->base_dir < 0)
                return c->base_dir;
        c->problems = json_object_new_array();
        c->left_out = json_object_new_array();
        c->writers = calloc(s->n_services, sizeof(BaseWriter *));
        if (!c->problems || !c->left_out || !c->writers)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "backup");
        return 0;
}

void collect_done(Collect *c) {
        for (size_t i = 0; c->writers && i < c->source->n_services; i++)
                base_writer_free(c->writers[i]);
        free(c->writers);
        base_reader_free(c->base);
        free(c->dir);
        free(c->parent_id);
        json_object_put(c->problems);
        json_object_put(c->left_out);
        fd_close(c->base_dir);
}

/* {service, path}. A user of the service chooses how long the path is. */
static json_object *named(const char *service, const char *path) {
        _cleanup_json_ json_object *o = json_object_new_object();
        _cleanup_free_ char *cut = NULL;
        size_t n = strlen(path), half = COLLECT_PATH_MAX / 2;

        if (n > COLLECT_PATH_MAX) {
                cut = text_printf("%.*s...%s", (int) half, path, path + n - half);
                path = cut;
        }
        if (!o || !path || json_put_string(o, "service", service) < 0 ||
            json_put_path(o, "path", path) < 0)
                return NULL;
        return TAKE_PTR(o);
}

int collect_problem(Collect *c, const char *service, const char *path, const Failure *why) {
        _cleanup_json_ json_object *o = NULL;

        /* A user of the service chooses how many there are, and the journal has a limit for us. */
        if (c->n_problems++ >= COLLECT_PROBLEMS_MAX) {
                if (c->n_problems == COLLECT_PROBLEMS_MAX + 1)
                        log_warning("more could not be read and are only counted");
                return 0;
        }
        log_message(MESSAGE_SOURCE_UNREADABLE,
                    &(LogFields){ .service = service, .error = fail_name(why->code) },
                    "service %s: %s", service, why->text);
        o = named(service, path);
        if (!o || json_put(o, "error", proto_failure(why)) < 0 ||
            json_object_array_add(c->problems, json_object_get(o)) < 0)
                return -ENOMEM;
        return 0;
}

static int leave_out(Collect *c, const char *service, const char *path) {
        _cleanup_json_ json_object *o = NULL;

        if (c->n_sockets++ >= COLLECT_PROBLEMS_MAX)
                return 0;
        o = named(service, path);
        if (!o || json_object_array_add(c->left_out, json_object_get(o)) < 0)
                return -ENOMEM;
        return 0;
}

/* ---- one service after the other ---- */

/* Paths and rules as text: with other ones, a hard link's first name may be another. */
static char *signature_of(const ConfigService *s) {
        char *text = strdup("");

        for (size_t i = 0; text && i < s->paths.n + s->excludes.n; i++) {
                const char *item =
                        i < s->paths.n ? s->paths.items[i] : s->excludes.items[i - s->paths.n];
                char *longer = text_printf("%s%c%s\n", text, i < s->paths.n ? '+' : '-', item);

                free(text);
                text = longer;
        }
        return text;
}

/* Why this run takes longer than the one before it did. */
static void tell_base(const Collect *c, const char *service) {
        if (!c->base)
                log_info("service %s: there is no base state, all of it is read", service);
        else if (!c->base_trusted)
                log_info("service %s: the index does not vouch for the base state, of backup %s: "
                         "what is unchanged is looked up",
                         service, base_reader_backup(c->base));
}

static int begin_service(Collect *c, size_t i, Failure *reterr) {
        const ConfigService *s = c->source->services[i].config;
        _cleanup_free_ char *signature = signature_of(s);
        int r;

        if (!signature)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "service %s", s->name);
        base_reader_free(TAKE_PTR(c->base));
        c->service = i;
        r = base_reader_open(c->base_dir, s->name, &c->base);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "base state of service %s", s->name);
        c->base_same = c->base && strcmp(base_reader_signature(c->base), signature) == 0;
        c->base_has_states = c->base && strcmp(base_reader_backup(c->base),
                                               c->source->services[i].states_of) == 0;
        c->base_trusted = c->base && repo_base_is_trusted(c->repo, base_reader_backup(c->base));
        tell_base(c, s->name);
        if (c->base && !c->parent_id && repo_has_backup(c->repo, base_reader_backup(c->base)))
                c->parent_id = strdup(base_reader_backup(c->base));
        free(TAKE_PTR(c->dir));
        return base_writer_new(c->base_dir, s->name, c->backup_id, signature, &c->writers[i],
                               reterr);
}

static bool has_database(const Source *s, const char *dir) {
        for (size_t i = 0; i < s->n_databases; i++) {
                const SourceDatabase *d = &s->databases[i];
                size_t n = (size_t) (d->name - 1 - d->path);

                if ((strlen(dir) == n && strncmp(dir, d->path, n) == 0) || (n == 0 && !dir[1]))
                        return true;
        }
        return false;
}

/* Roots stand in the directory above them: then the name decides. */
static bool is_live(const Source *s, size_t service, const char *dir, const char *name) {
        _cleanup_free_ char *path = text_printf("%s/%s", dir[1] ? dir : "", name);

        for (size_t i = 0; path && i < s->n_paths; i++)
                if (s->paths[i].service == service && text_path_is_below(path, s->paths[i].path))
                        return volume_kind(s->volumes[s->paths[i].volume]) == SNAPSHOT_NONE;
        return true; /* read with more care than needed */
}

static int enter_service(Collect *c, const char *service, Failure *reterr) {
        if (c->service != SIZE_MAX &&
            strcmp(c->source->services[c->service].config->name, service) == 0)
                return 0;
        for (size_t i = 0; i < c->source->n_services; i++)
                if (strcmp(c->source->services[i].config->name, service) == 0)
                        return begin_service(c, i, reterr);
        return fail_set(reterr, FAIL_INTERNAL, EINVAL, "service %s was not asked for", service);
}

static int enter(Collect *c, const char *service, const char *dir, Failure *reterr) {
        int r = enter_service(c, service, reterr);

        if (r < 0 || (c->dir && strcmp(c->dir, dir) == 0))
                return r;
        free(c->dir);
        c->dir = strdup(dir);
        if (!c->dir)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", dir);
        c->dir_has_database = has_database(c->source, dir);
        return 0;
}

static SourceDatabase *database_here(const Collect *c, const char *name) {
        _cleanup_free_ char *path = NULL;

        if (!c->dir_has_database)
                return NULL;
        path = text_printf("%s/%s", c->dir[1] ? c->dir : "", name);
        return path ? source_database(c->source, path) : NULL;
}

static void count(Collect *c, uint64_t size) {
        c->files++;
        c->work->files_done = c->files;
        c->work->bytes_done += size;
        work_progress(c->work, false);
}

/* ---- what the walk calls ---- */

static bool same_local(const EntryLocal *a, const EntryLocal *b) {
        return a->ino == b->ino && a->size == b->size && a->mode == b->mode &&
               a->nlink == b->nlink && a->uid == b->uid && a->gid == b->gid &&
               a->mtime_sec == b->mtime_sec && a->mtime_nsec == b->mtime_nsec &&
               a->ctime_sec == b->ctime_sec && a->ctime_nsec == b->ctime_nsec;
}

static int on_known(void *userdata,
                    const char *service,
                    const char *dir,
                    const char *name,
                    const EntryLocal *local,
                    Failure *reterr) {
        Collect *c = userdata;
        const SourceDatabase *d;
        EntryLocal old;
        Entry e;
        int r;

        step("walk");
        r = enter(c, service, dir, reterr);
        if (r < 0 || !c->base || !base_reader_find(c->base, dir, name, &e, &old))
                return r;
        d = database_here(c, name);
        if (d ? !d->unchanged || !c->base_has_states || e.class != ENTRY_CLASS_SQLITE
              : !same_local(local, &old))
                return 0;
        /* The file of a group of hard links: the base knows it as such, and no path was added. */
        if (!S_ISDIR(local->mode) && local->nlink > 1 &&
            (!c->base_same || e.type == ENTRY_HARDLINK))
                return 0;
        e.service = service;
        r = repo_session_reuse(c->session, &e, local, !c->base_trusted, reterr);
        if (r != 0)
                return r == REPO_E_MISSING ? 0 : r;
        if (d)
                source_database(c->source, d->path)->found = true;
        count(c, e.type == ENTRY_FILE ? e.size : 0);
        return 1;
}

/* The name of a failed read is the walk's to know, not the repository's. */
static int note_unreadable(Collect *c, const Entry *e, const Failure *why) {
        _cleanup_free_ char *path = text_printf("%s/%s", e->dir, e->name);
        Failure f = *why;

        if (!path)
                return -ENOMEM;
        _cleanup_free_ char *shown = text_escape(path);
        fail_prefix(&f, "%s", shown ? shown : "");
        int r = collect_problem(c, e->service, path, &f);

        return r < 0 ? r : 1; /* not recorded: no hard link may point at it */
}

static void refresh(Entry *e, EntryLocal *l, int fd) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return;
        e->size = l->size = (uint64_t) st.st_size;
        e->mtime_sec = l->mtime_sec = st.st_mtim.tv_sec;
        e->mtime_nsec = l->mtime_nsec = (uint32_t) st.st_mtim.tv_nsec;
        l->ctime_sec = st.st_ctim.tv_sec;
        l->ctime_nsec = (uint32_t) st.st_ctim.tv_nsec;
}

/*
 * A file that is not in a snapshot may change under us: it is read again until one reading was
 * undisturbed, and marked when none was.
 */
static int add_live(Collect *c, const Entry *entry, const EntryLocal *local, int fd, Failure *f) {
        EntryLocal l = *local;
        Entry e = *entry;
        int r = REPO_E_CHANGED;

        for (int i = 0; r == REPO_E_CHANGED && i < UNSTABLE_TRIES; i++) {
                r = repo_session_add(c->session, &e, &l, fd, true, f);
                if (r == REPO_E_CHANGED) {
                        *f = FAILURE_INIT;
                        refresh(&e, &l, fd);
                }
        }
        if (r != REPO_E_CHANGED)
                return r;
        if (c->n_unstable++ < COLLECT_PROBLEMS_MAX)
                log_warning("%s/%s changed each time it was read: parts of it may be of different "
                            "moments",
                            entry->dir, entry->name);
        l.ctime_sec = 0; /* never taken for unchanged by the next backup */
        return repo_session_add(c->session, &e, &l, fd, false, f);
}

static int add_entry(Collect *c, const Entry *e, const EntryLocal *local, int fd, Failure *f) {
        if (fd >= 0 && is_live(c->source, c->service, e->dir, e->name))
                return add_live(c, e, local, fd, f);
        return repo_session_add(c->session, e, local, fd, false, f);
}

/* A database that was copied is archived from its copy, under the live file's name and attributes.
 */
static int add_database(Collect *c,
                        SourceDatabase *d,
                        const Entry *entry,
                        const EntryLocal *local,
                        int fd,
                        Failure *f) {
        Entry e = *entry;

        e.class = ENTRY_CLASS_SQLITE;
        d->found = true;
        if (!d->copy || d->failed)
                return d->copy ? add_live(c, &e, local, fd, f)
                               : repo_session_add(c->session, &e, local, fd, false, f);
        e.size = d->copy_size;
        e.sparse = false;
        return repo_session_add(c->session, &e, local, d->copy_fd, false, f);
}

/* A database that came after the discovery: nobody held it, so it is caught as a crash leaves it.
 */
static void note_unheld(Collect *c, const Entry *e) {
        SourceService *s = &c->source->services[c->service];

        if (s->config->databases != CONFIG_DATABASES_AUTO || s->unheld)
                return;
        s->unheld = true;
        log_message(MESSAGE_HOLD_DEGRADED, &(LogFields){ .service = s->config->name },
                    "%s/%s is a database that was not there before the hold: the backup of service "
                    "%s is only crash-consistent",
                    e->dir, e->name, s->config->name);
}

static int
on_entry(void *userdata, const Entry *entry, const EntryLocal *local, int fd, Failure *reterr) {
        Collect *c = userdata;
        Failure f = FAILURE_INIT;
        SourceDatabase *d;
        int r = enter(c, entry->service, entry->dir, reterr);

        if (r < 0)
                return r;
        d = entry->type == ENTRY_FILE ? database_here(c, entry->name) : NULL;
        if (d) {
                r = add_database(c, d, entry, local, fd, &f);
        } else {
                Entry e = *entry;

                if (fd >= 0 && source_is_sqlite(fd, e.size)) {
                        e.class = ENTRY_CLASS_SQLITE;
                        note_unheld(c, &e);
                }
                r = add_entry(c, &e, local, fd, &f);
        }
        if (r == REPO_E_SOURCE || r == REPO_E_CHANGED)
                return note_unreadable(c, entry, &f);
        if (r < 0) {
                *reterr = f;
                return r;
        }
        count(c, entry->type == ENTRY_FILE ? entry->size : 0);
        return 0;
}

/* Not in the live tree any more; a Path= itself is missed. */
static bool is_vanished(const Collect *c, const char *service, const char *path) {
        const Source *s = c->source;

        for (size_t i = 0; i < s->n_paths; i++)
                if (strcmp(s->services[s->paths[i].service].config->name, service) == 0 &&
                    text_path_is_below(path, s->paths[i].path))
                        return strcmp(path, s->paths[i].path) != 0 &&
                               volume_kind(s->volumes[s->paths[i].volume]) == SNAPSHOT_NONE;
        return false;
}

static int on_problem(void *userdata, const char *service, const char *path, const Failure *why) {
        Collect *c = userdata;

        if (why->code == FAIL_NONE)
                return leave_out(c, service, path);
        /* Deleted between its directory's listing and its turn: as if it had been before. */
        if (why->errnum == ENOENT && is_vanished(c, service, path))
                return 0;
        return collect_problem(c, service, path, why);
}

/* "tasks.db-wal" beside a captured "tasks.db": its pages are in the copy already. */
static bool is_side_file(const Collect *c, const char *name) {
        static const char *const suffixes[] = { "-wal", "-shm", "-journal" };
        size_t n = strlen(name);

        for (size_t i = 0; i < ELEMENTSOF(suffixes); i++) {
                size_t k = strlen(suffixes[i]);
                char base[ENTRY_NAME_MAX + 1];
                const SourceDatabase *d;

                if (n <= k || n - k > ENTRY_NAME_MAX || strcmp(name + n - k, suffixes[i]) != 0)
                        continue;
                memcpy(base, name, n - k);
                base[n - k] = 0;
                d = database_here(c, base);
                if (d && d->copy && !d->failed)
                        return true;
        }
        return false;
}

static bool holds_database(const Collect *c, const char *dir, const char *name) {
        _cleanup_free_ char *path = text_printf("%s/%s", dir[1] ? dir : "", name);

        for (size_t i = 0; path && i < c->source->n_databases; i++)
                if (text_path_is_below(c->source->databases[i].path, path))
                        return true;
        return false;
}

static bool on_skip(void *userdata, const char *service, const char *dir, const char *name) {
        Collect *c = userdata;
        Failure ignored = FAILURE_INIT;

        if (enter(c, service, dir, &ignored) < 0)
                return false; /* the entry that follows fails in the same way, and says so */
        if (!c->include_files && !holds_database(c, dir, name))
                return true;
        return is_side_file(c, name);
}

int collect_on_entry(void *userdata, const Entry *e, const EntryLocal *local, Failure *reterr) {
        Collect *c = userdata;
        EntryLocal l = *local;

        if (point_is_racy(c->point, l.ctime_sec, l.ctime_nsec))
                l.ctime_sec = 0; /* never taken for unchanged */
        /* Entries come out later than they went in: find the writer by name. */
        for (size_t i = 0; i < c->source->n_services; i++)
                if (strcmp(c->source->services[i].config->name, e->service) == 0)
                        return base_writer_add(c->writers[i], e, &l, reterr);
        return 0;
}

/* ---- the walk ---- */

static int tell_refused(Collect *c) {
        const Source *s = c->source;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < s->n_refused; i++) {
                const ConfigService *config = s->refused[i].config;
                Failure f = s->refused[i].why;

                fail_prefix(&f, "not in this backup");
                r = collect_problem(c, config->name, config->paths.items[0], &f);
        }
        return r;
}

/* Mounts, databases too many: what only the live tree showed. */
static int tell_problems(Collect *c) {
        const Source *s = c->source;
        int r = 0;

        /* What was not looked into may hold databases: without files it is told just the same. */
        for (size_t i = 0; r >= 0 && i < s->n_problems; i++)
                if (!s->problems[i].walk_tells || !c->include_files)
                        r = collect_problem(c, s->services[s->problems[i].service].config->name,
                                            s->problems[i].path, &s->problems[i].why);
        return r;
}

static int check_found(Collect *c) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < c->source->n_databases; i++) {
                const SourceDatabase *d = &c->source->databases[i];
                const char *service = c->source->services[d->service].config->name;
                Failure f = c->source->holds[i].failure;

                if (d->failed) {
                        r = collect_problem(c, service, d->path, &f);
                } else if (!d->found) {
                        f = FAILURE_INIT;
                        (void) fail_set(&f, FAIL_SOURCE_MISSING, ENOENT, "%s is gone", d->path);
                        r = collect_problem(c, service, d->path, &f);
                }
        }
        return r;
}

static bool on_interrupted(void *userdata) {
        const Collect *x = userdata;

        return work_interrupted(x->work);
}

int collect_walk(Collect *c, const Point *p, Failure *reterr) {
        const Source *s = c->source;
        _cleanup_free_ ArcRoot *roots = calloc(s->n_paths, sizeof(*roots));
        ArcSink sink = {
                .known = on_known,
                .entry = on_entry,
                .problem = on_problem,
                .skip = on_skip,
                .interrupted = on_interrupted,
                .userdata = c,
        };
        int r;

        if (!roots)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "backup");
        c->point = p;
        r = tell_refused(c); /* first: of these nothing else is said */
        for (size_t i = 0; i < s->n_paths; i++)
                roots[i].fd = -1;
        for (size_t i = 0; r >= 0 && i < s->n_paths; i++) {
                const SourcePath *path = &s->paths[i];
                int fd = snapshot_open_path(p->snapshots[path->volume], path->path,
                                            O_PATH | O_NOFOLLOW);

                if (fd < 0)
                        r = fail_errno(reterr, FAIL_SOURCE_MISSING, -fd, "%s in the image",
                                       path->path);
                roots[i] = (ArcRoot){ .service = s->services[path->service].config->name,
                                      .path = path->path,
                                      .fd = fd,
                                      .rules = s->services[path->service].rules };
        }
        if (r >= 0)
                r = arc_walk(roots, s->n_paths, &sink, reterr);
        if (r >= 0)
                r = tell_problems(c);
        if (r >= 0)
                r = check_found(c);
        for (size_t i = 0; i < s->n_paths; i++)
                fd_close(roots[i].fd);
        return r;
}

int collect_commit(Collect *c, Failure *reterr) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < c->source->n_services; i++)
                if (c->writers[i])
                        r = base_writer_commit(c->writers[i], reterr);
        return r;
}
