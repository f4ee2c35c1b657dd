/*
 * Packs through the private interface: places, sealing in any order, reading back, and every kind
 * of damage.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "repo/repo-internal.h"
#include "tests/lib/repofix.h"

static const uint8_t session[UUID_SIZE] = { 0x5e };

static PackWriter *writer_new(RepoFix *x, PackKind kind, uint64_t bytes) {
        _cleanup_secret_ Secret key = SECRET_INIT;
        PackWriter *w = NULL;

        assert_int_equal(secret_new(&key, KEY_SIZE), 0);
        assert_int_equal(pack_writer_new(x->repo, kind, session, &key, bytes, &w, NULL), 0);
        return w;
}

/* A record of text that compresses, or of noise that does not. */
static void
make_record(Repo *repo, uint8_t class, uint64_t seed, uint8_t *data, uint32_t n, PackRecord *ret) {
        repofix_fill(seed, 0, data, n);
        *ret = (PackRecord){ .class = class, .plain = n, .data = data, .size = n };
        assert_int_equal(crypto_id(repo->crypto, class, data, n, ret->id), 0);
}

static void
store(RepoFix *x, PackWriter *w, uint8_t class, uint64_t seed, uint32_t n, uint8_t id[ID_SIZE]) {
        _cleanup_(buf_done) Buf scratch = BUF_INIT(0);
        uint8_t *data = malloc(n);
        PackRecord record;
        Failure why = FAILURE_INIT;

        make_record(x->repo, class, seed, data, n, &record);
        memcpy(id, record.id, ID_SIZE);
        if (pack_store(w, x->repo->crypto, &record, &scratch, &why) < 0)
                fail_msg("%s", why.text);
        free(data);
}

static int read_back(RepoFix *x, const uint8_t id[ID_SIZE], Buf *ret, Failure *why) {
        IndexPlace place;

        *why = FAILURE_INIT;
        assert_int_equal(index_find(x->repo->index, id, &place, NULL), 1);
        return pack_read(x->repo, &place, id, ret, why);
}

static void expect_content(RepoFix *x, const uint8_t id[ID_SIZE], uint64_t seed, size_t n) {
        _cleanup_(buf_done) Buf got = BUF_INIT(0);
        uint8_t *want = malloc(n);
        Failure why;

        if (read_back(x, id, &got, &why) < 0)
                fail_msg("%s", why.text);
        repofix_fill(seed, 0, want, n);
        assert_int_equal(got.size, n);
        assert_memory_equal(got.data, want, n);
        free(want);
}

static void test_meta(void **state) {
        RepoFix *x = *state;
        PackWriter *w = writer_new(x, PACK_META, 4 << 20);
        uint8_t ids[50][ID_SIZE];

        for (uint32_t i = 0; i < 50; i++)
                store(x, w, CLASS_BLOCK, i, 1 + 997 * i, ids[i]);
        assert_int_equal(repofix_count(x, "packs", ".pack"), 0); /* not before it is whole */
        assert_int_equal(pack_writer_finish(w, NULL), 0);
        assert_int_equal(repofix_count(x, "packs", ".pack"), 1);
        assert_int_equal(pack_commit(x->repo, session, NULL), 0);
        assert_int_equal(pack_writer_bytes(w), repo_stored_bytes(x->repo));
        pack_writer_free(w);
        for (uint32_t i = 0; i < 50; i++)
                expect_content(x, ids[i], i, 1 + 997 * i);
        /* The index is nothing but a cache. */
        repo_close(TAKE_PTR(x->repo));
        assert_return_code(unlinkat(x->state_fd, "index.db", 0), errno);
        (void) unlinkat(x->state_fd, "index.db-wal", 0);
        (void) unlinkat(x->state_fd, "index.db-shm", 0);
        repofix_reopen(x);
        for (uint32_t i = 0; i < 50; i++)
                expect_content(x, ids[i], i, 1 + 997 * i);
}

static void test_full_packs(void **state) {
        RepoFix *x = *state;
        PackWriter *w = writer_new(x, PACK_META, 1 << 20);
        uint8_t id[ID_SIZE];

        for (uint32_t i = 0; i < 10; i++)
                store(x, w, CLASS_LIST, 1000 + i, 400000, id);
        assert_int_equal(repofix_count(x, "packs", ".pack"), 3);
        assert_int_equal(pack_writer_finish(w, NULL), 0);
        assert_int_equal(repofix_count(x, "packs", ".pack"), 4);
        pack_writer_free(w);
}

/* Reserved in one order, sealed and written in another; a full pack waits for its last record. */
static void test_out_of_order(void **state) {
        RepoFix *x = *state;
        PackWriter *w = writer_new(x, PACK_META, 1 << 20);
        static uint8_t data[4][600000], sealed[600000 + RECORD_OVERHEAD];
        PackRecord records[4];
        PackSlot slots[4];

        for (unsigned i = 0; i < 4; i++) {
                make_record(x->repo, CLASS_LIST, i, data[i], sizeof(data[i]), &records[i]);
                assert_int_equal(pack_reserve(w, &records[i], &slots[i], NULL), 0);
        }
        assert_ptr_equal(slots[0].pack, slots[1].pack);
        assert_ptr_not_equal(slots[1].pack, slots[2].pack);
        assert_int_equal(slots[1].offset, slots[0].offset + slots[0].stored);
        for (unsigned i = 4; i-- > 0;) {
                IndexPlace place;

                assert_int_equal(pack_seal(&slots[i], x->repo->crypto, &records[i], sealed), 0);
                assert_int_equal(pack_write(&slots[i], sealed, NULL), 0);
                assert_int_equal(index_find(x->repo->index, records[i].id, &place, NULL), 0);
                assert_int_equal(pack_done(w, &slots[i], NULL), 0);
                assert_int_equal(index_find(x->repo->index, records[i].id, &place, NULL), 1);
                assert_int_equal(repofix_count(x, "packs", ".pack"), i == 0 ? 2 : i <= 2 ? 1 : 0);
        }
        assert_int_equal(pack_writer_finish(w, NULL), 0);
        pack_writer_free(w);
        for (unsigned i = 0; i < 4; i++)
                expect_content(x, records[i].id, i, sizeof(data[i]));
}

static void test_pending_is_not_finished(void **state) {
        RepoFix *x = *state;
        PackWriter *w = writer_new(x, PACK_META, 1 << 20);
        uint8_t data[100];
        PackRecord record;
        PackSlot slot;

        make_record(x->repo, CLASS_LIST, 1, data, sizeof(data), &record);
        assert_int_equal(pack_reserve(w, &record, &slot, NULL), 0);
        assert_int_equal(pack_writer_finish(w, NULL), -EBUSY);
        pack_writer_free(w);
        assert_int_equal(repofix_count(x, "packs", ""), 0); /* no temporary file either */
}

static void test_malformed_records(void **state) {
        RepoFix *x = *state;
        PackWriter *w = writer_new(x, PACK_META, 1 << 20);
        uint8_t data[100];
        PackRecord good, bad;
        PackSlot slot;

        make_record(x->repo, CLASS_LIST, 1, data, sizeof(data), &good);
        bad = good;
        bad.size = 0;
        assert_int_equal(pack_reserve(w, &bad, &slot, NULL), -EINVAL);
        bad = good;
        bad.plain++; /* raw, but of another length */
        assert_int_equal(pack_reserve(w, &bad, &slot, NULL), -EINVAL);
        bad = good;
        bad.class = CLASS_BUNDLE; /* without members */
        assert_int_equal(pack_reserve(w, &bad, &slot, NULL), -EINVAL);
        bad = good;
        bad.plain = bad.size = RECORD_PLAIN_MAX + 1;
        assert_int_equal(pack_reserve(w, &bad, &slot, NULL), -EINVAL);
        pack_writer_free(w);
}

static void test_abort(void **state) {
        RepoFix *x = *state;
        PackWriter *w = writer_new(x, PACK_META, 1 << 20);
        uint8_t first[ID_SIZE], id[ID_SIZE];
        IndexPlace place;

        store(x, w, CLASS_LIST, 1, 1000, first);
        for (uint32_t i = 2; i < 8; i++)
                store(x, w, CLASS_LIST, i, 400000, id);
        assert_true(repofix_count(x, "packs", ".pack") > 0);
        pack_writer_abort(w);
        pack_writer_free(w);
        assert_int_equal(repofix_count(x, "packs", ""), 0);
        assert_int_equal(index_find(x->repo->index, first, &place, NULL), 0);
        assert_int_equal(index_find(x->repo->index, id, &place, NULL), 0);
        assert_int_equal(repo_stored_bytes(x->repo), 0);
}

/* Content of a session whose K_s is sealed, as a bundle; the private key decides. */
static void test_content(void **state) {
        RepoFix *x = *state;
        _cleanup_secret_ Secret key = SECRET_INIT;
        _cleanup_(buf_done) Buf scratch = BUF_INIT(0), got = BUF_INIT(0);
        _cleanup_free_ char *private = text_printf("%s/private.pem", x->keys);
        _cleanup_free_ char *away = text_printf("%s/away.pem", x->keys);
        uint8_t id[UUID_SIZE], plain[300], ids[3 * ID_SIZE];
        PackMember members[3];
        PackRecord record = { .class = CLASS_BUNDLE, .plain = 300, .data = plain, .size = 300 };
        PackWriter *w;
        Failure why;

        repofix_fill(8, 0, plain, sizeof(plain));
        for (uint32_t i = 0; i < 3; i++) {
                members[i] = (PackMember){ .offset = 100 * i, .size = 100 };
                assert_int_equal(crypto_id(x->repo->crypto, CLASS_SMALL, plain + 100 * i, 100,
                                           members[i].id),
                                 0);
                memcpy(ids + i * ID_SIZE, members[i].id, ID_SIZE);
        }
        record.members = members;
        record.n_members = 3;
        assert_int_equal(crypto_id(x->repo->crypto, CLASS_BUNDLE, ids, sizeof(ids), record.id), 0);
        assert_int_equal(keyfile_session_new(x->repo, id, &key, NULL, NULL), 0);
        assert_int_equal(pack_writer_new(x->repo, PACK_CONTENT, id, &key, 1 << 20, &w, NULL), 0);
        assert_int_equal(pack_store(w, x->repo->crypto, &record, &scratch, NULL), 0);
        assert_int_equal(pack_writer_finish(w, NULL), 0);
        assert_int_equal(pack_commit(x->repo, id, NULL), 0);
        pack_writer_free(w);

        for (unsigned i = 0; i < 3; i++) {
                IndexPlace place;

                assert_int_equal(index_find(x->repo->index, members[i].id, &place, NULL), 1);
                assert_true(place.member);
                assert_int_equal(place.member_offset, 100 * i);
                assert_int_equal(read_back(x, members[i].id, &got, &why), 0);
                assert_int_equal(got.size, 300);
                assert_memory_equal(got.data, plain, 300);
        }
        /* Without the private key nothing of it can be read, but the index can be made again. */
        repo_close(TAKE_PTR(x->repo));
        assert_return_code(rename(private, away), errno);
        assert_return_code(unlinkat(x->state_fd, "index.db", 0), errno);
        repofix_reopen(x);
        assert_true(read_back(x, members[1].id, &got, &why) < 0);
        assert_int_equal(why.code, FAIL_KEY_MISSING);
        assert_return_code(rename(away, private), errno);
        assert_int_equal(read_back(x, members[1].id, &got, &why), 0);
}

/* ---- damage ---- */

typedef struct One {
        uint8_t uuid[UUID_SIZE], id[ID_SIZE];
        int fd; /* for writing */
        Buf bytes;
} One;

static int on_pack(void *userdata, const IndexPack *pack, Failure *reterr) {
        memcpy(((One *) userdata)->uuid, pack->uuid, UUID_SIZE);
        return 0;
}

static void one_small_pack(RepoFix *x, One *o) {
        PackWriter *w = writer_new(x, PACK_META, 1 << 20);
        char name[STORE_NAME_MAX];
        struct stat st;

        *o = (One){ .bytes = BUF_INIT(0) };
        store(x, w, CLASS_BLOCK, 77, 300, o->id);
        store(x, w, CLASS_LIST, 78, 50, o->id);
        assert_int_equal(pack_writer_finish(w, NULL), 0);
        pack_writer_free(w);
        assert_int_equal(index_each_pack(x->repo->index, on_pack, o, NULL), 0);
        store_pack_name(o->uuid, name);
        o->fd = openat(store_dir_fd(x->repo->store, ""), name, O_RDWR | O_CLOEXEC);
        assert_return_code(o->fd, errno);
        assert_return_code(fstat(o->fd, &st), errno);
        assert_int_equal(buf_reserve(&o->bytes, (size_t) st.st_size), 0);
        o->bytes.size = (size_t) fd_read_full(o->fd, o->bytes.data, (size_t) st.st_size);
}

static void one_done(One *o) {
        (void) close(o->fd);
        buf_done(&o->bytes);
}

static int verify(RepoFix *x, const uint8_t uuid[UUID_SIZE], Failure *why) {
        PackInfo info = PACK_INFO_INIT;
        int r;

        *why = FAILURE_INIT;
        r = pack_info_load(x->repo, uuid, &info, why);
        if (r >= 0)
                r = pack_info_verify(x->repo, &info, NULL, NULL, why);
        pack_info_done(&info);
        return r;
}

static void test_every_bit(void **state) {
        RepoFix *x = *state;
        char name[STORE_NAME_MAX];
        Failure why;
        One o;

        one_small_pack(x, &o);
        store_pack_name(o.uuid, name);
        assert_int_equal(verify(x, o.uuid, &why), 0);
        for (size_t i = 0; i < 8 * o.bytes.size; i++) {
                uint8_t byte = (uint8_t) (o.bytes.data[i / 8] ^ 1 << i % 8);

                assert_int_equal(fd_pwrite_full(o.fd, &byte, 1, i / 8), 0);
                assert_true(verify(x, o.uuid, &why) < 0);
                assert_int_equal(why.code, FAIL_INTEGRITY_FAILURE);
                assert_non_null(strstr(why.text, name));
                assert_int_equal(fd_pwrite_full(o.fd, o.bytes.data + i / 8, 1, i / 8), 0);
        }
        assert_int_equal(verify(x, o.uuid, &why), 0);
        one_done(&o);
}

/* A change made by somebody who knows CRCs: only the keyed hash sees it. */
static void test_forged_checksum(void **state) {
        RepoFix *x = *state;
        /* The generator polynomial as a string of bits, lowest bit first: its remainder is zero. */
        const uint64_t generator = 0x11edc6f41;
        uint8_t delta[5] = { 0 }, bytes[5];
        const uint64_t at = PACK_HEADER_SIZE + 20;
        Failure why;
        One o;

        for (unsigned i = 0; i <= 32; i++)
                if (generator >> (32 - i) & 1)
                        delta[i / 8] |= (uint8_t) (1 << i % 8);
        one_small_pack(x, &o);
        for (unsigned i = 0; i < 5; i++)
                bytes[i] = o.bytes.data[at + i] ^ delta[i];
        assert_int_equal(fd_pwrite_full(o.fd, bytes, 5, at), 0);
        memcpy(bytes, o.bytes.data + at, 5);
        for (unsigned i = 0; i < 5; i++)
                o.bytes.data[at + i] ^= delta[i];
        uint32_t forged = crc32c(0, o.bytes.data, o.bytes.size);
        memcpy(o.bytes.data + at, bytes, 5);
        assert_int_equal(forged, crc32c(0, o.bytes.data, o.bytes.size));
        assert_true(verify(x, o.uuid, &why) < 0);
        assert_int_equal(why.code, FAIL_INTEGRITY_FAILURE);
        one_done(&o);
}

static void test_every_length(void **state) {
        RepoFix *x = *state;
        Failure why;
        One o;

        one_small_pack(x, &o);
        for (size_t n = 0; n <= o.bytes.size + 100; n++) {
                if (n == o.bytes.size)
                        continue;
                assert_return_code(ftruncate(o.fd, (off_t) n), errno);
                assert_true(verify(x, o.uuid, &why) < 0);
                assert_int_equal(why.code, FAIL_INTEGRITY_FAILURE);
                assert_int_equal(fd_pwrite_full(o.fd, o.bytes.data, o.bytes.size, 0), 0);
        }
        one_done(&o);
}

/* A record that is read by itself is checked, too: against tag, associated data and its own id. */
static void test_read_damaged(void **state) {
        RepoFix *x = *state;
        _cleanup_(buf_done) Buf got = BUF_INIT(0);
        IndexPlace place;
        Failure why;
        One o;

        one_small_pack(x, &o);
        assert_int_equal(index_find(x->repo->index, o.id, &place, NULL), 1);
        for (size_t i = place.offset; i < place.offset + place.stored; i++) {
                uint8_t byte = (uint8_t) (o.bytes.data[i] ^ 1);

                assert_int_equal(fd_pwrite_full(o.fd, &byte, 1, i), 0);
                assert_true(read_back(x, o.id, &got, &why) < 0);
                assert_int_equal(why.code, FAIL_INTEGRITY_FAILURE);
                assert_int_equal(fd_pwrite_full(o.fd, o.bytes.data + i, 1, i), 0);
        }
        assert_int_equal(read_back(x, o.id, &got, &why), 0);
        place.class = CLASS_BLOCK; /* the same bytes as another class */
        assert_true(pack_read(x->repo, &place, o.id, &got, NULL) < 0);
        place.class = CLASS_LIST;
        o.id[3] ^= 1; /* under another id */
        assert_true(pack_read(x->repo, &place, o.id, &got, NULL) < 0);
        one_done(&o);
}

static void test_gone(void **state) {
        RepoFix *x = *state;
        _cleanup_(buf_done) Buf got = BUF_INIT(0);
        Failure why;
        One o;

        one_small_pack(x, &o);
        assert_int_equal(store_pack_remove(x->repo->store, o.uuid), 0);
        assert_int_equal(verify(x, o.uuid, &why), -ENOENT);
        assert_true(read_back(x, o.id, &got, &why) < 0);
        assert_int_equal(why.code, FAIL_INTEGRITY_FAILURE);
        assert_non_null(strstr(why.text, "missing"));
        one_done(&o);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                repofix_test(test_meta),
                repofix_test(test_full_packs),
                repofix_test(test_out_of_order),
                repofix_test(test_pending_is_not_finished),
                repofix_test(test_malformed_records),
                repofix_test(test_abort),
                repofix_test(test_content),
                repofix_test(test_every_bit),
                repofix_test(test_forged_checksum),
                repofix_test(test_every_length),
                repofix_test(test_read_damaged),
                repofix_test(test_gone),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
