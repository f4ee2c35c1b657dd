#include "worker/pick.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

void pick_done(Pick *p) {
        json_object_put(p->services);
        free(p->path);
        *p = PICK_INIT;
}

char *pick_entry_path(const Entry *e) {
        return text_printf("%s/%s", e->dir[1] ? e->dir : "", e->name);
}

static int out_of_memory(Failure *reterr) {
        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "path in a backup");
}

static const char *service_at(const Pick *p, size_t i) {
        return json_object_get_string(json_object_array_get_idx(p->services, i));
}

/* ---- services ---- */

static int choose_services(json_object *record, const char *service, Pick *p, Failure *reterr) {
        json_object *all;

        if (json_get_array(record, "services", &all) < 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "the backup's record names no services");
        p->all = *service == 0;
        if (p->all) {
                p->services = json_object_get(all);
                return 0;
        }
        for (size_t i = 0; i < json_object_array_length(all); i++) {
                const char *s = json_object_get_string(json_object_array_get_idx(all, i));

                if (!s || strcmp(s, service) != 0)
                        continue;
                p->services = json_object_new_array();
                if (!p->services ||
                    json_object_array_add(p->services, json_object_new_string(s)) < 0)
                        return out_of_memory(reterr);
                return 0;
        }
        return fail_set(reterr, FAIL_NO_SUCH_SERVICE, ENOENT,
                        "the backup does not hold service '%s'", service);
}

/* ---- a relative path ---- */

/* The directory and the name of a clean absolute path that is not "/". */
static int split(const char *path, char **ret_dir, const char **ret_name) {
        const char *slash = strrchr(path, '/');

        *ret_dir = slash == path ? strdup("/") : strndup(path, (size_t) (slash - path));
        *ret_name = slash + 1;
        return *ret_dir ? 0 : -ENOMEM;
}

static int is_there(RepoManifest *m, const char *service, const char *path, Failure *reterr) {
        _cleanup_free_ char *dir = NULL;
        const char *name;
        const Entry *e;

        if (split(path, &dir, &name) < 0)
                return out_of_memory(reterr);
        return repo_manifest_find(m, service, dir, name, &e, reterr);
}

typedef struct Search {
        RepoManifest *manifest;
        const char *relative;
        char *found, *service; /* where it is; owned */
} Search;

static void search_done(Search *s) {
        repo_manifest_free(s->manifest);
        free(s->found);
        free(s->service);
}

/* Looks under one Path=. A second place where it is makes it ambiguous. */
static int look_under(Search *s, const char *service, json_object *source, Failure *reterr) {
        _cleanup_free_ char *root = NULL, *path = NULL;
        int r;

        if (json_get_path(source, "path", &root) < 0 || !text_is_clean_path(root))
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "the backup's record has a bad path");
        path = text_printf("%s/%s", root, s->relative);
        if (!path)
                return out_of_memory(reterr);
        r = is_there(s->manifest, service, path, reterr);
        if (r <= 0)
                return r;
        if (s->found) {
                _cleanup_free_ char *a = text_escape(s->found), *b = text_escape(path);

                return fail_set(reterr, FAIL_INVALID_ARGUMENT, ENOTUNIQ,
                                "the path could be %s of service %s or %s of service %s: give it "
                                "absolute, or with its service",
                                a ? a : "", s->service, b ? b : "", service);
        }
        s->found = TAKE_PTR(path);
        s->service = strdup(service);
        return s->service ? 0 : out_of_memory(reterr);
}

static int look_in_service(Search *s, json_object *record, const char *service, Failure *reterr) {
        json_object *sources, *source, *paths;
        int r = 0;

        if (json_get_object(record, "sources", &sources) < 0 ||
            json_get_object(sources, service, &source) < 0 ||
            json_get_array(source, "paths", &paths) < 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "the backup's record has no sources of service %s", service);
        for (size_t i = 0; r >= 0 && i < json_object_array_length(paths); i++)
                r = look_under(s, service, json_object_array_get_idx(paths, i), reterr);
        return r;
}

static int no_such_path(const char *path, Failure *reterr) {
        _cleanup_free_ char *text = text_escape(path);

        return fail_set(reterr, FAIL_SOURCE_MISSING, ENOENT,
                        "the backup does not hold %s; 'holdpoint files' shows what it holds",
                        text ? text : "this path");
}

static int
resolve_relative(Repo *repo, json_object *record, const char *path, Pick *p, Failure *reterr) {
        _cleanup_(search_done) Search s = { .relative = path };
        int r = repo_manifest_open(repo, record, &s.manifest, reterr);

        for (size_t i = 0; r >= 0 && i < json_object_array_length(p->services); i++) {
                const char *service = service_at(p, i);

                r = service ? look_in_service(&s, record, service, reterr) : -EBADMSG;
        }
        if (r < 0)
                return r;
        if (!s.found)
                return no_such_path(path, reterr);
        p->path = TAKE_PTR(s.found);
        json_object_put(p->services);
        p->services = json_object_new_array();
        p->all = false;
        if (!p->services ||
            json_object_array_add(p->services, json_object_new_string(s.service)) < 0)
                return out_of_memory(reterr);
        return 0;
}

/* ---- any path ---- */

/* A slash at the end is how shells complete directories. */
static void strip_slashes(char *path) {
        for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
                path[n - 1] = 0;
}

static int
resolve_path(Repo *repo, json_object *record, const char *text, Pick *p, Failure *reterr) {
        _cleanup_free_ char *path = NULL, *absolute = NULL;
        int r = text_unescape(text, &path);

        if (r == -ENOMEM)
                return out_of_memory(reterr);
        if (r >= 0) {
                strip_slashes(path);
                absolute = text_printf("%s%s", *path == '/' ? "" : "/", path);
                if (!absolute)
                        return out_of_memory(reterr);
        }
        if (r < 0 || !text_is_clean_path(absolute))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "'%s' is no path: it must be clean, and other bytes than text "
                                "written \\xHH",
                                text);
        if (*path != '/')
                return resolve_relative(repo, record, path, p, reterr);
        if (path[1]) /* "/" is everything */
                p->path = TAKE_PTR(path);
        return 0;
}

int pick_resolve(Repo *repo,
                 json_object *record,
                 const char *service,
                 const char *path,
                 Pick *ret,
                 Failure *reterr) {
        int r = choose_services(record, service, ret, reterr);

        return r < 0 || !*path ? r : resolve_path(repo, record, path, ret, reterr);
}

bool pick_has_path(const Pick *p, const char *path) {
        return !p->path || text_path_is_below(path, p->path);
}

/* ---- the entries ---- */

typedef struct Each {
        const Pick *pick;
        Work *work;
        RepoManifest *manifest;
        int (*on_entry)(void *userdata, const Entry *entry, Failure *reterr);
        void *userdata;
        uint64_t n;
} Each;

static int hand_out(Each *x, const Entry *e, Failure *reterr) {
        x->n++;
        if (work_interrupted(x->work))
                return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
        return x->on_entry(x->userdata, e, reterr);
}

/* All from here on that is of the service (NULL: of any) and below the picked path. */
static int each_from(Each *x, const char *service, const char *dir, Failure *reterr) {
        const Entry *e;
        int r = repo_manifest_seek(x->manifest, service, dir, reterr);

        while (r >= 0 && (r = repo_manifest_next(x->manifest, &e, reterr)) > 0) {
                if (service && strcmp(e->service, service) != 0)
                        return 0;
                if (dir && !text_path_is_below(e->dir, dir))
                        return 0;
                r = hand_out(x, e, reterr);
        }
        return r;
}

static int each_below(Each *x, const char *service, const char *path, Failure *reterr) {
        _cleanup_free_ char *dir = NULL;
        const char *name;
        const Entry *e;
        int r;

        if (split(path, &dir, &name) < 0)
                return out_of_memory(reterr);
        r = repo_manifest_find(x->manifest, service, dir, name, &e, reterr);
        if (r > 0)
                r = hand_out(x, e, reterr);
        return r < 0 ? r : each_from(x, service, path, reterr);
}

int pick_each(const Pick *p,
              Work *w,
              RepoManifest *m,
              int (*on_entry)(void *userdata, const Entry *entry, Failure *reterr),
              void *userdata,
              Failure *reterr) {
        Each x = {
                .pick = p, .work = w, .manifest = m, .on_entry = on_entry, .userdata = userdata
        };
        int r = 0;

        if (p->all && !p->path)
                return each_from(&x, NULL, NULL, reterr);
        for (size_t i = 0; r >= 0 && i < json_object_array_length(p->services); i++) {
                const char *service = service_at(p, i);

                r = p->path ? each_below(&x, service, p->path, reterr)
                            : each_from(&x, service, NULL, reterr);
        }
        if (r >= 0 && x.n == 0 && p->path)
                return no_such_path(p->path, reterr);
        return r;
}
