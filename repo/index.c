/*
 * Which pack holds a chunk: a cache in the worker's state, made again from the packs whenever there
 * is a doubt about it. Point look-ups and inserts only, a page cache of fixed size.
 *
 * The hardest rule: a row must never outlive its pack, for a hit means that content is not stored
 * again. Rows of a pack and the pack's own row are changed in one transaction, and a pack that was
 * known as durable and has vanished makes the whole index be built anew (another pack may hold the
 * same ids).
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "repo/repo-internal.h"
#include "sql/db.h"
#include "sql/migrate.h"

#define CACHE_KIB (8U << 10)

static const Migration index_migrations[] = {
        { 1, "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
             "CREATE TABLE packs ("
             " no INTEGER PRIMARY KEY AUTOINCREMENT,"
             " uuid BLOB NOT NULL UNIQUE, session BLOB NOT NULL,"
             " kind INTEGER NOT NULL, size INTEGER NOT NULL, durable INTEGER NOT NULL);"
             "CREATE TABLE chunks ("
             " id BLOB PRIMARY KEY, pack_no INTEGER NOT NULL, ordinal INTEGER NOT NULL,"
             " offset INTEGER NOT NULL, stored INTEGER NOT NULL, plain INTEGER NOT NULL,"
             " class INTEGER NOT NULL, extra INTEGER NOT NULL,"
             " member_offset INTEGER, member_size INTEGER) WITHOUT ROWID;"
             "CREATE TABLE extras ("
             " pack_no INTEGER NOT NULL, ordinal INTEGER NOT NULL, id BLOB NOT NULL,"
             " class INTEGER NOT NULL, session BLOB NOT NULL, pack BLOB NOT NULL,"
             " origin INTEGER NOT NULL, PRIMARY KEY (pack_no, ordinal)) WITHOUT ROWID;"
             "CREATE TABLE bases (backup BLOB PRIMARY KEY) WITHOUT ROWID;" },
};

enum {
        Q_FIND,
        Q_EXTRA_GET,
        Q_PACK_GET,
        Q_ADD,
        Q_FORGET,
        Q_EXTRA_ADD,
        Q_PACK_ADD,
        Q_PACK_FINISH,
        Q_N,
};

static const char *const index_sql[Q_N] = {
        [Q_FIND] = "SELECT pack_no, ordinal, offset, stored, plain, class, extra,"
                   " member_offset, member_size FROM chunks WHERE id = ?1",
        [Q_EXTRA_GET] = "SELECT id, class, session, pack, origin FROM extras"
                        " WHERE pack_no = ?1 AND ordinal = ?2",
        [Q_PACK_GET] = "SELECT no, uuid, session, kind, size, durable FROM packs WHERE no = ?1",
        /* The first place stays: all rows are alive, so either would do. */
        [Q_ADD] = "INSERT OR IGNORE INTO chunks VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        [Q_FORGET] = "DELETE FROM chunks WHERE id = ?1",
        [Q_EXTRA_ADD] = "INSERT OR IGNORE INTO extras VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        [Q_PACK_ADD] = "INSERT INTO packs (uuid, session, kind, size, durable)"
                       " VALUES (?1, ?2, ?3, ?4, ?5) RETURNING no",
        [Q_PACK_FINISH] = "UPDATE packs SET size = ?2 WHERE no = ?1",
};

struct Index {
        Db *db;
        DbStmt *q[Q_N];
        int state_fd;
        int seal;
        const char *note;
        bool damaged, scratch;
        Buf suspects; /* u64 numbers of packs that are read, but not relied on */
};

/* Notes damage, and says what happens about it. */
static int failed(Index *x, int r, Failure *reterr) {
        if (r == -EUCLEAN) {
                x->damaged = true;
                fail_prefix(reterr, "the local index is damaged; the next run makes it again");
        }
        return r;
}

/* ---- open ---- */

static void remove_files(int state_fd) {
        static const char *const names[] = { INDEX_NAME, INDEX_NAME "-wal", INDEX_NAME "-shm" };

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                (void) unlinkat(state_fd, names[i], 0); /* what stays shows at the next open */
}

/* 1 if the database is this repository's, 0 if it is another's; a new one is made this one's. */
static int claim(Db *db, const uint8_t repository[UUID_SIZE], Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *get = NULL, *put = NULL;
        const void *value;
        size_t n;
        int r;

        r = db_prepare(db, "SELECT value FROM meta WHERE key = 'repository'", &get, reterr);
        if (r < 0)
                return r;
        r = db_step(get, reterr);
        if (r < 0)
                return r;
        if (r > 0) {
                value = db_column_blob(get, 0, &n);
                return n == UUID_SIZE && memcmp(value, repository, UUID_SIZE) == 0;
        }
        r = db_prepare(db, "INSERT INTO meta VALUES ('repository', ?1)", &put, reterr);
        if (r < 0)
                return r;
        db_bind_blob(put, 1, repository, UUID_SIZE);
        r = db_run(put, reterr);
        return r < 0 ? r : 1;
}

/* 1; 0 if it is another repository's. */
static int set_up(Index *x, const uint8_t repository[UUID_SIZE], Failure *reterr) {
        int r = migrate_apply(x->db, index_migrations, ELEMENTSOF(index_migrations), reterr);

        if (r >= 0)
                r = claim(x->db, repository, reterr);
        for (int i = 0; r > 0 && i < Q_N; i++) {
                r = db_prepare(x->db, index_sql[i], &x->q[i], reterr);
                r = r < 0 ? r : 1;
        }
        return r;
}

/* 1; 0 if the file is of no use and must be made again. */
static int try_open(int state_fd, const uint8_t repository[UUID_SIZE], Index *x, Failure *reterr) {
        const DbOptions options = { .cache_kib = CACHE_KIB, .busy_msec = 30000 };
        char path[64];
        int r;

        (void) snprintf(path, sizeof(path), "/proc/self/fd/%d/" INDEX_NAME, state_fd);
        r = db_open(path, &options, &x->db, reterr);
        if (r >= 0)
                r = set_up(x, repository, reterr);
        /* -EIO: a schema that lacks what it should have; a cache is not worth a diagnosis. */
        return r == -EUCLEAN || r == -ENOTSUP || r == -EIO || r == -EEXIST ? 0 : r;
}

static void close_db(Index *x) {
        for (int i = 0; i < Q_N; i++)
                db_stmt_free(TAKE_PTR(x->q[i]));
        db_close(TAKE_PTR(x->db));
}

/*
 * Nobody else has it open. A look through it would find torn pages, not rows that say something
 * else: what another hand has touched, even by putting a copy back, is not believed.
 */
static void prepare_files(Index *x) {
        switch (index_seal_judge(x->seal, x->state_fd)) {
        case INDEX_SEAL_WHOLE:
                return;
        case INDEX_SEAL_ABSENT:
                x->note = "there was none";
                break;
        case INDEX_SEAL_CHANGED:
                x->note = "it is not as it was left";
                break;
        }
        remove_files(x->state_fd);
}

int index_open(int state_fd, const uint8_t repository[UUID_SIZE], Index **ret, Failure *reterr) {
        _cleanup_(index_closep) Index *x = calloc(1, sizeof(*x));
        Failure ignored = FAILURE_INIT;
        bool alone = false;
        int r;

        if (!x)
                return -ENOMEM;
        x->state_fd = state_fd;
        x->seal = index_seal_open(state_fd, &alone);
        if (x->seal < 0)
                return fail_errno(reterr, fail_code_for_write(x->seal, FAIL_INTERNAL), -x->seal,
                                  "the worker's " INDEX_NAME);
        if (alone)
                prepare_files(x);
        r = try_open(state_fd, repository, x, &ignored);
        if (r == 0) {
                x->note = "it was damaged, or another repository's";
                close_db(x);
                remove_files(state_fd);
                ignored = FAILURE_INIT;
                r = try_open(state_fd, repository, x, &ignored);
                if (r == 0)
                        r = -EIO;
        }
        if (r < 0) {
                if (reterr && reterr->code == FAIL_NONE)
                        *reterr = ignored;
                fail_prefix(reterr, "the worker's index of the repository");
                return fail_errno(reterr, FAIL_INTERNAL, -r, "the index cannot be opened");
        }
        if (alone) {
                index_seal_put(x->seal, state_fd);
                index_seal_share(x->seal);
        }
        *ret = TAKE_PTR(x);
        return 0;
}

int index_open_scratch(const uint8_t repository[UUID_SIZE], Index **ret, Failure *reterr) {
        _cleanup_(index_closep) Index *x = calloc(1, sizeof(*x));
        int r;

        if (!x)
                return -ENOMEM;
        x->seal = -1;
        x->scratch = true;
        x->note = "the state cannot be written; one in memory serves for this job";
        r = db_open_scratch(CACHE_KIB, &x->db, reterr);
        if (r >= 0)
                r = set_up(x, repository, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(x);
        return 0;
}

void index_close(Index *x) {
        if (!x)
                return;
        if (x->db)
                db_rollback(x->db);
        close_db(x);
        if (x->damaged && !x->scratch)
                remove_files(x->state_fd);
        if (x->seal >= 0)
                index_seal_settle(x->seal, x->state_fd);
        fd_close(x->seal);
        buf_done(&x->suspects);
        free(x);
}

const char *index_note(const Index *x) {
        return x->note;
}

/* ---- look-ups ---- */

static int copy_blob(DbStmt *s, int column, uint8_t *ret, size_t size) {
        size_t n;
        const void *p = db_column_blob(s, column, &n);

        if (!p || n != size)
                return -EUCLEAN;
        memcpy(ret, p, size);
        return 0;
}

int index_find(Index *x, const uint8_t id[ID_SIZE], IndexPlace *ret, Failure *reterr) {
        DbStmt *s = x->q[Q_FIND];
        int r;

        db_reset(s);
        db_bind_blob(s, 1, id, ID_SIZE);
        r = db_step(s, reterr);
        if (r > 0) {
                *ret = (IndexPlace){
                        .pack_no = (uint64_t) db_column_int(s, 0),
                        .ordinal = (uint32_t) db_column_int(s, 1),
                        .offset = (uint64_t) db_column_int(s, 2),
                        .stored = (uint32_t) db_column_int(s, 3),
                        .plain = (uint32_t) db_column_int(s, 4),
                        .class = (uint8_t) db_column_int(s, 5),
                        .extra = db_column_int(s, 6) != 0,
                        .member = !db_column_is_null(s, 8),
                        .member_offset = (uint32_t) db_column_int(s, 7),
                        .member_size = (uint32_t) db_column_int(s, 8),
                };
        }
        db_reset(s); /* no read transaction is left open between questions */
        return failed(x, r, reterr);
}

bool index_is_suspect(const Index *x, uint64_t pack_no) {
        for (size_t i = 0; i < x->suspects.size; i += sizeof(pack_no))
                if (get_le64(x->suspects.data + i) == pack_no)
                        return true;
        return false;
}

bool index_has_suspects(const Index *x) {
        return x->suspects.size > 0;
}

int index_find_sound(Index *x, const uint8_t id[ID_SIZE], IndexPlace *ret, Failure *reterr) {
        int r = index_find(x, id, ret, reterr);

        return r > 0 && index_is_suspect(x, ret->pack_no) ? 0 : r;
}

int index_extra_get(Index *x,
                    uint64_t pack_no,
                    uint32_t ordinal,
                    IndexExtra *ret,
                    Failure *reterr) {
        DbStmt *s = x->q[Q_EXTRA_GET];
        int r;

        db_reset(s);
        db_bind_int(s, 1, (int64_t) pack_no);
        db_bind_int(s, 2, ordinal);
        r = db_step(s, reterr);
        if (r > 0) {
                ret->class = (uint8_t) db_column_int(s, 1);
                ret->ordinal = (uint32_t) db_column_int(s, 4);
                if (copy_blob(s, 0, ret->id, ID_SIZE) < 0 ||
                    copy_blob(s, 2, ret->session, UUID_SIZE) < 0 ||
                    copy_blob(s, 3, ret->pack, UUID_SIZE) < 0)
                        r = fail_set(reterr, FAIL_INTERNAL, EUCLEAN, "a row is malformed");
        }
        db_reset(s);
        return failed(x, r, reterr);
}

static int read_pack(DbStmt *s, IndexPack *ret, Failure *reterr) {
        *ret = (IndexPack){
                .no = (uint64_t) db_column_int(s, 0),
                .kind = (PackKind) db_column_int(s, 3),
                .size = (uint64_t) db_column_int(s, 4),
                .durable = db_column_int(s, 5) != 0,
        };
        if (copy_blob(s, 1, ret->uuid, UUID_SIZE) < 0 ||
            copy_blob(s, 2, ret->session, UUID_SIZE) < 0)
                return fail_set(reterr, FAIL_INTERNAL, EUCLEAN, "a row is malformed");
        return 1;
}

int index_pack_get(Index *x, uint64_t no, IndexPack *ret, Failure *reterr) {
        DbStmt *s = x->q[Q_PACK_GET];
        int r;

        db_reset(s);
        db_bind_int(s, 1, (int64_t) no);
        r = db_step(s, reterr);
        if (r > 0)
                r = read_pack(s, ret, reterr);
        db_reset(s);
        return failed(x, r, reterr);
}

int index_each_pack(Index *x,
                    int (*on_pack)(void *userdata, const IndexPack *pack, Failure *reterr),
                    void *userdata,
                    Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        IndexPack pack;
        int r;

        r = db_prepare(x->db,
                       "SELECT no, uuid, session, kind, size, durable FROM packs ORDER BY no", &s,
                       reterr);
        if (r < 0)
                return failed(x, r, reterr);
        while ((r = db_step(s, reterr)) > 0) {
                r = read_pack(s, &pack, reterr);
                if (r >= 0)
                        r = on_pack(userdata, &pack, reterr);
                if (r < 0)
                        break;
        }
        return failed(x, r, reterr);
}

/* One number from one statement with at most one number or blob as its parameter. */
static int number(Index *x,
                  const char *sql,
                  const uint64_t *no,
                  const uint8_t *uuid,
                  uint64_t *ret,
                  Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r;

        r = db_prepare(x->db, sql, &s, reterr);
        if (r < 0)
                return failed(x, r, reterr);
        if (no)
                db_bind_int(s, 1, (int64_t) *no);
        if (uuid)
                db_bind_blob(s, 1, uuid, UUID_SIZE);
        r = db_step(s, reterr);
        if (r > 0)
                *ret = (uint64_t) db_column_int(s, 0);
        return failed(x, r < 0 ? r : 0, reterr);
}

int index_each_row(Index *x,
                   int (*on_row)(void *userdata, uint64_t pack_no, Failure *reterr),
                   void *userdata,
                   Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r;

        r = db_prepare(x->db, "SELECT pack_no FROM chunks", &s, reterr);
        while (r >= 0 && (r = db_step(s, reterr)) > 0)
                r = on_row(userdata, (uint64_t) db_column_int(s, 0), reterr);
        return failed(x, r, reterr);
}

void index_discard(Index *x) {
        x->damaged = true;
}

int index_stored_bytes(Index *x, uint64_t *ret, Failure *reterr) {
        return number(x, "SELECT coalesce(sum(size), 0) FROM packs", NULL, NULL, ret, reterr);
}

int index_set_suspects(Index *x, const uint8_t *uuids, size_t n, Failure *reterr) {
        uint8_t raw[8];
        uint64_t no;
        int r = 0;

        buf_clear(&x->suspects);
        for (size_t i = 0; i < n && r >= 0; i++) {
                no = 0; /* none has this number */
                r = number(x, "SELECT no FROM packs WHERE uuid = ?1", NULL, uuids + i * UUID_SIZE,
                           &no, reterr);
                put_le64(raw, no);
                if (r >= 0 && no > 0)
                        r = buf_put(&x->suspects, raw, sizeof(raw));
        }
        return r;
}

int index_each_origin(Index *x,
                      int (*on_session)(void *userdata,
                                        const uint8_t session[UUID_SIZE],
                                        Failure *reterr),
                      void *userdata,
                      Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        uint8_t session[UUID_SIZE];
        int r;

        r = db_prepare(x->db,
                       "SELECT session FROM packs UNION SELECT session FROM extras"
                       " WHERE pack_no IN (SELECT no FROM packs)",
                       &s, reterr);
        while (r >= 0 && (r = db_step(s, reterr)) > 0) {
                r = copy_blob(s, 0, session, UUID_SIZE);
                if (r >= 0)
                        r = on_session(userdata, session, reterr);
        }
        return failed(x, r, reterr);
}

/* ---- changes ---- */

static int begin(Index *x, Failure *reterr) {
        return db_in_transaction(x->db) ? 0 : failed(x, db_begin(x->db, reterr), reterr);
}

int index_commit(Index *x, Failure *reterr) {
        int r;

        if (!db_in_transaction(x->db))
                return 0;
        r = failed(x, db_commit(x->db, reterr), reterr);
        if (r >= 0 && !x->scratch)
                index_seal_put(x->seal, x->state_fd);
        return r;
}

void index_rollback(Index *x) {
        db_rollback(x->db);
}

static int run(Index *x, DbStmt *s, Failure *reterr) {
        return failed(x, db_run(s, reterr), reterr);
}

int index_pack_add(Index *x, const IndexPack *pack, uint64_t *ret_no, Failure *reterr) {
        DbStmt *s = x->q[Q_PACK_ADD];
        int r = begin(x, reterr);

        if (r < 0)
                return r;
        db_reset(s);
        db_bind_blob(s, 1, pack->uuid, UUID_SIZE);
        db_bind_blob(s, 2, pack->session, UUID_SIZE);
        db_bind_int(s, 3, pack->kind);
        db_bind_int(s, 4, (int64_t) pack->size);
        db_bind_int(s, 5, pack->durable);
        r = db_step(s, reterr);
        if (r > 0)
                *ret_no = (uint64_t) db_column_int(s, 0);
        if (r >= 0)
                r = db_run(s, reterr); /* RETURNING is done when the statement ended */
        db_reset(s);
        return failed(x, r, reterr);
}

int index_pack_finish(Index *x, uint64_t no, uint64_t size, Failure *reterr) {
        DbStmt *s = x->q[Q_PACK_FINISH];
        int r = begin(x, reterr);

        if (r < 0)
                return r;
        db_reset(s);
        db_bind_int(s, 1, (int64_t) no);
        db_bind_int(s, 2, (int64_t) size);
        return run(x, s, reterr);
}

/* The place in a pack that is not relied on makes way. */
static int forget_suspect(Index *x, const uint8_t id[ID_SIZE], Failure *reterr) {
        DbStmt *s = x->q[Q_FORGET];
        IndexPlace place;
        int r = index_find(x, id, &place, reterr);

        if (r <= 0 || !index_is_suspect(x, place.pack_no))
                return r < 0 ? r : 0;
        db_reset(s);
        db_bind_blob(s, 1, id, ID_SIZE);
        return run(x, s, reterr);
}

int index_add(Index *x, const uint8_t id[ID_SIZE], const IndexPlace *place, Failure *reterr) {
        DbStmt *s = x->q[Q_ADD];
        int r = begin(x, reterr);

        if (r >= 0 && index_has_suspects(x) && !index_is_suspect(x, place->pack_no))
                r = forget_suspect(x, id, reterr);
        if (r < 0)
                return r;
        db_reset(s);
        db_bind_blob(s, 1, id, ID_SIZE);
        db_bind_int(s, 2, (int64_t) place->pack_no);
        db_bind_int(s, 3, place->ordinal);
        db_bind_int(s, 4, (int64_t) place->offset);
        db_bind_int(s, 5, place->stored);
        db_bind_int(s, 6, place->plain);
        db_bind_int(s, 7, place->class);
        db_bind_int(s, 8, place->extra);
        if (place->member) {
                db_bind_int(s, 9, place->member_offset);
                db_bind_int(s, 10, place->member_size);
        }
        return run(x, s, reterr);
}

int index_extra_add(Index *x,
                    uint64_t pack_no,
                    uint32_t ordinal,
                    const IndexExtra *extra,
                    Failure *reterr) {
        DbStmt *s = x->q[Q_EXTRA_ADD];
        int r = begin(x, reterr);

        if (r < 0)
                return r;
        db_reset(s);
        db_bind_int(s, 1, (int64_t) pack_no);
        db_bind_int(s, 2, ordinal);
        db_bind_blob(s, 3, extra->id, ID_SIZE);
        db_bind_int(s, 4, extra->class);
        db_bind_blob(s, 5, extra->session, UUID_SIZE);
        db_bind_blob(s, 6, extra->pack, UUID_SIZE);
        db_bind_int(s, 7, extra->ordinal);
        return run(x, s, reterr);
}

/* The origin of a record that was copied here, or this pack. */
static void fill_extra(const uint8_t pack[UUID_SIZE],
                       const uint8_t session[UUID_SIZE],
                       const PackEntry *e,
                       IndexExtra *ret) {
        *ret = (IndexExtra){ .class = e->class, .ordinal = e->ordinal };
        memcpy(ret->id, e->id, ID_SIZE);
        memcpy(ret->session, e->origin ? e->origin : session, UUID_SIZE);
        memcpy(ret->pack, e->origin ? e->origin + UUID_SIZE : pack, UUID_SIZE);
        if (e->origin)
                ret->ordinal = get_le32(e->origin + 2 * (size_t) UUID_SIZE);
}

int index_add_entry(Index *x,
                    uint64_t pack_no,
                    const uint8_t pack[UUID_SIZE],
                    const uint8_t session[UUID_SIZE],
                    const PackEntry *e,
                    Failure *reterr) {
        IndexPlace place = {
                .pack_no = pack_no,
                .ordinal = e->ordinal,
                .offset = e->offset,
                .stored = e->stored,
                .plain = e->plain,
                .class = e->n_members > 0 ? CLASS_SMALL : e->class,
                .extra = e->n_members > 0 || e->origin,
                .member = e->n_members > 0,
        };
        IndexExtra extra;
        int r = 0;

        if (place.extra) {
                fill_extra(pack, session, e, &extra);
                r = index_extra_add(x, pack_no, e->ordinal, &extra, reterr);
        }
        if (r >= 0 && !place.member)
                r = index_add(x, e->id, &place, reterr);
        for (size_t i = 0; i < e->n_members && r >= 0; i++) {
                const uint8_t *m = e->members + i * (ID_SIZE + 8);

                place.member_offset = get_le32(m + ID_SIZE);
                place.member_size = get_le32(m + ID_SIZE + 4);
                r = index_add(x, m, &place, reterr);
        }
        return r;
}

/* A rare change, in the transaction. */
static int
change(Index *x, const char *sql, const uint64_t *no, const uint8_t *uuid, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *s = NULL;
        int r = begin(x, reterr);

        if (r >= 0)
                r = db_prepare(x->db, sql, &s, reterr);
        if (r < 0)
                return failed(x, r, reterr);
        if (no)
                db_bind_int(s, 1, (int64_t) *no);
        if (uuid)
                db_bind_blob(s, 1, uuid, UUID_SIZE);
        return run(x, s, reterr);
}

int index_pack_remove(Index *x, uint64_t no, Failure *reterr) {
        int r = change(x, "DELETE FROM extras WHERE pack_no = ?1", &no, NULL, reterr);

        return r < 0 ? r : change(x, "DELETE FROM packs WHERE no = ?1", &no, NULL, reterr);
}

int index_sweep(Index *x, Failure *reterr) {
        return change(x, "DELETE FROM chunks WHERE pack_no NOT IN (SELECT no FROM packs)", NULL,
                      NULL, reterr);
}

int index_session_remove(Index *x, const uint8_t session[UUID_SIZE], Failure *reterr) {
        int r;

        r = change(x,
                   "DELETE FROM extras WHERE pack_no IN"
                   " (SELECT no FROM packs WHERE session = ?1)",
                   NULL, session, reterr);
        if (r >= 0)
                r = change(x, "DELETE FROM packs WHERE session = ?1", NULL, session, reterr);
        if (r >= 0)
                r = index_sweep(x, reterr);
        return r < 0 ? r : index_commit(x, reterr);
}

int index_mark_durable(Index *x, const uint8_t *session, Failure *reterr) {
        return change(x,
                      session ? "UPDATE packs SET durable = 1 WHERE session = ?1 AND durable = 0"
                              : "UPDATE packs SET durable = 1 WHERE durable = 0",
                      NULL, session, reterr);
}

int index_clear(Index *x, Failure *reterr) {
        static const char *const sql[] = {
                "DELETE FROM chunks",
                "DELETE FROM extras",
                "DELETE FROM packs",
                "DELETE FROM bases",
        };
        int r = 0;

        for (size_t i = 0; i < ELEMENTSOF(sql) && r >= 0; i++)
                r = change(x, sql[i], NULL, NULL, reterr);
        return r;
}

/* ---- trust ---- */

int index_trust(Index *x, const uint8_t backup[UUID_SIZE], Failure *reterr) {
        int r = change(x, "INSERT OR IGNORE INTO bases VALUES (?1)", NULL, backup, reterr);

        return r < 0 ? r : index_commit(x, reterr);
}

int index_distrust(Index *x, const uint8_t backup[UUID_SIZE], Failure *reterr) {
        int r = change(x, "DELETE FROM bases WHERE backup = ?1", NULL, backup, reterr);

        return r < 0 ? r : index_commit(x, reterr);
}

int index_is_trusted(Index *x, const uint8_t backup[UUID_SIZE], Failure *reterr) {
        uint64_t n = 0;
        int r = number(x, "SELECT count(*) FROM bases WHERE backup = ?1", NULL, backup, &n, reterr);

        return r < 0 ? r : n > 0;
}
