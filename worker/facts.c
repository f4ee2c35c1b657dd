#include "worker/facts.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "worker/databases.h"
#include "worker/hot.h"
#include "worker/verified.h"

enum { CONSISTENCY_APPLICATION, CONSISTENCY_CRASH, CONSISTENCY_NONE };

static const char *const consistency_names[] = { "application", "crash", "none" };
static const char *const tree_kind_names[] = {
        [TREE_ABSENT] = "absent",       [TREE_FILE] = "file",   [TREE_DIRECTORY] = "directory",
        [TREE_SUBVOLUME] = "subvolume", [TREE_OTHER] = "other",
};

/* ---- consistency ---- */

static int service_consistency(const Source *s, size_t service) {
        int worst = s->services[service].unheld ? CONSISTENCY_CRASH : CONSISTENCY_APPLICATION;

        if (!s->services[service].uses_image)
                return CONSISTENCY_NONE;
        for (size_t i = 0; i < s->n_databases; i++) {
                const HoldDatabase *h = &s->holds[i];

                if (s->databases[i].service != service)
                        continue;
                /* Only a pinned connection copies the instant of the files, later than it. */
                if (s->databases[i].copy && !(h->held && h->wal))
                        return CONSISTENCY_NONE;
                if (!h->held)
                        worst = CONSISTENCY_CRASH;
        }
        return worst;
}

const char *facts_consistency(const Source *s) {
        int worst = CONSISTENCY_APPLICATION;

        for (size_t i = 0; i < s->n_services; i++) {
                int c = service_consistency(s, i);

                if (c > worst)
                        worst = c;
        }
        return consistency_names[worst];
}

/* ---- facts ---- */

static int put_time(json_object *o, const char *key, uint64_t usec) {
        char text[CLOCK_TEXT_MAX];

        clock_format(usec, text);
        return json_put_string(o, key, text);
}

static json_object *strings_json(const ConfigStrings *strings) {
        json_object *list = json_object_new_array();

        for (size_t i = 0; list && i < strings->n; i++) {
                _cleanup_free_ char *text = text_escape(strings->items[i]);

                if (!text || json_object_array_add(list, json_object_new_string(text)) < 0) {
                        json_object_put(list);
                        return NULL;
                }
        }
        return list;
}

static json_object *paths_json(const Source *s, size_t service) {
        json_object *list = json_object_new_array();

        for (size_t i = 0; list && i < s->n_paths; i++) {
                _cleanup_json_ json_object *o = NULL;

                if (s->paths[i].service != service)
                        continue;
                o = json_object_new_object();
                if (!o || json_put_path(o, "path", s->paths[i].path) < 0 ||
                    json_put_string(o, "kind", tree_kind_names[s->paths[i].kind]) < 0 ||
                    json_object_array_add(list, json_object_get(o)) < 0) {
                        json_object_put(list);
                        return NULL;
                }
        }
        return list;
}

/* Adds services, service_consistency, and per service its paths and rules. */
static int put_services(json_object *facts, const Source *s) {
        json_object *names = json_object_new_array(), *consistency = json_object_new_object(),
                    *sources = json_object_new_object();
        int r = json_put(facts, "services", names);

        if (r >= 0)
                r = json_put(facts, "service_consistency", consistency);
        if (r >= 0)
                r = json_put(facts, "sources", sources);
        for (size_t i = 0; r >= 0 && i < s->n_services; i++) {
                const ConfigService *c = s->services[i].config;
                json_object *source = json_object_new_object();

                r = json_put(sources, c->name, source);
                if (r >= 0)
                        r = json_put(source, "paths", paths_json(s, i));
                if (r >= 0)
                        r = json_put(source, "excludes", strings_json(&c->excludes));
                if (r >= 0)
                        r = json_put_string(consistency, c->name,
                                            consistency_names[service_consistency(s, i)]);
                if (r >= 0 && json_object_array_add(names, json_object_new_string(c->name)) < 0)
                        r = -ENOMEM;
        }
        return r;
}

static json_object *refused_json(const Source *s) {
        json_object *list = json_object_new_array();

        for (size_t i = 0; list && i < s->n_refused; i++)
                if (json_object_array_add(list,
                                          json_object_new_string(s->refused[i].config->name)) < 0) {
                        json_object_put(list);
                        return NULL;
                }
        return list;
}

static int put_request(json_object *facts, const FactsRequest *q) {
        int r = 0;

        r |= json_put_string(facts, "backup_id", q->backup_id);
        r |= json_put_string(facts, "backup_name", q->name);
        r |= json_put_string(facts, "backup_type", q->type);
        r |= json_put_string(facts, "description", q->description);
        r |= json_put_string(facts, "created_by", q->created_by);
        r |= json_put_string(facts, "schedule", q->schedule);
        r |= json_put_bool(facts, "include_files", q->include_files);
        return r < 0 ? -ENOMEM : 0;
}

json_object *
facts_new(const FactsRequest *q, const Source *s, const Point *p, const Collect *c, bool partial) {
        _cleanup_json_ json_object *f = json_object_new_object();

        if (!f || put_request(f, q) < 0 || put_services(f, s) < 0 ||
            json_put_string(f, "status", partial ? "partial" : "completed") < 0 ||
            put_time(f, "created_at", p->instant_usec) < 0 ||
            json_put_u64(f, "instant_usec", p->instant_usec) < 0 ||
            put_time(f, "completed_at", clock_realtime_usec()) < 0 ||
            json_put_string(f, "consistency", facts_consistency(s)) < 0 ||
            json_put_u64(f, "pause_usec", p->pause_usec) < 0 ||
            json_put_string(f, "parent_id", c->parent_id) < 0 ||
            json_put(f, "databases", databases_json(s)) < 0 ||
            json_put(f, "problems", json_object_get(c->problems)) < 0 ||
            json_put_u64(f, "problems_total", c->n_problems) < 0 ||
            json_put_u64(f, "unstable", c->n_unstable) < 0 ||
            json_put_u64(f, "sockets", c->n_sockets) < 0 ||
            json_put(f, "left_out", json_object_get(c->left_out)) < 0 ||
            json_put(f, "refused", refused_json(s)) < 0)
                return NULL;
        return TAKE_PTR(f);
}

static int put_import_services(json_object *facts, const FactsImport *q) {
        json_object *consistency = json_object_new_object();
        int r = json_put(facts, "service_consistency", consistency);

        for (size_t i = 0; r >= 0 && i < json_object_array_length(q->services); i++)
                r = json_put_string(
                        consistency,
                        json_object_get_string(json_object_array_get_idx(q->services, i)),
                        consistency_names[CONSISTENCY_NONE]);
        if (r >= 0)
                r = json_put(facts, "services", json_object_get(q->services));
        return r < 0 ? r : json_put(facts, "sources", json_object_get(q->sources));
}

json_object *facts_new_import(const FactsImport *q) {
        const FactsRequest request = { .backup_id = q->backup_id,
                                       .name = q->name,
                                       .type = "full",
                                       .description = q->description,
                                       .created_by = q->created_by,
                                       .schedule = "",
                                       .include_files = true };
        _cleanup_json_ json_object *f = json_object_new_object();

        if (!f || put_request(f, &request) < 0 || put_import_services(f, q) < 0 ||
            json_put_string(f, "status", "completed") < 0 ||
            put_time(f, "created_at", q->instant_usec) < 0 ||
            json_put_u64(f, "instant_usec", q->instant_usec) < 0 ||
            put_time(f, "completed_at", clock_realtime_usec()) < 0 ||
            json_put_string(f, "consistency", consistency_names[CONSISTENCY_NONE]) < 0 ||
            json_put_u64(f, "pause_usec", 0) < 0 || json_put_string(f, "parent_id", "") < 0 ||
            json_put(f, "databases", json_object_new_array()) < 0 ||
            json_put(f, "problems", json_object_new_array()) < 0 ||
            json_put_u64(f, "problems_total", 0) < 0 || json_put_u64(f, "unstable", 0) < 0 ||
            json_put_u64(f, "sockets", 0) < 0 ||
            json_put(f, "left_out", json_object_new_array()) < 0 ||
            json_put_bool(f, "imported", true) < 0)
                return NULL;
        return TAKE_PTR(f);
}

/* ---- dictionary ---- */

/* Members that go over as they are; docs/REPO-FORMAT.md and docs/DBUS.md name them alike. */
static const char *const plain_keys[] = {
        "backup_id",   "backup_name",         "backup_type",
        "description", "created_by",          "status",
        "created_at",  "completed_at",        "services",
        "schedule",    "consistency",         "pause_usec",
        "parent_id",   "service_consistency",
};

/* What the dictionary has no key of its own for. */
static const char *const metadata_keys[] = { "refused", "problems_total", "unstable",
                                             "sockets", "include_files",  "imported" };

/*
 * A message has an end and the agent takes no longer texts, but a service's user decides how much
 * there is to tell: what stands in these lists is cut at so many bytes. The record has all of it.
 */
#define DATABASES_BYTES ((size_t) 40 << 10)
#define PROBLEMS_BYTES  ((size_t) 20 << 10)
#define LEFT_OUT_BYTES  ((size_t) 8 << 10)
#define SOURCES_BYTES   ((size_t) 24 << 10)

static int copy_list(json_object *to, json_object *from, const char *key, size_t bytes) {
        json_object *list, *kept = json_object_new_array();
        size_t used = 0,
               n = json_get_array(from, key, &list) < 0 ? 0 : json_object_array_length(list);

        for (size_t i = 0; kept && i < n; i++) {
                json_object *item = json_object_array_get_idx(list, i);

                used += strlen(json_text(item));
                if (used > bytes)
                        break;
                if (json_object_array_add(kept, json_object_get(item)) < 0) {
                        json_object_put(kept);
                        kept = NULL;
                }
        }
        return json_put(to, key, kept);
}

static int copy_member(json_object *to, json_object *from, const char *key) {
        json_object *v;

        if (!json_object_object_get_ex(from, key, &v))
                return -ENOENT;
        return json_put(to, key, json_object_get(v));
}

static int put_metadata(json_object *d, json_object *record) {
        _cleanup_json_ json_object *m = json_object_new_object();

        json_object *sources, *databases;

        for (size_t i = 0; m && i < ELEMENTSOF(metadata_keys); i++)
                if (copy_member(m, record, metadata_keys[i]) == -ENOMEM)
                        return -ENOMEM;
        if (m && (copy_list(m, record, "problems", PROBLEMS_BYTES) < 0 ||
                  copy_list(m, record, "left_out", LEFT_OUT_BYTES) < 0))
                return -ENOMEM;
        if (m && json_get_array(record, "databases", &databases) >= 0 &&
            json_put_u64(m, "databases_total", json_object_array_length(databases)) < 0)
                return -ENOMEM;
        if (m && json_get_object(record, "sources", &sources) >= 0 &&
            strlen(json_text(sources)) <= SOURCES_BYTES && copy_member(m, record, "sources") < 0)
                return -ENOMEM;
        return m ? json_put_string(d, "metadata", json_text(m)) : -ENOMEM;
}

static int put_copies(Work *w, json_object *d, const char *id) {
        json_object *copies = json_object_new_array(), *services;
        int r = json_put(d, "copies", copies);

        if (r < 0)
                return r;
        if (json_get_array(d, "services", &services) >= 0 && hot_covers(w, id, services) &&
            json_object_array_add(copies, json_object_new_string("hot")) < 0)
                return -ENOMEM;
        return json_object_array_add(copies, json_object_new_string("local")) < 0 ? -ENOMEM : 0;
}

static int put_totals(json_object *d, json_object *record) {
        json_object *manifest;
        const char *checksum;
        uint64_t entries, bytes, new_bytes;

        if (json_get_object(record, "manifest", &manifest) < 0 ||
            json_get_string(manifest, "checksum", &checksum) < 0 ||
            json_get_u64(manifest, "entries", &entries) < 0 ||
            json_get_u64(manifest, "bytes", &bytes) < 0)
                return -EBADMSG;
        if (json_get_u64(record, "new_bytes", &new_bytes) < 0)
                new_bytes = 0;
        if (json_put_string(d, "checksum", checksum) < 0 || json_put_u64(d, "files", entries) < 0 ||
            json_put_u64(d, "bytes", bytes) < 0 || json_put_u64(d, "new_bytes", new_bytes) < 0)
                return -ENOMEM;
        return 0;
}

json_object *facts_dictionary(Work *w, Repo *repo, json_object *record) {
        _cleanup_json_ json_object *d = json_object_new_object();
        _cleanup_free_ char *path = NULL;
        const char *id;

        if (!d || json_get_string(record, "backup_id", &id) < 0)
                return NULL;
        for (size_t i = 0; i < ELEMENTSOF(plain_keys); i++)
                if (copy_member(d, record, plain_keys[i]) < 0)
                        return NULL;
        path = repo_record_path(repo, id);
        if (!path || copy_list(d, record, "databases", DATABASES_BYTES) < 0 ||
            json_put_path(d, "file_path", path) < 0 || put_totals(d, record) < 0 ||
            put_metadata(d, record) < 0 || put_copies(w, d, id) < 0 || verified_put(w, id, d) < 0 ||
            json_put_bool(d, "pinned", repo_is_pinned(repo, id)) < 0)
                return NULL;
        return TAKE_PTR(d);
}
