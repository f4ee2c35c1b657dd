#include "worker/dir-order.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WAITING_MAX                                                                                \
        ((size_t) 1 << 20) /* bytes of directories that wait, of all levels together               \
                            */

/* A directory on the way to the current one, with those of its directories that still come. */
typedef struct Level {
        size_t length; /* of its path, a prefix of the order's; 0: "/" */
        Buf waiting;   /* encoded entries */
        size_t at;     /* the first that waits */
        char *more;    /* the name of the first that did not fit; NULL: all are here */
} Level;

struct DirOrder {
        RepoManifest *again;
        int (*on_entry)(void *userdata, const Entry *entry, Failure *reterr);
        void *userdata;
        char *service;
        Buf path; /* of the current directory, NUL-terminated; "" for "/" */
        Level *levels;
        size_t n_levels, allocated;
        size_t waiting; /* bytes in all of them */
        EntryXattr xattrs[ENTRY_XATTRS_MAX];
};

int dir_order_new(RepoManifest *again,
                  int (*on_entry)(void *userdata, const Entry *entry, Failure *reterr),
                  void *userdata,
                  DirOrder **ret,
                  Failure *reterr) {
        DirOrder *o = calloc(1, sizeof(*o));

        if (!o)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "directories");
        o->again = again;
        o->on_entry = on_entry;
        o->userdata = userdata;
        *ret = o;
        return 0;
}

static void pop_level(DirOrder *o) {
        Level *l = &o->levels[--o->n_levels];

        o->waiting -= l->waiting.size;
        buf_done(&l->waiting);
        free(l->more);
}

void dir_order_free(DirOrder *o) {
        if (!o)
                return;
        while (o->n_levels > 0)
                pop_level(o);
        free(o->levels);
        free(o->service);
        buf_done(&o->path);
        free(o);
}

static int failed(int r, Failure *reterr) {
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "directories") : 0;
}

static const char *current_path(const DirOrder *o) {
        return o->path.size > 0 ? (const char *) o->path.data : "";
}

/* "/" is the only path that ends in a slash: here it is "". */
static const char *plain_path(const char *dir) {
        return dir[1] ? dir : "";
}

/* ---- waiting ---- */

/* Keeps a directory for later, or only its name if there is no room. */
static int wait_for(DirOrder *o, Level *l, const Entry *e, bool always, Failure *reterr) {
        size_t before = l->waiting.size;
        int r;

        if (l->more)
                return 0;
        if (o->waiting >= WAITING_MAX && !always) {
                l->more = strdup(e->name);
                return l->more ? 0 : failed(-ENOMEM, reterr);
        }
        r = entry_encode(&l->waiting, e);
        o->waiting += l->waiting.size - before;
        return failed(r, reterr);
}

static void forget_waiting(DirOrder *o, Level *l) {
        o->waiting -= l->waiting.size;
        buf_clear(&l->waiting);
        l->at = 0;
}

/* Reads on where there was no room. At least one is taken. */
static int refill(DirOrder *o, Level *l, const char *dir, Failure *reterr) {
        _cleanup_free_ char *from = TAKE_PTR(l->more);
        const Entry *e;
        bool always = true;
        int r;

        forget_waiting(o, l);
        r = repo_manifest_find(o->again, o->service, dir, from, &e, reterr);
        if (r == 0)
                return fail_set(reterr, FAIL_INTERNAL, ENOENT,
                                "a directory that was there is gone");
        while (r > 0 && !l->more && strcmp(e->service, o->service) == 0 &&
               strcmp(e->dir, dir) == 0) {
                r = e->type == ENTRY_DIRECTORY ? wait_for(o, l, e, always, reterr) : 0;
                if (r < 0)
                        return r;
                always = always && e->type != ENTRY_DIRECTORY;
                r = repo_manifest_next(o->again, &e, reterr);
        }
        return r < 0 ? r : 0;
}

/* Hands out the directories of a level up to `name` (NULL: all). */
static int hand_out(DirOrder *o, size_t level, const char *name, Failure *reterr) {
        Level *l = &o->levels[level];
        _cleanup_free_ char *dir = strndup(current_path(o), l->length);
        int r;

        if (!dir)
                return failed(-ENOMEM, reterr);
        for (;;) {
                const char *where = *dir ? dir : "/";
                Reader from;
                Entry e;

                if (l->at == l->waiting.size && l->more) {
                        r = refill(o, l, where, reterr);
                        if (r < 0)
                                return r;
                }
                if (l->at == l->waiting.size) {
                        forget_waiting(o, l);
                        return 0;
                }
                from = READER_INIT(l->waiting.data + l->at, l->waiting.size - l->at);
                r = entry_decode(&from, &e, o->xattrs);
                if (r < 0)
                        return failed(r, reterr);
                if (name && strcmp(e.name, name) > 0)
                        return 0;
                l->at = (size_t) (from.p - l->waiting.data);
                e.service = o->service;
                e.dir = where;
                r = o->on_entry(o->userdata, &e, reterr);
                if (r < 0)
                        return r;
        }
}

/* ---- levels ---- */

static int push_level(DirOrder *o, const char *path, size_t length, Failure *reterr) {
        int r;

        if (o->n_levels == o->allocated) {
                size_t n = o->allocated * 2 + 16;
                Level *grown = realloc(o->levels, n * sizeof(*grown));

                if (!grown)
                        return failed(-ENOMEM, reterr);
                o->levels = grown;
                o->allocated = n;
        }
        buf_clear(&o->path);
        r = buf_put(&o->path, path, length);
        if (r >= 0)
                r = buf_put_u8(&o->path, 0);
        if (r >= 0)
                o->levels[o->n_levels++] = (Level){ .length = length };
        return failed(r, reterr);
}

/* True if `path` is the directory of a level, or below it. */
static bool is_in(const DirOrder *o, const Level *l, const char *path) {
        return strncmp(current_path(o), path, l->length) == 0 &&
               (path[l->length] == 0 || path[l->length] == '/');
}

static int leave(DirOrder *o, Failure *reterr) {
        int r = hand_out(o, o->n_levels - 1, NULL, reterr);

        if (r < 0)
                return r;
        pop_level(o);
        o->path.size = o->n_levels > 0 ? o->levels[o->n_levels - 1].length : 0;
        return failed(buf_put_u8(&o->path, 0), reterr);
}

/* One component further down on the way to `path`: what comes before it, and it, are handed out. */
static int descend(DirOrder *o, const char *path, Failure *reterr) {
        size_t length = o->levels[o->n_levels - 1].length;
        const char *name = path + length + 1;
        _cleanup_free_ char *component = strndup(name, strcspn(name, "/"));
        int r;

        if (!component)
                return failed(-ENOMEM, reterr);
        r = hand_out(o, o->n_levels - 1, component, reterr);
        return r < 0 ? r : push_level(o, path, length + 1 + strlen(component), reterr);
}

static int enter(DirOrder *o, const char *path, Failure *reterr) {
        int r = 0;

        while (r >= 0 && o->n_levels > 0 && !is_in(o, &o->levels[o->n_levels - 1], path))
                r = leave(o, reterr);
        if (r >= 0 && o->n_levels == 0)
                return push_level(o, path, strlen(path), reterr);
        while (r >= 0 && o->levels[o->n_levels - 1].length < strlen(path))
                r = descend(o, path, reterr);
        return r;
}

int dir_order_finish(DirOrder *o, Failure *reterr) {
        int r = 0;

        while (r >= 0 && o->n_levels > 0)
                r = leave(o, reterr);
        return r;
}

static int change_service(DirOrder *o, const char *service, Failure *reterr) {
        int r = dir_order_finish(o, reterr);

        if (r < 0)
                return r;
        free(o->service);
        o->service = strdup(service);
        return o->service ? 0 : failed(-ENOMEM, reterr);
}

int dir_order_put(DirOrder *o, const Entry *e, Failure *reterr) {
        const char *path = plain_path(e->dir);
        int r = 0;

        if (!o->service || strcmp(o->service, e->service) != 0)
                r = change_service(o, e->service, reterr);
        if (r >= 0 && (o->n_levels == 0 || strcmp(current_path(o), path) != 0))
                r = enter(o, path, reterr);
        if (r < 0)
                return r;
        return e->type == ENTRY_DIRECTORY
                       ? wait_for(o, &o->levels[o->n_levels - 1], e, false, reterr)
                       : o->on_entry(o->userdata, e, reterr);
}
