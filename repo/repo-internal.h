#pragma once

/*
 * Between the files of repo/. Nothing here leaves the folder (unit tests may include it).
 *
 * Threads: a Crypto or Compressor belongs to one thread. Functions marked [mutex] touch the index
 * or the state of a pack writer: whoever runs threads calls them all under one mutex of its own.
 * All else is for the thread that owns the Repo.
 */

#include <sys/types.h>

#include "base/cleanup.h"
#include "base/crc32c.h"
#include "repo/format.h"
#include "repo/repo.h"

typedef struct Compressor Compressor;
typedef struct Crypto Crypto;
typedef struct Index Index;
typedef struct PackCache PackCache;
typedef struct PackEntry PackEntry;
typedef struct PackFile PackFile;
typedef struct PackWriter PackWriter;
typedef struct Store Store;

/* ---- crypto.c ---- */

/* H and what is derived from it. */
typedef struct CryptoKeys {
        Secret host, id, meta, mac;
} CryptoKeys;

int crypto_keys_derive(const uint8_t host[KEY_SIZE], CryptoKeys *ret);
void crypto_keys_done(CryptoKeys *keys);

/* Contexts of one thread, set up for K_id and K_mac. `keys` may be NULL: then no id and mac. */
int crypto_new(const CryptoKeys *keys, Crypto **ret);
void crypto_free(Crypto *c);
DEFINE_CLEANUP(Crypto *, crypto_free);

/* HMAC-SHA-256(K_id, class || data). */
int crypto_id(Crypto *c, uint8_t class, const void *data, size_t n, uint8_t ret[ID_SIZE]);

typedef struct CryptoPart {
        const void *data;
        size_t size;
} CryptoPart;

/* HMAC-SHA-256(K_mac, parts back to back). */
int crypto_mac(Crypto *c, const CryptoPart *parts, size_t n, uint8_t ret[MAC_SIZE]);

/* As crypto_mac(), in steps, for what does not lie in memory as a whole. */
int crypto_mac_begin(Crypto *c);
int crypto_mac_more(Crypto *c, const void *data, size_t n);
int crypto_mac_end(Crypto *c, uint8_t ret[MAC_SIZE]);

/* AES-256-GCM: `out` takes n + TAG_SIZE bytes; may not overlap `in`. */
int crypto_seal(Crypto *c,
                const uint8_t key[KEY_SIZE],
                const uint8_t nonce[NONCE_SIZE],
                CryptoPart aad,
                const void *in,
                size_t n,
                uint8_t *out);

/* The reverse; `n` counts the tag. -EBADMSG when it does not authenticate: `out` is wiped then. */
int crypto_open(Crypto *c,
                const uint8_t key[KEY_SIZE],
                const uint8_t nonce[NONCE_SIZE],
                CryptoPart aad,
                const void *in,
                size_t n,
                uint8_t *out);

int crypto_hkdf(CryptoPart key, CryptoPart salt, CryptoPart info, uint8_t ret[KEY_SIZE]);
/* scrypt with r = 8, p = 1 and N = 2^log2_n: 128 MiB for 17. */
int crypto_scrypt(const Secret *passphrase,
                  CryptoPart salt,
                  unsigned log2_n,
                  uint8_t ret[KEY_SIZE]);
int crypto_random(void *data, size_t n);
bool crypto_equal(const void *a, const void *b, size_t n); /* in constant time */

/* SHA-256 in steps: the checksum of a manifest. */
typedef struct CryptoSha CryptoSha;
int crypto_sha_new(CryptoSha **ret);
int crypto_sha_add(CryptoSha *s, const void *data, size_t n);
int crypto_sha_end(CryptoSha *s, uint8_t ret[32]);
void crypto_sha_free(CryptoSha *s);
DEFINE_CLEANUP(CryptoSha *, crypto_sha_free);
int crypto_sha256(const void *data, size_t n, uint8_t ret[32]);

/* X25519 keys. The private key is PKCS#8 PEM; -EBADMSG for anything else, -ENOKEY if it is
 * encrypted. */
int crypto_keypair_new(Secret *ret_raw, uint8_t ret_public[32]);
int crypto_private_parse(const Secret *pem, Secret *ret_raw, uint8_t ret_public[32]);
/* The id of a recipient: first 8 bytes of SHA-256(public), hex. */
int crypto_key_id(const uint8_t public[32], char ret[KEY_ID_MAX]);
int crypto_private_pem(const Secret *raw, Secret *ret_pem);
int crypto_private_public(const Secret *raw, uint8_t ret_public[32]);
int crypto_public_pem(const uint8_t public[32], Buf *ret);
int crypto_public_parse(const void *pem, size_t n, uint8_t ret[32]);

/* Seals a key to a recipient; `context` is label || repository uuid || object uuid. */
int crypto_box_seal(const uint8_t public[32],
                    CryptoPart context,
                    const uint8_t key[KEY_SIZE],
                    uint8_t ret[BOX_SIZE]);
int crypto_box_open(const uint8_t private[32],
                    const uint8_t public[32],
                    CryptoPart context,
                    const uint8_t box[BOX_SIZE],
                    uint8_t ret[KEY_SIZE]); /* -EBADMSG */

/* ---- compress.c ---- */

/* `level` is the user's 0-9; contexts are reused from call to call. */
int compress_new(unsigned level, Compressor **ret);
void compress_free(Compressor *c);
DEFINE_CLEANUP(Compressor *, compress_free);

/*
 * 1: compressed into `out` (of at least `n` bytes) with the size in `ret`; 0: store it raw (level
 * 0, or a probe says the gain is under 3 %); negative errno.
 */
int compress_run(Compressor *c, const void *data, size_t n, void *out, size_t *ret);

/* Exactly `plain` bytes into `out`, else -EBADMSG. */
int compress_expand(Compressor *c, const void *data, size_t n, void *out, size_t plain);

/* ---- store-local.c: a directory; names are relative paths of the format ---- */

int store_open(const char *path, bool create, Store **ret, Failure *reterr);
void store_close(Store *s);
DEFINE_CLEANUP(Store *, store_close);

/* Atomic and durable on return. */
int store_put(Store *s, const char *name, const void *data, size_t n, Failure *reterr);
int store_get(Store *s, const char *name, size_t max, Buf *ret); /* -ENOENT, -EFBIG, ... */
bool store_has(Store *s, const char *name);
uint64_t store_size(Store *s, const char *name);               /* 0 if it is not there */
int store_delete(Store *s, const char *name, Failure *reterr); /* durable; a missing one is fine */

/* Calls for each regular file in `dir` ("packs": in its 256 sub-directories) whose name is a uuid.
 */
typedef int (*store_on_name)(void *userdata, const uint8_t uuid[UUID_SIZE], Failure *reterr);
int store_list(Store *s, const char *dir, store_on_name on_name, void *userdata, Failure *reterr);

/* Packs: made under a temporary name, published by rename, durable after store_sync(). */
int store_pack_create(Store *s, const uint8_t uuid[UUID_SIZE], Failure *reterr); /* fd */
int store_pack_publish(Store *s, const uint8_t uuid[UUID_SIZE], Failure *reterr);
int store_pack_open(Store *s, const uint8_t uuid[UUID_SIZE]);   /* fd for reading or -errno */
int store_pack_remove(Store *s, const uint8_t uuid[UUID_SIZE]); /* both names */
int store_sweep_temporary(Store *s,
                          Failure *reterr); /* packs left by a crash; needs the writer lock */
int store_sync(Store *s, Failure *reterr);  /* syncfs */

/* A descriptor of one of the format's directories ("" is the top), borrowed. */
int store_dir_fd(Store *s, const char *dir);

/* "packs/ab/<uuid>.pack" for messages. */
#define STORE_NAME_MAX 64
void store_pack_name(const uint8_t uuid[UUID_SIZE], char ret[STORE_NAME_MAX]);
void store_object_name(ObjectKind kind, const uint8_t uuid[UUID_SIZE], char ret[STORE_NAME_MAX]);

/* ---- repo.c ---- */

#define REPO_RECIPIENTS_MAX 16

typedef struct Recipient {
        char id[KEY_ID_MAX]; /* first 8 bytes of SHA-256(public), hex */
        uint8_t public[32];
        char label[65];
} Recipient;

struct Repo {
        bool (*interrupted)(void *userdata);
        void *userdata;
        char *path, *keys_dir, *credentials_dir;
        KeyPlaces places; /* borrows the two above */
        int state_fd;     /* borrowed */
        Store *store;
        uint8_t uuid[UUID_SIZE], host_id[UUID_SIZE];
        Recipient recipients[REPO_RECIPIENTS_MAX];
        size_t n_recipients;
        CryptoKeys keys;
        Crypto *crypto;     /* of the owner's thread */
        Compressor *expand; /* of the owner's thread, for reading */
        Index *index;
        int index_lock; /* flock for whoever brings the index up to date */
        Buf suspects;   /* uuids of packs that were found damaged */
        RepoCorrections corrections;
        PackCache *packs;
        Secret private_raw;    /* X25519, once it was given or loaded */
        bool private_is_given; /* for this job alone */
        uint8_t private_public[32];
        json_object *features; /* "compat" "ro_compat" "incompat", as read */
        bool read_only; /* a feature that this program does not know: nothing may be written */
        bool writer;    /* we hold REPO_LOCK_WRITER */
        bool packs_locked;
};

bool repo_is_interrupted(const Repo *repo);

/* Takes one that was given; and, once the recipients are known, refuses it if it is none of them.
 */
int repo_use_private(Repo *repo, const Secret *blob, Failure *reterr);
int repo_check_private(Repo *repo, Failure *reterr);

/*
 * index-sync.c. Opening may make a new database: one process at a time, and none beside a foreign
 * writer's.
 */
int repo_open_index(Repo *repo, bool writer, Failure *reterr);

/*
 * Takes in what is new in packs/ and forgets what is gone. Does nothing while
 * somebody else holds the writer's lock: that one keeps the index, and its packs are not ours to
 * judge.
 */
int repo_sync_index(Repo *repo, Failure *reterr);

/* Holds index.lock; to be released with flock(). -ECANCELED when interrupted. */
int repo_lock_index(Repo *repo, Failure *reterr);

/* ---- suspects.c: packs found damaged, in the worker's state ---- */

/* Reads the list into repo and index. Needs index.lock. A list that cannot be read is empty. */
int suspects_load(Repo *repo, Failure *reterr);

/* Notes durably that a pack is damaged, or is not any more. Takes index.lock. */
int suspects_note(Repo *repo, const uint8_t pack[UUID_SIZE], bool damaged, Failure *reterr);

/* ---- keyfile.c: keys in files ---- */

#define KEY_FILE_MAX          ((size_t) 64 << 10)
#define KEY_HOST              "host.secret"
#define KEY_PUBLIC            "public.pem"
#define KEY_PRIVATE           "private.pem"
#define KEY_WRAPPED           "private.wrapped"
#define KEY_RECOVERY          "recovery.json"
#define CREDENTIAL_HOST       "holdpoint.host-secret"
#define CREDENTIAL_PRIVATE    "holdpoint.private-key"
#define CREDENTIAL_PASSPHRASE "holdpoint.passphrase"

/* The host secret: 0 and H; -ENOENT when there is none. */
int keyfile_load_host(const KeyPlaces *places, Secret *ret, Failure *reterr);
int keyfile_save_host(const KeyPlaces *places, const Secret *host, Failure *reterr);

/* The private key: of the credentials, in the clear, or wrapped. -ENOENT if there is none. */
int keyfile_load_private(const KeyPlaces *places,
                         Secret *ret_raw,
                         uint8_t ret_public[32],
                         Failure *reterr);
/* The same from bytes that somebody gave; `where` names them. */
int keyfile_parse_private(const KeyPlaces *places,
                          const Secret *blob,
                          const char *where,
                          Secret *ret_raw,
                          uint8_t ret_public[32],
                          Failure *reterr);
/* Writes it durably, wrapped if a passphrase is set. */
int keyfile_save_private(const KeyPlaces *places,
                         const Secret *raw,
                         const uint8_t public[32],
                         Failure *reterr);
/* The public half of the key in the file `name`, without a passphrase. -ENOENT. */
int keyfile_public_half(const char *dir, const char *name, uint8_t ret_public[32], Failure *reterr);
int keyfile_load_public(const KeyPlaces *places, uint8_t ret_public[32], Failure *reterr);

/* True if a credential of this name was handed over. */
bool keyfile_has_credential(const KeyPlaces *places, const char *name);
/* 0, or -ENOENT if none is set (`ret` may be NULL). */
int keyfile_passphrase(const KeyPlaces *places, Secret *ret, Failure *reterr);

/* Replaces a file of the directory, which is made if it is missing. */
int keyfile_save(const char *dir, const char *name, const void *data, size_t n, Failure *reterr);

/* The directory, locked against others that change what is in it. fd, or -ENOENT without reterr. */
int keyfile_lock(const KeyPlaces *places, Failure *reterr);

/* The public key; a pair is made, durable, if there is neither a public nor a private one. */
int keyfile_ensure_pair(const KeyPlaces *places, uint8_t ret_public[32], Failure *reterr);

/* ---- keywrap.c: a private key under a passphrase, as text ---- */

#define PASSPHRASE_MAX 1024

int keywrap_seal(const Secret *passphrase, const Secret *raw, const uint8_t public[32], Buf *ret);
/* -EBADMSG: not such a text; -EKEYREJECTED: the passphrase does not open it. */
int keywrap_open(const Secret *passphrase,
                 const Secret *text,
                 Secret *ret_raw,
                 uint8_t ret_public[32]);
bool keywrap_is(const Secret *text);
int keywrap_public(const Secret *text, uint8_t ret_public[32]); /* -EBADMSG */

/* ---- keybox.c: keys sealed to recipients ---- */

/* Writes hosts/ or sessions/: a key sealed to all recipients, durable. */
int keyfile_seal(Repo *repo,
                 ObjectKind kind,
                 const uint8_t uuid[UUID_SIZE],
                 const Secret *key,
                 uint64_t *ret_bytes,
                 Failure *reterr);

/* Opens the key in the payload of such an object with the private key that is loaded. */
int keyfile_unseal(Repo *repo,
                   ObjectKind kind,
                   const uint8_t uuid[UUID_SIZE],
                   json_object *payload,
                   Secret *ret,
                   Failure *reterr);

/* Makes K_s for a run, sealed to all recipients in sessions/<id>, durable. */
int keyfile_session_new(Repo *repo,
                        uint8_t ret_id[UUID_SIZE],
                        Secret *ret_key,
                        uint64_t *ret_bytes,
                        Failure *reterr);
/* Opens K_s of an old session; needs the private key. */
int keyfile_session_open(Repo *repo, const uint8_t id[UUID_SIZE], Secret *ret_key, Failure *reterr);

/* ---- object.c ---- */

/* Writes a small object, durable; `ret_bytes` (its size) may be NULL. */
int object_write(Repo *repo,
                 ObjectKind kind,
                 const uint8_t uuid[UUID_SIZE],
                 json_object *payload,
                 uint64_t *ret_bytes,
                 Failure *reterr);

/* Reads, checks and opens one; owned. -ENOENT (reterr untouched), else FAIL_INTEGRITY_FAILURE. */
int object_read(Repo *repo,
                ObjectKind kind,
                const uint8_t uuid[UUID_SIZE],
                json_object **ret,
                Failure *reterr);

/* For opening a repository. The repository uuid that config bears, unchecked. -ENOENT. */
int object_peek_repository(Repo *repo, uint8_t ret[UUID_SIZE], Failure *reterr);
/* As object_read() before the keys are known: the MAC is not checked. */
int object_peek(Repo *repo,
                ObjectKind kind,
                const uint8_t uuid[UUID_SIZE],
                json_object **ret,
                Failure *reterr);
/* True if it ends in a MAC of our K_mac, whatever it says. */
bool object_is_ours(Repo *repo, ObjectKind kind, const uint8_t uuid[UUID_SIZE]);

/* ---- index.c: rows in the worker's state; all functions are [mutex] ---- */

/* Where a chunk lies. */
typedef struct IndexPlace {
        uint64_t pack_no;
        uint32_t ordinal;
        uint64_t offset;
        uint32_t stored; /* bytes in the pack */
        uint32_t plain;  /* of the record */
        uint8_t class;   /* CLASS_SMALL for members of bundles */
        bool extra;      /* its AAD needs index_extra_get() */
        bool member;
        uint32_t member_offset, member_size; /* inside the record's plaintext, if `member` */
} IndexPlace;

typedef struct IndexPack {
        uint64_t no;
        uint8_t uuid[UUID_SIZE], session[UUID_SIZE];
        PackKind kind;
        uint64_t size; /* 0 while it is written */
        bool durable;
} IndexPack;

/* Identity of a record for its AAD, where it differs from what place and pack say. */
typedef struct IndexExtra {
        uint8_t id[ID_SIZE];
        uint8_t class;
        uint8_t session[UUID_SIZE], pack[UUID_SIZE]; /* the origin */
        uint32_t ordinal;
} IndexExtra;

/* ---- index-seal.c: whether the files of the index are as the last one left them ---- */

#define INDEX_NAME "index.db"

typedef enum IndexSeal {
        INDEX_SEAL_ABSENT,  /* there is no index */
        INDEX_SEAL_WHOLE,   /* as it was left */
        INDEX_SEAL_CHANGED, /* by another hand: another file, or one that does not belong to it */
} IndexSeal;

/* A descriptor that is closed with the index; `ret_alone`: nobody else has it open, or may open it.
 */
int index_seal_open(int state_fd, bool *ret_alone);
void index_seal_share(int fd); /* lets others in */
IndexSeal index_seal_judge(int fd, int state_fd);
void index_seal_put(int fd, int state_fd);    /* after a commit */
void index_seal_settle(int fd, int state_fd); /* as above, once closed, unless others are in */

/*
 * Opens index.db in `state_fd`, under repo_lock_index(). One that is not as it was left, is
 * damaged, or another repository's, is removed and made anew. A damaged one found later is removed
 * by index_close(), so that the next open rebuilds it.
 */
int index_open(int state_fd, const uint8_t repository[UUID_SIZE], Index **ret, Failure *reterr);
/* An empty one of this process alone, where nothing can be written. */
int index_open_scratch(const uint8_t repository[UUID_SIZE], Index **ret, Failure *reterr);
const char *index_note(const Index *x); /* what was wrong when it was opened; NULL: nothing */
void index_close(Index *x);
DEFINE_CLEANUP(Index *, index_close);

/* 1 and the place, 0 if unknown, negative errno. */
int index_find(Index *x, const uint8_t id[ID_SIZE], IndexPlace *ret, Failure *reterr);
/* As index_find(), for a writer: a place in a suspect pack is none. */
int index_find_sound(Index *x, const uint8_t id[ID_SIZE], IndexPlace *ret, Failure *reterr);
int index_extra_get(Index *x,
                    uint64_t pack_no,
                    uint32_t ordinal,
                    IndexExtra *ret,
                    Failure *reterr);                                       /* 1, 0 */
int index_pack_get(Index *x, uint64_t no, IndexPack *ret, Failure *reterr); /* 1, 0 */
int index_stored_bytes(Index *x, uint64_t *ret, Failure *reterr);

/* All packs by ascending number. `on_pack` may use the index, but not change packs. */
int index_each_pack(Index *x,
                    int (*on_pack)(void *userdata, const IndexPack *pack, Failure *reterr),
                    void *userdata,
                    Failure *reterr);

/* The pack number of every row, in no order. */
int index_each_row(Index *x,
                   int (*on_row)(void *userdata, uint64_t pack_no, Failure *reterr),
                   void *userdata,
                   Failure *reterr);
void index_discard(Index *x); /* index_close() removes it */

/*
 * Packs that were found damaged (those of `uuids` that are known): read, but not relied on. A new
 * place for one of their ids takes the row over.
 */
int index_set_suspects(Index *x, const uint8_t *uuids, size_t n, Failure *reterr);
bool index_is_suspect(const Index *x, uint64_t pack_no);
bool index_has_suspects(const Index *x);

/* Each session whose key a known pack needs. */
int index_each_origin(Index *x,
                      int (*on_session)(void *userdata,
                                        const uint8_t session[UUID_SIZE],
                                        Failure *reterr),
                      void *userdata,
                      Failure *reterr);

/* Changes: inside a transaction that the first one begins and index_commit() ends. */
int index_pack_add(Index *x, const IndexPack *pack, uint64_t *ret_no, Failure *reterr);
int index_pack_finish(Index *x, uint64_t no, uint64_t size, Failure *reterr);
int index_pack_remove(Index *x, uint64_t no, Failure *reterr); /* index_sweep() must follow */
int index_sweep(Index *x, Failure *reterr);                    /* rows of packs that are gone */
int index_add(Index *x, const uint8_t id[ID_SIZE], const IndexPlace *place, Failure *reterr);
int index_extra_add(Index *x,
                    uint64_t pack_no,
                    uint32_t ordinal,
                    const IndexExtra *extra,
                    Failure *reterr);
/* All rows of one entry of a directory: its id or its members', and an extra where needed. */
int index_add_entry(Index *x,
                    uint64_t pack_no,
                    const uint8_t pack[UUID_SIZE],
                    const uint8_t session[UUID_SIZE],
                    const PackEntry *entry,
                    Failure *reterr);
/* Packs and rows of a session that was given up; committed. */
int index_session_remove(Index *x, const uint8_t session[UUID_SIZE], Failure *reterr);
int index_mark_durable(Index *x, const uint8_t *session, Failure *reterr); /* NULL: all packs */
int index_clear(Index *x, Failure *reterr);  /* all rows, and all trust */
int index_commit(Index *x, Failure *reterr); /* fine without a transaction */
void index_rollback(Index *x);

/* Backups whose chunks need no look-up: committed since the index last lost anything. */
int index_trust(Index *x, const uint8_t backup[UUID_SIZE], Failure *reterr);
int index_distrust(Index *x, const uint8_t backup[UUID_SIZE], Failure *reterr);
int index_is_trusted(Index *x, const uint8_t backup[UUID_SIZE], Failure *reterr); /* 1, 0 */

/* ---- pack-write.c ---- */

typedef struct PackMember {
        uint8_t id[ID_SIZE];
        uint32_t offset, size;
} PackMember;

/* One record to be stored; everything pointed to is borrowed. */
typedef struct PackRecord {
        uint8_t class;       /* CLASS_BUNDLE with members */
        uint8_t id[ID_SIZE]; /* of a bundle: crypto_id(CLASS_BUNDLE, ids of the members back to
                                back) */
        uint32_t plain;      /* bytes before compression */
        bool compressed;
        const void *data; /* compressed or plain bytes */
        uint32_t size;
        const PackMember *members; /* ascending, without gaps, the last one ends at `plain` */
        uint32_t n_members;
} PackRecord;

/* A place that was reserved: filled by pack_reserve() and pack_seal(). */
typedef struct PackSlot {
        PackFile *pack;
        uint32_t ordinal;
        uint32_t stored; /* RECORD_OVERHEAD + size */
        uint64_t offset;
        uint8_t hash[HASH_SIZE];
        uint32_t crc;
} PackSlot;

/* `content_key` is K_s for PACK_CONTENT, NULL for PACK_META. No file is made before the first
 * record. */
int pack_writer_new(Repo *repo,
                    PackKind kind,
                    const uint8_t session[UUID_SIZE],
                    const Secret *content_key,
                    uint64_t pack_bytes,
                    PackWriter **ret,
                    Failure *reterr);

/* [mutex] Frees; what was not published is removed. */
void pack_writer_free(PackWriter *w);
DEFINE_CLEANUP(PackWriter *, pack_writer_free);

/* [mutex] Takes the next ordinal and offset of the current pack (or of a new one). */
int pack_reserve(PackWriter *w, const PackRecord *record, PackSlot *ret, Failure *reterr);

/* Any thread: seals into `out` (slot->stored bytes) and fills hash and crc. */
int pack_seal(PackSlot *slot, Crypto *c, const PackRecord *record, uint8_t *out);

/* Any thread: writes the sealed bytes to their place. */
int pack_write(const PackSlot *slot, const uint8_t *sealed, Failure *reterr);

/*
 * [mutex] The record is written: its ids are in the index from here on (so that in-flight sets may
 * drop them). Publishes the pack when it is full and nothing in it is pending.
 */
int pack_done(PackWriter *w, const PackSlot *slot, Failure *reterr);

/* [mutex] All four steps at once, for records that are made one by one; `scratch` is reused. */
int pack_store(PackWriter *w, Crypto *c, const PackRecord *record, Buf *scratch, Failure *reterr);

/* [mutex] Publishes the last pack, if any; nothing may be pending. Not yet durable. */
int pack_writer_finish(PackWriter *w, Failure *reterr);

/* [mutex] Removes all packs of this writer, published ones too, also from the index. */
void pack_writer_abort(PackWriter *w);

/* Bytes of all published packs. */
uint64_t pack_writer_bytes(const PackWriter *w);

/* After finish of all writers of a session: syncfs, then the packs count as durable in the index.
 */
int pack_commit(Repo *repo, const uint8_t session[UUID_SIZE], Failure *reterr);

/* ---- pack-read.c ---- */

/*
 * Reads and opens the record at `place` (found for `id`) into `ret` (cleared first): the whole
 * plaintext, of a bundle with all its members. The caller checks the id of what it takes.
 * FAIL_KEY_MISSING for content without the private key, FAIL_INTEGRITY_FAILURE names the pack.
 */
int pack_read(Repo *repo,
              const IndexPlace *place,
              const uint8_t id[ID_SIZE],
              Buf *ret,
              Failure *reterr);

/* Open packs and their keys. */
void pack_cache_free(PackCache *c);

/* ---- pack-check.c: packs without their content keys ---- */

/* A pack whose frame (all but its records) has been read and checked. */
typedef struct PackInfo {
        int fd;
        uint64_t size;
        uint8_t uuid[UUID_SIZE], session[UUID_SIZE];
        PackKind kind;
        uint32_t records;
        uint32_t header_crc, directory_crc;
        Buf directory; /* plain, its structure checked */
        Buf table;
} PackInfo;

#define PACK_INFO_INIT                                                                             \
        ((PackInfo){ .fd = -1,                                                                     \
                     .directory = BUF_INIT(PACK_DIRECTORY_MAX),                                    \
                     .table = BUF_INIT(4 * (PACK_RECORDS_MAX + 2)) })

/* One entry of a directory; `members` is borrowed from it (40 bytes each). */
struct PackEntry {
        uint8_t class, flags;
        uint32_t plain, stored, ordinal;
        uint64_t offset;
        const uint8_t *id, *hash;
        const uint8_t *origin; /* NULL: this pack */
        const uint8_t *members;
        uint16_t n_members;
};

/* -ENOENT leaves reterr alone; damage is FAIL_INTEGRITY_FAILURE. */
int pack_info_load(Repo *repo, const uint8_t uuid[UUID_SIZE], PackInfo *ret, Failure *reterr);
void pack_info_done(PackInfo *info);

/* Steps through the directory: `at` starts as a Reader over it, `ret->ordinal` as the last one. */
bool pack_entry_next(Reader *at, uint32_t ordinal, PackEntry *ret);

/* Reads every record and checks hash and checksum. -ECANCELED when interrupted. */
int pack_info_verify(Repo *repo,
                     const PackInfo *info,
                     void (*on_bytes)(void *userdata, uint64_t bytes),
                     void *userdata,
                     Failure *reterr);

/* ---- manifest-read.c ---- */

/*
 * Hands out every id that the backup needs (roots, blocks, lists, chunks), each before it is read,
 * in the order of the manifest; ids may come more than once. A positive answer to a block leaves
 * out what is in it. Needs no private key.
 */
int manifest_walk_ids(
        Repo *repo,
        json_object *record,
        int (*on_id)(void *userdata, uint8_t class, const uint8_t id[ID_SIZE], Failure *reterr),
        void *userdata,
        Failure *reterr);
