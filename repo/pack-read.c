/*
 * Opening single records. Packs and their keys are kept in a small cache, for content comes in
 * runs: a pack change costs an open, a derivation, and for content of another session one X25519
 * operation.
 */

#include <errno.h>
#include <string.h>

#include "base/fd.h"
#include "base/text.h"
#include "repo/pack.h"

#define CACHE_PACKS 32

typedef struct CachedPack {
        uint64_t no, used;
        int fd; /* -1: free */
        IndexPack row;
        Secret key;
} CachedPack;

struct PackCache {
        CachedPack packs[CACHE_PACKS];
        uint64_t clock;
        uint8_t session[UUID_SIZE]; /* whose K_s this is */
        Secret session_key;
        Buf stored, packed;
};

static void cached_done(CachedPack *c) {
        c->fd = fd_close(c->fd);
        secret_done(&c->key);
}

void pack_cache_free(PackCache *c) {
        if (!c)
                return;
        for (size_t i = 0; i < CACHE_PACKS; i++)
                cached_done(&c->packs[i]);
        secret_done(&c->session_key);
        buf_done(&c->stored);
        buf_done(&c->packed);
        free(c);
}

static int cache_get(Repo *repo, PackCache **ret) {
        if (!repo->packs) {
                repo->packs = calloc(1, sizeof(*repo->packs));
                if (!repo->packs)
                        return -ENOMEM;
                for (size_t i = 0; i < CACHE_PACKS; i++)
                        repo->packs->packs[i].fd = -1;
                repo->packs->stored = BUF_INIT(RECORD_PLAIN_MAX + RECORD_OVERHEAD);
                repo->packs->packed = BUF_INIT(RECORD_PLAIN_MAX);
        }
        *ret = repo->packs;
        return 0;
}

/* ---- keys ---- */

/* K_s, borrowed until the next call. */
static int session_key(Repo *repo,
                       PackCache *c,
                       const uint8_t session[UUID_SIZE],
                       const uint8_t **ret,
                       Failure *reterr) {
        int r;

        if (!c->session_key.data || memcmp(c->session, session, UUID_SIZE) != 0) {
                secret_done(&c->session_key);
                r = keyfile_session_open(repo, session, &c->session_key, reterr);
                if (r < 0)
                        return r;
                memcpy(c->session, session, UUID_SIZE);
        }
        *ret = c->session_key.data;
        return 0;
}

static int record_key(Repo *repo,
                      PackCache *c,
                      PackKind kind,
                      const uint8_t session[UUID_SIZE],
                      const uint8_t pack[UUID_SIZE],
                      uint8_t ret[KEY_SIZE],
                      Failure *reterr) {
        const uint8_t *base = repo->keys.meta.data;
        int r = kind == PACK_CONTENT ? session_key(repo, c, session, &base, reterr) : 0;

        if (r < 0)
                return r;
        r = pack_key(base, pack, LABEL_PACK, ret);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot derive a key") : 0;
}

/* ---- open packs ---- */

static int damaged(const uint8_t uuid[UUID_SIZE], int errnum, Failure *reterr, const char *why) {
        char name[STORE_NAME_MAX];

        store_pack_name(uuid, name);
        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, errnum,
                        "%s %s; bring this file back from a copy of the repository, or move "
                        "it away: the next backup then stores again what is still in the services",
                        name, why);
}

static int cached_open(Repo *repo, PackCache *c, CachedPack *p, uint64_t no, Failure *reterr) {
        uint8_t key[KEY_SIZE];
        int r;

        cached_done(p);
        r = index_pack_get(repo->index, no, &p->row, reterr);
        if (r == 0)
                return fail_set(reterr, FAIL_INTERNAL, EUCLEAN, "the index names no such pack");
        if (r < 0)
                return r;
        r = record_key(repo, c, p->row.kind, p->row.session, p->row.uuid, key, reterr);
        if (r >= 0)
                r = secret_copy(&p->key, key, KEY_SIZE);
        explicit_bzero(key, sizeof(key));
        if (r < 0)
                return r;
        p->fd = store_pack_open(repo->store, p->row.uuid);
        if (p->fd < 0) {
                r = p->fd;
                cached_done(p);
                return damaged(p->row.uuid, -r, reterr,
                               r == -ENOENT ? "is missing" : "cannot be opened");
        }
        p->no = no;
        return 0;
}

static int cached_get(Repo *repo, PackCache *c, uint64_t no, CachedPack **ret, Failure *reterr) {
        CachedPack *oldest = &c->packs[0];
        int r;

        for (size_t i = 0; i < CACHE_PACKS; i++) {
                CachedPack *p = &c->packs[i];

                if (p->fd >= 0 && p->no == no) {
                        p->used = ++c->clock;
                        *ret = p;
                        return 0;
                }
                if (p->fd < 0 ? oldest->fd >= 0 : oldest->fd >= 0 && p->used < oldest->used)
                        oldest = p;
        }
        r = cached_open(repo, c, oldest, no, reterr);
        if (r < 0)
                return r;
        oldest->used = ++c->clock;
        *ret = oldest;
        return 0;
}

/* ---- records ---- */

/* Who sealed the record at `place`, and with which key. */
static int identify(Repo *repo,
                    PackCache *c,
                    const CachedPack *p,
                    const IndexPlace *place,
                    const uint8_t id[ID_SIZE],
                    PackIdentity *ret,
                    uint8_t ret_key[KEY_SIZE],
                    Failure *reterr) {
        IndexExtra extra;
        int r;

        *ret = (PackIdentity){ .ordinal = place->ordinal, .class = place->class };
        memcpy(ret->session, p->row.session, UUID_SIZE);
        memcpy(ret->pack, p->row.uuid, UUID_SIZE);
        memcpy(ret->id, id, ID_SIZE);
        memcpy(ret_key, p->key.data, KEY_SIZE);
        if (!place->extra)
                return 0;
        r = index_extra_get(repo->index, place->pack_no, place->ordinal, &extra, reterr);
        if (r < 0)
                return r;
        if (r == 0)
                return fail_set(reterr, FAIL_INTERNAL, EUCLEAN, "the index lacks a row");
        ret->class = extra.class;
        ret->ordinal = extra.ordinal;
        memcpy(ret->id, extra.id, ID_SIZE);
        if (memcmp(extra.pack, p->row.uuid, UUID_SIZE) == 0)
                return 0;
        memcpy(ret->session, extra.session, UUID_SIZE);
        memcpy(ret->pack, extra.pack, UUID_SIZE);
        return record_key(repo, c, p->row.kind, extra.session, extra.pack, ret_key, reterr);
}

/* Decrypts what lies in c->stored, and expands it. -EBADMSG for damage. */
static int open_stored(Repo *repo,
                       PackCache *c,
                       PackIdentity *who,
                       const uint8_t key[KEY_SIZE],
                       uint32_t plain,
                       Buf *ret) {
        uint8_t nonce[NONCE_SIZE], aad[RECORD_AAD_SIZE];
        size_t n = c->stored.size - RECORD_OVERHEAD;
        uint8_t *out;
        int r;

        who->flag = c->stored.data[0];
        if (who->flag != STORED_RAW && who->flag != STORED_ZSTD)
                return -EBADMSG;
        if (who->flag == STORED_RAW && n != plain)
                return -EBADMSG;
        buf_clear(&c->packed);
        r = buf_reserve(ret, plain);
        if (r >= 0 && who->flag == STORED_ZSTD)
                r = buf_reserve(&c->packed, n);
        if (r < 0)
                return r;
        out = who->flag == STORED_ZSTD ? c->packed.data : ret->data;
        pack_aad(repo->uuid, who, aad);
        pack_nonce(who->ordinal, nonce);
        r = crypto_open(repo->crypto, key, nonce, (CryptoPart){ aad, sizeof(aad) },
                        c->stored.data + 1, n + TAG_SIZE, out);
        if (r >= 0 && who->flag == STORED_ZSTD)
                r = compress_expand(repo->expand, out, n, ret->data, plain);
        if (r >= 0)
                ret->size = plain;
        return r;
}

static int read_stored(const CachedPack *p, const IndexPlace *place, Buf *to, Failure *reterr) {
        ssize_t n;
        int r;

        buf_clear(to);
        r = buf_reserve(to, place->stored);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot read a record");
        n = fd_pread_full(p->fd, to->data, place->stored, place->offset);
        if (n < 0)
                return damaged(p->row.uuid, (int) -n, reterr, "cannot be read");
        if ((size_t) n != place->stored)
                return damaged(p->row.uuid, EBADMSG, reterr, "is cut short");
        to->size = (size_t) n;
        return 0;
}

int pack_read(Repo *repo,
              const IndexPlace *place,
              const uint8_t id[ID_SIZE],
              Buf *ret,
              Failure *reterr) {
        PackIdentity who;
        uint8_t key[KEY_SIZE];
        CachedPack *p;
        PackCache *c;
        char why[64];
        int r;

        buf_clear(ret);
        r = cache_get(repo, &c);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot read packs");
        if (place->stored <= RECORD_OVERHEAD || place->plain > RECORD_PLAIN_MAX)
                return fail_set(reterr, FAIL_INTERNAL, EUCLEAN, "a row of the index is malformed");
        r = cached_get(repo, c, place->pack_no, &p, reterr);
        if (r >= 0)
                r = read_stored(p, place, &c->stored, reterr);
        if (r < 0)
                return r;
        r = identify(repo, c, p, place, id, &who, key, reterr);
        if (r < 0)
                return r;
        r = open_stored(repo, c, &who, key, place->plain, ret);
        explicit_bzero(key, sizeof(key));
        if (r == -EBADMSG) {
                (void) snprintf(why, sizeof(why), "is damaged in record %u", place->ordinal);
                return damaged(p->row.uuid, EBADMSG, reterr, why);
        }
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot open a record") : 0;
}
