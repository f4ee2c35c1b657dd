/*
 * Small objects: one envelope for config, hosts, sessions, records and pins. Nothing in one is
 * looked at before its MAC was checked, but for what finding the key needs (the uuid in config).
 */

#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "repo/repo-internal.h"

/* Offsets in the envelope. */
enum {
        AT_VERSION = 8,
        AT_KIND = 10,
        AT_REPOSITORY = 12,
        AT_UUID = 28,
        AT_LENGTH = 44,
};

static int record_key(Repo *repo, const uint8_t uuid[UUID_SIZE], uint8_t ret[KEY_SIZE]) {
        return crypto_hkdf((CryptoPart){ repo->keys.meta.data, KEY_SIZE },
                           (CryptoPart){ uuid, UUID_SIZE },
                           (CryptoPart){ LABEL_RECORD, strlen(LABEL_RECORD) }, ret);
}

/* Appends nonce, ciphertext and tag; the header before it is the associated data. */
static int
put_sealed(Repo *repo, const uint8_t uuid[UUID_SIZE], const char *text, size_t n, Buf *to) {
        uint8_t key[KEY_SIZE], *p;
        int r;

        r = buf_reserve(to, NONCE_SIZE + n + TAG_SIZE);
        if (r < 0)
                return r;
        p = to->data + to->size;
        r = crypto_random(p, NONCE_SIZE);
        if (r >= 0)
                r = record_key(repo, uuid, key);
        if (r >= 0)
                r = crypto_seal(repo->crypto, key, p, (CryptoPart){ to->data, OBJECT_HEADER_SIZE },
                                text, n, p + NONCE_SIZE);
        explicit_bzero(key, sizeof(key));
        if (r >= 0)
                to->size += NONCE_SIZE + n + TAG_SIZE;
        return r;
}

static int
encode(Repo *repo, ObjectKind kind, const uint8_t uuid[UUID_SIZE], json_object *payload, Buf *to) {
        const char *text = json_text(payload);
        uint8_t header[OBJECT_HEADER_SIZE], mac[MAC_SIZE];
        size_t n = text ? strlen(text) : 0, stored;
        int r;

        if (!text)
                return -ENOMEM;
        stored = kind == OBJECT_RECORD ? NONCE_SIZE + n + TAG_SIZE : n;
        if (stored > OBJECT_PAYLOAD_MAX)
                return -EMSGSIZE;
        memcpy(header, OBJECT_MAGIC, 8);
        put_le16(header + AT_VERSION, FORMAT_VERSION);
        put_le16(header + AT_KIND, (uint16_t) kind);
        memcpy(header + AT_REPOSITORY, repo->uuid, UUID_SIZE);
        memcpy(header + AT_UUID, uuid, UUID_SIZE);
        put_le32(header + AT_LENGTH, (uint32_t) stored);
        r = buf_put(to, header, sizeof(header));
        if (r >= 0)
                r = kind == OBJECT_RECORD ? put_sealed(repo, uuid, text, n, to)
                                          : buf_put(to, text, n);
        if (r >= 0)
                r = crypto_mac(repo->crypto, &(CryptoPart){ to->data, to->size }, 1, mac);
        return r < 0 ? r : buf_put(to, mac, sizeof(mac));
}

int object_write(Repo *repo,
                 ObjectKind kind,
                 const uint8_t uuid[UUID_SIZE],
                 json_object *payload,
                 uint64_t *ret_bytes,
                 Failure *reterr) {
        _cleanup_(buf_done) Buf bytes = BUF_INIT(OBJECT_PAYLOAD_MAX + 4096);
        char name[STORE_NAME_MAX];
        int r;

        store_object_name(kind, uuid, name);
        r = encode(repo, kind, uuid, payload, &bytes);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot encode %s", name);
        r = store_put(repo->store, name, bytes.data, bytes.size, reterr);
        if (r < 0)
                return r;
        if (ret_bytes)
                *ret_bytes = bytes.size;
        /* From here on a base state that names this backup is as good as the index. If this fails,
         * the next run looks chunks up that it need not have. */
        if (kind == OBJECT_RECORD && repo->index)
                (void) index_trust(repo->index, uuid, NULL);
        return 0;
}

static int damaged(Failure *reterr, const char *name, const char *why) {
        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                        "%s is damaged: %s; bring this file back from a copy of the repository",
                        name, why);
}

/* What the header says must be what was asked for; NULL if so, else why not. */
static const char *
header_wrong(const Repo *repo, ObjectKind kind, const uint8_t uuid[UUID_SIZE], const Buf *b) {
        if (memcmp(b->data, OBJECT_MAGIC, 8) != 0)
                return "it does not begin as an object does";
        if (get_le16(b->data + AT_KIND) != kind)
                return "it is of another kind";
        if (memcmp(b->data + AT_REPOSITORY, repo->uuid, UUID_SIZE) != 0)
                return "it belongs to another repository";
        if (memcmp(b->data + AT_UUID, uuid, UUID_SIZE) != 0)
                return "it bears another name";
        if (b->size - OBJECT_HEADER_SIZE - MAC_SIZE != get_le32(b->data + AT_LENGTH))
                return "its length is wrong";
        return NULL;
}

static int open_record(Repo *repo, const uint8_t uuid[UUID_SIZE], const Buf *b, Buf *ret) {
        const uint8_t *payload = b->data + OBJECT_HEADER_SIZE;
        size_t n = get_le32(b->data + AT_LENGTH);
        uint8_t key[KEY_SIZE];
        int r;

        if (n < NONCE_SIZE + TAG_SIZE)
                return -EBADMSG;
        n -= NONCE_SIZE;
        r = buf_reserve(ret, n);
        if (r >= 0)
                r = record_key(repo, uuid, key);
        if (r >= 0)
                r = crypto_open(repo->crypto, key, payload,
                                (CryptoPart){ b->data, OBJECT_HEADER_SIZE }, payload + NONCE_SIZE,
                                n, ret->data);
        explicit_bzero(key, sizeof(key));
        if (r >= 0)
                ret->size = n - TAG_SIZE;
        return r;
}

static int parse_payload(Repo *repo,
                         ObjectKind kind,
                         const uint8_t uuid[UUID_SIZE],
                         const Buf *b,
                         const char *name,
                         json_object **ret,
                         Failure *reterr) {
        _cleanup_(buf_done) Buf plain = BUF_INIT(OBJECT_PAYLOAD_MAX);
        const char *text = (const char *) b->data + OBJECT_HEADER_SIZE;
        size_t n = get_le32(b->data + AT_LENGTH);
        _cleanup_json_ json_object *o = NULL;
        int r;

        if (kind == OBJECT_RECORD) {
                r = open_record(repo, uuid, b, &plain);
                if (r == -EBADMSG)
                        return damaged(reterr, name, "its content does not authenticate");
                if (r < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot open %s", name);
                text = (const char *) plain.data;
                n = plain.size;
        }
        o = json_parse(text, n);
        if (!json_object_is_type(o, json_type_object))
                return damaged(reterr, name, "it holds no JSON object");
        *ret = TAKE_PTR(o);
        return 0;
}

/* The file of an object, its length looked at and nothing else. */
static int
fetch(Repo *repo, ObjectKind kind, const uint8_t uuid[UUID_SIZE], Buf *ret, Failure *reterr) {
        char name[STORE_NAME_MAX];
        int r;

        store_object_name(kind, uuid, name);
        r = store_get(repo->store, name, OBJECT_PAYLOAD_MAX + 4096, ret);
        if (r == -ENOENT)
                return r;
        if (r == -EFBIG || r == -EINVAL)
                return damaged(reterr, name, "it is no file of a sensible size");
        if (r == -EIO)
                return damaged(reterr, name, "the disk cannot read it");
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot read %s", name);
        if (ret->size < OBJECT_HEADER_SIZE + MAC_SIZE)
                return damaged(reterr, name, "it is too short");
        return 0;
}

/* 1 if it ends in its MAC, 0 if not. */
static int mac_fits(Repo *repo, const Buf *b) {
        uint8_t mac[MAC_SIZE];
        int r = crypto_mac(repo->crypto, &(CryptoPart){ b->data, b->size - MAC_SIZE }, 1, mac);

        return r < 0 ? r : crypto_equal(mac, b->data + b->size - MAC_SIZE, MAC_SIZE);
}

bool object_is_ours(Repo *repo, ObjectKind kind, const uint8_t uuid[UUID_SIZE]) {
        _cleanup_(buf_done) Buf b = BUF_INIT(OBJECT_PAYLOAD_MAX + 4096);

        return fetch(repo, kind, uuid, &b, NULL) == 0 && mac_fits(repo, &b) > 0;
}

int object_peek_repository(Repo *repo, uint8_t ret[UUID_SIZE], Failure *reterr) {
        _cleanup_(buf_done) Buf b = BUF_INIT(OBJECT_PAYLOAD_MAX + 4096);
        int r = fetch(repo, OBJECT_CONFIG, repo->uuid, &b, reterr);

        if (r < 0)
                return r;
        if (memcmp(b.data, OBJECT_MAGIC, 8) != 0)
                return damaged(reterr, "config", "it does not begin as an object does");
        memcpy(ret, b.data + AT_REPOSITORY, UUID_SIZE);
        return 0;
}

int object_peek(Repo *repo,
                ObjectKind kind,
                const uint8_t uuid[UUID_SIZE],
                json_object **ret,
                Failure *reterr) {
        _cleanup_(buf_done) Buf b = BUF_INIT(OBJECT_PAYLOAD_MAX + 4096);
        char name[STORE_NAME_MAX];
        const char *wrong;
        int r;

        r = fetch(repo, kind, uuid, &b, reterr);
        if (r < 0)
                return r;
        store_object_name(kind, uuid, name);
        wrong = header_wrong(repo, kind, uuid, &b);
        return wrong ? damaged(reterr, name, wrong)
                     : parse_payload(repo, kind, uuid, &b, name, ret, reterr);
}

int object_read(Repo *repo,
                ObjectKind kind,
                const uint8_t uuid[UUID_SIZE],
                json_object **ret,
                Failure *reterr) {
        _cleanup_(buf_done) Buf b = BUF_INIT(OBJECT_PAYLOAD_MAX + 4096);
        char name[STORE_NAME_MAX];
        const char *wrong;
        int r;

        r = fetch(repo, kind, uuid, &b, reterr);
        if (r < 0)
                return r;
        store_object_name(kind, uuid, name);
        wrong = header_wrong(repo, kind, uuid, &b);
        if (wrong)
                return damaged(reterr, name, wrong);
        r = mac_fits(repo, &b);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot check %s", name);
        if (r == 0)
                return damaged(reterr, name, "its MAC is wrong");
        /* Only now, so that a flipped bit is damage and not "too new". */
        if (get_le16(b.data + AT_VERSION) != FORMAT_VERSION)
                return fail_set(
                        reterr, FAIL_NOT_RESTORABLE, ENOTSUP,
                        "%s has format version %u, this program knows %u; install a newer one",
                        name, get_le16(b.data + AT_VERSION), FORMAT_VERSION);
        return parse_payload(repo, kind, uuid, &b, name, ret, reterr);
}
