#include "worker/selection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

static const char *const side_suffixes[] = { "-wal", "-shm", "-journal" };

void selection_done(Selection *s) {
        for (size_t i = 0; i < s->n; i++) {
                free(s->items[i].root);
                free(s->items[i].path);
        }
        free(s->items);
        json_object_put(s->services);
        *s = SELECTION_INIT;
}

/* ---- services ---- */

int selection_services(Selection *s, json_object *record, const char *type, Failure *reterr) {
        json_object *all;

        if (json_get_array(record, "services", &all) < 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "record names no services");
        if (strcmp(type, "full") == 0) {
                s->services = json_object_get(all);
                return 0;
        }
        for (size_t i = 0; i < json_object_array_length(all); i++) {
                json_object *name = json_object_array_get_idx(all, i);

                if (!json_object_is_type(name, json_type_string) ||
                    strcmp(json_object_get_string(name), type) != 0)
                        continue;
                s->services = json_object_new_array();
                if (!s->services || json_object_array_add(s->services, json_object_get(name)) < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "restore");
                return 0;
        }
        return fail_set(reterr, FAIL_NO_SUCH_SERVICE, ENOENT,
                        "the backup does not hold service '%s'", type);
}

int selection_source(json_object *record, const char *service, json_object **ret, Failure *reterr) {
        json_object *sources, *paths;

        if (json_get_object(record, "sources", &sources) < 0 ||
            json_get_object(sources, service, ret) < 0 || json_get_array(*ret, "paths", &paths) < 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "record has no sources of service %s", service);
        return 0;
}

/* ---- what the manifest holds ---- */

typedef struct Finder {
        Selection *selection;
        Repo *repo;
        json_object *record;
        RepoManifest *manifest;
        bool in_place, has_files;
} Finder;

static void finder_done(Finder *f) {
        repo_manifest_free(f->manifest);
}

typedef struct Found {
        EntryType type;
        EntryClass class;
} Found;

static int
look_up(Finder *f, const char *service, const char *path, const Entry **ret, Failure *e) {
        _cleanup_free_ char *dir = strdup(path);
        int r;

        if (!dir)
                return fail_errno(e, FAIL_INTERNAL, ENOMEM, "restore");
        *strrchr(dir, '/') = 0;
        r = f->manifest ? 0 : repo_manifest_open(f->repo, f->record, &f->manifest, e);
        return r < 0 ? r
                     : repo_manifest_find(f->manifest, service, *dir ? dir : "/",
                                          strrchr(path, '/') + 1, ret, e);
}

/* 1 if the backup holds this path, else 0. A further name of something is what that is. */
static int
find_entry(Finder *f, const char *service, const char *path, Found *ret, Failure *reterr) {
        _cleanup_free_ char *target = NULL;
        const Entry *e;
        int r = look_up(f, service, path, &e, reterr);

        if (r > 0 && e->type == ENTRY_HARDLINK) {
                target = strdup(e->target && *e->target == '/' ? e->target : path);
                r = target ? look_up(f, service, target, &e, reterr) : -ENOMEM;
        }
        if (r > 0)
                *ret = (Found){ .type = e->type, .class = e->class };
        return r;
}

static TreeKind kind_of_entry(EntryType type) {
        switch (type) {
        case ENTRY_DIRECTORY:
                return TREE_DIRECTORY;
        case ENTRY_FILE:
        case ENTRY_HARDLINK:
                return TREE_FILE;
        case ENTRY_SYMLINK:
        case ENTRY_FIFO:
        case ENTRY_CHAR:
        case ENTRY_BLOCK:
                return TREE_OTHER;
        }
        return TREE_OTHER;
}

static TreeKind kind_of_path(json_object *path) {
        const char *kind;

        if (json_get_string(path, "kind", &kind) < 0)
                return TREE_DIRECTORY;
        return strcmp(kind, "subvolume") == 0 ? TREE_SUBVOLUME
               : strcmp(kind, "file") == 0    ? TREE_FILE
                                              : TREE_DIRECTORY;
}

/* ---- items ---- */

static int add_item(Selection *s, const SelectionItem *item, Failure *reterr) {
        SelectionItem *grown = realloc(s->items, (s->n + 1) * sizeof(*grown));
        SelectionItem *added;

        if (!grown)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "restore");
        s->items = grown;
        added = &grown[s->n++];
        *added = *item;
        added->root = strdup(item->root);
        added->path = strdup(item->path);
        return added->root && added->path ? 0
                                          : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "restore");
}

/*
 * Side files first: with the database that comes, those of the one that leaves would be taken for
 * its own.
 */
static int add_sides(Finder *f, const SelectionItem *database, Failure *reterr) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(side_suffixes); i++) {
                _cleanup_free_ char *path = text_printf("%s%s", database->path, side_suffixes[i]);
                /* Beside a Path= that is a database itself it lies below none. */
                bool beside = strcmp(database->path, database->root) == 0;
                SelectionItem side = { .service = database->service,
                                       .root = beside ? path : database->root,
                                       .path = path,
                                       .side = true };
                Found found;

                if (!path)
                        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "restore");
                r = find_entry(f, database->service, path, &found, reterr);
                if (r > 0)
                        side.kind = kind_of_entry(found.type);
                /* Aside there is nothing that would have to go. */
                if (r > 0 || (r == 0 && f->in_place))
                        r = add_item(f->selection, &side, reterr);
        }
        return r;
}

static bool is_recorded_database(const Finder *f, const char *path) {
        json_object *list;

        if (json_get_array(f->record, "databases", &list) < 0)
                return false;
        for (size_t i = 0; i < json_object_array_length(list); i++) {
                _cleanup_free_ char *other = NULL;

                if (json_get_path(json_object_array_get_idx(list, i), "path", &other) >= 0 &&
                    strcmp(other, path) == 0)
                        return true;
        }
        return false;
}

/* One path with what belongs to it. */
static int add_path(Finder *f, SelectionItem *item, const Found *found, Failure *reterr) {
        int r = 0;

        item->database = item->kind == TREE_FILE && (found->class == ENTRY_CLASS_SQLITE ||
                                                     is_recorded_database(f, item->path));
        if (item->database)
                r = add_sides(f, item, reterr);
        return r < 0 ? r : add_item(f->selection, item, reterr);
}

static int not_held(const char *path, Failure *reterr) {
        _cleanup_free_ char *shown = text_escape(path);

        return fail_set(reterr, FAIL_SOURCE_MISSING, ENOENT, "the backup does not hold %s",
                        shown ? shown : "the path");
}

/* What stands beside a database is part of it. */
static int check_not_side(Finder *f, const SelectionItem *item, Failure *reterr) {
        size_t n = strlen(item->path);

        for (size_t i = 0; i < ELEMENTSOF(side_suffixes); i++) {
                size_t k = strlen(side_suffixes[i]);
                _cleanup_free_ char *base = NULL;
                Found found;
                int r;

                if (n <= k || strcmp(item->path + n - k, side_suffixes[i]) != 0 ||
                    item->path[n - k - 1] == '/')
                        continue;
                base = strndup(item->path, n - k);
                r = base ? find_entry(f, item->service, base, &found, reterr) : -ENOMEM;
                if (r < 0)
                        return r;
                if (r > 0 && (found.class == ENTRY_CLASS_SQLITE || is_recorded_database(f, base)))
                        return fail_set(reterr, FAIL_NOT_RESTORABLE, EINVAL,
                                        "%s is part of the database %s: name that", item->path,
                                        base);
        }
        return 0;
}

/* ---- named paths ---- */

/* Refuses by name what an exchange inside a live tree could not do soundly. */
static int check_exchangeable(Finder *f, const SelectionItem *item, Failure *reterr) {
        if (!f->in_place)
                return 0;
        if (item->kind == TREE_OTHER)
                return fail_set(reterr, FAIL_NOT_RESTORABLE, EINVAL,
                                "%s is neither file nor directory: name the directory that holds "
                                "it, or restore it aside with --into",
                                item->path);
        if (!f->has_files && item->kind != TREE_FILE)
                return fail_set(reterr, FAIL_NOT_RESTORABLE, EOPNOTSUPP,
                                "the backup holds databases only, and %s would lose all else: name "
                                "databases, or restore it aside with --into",
                                item->path);
        return check_not_side(f, item, reterr);
}

/* Looks a path up below one Path=; 1 if it is held there, and `*ret` is filled (path owned). */
static int look_below(Finder *f,
                      const char *service,
                      json_object *recorded,
                      const char *given,
                      SelectionItem *ret,
                      Found *ret_found,
                      Failure *reterr) {
        _cleanup_free_ char *root = NULL, *path = NULL;
        int r;

        if (json_get_path(recorded, "path", &root) < 0 || !text_is_clean_path(root) || !root[1])
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG, "record: bad path");
        path = *given == '/' ? strdup(given) : text_printf("%s/%s", root, given);
        if (!path)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "restore");
        if (!text_path_is_below(path, root))
                return 0;
        r = find_entry(f, service, path, ret_found, reterr);
        if (r <= 0)
                return r;
        *ret = (SelectionItem){
                .service = service,
                .kind = strcmp(path, root) == 0 ? kind_of_path(recorded)
                                                : kind_of_entry(ret_found->type),
        };
        ret->root = TAKE_PTR(root);
        ret->path = TAKE_PTR(path);
        return 1;
}

static void item_done(SelectionItem *i) {
        free(i->root);
        free(i->path);
}

static int add_named(Finder *f, const char *given, Failure *reterr) {
        _cleanup_(item_done) SelectionItem item = { .service = NULL };
        json_object *services = f->selection->services;
        Found found = { .class = ENTRY_CLASS_NONE };
        int r;

        for (size_t i = 0; i < json_object_array_length(services); i++) {
                const char *service =
                        json_object_get_string(json_object_array_get_idx(services, i));
                json_object *source, *paths;

                r = selection_source(f->record, service, &source, reterr);
                if (r < 0)
                        return r;
                (void) json_get_array(source, "paths", &paths); /* it was just there */
                for (size_t k = 0; k < json_object_array_length(paths); k++) {
                        _cleanup_(item_done) SelectionItem other = { .service = NULL };
                        Found other_found;

                        r = look_below(f, service, json_object_array_get_idx(paths, k), given,
                                       &other, &other_found, reterr);
                        if (r < 0)
                                return r;
                        if (r > 0 && item.path)
                                return fail_set(reterr, FAIL_INVALID_ARGUMENT, ENOTUNIQ,
                                                "'%s' is held as %s and as %s: name the one that "
                                                "is meant",
                                                given, item.path, other.path);
                        if (r > 0) {
                                item = other;
                                other = (SelectionItem){ .service = NULL };
                                found = other_found;
                        }
                }
        }
        if (!item.path)
                return not_held(given, reterr);
        r = check_exchangeable(f, &item, reterr);
        return r < 0 ? r : add_path(f, &item, &found, reterr);
}

static int compare_texts(const void *a, const void *b) {
        return strcmp(*(char *const *) a, *(char *const *) b);
}

/* Absolute or relative, without what could lead out. Owned. */
static int read_path(json_object *o, char **ret, Failure *reterr) {
        _cleanup_free_ char *path = NULL, *rooted = NULL;

        if (!json_object_is_type(o, json_type_string) ||
            text_unescape(json_object_get_string(o), &path) < 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "paths: '%.200s' is no path; other bytes than text are written "
                                "\\xHH",
                                json_object_get_string(o));
        rooted = *path == '/' ? strdup(path) : text_printf("/%s", path);
        if (!rooted)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "restore");
        if (!*path || !text_is_clean_path(rooted) || !rooted[1])
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "paths: '%.200s' is not a plain path, absolute or relative to a "
                                "Path= of the service",
                                json_object_get_string(o));
        *ret = TAKE_PTR(path);
        return 0;
}

/* No item may lie in another: both would be exchanged. */
static int check_apart(const Selection *s, Failure *reterr) {
        for (size_t i = 0; i < s->n; i++)
                for (size_t k = 0; k < s->n; k++)
                        if (i != k && strcmp(s->items[i].service, s->items[k].service) == 0 &&
                            text_path_is_below(s->items[i].path, s->items[k].path))
                                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                                "paths: %s is named by itself and within %s",
                                                s->items[i].path, s->items[k].path);
        return 0;
}

static void free_texts(char **texts) {
        for (size_t i = 0; i <= SELECTION_PATHS_MAX && texts[i]; i++)
                free(texts[i]);
}

static int add_all_named(Finder *f, json_object *list, Failure *reterr) {
        char *texts[SELECTION_PATHS_MAX + 1] = { NULL };
        size_t n = json_object_array_length(list);
        int r = 0;

        if (n > SELECTION_PATHS_MAX)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, E2BIG,
                                "paths: up to %d can be named at once; name directories that hold "
                                "more",
                                SELECTION_PATHS_MAX);
        for (size_t i = 0; r >= 0 && i < n; i++)
                r = read_path(json_object_array_get_idx(list, i), &texts[i], reterr);
        if (r >= 0)
                qsort(texts, n, sizeof(*texts), compare_texts);
        for (size_t i = 0; r >= 0 && i < n; i++)
                r = add_named(f, texts[i], reterr);
        free_texts(texts);
        return r < 0 ? r : check_apart(f->selection, reterr);
}

/* ---- everything ---- */

static int add_whole(Finder *f, const char *service, Failure *reterr) {
        json_object *source, *paths;
        int r = selection_source(f->record, service, &source, reterr);

        if (r < 0)
                return r;
        (void) json_get_array(source, "paths", &paths); /* it was just there */
        for (size_t i = 0; r >= 0 && i < json_object_array_length(paths); i++) {
                _cleanup_free_ char *path = NULL;
                json_object *recorded = json_object_array_get_idx(paths, i);
                SelectionItem item = { .service = service, .kind = kind_of_path(recorded) };
                Found found = { .class = ENTRY_CLASS_NONE };

                if (json_get_path(recorded, "path", &path) < 0 || !text_is_clean_path(path) ||
                    !path[1])
                        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                        "record: bad path");
                item.root = item.path = path;
                /* A Path= that is a database itself has its side files beside it, too. */
                if (item.kind == TREE_FILE && f->in_place)
                        r = find_entry(f, service, path, &found, reterr);
                if (r >= 0)
                        r = add_path(f, &item, &found, reterr);
        }
        return r;
}

/* The recorded Path= above a database. Owned. */
static int find_root(json_object *record,
                     const char *service,
                     const char *path,
                     char **ret,
                     TreeKind *ret_kind,
                     Failure *reterr) {
        json_object *source, *paths;
        int r = selection_source(record, service, &source, reterr);

        if (r < 0)
                return r;
        (void) json_get_array(source, "paths", &paths); /* it was just there */
        for (size_t i = 0; i < json_object_array_length(paths); i++) {
                _cleanup_free_ char *root = NULL;
                json_object *recorded = json_object_array_get_idx(paths, i);

                if (json_get_path(recorded, "path", &root) >= 0 && text_path_is_below(path, root)) {
                        *ret_kind = strcmp(path, root) == 0 ? kind_of_path(recorded) : TREE_FILE;
                        *ret = TAKE_PTR(root);
                        return 0;
                }
        }
        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                        "record: database %s lies in no path of its service", path);
}

/* The databases of one service; one that could not be stored is not touched. */
static int add_databases(Finder *f, const char *service, Failure *reterr) {
        json_object *list;
        int r = 0;

        if (json_get_array(f->record, "databases", &list) < 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "record names no databases");
        for (size_t i = 0; r >= 0 && i < json_object_array_length(list); i++) {
                json_object *o = json_object_array_get_idx(list, i);
                _cleanup_free_ char *path = NULL, *root = NULL;
                SelectionItem item = { .service = service };
                const char *of;
                Found found;

                if (json_get_string(o, "service", &of) < 0 || json_get_path(o, "path", &path) < 0 ||
                    !text_is_clean_path(path) || !path[1])
                        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                        "record: bad database");
                if (strcmp(of, service) != 0)
                        continue;
                r = find_root(f->record, service, path, &root, &item.kind, reterr);
                if (r >= 0)
                        r = find_entry(f, service, path, &found, reterr);
                if (r <= 0)
                        continue;
                item.root = root;
                item.path = path;
                r = add_path(f, &item, &found, reterr);
        }
        return r;
}

static int add_everything(Finder *f, Failure *reterr) {
        json_object *services = f->selection->services;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < json_object_array_length(services); i++) {
                const char *service =
                        json_object_get_string(json_object_array_get_idx(services, i));

                r = f->in_place && !f->has_files ? add_databases(f, service, reterr)
                                                 : add_whole(f, service, reterr);
        }
        if (r >= 0 && f->selection->n == 0)
                r = fail_set(reterr, FAIL_NOT_RESTORABLE, ENOENT,
                             "the backup holds no database of it, and nothing else");
        return r;
}

/* Of all services that were meant, those that the named paths lie in. */
static int keep_touched_services(Selection *s, Failure *reterr) {
        json_object *all = s->services, *touched = json_object_new_array();

        for (size_t i = 0; touched && i < json_object_array_length(all); i++) {
                json_object *name = json_object_array_get_idx(all, i);
                bool found = false;

                for (size_t k = 0; !found && k < s->n; k++)
                        found = strcmp(s->items[k].service, json_object_get_string(name)) == 0;
                if (found && json_object_array_add(touched, json_object_get(name)) < 0) {
                        json_object_put(touched);
                        touched = NULL;
                }
        }
        if (!touched)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "restore");
        json_object_put(all);
        s->services = touched;
        return 0;
}

static bool has_no_whole_path(const Selection *s) {
        for (size_t i = 0; i < s->n; i++)
                if (!s->items[i].side && strcmp(s->items[i].path, s->items[i].root) == 0)
                        return false;
        return true;
}

int selection_items(Selection *s,
                    Work *w,
                    Repo *repo,
                    json_object *record,
                    bool in_place,
                    Failure *reterr) {
        _cleanup_(finder_done) Finder f = { .selection = s,
                                            .repo = repo,
                                            .record = record,
                                            .in_place = in_place,
                                            .has_files = true };
        json_object *list;
        int r = json_get_array(w->request, "paths", &list);

        if (r == -EINVAL)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "request: 'paths' is no list");
        s->named = r >= 0 && json_object_array_length(list) > 0;
        (void) json_get_bool(record, "include_files", &f.has_files); /* true unless it says so */
        r = s->named ? add_all_named(&f, list, reterr) : add_everything(&f, reterr);
        if (r >= 0 && s->named)
                r = keep_touched_services(s, reterr);
        s->files_only = r >= 0 && has_no_whole_path(s);
        return r;
}
