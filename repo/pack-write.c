/*
 * Packs while they are written. A record's place (ordinal, offset) is taken under the caller's
 * mutex once its stored length is known; it is then sealed and written by whichever thread, in any
 * order. A pack that is full takes no more; it is published when the last pending record in it is
 * done. So there may be several unpublished packs, at most one of which takes records.
 *
 * Nonces: the key is the pack's own and every ordinal is given out once, so no nonce repeats; a
 * record that fails after its place was taken voids the session, never the place is used again.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/step.h"
#include "base/text.h"
#include "repo/pack.h"

struct PackFile {
        PackFile *next;
        PackWriter *writer;
        int fd;
        uint64_t no; /* in the index */
        uint8_t uuid[UUID_SIZE];
        Secret key;
        uint64_t end; /* where the next record goes */
        uint32_t records, pending;
        bool full;
        Buf directory; /* plain; hashes are filled in when records are done */
        Buf starts;    /* u32 offset into `directory`, per ordinal */
        Buf table;     /* u32 CRC, per ordinal */
};

struct PackWriter {
        Repo *repo;
        PackKind kind;
        uint8_t session[UUID_SIZE];
        Secret base_key; /* K_s or K_meta */
        Crypto *crypto;  /* for directories: whoever holds the mutex may publish */
        uint64_t pack_bytes;
        PackFile *packs; /* unpublished; the first one takes records unless it is full */
        Buf published;   /* uuids */
        uint64_t bytes;
};

#define PUBLISHED_MAX ((size_t) 64 << 20)

int pack_writer_new(Repo *repo,
                    PackKind kind,
                    const uint8_t session[UUID_SIZE],
                    const Secret *content_key,
                    uint64_t pack_bytes,
                    PackWriter **ret,
                    Failure *reterr) {
        const uint8_t *base = kind == PACK_CONTENT ? content_key->data : repo->keys.meta.data;
        PackWriter *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "cannot write packs");
        r = secret_copy(&w->base_key, base, KEY_SIZE);
        if (r >= 0)
                r = crypto_new(&repo->keys, &w->crypto);
        if (r < 0) {
                secret_done(&w->base_key);
                free(w);
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot write packs");
        }
        w->repo = repo;
        w->kind = kind;
        memcpy(w->session, session, UUID_SIZE);
        w->pack_bytes = pack_bytes < (1u << 20)          ? 1u << 20
                        : pack_bytes > PACK_SIZE_MAX / 2 ? PACK_SIZE_MAX / 2
                                                         : pack_bytes;
        w->published = BUF_INIT(PUBLISHED_MAX);
        *ret = w;
        return 0;
}

static int write_failed(const PackFile *p, int r, Failure *reterr) {
        char name[STORE_NAME_MAX];

        store_pack_name(p->uuid, name);
        return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                          "cannot write %s of the repository", name);
}

static void file_free(PackFile *p) {
        fd_close(p->fd);
        secret_done(&p->key);
        buf_done(&p->directory);
        buf_done(&p->starts);
        buf_done(&p->table);
        free(p);
}

static int file_new(PackWriter *w, PackFile **ret, Failure *reterr) {
        uint8_t header[PACK_HEADER_SIZE];
        IndexPack row = { .kind = w->kind };
        PackFile *p = calloc(1, sizeof(*p));
        int r;

        if (!p)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "cannot make a pack");
        p->fd = -1;
        p->writer = w;
        p->end = PACK_HEADER_SIZE;
        p->directory = BUF_INIT(PACK_DIRECTORY_MAX);
        p->starts = BUF_INIT(4 * PACK_RECORDS_MAX);
        p->table = BUF_INIT(4 * (PACK_RECORDS_MAX + 2));
        r = text_uuid_new(p->uuid);
        if (r >= 0)
                r = secret_new(&p->key, KEY_SIZE);
        if (r >= 0)
                r = pack_key(w->base_key.data, p->uuid, LABEL_PACK, p->key.data);
        if (r >= 0)
                r = p->fd = store_pack_create(w->repo->store, p->uuid, reterr);
        if (r >= 0) {
                pack_header(w->repo->uuid, w->kind, p->uuid, w->session, header);
                r = fd_pwrite_full(p->fd, header, sizeof(header), 0);
        }
        if (r < 0) {
                r = write_failed(p, r, reterr);
        } else {
                memcpy(row.uuid, p->uuid, UUID_SIZE);
                memcpy(row.session, w->session, UUID_SIZE);
                r = index_pack_add(w->repo->index, &row, &p->no, reterr);
        }
        if (r < 0) {
                (void) store_pack_remove(w->repo->store, p->uuid); /* the sweep gets it otherwise */
                file_free(p);
                return r;
        }
        *ret = p;
        return 0;
}

/* ---- places ---- */

static int put_directory(PackFile *p, const PackRecord *record, uint32_t stored) {
        static const uint8_t no_hash[HASH_SIZE] = { 0 };
        bool bundle = record->n_members > 0;
        size_t need = DIRECTORY_ENTRY_SIZE + 2 + (size_t) record->n_members * DIRECTORY_MEMBER_SIZE;
        Buf *d = &p->directory;
        int r;

        /* All the room first: nothing below can fail half way. */
        r = buf_reserve(d, need);
        if (r >= 0)
                r = buf_reserve(&p->table, 4);
        if (r >= 0)
                r = buf_put_u32(&p->starts, (uint32_t) d->size);
        if (r < 0)
                return r;
        (void) buf_put_u32(&p->table, 0);
        (void) buf_put_u8(d, record->class);
        (void) buf_put_u8(d, (uint8_t) (DIRECTORY_SELF | (bundle ? DIRECTORY_BUNDLE : 0)));
        (void) buf_put_u32(d, record->plain);
        (void) buf_put_u64(d, p->end);
        (void) buf_put_u32(d, stored);
        (void) buf_put(d, record->id, ID_SIZE);
        (void) buf_put(d, no_hash, HASH_SIZE);
        if (bundle)
                (void) buf_put_u16(d, (uint16_t) record->n_members);
        for (uint32_t i = 0; i < record->n_members; i++) {
                (void) buf_put(d, record->members[i].id, ID_SIZE);
                (void) buf_put_u32(d, record->members[i].offset);
                (void) buf_put_u32(d, record->members[i].size);
        }
        return 0;
}

static bool record_is_sane(const PackRecord *r) {
        return r->size > 0 && r->size <= RECORD_PLAIN_MAX && r->plain <= RECORD_PLAIN_MAX &&
               r->n_members <= BUNDLE_MEMBERS_MAX && (r->compressed || r->size == r->plain) &&
               (r->class == CLASS_BUNDLE) == (r->n_members > 0);
}

int pack_reserve(PackWriter *w, const PackRecord *record, PackSlot *ret, Failure *reterr) {
        uint32_t stored = RECORD_OVERHEAD + record->size;
        PackFile *p = w->packs;
        int r;

        if (!record_is_sane(record))
                return fail_set(reterr, FAIL_INTERNAL, EINVAL, "a record is malformed");
        if (!p || p->full) {
                r = file_new(w, &p, reterr);
                if (r < 0)
                        return r;
                p->next = w->packs;
                w->packs = p;
        }
        r = put_directory(p, record, stored);
        if (r < 0)
                return write_failed(p, r, reterr);
        *ret = (PackSlot){ .pack = p, .ordinal = p->records, .stored = stored, .offset = p->end };
        p->records++;
        p->pending++;
        p->end += stored;
        p->full = p->end >= w->pack_bytes || p->directory.size >= PACK_DIRECTORY_TARGET ||
                  p->records >= PACK_RECORDS_MAX / 2;
        return 0;
}

int pack_seal(PackSlot *slot, Crypto *c, const PackRecord *record, uint8_t *out) {
        const PackFile *p = slot->pack;
        uint8_t nonce[NONCE_SIZE], aad[RECORD_AAD_SIZE], hash[MAC_SIZE];
        PackIdentity who = {
                .ordinal = slot->ordinal,
                .class = record->class,
                .flag = record->compressed ? STORED_ZSTD : STORED_RAW,
        };
        int r;

        memcpy(who.session, p->writer->session, UUID_SIZE);
        memcpy(who.pack, p->uuid, UUID_SIZE);
        memcpy(who.id, record->id, ID_SIZE);
        pack_aad(p->writer->repo->uuid, &who, aad);
        pack_nonce(slot->ordinal, nonce);
        out[0] = who.flag;
        r = crypto_seal(c, p->key.data, nonce, (CryptoPart){ aad, sizeof(aad) }, record->data,
                        record->size, out + 1);
        if (r >= 0)
                r = crypto_mac(c, &(CryptoPart){ out, slot->stored }, 1, hash);
        if (r < 0)
                return r;
        memcpy(slot->hash, hash, HASH_SIZE);
        slot->crc = crc32c(0, out, slot->stored);
        return 0;
}

int pack_write(const PackSlot *slot, const uint8_t *sealed, Failure *reterr) {
        int r = fd_pwrite_full(slot->pack->fd, sealed, slot->stored, slot->offset);

        return r < 0 ? write_failed(slot->pack, r, reterr) : 0;
}

/* ---- publishing ---- */

/* Appends the sealed directory, laid out as a stored record, to `to`. */
static int seal_directory(PackFile *p, const uint8_t header[PACK_HEADER_SIZE], Buf *to) {
        Repo *repo = p->writer->repo;
        uint8_t key[KEY_SIZE], nonce[NONCE_SIZE], aad[PACK_HEADER_SIZE + 1];
        _cleanup_(compress_freep) Compressor *compressor = NULL;
        _cleanup_(buf_done) Buf packed = BUF_INIT(PACK_DIRECTORY_MAX + 64);
        const uint8_t *data = p->directory.data;
        size_t n = p->directory.size;
        int r, zstd;

        r = compress_new(1, &compressor);
        if (r >= 0)
                r = buf_reserve(&packed, n);
        if (r < 0)
                return r;
        r = zstd = compress_run(compressor, data, n, packed.data, &packed.size);
        if (r < 0)
                return r;
        if (zstd) {
                data = packed.data;
                n = packed.size;
        }
        r = buf_reserve(to, n + RECORD_OVERHEAD);
        if (r < 0)
                return r;
        to->data[to->size] = zstd ? STORED_ZSTD : STORED_RAW;
        memcpy(aad, header, PACK_HEADER_SIZE);
        aad[PACK_HEADER_SIZE] = to->data[to->size];
        pack_nonce(PACK_DIRECTORY_ORDINAL, nonce);
        r = pack_key(repo->keys.meta.data, p->uuid, LABEL_DIRECTORY, key);
        if (r >= 0)
                r = crypto_seal(p->writer->crypto, key, nonce, (CryptoPart){ aad, sizeof(aad) },
                                data, n, to->data + to->size + 1);
        explicit_bzero(key, sizeof(key));
        if (r >= 0)
                to->size += n + RECORD_OVERHEAD;
        return r;
}

/* Everything after the records: directory, table, footer. */
static int make_tail(PackFile *p, Buf *tail) {
        Repo *repo = p->writer->repo;
        uint8_t header[PACK_HEADER_SIZE], footer[PACK_FOOTER_SIZE] = { 0 }, mac[MAC_SIZE];
        size_t directory, table;
        int r;

        pack_header(repo->uuid, p->writer->kind, p->uuid, p->writer->session, header);
        r = seal_directory(p, header, tail);
        directory = tail->size;
        if (r >= 0)
                r = buf_put_u32(&p->table, crc32c(0, header, sizeof(header)));
        if (r >= 0)
                r = buf_put_u32(&p->table, crc32c(0, tail->data, directory));
        if (r >= 0)
                r = buf_put(tail, p->table.data, p->table.size);
        if (r < 0)
                return r;
        table = tail->size - directory;
        memcpy(footer, PACK_FOOTER_MAGIC, 8);
        memcpy(footer + 8, header + PACK_AT_VERSION, 4);
        put_le32(footer + FOOTER_AT_RECORDS, p->records);
        put_le64(footer + FOOTER_AT_DIRECTORY, p->end);
        put_le32(footer + FOOTER_AT_DIRECTORY_STORED, (uint32_t) directory);
        put_le32(footer + FOOTER_AT_DIRECTORY_PLAIN, (uint32_t) p->directory.size);
        put_le64(footer + FOOTER_AT_TABLE, p->end + directory);
        put_le32(footer + FOOTER_AT_TABLE_SIZE, (uint32_t) table);
        const CryptoPart parts[] = {
                { header, sizeof(header) },
                { tail->data, tail->size },
                { footer, PACK_FOOTER_MACED },
        };
        r = crypto_mac(p->writer->crypto, parts, ELEMENTSOF(parts), mac);
        if (r < 0)
                return r;
        memcpy(footer + FOOTER_AT_MAC, mac, MAC_SIZE);
        memcpy(footer + FOOTER_AT_END, PACK_END_MAGIC, 8);
        return buf_put(tail, footer, sizeof(footer));
}

static int publish(PackWriter *w, PackFile *p, Failure *reterr) {
        _cleanup_(buf_done) Buf tail = BUF_INIT(PACK_DIRECTORY_MAX + ((size_t) 8 << 20));
        int r = make_tail(p, &tail);

        if (r >= 0)
                r = fd_pwrite_full(p->fd, tail.data, tail.size, p->end);
        if (r >= 0) {
                /* Starts the write-back, so that the commit's syncfs finds little left to do. */
                (void) sync_file_range(p->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
                step("pack-written");
                r = close(TAKE_FD(p->fd)) < 0 ? -errno : 0;
        }
        if (r < 0)
                return write_failed(p, r, reterr);
        /* Listed before it is renamed: an abort then removes it under either name. */
        r = buf_put(&w->published, p->uuid, UUID_SIZE);
        if (r < 0)
                return write_failed(p, r, reterr);
        r = store_pack_publish(w->repo->store, p->uuid, reterr);
        if (r < 0)
                return r;
        step("pack-published");
        w->bytes += p->end + tail.size;
        r = index_pack_finish(w->repo->index, p->no, p->end + tail.size, reterr);
        return r < 0 ? r : index_commit(w->repo->index, reterr);
}

/* Publishes and forgets. On failure the pack stays in the list, for the abort. */
static int retire(PackWriter *w, PackFile *p, Failure *reterr) {
        int r = publish(w, p, reterr);
        PackFile **at = &w->packs;

        if (r < 0)
                return r;
        while (*at != p)
                at = &(*at)->next;
        *at = p->next;
        file_free(p);
        return 0;
}

static int index_record(PackWriter *w, const PackSlot *slot, Failure *reterr) {
        PackFile *p = slot->pack;
        size_t start = get_le32(p->starts.data + 4 * (size_t) slot->ordinal);
        Reader at = READER_INIT(p->directory.data + start, p->directory.size - start);
        PackEntry e;

        if (!pack_entry_next(&at, slot->ordinal, &e))
                return fail_set(reterr, FAIL_INTERNAL, EINVAL, "a directory is malformed");
        return index_add_entry(w->repo->index, p->no, p->uuid, w->session, &e, reterr);
}

int pack_done(PackWriter *w, const PackSlot *slot, Failure *reterr) {
        PackFile *p = slot->pack;
        size_t start = get_le32(p->starts.data + 4 * (size_t) slot->ordinal);
        int r;

        memcpy(p->directory.data + start + DIRECTORY_HASH_AT, slot->hash, HASH_SIZE);
        put_le32(p->table.data + 4 * (size_t) slot->ordinal, slot->crc);
        r = index_record(w, slot, reterr);
        if (r < 0)
                return r;
        p->pending--;
        return p->full && p->pending == 0 ? retire(w, p, reterr) : 0;
}

int pack_store(PackWriter *w, Crypto *c, const PackRecord *record, Buf *scratch, Failure *reterr) {
        PackSlot slot;
        int r;

        r = pack_reserve(w, record, &slot, reterr);
        if (r < 0)
                return r;
        buf_clear(scratch);
        r = buf_reserve(scratch, slot.stored);
        if (r >= 0)
                r = pack_seal(&slot, c, record, scratch->data);
        if (r < 0)
                return write_failed(slot.pack, r, reterr);
        r = pack_write(&slot, scratch->data, reterr);
        return r < 0 ? r : pack_done(w, &slot, reterr);
}

int pack_writer_finish(PackWriter *w, Failure *reterr) {
        int r = 0;

        while (w->packs && r >= 0)
                r = w->packs->pending > 0
                            ? fail_set(reterr, FAIL_INTERNAL, EBUSY, "a record is still pending")
                            : retire(w, w->packs, reterr);
        return r;
}

/* ---- ends ---- */

static void remove_unpublished(PackWriter *w) {
        while (w->packs) {
                PackFile *p = w->packs;

                w->packs = p->next;
                (void) store_pack_remove(w->repo->store, p->uuid); /* else the next sweep does */
                file_free(p);
        }
}

void pack_writer_abort(PackWriter *w) {
        /*
         * Packs first: a crash in between leaves rows without packs, which the next run drops.
         * Failures are ignored for the same reason: what stays is garbage, not harm.
         */
        bool any = w->packs || w->published.size > 0;

        remove_unpublished(w);
        for (size_t i = 0; i < w->published.size; i += UUID_SIZE)
                (void) store_pack_remove(w->repo->store, w->published.data + i);
        buf_clear(&w->published);
        w->bytes = 0;
        if (!any)
                return;
        index_rollback(w->repo->index);
        if (index_session_remove(w->repo->index, w->session, NULL) < 0)
                index_rollback(w->repo->index);
}

void pack_writer_free(PackWriter *w) {
        if (!w)
                return;
        if (w->packs)
                pack_writer_abort(w);
        secret_done(&w->base_key);
        crypto_free(w->crypto);
        buf_done(&w->published);
        free(w);
}

uint64_t pack_writer_bytes(const PackWriter *w) {
        return w->bytes;
}

int pack_commit(Repo *repo, const uint8_t session[UUID_SIZE], Failure *reterr) {
        int r;

        step("packs-finished");
        r = store_sync(repo->store, reterr);
        if (r < 0)
                return r;
        step("packs-durable");
        r = index_mark_durable(repo->index, session, reterr);
        return r < 0 ? r : index_commit(repo->index, reterr);
}
