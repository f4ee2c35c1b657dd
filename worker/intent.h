#pragma once

/*
 * Intents: what a restore is doing, durable, in root's own state, so that after any crash the
 * targets can be made all old or all new. One file intents/RESTORE-ID.json per restore, which stays
 * as its history.
 *
 * A restore holds two trees for each path: one is at the target, the other in the area under
 * `stage`. "New" is the tree that was restored. Which one is where is read from identities on disk,
 * never from the last step that was logged.
 */

#include "snapshot/mounted.h"
#include "snapshot/snapshot.h"
#include "worker/work.h"

typedef enum IntentState {
        INTENT_STAGING,     /* trees are being prepared aside; the targets are untouched */
        INTENT_SWAPPING,    /* exchanges are under way towards `want_new` */
        INTENT_ACTIVE,      /* the new trees are live, the old ones kept */
        INTENT_ROLLED_BACK, /* the old trees are live, the new ones kept */
        INTENT_CONFIRMING,  /* the kept trees are being removed */
        INTENT_CONFIRMED,
        INTENT_FAILED, /* nothing was swapped, nothing is kept */
} IntentState;

typedef struct IntentPath {
        char *service, *path;  /* the live path */
        char *root;            /* the Path= that it is or lies below: where `excludes` begin */
        char *stage;           /* name in the area */
        Mounted *mount;        /* it is a mounted subvolume; NULL: it is none */
        bool side;             /* stands beside a database, and comes and goes as that is used */
        TreeId old_id, new_id; /* TREE_ABSENT: that side has nothing here */
        char **moves; /* excluded paths carried over by rename in the swap under way, relative */
        size_t n_moves;
        char **excludes; /* the rules in force when it was staged */
        size_t n_excludes;
} IntentPath;

/* Stands for all units of the services of a restore, in the order of the configuration. */
typedef struct IntentUnit {
        char *name;  /* systemd's own, no alias */
        bool active; /* before the swap: these alone are started again */
} IntentUnit;

typedef struct Intent {
        char restore_id[40], backup_id[40];
        char from[8];              /* "hot" or "local" */
        char method[16];           /* "subvolume" "directory" "files" */
        json_object *services;     /* names */
        IntentState state, before; /* `before`: the state to fall back to from SWAPPING */
        bool want_new;
        uint64_t created_usec, completed_usec, units_down_usec, swap_usec;
        char *error; /* INTENT_FAILED: why */
        IntentPath *paths;
        size_t n_paths;

        IntentUnit *units;
        size_t n_units;
        bool held;                /* the units are, or may be, kept from starting */
        uint64_t down_since_usec; /* monotonic, of this boot; 0: nothing was running */
        bool reverting;           /* the units failed on what was brought: it goes back… */
        IntentState back_to;      /* …to this state, STAGING: to what was before the restore */
} Intent;

#define INTENT_INIT ((Intent){ .state = INTENT_STAGING })

void intent_done(Intent *i);

/* One more path, `root` itself or below it; its strings are copied. */
int intent_add_path(Intent *i,
                    const char *service,
                    const char *root,
                    const char *path,
                    IntentPath **ret);
int intent_add_move(IntentPath *p, const char *relative);

/* One more unit, its name copied; one that is there already is left alone. */
int intent_add_unit(Intent *i, const char *name, bool active);
void intent_clear_units(Intent *i);

/* Writes it, durable on return. */
int intent_save(Work *w, const Intent *i, Failure *reterr);

/* Nothing is known of it any more. */
int intent_forget(Work *w, const char *restore_id, Failure *reterr);

/* FAIL_NO_SUCH_RESTORE, FAIL_INTEGRITY_FAILURE. */
int intent_load(Work *w, const char *restore_id, Intent *ret, Failure *reterr);

/* Calls for each intent there is, oldest first; a damaged one is logged and left alone. */
int intent_for_each(Work *w,
                    int (*on_intent)(void *userdata, Intent *intent, Failure *reterr),
                    void *userdata,
                    Failure *reterr);

/*
 * Makes `i` the newest of all. FAIL_NOT_RESTORABLE while another restore of one of its services
 * could be neither finished nor undone: a mix may be live, and a further swap would hide that.
 */
int intent_begin(Work *w, Intent *i, Failure *reterr);

/* The row for D-Bus: restore_id backup_id services state created_at completed_at …. Owned. */
json_object *intent_row(const Intent *i);

/*
 * True when what `i` brought is not live because of a newer restore of one of its services: one
 * that neither failed nor was rolled back.
 */
bool intent_is_superseded(Work *w, const Intent *i);

/*
 * The newest other restore of one of its services that still keeps what it replaced, or brought in
 * vain; false if there is none. `ret_id` takes 40 bytes.
 */
bool intent_find_keeper(Work *w, const Intent *i, char ret_id[40]);

/*
 * FAIL_BUSY while a swap of this service stands half done: what is live may be a mix, and must not
 * become a backup. Needs the service's lock, so that no worker is in the middle of it.
 */
int intent_check_settled(Work *w, const char *service, Failure *reterr);

/*
 * Finishes or undoes every intent that a crash left in the middle, taking the locks of its
 * services; one whose services are locked by a running worker is left to it. What fits neither the
 * old nor the new picture is not touched and makes it fail (an alarm in the journal).
 */
int intent_recover_all(Work *w, Failure *reterr);
