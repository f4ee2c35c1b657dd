/*
 * Brings the index up to date with the packs that are there. Names are compared, nothing else, so
 * that an unchanged repository costs two listings; a writer, which is about to rely on what it does
 * not store again, looks at the sizes of the packs as well. What a crash left behind is believed
 * only after each of its bytes was read and checked: its writer never came to say that it was
 * durable.
 *
 * Content whose session is not there cannot be opened by anybody: such a pack counts as lost.
 *
 * Only one process does this at a time (index.lock), and never beside a foreign writer.
 */

#include <errno.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/log.h"
#include "base/text.h"
#include "repo/repo-internal.h"

#define NAMES_MAX ((size_t) 256 << 20)

typedef struct Sync {
        Repo *repo;
        Buf disk;     /* uuids of packs/, sorted */
        Buf seen;     /* a byte for each: the index knows it */
        Buf gone;     /* u64 numbers of rows to drop */
        Buf again;    /* rows of damaged packs */
        Buf keys;     /* uuids of sessions/, sorted */
        Buf sessions; /* uuids named by records, sorted; loaded when needed */
        bool sessions_loaded;
        bool rows;     /* the index has any */
        bool vanished; /* one that was durable is not there, or of no use */
} Sync;

enum {
        SEEN_NOT = 0,
        SEEN_DURABLE = 1,
        SEEN_DOUBTFUL = 2, /* in the index, but its commit was not seen */
};

static int compare_uuid(const void *a, const void *b) {
        return memcmp(a, b, UUID_SIZE);
}

static void sort_uuids(Buf *b) {
        if (b->size > 0)
                qsort(b->data, b->size / UUID_SIZE, UUID_SIZE, compare_uuid);
}

static uint8_t *find_uuid(const Buf *b, const uint8_t uuid[UUID_SIZE]) {
        return b->size > 0 ? bsearch(uuid, b->data, b->size / UUID_SIZE, UUID_SIZE, compare_uuid)
                           : NULL;
}

static int on_disk(void *userdata, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        Sync *s = userdata;
        int r = buf_put(&s->disk, uuid, UUID_SIZE);

        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot list the packs") : 0;
}

static int on_session(void *userdata, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        Sync *s = userdata;
        int r = buf_put(&s->keys, uuid, UUID_SIZE);

        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot list the sessions") : 0;
}

static bool has_key(const Sync *s, PackKind kind, const uint8_t session[UUID_SIZE]) {
        return kind != PACK_CONTENT || find_uuid(&s->keys, session);
}

/* Torn since: cut short by a repair of the file system, or half of a copy. */
static bool has_size(const Sync *s, const IndexPack *pack) {
        char name[STORE_NAME_MAX];

        if (!s->repo->writer)
                return true;
        store_pack_name(pack->uuid, name);
        return store_size(s->repo->store, name) == pack->size;
}

static int on_row(void *userdata, const IndexPack *pack, Failure *reterr) {
        Sync *s = userdata;
        const uint8_t *at = find_uuid(&s->disk, pack->uuid);
        int r = 0;

        s->rows = true;
        if (at)
                s->seen.data[(size_t) (at - s->disk.data) / UUID_SIZE] =
                        pack->durable ? SEEN_DURABLE : SEEN_DOUBTFUL;
        if (pack->durable && (!at || !has_key(s, pack->kind, pack->session) || !has_size(s, pack)))
                s->vanished = true;
        if (!at || !pack->durable)
                r = buf_put(&s->gone, &pack->no, sizeof(pack->no));
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot compare the packs") : 0;
}

static int on_record(void *userdata, const char *id, json_object *record, const Failure *damage) {
        Sync *s = userdata;
        uint8_t uuid[UUID_SIZE];
        const char *text;

        /* A damaged record vouches for nothing: its packs are read instead. */
        if (damage || json_get_string(record, "session", &text) < 0 ||
            text_uuid_parse(text, uuid) < 0)
                return 0;
        return buf_put(&s->sessions, uuid, UUID_SIZE);
}

/* 1 if a record names this session: its packs were durable before the record was. */
static int is_committed(Sync *s, const uint8_t session[UUID_SIZE], Failure *reterr) {
        int r;

        if (!s->sessions_loaded) {
                r = repo_list(s->repo, on_record, s, reterr);
                if (r < 0)
                        return r;
                sort_uuids(&s->sessions);
                s->sessions_loaded = true;
        }
        return find_uuid(&s->sessions, session) != NULL;
}

static int add_rows(Repo *repo, const PackInfo *info, Failure *reterr) {
        Reader at = READER_INIT(info->directory.data, info->directory.size);
        IndexPack row = { .kind = info->kind, .size = info->size, .durable = true };
        uint64_t no;
        PackEntry e;
        int r;

        memcpy(row.uuid, info->uuid, UUID_SIZE);
        memcpy(row.session, info->session, UUID_SIZE);
        r = index_pack_add(repo->index, &row, &no, reterr);
        for (uint32_t n = 0; r >= 0 && pack_entry_next(&at, n, &e); n++)
                r = index_add_entry(repo->index, no, info->uuid, info->session, &e, reterr);
        if (r >= 0)
                r = index_commit(repo->index, reterr);
        if (r < 0)
                index_rollback(repo->index);
        return r;
}

/*
 * A session that was given up may have taken rows over from a damaged pack: what that one holds is
 * found again. One whose directory cannot be read keeps the rows that it has.
 */
static int restore_rows(Repo *repo, const IndexPack *row, Failure *reterr) {
        PackInfo info = PACK_INFO_INIT;
        Failure why = FAILURE_INIT;
        Reader at;
        PackEntry e;
        int r = pack_info_load(repo, row->uuid, &info, &why);

        if (r < 0)
                return 0;
        at = READER_INIT(info.directory.data, info.directory.size);
        for (uint32_t n = 0; r >= 0 && pack_entry_next(&at, n, &e); n++)
                r = index_add_entry(repo->index, row->no, info.uuid, info.session, &e, reterr);
        pack_info_done(&info);
        return r;
}

static int on_suspect_row(void *userdata, const IndexPack *pack, Failure *reterr) {
        Sync *s = userdata;
        int r = index_is_suspect(s->repo->index, pack->no) ? buf_put(&s->again, pack, sizeof(*pack))
                                                           : 0;

        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot note a damaged pack") : 0;
}

static int take_suspects(Sync *s, Failure *reterr) {
        IndexPack row;
        int r = suspects_load(s->repo, reterr);

        if (r < 0 || !index_has_suspects(s->repo->index))
                return r;
        r = index_each_pack(s->repo->index, on_suspect_row, s, reterr);
        for (size_t i = 0; r >= 0 && i < s->again.size; i += sizeof(row)) {
                memcpy(&row, s->again.data + i, sizeof(row));
                r = restore_rows(s->repo, &row, reterr);
        }
        return r < 0 ? r : index_commit(s->repo->index, reterr);
}

/* A pack that cannot be believed stays out: garbage of a crash, or damage that a check will name.
 */
static int take_in(Sync *s, const uint8_t uuid[UUID_SIZE], bool doubtful, Failure *reterr) {
        PackInfo info = PACK_INFO_INIT;
        Failure why = FAILURE_INIT;
        int r;

        if (repo_is_interrupted(s->repo))
                return -ECANCELED;
        r = pack_info_load(s->repo, uuid, &info, &why);
        if (r >= 0 && !has_key(s, info.kind, info.session))
                r = fail_set(&why, FAIL_INTEGRITY_FAILURE, ENOKEY, "a pack without its session");
        if (r >= 0 && !doubtful)
                r = is_committed(s, info.session, &why);
        if (r == 0)
                r = pack_info_verify(s->repo, &info, NULL, NULL, &why);
        if (r >= 0)
                r = add_rows(s->repo, &info, &why);
        s->repo->corrections.taken += r >= 0;
        pack_info_done(&info);
        if (r == -ENOENT || why.code == FAIL_INTEGRITY_FAILURE) {
                log_debug("not taken into the index: %s", why.text);
                return 0;
        }
        if (r < 0 && reterr && reterr->code == FAIL_NONE)
                *reterr = why;
        return r;
}

static int drop_rows(Sync *s, Failure *reterr) {
        uint64_t no;
        int r = 0;

        if (s->vanished || (!s->rows && s->disk.size > 0)) {
                s->repo->corrections.begun_anew |= s->vanished;
                r = index_clear(s->repo->index, reterr);
                if (s->seen.size > 0)
                        for (size_t i = 0; i < s->seen.size; i++)
                                if (s->seen.data[i] == SEEN_DURABLE)
                                        s->seen.data[i] = SEEN_NOT;
                return r;
        }
        for (size_t i = 0; i < s->gone.size && r >= 0; i += sizeof(no)) {
                memcpy(&no, s->gone.data + i, sizeof(no));
                r = index_pack_remove(s->repo->index, no, reterr);
        }
        s->repo->corrections.forgotten += s->gone.size / sizeof(no);
        if (r >= 0 && s->gone.size > 0)
                r = index_sweep(s->repo->index, reterr);
        return r;
}

static int synchronise(Sync *s, Failure *reterr) {
        size_t n;
        int r;

        r = store_list(s->repo->store, "packs", on_disk, s, reterr);
        if (r < 0)
                return r;
        r = store_list(s->repo->store, "sessions", on_session, s, reterr);
        if (r < 0)
                return r;
        sort_uuids(&s->disk);
        sort_uuids(&s->keys);
        n = s->disk.size / UUID_SIZE;
        r = buf_reserve(&s->seen, n + 1);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot compare the packs");
        memset(s->seen.data, SEEN_NOT, n);
        s->seen.size = n;
        r = index_each_pack(s->repo->index, on_row, s, reterr);
        if (r >= 0)
                r = drop_rows(s, reterr);
        if (r >= 0)
                r = index_commit(s->repo->index, reterr);
        if (r < 0)
                return r;
        if (memchr(s->seen.data, SEEN_NOT, n) || memchr(s->seen.data, SEEN_DOUBTFUL, n)) {
                /* What is checked below must not be a page that never reached the disk. */
                r = store_sync(s->repo->store, reterr);
                for (size_t i = 0; i < n && r >= 0; i++)
                        if (s->seen.data[i] != SEEN_DURABLE)
                                r = take_in(s, s->disk.data + i * UUID_SIZE,
                                            s->seen.data[i] == SEEN_DOUBTFUL, reterr);
        }
        return r;
}

int repo_lock_index(Repo *repo, Failure *reterr) {
        while (flock(repo->index_lock, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK && errno != EINTR)
                        return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot lock the index");
                if (repo_is_interrupted(repo))
                        return -ECANCELED;
                (void) usleep(10000);
        }
        return 0;
}

static bool is_unwritable(int r) {
        return r == -ENOSPC || r == -EDQUOT || r == -EROFS;
}

int repo_open_index(Repo *repo, bool writer, Failure *reterr) {
        Failure why = FAILURE_INIT, ignored = FAILURE_INIT;
        int r = repo_lock_index(repo, reterr);

        if (r < 0)
                return r;
        r = index_open(repo->state_fd, repo->uuid, &repo->index, &why);
        /* On a full disk there is at least reading; the first reason is the one to tell. */
        if (is_unwritable(r) && !writer &&
            index_open_scratch(repo->uuid, &repo->index, &ignored) >= 0)
                r = 0;
        else if (r < 0 && reterr && reterr->code == FAIL_NONE)
                *reterr = why;
        (void) flock(repo->index_lock, LOCK_UN); /* cannot fail on a lock that we hold */
        return r;
}

/* Beside a foreign writer the index is as good as that one keeps it; without rows it is not there
 * yet. */
static int must_have_rows(Repo *repo, Failure *reterr) {
        Sync s = { .repo = repo, .disk = BUF_INIT(NAMES_MAX) };
        uint64_t bytes = 0;
        int r;

        r = index_stored_bytes(repo->index, &bytes, reterr);
        if (r >= 0 && bytes == 0)
                r = store_list(repo->store, "backups", on_disk, &s, reterr);
        if (r >= 0 && s.disk.size > 0)
                r = fail_set(
                        reterr, FAIL_BUSY, EBUSY,
                        "the index of the repository is missing while a backup runs; try again "
                        "after it");
        buf_done(&s.disk);
        return r;
}

int repo_sync_index(Repo *repo, Failure *reterr) {
        Sync s = {
                .repo = repo,
                .disk = BUF_INIT(NAMES_MAX),
                .seen = BUF_INIT(NAMES_MAX),
                .gone = BUF_INIT(NAMES_MAX),
                .again = BUF_INIT(NAMES_MAX),
                .keys = BUF_INIT(NAMES_MAX),
                .sessions = BUF_INIT(NAMES_MAX),
        };
        int backups = store_dir_fd(repo->store, "backups"), r;

        r = repo_lock_index(repo, reterr);
        if (r < 0)
                return r;
        if (!repo->writer && flock(backups, LOCK_SH | LOCK_NB) < 0) {
                r = must_have_rows(repo, reterr);
                if (r >= 0)
                        r = suspects_load(repo, reterr);
        } else {
                r = synchronise(&s, reterr);
                if (r >= 0)
                        r = take_suspects(&s, reterr);
                if (r < 0)
                        index_rollback(repo->index);
                if (!repo->writer)
                        (void) flock(backups, LOCK_UN); /* cannot fail on a lock that we hold */
        }
        (void) flock(repo->index_lock, LOCK_UN);
        buf_done(&s.disk);
        buf_done(&s.seen);
        buf_done(&s.gone);
        buf_done(&s.again);
        buf_done(&s.keys);
        buf_done(&s.sessions);
        return r;
}
