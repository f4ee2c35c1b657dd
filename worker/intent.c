#include "worker/intent.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/step.h"
#include "base/text.h"
#include "worker/cutover.h"
#include "worker/intent-log.h"
#include "worker/state.h"
#include "worker/swap.h"

static const char *const state_names[] = {
        [INTENT_STAGING] = "staging",       [INTENT_SWAPPING] = "swapping",
        [INTENT_ACTIVE] = "active",         [INTENT_ROLLED_BACK] = "rolled_back",
        [INTENT_CONFIRMING] = "confirming", [INTENT_CONFIRMED] = "confirmed",
        [INTENT_FAILED] = "failed",
};

static void free_strings(char **items, size_t n) {
        for (size_t i = 0; i < n; i++)
                free(items[i]);
        free(items);
}

void intent_clear_units(Intent *i) {
        for (size_t k = 0; k < i->n_units; k++)
                free(i->units[k].name);
        free(i->units);
        i->units = NULL;
        i->n_units = 0;
}

void intent_done(Intent *i) {
        for (size_t k = 0; k < i->n_paths; k++) {
                IntentPath *p = &i->paths[k];

                free(p->service);
                free(p->path);
                free(p->root);
                free(p->stage);
                mounted_free(p->mount);
                free_strings(p->moves, p->n_moves);
                free_strings(p->excludes, p->n_excludes);
        }
        free(i->paths);
        intent_clear_units(i);
        free(i->error);
        json_object_put(i->services);
        *i = INTENT_INIT;
}

static int add_string(char ***items, size_t *n, const char *s) {
        char **grown = realloc(*items, (*n + 1) * sizeof(char *));

        if (!grown)
                return -ENOMEM;
        *items = grown;
        grown[*n] = strdup(s);
        if (!grown[*n])
                return -ENOMEM;
        ++*n;
        return 0;
}

int intent_add_move(IntentPath *p, const char *relative) {
        return add_string(&p->moves, &p->n_moves, relative);
}

int intent_add_unit(Intent *i, const char *name, bool active) {
        IntentUnit *grown;

        for (size_t k = 0; k < i->n_units; k++)
                if (strcmp(i->units[k].name, name) == 0)
                        return 0;
        grown = realloc(i->units, (i->n_units + 1) * sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        i->units = grown;
        grown[i->n_units] = (IntentUnit){ .name = strdup(name), .active = active };
        return grown[i->n_units++].name ? 0 : -ENOMEM;
}

int intent_add_path(Intent *i,
                    const char *service,
                    const char *root,
                    const char *path,
                    IntentPath **ret) {
        IntentPath *grown = realloc(i->paths, (i->n_paths + 1) * sizeof(*grown)), *p;

        if (!grown)
                return -ENOMEM;
        i->paths = grown;
        p = &grown[i->n_paths];
        *p = (IntentPath){
                .service = strdup(service),
                .path = strdup(path),
                .root = strdup(root),
                .stage = text_printf("restore.%s.%zu", i->restore_id, i->n_paths),
        };
        i->n_paths++;
        if (!p->service || !p->path || !p->root || !p->stage)
                return -ENOMEM;
        *ret = p;
        return 0;
}

/* ---- JSON ---- */

static json_object *strings_json(char *const *items, size_t n) {
        json_object *list = json_object_new_array();

        for (size_t i = 0; list && i < n; i++) {
                _cleanup_free_ char *text = text_escape(items[i]);

                if (!text || json_object_array_add(list, json_object_new_string(text)) < 0) {
                        json_object_put(list);
                        return NULL;
                }
        }
        return list;
}

static json_object *path_json(const IntentPath *p) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "service", p->service) < 0 ||
            json_put_path(o, "path", p->path) < 0 || json_put_path(o, "root", p->root) < 0 ||
            json_put_string(o, "stage", p->stage) < 0 || json_put_bool(o, "side", p->side) < 0 ||
            json_put(o, "old", tree_id_json(&p->old_id)) < 0 ||
            json_put(o, "new", tree_id_json(&p->new_id)) < 0 ||
            json_put(o, "moves", strings_json(p->moves, p->n_moves)) < 0 ||
            json_put(o, "excludes", strings_json(p->excludes, p->n_excludes)) < 0 ||
            (p->mount && json_put(o, "mount", mounted_json(p->mount)) < 0))
                return NULL;
        return TAKE_PTR(o);
}

static json_object *unit_json(const IntentUnit *u) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_string(o, "name", u->name) < 0 ||
            json_put_bool(o, "active", u->active) < 0)
                return NULL;
        return TAKE_PTR(o);
}

static int put_units(json_object *o, const Intent *i) {
        json_object *units = json_object_new_array();

        if (json_put(o, "units", units) < 0 || json_put_bool(o, "held", i->held) < 0 ||
            json_put_u64(o, "down_since_usec", i->down_since_usec) < 0 ||
            json_put_bool(o, "reverting", i->reverting) < 0 ||
            json_put_string(o, "back_to", state_names[i->back_to]) < 0)
                return -ENOMEM;
        for (size_t k = 0; k < i->n_units; k++) {
                json_object *u = unit_json(&i->units[k]);

                if (!u || json_object_array_add(units, u) < 0) {
                        json_object_put(u);
                        return -ENOMEM;
                }
        }
        return 0;
}

/* A worker that knows no mounts would look for these trees elsewhere: it must not know these. */
static uint64_t version_of(const Intent *i) {
        for (size_t k = 0; k < i->n_paths; k++)
                if (i->paths[k].mount)
                        return 2;
        return 1;
}

static json_object *intent_json(const Intent *i) {
        _cleanup_json_ json_object *o = json_object_new_object();
        json_object *paths = json_object_new_array();

        if (!o || json_put(o, "paths", paths) < 0 ||
            json_put_u64(o, "version", version_of(i)) < 0 ||
            json_put_string(o, "restore_id", i->restore_id) < 0 ||
            json_put_string(o, "backup_id", i->backup_id) < 0 ||
            json_put_string(o, "from", i->from) < 0 ||
            json_put_string(o, "method", i->method) < 0 ||
            json_put(o, "services", json_object_get(i->services)) < 0 ||
            json_put_string(o, "state", state_names[i->state]) < 0 ||
            json_put_string(o, "before", state_names[i->before]) < 0 ||
            json_put_bool(o, "want_new", i->want_new) < 0 ||
            json_put_u64(o, "created_usec", i->created_usec) < 0 ||
            json_put_u64(o, "completed_usec", i->completed_usec) < 0 ||
            json_put_u64(o, "units_down_usec", i->units_down_usec) < 0 ||
            json_put_u64(o, "swap_usec", i->swap_usec) < 0 ||
            json_put_path(o, "error", i->error ? i->error : "") < 0 || put_units(o, i) < 0)
                return NULL;
        for (size_t k = 0; k < i->n_paths; k++) {
                json_object *p = path_json(&i->paths[k]);

                if (!p || json_object_array_add(paths, p) < 0) {
                        json_object_put(p);
                        return NULL;
                }
        }
        return TAKE_PTR(o);
}

static int read_strings(json_object *o, const char *key, char ***items, size_t *n) {
        json_object *list;
        int r = json_get_array(o, key, &list);

        for (size_t i = 0; r >= 0 && i < json_object_array_length(list); i++) {
                json_object *v = json_object_array_get_idx(list, i);
                _cleanup_free_ char *text = NULL;

                if (!json_object_is_type(v, json_type_string))
                        return -EINVAL;
                r = text_unescape(json_object_get_string(v), &text);
                if (r >= 0)
                        r = add_string(items, n, text);
        }
        return r;
}

static int read_state(json_object *o, const char *key, IntentState *ret) {
        const char *text;
        int r = json_get_string(o, key, &text);

        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(state_names); i++)
                if (strcmp(state_names[i], text) == 0) {
                        *ret = (IntentState) i;
                        return 0;
                }
        return -EINVAL;
}

static int read_path(Intent *i, json_object *o) {
        _cleanup_free_ char *path = NULL, *root = NULL;
        const char *service, *stage;
        json_object *old_id, *new_id, *mount;
        IntentPath *p;
        int r;

        if (json_get_string(o, "service", &service) < 0 || json_get_path(o, "path", &path) < 0 ||
            json_get_string(o, "stage", &stage) < 0 || json_get_object(o, "old", &old_id) < 0 ||
            json_get_object(o, "new", &new_id) < 0 || strchr(stage, '/'))
                return -EINVAL;
        /* Intents written before parts of a tree could be exchanged name whole ones alone. */
        r = json_get_path(o, "root", &root);
        if ((r < 0 && r != -ENOENT) || (root && !text_path_is_below(path, root)) ||
            intent_add_path(i, service, root ? root : path, path, &p) < 0)
                return -EINVAL;
        (void) json_get_bool(o, "side", &p->side); /* false unless it says so */
        free(p->stage);
        p->stage = strdup(stage);
        if (!p->stage || tree_id_read(old_id, &p->old_id) < 0 ||
            tree_id_read(new_id, &p->new_id) < 0 ||
            read_strings(o, "moves", &p->moves, &p->n_moves) < 0 ||
            read_strings(o, "excludes", &p->excludes, &p->n_excludes) < 0)
                return -EINVAL;
        r = json_get_object(o, "mount", &mount);
        if (r >= 0)
                r = mounted_read(mount, &p->mount);
        return r < 0 && r != -ENOENT ? -EINVAL : 0;
}

/* Intents written before units were stopped have none. */
static int read_units(Intent *i, json_object *o) {
        json_object *units;
        int r = json_get_array(o, "units", &units);

        if (r == -ENOENT)
                return 0;
        if (r < 0 || json_get_bool(o, "held", &i->held) < 0 ||
            json_get_u64(o, "down_since_usec", &i->down_since_usec) < 0 ||
            json_get_bool(o, "reverting", &i->reverting) < 0 ||
            read_state(o, "back_to", &i->back_to) < 0)
                return -EINVAL;
        for (size_t k = 0; k < json_object_array_length(units); k++) {
                json_object *u = json_object_array_get_idx(units, k);
                const char *name;
                bool active;

                if (json_get_string(u, "name", &name) < 0 || strchr(name, '/') ||
                    json_get_bool(u, "active", &active) < 0 || intent_add_unit(i, name, active) < 0)
                        return -EINVAL;
        }
        return 0;
}

static int read_intent(json_object *o, Intent *i) {
        const char *restore_id, *backup_id, *from, *method;
        json_object *services, *paths;
        uint64_t version;

        if (json_get_u64(o, "version", &version) < 0 || version < 1 || version > 2 ||
            json_get_string(o, "restore_id", &restore_id) < 0 || !text_is_uuid(restore_id) ||
            json_get_string(o, "backup_id", &backup_id) < 0 || !text_is_uuid(backup_id) ||
            json_get_string(o, "from", &from) < 0 || json_get_string(o, "method", &method) < 0 ||
            json_get_array(o, "services", &services) < 0 ||
            json_get_array(o, "paths", &paths) < 0 || read_state(o, "state", &i->state) < 0 ||
            read_state(o, "before", &i->before) < 0 ||
            json_get_bool(o, "want_new", &i->want_new) < 0 ||
            json_get_u64(o, "created_usec", &i->created_usec) < 0 ||
            json_get_u64(o, "completed_usec", &i->completed_usec) < 0 ||
            json_get_u64(o, "units_down_usec", &i->units_down_usec) < 0 ||
            json_get_u64(o, "swap_usec", &i->swap_usec) < 0 ||
            json_get_path(o, "error", &i->error) < 0 || read_units(i, o) < 0)
                return -EINVAL;
        (void) snprintf(i->restore_id, sizeof(i->restore_id), "%s", restore_id);
        (void) snprintf(i->backup_id, sizeof(i->backup_id), "%s", backup_id);
        (void) snprintf(i->from, sizeof(i->from), "%s", from);
        (void) snprintf(i->method, sizeof(i->method), "%s", method);
        i->services = json_object_get(services);
        for (size_t k = 0; k < json_object_array_length(paths); k++)
                if (read_path(i, json_object_array_get_idx(paths, k)) < 0)
                        return -EINVAL;
        return 0;
}

json_object *intent_row(const Intent *i) {
        _cleanup_json_ json_object *o = json_object_new_object();
        char created[CLOCK_TEXT_MAX], completed[CLOCK_TEXT_MAX];
        /* To others a confirmation that is not through did not happen yet: it can be repeated. */
        IntentState shown = i->state == INTENT_CONFIRMING ? i->before : i->state;

        /* Neither is a swap over before its units run. */
        if ((i->held || i->reverting) && i->state != INTENT_STAGING)
                shown = INTENT_SWAPPING;
        clock_format(i->created_usec, created);
        clock_format(i->completed_usec, completed);
        if (!o || json_put_string(o, "restore_id", i->restore_id) < 0 ||
            json_put_string(o, "backup_id", i->backup_id) < 0 ||
            json_put(o, "services", json_object_get(i->services)) < 0 ||
            json_put_string(o, "state", state_names[shown]) < 0 ||
            json_put_string(o, "created_at", created) < 0 ||
            json_put_string(o, "completed_at", completed) < 0 ||
            json_put_u64(o, "units_down_usec", i->units_down_usec) < 0 ||
            json_put_u64(o, "swap_usec", i->swap_usec) < 0 ||
            json_put_string(o, "method", i->method) < 0 ||
            json_put_string(o, "from", i->from) < 0 ||
            json_put_path(o, "error", i->error ? i->error : "") < 0)
                return NULL;
        return TAKE_PTR(o);
}

/* ---- files ---- */

static void file_name(const char *restore_id, char ret[48]) {
        (void) snprintf(ret, 48, "%.36s.json", restore_id);
}

int intent_save(Work *w, const Intent *i, Failure *reterr) {
        _cleanup_close_ int dir = state_open_dir(w->state_fd, "intents", reterr);
        _cleanup_json_ json_object *o = intent_json(i);
        char name[48];

        if (dir < 0)
                return dir;
        if (!o)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "intent");
        file_name(i->restore_id, name);
        return state_write_json(dir, name, o, reterr);
}

int intent_forget(Work *w, const char *restore_id, Failure *reterr) {
        _cleanup_close_ int dir = state_open_dir(w->state_fd, "intents", reterr);
        char name[48];

        file_name(restore_id, name);
        if (dir < 0)
                return dir;
        return unlinkat(dir, name, 0) < 0 ? fail_errno(reterr, FAIL_INTERNAL, errno, "%s", name)
                                          : 0;
}

int intent_load(Work *w, const char *restore_id, Intent *ret, Failure *reterr) {
        _cleanup_close_ int dir = state_open_dir(w->state_fd, "intents", reterr);
        _cleanup_json_ json_object *o = NULL;
        char name[48];
        int r;

        if (dir < 0)
                return dir;
        file_name(restore_id, name);
        r = state_read_json(dir, name, &o, reterr);
        if (r == -ENOENT)
                return fail_set(reterr, FAIL_NO_SUCH_RESTORE, ENOENT, "no restore %s", restore_id);
        if (r >= 0 && read_intent(o, ret) < 0) {
                intent_done(ret);
                r = fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                             "intents/%s in the worker's state is damaged", name);
        }
        return r;
}

typedef struct Ids {
        char (*items)[40];
        size_t n;
} Ids;

static int list_ids(Work *w, Ids *ret, Failure *reterr) {
        _cleanup_dir_ DIR *d = NULL;
        struct dirent *e;
        int dir = state_open_dir(w->state_fd, "intents", reterr);

        if (dir < 0)
                return dir;
        d = fdopendir(dir);
        if (!d) {
                fd_close(dir);
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "intents");
        }
        while ((e = readdir(d))) {
                char id[40], (*grown)[40];

                if (strlen(e->d_name) != 41 || strcmp(e->d_name + 36, ".json") != 0)
                        continue;
                (void) snprintf(id, sizeof(id), "%.36s", e->d_name);
                if (!text_is_uuid(id))
                        continue;
                grown = realloc(ret->items, (ret->n + 1) * sizeof(*grown));
                if (!grown)
                        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "intents");
                ret->items = grown;
                memcpy(ret->items[ret->n++], id, sizeof(id));
        }
        return 0;
}

typedef struct IntentList {
        Intent *items;
        size_t n;
} IntentList;

static int oldest_first(const void *a, const void *b) {
        const Intent *x = a, *y = b;

        return x->created_usec < y->created_usec ? -1 : x->created_usec > y->created_usec;
}

static int load_all(Work *w, IntentList *ret, Failure *reterr) {
        Ids ids = { 0 };
        int r = list_ids(w, &ids, reterr);

        if (r >= 0 && ids.n > 0) {
                ret->items = calloc(ids.n, sizeof(*ret->items));
                if (!ret->items)
                        r = fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "intents");
        }
        for (size_t k = 0; r >= 0 && k < ids.n; k++) {
                Failure f = FAILURE_INIT;

                if (intent_load(w, ids.items[k], &ret->items[ret->n], &f) < 0)
                        log_message(MESSAGE_RESTORE_NEEDS_ATTENTION,
                                    &(LogFields){ .restore = ids.items[k] }, "restore %s: %s",
                                    ids.items[k], f.text);
                else
                        ret->n++;
        }
        free(ids.items);
        if (ret->n > 1)
                qsort(ret->items, ret->n, sizeof(*ret->items), oldest_first);
        return r;
}

static void intent_list_done(IntentList *l) {
        for (size_t k = 0; k < l->n; k++)
                intent_done(&l->items[k]);
        free(l->items);
}

int intent_for_each(Work *w,
                    int (*on_intent)(void *userdata, Intent *intent, Failure *reterr),
                    void *userdata,
                    Failure *reterr) {
        _cleanup_(intent_list_done) IntentList l = { 0 };
        int r = load_all(w, &l, reterr);

        for (size_t k = 0; r >= 0 && k < l.n; k++)
                r = on_intent(userdata, &l.items[k], reterr);
        return r;
}

static bool share_service(const Intent *a, const Intent *b) {
        for (size_t i = 0; i < a->n_paths; i++)
                for (size_t k = 0; k < b->n_paths; k++)
                        if (strcmp(a->paths[i].service, b->paths[k].service) == 0)
                                return true;
        return false;
}

static bool was_undone(const Intent *i) {
        bool ended = i->state == INTENT_CONFIRMED || i->state == INTENT_CONFIRMING;

        return i->state == INTENT_FAILED || i->state == INTENT_ROLLED_BACK ||
               (ended && i->before == INTENT_ROLLED_BACK);
}

bool intent_is_superseded(Work *w, const Intent *i) {
        _cleanup_(intent_list_done) IntentList l = { 0 };
        Failure f = FAILURE_INIT;
        bool after = false;

        if (load_all(w, &l, &f) < 0)
                return true;
        for (size_t k = 0; k < l.n; k++) {
                if (strcmp(l.items[k].restore_id, i->restore_id) == 0)
                        after = true;
                else if (after && !was_undone(&l.items[k]) && share_service(&l.items[k], i))
                        return true;
        }
        return false;
}

bool intent_find_keeper(Work *w, const Intent *i, char ret_id[40]) {
        _cleanup_(intent_list_done) IntentList l = { 0 };
        Failure f = FAILURE_INIT;

        if (load_all(w, &l, &f) < 0)
                return false;
        for (size_t k = l.n; k-- > 0;) {
                const Intent *other = &l.items[k];

                if (strcmp(other->restore_id, i->restore_id) == 0 ||
                    (other->state != INTENT_ACTIVE && other->state != INTENT_ROLLED_BACK) ||
                    !share_service(other, i))
                        continue;
                memcpy(ret_id, other->restore_id, sizeof(other->restore_id));
                return true;
        }
        return false;
}

int intent_begin(Work *w, Intent *i, Failure *reterr) {
        _cleanup_(intent_list_done) IntentList l = { 0 };
        int r = load_all(w, &l, reterr);

        if (r < 0)
                return r;
        i->created_usec = clock_realtime_usec();
        for (size_t k = 0; k < l.n; k++) {
                const Intent *other = &l.items[k];

                if (other->state == INTENT_SWAPPING && share_service(other, i))
                        return fail_set(reterr, FAIL_NOT_RESTORABLE, EUCLEAN,
                                        "restore %s of the same service could be neither finished "
                                        "nor undone: see why with holdpoint-worker --recover; "
                                        "--into restores aside",
                                        other->restore_id);
                /* The clock may have been set back: the order must not. */
                if (other->created_usec >= i->created_usec)
                        i->created_usec = other->created_usec + 1;
        }
        return 0;
}

static int refuse_half_done(void *userdata, Intent *i, Failure *reterr) {
        const char *service = userdata;

        if (i->state != INTENT_SWAPPING)
                return 0;
        for (size_t k = 0; k < i->n_paths; k++)
                if (strcmp(i->paths[k].service, service) == 0)
                        return fail_set(
                                reterr, FAIL_BUSY, EBUSY,
                                "restore %s of service %s was cut off in its swap and is not "
                                "recovered yet; see 'holdpoint restores' and the log",
                                i->restore_id, service);
        return 0;
}

int intent_check_settled(Work *w, const char *service, Failure *reterr) {
        return intent_for_each(w, refuse_half_done, (void *) service, reterr);
}

/* ---- recovery ---- */

static int recover_one(void *userdata, Intent *listed, Failure *reterr) {
        Work *w = userdata;
        Intent i = INTENT_INIT;
        Failure f = FAILURE_INIT, units = FAILURE_INIT;
        ServiceLocks locks = { 0 };
        int r;

        if (listed->state != INTENT_STAGING && listed->state != INTENT_SWAPPING &&
            listed->state != INTENT_CONFIRMING && !cutover_is_open(listed))
                return 0;
        r = state_lock_services(w, listed->services, 0, &locks, &f);
        /* Under its locks nobody changes it: what counts is what it says now. */
        if (r >= 0)
                r = intent_load(w, listed->restore_id, &i, &f);
        if (r >= 0) {
                step("recover");
                r = swap_recover(w, &i, &f);
                if (cutover_is_open(&i) && cutover_recover(w, &i, &units) < 0)
                        r = fail_set(&f, units.code, units.errnum, "%s", units.text);
                work_stream(w, "restore", "restore", intent_row(&i));
        }
        service_locks_done(&locks);
        if (r < 0 && f.code != FAIL_BUSY) {
                intent_log_attention(listed, &f);
                if (reterr->code == FAIL_NONE)
                        *reterr = f;
        }
        intent_done(&i);
        return 0; /* one stuck restore must not keep the others from being recovered */
}

int intent_recover_all(Work *w, Failure *reterr) {
        int r = intent_for_each(w, recover_one, w, reterr);

        return r < 0 ? r : -reterr->errnum;
}
