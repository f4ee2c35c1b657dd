/*
 * A whole pack, sealed and with its MAC, whose parts the input gives. It is loaded, verified,
 * indexed and every record of it is read.
 *
 * First byte: bit 0 the rest is the file as it is; bit 1 a content pack; bit 2 the rest is the
 * directory (a piece) and the bytes of the records, else records to be sealed, see put_record();
 * bits 3, 4, 5: a piece damages header, footer, CRC table; bit 6: a plain length and a piece that
 * is the directory as it is stored, flag first; bit 7: a place, of which one bit is turned in the
 * finished file: that must be noticed.
 */

#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "tests/fuzz/fuzz-repo.h"

#define RECORDS_MAX 64

enum {
        HOW_RAW = 1,
        HOW_CONTENT = 2,
        HOW_DIRECTORY = 4,
        HOW_HEADER = 8,
        HOW_FOOTER = 16,
        HOW_TABLE = 32,
        HOW_STORED = 64,
        HOW_TURN = 128,
};

static const uint8_t pack_uuid[UUID_SIZE] = { 0xab, 1 };

typedef struct Made {
        PackKind kind;
        uint8_t session[UUID_SIZE], header[PACK_HEADER_SIZE];
        uint8_t base[KEY_SIZE]; /* of the records */
        Buf file, directory, table;
        uint32_t records;
} Made;

/* One session for all runs. */
static void use_session(Made *m) {
        static uint8_t session[UUID_SIZE];
        static Secret key;

        if (!key.data)
                fuzz_assert(keyfile_session_new(fuzz_repo(), session, &key, NULL, NULL) == 0);
        memcpy(m->session, session, UUID_SIZE);
        memcpy(m->base, m->kind == PACK_CONTENT ? key.data : fuzz_repo()->keys.meta.data, KEY_SIZE);
}

/* Appends flag, ciphertext and tag. */
static void seal(Made *m, const PackIdentity *who, FuzzInput plain) {
        uint8_t key[KEY_SIZE], nonce[NONCE_SIZE], aad[RECORD_AAD_SIZE];
        Repo *repo = fuzz_repo();

        fuzz_assert(pack_key(m->base, pack_uuid, LABEL_PACK, key) == 0);
        pack_nonce(who->ordinal, nonce);
        pack_aad(repo->uuid, who, aad);
        fuzz_assert(buf_put_u8(&m->file, who->flag) == 0);
        fuzz_assert(buf_reserve(&m->file, plain.size + TAG_SIZE) == 0);
        fuzz_assert(crypto_seal(repo->crypto, key, nonce, (CryptoPart){ aad, sizeof(aad) },
                                plain.data, plain.size, m->file.data + m->file.size) == 0);
        m->file.size += plain.size + TAG_SIZE;
}

/* The members of a bundle as the directory lists them, from their sizes and the content. */
static void put_members(Made *m, FuzzInput *sizes, FuzzInput plain) {
        size_t n = sizes->size / 2;

        fuzz_assert(buf_put_u16(&m->directory, (uint16_t) n) == 0);
        for (size_t i = 0, at = 0; i < n; i++) {
                uint32_t size = fuzz_u16(sizes);
                FuzzInput member = fuzz_take(&plain, size);
                uint8_t id[ID_SIZE];

                fuzz_assert(crypto_id(fuzz_repo()->crypto, CLASS_SMALL, member.data, member.size,
                                      id) == 0);
                fuzz_assert(buf_put(&m->directory, id, ID_SIZE) == 0);
                fuzz_assert(buf_put_u32(&m->directory, (uint32_t) at) == 0);
                fuzz_assert(buf_put_u32(&m->directory, size) == 0);
                at += size;
        }
}

/* class, flags of the directory, flag of the record, plain length (0: as it is), members, bytes. */
static void put_record(Made *m, FuzzInput *in) {
        PackIdentity who = { .ordinal = m->records, .class = fuzz_u8(in) };
        uint8_t flags = fuzz_u8(in), hash[MAC_SIZE];
        size_t start = m->file.size;
        uint32_t plain;
        FuzzInput sizes, content;

        who.flag = fuzz_u8(in);
        plain = fuzz_u32(in);
        sizes = fuzz_piece(in);
        content = fuzz_piece(in);
        memcpy(who.session, m->session, UUID_SIZE);
        memcpy(who.pack, pack_uuid, UUID_SIZE);
        fuzz_assert(crypto_id(fuzz_repo()->crypto, who.class, content.data, content.size, who.id) ==
                    0);
        seal(m, &who, content);
        fuzz_assert(crypto_mac(fuzz_repo()->crypto,
                               &(CryptoPart){ m->file.data + start, m->file.size - start }, 1,
                               hash) == 0);
        fuzz_assert(buf_put_u8(&m->directory, who.class) == 0);
        fuzz_assert(buf_put_u8(&m->directory, flags) == 0);
        fuzz_assert(buf_put_u32(&m->directory, plain ? plain : (uint32_t) content.size) == 0);
        fuzz_assert(buf_put_u64(&m->directory, start) == 0);
        fuzz_assert(buf_put_u32(&m->directory, (uint32_t) (m->file.size - start)) == 0);
        fuzz_assert(buf_put(&m->directory, who.id, ID_SIZE) == 0);
        fuzz_assert(buf_put(&m->directory, hash, HASH_SIZE) == 0);
        if (!(flags & DIRECTORY_SELF)) {
                fuzz_assert(buf_put(&m->directory, m->session, UUID_SIZE) == 0);
                fuzz_assert(buf_put(&m->directory, pack_uuid, UUID_SIZE) == 0);
                fuzz_assert(buf_put_u32(&m->directory, m->records) == 0);
        }
        if (flags & DIRECTORY_BUNDLE)
                put_members(m, &sizes, content);
        fuzz_assert(buf_put_u32(&m->table, crc32c(0, m->file.data + start, m->file.size - start)) ==
                    0);
        m->records++;
}

static void put_directory(Made *m, uint8_t flag, FuzzInput plain) {
        uint8_t key[KEY_SIZE], nonce[NONCE_SIZE], aad[PACK_HEADER_SIZE + 1];
        Repo *repo = fuzz_repo();

        memcpy(aad, m->header, PACK_HEADER_SIZE);
        aad[PACK_HEADER_SIZE] = flag;
        pack_nonce(PACK_DIRECTORY_ORDINAL, nonce);
        fuzz_assert(pack_key(repo->keys.meta.data, pack_uuid, LABEL_DIRECTORY, key) == 0);
        fuzz_assert(buf_put_u8(&m->file, flag) == 0);
        fuzz_assert(buf_reserve(&m->file, plain.size + TAG_SIZE) == 0);
        fuzz_assert(crypto_seal(repo->crypto, key, nonce, (CryptoPart){ aad, sizeof(aad) },
                                plain.data, plain.size, m->file.data + m->file.size) == 0);
        m->file.size += plain.size + TAG_SIZE;
}

/* Directory, table and footer. */
static void finish(Made *m,
                   uint8_t how,
                   FuzzInput *damage_footer,
                   FuzzInput *damage_table,
                   uint32_t plain,
                   FuzzInput stored) {
        uint64_t at = m->file.size;
        uint8_t footer[PACK_FOOTER_SIZE] = { 0 };
        size_t directory, table;

        if (how & HOW_STORED) {
                uint8_t flag = fuzz_u8(&stored);

                put_directory(m, flag, stored);
        } else {
                plain = (uint32_t) m->directory.size;
                put_directory(m, STORED_RAW, (FuzzInput){ m->directory.data, m->directory.size });
        }
        directory = m->file.size - at;
        fuzz_assert(buf_put_u32(&m->table, crc32c(0, m->header, PACK_HEADER_SIZE)) == 0);
        fuzz_assert(buf_put_u32(&m->table, crc32c(0, m->file.data + at, directory)) == 0);
        fuzz_damage(m->table.data, m->table.size, *damage_table);
        table = m->table.size;
        fuzz_assert(buf_put(&m->file, m->table.data, table) == 0);
        memcpy(footer, PACK_FOOTER_MAGIC, 8);
        memcpy(footer + 8, m->header + PACK_AT_VERSION, 4);
        put_le32(footer + FOOTER_AT_RECORDS, m->records);
        put_le64(footer + FOOTER_AT_DIRECTORY, at);
        put_le32(footer + FOOTER_AT_DIRECTORY_STORED, (uint32_t) directory);
        put_le32(footer + FOOTER_AT_DIRECTORY_PLAIN, plain);
        put_le64(footer + FOOTER_AT_TABLE, at + directory);
        put_le32(footer + FOOTER_AT_TABLE_SIZE, (uint32_t) table);
        fuzz_damage(footer, PACK_FOOTER_MACED, *damage_footer);
        const CryptoPart parts[] = {
                { m->header, PACK_HEADER_SIZE },
                { m->file.data + at, directory + table },
                { footer, PACK_FOOTER_MACED },
        };
        fuzz_assert(crypto_mac(fuzz_repo()->crypto, parts, ELEMENTSOF(parts),
                               footer + FOOTER_AT_MAC) == 0);
        memcpy(footer + FOOTER_AT_END, PACK_END_MAGIC, 8);
        fuzz_assert(buf_put(&m->file, footer, sizeof(footer)) == 0);
}

static void make(Made *m, uint8_t how, FuzzInput in) {
        FuzzInput header = { 0 }, footer = { 0 }, table = { 0 }, stored = { 0 };
        uint32_t plain = 0;

        m->kind = how & HOW_CONTENT ? PACK_CONTENT : PACK_META;
        use_session(m);
        pack_header(fuzz_repo()->uuid, m->kind, pack_uuid, m->session, m->header);
        if (how & HOW_HEADER)
                header = fuzz_piece(&in);
        if (how & HOW_FOOTER)
                footer = fuzz_piece(&in);
        if (how & HOW_TABLE)
                table = fuzz_piece(&in);
        if (how & HOW_STORED) {
                plain = fuzz_u32(&in);
                stored = fuzz_piece(&in);
        }
        fuzz_damage(m->header, sizeof(m->header), header);
        fuzz_assert(buf_put(&m->file, m->header, sizeof(m->header)) == 0);
        if (how & HOW_DIRECTORY) {
                FuzzInput directory = fuzz_piece(&in);

                m->records = fuzz_u8(&in);
                fuzz_assert(buf_put(&m->directory, directory.data, directory.size) == 0);
                fuzz_assert(buf_put(&m->file, in.data, in.size) == 0);
                for (uint32_t i = 0; i < m->records; i++)
                        fuzz_assert(buf_put_u32(&m->table, 0) == 0);
        } else
                while (in.size > 0 && m->records < RECORDS_MAX)
                        put_record(m, &in);
        finish(m, how, &footer, &table, plain, stored);
}

static void read_entry(const PackEntry *e, const uint8_t *id, Buf *plain) {
        Failure why = FAILURE_INIT;
        IndexPlace place;

        if (index_find(fuzz_repo()->index, id, &place, &why) <= 0)
                return;
        if (pack_read(fuzz_repo(), &place, id, plain, &why) < 0)
                fuzz_assert(why.code != FAIL_NONE && *why.text);
        else
                fuzz_assert(plain->size == place.plain);
        if (place.member && place.ordinal == e->ordinal)
                fuzz_assert((uint64_t) place.member_offset + place.member_size <= place.plain);
}

/* Everything that a sound directory lets us do. */
static void use_info(const PackInfo *info) {
        _cleanup_(buf_done) Buf plain = BUF_INIT(RECORD_PLAIN_MAX);
        IndexPack row = { .kind = info->kind, .size = info->size, .durable = true };
        Reader at = READER_INIT(info->directory.data, info->directory.size);
        Index *index = fuzz_repo()->index;
        uint32_t n = 0;
        uint64_t no;
        PackEntry e;

        memcpy(row.uuid, info->uuid, UUID_SIZE);
        memcpy(row.session, info->session, UUID_SIZE);
        fuzz_assert(index_pack_add(index, &row, &no, NULL) == 0);
        for (; pack_entry_next(&at, n, &e); n++) {
                fuzz_assert(e.offset + e.stored <= info->size);
                if (index_add_entry(index, no, info->uuid, info->session, &e, NULL) < 0)
                        break;
                if (e.n_members == 0)
                        read_entry(&e, e.id, &plain);
                for (size_t i = 0; i < e.n_members; i++)
                        read_entry(&e, e.members + i * DIRECTORY_MEMBER_SIZE, &plain);
        }
        fuzz_assert(n <= info->records);
        index_rollback(index);
        pack_cache_free(TAKE_PTR(fuzz_repo()->packs)); /* numbers come again */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzInput in = { data, size };
        uint8_t how = fuzz_u8(&in);
        PackInfo info = PACK_INFO_INIT;
        Failure why = FAILURE_INIT;
        Made m = {
                .file = BUF_INIT((size_t) 32 << 20),
                .directory = BUF_INIT((size_t) 8 << 20),
                .table = BUF_INIT((size_t) 8 << 20),
        };
        Repo *repo = fuzz_repo();
        uint32_t turn = 0;
        int before, packs = fuzz_mkdir(store_dir_fd(repo->store, "packs"), "ab");
        char name[STORE_NAME_MAX];

        store_pack_name(pack_uuid, name);
        if (how & HOW_TURN)
                turn = fuzz_u32(&in);
        if (!(how & HOW_RAW)) {
                make(&m, how, in);
                if (how & HOW_TURN)
                        m.file.data[turn / 8 % m.file.size] ^= (uint8_t) (1 << turn % 8);
                in = (FuzzInput){ m.file.data, m.file.size };
        }
        before = fuzz_next_fd();
        fuzz_write(packs, strrchr(name, '/') + 1, in);
        if (pack_info_load(repo, pack_uuid, &info, &why) < 0)
                fuzz_assert(why.code != FAIL_NONE && *why.text);
        else {
                if (pack_info_verify(repo, &info, NULL, NULL, &why) < 0)
                        fuzz_assert(why.code != FAIL_NONE && *why.text);
                else
                        fuzz_assert(!(how & HOW_TURN) || (how & HOW_RAW));
                use_info(&info);
                pack_info_done(&info);
        }
        fuzz_assert(fuzz_next_fd() == before);
        (void) close(packs);
        buf_done(&m.file);
        buf_done(&m.directory);
        buf_done(&m.table);
        return 0;
}
