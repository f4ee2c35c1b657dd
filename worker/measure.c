/*
 * What is told as the totals of a job, and as the size of a plan. A whole backup has its sums in
 * the record; for a part its entries are read once more, which takes a fraction of what follows.
 */

#include "worker/measure.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

typedef struct Measure {
        Work *work;
        Repo *repo;
        json_object *record;
        const char *service, *path;     /* NULL: all of the service */
        RepoManifest *manifest, *links; /* `links`: a second cursor for links that leave the path */
        Measured *sum;
} Measure;

static void measure_done(Measure *m) {
        repo_manifest_free(m->manifest);
        repo_manifest_free(m->links);
}

/* The directory of a clean absolute path. */
static int split(const char *path, char **ret_dir, const char **ret_name, Failure *reterr) {
        const char *slash = strrchr(path, '/');

        *ret_name = slash + 1;
        *ret_dir = slash == path ? strdup("/") : strndup(path, (size_t) (slash - path));
        return *ret_dir ? 0 : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "totals");
}

/* A link whose file lies elsewhere becomes a file of its own. */
static int measure_link(Measure *m, const Entry *link, Failure *reterr) {
        const char *target = link->target ? link->target : "", *name;
        _cleanup_free_ char *dir = NULL;
        const Entry *e;
        int r;

        if (!m->path || *target != '/' || text_path_is_below(target, m->path))
                return 0;
        r = split(target, &dir, &name, reterr);
        if (r >= 0 && !m->links)
                r = repo_manifest_open(m->repo, m->record, &m->links, reterr);
        if (r >= 0)
                r = repo_manifest_find(m->links, m->service, dir, name, &e, reterr);
        m->sum->bytes += r > 0 && e->type == ENTRY_FILE ? e->size : 0;
        return r < 0 ? r : 0;
}

static int measure_entry(Measure *m, const Entry *e, Failure *reterr) {
        m->sum->entries++;
        m->sum->bytes += e->type == ENTRY_FILE ? e->size : 0;
        if (work_interrupted(m->work))
                return fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled");
        return e->type == ENTRY_HARDLINK ? measure_link(m, e, reterr) : 0;
}

/* The entry of the path itself: 1, 0 if it is not held. */
static int measure_top(Measure *m, Failure *reterr) {
        _cleanup_free_ char *dir = NULL;
        const char *name;
        const Entry *e;
        int r = split(m->path, &dir, &name, reterr);

        if (r >= 0)
                r = repo_manifest_find(m->manifest, m->service, dir, name, &e, reterr);
        if (r <= 0)
                return r;
        r = measure_entry(m, e, reterr);
        return r < 0 ? r : 1;
}

int measure_path(Work *w,
                 Repo *repo,
                 json_object *record,
                 const char *service,
                 const char *path,
                 Measured *ret,
                 Failure *reterr) {
        _cleanup_(measure_done) Measure m = { .work = w,
                                              .repo = repo,
                                              .record = record,
                                              .service = service,
                                              .path = path,
                                              .sum = ret };
        const Entry *e;
        int r = repo_manifest_open(repo, record, &m.manifest, reterr);

        if (r >= 0 && path && (r = measure_top(&m, reterr)) == 0)
                return 0;
        if (r >= 0)
                r = repo_manifest_seek(m.manifest, service, path, reterr);
        while (r >= 0 && (r = repo_manifest_next(m.manifest, &e, reterr)) > 0) {
                if (strcmp(e->service, service) != 0 || (path && !text_path_is_below(e->dir, path)))
                        return 0;
                r = measure_entry(&m, e, reterr);
        }
        return r;
}

void measure_record(json_object *record, Measured *ret) {
        uint64_t bytes = 0, entries = 0;
        json_object *manifest;

        if (json_get_object(record, "manifest", &manifest) < 0)
                return;
        (void) json_get_u64(manifest, "bytes", &bytes); /* only told */
        (void) json_get_u64(manifest, "entries", &entries);
        ret->bytes += bytes;
        ret->entries += entries;
}

/* One Path=, and nothing else is in the backup. */
static bool is_all(json_object *record, const Selection *s) {
        json_object *services;

        return s->n == 1 && !s->named && !s->files_only &&
               json_get_array(record, "services", &services) >= 0 &&
               json_object_array_length(services) == 1;
}

int measure_selection(Work *w,
                      Repo *repo,
                      json_object *record,
                      Selection *s,
                      Measured *ret,
                      Failure *reterr) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < s->n; i++) {
                SelectionItem *item = &s->items[i];
                Measured m = { 0 };

                if (is_all(record, s))
                        measure_record(record, &m);
                else if (item->kind != TREE_ABSENT)
                        r = measure_path(w, repo, record, item->service, item->path, &m, reterr);
                item->bytes = m.bytes;
                item->entries = m.entries;
                ret->bytes += m.bytes;
                ret->entries += m.entries;
        }
        return r;
}
