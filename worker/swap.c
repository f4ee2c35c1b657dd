/*
 * The hardest invariant: at every moment either the intent says STAGING/ACTIVE/ROLLED_BACK and all
 * targets are as that state says, or it says SWAPPING and identities on disk tell for each path
 * which of two trees is live. The intent is durable before the first rename, and each rename is
 * durable before the intent says that it is done.
 */

#include "worker/swap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/step.h"
#include "base/text.h"
#include "worker/carry.h"
#include "worker/hot.h"
#include "worker/intent-log.h"
#include "worker/swap-mount.h"
#include "worker/target.h"

/* The two directories between which its trees change places. */
static int place_open(const IntentPath *p, Target *ret, Failure *reterr) {
        return target_open(p->path, p->mount, false, ret, reterr);
}

static TreeId *coming(IntentPath *p, bool want_new) {
        return want_new ? &p->new_id : &p->old_id;
}

static TreeId *leaving(IntentPath *p, bool want_new) {
        return want_new ? &p->old_id : &p->new_id;
}

/* ---- before the intent ---- */

/*
 * The tree that comes must be the one we staged or kept. The one that leaves is taken as it is now:
 * a program may have replaced a file by a newer one since, and a rollback of the rollback brings
 * that back.
 */
static int identify(Intent *i, bool want_new, Failure *reterr) {
        for (size_t k = 0; k < i->n_paths; k++) {
                IntentPath *p = &i->paths[k];
                _cleanup_(target_done) Target place = TARGET_INIT;
                TreeId staged, live;
                int r = swap_mount_look(p, reterr);

                if (r >= 0)
                        r = place_open(p, &place, reterr);

                if (r >= 0)
                        r = tree_identify(place.area, p->stage, &staged, reterr);
                if (r >= 0)
                        r = tree_identify(place.parent, place.name, &live, reterr);
                if (r < 0)
                        return r;
                if (!tree_id_equal(&staged, coming(p, want_new)))
                        return fail_set(reterr, FAIL_NOT_RESTORABLE, ESTALE,
                                        "the tree kept for %s is not there any more", p->path);
                if (p->mount && (r = swap_mount_check(p, &live, &staged, reterr)) < 0)
                        return r;
                if (live.kind == TREE_OTHER)
                        return fail_set(reterr, FAIL_NOT_RESTORABLE, EINVAL,
                                        "%s is neither file nor directory; move it away first",
                                        p->path);
                *leaving(p, want_new) = live;
        }
        return 0;
}

/* A mounted subvolume that is not mounted now is not at its path. */
static bool is_seen(const IntentPath *p) {
        return !p->mount || p->mount->wanted;
}

/* Nobody can hold what is not there. */
static int prove_unused(Intent *i, bool want_new, Failure *reterr) {
        int r = 0;

        for (size_t k = 0; r >= 0 && k < i->n_paths; k++)
                if (leaving(&i->paths[k], want_new)->kind != TREE_ABSENT && is_seen(&i->paths[k]))
                        r = tree_prove_unused(i->paths[k].path, reterr);
        return r;
}

typedef struct Carry {
        Work *work;
        IntentPath *path;
        int from, to;
        bool by_rename;
        uint64_t bytes;
        Failure *reterr;
} Carry;

static int carry_one(void *userdata, const char *relative) {
        Carry *c = userdata;

        /* A subvolume is renamed into any directory of its file system, and not copied by walking.
         */
        if (c->by_rename || carry_is_subvolume(c->from, relative))
                return intent_add_move(c->path, relative);
        return carry_copy(c->from, c->to, relative, work_interrupted, c->work, &c->bytes,
                          c->reterr);
}

static int open_trees(const IntentPath *p, const Target *place, int *ret_live, int *ret_staged) {
        *ret_live = fs_open_dir(place->parent, place->name);
        *ret_staged = fs_open_dir(place->area, p->stage);
        return *ret_live < 0 || *ret_staged < 0 ? -ENOTDIR : 0;
}

/* Where the tree stands below the Path= that its rules begin at; "" for that itself. */
static const char *below_root(const IntentPath *p) {
        const char *at = p->path + strlen(p->root);

        return *at == '/' ? at + 1 : at;
}

static bool same_device(int a, int b) {
        struct stat x, y;

        return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev;
}

static int rules_of(const IntentPath *p, Globs **ret, Failure *reterr) {
        return globs_new((const char *const *) p->excludes, p->n_excludes, ret, reterr);
}

/* Copies what must be copied and names what will be renamed. The live tree is only read here. */
static int plan_carry(Work *w, IntentPath *p, Failure *reterr) {
        _cleanup_(target_done) Target place = TARGET_INIT;
        _cleanup_close_ int live = -1, staged = -1;
        _cleanup_(globs_freep) Globs *rules = NULL;
        Carry c = { .work = w, .path = p, .reterr = reterr };
        int r;

        if (p->n_excludes == 0)
                return 0;
        r = place_open(p, &place, reterr);
        if (r >= 0)
                r = rules_of(p, &rules, reterr);
        if (r < 0)
                return r;
        if (open_trees(p, &place, &live, &staged) < 0)
                return 0; /* a file, or nothing was there: nothing to carry */
        c.from = live;
        c.to = staged;
        c.by_rename = same_device(live, staged);
        /* A kept tree still has what it had when it left; what is live now replaces it. */
        r = c.by_rename ? 0 : carry_clear(staged, below_root(p), rules, reterr);
        if (r >= 0)
                r = carry_find(live, below_root(p), rules, carry_one, &c, reterr);
        if (r >= 0 && c.bytes > 0)
                log_info("%s: %llu bytes of excluded files copied", p->path,
                         (unsigned long long) c.bytes);
        if (r >= 0 && !c.by_rename && syncfs(staged) < 0)
                r = fail_errno(reterr, fail_code_for_write(errno, FAIL_INTERNAL), errno, "%s",
                               p->path);
        return r;
}

static void forget_moves(Intent *i) {
        for (size_t k = 0; k < i->n_paths; k++) {
                for (size_t m = 0; m < i->paths[k].n_moves; m++)
                        free(i->paths[k].moves[m]);
                i->paths[k].n_moves = 0;
        }
}

/* ---- under the intent ---- */

/* Moves the excluded paths from the live tree into the staged one, or back. */
static int move_excluded(IntentPath *p, bool back, Failure *reterr) {
        _cleanup_(target_done) Target place = TARGET_INIT;
        _cleanup_close_ int live = -1, staged = -1;
        int r = 0;

        if (p->n_moves == 0)
                return 0;
        r = place_open(p, &place, reterr);
        if (r >= 0 && open_trees(p, &place, &live, &staged) < 0)
                r = fail_set(reterr, FAIL_NOT_RESTORABLE, ENOTDIR, "%s changed meanwhile", p->path);
        for (size_t m = 0; r >= 0 && m < p->n_moves; m++) {
                r = back ? carry_move(staged, live, p->moves[m], true, reterr)
                         : carry_move(live, staged, p->moves[m], false, reterr);
                step("moved");
        }
        /* No exchange may be on disk before the moves are: recovery takes it for the whole. */
        if (r >= 0 && syncfs(staged) < 0)
                r = fail_errno(reterr, fail_code_for_write(errno, FAIL_INTERNAL), errno, "%s",
                               p->path);
        return r;
}

/* Nothing is at the target, and neither side has something for it: it is where it should be. */
typedef enum Position { POSITION_UNKNOWN, POSITION_OLD, POSITION_NEW, POSITION_BOTH } Position;

static int find_position(const IntentPath *p, Position *ret, Failure *reterr) {
        _cleanup_(target_done) Target place = TARGET_INIT;
        TreeId live;
        int r = place_open(p, &place, reterr);

        if (r >= 0)
                r = tree_identify(place.parent, place.name, &live, reterr);
        if (r < 0)
                return r;
        if (tree_id_equal(&p->new_id, &p->old_id))
                *ret = tree_id_equal(&live, &p->new_id) ? POSITION_BOTH : POSITION_UNKNOWN;
        else
                *ret = tree_id_equal(&live, &p->new_id)   ? POSITION_NEW
                       : tree_id_equal(&live, &p->old_id) ? POSITION_OLD
                                                          : POSITION_UNKNOWN;
        return 0;
}

static int is_strange(const IntentPath *p, Failure *reterr) {
        return fail_set(
                reterr, FAIL_NOT_RESTORABLE, ESTALE,
                "%s is neither the old nor the new tree; nothing more was touched, the "
                "other stands as %s in the .holdpoint directory of its file system: put one of "
                "them there, then run holdpoint-worker --recover",
                p->path, p->stage);
}

static int exchange(IntentPath *p, bool want_new, Failure *reterr) {
        _cleanup_(target_done) Target place = TARGET_INIT;
        Position at;
        int r;

        if (p->old_id.kind == TREE_ABSENT && p->new_id.kind == TREE_ABSENT) {
                r = find_position(p, &at, reterr);
                if (r >= 0 && at == POSITION_UNKNOWN)
                        r = fail_set(reterr, FAIL_TARGET_IN_USE, ESTALE,
                                     "%s came while it was exchanged: stop who made it", p->path);
                return r;
        }
        r = place_open(p, &place, reterr);
        if (r >= 0)
                r = tree_exchange(place.parent, place.name, leaving(p, want_new), place.area,
                                  p->stage, coming(p, want_new), reterr);
        return r;
}

/* Somebody put something else there: fine only as long as what was to come is still staged. */
static int check_untouched(const IntentPath *p, const TreeId *staged_id, Failure *reterr) {
        _cleanup_(target_done) Target place = TARGET_INIT;
        TreeId staged;
        int r = place_open(p, &place, reterr);

        if (r >= 0)
                r = tree_identify(place.area, p->stage, &staged, reterr);
        if (r < 0)
                return r;
        return p->n_moves > 0 || !tree_id_equal(&staged, staged_id) ? is_strange(p, reterr) : 0;
}

/* Puts every path back that has arrived at `want_new`, then the excluded paths. */
static int undo(Intent *i, bool want_new, Failure *reterr) {
        Position arrived = want_new ? POSITION_NEW : POSITION_OLD, at;
        int r = 0;

        for (size_t k = 0; r >= 0 && k < i->n_paths; k++) {
                r = find_position(&i->paths[k], &at, reterr);
                if (r >= 0 && at == arrived) {
                        r = swap_mount_away(&i->paths[k], reterr);
                        if (r >= 0)
                                r = exchange(&i->paths[k], !want_new, reterr);
                } else if (r >= 0 && at == POSITION_UNKNOWN)
                        r = check_untouched(&i->paths[k], coming(&i->paths[k], want_new), reterr);
                step("undone");
        }
        for (size_t k = 0; r >= 0 && k < i->n_paths; k++)
                r = move_excluded(&i->paths[k], true, reterr);
        return r < 0 ? r : swap_mount_back(i, reterr);
}

/* What could not be written did not come about: the intent stays what it is on disk. */
static int settle(Work *w, Intent *i, IntentState state, Failure *reterr) {
        IntentState was = i->state;
        int r;

        forget_moves(i);
        i->state = state;
        i->completed_usec = clock_realtime_usec();
        r = intent_save(w, i, reterr);
        if (r < 0)
                i->state = was;
        else
                intent_log_state(i);
        return r;
}

static int exchange_all(Intent *i, bool want_new, Failure *reterr) {
        int r = 0;

        for (size_t k = 0; r >= 0 && k < i->n_paths; k++)
                r = move_excluded(&i->paths[k], false, reterr);
        step("carried");
        for (size_t k = 0; r >= 0 && k < i->n_paths; k++)
                r = swap_mount_away(&i->paths[k], reterr);
        for (size_t k = 0; r >= 0 && k < i->n_paths; k++) {
                r = exchange(&i->paths[k], want_new, reterr);
                step("exchanged");
        }
        return r < 0 ? r : swap_mount_back(i, reterr);
}

/* All that can be done before anything is touched. */
static int prepare(Work *w, Intent *i, bool want_new, Failure *reterr) {
        int r = identify(i, want_new, reterr);

        if (r >= 0)
                r = prove_unused(i, want_new, reterr);
        for (size_t k = 0; r >= 0 && k < i->n_paths; k++)
                r = plan_carry(w, &i->paths[k], reterr);
        /* Copies take their time, and somebody may have come meanwhile. */
        if (r >= 0)
                r = prove_unused(i, want_new, reterr);
        return r < 0 ? r : work_check(w, reterr);
}

int swap_run(Work *w, Intent *i, bool want_new, Failure *reterr) {
        IntentState before = i->state;
        uint64_t start;
        int r;

        r = prepare(w, i, want_new, reterr);
        if (r < 0) {
                forget_moves(i);
                return r;
        }
        start = clock_monotonic_usec();
        i->before = before;
        i->state = INTENT_SWAPPING;
        i->want_new = want_new;
        r = intent_save(w, i, reterr);
        if (r < 0) {
                i->state = before;
                return r;
        }
        work_commit(w);
        step("intent");
        r = exchange_all(i, want_new, reterr);
        if (r < 0) {
                Failure f = FAILURE_INIT;

                /* If even this fails the intent stays SWAPPING, for recovery and for an alarm. */
                if (undo(i, want_new, &f) < 0 || settle(w, i, before, &f) < 0)
                        intent_log_attention(i, &f);
                return r;
        }
        i->swap_usec = clock_monotonic_usec() - start;
        step("swapped");
        r = settle(w, i, want_new ? INTENT_ACTIVE : INTENT_ROLLED_BACK, reterr);
        step("settled");
        return r;
}

/* ---- after a crash, and at the end ---- */

static int clear_failure(Failure *f) {
        *f = FAILURE_INIT;
        return 0;
}

/*
 * The area alone, as far as it still is: the directory of a path may have been removed since. Fills
 * `ret` with the nearest directory that is there; its area is -1 if there is none.
 */
static int kept_place_open(const IntentPath *p, Target *ret, Failure *reterr) {
        _cleanup_free_ char *target = strdup(p->path), *dir = NULL;
        char *slash;
        int r;

        if (!target)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", p->path);
        if (p->mount) {
                r = place_open(p, ret, reterr);
                return r == -ENOENT && ret->parent >= 0 ? clear_failure(reterr) : r;
        }
        for (;;) {
                slash = strrchr(target, '/');
                free(dir);
                dir = slash == target ? strdup("/") : strndup(target, (size_t) (slash - target));
                ret->parent = dir ? fd_open_absolute(dir, O_RDONLY | O_DIRECTORY) : -ENOMEM;
                if (ret->parent >= 0 || ret->parent != -ENOENT || !text_path_is_below(dir, p->root))
                        break;
                *slash = 0;
        }
        if (ret->parent < 0)
                return fail_errno(reterr, FAIL_NOT_RESTORABLE, -ret->parent,
                                  "%s, the directory of %s", dir ? dir : "", target);
        r = ret->area = target_open_area(target, false, reterr);
        return r == -ENOENT ? clear_failure(reterr) : r < 0 ? r : 0;
}

static int remove_stage(const IntentPath *p, Failure *reterr) {
        _cleanup_free_ char *check = text_printf("%s" SWAP_CHECK_SUFFIX, p->stage);
        _cleanup_(target_done) Target place = TARGET_INIT;
        int r = check ? kept_place_open(p, &place, reterr)
                      : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", p->stage);

        if (r < 0 || place.area < 0)
                return r;
        r = tree_remove(place.area, check, NULL, NULL, reterr);
        if (r >= 0 && p->mount)
                r = hot_remove_inside(place.area, p->stage, reterr);
        if (r >= 0)
                r = tree_remove(place.area, p->stage, NULL, NULL, reterr);
        if (r >= 0 && (r = fs_sync(place.area)) < 0)
                r = fail_errno(reterr, FAIL_INTERNAL, -r, "%s", p->stage);
        return r;
}

static int remove_stages(Intent *i, Failure *reterr) {
        int r = 0;

        for (size_t k = 0; r >= 0 && k < i->n_paths; k++) {
                r = remove_stage(&i->paths[k], reterr);
                step("removed");
        }
        return r;
}

int swap_abandon(Work *w, Intent *i, const Failure *why, Failure *reterr) {
        int r = remove_stages(i, reterr);

        if (r < 0)
                return r;
        free(i->error);
        i->error = strdup(why->text);
        return settle(w, i, INTENT_FAILED, reterr);
}

static int gone_elsewhere(const IntentPath *p, Failure *reterr) {
        return fail_set(reterr, FAIL_NOT_RESTORABLE, ESTALE,
                        "the tree kept for %s is not where it was: is its file system "
                        "mounted? Nothing was removed",
                        p->path);
}

/*
 * The area of a part of a subvolume lies in it, and a later restore of the whole took it along: it
 * is gone once that is confirmed, and not before, since a rollback of that brings it back.
 */
static int area_was_replaced(Work *w, const Intent *i, const IntentPath *p, Failure *reterr) {
        char keeper[40];

        if (!intent_find_keeper(w, i, keeper))
                return 0;
        return fail_set(reterr, FAIL_NOT_RESTORABLE, EBUSY,
                        "what was kept for %s lies in the tree that restore %s replaced: confirm "
                        "that one first",
                        p->path, keeper);
}

/*
 * Is the kept tree what is about to be removed? Absent is fine if it was removed already, which
 * only the file system that it lay on can tell: another one may be mounted there, or none.
 */
static int check_kept_path(Work *w, const Intent *i, const IntentPath *p, Failure *reterr) {
        const TreeId *kept = i->before == INTENT_ACTIVE ? &p->old_id : &p->new_id;
        _cleanup_(target_done) Target place = TARGET_INIT;
        TreeId staged;
        int r;

        r = kept_place_open(p, &place, reterr);
        if (r < 0)
                return r;
        if (place.area < 0)
                return kept->kind == TREE_ABSENT           ? 0
                       : tree_is_on_fs(place.parent, kept) ? area_was_replaced(w, i, p, reterr)
                                                           : gone_elsewhere(p, reterr);
        r = tree_identify(place.area, p->stage, &staged, reterr);
        if (r < 0 || tree_id_equal(&staged, kept))
                return r;
        return staged.kind == TREE_ABSENT && tree_is_on_fs(place.area, kept)
                       ? 0
                       : gone_elsewhere(p, reterr);
}

static int check_kept(Work *w, const Intent *i, Failure *reterr) {
        int r = 0;

        for (size_t k = 0; r >= 0 && k < i->n_paths; k++)
                r = check_kept_path(w, i, &i->paths[k], reterr);
        return r;
}

int swap_check_live(const Intent *i, Failure *reterr) {
        for (size_t k = 0; k < i->n_paths; k++) {
                _cleanup_(target_done) Target place = TARGET_INIT;
                TreeId live;
                int r = place_open(&i->paths[k], &place, reterr);

                if (r >= 0)
                        r = tree_identify(place.parent, place.name, &live, reterr);
                if (r < 0)
                        return r;
                if (live.kind == TREE_ABSENT && !i->paths[k].side)
                        return fail_set(reterr, FAIL_NOT_RESTORABLE, ENOENT, "%s is not there",
                                        i->paths[k].path);
        }
        return 0;
}

int swap_confirm(Work *w, Intent *i, Failure *reterr) {
        int r;

        if (i->state != INTENT_CONFIRMING)
                i->before = i->state;
        r = check_kept(w, i, reterr);
        if (r >= 0 && i->state != INTENT_CONFIRMING) {
                i->state = INTENT_CONFIRMING;
                r = intent_save(w, i, reterr);
        }
        if (r < 0)
                return r;
        step("confirming");
        r = remove_stages(i, reterr);
        return r < 0 ? r : settle(w, i, INTENT_CONFIRMED, reterr);
}

static int abandon_interrupted(Work *w, Intent *i, Failure *reterr) {
        Failure why = FAILURE_INIT;

        (void) fail_set(&why, FAIL_INTERRUPTED, EINTR, "interrupted before the swap");
        intent_log_recovered(i, "it was interrupted before the swap, staged trees go");
        return swap_abandon(w, i, &why, reterr);
}

/* A rename that survived the death of its worker is not yet one that survives a power cut. */
static int sync_places(const Intent *i, Failure *reterr) {
        for (size_t k = 0; k < i->n_paths; k++) {
                _cleanup_(target_done) Target place = TARGET_INIT;
                int r = place_open(&i->paths[k], &place, reterr);

                if (r >= 0 && (r = fs_sync(place.parent)) >= 0)
                        r = fs_sync(place.area);
                if (r < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, -r, "%s", i->paths[k].path);
        }
        return 0;
}

static int recover_swap(Work *w, Intent *i, Failure *reterr) {
        Position arrived = i->want_new ? POSITION_NEW : POSITION_OLD;
        size_t n_arrived = 0;

        for (size_t k = 0; k < i->n_paths; k++) {
                Position at;
                int r = find_position(&i->paths[k], &at, reterr);

                if (r < 0)
                        return r;
                if (at == POSITION_UNKNOWN)
                        return is_strange(&i->paths[k], reterr);
                n_arrived += at == arrived || at == POSITION_BOTH;
        }
        if (n_arrived == i->n_paths) {
                int r = sync_places(i, reterr);

                if (r >= 0)
                        r = swap_mount_back(i, reterr);
                if (r < 0)
                        return r;
                intent_log_recovered(i, "it was interrupted after the swap, which is complete");
                return settle(w, i, i->want_new ? INTENT_ACTIVE : INTENT_ROLLED_BACK, reterr);
        }
        int r = undo(i, i->want_new, reterr);
        if (r < 0)
                return r;
        intent_log_recovered(i, "it was interrupted in the swap, which was undone");
        /* Undone, and said so, before anything of it is removed: another crash may come. */
        r = settle(w, i, i->before, reterr);
        if (r >= 0 && i->before == INTENT_STAGING)
                r = abandon_interrupted(w, i, reterr);
        return r;
}

int swap_recover(Work *w, Intent *i, Failure *reterr) {
        switch (i->state) {
        case INTENT_STAGING:
                return abandon_interrupted(w, i, reterr);
        case INTENT_SWAPPING:
                return recover_swap(w, i, reterr);
        case INTENT_CONFIRMING:
                return swap_confirm(w, i, reterr);
        case INTENT_ACTIVE:
        case INTENT_ROLLED_BACK:
        case INTENT_CONFIRMED:
        case INTENT_FAILED:
                break;
        }
        return 0;
}
