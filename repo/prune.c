/*
 * Prune deletes, so it is the part of a repository that can do most harm. A pack goes only if
 *  - every record and manifest could be read, and none of them asked for an id that the index has
 *    in this pack;
 *  - every id in the pack's own directory is either in this pack for the index as well, and so was
 *    not asked for, or in another pack whose own directory says so. The index, a mere cache, is
 *    thereby never believed alone.
 *
 * Order: deleted records durable, exclusive lock, rows out of the index, packs unlinked, then the
 * sessions that nobody needs. "Condemned" is a fact and not a mark on disk: what no record needs
 * is found again by the next run, or used again by the next backup. So a kill between any two steps
 * leaves garbage at worst.
 */

#include "repo/prune.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/step.h"
#include "base/text.h"

#define UUIDS_MAX ((size_t) 256 << 20)

/* What may go. */
typedef struct Dead {
        uint64_t no; /* 0: not in the index */
        uint8_t uuid[UUID_SIZE];
        uint64_t size;
} Dead;

typedef struct Prune {
        Repo *repo;
        const RepoPruneParams *params;
        Marks marks;
        Buf dead;   /* Dead */
        Buf known;  /* uuids of the packs in the index, sorted */
        Buf needed; /* uuids of sessions that packs which stay need */
        Buf gone;   /* uuids of sessions, then of pins, that nobody needs */
        bool strays_stay;
        PackInfo other; /* the pack that was compared with last */
        uint64_t other_no;
        RepoPrune sum;
} Prune;

static int no_memory(Failure *reterr) {
        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "cannot note what is to be removed");
}

/* ---- what may go ---- */

static int add_dead(Prune *p, const Dead *d, Failure *reterr) {
        return buf_put(&p->dead, d, sizeof(*d)) < 0 ? no_memory(reterr) : 0;
}

static int on_pack_row(void *userdata, const IndexPack *pack, Failure *reterr) {
        Prune *p = userdata;
        Dead d = { .no = pack->no, .size = pack->size };

        if (buf_put(&p->known, pack->uuid, UUID_SIZE) < 0)
                return no_memory(reterr);
        if (marks_use(&p->marks, pack->no))
                return 0;
        memcpy(d.uuid, pack->uuid, UUID_SIZE);
        return add_dead(p, &d, reterr);
}

static int compare_uuid(const void *a, const void *b) {
        return memcmp(a, b, UUID_SIZE);
}

/*
 * A pack that the index does not know is torn, or damaged, or without its session. If everything
 * that is needed is elsewhere it is garbage; else it may be what can be mended.
 */
static int on_pack_file(void *userdata, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        Prune *p = userdata;
        char name[STORE_NAME_MAX];
        Dead d = { .no = 0 };

        if (p->known.size > 0 &&
            bsearch(uuid, p->known.data, p->known.size / UUID_SIZE, UUID_SIZE, compare_uuid))
                return 0;
        store_pack_name(uuid, name);
        if (p->marks.missing > 0) {
                log_debug("%s is kept: chunks are missing, and it may have them", name);
                p->strays_stay = true;
                return 0;
        }
        memcpy(d.uuid, uuid, UUID_SIZE);
        d.size = store_size(p->repo->store, name);
        return add_dead(p, &d, reterr);
}

static int index_is_wrong(Prune *p, Failure *reterr) {
        index_discard(p->repo->index);
        return fail_set(reterr, FAIL_INTERNAL, EUCLEAN,
                        "the local index did not agree with the packs and is made again by the "
                        "next run; nothing was removed, prune again");
}

/* 1 if the directory of the pack that `place` names has this id there, 0 if not. */
static int is_there(Prune *p, const IndexPlace *place, const uint8_t *id, Failure *reterr) {
        IndexPack row;
        PackEntry e;
        Reader at;
        int r;

        if (p->other_no != place->pack_no) {
                pack_info_done(&p->other);
                p->other = PACK_INFO_INIT;
                p->other_no = 0;
                r = index_pack_get(p->repo->index, place->pack_no, &row, reterr);
                if (r > 0)
                        r = pack_info_load(p->repo, row.uuid, &p->other, reterr);
                if (r < 0)
                        return r == -ENOENT ? 0 : r;
                p->other_no = place->pack_no;
        }
        at = READER_INIT(p->other.directory.data, p->other.directory.size);
        for (uint32_t n = 0; n <= place->ordinal; n++)
                if (!pack_entry_next(&at, n, &e))
                        return 0;
        if (e.n_members == 0)
                return memcmp(e.id, id, ID_SIZE) == 0;
        for (size_t i = 0; i < e.n_members; i++)
                if (memcmp(e.members + i * (ID_SIZE + 8), id, ID_SIZE) == 0)
                        return 1;
        return 0;
}

static int check_id(Prune *p, const Dead *d, const uint8_t *id, Failure *reterr) {
        IndexPlace place;
        int r = index_find(p->repo->index, id, &place, reterr);

        if (r == 0)
                return index_is_wrong(p, reterr);
        if (r < 0 || place.pack_no == d->no || !marks_use(&p->marks, place.pack_no))
                return r < 0 ? r : 0;
        r = is_there(p, &place, id, reterr);
        return r == 0 ? index_is_wrong(p, reterr) : r < 0 ? r : 0;
}

/* The pack's own directory is asked as well; 0 if it may go, 1 if it must stay. */
static int check_dead(Prune *p, const Dead *d, Failure *reterr) {
        PackInfo info = PACK_INFO_INIT;
        Failure why = FAILURE_INIT;
        PackEntry e;
        Reader at;
        int r;

        if (repo_is_interrupted(p->repo))
                return -ECANCELED;
        if (d->no == 0)
                return 0;
        r = pack_info_load(p->repo, d->uuid, &info, &why);
        if (r < 0 && r != -ENOENT && why.code != FAIL_INTEGRITY_FAILURE) {
                if (reterr && reterr->code == FAIL_NONE)
                        *reterr = why;
                return r;
        }
        if (r < 0)
                return p->marks.missing > 0; /* as a pack that the index does not know */
        at = READER_INIT(info.directory.data, info.directory.size);
        for (uint32_t n = 0; r >= 0 && pack_entry_next(&at, n, &e); n++) {
                if (e.n_members == 0)
                        r = check_id(p, d, e.id, reterr);
                for (size_t i = 0; r >= 0 && i < e.n_members; i++)
                        r = check_id(p, d, e.members + i * (ID_SIZE + 8), reterr);
        }
        pack_info_done(&info);
        return r;
}

static int find_dead(Prune *p, Failure *reterr) {
        size_t kept = 0;
        Dead d;
        int r = index_each_pack(p->repo->index, on_pack_row, p, reterr);

        if (r >= 0 && p->known.size > 0)
                qsort(p->known.data, p->known.size / UUID_SIZE, UUID_SIZE, compare_uuid);
        if (r >= 0)
                r = store_list(p->repo->store, "packs", on_pack_file, p, reterr);
        for (size_t i = 0; r >= 0 && i < p->dead.size; i += sizeof(d)) {
                memcpy(&d, p->dead.data + i, sizeof(d));
                r = check_dead(p, &d, reterr);
                if (r > 0) {
                        p->strays_stay = true;
                        continue;
                }
                memmove(p->dead.data + kept, &d, sizeof(d));
                kept += sizeof(d);
                p->sum.packs++;
                p->sum.freed_bytes += d.size;
        }
        if (r >= 0)
                p->dead.size = kept;
        return r;
}

/* ---- removing ---- */

/* Upgrades the shared lock, for a while; 1 if somebody reads packs all the time. */
static int lock_packs(Prune *p, Failure *reterr) {
        Failure why = FAILURE_INIT;
        int r = repo_lock(p->repo, REPO_LOCK_PACKS_EXCLUSIVE, p->params->wait_usec, &why);

        if (r >= 0)
                return 0;
        if (why.code == FAIL_BUSY) {
                /* An upgrade that fails may have lost what was held. Nobody else is exclusive. */
                r = repo_lock(p->repo, REPO_LOCK_PACKS_SHARED, p->params->wait_usec, reterr);
                return r < 0 ? r : 1;
        }
        if (reterr && reterr->code == FAIL_NONE)
                *reterr = why;
        return r;
}

/*
 * Rows go before their packs: the other way round the index would have lost packs and be made anew.
 * If that cannot be written (a full disk, say) it is made anew: space must not be needed to win
 * space.
 */
static void forget_rows(Prune *p) {
        Failure why = FAILURE_INIT;
        Dead d;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < p->dead.size; i += sizeof(d)) {
                memcpy(&d, p->dead.data + i, sizeof(d));
                if (d.no > 0)
                        r = index_pack_remove(p->repo->index, d.no, &why);
        }
        if (r >= 0 && p->dead.size > 0)
                r = index_sweep(p->repo->index, &why);
        if (r >= 0)
                r = index_commit(p->repo->index, &why);
        if (r >= 0)
                return;
        index_rollback(p->repo->index);
        index_discard(p->repo->index);
        log_debug("the index is made again by the next run: %s", why.text);
}

static int unlink_packs(Prune *p, Failure *reterr) {
        char name[STORE_NAME_MAX];
        Failure why = FAILURE_INIT;
        Dead d;
        int r, first = 0;

        p->sum.packs = p->sum.freed_bytes = 0;
        for (size_t i = 0; i < p->dead.size; i += sizeof(d)) {
                memcpy(&d, p->dead.data + i, sizeof(d));
                store_pack_name(d.uuid, name);
                r = store_pack_remove(p->repo->store, d.uuid);
                if (r < 0) {
                        if (first >= 0)
                                first = fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL),
                                                   -r, "cannot remove %s/%s", p->repo->path, name);
                        continue;
                }
                step("pack-unlinked");
                p->sum.packs++;
                p->sum.freed_bytes += d.size;
                if (suspects_note(p->repo, d.uuid, false, &why) < 0)
                        log_debug("%s", why.text);
                why = FAILURE_INIT;
        }
        return first;
}

/* ---- sessions and pins ---- */

static int on_origin(void *userdata, const uint8_t session[UUID_SIZE], Failure *reterr) {
        Prune *p = userdata;

        return buf_put(&p->needed, session, UUID_SIZE) < 0 ? no_memory(reterr) : 0;
}

static int on_session_file(void *userdata, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        Prune *p = userdata;

        if (uuids_have(&p->needed, uuid) || uuids_have(&p->marks.sessions, uuid))
                return 0;
        return buf_put(&p->gone, uuid, UUID_SIZE) < 0 ? no_memory(reterr) : 0;
}

static int on_pin_file(void *userdata, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        Prune *p = userdata;

        if (uuids_have(&p->marks.backups, uuid))
                return 0;
        return buf_put(&p->gone, uuid, UUID_SIZE) < 0 ? no_memory(reterr) : 0;
}

static int
remove_objects(Prune *p, ObjectKind kind, const char *step_name, uint64_t *count, Failure *reterr) {
        char name[STORE_NAME_MAX];
        int r = 0;

        for (size_t i = 0; r >= 0 && i < p->gone.size; i += UUID_SIZE) {
                store_object_name(kind, p->gone.data + i, name);
                r = store_delete(p->repo->store, name, reterr);
                if (r >= 0)
                        ++*count;
                step(step_name);
        }
        buf_clear(&p->gone);
        return r;
}

/* Only once the rows of what was removed are gone: they name the sessions that packs need. */
static int remove_rest(Prune *p, Failure *reterr) {
        uint64_t pins = 0;
        int r = 0;

        if (!p->strays_stay) {
                r = index_each_origin(p->repo->index, on_origin, p, reterr);
                if (r >= 0)
                        r = store_list(p->repo->store, "sessions", on_session_file, p, reterr);
                if (r >= 0)
                        r = remove_objects(p, OBJECT_SESSION, "session-deleted", &p->sum.sessions,
                                           reterr);
        }
        if (r >= 0)
                r = store_list(p->repo->store, "pins", on_pin_file, p, reterr);
        return r < 0 ? r : remove_objects(p, OBJECT_PIN, "pin-deleted", &pins, reterr);
}

static int remove_dead(Prune *p, Failure *reterr) {
        int r = lock_packs(p, reterr);

        if (r < 0)
                return r;
        if (r > 0) {
                p->sum.condemned = p->sum.packs;
                p->sum.packs = p->sum.freed_bytes = 0;
                return 0;
        }
        /* A deleted record must not come back after a power cut and find its packs gone. */
        r = fs_sync(store_dir_fd(p->repo->store, "backups"));
        if (r < 0)
                return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "cannot sync %s/backups", p->repo->path);
        if (p->params->on_removal)
                p->params->on_removal(p->params->userdata);
        step("condemned");
        forget_rows(p);
        step("rows-forgotten");
        r = unlink_packs(p, reterr);
        if (r >= 0)
                r = remove_rest(p, reterr);
        (void) repo_lock(p->repo, REPO_LOCK_PACKS_SHARED, 0, NULL); /* a downgrade, at the end */
        return r;
}

int repo_prune(Repo *repo, const RepoPruneParams *params, RepoPrune *ret, Failure *reterr) {
        Prune p = {
                .repo = repo,
                .params = params,
                .marks = { .repo = repo,
                           .params = params,
                           .backups = BUF_INIT(UUIDS_MAX),
                           .sessions = BUF_INIT(UUIDS_MAX) },
                .dead = BUF_INIT(UUIDS_MAX),
                .known = BUF_INIT(UUIDS_MAX),
                .needed = BUF_INIT(UUIDS_MAX),
                .gone = BUF_INIT(UUIDS_MAX),
                .other = PACK_INFO_INIT,
        };
        int r;

        if (!repo->writer)
                return fail_set(reterr, FAIL_INTERNAL, EPERM, "the writer's lock is not held");
        r = prune_mark(&p.marks, reterr);
        step("marked");
        if (r >= 0)
                r = find_dead(&p, reterr);
        if (r >= 0 && !params->dry_run)
                r = remove_dead(&p, reterr);
        p.sum.missing = p.marks.missing;
        *ret = p.sum;
        marks_done(&p.marks);
        pack_info_done(&p.other);
        buf_done(&p.dead);
        buf_done(&p.known);
        buf_done(&p.needed);
        buf_done(&p.gone);
        return r;
}
