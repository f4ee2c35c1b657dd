/*
 * Packs as bytes: what can be read and checked with the host's keys alone. Nothing of a pack is
 * believed before the MAC in its footer was checked, and nothing of its directory before its
 * structure was walked through once; after that, stepping through it cannot fail.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/text.h"
#include "repo/pack.h"

/* ---- shared pieces ---- */

void pack_aad(const uint8_t repository[UUID_SIZE],
              const PackIdentity *who,
              uint8_t ret[RECORD_AAD_SIZE]) {
        uint8_t *p = ret;

        put_le16(p, FORMAT_VERSION);
        p += 2;
        memcpy(p, repository, UUID_SIZE);
        p += UUID_SIZE;
        memcpy(p, who->session, UUID_SIZE);
        p += UUID_SIZE;
        memcpy(p, who->pack, UUID_SIZE);
        p += UUID_SIZE;
        put_le32(p, who->ordinal);
        p += 4;
        *p++ = who->class;
        *p++ = who->flag;
        memcpy(p, who->id, ID_SIZE);
}

void pack_nonce(uint32_t ordinal, uint8_t ret[NONCE_SIZE]) {
        memset(ret, 0, NONCE_SIZE);
        put_le32(ret, ordinal);
}

int pack_key(const uint8_t base[KEY_SIZE],
             const uint8_t pack[UUID_SIZE],
             const char *label,
             uint8_t ret[KEY_SIZE]) {
        return crypto_hkdf((CryptoPart){ base, KEY_SIZE }, (CryptoPart){ pack, UUID_SIZE },
                           (CryptoPart){ label, strlen(label) }, ret);
}

void pack_header(const uint8_t repository[UUID_SIZE],
                 PackKind kind,
                 const uint8_t pack[UUID_SIZE],
                 const uint8_t session[UUID_SIZE],
                 uint8_t ret[PACK_HEADER_SIZE]) {
        memset(ret, 0, PACK_HEADER_SIZE);
        memcpy(ret, PACK_MAGIC, 8);
        put_le16(ret + PACK_AT_VERSION, FORMAT_VERSION);
        put_le16(ret + PACK_AT_KIND, (uint16_t) kind);
        memcpy(ret + PACK_AT_REPOSITORY, repository, UUID_SIZE);
        memcpy(ret + PACK_AT_UUID, pack, UUID_SIZE);
        memcpy(ret + PACK_AT_SESSION, session, UUID_SIZE);
}

/* ---- directory ---- */

bool pack_entry_next(Reader *at, uint32_t ordinal, PackEntry *ret) {
        *ret = (PackEntry){ .ordinal = ordinal };
        if (reader_left(at) == 0)
                return false;
        ret->class = reader_u8(at);
        ret->flags = reader_u8(at);
        ret->plain = reader_u32(at);
        ret->offset = reader_u64(at);
        ret->stored = reader_u32(at);
        ret->id = reader_bytes(at, ID_SIZE);
        ret->hash = reader_bytes(at, HASH_SIZE);
        if (!(ret->flags & DIRECTORY_SELF))
                ret->origin = reader_bytes(at, DIRECTORY_ORIGIN_SIZE);
        if (ret->flags & DIRECTORY_BUNDLE) {
                ret->n_members = reader_u16(at);
                ret->members = reader_bytes(at, (size_t) ret->n_members * DIRECTORY_MEMBER_SIZE);
        }
        return !at->failed;
}

static bool members_fit(const PackEntry *e) {
        uint64_t end = 0;

        for (size_t i = 0; i < e->n_members; i++) {
                const uint8_t *m = e->members + i * DIRECTORY_MEMBER_SIZE;
                uint32_t size = get_le32(m + ID_SIZE + 4);

                if (get_le32(m + ID_SIZE) != end || size == 0 || size > SMALL_MAX)
                        return false;
                end += size;
        }
        return end == e->plain;
}

static bool entry_is_sane(const PackInfo *info, const PackEntry *e, uint64_t offset) {
        bool bundle = e->flags & DIRECTORY_BUNDLE;

        if (e->flags & ~(DIRECTORY_SELF | DIRECTORY_BUNDLE) || bundle != (e->class == CLASS_BUNDLE))
                return false;
        if (info->kind == PACK_META
                    ? e->class < CLASS_LIST || e->class > CLASS_ROOT
                    : e->class < CLASS_LARGE || (e->class > CLASS_SQLITE && !bundle))
                return false;
        if (e->offset != offset || e->plain > RECORD_PLAIN_MAX || e->stored <= RECORD_OVERHEAD ||
            e->stored > RECORD_OVERHEAD + RECORD_PLAIN_MAX)
                return false;
        if (bundle && (e->n_members == 0 || e->n_members > BUNDLE_MEMBERS_MAX || !members_fit(e)))
                return false;
        return true;
}

static bool directory_is_sane(const PackInfo *info, uint64_t directory_offset) {
        Reader at = READER_INIT(info->directory.data, info->directory.size);
        uint64_t offset = PACK_HEADER_SIZE;
        uint32_t n = 0;
        PackEntry e;

        for (; pack_entry_next(&at, n, &e); n++) {
                if (n >= info->records || !entry_is_sane(info, &e, offset))
                        return false;
                offset += e.stored;
        }
        return !at.failed && n == info->records && offset == directory_offset;
}

/* ---- frame ---- */

static int damaged(const uint8_t uuid[UUID_SIZE], Failure *reterr, const char *why) {
        char name[STORE_NAME_MAX];

        store_pack_name(uuid, name);
        return fail_set(
                reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                "%s is damaged: %s; bring this file back from a copy of the repository, or move "
                "it away: the next backup then stores again what is still in the services",
                name, why);
}

static int read_failed(const uint8_t uuid[UUID_SIZE], int r, Failure *reterr) {
        char name[STORE_NAME_MAX];

        store_pack_name(uuid, name);
        /* EIO is what a dying disk says: damage, as far as the backup is concerned. */
        return fail_errno(reterr, r == -EIO ? FAIL_INTEGRITY_FAILURE : FAIL_INTERNAL, -r,
                          "cannot read %s", name);
}

/* Exactly `n` bytes, or -ENODATA. */
static int read_at(int fd, void *data, size_t n, uint64_t offset) {
        ssize_t r = fd_pread_full(fd, data, n, offset);

        return r < 0 ? (int) r : (size_t) r == n ? 0 : -ENODATA;
}

static int read_part(int fd, Buf *to, size_t n, uint64_t offset) {
        int r;

        buf_clear(to);
        r = buf_reserve(to, n);
        if (r >= 0)
                r = read_at(fd, to->data, n, offset);
        if (r >= 0)
                to->size = n;
        return r;
}

/* The pieces of a frame as they lie on disk. */
typedef struct Frame {
        uint8_t header[PACK_HEADER_SIZE], footer[PACK_FOOTER_SIZE];
        uint64_t directory_offset;
        uint32_t directory_plain;
        Buf directory; /* sealed */
} Frame;

/* Where the footer says that things lie; NULL if that can be, else why not. */
static const char *footer_wrong(PackInfo *info, Frame *f) {
        const uint8_t *p = f->footer;
        uint64_t table = get_le64(p + FOOTER_AT_TABLE);
        uint32_t stored = get_le32(p + FOOTER_AT_DIRECTORY_STORED);
        uint32_t table_size = get_le32(p + FOOTER_AT_TABLE_SIZE);

        if (memcmp(p, PACK_FOOTER_MAGIC, 8) != 0 ||
            memcmp(p + FOOTER_AT_END, PACK_END_MAGIC, 8) != 0)
                return "its end is missing or overwritten";
        info->records = get_le32(p + FOOTER_AT_RECORDS);
        f->directory_offset = get_le64(p + FOOTER_AT_DIRECTORY);
        f->directory_plain = get_le32(p + FOOTER_AT_DIRECTORY_PLAIN);
        if (info->records > PACK_RECORDS_MAX || f->directory_plain > PACK_DIRECTORY_MAX ||
            stored < RECORD_OVERHEAD || stored > PACK_DIRECTORY_MAX + RECORD_OVERHEAD ||
            f->directory_offset < PACK_HEADER_SIZE || f->directory_offset > info->size ||
            table != f->directory_offset + stored || table_size != 4 * (info->records + 2) ||
            table + table_size + PACK_FOOTER_SIZE != info->size)
                return "its parts do not fit together";
        return NULL;
}

static const char *header_wrong(const Repo *repo, const PackInfo *info, const Frame *f) {
        uint16_t kind;

        if (memcmp(f->header, PACK_MAGIC, 8) != 0)
                return "its beginning is overwritten";
        if (memcmp(f->header + PACK_AT_REPOSITORY, repo->uuid, UUID_SIZE) != 0)
                return "it belongs to another repository";
        if (memcmp(f->header + PACK_AT_UUID, info->uuid, UUID_SIZE) != 0)
                return "it bears another name";
        if (memcmp(f->header + PACK_AT_VERSION, f->footer + 8, 4) != 0)
                return "its beginning and its end do not belong together";
        kind = get_le16(f->header + PACK_AT_KIND);
        if (kind != PACK_CONTENT && kind != PACK_META)
                return "it is of no known kind";
        return NULL;
}

static int check_mac(Repo *repo, const PackInfo *info, const Frame *f) {
        const CryptoPart parts[] = {
                { f->header, PACK_HEADER_SIZE },
                { f->directory.data, f->directory.size },
                { info->table.data, info->table.size },
                { f->footer, PACK_FOOTER_MACED },
        };
        uint8_t mac[MAC_SIZE];
        int r = crypto_mac(repo->crypto, parts, ELEMENTSOF(parts), mac);

        if (r < 0)
                return r;
        return crypto_equal(mac, f->footer + FOOTER_AT_MAC, MAC_SIZE) ? 0 : -EBADMSG;
}

static int open_directory(Repo *repo, PackInfo *info, const Frame *f) {
        uint8_t key[KEY_SIZE], nonce[NONCE_SIZE], aad[PACK_HEADER_SIZE + 1];
        _cleanup_(buf_done) Buf packed = BUF_INIT(PACK_DIRECTORY_MAX + RECORD_OVERHEAD);
        uint8_t flag = f->directory.data[0];
        size_t n = f->directory.size - RECORD_OVERHEAD;
        int r;

        if (flag != STORED_RAW && flag != STORED_ZSTD)
                return -EBADMSG;
        if (flag == STORED_RAW && n != f->directory_plain)
                return -EBADMSG;
        buf_clear(&info->directory);
        r = buf_reserve(&info->directory, (size_t) f->directory_plain + 1);
        if (r >= 0 && flag == STORED_ZSTD)
                r = buf_reserve(&packed, n + 1);
        if (r < 0)
                return r;
        memcpy(aad, f->header, PACK_HEADER_SIZE);
        aad[PACK_HEADER_SIZE] = flag;
        pack_nonce(PACK_DIRECTORY_ORDINAL, nonce);
        r = pack_key(repo->keys.meta.data, info->uuid, LABEL_DIRECTORY, key);
        if (r >= 0)
                r = crypto_open(repo->crypto, key, nonce, (CryptoPart){ aad, sizeof(aad) },
                                f->directory.data + 1, n + TAG_SIZE,
                                flag == STORED_ZSTD ? packed.data : info->directory.data);
        explicit_bzero(key, sizeof(key));
        if (r >= 0 && flag == STORED_ZSTD)
                r = compress_expand(repo->expand, packed.data, n, info->directory.data,
                                    f->directory_plain);
        if (r >= 0)
                info->directory.size = f->directory_plain;
        return r;
}

/* Directory and table, once the footer says where. */
static int load_frame(Repo *repo, PackInfo *info, Frame *f, Failure *reterr) {
        uint32_t stored = get_le32(f->footer + FOOTER_AT_DIRECTORY_STORED);
        uint64_t table = f->directory_offset + stored;
        int r;

        r = read_part(info->fd, &f->directory, stored, f->directory_offset);
        if (r >= 0)
                r = read_part(info->fd, &info->table, 4 * ((size_t) info->records + 2), table);
        if (r == -ENODATA)
                return damaged(info->uuid, reterr, "it is cut short");
        if (r < 0)
                return read_failed(info->uuid, r, reterr);
        r = check_mac(repo, info, f);
        if (r == -EBADMSG)
                return damaged(info->uuid, reterr, "its MAC is wrong");
        if (r >= 0 && get_le16(f->header + PACK_AT_VERSION) != FORMAT_VERSION)
                return fail_set(
                        reterr, FAIL_NOT_RESTORABLE, ENOTSUP,
                        "a pack has format version %u, this program knows %u; install a newer one",
                        get_le16(f->header + PACK_AT_VERSION), FORMAT_VERSION);
        info->kind = (PackKind) get_le16(f->header + PACK_AT_KIND);
        memcpy(info->session, f->header + PACK_AT_SESSION, UUID_SIZE);
        if (r >= 0)
                r = open_directory(repo, info, f);
        if (r == -EBADMSG || (r >= 0 && !directory_is_sane(info, f->directory_offset)))
                return damaged(info->uuid, reterr, "its directory cannot be read");
        if (r < 0)
                return read_failed(info->uuid, r, reterr);
        info->header_crc = crc32c(0, f->header, PACK_HEADER_SIZE);
        info->directory_crc = crc32c(0, f->directory.data, f->directory.size);
        return 0;
}

static int load(Repo *repo, PackInfo *info, Failure *reterr) {
        Frame f = { .directory = BUF_INIT(PACK_DIRECTORY_MAX + RECORD_OVERHEAD) };
        const char *wrong;
        struct stat st;
        int r;

        if (fstat(info->fd, &st) < 0)
                return read_failed(info->uuid, -errno, reterr);
        info->size = (uint64_t) st.st_size;
        if (!S_ISREG(st.st_mode) || info->size < PACK_HEADER_SIZE + PACK_FOOTER_SIZE)
                return damaged(info->uuid, reterr, "it is cut short");
        r = read_at(info->fd, f.header, PACK_HEADER_SIZE, 0);
        if (r >= 0)
                r = read_at(info->fd, f.footer, PACK_FOOTER_SIZE, info->size - PACK_FOOTER_SIZE);
        if (r < 0)
                return r == -ENODATA ? damaged(info->uuid, reterr, "it is cut short")
                                     : read_failed(info->uuid, r, reterr);
        wrong = footer_wrong(info, &f);
        if (!wrong)
                wrong = header_wrong(repo, info, &f);
        r = wrong ? damaged(info->uuid, reterr, wrong) : load_frame(repo, info, &f, reterr);
        buf_done(&f.directory);
        return r;
}

int pack_info_load(Repo *repo, const uint8_t uuid[UUID_SIZE], PackInfo *ret, Failure *reterr) {
        PackInfo info = PACK_INFO_INIT;
        int r;

        memcpy(info.uuid, uuid, UUID_SIZE);
        info.fd = store_pack_open(repo->store, uuid);
        if (info.fd == -ENOENT)
                return -ENOENT;
        r = info.fd < 0 ? read_failed(uuid, info.fd, reterr) : load(repo, &info, reterr);
        if (r < 0) {
                pack_info_done(&info);
                return r;
        }
        *ret = info;
        return 0;
}

void pack_info_done(PackInfo *info) {
        fd_close(info->fd);
        buf_done(&info->directory);
        buf_done(&info->table);
        info->fd = -1;
}

/* ---- records ---- */

static int
verify_record(Repo *repo, const PackInfo *info, const PackEntry *e, Buf *buf, Failure *reterr) {
        uint8_t hash[MAC_SIZE];
        char why[64];
        int r;

        r = read_part(info->fd, buf, e->stored, e->offset);
        if (r == -ENODATA)
                return damaged(info->uuid, reterr, "it is cut short");
        if (r < 0)
                return read_failed(info->uuid, r, reterr);
        r = crypto_mac(repo->crypto, &(CryptoPart){ buf->data, buf->size }, 1, hash);
        if (r < 0)
                return read_failed(info->uuid, r, reterr);
        if (crypto_equal(hash, e->hash, HASH_SIZE) &&
            crc32c(0, buf->data, buf->size) == get_le32(info->table.data + 4 * (size_t) e->ordinal))
                return 0;
        (void) snprintf(why, sizeof(why), "record %u is not what was written", e->ordinal);
        return damaged(info->uuid, reterr, why);
}

int pack_info_verify(Repo *repo,
                     const PackInfo *info,
                     void (*on_bytes)(void *userdata, uint64_t bytes),
                     void *userdata,
                     Failure *reterr) {
        _cleanup_(buf_done) Buf buf = BUF_INIT(RECORD_PLAIN_MAX + RECORD_OVERHEAD);
        Reader at = READER_INIT(info->directory.data, info->directory.size);
        const uint8_t *last = info->table.data + 4 * (size_t) info->records;
        uint64_t done = PACK_HEADER_SIZE;
        PackEntry e;
        int r;

        if (get_le32(last) != info->header_crc || get_le32(last + 4) != info->directory_crc)
                return damaged(info->uuid, reterr, "its checksums are wrong");
        /* Advice only: what is checked should be the disk and not the page cache. */
        (void) posix_fadvise(info->fd, 0, 0, POSIX_FADV_DONTNEED);
        (void) posix_fadvise(info->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
        for (uint32_t n = 0; pack_entry_next(&at, n, &e); n++) {
                if (repo_is_interrupted(repo))
                        return -ECANCELED;
                r = verify_record(repo, info, &e, &buf, reterr);
                if (r < 0)
                        return r;
                done += e.stored;
                if (on_bytes)
                        on_bytes(userdata, e.stored);
        }
        if (on_bytes)
                on_bytes(userdata, info->size - done + PACK_HEADER_SIZE);
        return 0;
}
