/*
 * Known vectors: RFC 5869 (HKDF), McGrew and Viega case 16 (AES-256-GCM), SHA-256 of "abc"; ids,
 * MACs and the box as an independent program makes them from docs/REPO-FORMAT.md.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "repo/repo-internal.h"

static void unhex(const char *text, uint8_t *ret, size_t n) {
        assert_int_equal(strlen(text), 2 * n);
        assert_int_equal(text_unhex(text, ret, n), 0);
}

static void assert_hex(const uint8_t *data, size_t n, const char *expected) {
        char text[513];

        assert_true(n <= 256);
        text_hex(data, n, text);
        assert_string_equal(text, expected);
}

static void count_up(uint8_t *p, size_t n, uint8_t from) {
        for (size_t i = 0; i < n; i++)
                p[i] = (uint8_t) (from + i);
}

static void test_hkdf(void **state) {
        uint8_t ikm[22], salt[13], info[10], out[KEY_SIZE];

        memset(ikm, 0x0b, sizeof(ikm));
        count_up(salt, sizeof(salt), 0);
        count_up(info, sizeof(info), 0xf0);
        assert_int_equal(crypto_hkdf((CryptoPart){ ikm, 22 }, (CryptoPart){ salt, 13 },
                                     (CryptoPart){ info, 10 }, out),
                         0);
        assert_hex(out, 32, "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
        assert_int_equal(crypto_hkdf((CryptoPart){ ikm, 22 }, (CryptoPart){ "", 0 },
                                     (CryptoPart){ "", 0 }, out),
                         0);
        assert_hex(out, 32, "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d");
}

static void test_sha256(void **state) {
        _cleanup_(crypto_sha_freep) CryptoSha *s = NULL;
        uint8_t out[32];

        assert_int_equal(crypto_sha256("abc", 3, out), 0);
        assert_hex(out, 32, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_int_equal(crypto_sha_new(&s), 0);
        assert_int_equal(crypto_sha_add(s, "a", 1), 0);
        assert_int_equal(crypto_sha_add(s, "bc", 2), 0);
        assert_int_equal(crypto_sha_end(s, out), 0);
        assert_hex(out, 32, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void test_gcm(void **state) {
        _cleanup_(crypto_freep) Crypto *c = NULL;
        uint8_t key[32], nonce[12], plain[60], aad[20], out[76], back[60];

        unhex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", key, 32);
        unhex("cafebabefacedbaddecaf888", nonce, 12);
        unhex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
              "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
              plain, 60);
        unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2", aad, 20);
        assert_int_equal(crypto_new(NULL, &c), 0);
        assert_int_equal(crypto_seal(c, key, nonce, (CryptoPart){ aad, 20 }, plain, 60, out), 0);
        assert_hex(out, 76,
                   "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
                   "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
                   "76fc6ece0f4e1768cddf8853bb2d551b");
        assert_int_equal(crypto_open(c, key, nonce, (CryptoPart){ aad, 20 }, out, 76, back), 0);
        assert_memory_equal(back, plain, 60);

        /* Every bit of ciphertext, tag and associated data counts; nothing leaks out. */
        for (size_t i = 0; i < 76; i++) {
                out[i] ^= 1;
                assert_int_equal(crypto_open(c, key, nonce, (CryptoPart){ aad, 20 }, out, 76, back),
                                 -EBADMSG);
                for (size_t j = 0; j < 60; j++)
                        assert_int_equal(back[j], 0);
                out[i] ^= 1;
        }
        aad[7] ^= 0x80;
        assert_int_equal(crypto_open(c, key, nonce, (CryptoPart){ aad, 20 }, out, 76, back),
                         -EBADMSG);
        assert_int_equal(crypto_open(c, key, nonce, (CryptoPart){ NULL, 0 }, out, 15, back),
                         -EBADMSG);
}

static void test_keys(void **state) {
        _cleanup_(crypto_freep) Crypto *c = NULL;
        CryptoKeys keys = { 0 };
        const CryptoPart parts[] = { { "abc", 3 }, { "", 0 }, { "def", 3 } };
        uint8_t host[32], out[32];

        count_up(host, 32, 0);
        assert_int_equal(crypto_keys_derive(host, &keys), 0);
        assert_hex(keys.id.data, 32,
                   "7129f819d5fb5a4613d1fa73b6f88b4f1bd1ec66e2643383b7cb58b68c278064");
        assert_hex(keys.meta.data, 32,
                   "6db0f4a90e8fb3617f3c295bd1b4d85de3931510f2c25c8a1d90149f148e3d26");
        assert_hex(keys.mac.data, 32,
                   "20aefdd8273ac152a5545100609aef4335d25d8c9300f32535e270273e0bd9d6");
        assert_int_equal(crypto_new(&keys, &c), 0);
        for (int twice = 0; twice < 2; twice++) { /* the context is used again */
                assert_int_equal(crypto_id(c, CLASS_LARGE, "hello", 5, out), 0);
                assert_hex(out, 32,
                           "1118cb3e0420775e219626d623feb3eb3a30e2bb2eca089e04cccd71c04eb73e");
                assert_int_equal(crypto_mac(c, parts, 3, out), 0);
                assert_hex(out, 32,
                           "e6de993fed84d9d8b92146413a4d95f6a8cf61267a09690e308b6b2742d6eae3");
        }
        assert_int_equal(crypto_id(c, CLASS_SQLITE, "hello", 5, out), 0);
        assert_int_not_equal(out[0], 0x11);
        crypto_keys_done(&keys);
}

static const char pem_text[] = "-----BEGIN PRIVATE KEY-----\n"
                               "MC4CAQAwBQYDK2VuBCIEIHcHbQpzGKV9PBbBclGyZkXUsrKjoNSxuab7Dh1aLz4Q\n"
                               "-----END PRIVATE KEY-----\n";

static void test_box(void **state) {
        _cleanup_secret_ Secret pem = SECRET_INIT, raw = SECRET_INIT;
        uint8_t public[32], box[BOX_SIZE], key[32], out[32], context[53];
        CryptoPart ctx = { context, sizeof(context) };

        memcpy(context, LABEL_SEAL_HOST, 21);
        memset(context + 21, 0xaa, 16);
        memset(context + 37, 0xbb, 16);
        count_up(key, 32, 0);
        assert_int_equal(secret_copy(&pem, pem_text, sizeof(pem_text) - 1), 0);
        assert_int_equal(crypto_private_parse(&pem, &raw, public), 0);
        assert_hex(public, 32, "918633ba9b03423f67df537c1a6f491280591d4748b36977178317a5bae3f243");

        unhex("7d9c24316539825c1896e57f28197746793ce60cbee3ad47da9d07b85fa55e2a768c47e119b323bd"
              "080141fb8652e3a08a382b2a95b8f7b4a1295bf5edac9a51ec239ce3db97065afffce467a5e564d8",
              box, BOX_SIZE);
        assert_int_equal(crypto_box_open(raw.data, public, ctx, box, out), 0);
        assert_memory_equal(out, key, 32);

        assert_int_equal(crypto_box_seal(public, ctx, key, box), 0);
        assert_int_equal(crypto_box_open(raw.data, public, ctx, box, out), 0);
        assert_memory_equal(out, key, 32);
        for (size_t i = 0; i < BOX_SIZE; i++) {
                /* The top bit of the public key's last byte is ignored by X25519, but hashed by us.
                 */
                box[i] ^= 0x80;
                assert_int_equal(crypto_box_open(raw.data, public, ctx, box, out), -EBADMSG);
                box[i] ^= 0x80;
        }
        context[52] ^= 1;
        assert_int_equal(crypto_box_open(raw.data, public, ctx, box, out), -EBADMSG);
        memset(box, 0, 32); /* a point of low order */
        assert_int_equal(crypto_box_open(raw.data, public, ctx, box, out), -EBADMSG);
}

static void test_pem(void **state) {
        _cleanup_secret_ Secret made = SECRET_INIT, pem = SECRET_INIT, raw = SECRET_INIT,
                                bad = SECRET_INIT;
        _cleanup_(buf_done) Buf text = BUF_INIT(0);
        uint8_t public[32], again[32];

        assert_int_equal(crypto_keypair_new(&made, public), 0);
        assert_int_equal(crypto_private_pem(&made, &pem), 0);
        assert_int_equal(crypto_private_parse(&pem, &raw, again), 0);
        assert_memory_equal(public, again, 32);
        assert_memory_equal(made.data, raw.data, 32);
        memset(again, 0, 32);
        assert_int_equal(crypto_private_public(&raw, again), 0);
        assert_memory_equal(public, again, 32);
        memset(again, 0, 32);
        assert_int_equal(crypto_public_pem(public, &text), 0);
        assert_int_equal(crypto_public_parse(text.data, text.size, again), 0);
        assert_memory_equal(public, again, 32);

        assert_int_equal(crypto_public_parse("nonsense", 8, again), -EBADMSG);
        assert_int_equal(crypto_public_parse("", 0, again), -EBADMSG);
        assert_int_equal(secret_copy(&bad, "nonsense", 8), 0);
        secret_done(&raw);
        assert_int_equal(crypto_private_parse(&bad, &raw, again), -EBADMSG);
        assert_null(raw.data);
}

static void test_compress(void **state) {
        _cleanup_(compress_freep) Compressor *c = NULL, *none = NULL;
        static uint8_t text[100000], noise[100000], out[100000], back[100000];
        size_t n = 0;

        assert_int_equal(compress_new(10, &c), -EINVAL);
        for (unsigned level = 1; level <= 9; level++) {
                compress_free(TAKE_PTR(c));
                assert_int_equal(compress_new(level, &c), 0);
                for (size_t i = 0; i < sizeof(text); i++)
                        text[i] = (uint8_t) ("the quick brown fox "[i % 20] + (i % 97 == 0));
                assert_int_equal(compress_run(c, text, sizeof(text), out, &n), 1);
                assert_true(n < sizeof(text) / 4);
                assert_int_equal(compress_expand(c, out, n, back, sizeof(text)), 0);
                assert_memory_equal(text, back, sizeof(text));
        }
        assert_int_equal(compress_expand(c, out, n, back, sizeof(text) - 1), -EBADMSG);
        assert_int_equal(compress_expand(c, out, n - 1, back, sizeof(text)), -EBADMSG);
        assert_int_equal(compress_expand(c, text, 100, back, 100), -EBADMSG);
        assert_int_equal(crypto_random(noise, sizeof(noise)), 0);
        assert_int_equal(compress_run(c, noise, sizeof(noise), out, &n), 0);
        assert_int_equal(compress_run(c, noise, 100, out, &n), 0);
        assert_int_equal(compress_new(0, &none), 0);
        assert_int_equal(compress_run(none, text, sizeof(text), out, &n), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_hkdf),     cmocka_unit_test(test_sha256),
                cmocka_unit_test(test_gcm),      cmocka_unit_test(test_keys),
                cmocka_unit_test(test_box),      cmocka_unit_test(test_pem),
                cmocka_unit_test(test_compress),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
