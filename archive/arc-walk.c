/*
 * Several roots in one order. Each root has two turns: it is handed out as a child of its parent
 * directory, and what is below it is read. Sorted by (service, directory), the first kind falls
 * exactly where the run of the parent would be, so /x/b and /x/b-c both come before anything in
 * /x/b.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "archive/arc-internal.h"
#include "archive/arc-tree.h"
#include "base/cleanup.h"
#include "base/text.h"

typedef struct Root {
        const ArcRoot *root;
        char *dir; /* its parent */
        const char *name;
        bool enter; /* it was handed out and is a directory */
} Root;

typedef struct Turn {
        Root *root;
        bool below;
} Turn;

typedef struct Walk {
        Root *roots;
        size_t n_roots;
        Turn *turns;
        size_t n_turns;
        ArcTree *tree;
} Walk;

static void walk_done(Walk *w) {
        for (size_t i = 0; i < w->n_roots; i++)
                free(w->roots[i].dir);
        free(w->roots);
        free(w->turns);
        arc_tree_free(w->tree);
}

static const char *turn_dir(const Turn *t) {
        return t->below ? t->root->root->path : t->root->dir;
}

static int turn_compare(const void *a, const void *b) {
        const Turn *x = a, *y = b;
        int r = strcmp(x->root->root->service, y->root->root->service);

        if (r == 0)
                r = text_path_compare(turn_dir(x), turn_dir(y));
        return r != 0 ? r : strcmp(x->root->name, y->root->name);
}

static int root_init(Root *ret, const ArcRoot *root, Failure *reterr) {
        const char *slash = strrchr(root->path, '/');
        char shown[ARC_SHOWN_MAX];

        if (!text_is_clean_path(root->path) || slash[1] == 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "'%s' cannot be the Path of a service",
                                arc_show(root->path, shown));
        *ret = (Root){
                .root = root,
                .name = slash + 1,
                .dir = slash == root->path ? strdup("/")
                                           : strndup(root->path, (size_t) (slash - root->path)),
        };
        return ret->dir ? 0 : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "reading a tree");
}

/* In order, a root that overlaps others is next to one of them. */
static int check_overlap(const Walk *w, Failure *reterr) {
        char shown[ARC_SHOWN_MAX];
        const ArcRoot *last = NULL;

        for (size_t i = 0; i < w->n_turns; i++) {
                const ArcRoot *root = w->turns[i].root->root;

                if (!w->turns[i].below)
                        continue;
                if (last && strcmp(last->service, root->service) == 0 &&
                    text_path_is_below(root->path, last->path))
                        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                        "'%s' is given twice", arc_show(root->path, shown));
                last = root;
        }
        return 0;
}

static int
walk_init(Walk *w, const ArcRoot *roots, size_t n, const ArcSink *sink, Failure *reterr) {
        int r;

        w->roots = calloc(n ? n : 1, sizeof(*w->roots));
        w->turns = calloc(n ? 2 * n : 1, sizeof(*w->turns));
        if (!w->roots || !w->turns)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "reading a tree");
        for (; w->n_roots < n; w->n_roots++) {
                Root *root = &w->roots[w->n_roots];

                r = root_init(root, &roots[w->n_roots], reterr);
                if (r < 0)
                        return r;
                w->turns[w->n_turns++] = (Turn){ .root = root };
                w->turns[w->n_turns++] = (Turn){ .root = root, .below = true };
        }
        qsort(w->turns, w->n_turns, sizeof(*w->turns), turn_compare);
        r = check_overlap(w, reterr);
        return r < 0 ? r : arc_tree_new(sink, &w->tree, reterr);
}

int arc_walk(const ArcRoot *roots, size_t n, const ArcSink *sink, Failure *reterr) {
        _cleanup_(walk_done) Walk w = { 0 };
        const char *service = NULL;
        int r;

        r = walk_init(&w, roots, n, sink, reterr);
        for (size_t i = 0; r >= 0 && i < w.n_turns; i++) {
                Root *root = w.turns[i].root;

                if (service && strcmp(service, root->root->service) != 0)
                        arc_tree_forget(w.tree);
                service = root->root->service;
                if (!w.turns[i].below) {
                        r = arc_tree_root(w.tree, root->root, root->dir, root->name, reterr);
                        root->enter = r > 0;
                } else if (root->enter) {
                        r = arc_tree_below(w.tree, root->root, reterr);
                }
        }
        return r < 0 ? r : 0;
}
