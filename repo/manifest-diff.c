/*
 * Two cursors side by side. Where both stand between blocks and the next ones have one id, all the
 * entries in them are equal and neither is read: cuts depend on the entries themselves, so the two
 * fall into step again soon after each difference.
 */

#include <errno.h>
#include <string.h>

#include "repo/manifest.h"

typedef struct Side {
        RepoManifest *manifest;
        const Entry *entry; /* the one that is compared next; NULL: none was taken yet */
        bool ended;
} Side;

typedef struct Diff {
        Side before, after;
        const char *service;
        uint64_t entries;
        int (*on_difference)(void *userdata, const RepoDifference *d, Failure *reterr);
        int (*on_progress)(void *userdata, uint64_t entries, Failure *reterr);
        void *userdata;
} Diff;

/* ---- one entry on both sides ---- */

static bool text_differs(const char *a, const char *b) {
        return strcmp(a ? a : "", b ? b : "") != 0;
}

static bool content_differs(const Entry *a, const Entry *b) {
        if (a->type != b->type || a->size != b->size || text_differs(a->target, b->target) ||
            a->major != b->major || a->minor != b->minor)
                return true;
        return a->size > 0 && (a->class != b->class || a->content_size != b->content_size ||
                               memcmp(a->content, b->content, a->content_size) != 0);
}

static bool xattrs_differ(const Entry *a, const Entry *b) {
        if (a->n_xattrs != b->n_xattrs)
                return true;
        for (size_t i = 0; i < a->n_xattrs; i++) {
                const EntryXattr *x = &a->xattrs[i], *y = &b->xattrs[i];

                if (strcmp(x->name, y->name) != 0 || x->size != y->size ||
                    (x->size > 0 && memcmp(x->value, y->value, x->size) != 0))
                        return true;
        }
        return false;
}

static bool metadata_differs(const Entry *a, const Entry *b) {
        return a->mode != b->mode || a->uid != b->uid || a->gid != b->gid ||
               a->mtime_sec != b->mtime_sec || a->mtime_nsec != b->mtime_nsec ||
               a->flags != b->flags || xattrs_differ(a, b);
}

/* ---- the cursors ---- */

static int tell_progress(Diff *d, uint64_t entries, Failure *reterr) {
        d->entries += entries;
        return d->on_progress ? d->on_progress(d->userdata, d->entries, reterr) : 0;
}

/* Takes the next entry of a side; what comes after the wanted service is as good as the end. */
static int take(Diff *d, Side *s, Failure *reterr) {
        int r = repo_manifest_next(s->manifest, &s->entry, reterr);

        if (r < 0)
                return r;
        if (r == 0 || (d->service && strcmp(s->entry->service, d->service) > 0)) {
                s->entry = NULL;
                s->ended = true;
        }
        return 0;
}

static bool is_between_blocks(const Side *s) {
        return !s->entry && !s->ended && manifest_at_block(s->manifest);
}

/* Passes over the next block of both if it is the same one. 1 if it was, 0, negative errno. */
static int skip_equal(Diff *d, Failure *reterr) {
        const ManifestBlock *a, *b;
        int r;

        if (!is_between_blocks(&d->before) || !is_between_blocks(&d->after))
                return 0;
        r = manifest_peek_block(d->before.manifest, &a, reterr);
        if (r > 0)
                r = manifest_peek_block(d->after.manifest, &b, reterr);
        if (r <= 0)
                return r;
        if (d->service && strcmp(a->key.service, d->service) > 0)
                return 0;
        if (!crypto_equal(a->id, b->id, ID_SIZE))
                return 0;
        r = tell_progress(d, 2 * (uint64_t) a->n_entries, reterr);
        manifest_skip_block(d->before.manifest);
        manifest_skip_block(d->after.manifest);
        return r < 0 ? r : 1;
}

/*
 * Takes an entry on a side that has none, unless the other side's entry comes before the block that
 * would have to be entered for it: that block may still be passed over.
 */
static int fill(Diff *d, Side *s, const Side *other, Failure *reterr) {
        const ManifestBlock *next;
        int r;

        if (s->entry || s->ended)
                return 0;
        if (other->entry && manifest_at_block(s->manifest)) {
                r = manifest_peek_block(s->manifest, &next, reterr);
                if (r < 0 || (r > 0 && manifest_compare(other->entry, &next->key) < 0))
                        return r < 0 ? r : 0;
        }
        return take(d, s, reterr);
}

/* ---- together ---- */

static int tell(Diff *d, int order, Failure *reterr) {
        RepoDifference x = { .before = order <= 0 ? d->before.entry : NULL,
                             .after = order >= 0 ? d->after.entry : NULL };
        int r = 0;

        if (order == 0) {
                x.content = content_differs(x.before, x.after);
                x.metadata = metadata_differs(x.before, x.after);
        }
        if (order != 0 || x.content || x.metadata)
                r = d->on_difference(d->userdata, &x, reterr);
        if (order <= 0)
                d->before.entry = NULL;
        if (order >= 0)
                d->after.entry = NULL;
        return r < 0 ? r : tell_progress(d, order == 0 ? 2 : 1, reterr);
}

/* 1 if there is more to do, 0 at the end, negative errno. */
static int step_once(Diff *d, Failure *reterr) {
        const Entry *a, *b;
        int r = skip_equal(d, reterr);

        if (r != 0)
                return r;
        r = fill(d, &d->before, &d->after, reterr);
        if (r >= 0)
                r = fill(d, &d->after, &d->before, reterr);
        if (r < 0)
                return r;
        a = d->before.entry;
        b = d->after.entry;
        if (!a && !b)
                return 0;
        r = tell(d, !a ? 1 : !b ? -1 : manifest_compare(a, b), reterr);
        return r < 0 ? r : 1;
}

int repo_manifest_diff(RepoManifest *before,
                       RepoManifest *after,
                       const char *service,
                       int (*on_difference)(void *userdata,
                                            const RepoDifference *d,
                                            Failure *reterr),
                       int (*on_progress)(void *userdata, uint64_t entries, Failure *reterr),
                       void *userdata,
                       Failure *reterr) {
        Diff d = {
                .before = { .manifest = before },
                .after = { .manifest = after },
                .service = service,
                .on_difference = on_difference,
                .on_progress = on_progress,
                .userdata = userdata,
        };
        int r = repo_manifest_seek(before, service, NULL, reterr);

        if (r >= 0)
                r = repo_manifest_seek(after, service, NULL, reterr);
        while (r >= 0 && (r = step_once(&d, reterr)) > 0)
                ;
        return r;
}
