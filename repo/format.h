#pragma once

/*
 * The bytes on disk: constants and limits, named as in docs/REPO-FORMAT.md. All integers are
 * little-endian.
 */

#define FORMAT_VERSION 1

#define UUID_SIZE  16
#define ID_SIZE    32 /* of chunks, lists, blocks, roots: HMAC-SHA-256 */
#define KEY_SIZE   32
#define MAC_SIZE   32
#define NONCE_SIZE 12
#define TAG_SIZE   16
#define HASH_SIZE  16 /* keyed hash of a sealed record in a pack's directory */

/* Small objects: config, hosts/, sessions/, backups/, pins/. */
#define OBJECT_MAGIC       "HOLDPNT1"
#define OBJECT_HEADER_SIZE 48
#define OBJECT_PAYLOAD_MAX (16 << 20)

typedef enum ObjectKind {
        OBJECT_CONFIG = 1,
        OBJECT_HOST = 2,
        OBJECT_SESSION = 3,
        OBJECT_RECORD = 4, /* backups/<id>: the only sealed payload */
        OBJECT_PIN = 5,
} ObjectKind;

/* A key sealed to a recipient: ephemeral public key, ciphertext, tag. */
#define BOX_SIZE (32 + KEY_SIZE + TAG_SIZE)

/* Packs. */
#define PACK_MAGIC             "HOLDPPK1"
#define PACK_FOOTER_MAGIC      "HOLDPFT1"
#define PACK_END_MAGIC         "HOLDPEND"
#define PACK_HEADER_SIZE       64
#define PACK_FOOTER_SIZE       88
#define PACK_FOOTER_MACED      48          /* bytes of the footer under its MAC */
#define PACK_DIRECTORY_ORDINAL 0xffffffffu /* nonce of the directory */
#define PACK_DIRECTORY_TARGET  (2u << 20)  /* a pack is full when its directory reaches this */
#define PACK_DIRECTORY_MAX     (16u << 20) /* plain; more is refused by readers */
#define PACK_RECORDS_MAX       (1u << 20)
#define PACK_SIZE_MAX          (UINT64_C(1) << 32)
#define RECORD_OVERHEAD        (1 + TAG_SIZE)
#define RECORD_PLAIN_MAX       (4u << 20)
#define RECORD_AAD_SIZE        88
#define BUNDLE_MEMBERS_MAX     4096

typedef enum PackKind {
        PACK_CONTENT = 1,
        PACK_META = 2,
} PackKind;

/* Classes of records: the first byte under an id. The first three are EntryClass. */
enum {
        CLASS_LARGE = 1,
        CLASS_SMALL = 2,
        CLASS_SQLITE = 3,
        CLASS_LIST = 4,
        CLASS_BLOCK = 5,
        CLASS_ROOT = 6,
        CLASS_BUNDLE = 7, /* a record that holds several CLASS_SMALL members */
};

/* The first byte of a stored record. */
enum {
        STORED_RAW = 0,
        STORED_ZSTD = 1,
};

/* Flags of a directory entry. */
enum {
        DIRECTORY_SELF = 1,   /* its origin is this pack and this ordinal */
        DIRECTORY_BUNDLE = 2, /* members follow */
};

/* Chunks. */
#define LARGE_UNIT         (1u << 20)
#define SMALL_MAX          (64u << 10)
#define SQLITE_UNIT        (64u << 10)
#define BUNDLE_TARGET      (256u << 10)
#define BUNDLE_MAX         (BUNDLE_TARGET + SMALL_MAX)
#define CONTENT_INLINE_MAX (16u << 10) /* an encoded chunk list longer than this is indirect */
#define LIST_MAX           (64u << 10)

/* Runs of a chunk list: varint (n << 2 | kind). */
enum {
        RUN_DATA = 0,
        RUN_HOLE = 1,
        RUN_ZERO = 2,
};

/* First byte of an encoded chunk list. */
enum {
        CONTENT_DIRECT = 0,
        CONTENT_INDIRECT = 1,
};

/* Manifest. */
#define BLOCK_VERSION     1
#define BLOCK_CUT_MIN     (16u << 10)
#define BLOCK_CUT_MAX     (256u << 10)
#define BLOCK_CUT_MASK    0x1ffu
#define BLOCK_PLAIN_MAX   RECORD_PLAIN_MAX
#define ENTRY_ENCODED_MAX (2u << 20)
#define ROOT_VERSION      1
#define ROOT_MAX          (1u << 20)

enum {
        ITEM_DIRECTORY = 1,
        ITEM_ENTRY = 2,
};

/* Bits of an entry's `fields`. */
enum {
        ENTRY_HAS_FLAGS = 1,
        ENTRY_HAS_XATTRS = 2,
        ENTRY_HAS_DEVICE = 4,
        ENTRY_HAS_TARGET = 8,
        ENTRY_IS_SPARSE = 16,
        ENTRY_HAS_CONTENT = 32,
};

/* Labels of the key derivation (info of HKDF-SHA-256), without a terminating zero. */
#define LABEL_ID           "holdpoint-1 id"
#define LABEL_META         "holdpoint-1 meta"
#define LABEL_MAC          "holdpoint-1 mac"
#define LABEL_RECORD       "holdpoint-1 record"
#define LABEL_PACK         "holdpoint-1 pack"
#define LABEL_DIRECTORY    "holdpoint-1 directory"
#define LABEL_SEAL_HOST    "holdpoint-1 seal host"
#define LABEL_SEAL_SESSION "holdpoint-1 seal session"
