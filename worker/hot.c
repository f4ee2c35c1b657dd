#include "worker/hot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/names.h"
#include "base/text.h"
#include "worker/state.h"

#define HOT_NAME_MAX (UUID_TEXT_MAX + 8)
#define HOT_PREFIX   "hot."
#define USEC_PER_DAY (86400 * USEC_PER_SEC)

static void file_name(const char *backup_id, char ret[HOT_NAME_MAX]) {
        (void) snprintf(ret, HOT_NAME_MAX, "%s.json", backup_id);
}

/* ---- records ---- */

typedef struct HotRecord {
        char id[UUID_TEXT_MAX];
        uint64_t created_usec;
        json_object *json;
} HotRecord;

typedef struct HotList {
        int dir;
        HotRecord *items;
        size_t n;
} HotList;

static void hot_list_done(HotList *l) {
        for (size_t i = 0; i < l->n; i++)
                json_object_put(l->items[i].json);
        free(l->items);
        fd_close(l->dir);
}

static json_object *images_of(json_object *record) {
        json_object *images;

        return json_get_array(record, "images", &images) < 0 ? NULL : images;
}

static size_t n_images(json_object *record) {
        json_object *images = images_of(record);

        return images ? json_object_array_length(images) : 0;
}

static json_object *image_at(json_object *record, size_t i) {
        return json_object_array_get_idx(images_of(record), i);
}

static bool serves(json_object *image, const char *service) {
        json_object *services;

        if (json_get_array(image, "services", &services) < 0)
                return false;
        for (size_t i = 0; i < json_object_array_length(services); i++) {
                const char *s = json_object_get_string(json_object_array_get_idx(services, i));

                if (s && strcmp(s, service) == 0)
                        return true;
        }
        return false;
}

static int newest_first(const void *a, const void *b) {
        const HotRecord *x = a, *y = b;

        return x->created_usec < y->created_usec ? 1 : x->created_usec > y->created_usec ? -1 : 0;
}

/* `clean`: one that says nothing any more is removed; its images are then swept by their names. */
static bool load_record(int dir, const char *name, bool clean, HotRecord *ret) {
        Failure f = FAILURE_INIT;

        if (strlen(name) != UUID_TEXT_MAX - 1 + 5 || strcmp(name + UUID_TEXT_MAX - 1, ".json") != 0)
                return false;
        (void) snprintf(ret->id, sizeof(ret->id), "%.36s", name);
        if (!text_is_uuid(ret->id))
                return false;
        if (state_read_json(dir, name, &ret->json, &f) < 0) {
                clean = clean && f.code == FAIL_INTEGRITY_FAILURE && unlinkat(dir, name, 0) == 0;
                log_warning("hot copy of backup %s: %s%s", ret->id, f.text,
                            clean ? "; it is removed" : "");
                return false;
        }
        if (json_get_u64(ret->json, "created_usec", &ret->created_usec) < 0)
                ret->created_usec = 0;
        return true;
}

static int load_all(Work *w, bool clean, HotList *ret, Failure *reterr) {
        _cleanup_dir_ DIR *d = NULL;
        struct dirent *e;
        int copy;

        *ret = (HotList){ .dir = state_open_dir(w->state_fd, "hot", reterr) };
        if (ret->dir < 0)
                return ret->dir;
        copy = fs_open_dir(ret->dir, ".");
        d = copy < 0 ? NULL : fdopendir(copy);
        if (!d)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "hot copies");
        while ((e = readdir(d))) {
                HotRecord *grown, record = { 0 };

                if (!load_record(ret->dir, e->d_name, clean, &record))
                        continue;
                grown = realloc(ret->items, (ret->n + 1) * sizeof(*grown));
                if (!grown) {
                        json_object_put(record.json);
                        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "hot copies");
                }
                ret->items = grown;
                ret->items[ret->n++] = record;
        }
        if (ret->n > 0)
                qsort(ret->items, ret->n, sizeof(*ret->items), newest_first);
        return 0;
}

int hot_save(Work *w,
             const char *backup_id,
             uint64_t created_usec,
             json_object *images,
             Failure *reterr) {
        _cleanup_json_ json_object *o = json_object_new_object();
        _cleanup_(hot_list_done) HotList l = { .dir = -1 };
        char name[HOT_NAME_MAX];
        int r = load_all(w, false, &l, reterr);

        if (r < 0)
                return r;
        /* The clock may have been set back: the newest must not look like the oldest. */
        if (l.n > 0 && l.items[0].created_usec >= created_usec)
                created_usec = l.items[0].created_usec + 1;
        if (!o || json_put_string(o, "backup_id", backup_id) < 0 ||
            json_put_u64(o, "created_usec", created_usec) < 0 ||
            json_put(o, "images", json_object_get(images)) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "hot copy");
        file_name(backup_id, name);
        return state_write_json(l.dir, name, o, reterr);
}

static int read_one(Work *w, const char *backup_id, json_object **ret, Failure *reterr) {
        _cleanup_close_ int dir = state_open_dir(w->state_fd, "hot", reterr);
        char name[HOT_NAME_MAX];

        if (dir < 0)
                return dir;
        file_name(backup_id, name);
        return state_read_json(dir, name, ret, reterr);
}

/* ---- use ---- */

int hot_lock(Work *w, bool exclusive, Failure *reterr) {
        _cleanup_close_ int dir = state_open_dir(w->state_fd, "hot", reterr);

        if (dir < 0)
                return dir;
        if (flock(dir, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) < 0)
                return fail_set(reterr, FAIL_BUSY, EBUSY, "hot copies are in use by another job");
        return TAKE_FD(dir);
}

int hot_open(Work *w,
             const char *backup_id,
             const char *service,
             const char *path,
             Snapshot **ret,
             Failure *reterr) {
        _cleanup_json_ json_object *record = NULL;
        _cleanup_(snapshot_freep) Snapshot *s = NULL;
        json_object *best = NULL;
        size_t best_length = 0;
        int r = read_one(w, backup_id, &record, reterr);

        if (r < 0)
                return r;
        /* Volumes may lie in each other: an outer image has an empty stub where the inner one is.
         */
        for (size_t i = 0; i < n_images(record); i++) {
                _cleanup_free_ char *root = NULL;
                json_object *identity;

                if (serves(image_at(record, i), service) &&
                    json_get_object(image_at(record, i), "identity", &identity) >= 0 &&
                    json_get_path(identity, "root", &root) >= 0 && text_path_is_below(path, root) &&
                    strlen(root) > best_length) {
                        best = identity;
                        best_length = strlen(root);
                }
        }
        if (!best)
                return -ENOENT;
        r = snapshot_open(best, &s, reterr);
        if (r >= 0)
                r = snapshot_attach(s, reterr);
        if (r >= 0)
                *ret = TAKE_PTR(s);
        return r;
}

bool hot_covers(Work *w, const char *backup_id, json_object *services) {
        _cleanup_json_ json_object *record = NULL;
        Failure f = FAILURE_INIT;

        if (read_one(w, backup_id, &record, &f) < 0)
                return false;
        for (size_t k = 0; k < json_object_array_length(services); k++) {
                const char *service =
                        json_object_get_string(json_object_array_get_idx(services, k));
                bool found = false;

                for (size_t i = 0; service && !found && i < n_images(record); i++)
                        found = serves(image_at(record, i), service);
                if (!found)
                        return false;
        }
        return true;
}

/* ---- dropping ---- */

/* True if the image is gone, or cannot be believed any more: then it is swept by its name. */
static bool drop_image(json_object *image, const char *backup_id) {
        Failure f = FAILURE_INIT;
        json_object *identity;
        Snapshot *s = NULL;
        int r;

        if (json_get_object(image, "identity", &identity) < 0)
                return true;
        r = snapshot_open(identity, &s, &f);
        if (r >= 0)
                r = snapshot_drop(s, &f);
        if (r >= 0 || f.code == FAIL_SOURCE_MISSING)
                return true;
        /* A class without the right to remove images leaves them to the one that has it. */
        if (r == -EPERM || r == -EACCES)
                log_info("hot copy of backup %s goes with the next backup", backup_id);
        else
                log_warning("hot copy of backup %s is left: %s", backup_id, f.text);
        return f.code == FAIL_INTEGRITY_FAILURE;
}

/*
 * A record of another day may name an image that has been dropped since. Only where it costs a
 * look: an image on LVM would have to be activated for it.
 */
static bool is_gone(json_object *image, const char *backup_id) {
        Failure f = FAILURE_INIT;
        const char *provider;
        json_object *identity;
        Snapshot *s = NULL;

        if (json_get_object(image, "identity", &identity) < 0 ||
            json_get_string(identity, "provider", &provider) < 0)
                return true;
        if (strcmp(provider, "btrfs") != 0)
                return false;
        if (snapshot_open(identity, &s, &f) >= 0)
                snapshot_free(s);
        else if (f.code == FAIL_SOURCE_MISSING) {
                log_notice("hot copy of backup %s is not there any more: %s", backup_id, f.text);
                return true;
        }
        return false;
}

/* Rewrites a record with the images that are left, or removes it with the last one. */
static void save_rest(const HotList *l, const HotRecord *record, json_object *rest) {
        char name[HOT_NAME_MAX];
        Failure f = FAILURE_INIT;
        int r;

        file_name(record->id, name);
        /* Also in memory: the records that come after this one count what is left of it. */
        if (json_put(record->json, "images", json_object_get(rest)) < 0) {
                log_warning("hot copy %s: out of memory", record->id);
                return;
        }
        if (json_object_array_length(rest) == 0) {
                r = fs_unlink_durable(l->dir, name);
                if (r < 0)
                        log_warning("hot copy %s: %s", record->id, strerror(-r));
                return;
        }
        if (state_write_json(l->dir, name, record->json, &f) < 0)
                log_warning("hot copy %s: %s", record->id, f.text);
}

/* How many of the records before `i` have an image for this service. */
static size_t newer_for(const HotList *l, size_t i, const char *service) {
        size_t n = 0;

        for (size_t k = 0; k < i; k++)
                for (size_t m = 0; m < n_images(l->items[k].json); m++)
                        if (serves(image_at(l->items[k].json, m), service)) {
                                n++;
                                break;
                        }
        return n;
}

static bool wanted(const HotList *l, size_t i, json_object *image, size_t keep) {
        json_object *services;

        if (json_get_array(image, "services", &services) < 0)
                return false;
        for (size_t k = 0; k < json_object_array_length(services); k++) {
                const char *s = json_object_get_string(json_object_array_get_idx(services, k));

                if (s && newer_for(l, i, s) < keep)
                        return true;
        }
        return false;
}

/* Of the copies of one backup: how many of each service may be newer for it to stay. */
static size_t keep_for(Work *w, const HotRecord *record) {
        uint64_t now = clock_realtime_usec(), max = w->config->hot_max_age_days * USEC_PER_DAY;
        bool old = record->created_usec < now && now - record->created_usec > max;

        /* The newest is what the next backup starts from, whatever the rules say. */
        return old || w->config->hot_keep == 0 ? 1 : w->config->hot_keep;
}

/* `keep` 0: none of it stays. */
static size_t rotate_record(HotList *l, size_t i, size_t keep) {
        _cleanup_json_ json_object *rest = json_object_new_array();
        size_t dropped = 0;

        for (size_t k = 0; rest && k < n_images(l->items[i].json); k++) {
                json_object *image = image_at(l->items[i].json, k);

                if (wanted(l, i, image, keep) ? is_gone(image, l->items[i].id)
                                              : drop_image(image, l->items[i].id))
                        dropped++;
                else
                        (void) json_object_array_add(rest, json_object_get(image));
        }
        if (rest && (dropped > 0 || n_images(l->items[i].json) == 0))
                save_rest(l, &l->items[i], rest);
        return dropped;
}

static size_t drop_sharing(HotList *l, size_t i, const Volume *v) {
        _cleanup_json_ json_object *rest = json_object_new_array();
        size_t dropped = 0;

        for (size_t k = 0; rest && k < n_images(l->items[i].json); k++) {
                json_object *image = image_at(l->items[i].json, k), *identity;

                if (json_get_object(image, "identity", &identity) >= 0 &&
                    snapshot_shares_room(identity, v) && drop_image(image, l->items[i].id))
                        dropped++;
                else
                        (void) json_object_array_add(rest, json_object_get(image));
        }
        if (rest && dropped > 0)
                save_rest(l, &l->items[i], rest);
        return dropped;
}

size_t hot_make_room(Work *w, const Volume *v, const HotKeeper *keeper) {
        _cleanup_(hot_list_done) HotList l = { .dir = -1 };
        _cleanup_close_ int lock = -1;
        Failure f = FAILURE_INIT;
        size_t n = 0;

        lock = hot_lock(w, true, &f);
        if (lock < 0 || load_all(w, false, &l, &f) < 0)
                return 0; /* what has no room is told all the same */
        for (size_t i = 0; i < l.n; i++) {
                size_t dropped = drop_sharing(&l, i, v);

                if (dropped > 0)
                        keeper->dropped(keeper->userdata, l.items[i].id);
                n += dropped;
        }
        if (n > 0)
                log_notice("%zu hot copies dropped: their thin pool is too full for a snapshot", n);
        return n;
}

bool hot_may_make_room(Work *w, const Volume *v) {
        _cleanup_(hot_list_done) HotList l = { .dir = -1 };
        Failure f = FAILURE_INIT;
        bool found = false;

        if (load_all(w, false, &l, &f) < 0)
                return false;
        for (size_t i = 0; i < l.n; i++)
                for (size_t k = 0; k < n_images(l.items[i].json); k++) {
                        json_object *identity;

                        found |= json_get_object(image_at(l.items[i].json, k), "identity",
                                                 &identity) >= 0 &&
                                 snapshot_shares_room(identity, v);
                }
        return found;
}

/* "hot.BACKUP-ID.N" of a run that ended before it wrote its record. */
static bool is_leftover(const HotList *l, const char *name) {
        char id[UUID_TEXT_MAX];

        if (strncmp(name, HOT_PREFIX, strlen(HOT_PREFIX)) != 0 || strlen(name) < 4 + 36 + 2 ||
            name[40] != '.')
                return false;
        (void) snprintf(id, sizeof(id), "%.36s", name + 4);
        for (size_t i = 0; i < l->n; i++)
                if (strcmp(l->items[i].id, id) == 0)
                        return false;
        return text_is_uuid(id);
}

static void tell_removed(const char *name) {
        log_message(MESSAGE_LEFTOVER_SWEPT, NULL, "removed %s, left by a run that did not end",
                    name);
}

static size_t sweep_area(const HotList *l, int area) {
        _cleanup_dir_ DIR *d = NULL;
        Failure f = FAILURE_INIT;
        struct dirent *e;
        size_t n = 0;
        int copy = area < 0 ? area : fs_open_dir(area, ".");

        d = copy < 0 ? NULL : fdopendir(copy);
        while (d && (e = readdir(d))) {
                if (!is_leftover(l, e->d_name))
                        continue;
                f = FAILURE_INIT;
                if (tree_remove(area, e->d_name, NULL, NULL, &f) < 0)
                        log_warning("leftover %s: %s", e->d_name, f.text);
                else {
                        tell_removed(e->d_name);
                        n++;
                }
        }
        return n;
}

static void tell_swept(void *userdata, const char *name, const Failure *why) {
        if (why)
                log_warning("leftover %s: %s", name, why->text);
        else
                tell_removed(name);
}

/* Whether a configured path lies in LVM, in this volume group or in any (NULL). */
static bool uses_lvm(const Config *c, const char *vg_uuid) {
        for (size_t i = 0; i < c->n_services; i++)
                for (size_t k = 0; k < c->services[i].paths.n; k++)
                        if (snapshot_is_lvm(c->services[i].paths.items[k], vg_uuid))
                                return true;
        return false;
}

typedef struct LvmSweep {
        const Config *config;
        HotList list;
} LvmSweep;

static bool is_our_group(void *userdata, const char *vg_uuid) {
        return uses_lvm(((LvmSweep *) userdata)->config, vg_uuid);
}

static bool is_leftover_of(void *userdata, const char *name) {
        return is_leftover(&((LvmSweep *) userdata)->list, name);
}

size_t hot_sweep_lvm(Work *w) {
        LvmSweep ours = { .config = w->config, .list = { .dir = -1 } };
        SnapshotSweep sweep = { .is_ours = is_our_group,
                                .is_leftover = is_leftover_of,
                                .told = tell_swept,
                                .userdata = &ours };
        _cleanup_close_ int lock = -1;
        Failure f = FAILURE_INIT;
        int n;

        if (!uses_lvm(w->config, NULL))
                return 0;
        lock = hot_lock(w, true, &f);
        n = lock < 0 ? lock : load_all(w, false, &ours.list, &f);
        if (n >= 0)
                n = snapshot_sweep_lvm(&sweep, &f);
        hot_list_done(&ours.list);
        if (n < 0)
                log_warning("LVM snapshots that runs may have left are not looked for: %s", f.text);
        return n < 0 ? 0 : (size_t) n;
}

/* The areas that runs may have used: of each configured path, and of the volumes that hold them. */
static size_t sweep_leftovers(Work *w, const HotList *l) {
        size_t n = 0;

        for (size_t i = 0; i < w->config->n_services; i++) {
                const ConfigService *c = &w->config->services[i];

                for (size_t k = 0; k < c->paths.n; k++) {
                        _cleanup_close_ int area = -1;
                        _cleanup_(volume_freep) Volume *v = NULL;
                        Failure f = FAILURE_INIT;

                        area = area_open(c->paths.items[k], false, NULL, NULL, &f);
                        n += sweep_area(l, area);
                        f = FAILURE_INIT;
                        if (volume_find(c->paths.items[k], SNAPSHOT_BTRFS, &v, &f) >= 0)
                                n += sweep_area(l, volume_area_fd(v));
                }
        }
        return n;
}

size_t hot_rotate(Work *w, const HotKeeper *keeper) {
        _cleanup_(hot_list_done) HotList l = { .dir = -1 };
        _cleanup_close_ int lock = -1;
        Failure f = FAILURE_INIT;
        size_t n = 0;

        lock = hot_lock(w, true, &f);
        if (lock < 0 || load_all(w, true, &l, &f) < 0) {
                log_warning("hot copies are not rotated: %s", f.text);
                return 0;
        }
        for (size_t i = 0; i < l.n; i++) {
                bool exists = keeper->exists(keeper->userdata, l.items[i].id);
                size_t dropped = rotate_record(&l, i, exists ? keep_for(w, &l.items[i]) : 0);

                if (exists && dropped > 0)
                        keeper->dropped(keeper->userdata, l.items[i].id);
                n += dropped;
        }
        return n + sweep_leftovers(w, &l);
}

void hot_drop(Work *w, const char *backup_id) {
        _cleanup_(hot_list_done) HotList l = { .dir = -1 };
        _cleanup_close_ int lock = -1;
        Failure f = FAILURE_INIT;

        lock = hot_lock(w, true, &f);
        if (lock < 0 || load_all(w, false, &l, &f) < 0) {
                log_warning("hot copies of %s stay: %s", backup_id, f.text);
                return;
        }
        for (size_t i = 0; i < l.n; i++)
                if (strcmp(backup_id, l.items[i].id) == 0)
                        (void) rotate_record(&l, i, 0);
}

int hot_remove_inside(int dirfd, const char *tree, Failure *reterr) {
        _cleanup_close_ int root = fs_open_dir(dirfd, tree);
        _cleanup_close_ int area = root < 0 ? -1 : fs_open_dir(root, HP_AREA_NAME);
        int copy = area < 0 ? area : fs_open_dir(area, ".");
        _cleanup_dir_ DIR *d = copy < 0 ? NULL : fdopendir(copy);
        struct dirent *e;
        int r = 0;

        while (d && r >= 0 && (e = readdir(d)))
                if (strncmp(e->d_name, HOT_PREFIX, strlen(HOT_PREFIX)) == 0)
                        r = tree_remove(area, e->d_name, NULL, NULL, reterr);
        return r;
}
