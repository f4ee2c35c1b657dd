/*
 * Entries reach the manifest in the order they came, and only when their last chunk has an id. The
 * queue is touched by the session's own thread alone: buffers retire there too.
 */

#include <errno.h>
#include <stdlib.h>

#include "repo/session.h"

static size_t pending_size(const Entry *e) {
        size_t n = strlen(e->service) + strlen(e->dir) + strlen(e->name) + 3;

        if (e->target)
                n += strlen(e->target) + 1;
        for (size_t i = 0; i < e->n_xattrs; i++)
                n += strlen(e->xattrs[i].name) + 1 + e->xattrs[i].size;
        return n + e->n_xattrs * sizeof(EntryXattr);
}

static void *pending_copy(char **at, const void *data, size_t n) {
        char *p = *at;

        if (n > 0)
                memcpy(p, data, n);
        *at += n;
        return p;
}

static const char *pending_copy_string(char **at, const char *s) {
        return s ? pending_copy(at, s, strlen(s) + 1) : NULL;
}

int pending_new(const Entry *entry, const EntryLocal *local, Pending **ret) {
        _cleanup_(pending_freep) Pending *p = calloc(1, sizeof(*p));
        size_t n = pending_size(entry);
        EntryXattr *xattrs;
        char *at;

        if (!p)
                return -ENOMEM;
        p->store = malloc(n);
        if (!p->store)
                return -ENOMEM;
        p->cost = sizeof(*p) + n;
        p->entry = *entry;
        if (local)
                p->local = *local;
        p->entry.content = NULL;
        p->entry.content_size = 0;

        xattrs = p->store; /* first, where it is aligned */
        at = (char *) (xattrs + entry->n_xattrs);
        for (size_t i = 0; i < entry->n_xattrs; i++) {
                const EntryXattr *x = &entry->xattrs[i];

                xattrs[i].size = x->size;
                xattrs[i].name = pending_copy_string(&at, x->name);
                xattrs[i].value = pending_copy(&at, x->value, x->size);
        }
        p->entry.xattrs = xattrs;
        p->entry.service = pending_copy_string(&at, entry->service);
        p->entry.dir = pending_copy_string(&at, entry->dir);
        p->entry.name = pending_copy_string(&at, entry->name);
        p->entry.target = pending_copy_string(&at, entry->target);
        *ret = TAKE_PTR(p);
        return 0;
}

void pending_free(Pending *p) {
        if (!p)
                return;
        content_writer_done(&p->chunks);
        buf_done(&p->content);
        free(p->store);
        free(p);
}

void session_enqueue(RepoSession *s, Pending *p) {
        if (s->last)
                s->last->next = p;
        else
                s->first = p;
        s->last = p;
        s->n_pending++;
        s->pending_cost += p->cost;
}

int session_emit(RepoSession *s, const Entry *entry, const EntryLocal *local, Failure *reterr) {
        static const EntryLocal none = { 0 };
        int r;

        r = manifest_writer_add(s->manifest, entry, reterr);
        if (r < 0)
                return r;
        s->totals.entries++;
        if (entry->type == ENTRY_FILE)
                s->totals.bytes += entry->size;
        if (!s->params.on_entry)
                return 0;
        r = s->params.on_entry(s->params.userdata, entry, local ? local : &none, reterr);
        return r < 0 ? r : 0;
}

/* The list of chunks of an entry whose last unit has come back. */
static int pending_finish(RepoSession *s, Pending *p, Failure *reterr) {
        int r = 0;

        if (p->entry.type != ENTRY_FILE || p->entry.size == 0)
                return 0;
        if (!p->given)
                r = content_finish(&p->chunks, &s->sink, &p->content, reterr);
        p->entry.content = p->content.data;
        p->entry.content_size = p->content.size;
        return r;
}

int session_drain_queue(RepoSession *s, Failure *reterr) {
        while (s->first && !s->first->open && s->first->in_flight == 0) {
                Pending *p = s->first;
                int r = 0;

                if (!p->dropped) {
                        r = pending_finish(s, p, reterr);
                        if (r == 0)
                                r = session_emit(s, &p->entry, &p->local, reterr);
                }
                s->first = p->next;
                if (!s->first)
                        s->last = NULL;
                s->n_pending--;
                s->pending_cost -= p->cost;
                pending_free(p);
                if (r < 0)
                        return r;
        }
        return 0;
}

int session_retire(RepoSession *s, PipeBuffer *buffer, Failure *reterr) {
        for (size_t i = 0; i < buffer->n_units; i++) {
                const PipeUnit *u = &buffer->units[i];
                Pending *p = u->owner;
                int r = 0;

                p->in_flight--;
                if (p->dropped)
                        continue;
                if (u->size > 0)
                        r = content_add_data(&p->chunks, &s->sink, u->id, reterr);
                else
                        r = content_add_run(&p->chunks, &s->sink, u->mark, u->count, reterr);
                if (r < 0)
                        return r;
        }
        return session_drain_queue(s, reterr);
}
