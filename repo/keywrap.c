/*
 * A private key under a passphrase: scrypt makes the key that seals it. A text of its own, since
 * OpenSSL limits the memory of scrypt in PKCS#8 to less than this takes.
 *
 * The text holds nothing secret in the clear. Whether passphrase and text are whole is told by the
 * AEAD, and the public half that stands beside it must be that of the key that comes out.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "repo/repo-internal.h"

#define KIND      "holdpoint wrapped private key"
#define SALT_SIZE 32
#define RAW_SIZE  32
#define LOG2_N    17

static const char label[] = "holdpoint-1 wrapped key";

typedef struct Wrapped {
        uint8_t salt[SALT_SIZE], nonce[NONCE_SIZE], public[32], sealed[RAW_SIZE + TAG_SIZE];
} Wrapped;

#define AAD_SIZE (sizeof(label) - 1 + 32)

static CryptoPart aad_of(const Wrapped *w, uint8_t buf[AAD_SIZE]) {
        memcpy(buf, label, sizeof(label) - 1);
        memcpy(buf + sizeof(label) - 1, w->public, 32);
        return (CryptoPart){ buf, AAD_SIZE };
}

static int put_hex(json_object *o, const char *key, const uint8_t *data, size_t n) {
        char hex[2 * (RAW_SIZE + TAG_SIZE) + 1];

        text_hex(data, n, hex);
        return json_put_string(o, key, hex);
}

static int get_hex(json_object *o, const char *key, uint8_t *ret, size_t n) {
        const char *hex;

        return json_get_string(o, key, &hex) < 0 || text_unhex(hex, ret, n) < 0 ? -EBADMSG : 0;
}

static int write_text(const Wrapped *w, Buf *ret) {
        _cleanup_json_ json_object *o = json_object_new_object();
        const char *text;
        int r;

        if (!o || json_put_string(o, "kind", KIND) < 0 || json_put_u64(o, "version", 1) < 0 ||
            json_put_string(o, "kdf", "scrypt") < 0 ||
            json_put_u64(o, "n", UINT64_C(1) << LOG2_N) < 0 || json_put_u64(o, "r", 8) < 0 ||
            json_put_u64(o, "p", 1) < 0 || put_hex(o, "salt", w->salt, SALT_SIZE) < 0 ||
            put_hex(o, "nonce", w->nonce, NONCE_SIZE) < 0 ||
            put_hex(o, "public", w->public, sizeof(w->public)) < 0 ||
            put_hex(o, "sealed", w->sealed, sizeof(w->sealed)) < 0)
                return -ENOMEM;
        text = json_text(o);
        r = text ? buf_put(ret, text, strlen(text)) : -ENOMEM;
        return r < 0 ? r : buf_put(ret, "\n", 1);
}

static int read_text(const Secret *text, Wrapped *ret) {
        size_t size = text->size - (text->size > 0 && text->data[text->size - 1] == '\n');
        _cleanup_json_ json_object *o = json_parse((const char *) text->data, size);
        const char *kind, *kdf;
        uint64_t version, n, r, p;

        if (!json_object_is_type(o, json_type_object) || json_get_string(o, "kind", &kind) < 0 ||
            strcmp(kind, KIND) != 0 || json_get_u64(o, "version", &version) < 0 || version != 1 ||
            json_get_string(o, "kdf", &kdf) < 0 || strcmp(kdf, "scrypt") != 0 ||
            json_get_u64(o, "n", &n) < 0 || n != UINT64_C(1) << LOG2_N ||
            json_get_u64(o, "r", &r) < 0 || r != 8 || json_get_u64(o, "p", &p) < 0 || p != 1)
                return -EBADMSG;
        if (get_hex(o, "salt", ret->salt, SALT_SIZE) < 0 ||
            get_hex(o, "nonce", ret->nonce, NONCE_SIZE) < 0 ||
            get_hex(o, "public", ret->public, sizeof(ret->public)) < 0)
                return -EBADMSG;
        return get_hex(o, "sealed", ret->sealed, sizeof(ret->sealed));
}

bool keywrap_is(const Secret *text) {
        return text->size > 0 && text->data[0] == '{';
}

int keywrap_public(const Secret *text, uint8_t ret_public[32]) {
        Wrapped w;
        int r = read_text(text, &w);

        if (r >= 0)
                memcpy(ret_public, w.public, sizeof(w.public));
        return r;
}

int keywrap_seal(const Secret *passphrase, const Secret *raw, const uint8_t public[32], Buf *ret) {
        _cleanup_(crypto_freep) Crypto *c = NULL;
        uint8_t key[KEY_SIZE], aad[AAD_SIZE];
        Wrapped w;
        int r;

        memcpy(w.public, public, sizeof(w.public));
        r = crypto_random(w.salt, SALT_SIZE);
        if (r >= 0)
                r = crypto_random(w.nonce, NONCE_SIZE);
        if (r >= 0)
                r = crypto_new(NULL, &c);
        if (r >= 0)
                r = crypto_scrypt(passphrase, (CryptoPart){ w.salt, SALT_SIZE }, LOG2_N, key);
        if (r >= 0)
                r = crypto_seal(c, key, w.nonce, aad_of(&w, aad), raw->data, RAW_SIZE, w.sealed);
        explicit_bzero(key, sizeof(key));
        return r < 0 ? r : write_text(&w, ret);
}

int keywrap_open(const Secret *passphrase,
                 const Secret *text,
                 Secret *ret_raw,
                 uint8_t ret_public[32]) {
        _cleanup_(crypto_freep) Crypto *c = NULL;
        _cleanup_secret_ Secret raw = SECRET_INIT;
        uint8_t key[KEY_SIZE], aad[AAD_SIZE];
        Wrapped w;
        int r = read_text(text, &w);

        if (r >= 0)
                r = secret_new(&raw, RAW_SIZE);
        if (r >= 0)
                r = crypto_new(NULL, &c);
        if (r >= 0)
                r = crypto_scrypt(passphrase, (CryptoPart){ w.salt, SALT_SIZE }, LOG2_N, key);
        if (r < 0)
                return r;
        r = crypto_open(c, key, w.nonce, aad_of(&w, aad), w.sealed, sizeof(w.sealed), raw.data);
        explicit_bzero(key, sizeof(key));
        if (r == -EBADMSG)
                return -EKEYREJECTED;
        if (r >= 0)
                r = crypto_private_public(&raw, ret_public);
        if (r >= 0 && memcmp(ret_public, w.public, sizeof(w.public)) != 0)
                r = -EBADMSG;
        if (r < 0)
                return r;
        *ret_raw = raw;
        raw = SECRET_INIT;
        return 0;
}
