/*
 * All cryptography, over OpenSSL's EVP; nothing else in the tree includes it.
 *
 * Callers name a purpose (an id, a MAC, a box); what they hold of keys lies in Secrets. Contexts
 * are made once per thread and reused: setting up a MAC or cipher costs more than a small record.
 * Errors of the library are -EIO (they are bugs or out of memory); what does not authenticate is
 * -EBADMSG.
 */

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <string.h>

#include "base/text.h"
#include "repo/repo-internal.h"

DEFINE_CLEANUP(EVP_MAC *, EVP_MAC_free);
DEFINE_CLEANUP(EVP_KDF *, EVP_KDF_free);
DEFINE_CLEANUP(EVP_KDF_CTX *, EVP_KDF_CTX_free);
DEFINE_CLEANUP(EVP_PKEY *, EVP_PKEY_free);
DEFINE_CLEANUP(EVP_PKEY_CTX *, EVP_PKEY_CTX_free);
DEFINE_CLEANUP(BIO *, BIO_free_all);

struct Crypto {
        EVP_MAC_CTX *id, *mac; /* keyed; restarted by init without a key */
        EVP_CIPHER *gcm;
        EVP_CIPHER_CTX *cipher;
};

struct CryptoSha {
        EVP_MD_CTX *md;
};

/* The queue of the library is ours to empty; the errno is what callers can use. */
static int failed(void) {
        ERR_clear_error();
        return -EIO;
}

/* ---- derivation ---- */

int crypto_hkdf(CryptoPart key, CryptoPart salt, CryptoPart info, uint8_t ret[KEY_SIZE]) {
        _cleanup_(EVP_KDF_freep) EVP_KDF *kdf = NULL;
        _cleanup_(EVP_KDF_CTX_freep) EVP_KDF_CTX *ctx = NULL;
        OSSL_PARAM params[5], *p = params;

        kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
        ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
        if (!ctx)
                return failed();
        *p++ = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *) "SHA256", 0);
        *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *) key.data, key.size);
        if (salt.size > 0)
                *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *) salt.data,
                                                         salt.size);
        *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *) info.data,
                                                 info.size);
        *p = OSSL_PARAM_construct_end();
        return EVP_KDF_derive(ctx, ret, KEY_SIZE, params) == 1 ? 0 : failed();
}

static int derive(const uint8_t host[KEY_SIZE], const char *label, Secret *ret) {
        int r = secret_new(ret, KEY_SIZE);

        if (r < 0)
                return r;
        return crypto_hkdf((CryptoPart){ host, KEY_SIZE }, (CryptoPart){ NULL, 0 },
                           (CryptoPart){ label, strlen(label) }, ret->data);
}

int crypto_keys_derive(const uint8_t host[KEY_SIZE], CryptoKeys *ret) {
        CryptoKeys keys = { 0 };
        int r;

        r = secret_copy(&keys.host, host, KEY_SIZE);
        if (r >= 0)
                r = derive(host, LABEL_ID, &keys.id);
        if (r >= 0)
                r = derive(host, LABEL_META, &keys.meta);
        if (r >= 0)
                r = derive(host, LABEL_MAC, &keys.mac);
        if (r < 0) {
                crypto_keys_done(&keys);
                return r;
        }
        *ret = keys;
        return 0;
}

void crypto_keys_done(CryptoKeys *keys) {
        secret_done(&keys->host);
        secret_done(&keys->id);
        secret_done(&keys->meta);
        secret_done(&keys->mac);
}

int crypto_scrypt(const Secret *passphrase,
                  CryptoPart salt,
                  unsigned log2_n,
                  uint8_t ret[KEY_SIZE]) {
        _cleanup_(EVP_KDF_freep) EVP_KDF *kdf = EVP_KDF_fetch(NULL, "SCRYPT", NULL);
        _cleanup_(EVP_KDF_CTX_freep) EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
        uint64_t n = UINT64_C(1) << log2_n, r = 8, p = 1, most = n * 1024 + (1 << 20);
        const OSSL_PARAM params[] = {
                OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PASSWORD, passphrase->data,
                                                  passphrase->size),
                OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *) salt.data,
                                                  salt.size),
                OSSL_PARAM_construct_uint64(OSSL_KDF_PARAM_SCRYPT_N, &n),
                OSSL_PARAM_construct_uint64(OSSL_KDF_PARAM_SCRYPT_R, &r),
                OSSL_PARAM_construct_uint64(OSSL_KDF_PARAM_SCRYPT_P, &p),
                /* The library's own limit is below what N needs. */
                OSSL_PARAM_construct_uint64(OSSL_KDF_PARAM_SCRYPT_MAXMEM, &most),
                OSSL_PARAM_construct_end(),
        };

        return ctx && EVP_KDF_derive(ctx, ret, KEY_SIZE, params) == 1 ? 0 : failed();
}

int crypto_random(void *data, size_t n) {
        return RAND_bytes(data, (int) n) == 1 ? 0 : failed();
}

bool crypto_equal(const void *a, const void *b, size_t n) {
        return CRYPTO_memcmp(a, b, n) == 0;
}

/* ---- ids and MACs ---- */

static EVP_MAC_CTX *hmac_new(const Secret *key) {
        _cleanup_(EVP_MAC_freep) EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
        EVP_MAC_CTX *ctx = mac ? EVP_MAC_CTX_new(mac) : NULL;
        OSSL_PARAM params[] = {
                OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *) "SHA256", 0),
                OSSL_PARAM_construct_end(),
        };

        if (ctx && EVP_MAC_init(ctx, key->data, key->size, params) != 1) {
                EVP_MAC_CTX_free(ctx);
                return NULL;
        }
        return ctx;
}

int crypto_new(const CryptoKeys *keys, Crypto **ret) {
        _cleanup_(crypto_freep) Crypto *c = calloc(1, sizeof(*c));

        if (!c)
                return -ENOMEM;
        if (keys) {
                c->id = hmac_new(&keys->id);
                c->mac = hmac_new(&keys->mac);
                if (!c->id || !c->mac)
                        return failed();
        }
        c->gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
        c->cipher = EVP_CIPHER_CTX_new();
        if (!c->gcm || !c->cipher)
                return failed();
        *ret = TAKE_PTR(c);
        return 0;
}

void crypto_free(Crypto *c) {
        if (!c)
                return;
        EVP_MAC_CTX_free(c->id);
        EVP_MAC_CTX_free(c->mac);
        EVP_CIPHER_CTX_free(c->cipher);
        EVP_CIPHER_free(c->gcm);
        free(c);
}

static int mac_end(EVP_MAC_CTX *ctx, uint8_t ret[MAC_SIZE]) {
        size_t n;

        if (EVP_MAC_final(ctx, ret, &n, MAC_SIZE) != 1 || n != MAC_SIZE)
                return failed();
        return 0;
}

int crypto_id(Crypto *c, uint8_t class, const void *data, size_t n, uint8_t ret[ID_SIZE]) {
        if (EVP_MAC_init(c->id, NULL, 0, NULL) != 1 || EVP_MAC_update(c->id, &class, 1) != 1 ||
            EVP_MAC_update(c->id, data, n) != 1)
                return failed();
        return mac_end(c->id, ret);
}

int crypto_mac_begin(Crypto *c) {
        return EVP_MAC_init(c->mac, NULL, 0, NULL) == 1 ? 0 : failed();
}

int crypto_mac_more(Crypto *c, const void *data, size_t n) {
        return EVP_MAC_update(c->mac, data, n) == 1 ? 0 : failed();
}

int crypto_mac_end(Crypto *c, uint8_t ret[MAC_SIZE]) {
        return mac_end(c->mac, ret);
}

int crypto_mac(Crypto *c, const CryptoPart *parts, size_t n, uint8_t ret[MAC_SIZE]) {
        int r = crypto_mac_begin(c);

        for (size_t i = 0; i < n && r >= 0; i++)
                r = crypto_mac_more(c, parts[i].data, parts[i].size);
        return r < 0 ? r : crypto_mac_end(c, ret);
}

/* ---- AES-256-GCM ---- */

int crypto_seal(Crypto *c,
                const uint8_t key[KEY_SIZE],
                const uint8_t nonce[NONCE_SIZE],
                CryptoPart aad,
                const void *in,
                size_t n,
                uint8_t *out) {
        int done, last;

        if (n > INT32_MAX - TAG_SIZE)
                return -EMSGSIZE;
        if (EVP_EncryptInit_ex2(c->cipher, c->gcm, key, nonce, NULL) != 1)
                return failed();
        if (aad.size > 0 &&
            EVP_EncryptUpdate(c->cipher, NULL, &done, aad.data, (int) aad.size) != 1)
                return failed();
        if (EVP_EncryptUpdate(c->cipher, out, &done, in, (int) n) != 1 || (size_t) done != n ||
            EVP_EncryptFinal_ex(c->cipher, out + n, &last) != 1 || last != 0)
                return failed();
        if (EVP_CIPHER_CTX_ctrl(c->cipher, EVP_CTRL_AEAD_GET_TAG, TAG_SIZE, out + n) != 1)
                return failed();
        return 0;
}

int crypto_open(Crypto *c,
                const uint8_t key[KEY_SIZE],
                const uint8_t nonce[NONCE_SIZE],
                CryptoPart aad,
                const void *in,
                size_t n,
                uint8_t *out) {
        uint8_t tag[TAG_SIZE];
        int done, last;

        if (n < TAG_SIZE)
                return -EBADMSG;
        if (n > INT32_MAX)
                return -EMSGSIZE;
        n -= TAG_SIZE;
        memcpy(tag, (const uint8_t *) in + n, TAG_SIZE);
        if (EVP_DecryptInit_ex2(c->cipher, c->gcm, key, nonce, NULL) != 1)
                return failed();
        if (aad.size > 0 &&
            EVP_DecryptUpdate(c->cipher, NULL, &done, aad.data, (int) aad.size) != 1)
                return failed();
        if (EVP_DecryptUpdate(c->cipher, out, &done, in, (int) n) != 1 || (size_t) done != n ||
            EVP_CIPHER_CTX_ctrl(c->cipher, EVP_CTRL_AEAD_SET_TAG, TAG_SIZE, tag) != 1)
                return failed();
        if (EVP_DecryptFinal_ex(c->cipher, tag, &last) != 1) {
                /* Unauthenticated plaintext must not be used by mistake. */
                OPENSSL_cleanse(out, n);
                ERR_clear_error();
                return -EBADMSG;
        }
        return 0;
}

/* ---- SHA-256 ---- */

int crypto_sha_new(CryptoSha **ret) {
        _cleanup_(crypto_sha_freep) CryptoSha *s = calloc(1, sizeof(*s));

        if (!s)
                return -ENOMEM;
        s->md = EVP_MD_CTX_new();
        if (!s->md || EVP_DigestInit_ex2(s->md, EVP_sha256(), NULL) != 1)
                return failed();
        *ret = TAKE_PTR(s);
        return 0;
}

int crypto_sha_add(CryptoSha *s, const void *data, size_t n) {
        return EVP_DigestUpdate(s->md, data, n) == 1 ? 0 : failed();
}

int crypto_sha_end(CryptoSha *s, uint8_t ret[32]) {
        return EVP_DigestFinal_ex(s->md, ret, NULL) == 1 ? 0 : failed();
}

void crypto_sha_free(CryptoSha *s) {
        if (!s)
                return;
        EVP_MD_CTX_free(s->md);
        free(s);
}

int crypto_sha256(const void *data, size_t n, uint8_t ret[32]) {
        return EVP_Digest(data, n, ret, NULL, EVP_sha256(), NULL) == 1 ? 0 : failed();
}

/* ---- X25519 ---- */

static int raw_public(EVP_PKEY *key, uint8_t ret[32]) {
        size_t n = 32;

        return EVP_PKEY_get_raw_public_key(key, ret, &n) == 1 && n == 32 ? 0 : failed();
}

/* Secure BIO memory: the PEM of a private key passes through it. */
static int pem_secret(EVP_PKEY *key, Secret *ret) {
        _cleanup_(BIO_free_allp) BIO *bio = BIO_new(BIO_s_secmem());
        char *data;
        long n;

        if (!bio || PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) != 1)
                return failed();
        n = BIO_get_mem_data(bio, &data);
        return n > 0 ? secret_copy(ret, data, (size_t) n) : failed();
}

static int raw_private(EVP_PKEY *key, Secret *ret) {
        size_t n = 32;
        int r = secret_new(ret, 32);

        if (r < 0)
                return r;
        if (EVP_PKEY_get_raw_private_key(key, ret->data, &n) == 1 && n == 32)
                return 0;
        secret_done(ret);
        return failed();
}

static EVP_PKEY *from_raw(const Secret *raw) {
        return EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, raw->data, raw->size);
}

int crypto_keypair_new(Secret *ret_raw, uint8_t ret_public[32]) {
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "X25519");
        int r;

        if (!key)
                return failed();
        r = raw_public(key, ret_public);
        return r < 0 ? r : raw_private(key, ret_raw);
}

int crypto_private_pem(const Secret *raw, Secret *ret_pem) {
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *key = from_raw(raw);

        return key ? pem_secret(key, ret_pem) : failed();
}

int crypto_private_public(const Secret *raw, uint8_t ret_public[32]) {
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *key = from_raw(raw);

        return key ? raw_public(key, ret_public) : failed();
}

/* An encrypted PEM is refused instead of asked for on a terminal. */
static int no_passphrase(char *buf, int size, int rwflag, void *userdata) {
        *(bool *) userdata = true;
        return -1;
}

int crypto_private_parse(const Secret *pem, Secret *ret_raw, uint8_t ret_public[32]) {
        _cleanup_(BIO_free_allp) BIO *bio = NULL;
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *key = NULL;
        _cleanup_secret_ Secret raw = SECRET_INIT;
        bool encrypted = false;
        int r;

        if (pem->size == 0 || pem->size > 64 << 10)
                return -EBADMSG;
        bio = BIO_new_mem_buf(pem->data, (int) pem->size);
        key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &encrypted) : NULL;
        ERR_clear_error();
        if (!key)
                return encrypted ? -ENOKEY : -EBADMSG;
        if (!EVP_PKEY_is_a(key, "X25519"))
                return -EBADMSG;
        r = raw_private(key, &raw);
        if (r >= 0)
                r = raw_public(key, ret_public);
        if (r < 0)
                return r;
        *ret_raw = raw;
        raw = SECRET_INIT;
        return 0;
}

int crypto_key_id(const uint8_t public[32], char ret[KEY_ID_MAX]) {
        uint8_t digest[32];
        int r = crypto_sha256(public, 32, digest);

        if (r >= 0)
                text_hex(digest, (KEY_ID_MAX - 1) / 2, ret);
        return r;
}

int crypto_public_pem(const uint8_t public[32], Buf *ret) {
        _cleanup_(BIO_free_allp) BIO *bio = BIO_new(BIO_s_mem());
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *key =
                EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, public, 32);
        char *data;
        long n;

        if (!bio || !key || PEM_write_bio_PUBKEY(bio, key) != 1)
                return failed();
        n = BIO_get_mem_data(bio, &data);
        return n > 0 ? buf_put(ret, data, (size_t) n) : failed();
}

int crypto_public_parse(const void *pem, size_t n, uint8_t ret[32]) {
        _cleanup_(BIO_free_allp) BIO *bio = NULL;
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *key = NULL;

        if (n == 0 || n > 64 << 10)
                return -EBADMSG;
        bio = BIO_new_mem_buf(pem, (int) n);
        key = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
        ERR_clear_error();
        if (!key || !EVP_PKEY_is_a(key, "X25519"))
                return -EBADMSG;
        return raw_public(key, ret);
}

/* W of the format document: what wraps the key in a box. A public key of low order is refused. */
static int box_key(EVP_PKEY *ours,
                   EVP_PKEY *theirs,
                   const uint8_t ephemeral[32],
                   const uint8_t recipient[32],
                   CryptoPart context,
                   uint8_t ret[KEY_SIZE]) {
        _cleanup_(EVP_PKEY_CTX_freep) EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(ours, NULL);
        uint8_t shared[32], salt[64];
        size_t n = sizeof(shared);
        int r;

        if (!ctx || EVP_PKEY_derive_init(ctx) != 1)
                return failed();
        if (EVP_PKEY_derive_set_peer(ctx, theirs) != 1 || EVP_PKEY_derive(ctx, shared, &n) != 1) {
                ERR_clear_error();
                return -EBADMSG;
        }
        memcpy(salt, ephemeral, 32);
        memcpy(salt + 32, recipient, 32);
        r = crypto_hkdf((CryptoPart){ shared, sizeof(shared) }, (CryptoPart){ salt, sizeof(salt) },
                        context, ret);
        OPENSSL_cleanse(shared, sizeof(shared));
        return r;
}

static const uint8_t zero_nonce[NONCE_SIZE] = { 0 }; /* each wrapping key is used once */

int crypto_box_seal(const uint8_t public[32],
                    CryptoPart context,
                    const uint8_t key[KEY_SIZE],
                    uint8_t ret[BOX_SIZE]) {
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *ours = EVP_PKEY_Q_keygen(NULL, NULL, "X25519");
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *theirs =
                EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, public, 32);
        _cleanup_(crypto_freep) Crypto *c = NULL;
        uint8_t wrap[KEY_SIZE];
        int r;

        if (!ours || !theirs)
                return failed();
        r = crypto_new(NULL, &c);
        if (r >= 0)
                r = raw_public(ours, ret);
        if (r >= 0)
                r = box_key(ours, theirs, ret, public, context, wrap);
        if (r >= 0)
                r = crypto_seal(c, wrap, zero_nonce, (CryptoPart){ NULL, 0 }, key, KEY_SIZE,
                                ret + 32);
        OPENSSL_cleanse(wrap, sizeof(wrap));
        return r;
}

int crypto_box_open(const uint8_t private[32],
                    const uint8_t public[32],
                    CryptoPart context,
                    const uint8_t box[BOX_SIZE],
                    uint8_t ret[KEY_SIZE]) {
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *ours =
                EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, private, 32);
        _cleanup_(EVP_PKEY_freep) EVP_PKEY *theirs =
                EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, box, 32);
        _cleanup_(crypto_freep) Crypto *c = NULL;
        uint8_t wrap[KEY_SIZE];
        int r;

        if (!ours || !theirs)
                return failed();
        r = crypto_new(NULL, &c);
        if (r >= 0)
                r = box_key(ours, theirs, box, public, context, wrap);
        if (r >= 0)
                r = crypto_open(c, wrap, zero_nonce, (CryptoPart){ NULL, 0 }, box + 32,
                                BOX_SIZE - 32, ret);
        OPENSSL_cleanse(wrap, sizeof(wrap));
        return r;
}
