#pragma once

/*
 * What writing, reading and checking of packs share: headers, nonces, associated data, keys.
 */

#include "repo/repo-internal.h"

/* Who sealed a record, and as what: everything that goes into nonce, key and associated data. */
typedef struct PackIdentity {
        uint8_t session[UUID_SIZE], pack[UUID_SIZE];
        uint32_t ordinal;
        uint8_t class, flag;
        uint8_t id[ID_SIZE];
} PackIdentity;

void pack_aad(const uint8_t repository[UUID_SIZE],
              const PackIdentity *who,
              uint8_t ret[RECORD_AAD_SIZE]);
void pack_nonce(uint32_t ordinal, uint8_t ret[NONCE_SIZE]);

/* HKDF(base, pack uuid, label). */
int pack_key(const uint8_t base[KEY_SIZE],
             const uint8_t pack[UUID_SIZE],
             const char *label,
             uint8_t ret[KEY_SIZE]);

void pack_header(const uint8_t repository[UUID_SIZE],
                 PackKind kind,
                 const uint8_t pack[UUID_SIZE],
                 const uint8_t session[UUID_SIZE],
                 uint8_t ret[PACK_HEADER_SIZE]);

/* Offsets in header and footer. */
enum {
        PACK_AT_VERSION = 8,
        PACK_AT_KIND = 10,
        PACK_AT_REPOSITORY = 12,
        PACK_AT_UUID = 28,
        PACK_AT_SESSION = 44,
        FOOTER_AT_RECORDS = 12,
        FOOTER_AT_DIRECTORY = 16,
        FOOTER_AT_DIRECTORY_STORED = 24,
        FOOTER_AT_DIRECTORY_PLAIN = 28,
        FOOTER_AT_TABLE = 32,
        FOOTER_AT_TABLE_SIZE = 40,
        FOOTER_AT_MAC = 48,
        FOOTER_AT_END = 80,
};

/* Sizes in a directory. */
#define DIRECTORY_ENTRY_SIZE  66
#define DIRECTORY_ORIGIN_SIZE 36
#define DIRECTORY_MEMBER_SIZE 40
#define DIRECTORY_HASH_AT     50 /* of the keyed hash, inside an entry */
