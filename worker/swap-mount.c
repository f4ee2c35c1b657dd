#include "worker/swap-mount.h"

#include <errno.h>

#include "base/step.h"
#include "worker/remount.h"
#include "worker/target.h"

int swap_mount_look(IntentPath *p, Failure *reterr) {
        _cleanup_(mounted_freep) Mounted *now = NULL;
        int r = p->mount ? target_find_mount(p->path, &now, reterr) : 0;

        if (r < 0 || !p->mount)
                return r;
        p->mount->wanted = now != NULL;
        if (!now || mounted_equal(now, p->mount))
                return 0;
        return fail_set(reterr, FAIL_NOT_RESTORABLE, ESTALE,
                        "%s was the subvolume %s, and %s is mounted there now", p->path,
                        p->mount->subvolume, now->subvolume);
}

int swap_mount_look_all(Intent *i, Failure *reterr) {
        int r = 0;

        for (size_t k = 0; r >= 0 && k < i->n_paths; k++)
                r = swap_mount_look(&i->paths[k], reterr);
        return r;
}

int swap_mount_check(const IntentPath *p,
                     const TreeId *live,
                     const TreeId *staged,
                     Failure *reterr) {
        TreeId shown;
        int r = remount_look(p->mount, &shown, reterr);

        if (r < 0)
                return r;
        if (live->kind != TREE_SUBVOLUME || staged->kind != TREE_SUBVOLUME)
                return fail_set(reterr, FAIL_NOT_RESTORABLE, EINVAL,
                                "%s is mounted by subvol=%s, and what is there, or comes, is no "
                                "subvolume",
                                p->path, p->mount->subvolume);
        if (shown.kind == TREE_ABSENT || tree_id_equal(&shown, live))
                return 0;
        return fail_set(reterr, FAIL_NOT_RESTORABLE, ESTALE,
                        "%s shows another tree than has the name %s by now: unmount it and mount "
                        "it again",
                        p->path, p->mount->subvolume);
}

int swap_mount_away(const IntentPath *p, Failure *reterr) {
        int r = p->mount ? remount_away(p->mount, reterr) : 0;

        if (p->mount)
                step("unmounted");
        return r;
}

int swap_mount_back(const Intent *i, Failure *reterr) {
        int r = 0;

        for (size_t k = 0; r >= 0 && k < i->n_paths; k++) {
                const IntentPath *p = &i->paths[k];
                _cleanup_(target_done) Target place = TARGET_INIT;
                TreeId live;

                if (!p->mount || !p->mount->wanted)
                        continue;
                r = target_open(p->path, p->mount, false, &place, reterr);
                if (r >= 0)
                        r = tree_identify(place.parent, place.name, &live, reterr);
                if (r >= 0)
                        r = remount_back(p->mount, &live, reterr);
                step("mounted");
        }
        return r;
}
