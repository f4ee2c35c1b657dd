#pragma once

/*
 * One root of a walk at a time; arc-walk.c puts several in order.
 */

#include "archive/arc-links.h"
#include "archive/arc.h"

typedef struct ArcTree ArcTree;

int arc_tree_new(const ArcSink *sink, ArcTree **ret, Failure *reterr);
void arc_tree_free(ArcTree *t);

/* Hands out the root itself as `name` of `dir`. 1: a directory that may be read; 0; negative to
 * stop. */
int arc_tree_root(ArcTree *t,
                  const ArcRoot *root,
                  const char *dir,
                  const char *name,
                  Failure *reterr);

/* Hands out all below a root that is a directory. 0, or negative to stop. */
int arc_tree_below(ArcTree *t, const ArcRoot *root, Failure *reterr);

/* Another service begins: no links across. */
void arc_tree_forget(ArcTree *t);
