/*
 * list, diff: what backups hold, as lines of JSON into a pipe. No private key is needed, and memory
 * does not grow with the backup. The last line says that all of it came; a reader that misses it
 * has seen a part.
 */

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "worker/open-repo.h"
#include "worker/pick.h"
#include "worker/run.h"
#include "worker/stream.h"

static const char *type_name(EntryType type) {
        switch (type) {
        case ENTRY_DIRECTORY:
                return "directory";
        case ENTRY_FILE:
                return "file";
        case ENTRY_SYMLINK:
                return "symlink";
        case ENTRY_FIFO:
                return "fifo";
        case ENTRY_CHAR:
                return "char";
        case ENTRY_BLOCK:
                return "block";
        case ENTRY_HARDLINK:
                return "hardlink";
        }
        return "unknown";
}

static int open_record(Work *w, const char *id, Repo **ret, json_object **ret_record, Failure *e) {
        int r = *ret ? 0 : open_repo(w, false, false, ret, e);

        if (r == -ENOENT && e->code == FAIL_NONE)
                return fail_set(e, FAIL_NO_SUCH_BACKUP, ENOENT,
                                "no backup %s: there is no repository", id);
        return r < 0 ? r : repo_record_load(*ret, id, ret_record, e);
}

static int out_of_memory(Failure *reterr) {
        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "line of a listing");
}

static int put_place(json_object *o, const Entry *e) {
        _cleanup_free_ char *path = pick_entry_path(e);
        int r = path ? 0 : -ENOMEM;

        if (r >= 0)
                r = json_put_string(o, "service", e->service);
        if (r >= 0)
                r = json_put_path(o, "path", path);
        return r < 0 ? r : json_put_string(o, "type", type_name(e->type));
}

static uint64_t manifest_entries(json_object *record) {
        json_object *manifest;
        uint64_t n = 0;

        if (json_get_object(record, "manifest", &manifest) >= 0)
                (void) json_get_u64(manifest, "entries", &n); /* only told, not relied on */
        return n;
}

/* ---- list ---- */

typedef struct List {
        Work *work;
        Stream stream;
        uint64_t n;
} List;

static void list_done(List *l) {
        stream_done(&l->stream);
}

static int put_xattrs(json_object *o, const Entry *e) {
        json_object *names = json_object_new_array();
        int r = json_put(o, "xattrs", names);

        for (size_t i = 0; r >= 0 && i < e->n_xattrs; i++) {
                _cleanup_free_ char *text = text_escape(e->xattrs[i].name);

                if (!text || json_object_array_add(names, json_object_new_string(text)) < 0)
                        return -ENOMEM;
        }
        return r;
}

static int put_attributes(json_object *o, const Entry *e) {
        char mode[8], mtime[CLOCK_NSEC_TEXT_MAX];
        int r;

        (void) snprintf(mode, sizeof(mode), "%04o", e->mode & 07777u);
        clock_format_nsec(e->mtime_sec, e->mtime_nsec, mtime);
        r = json_put_string(o, "mode", mode);
        if (r >= 0)
                r = json_put_u64(o, "uid", e->uid);
        if (r >= 0)
                r = json_put_u64(o, "gid", e->gid);
        if (r >= 0 && e->type == ENTRY_FILE)
                r = json_put_u64(o, "size", e->size);
        return r < 0 ? r : json_put_string(o, "mtime", mtime);
}

/* A further name of a file has no attributes of its own: `target` names the entry that has them. */
static json_object *list_line(const Entry *e) {
        _cleanup_json_ json_object *o = json_object_new_object();
        bool device = e->type == ENTRY_CHAR || e->type == ENTRY_BLOCK;

        if (!o || put_place(o, e) < 0 || (e->type != ENTRY_HARDLINK && put_attributes(o, e) < 0) ||
            (e->target && json_put_path(o, "target", e->target) < 0) ||
            (device && json_put_u64(o, "major", e->major) < 0) ||
            (device && json_put_u64(o, "minor", e->minor) < 0) ||
            (e->n_xattrs > 0 && put_xattrs(o, e) < 0))
                return NULL;
        return TAKE_PTR(o);
}

static int list_entry(void *userdata, const Entry *e, Failure *reterr) {
        List *l = userdata;
        _cleanup_json_ json_object *o = list_line(e);
        int r = o ? stream_line(&l->stream, o, reterr) : out_of_memory(reterr);

        if (r < 0)
                return r;
        l->n++;
        l->work->files_done++;
        work_progress(l->work, false);
        return 0;
}

int run_list(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(list_done) List l = { .work = w, .stream = STREAM_INIT };
        _cleanup_(pick_done) Pick pick = PICK_INIT;
        _cleanup_(repo_manifest_freep) RepoManifest *manifest = NULL;
        _cleanup_(repo_closep) Repo *repo = NULL;
        _cleanup_json_ json_object *record = NULL;
        const char *id, *service, *path;
        int r;

        if ((r = work_uuid(w, "backup_id", &id, reterr)) < 0 ||
            (r = work_string(w, "service", &service, reterr)) < 0 ||
            (r = work_string(w, "path", &path, reterr)) < 0 ||
            (r = stream_open(w, &l.stream, reterr)) < 0 ||
            (r = open_record(w, id, &repo, &record, reterr)) < 0 ||
            (r = pick_resolve(repo, record, service, path, &pick, reterr)) < 0 ||
            (r = repo_manifest_open(repo, record, &manifest, reterr)) < 0)
                return r;
        work_accepted(w);
        work_phase(w, "list");
        w->files_total = pick.all && !pick.path ? manifest_entries(record) : 0;
        r = pick_each(&pick, w, manifest, list_entry, &l, reterr);
        if (r >= 0)
                r = stream_end_lines(&l.stream, l.n, reterr);
        if (r < 0)
                return r;
        work_progress(w, true);
        *ret_summary = json_object_new_object();
        r = json_put_u64(*ret_summary, "entries", l.n);
        return r < 0 ? out_of_memory(reterr) : 0;
}

/* ---- diff ---- */

typedef struct Compare {
        Work *work;
        Stream stream;
        uint64_t added, removed, changed;
} Compare;

static void compare_done(Compare *c) {
        stream_done(&c->stream);
}

static int put_what(json_object *o, const RepoDifference *d) {
        json_object *what = json_object_new_array();
        int r = json_put(o, "what", what);

        if (r >= 0 && d->content && json_object_array_add(what, json_object_new_string("content")))
                r = -ENOMEM;
        if (r >= 0 && d->metadata &&
            json_object_array_add(what, json_object_new_string("metadata")))
                r = -ENOMEM;
        return r;
}

static int put_modified(json_object *o, const RepoDifference *d) {
        int r = put_what(o, d);

        if (r >= 0 && d->before->type != d->after->type)
                r = json_put_string(o, "type_before", type_name(d->before->type));
        if (r >= 0 && d->before->type == ENTRY_FILE && d->before->size != d->after->size)
                r = json_put_u64(o, "size_before", d->before->size);
        return r;
}

static json_object *diff_line(const RepoDifference *d) {
        _cleanup_json_ json_object *o = json_object_new_object();
        const Entry *e = d->after ? d->after : d->before;
        const char *change = !d->before ? "added" : !d->after ? "removed" : "modified";

        if (!o || json_put_string(o, "change", change) < 0 || put_place(o, e) < 0 ||
            (e->type == ENTRY_FILE && json_put_u64(o, "size", e->size) < 0) ||
            (d->before && d->after && put_modified(o, d) < 0))
                return NULL;
        return TAKE_PTR(o);
}

static int on_difference(void *userdata, const RepoDifference *d, Failure *reterr) {
        Compare *c = userdata;
        _cleanup_json_ json_object *o = diff_line(d);

        c->added += !d->before;
        c->removed += !d->after;
        c->changed += d->before && d->after;
        return o ? stream_line(&c->stream, o, reterr) : out_of_memory(reterr);
}

static int on_compared(void *userdata, uint64_t entries, Failure *reterr) {
        Compare *c = userdata;

        c->work->files_done = entries;
        work_progress(c->work, false);
        return work_interrupted(c->work) ? fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled")
                                         : 0;
}

static bool holds_service(json_object *record, const char *service) {
        json_object *all;

        if (json_get_array(record, "services", &all) < 0)
                return false;
        for (size_t i = 0; i < json_object_array_length(all); i++) {
                const char *s = json_object_get_string(json_object_array_get_idx(all, i));

                if (s && strcmp(s, service) == 0)
                        return true;
        }
        return false;
}

static int compare_records(Compare *c,
                           Repo *repo,
                           json_object *a,
                           json_object *b,
                           const char *service,
                           Failure *reterr) {
        _cleanup_(repo_manifest_freep) RepoManifest *before = NULL, *after = NULL;
        int r;

        if (*service && !holds_service(a, service) && !holds_service(b, service))
                return fail_set(reterr, FAIL_NO_SUCH_SERVICE, ENOENT,
                                "neither backup holds service '%s'", service);
        r = repo_manifest_open(repo, a, &before, reterr);
        if (r >= 0)
                r = repo_manifest_open(repo, b, &after, reterr);
        if (r < 0)
                return r;
        work_accepted(c->work);
        work_phase(c->work, "diff");
        if (!*service)
                c->work->files_total = manifest_entries(a) + manifest_entries(b);
        r = repo_manifest_diff(before, after, *service ? service : NULL, on_difference, on_compared,
                               c, reterr);
        return r < 0 ? r : stream_end_lines(&c->stream, c->added + c->removed + c->changed, reterr);
}

int run_diff(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(compare_done) Compare c = { .work = w, .stream = STREAM_INIT };
        _cleanup_(repo_closep) Repo *repo = NULL;
        _cleanup_json_ json_object *a = NULL, *b = NULL;
        const char *id, *other, *service;
        int r;

        if ((r = work_uuid(w, "backup_id", &id, reterr)) < 0 ||
            (r = work_uuid(w, "other_id", &other, reterr)) < 0 ||
            (r = work_string(w, "service", &service, reterr)) < 0 ||
            (r = stream_open(w, &c.stream, reterr)) < 0 ||
            (r = open_record(w, id, &repo, &a, reterr)) < 0 ||
            (r = open_record(w, other, &repo, &b, reterr)) < 0)
                return r;
        r = compare_records(&c, repo, a, b, service, reterr);
        if (r < 0)
                return r;
        work_progress(w, true);
        *ret_summary = json_object_new_object();
        if (json_put_u64(*ret_summary, "added", c.added) < 0 ||
            json_put_u64(*ret_summary, "removed", c.removed) < 0 ||
            json_put_u64(*ret_summary, "changed", c.changed) < 0)
                return out_of_memory(reterr);
        return 0;
}
