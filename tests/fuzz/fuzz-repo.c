#include "tests/fuzz/fuzz-repo.h"

#include <string.h>

#include "base/fd.h"
#include "base/fs.h"
#include "base/text.h"

static char *repo_path, *repo_keys;

const char *fuzz_repo_path(void) {
        (void) fuzz_repo();
        return repo_path;
}

const char *fuzz_repo_keys(void) {
        (void) fuzz_repo();
        return repo_keys;
}

Repo *fuzz_repo(void) {
        static Repo *repo;
        Failure why = FAILURE_INIT;
        RepoParams params = { .create = true };

        if (repo)
                return repo;
        repo_path = text_printf("%s/repository", fuzz_dir());
        repo_keys = text_printf("%s/keys", fuzz_dir());
        fuzz_assert(repo_path && repo_keys);
        params.path = repo_path;
        params.keys.dir = repo_keys;
        params.state_fd = fuzz_mkdir(fuzz_dir_fd(), "state");
        if (repo_open(&params, &repo, &why) < 0 || repo_lock(repo, REPO_LOCK_WRITER, 0, &why) < 0 ||
            repo_lock(repo, REPO_LOCK_PACKS_SHARED, 0, &why) < 0)
                (void) fprintf(stderr, "%s\n", why.text);
        fuzz_assert(why.code == FAIL_NONE && repo);
        fuzz_assert(repo_need_private(repo, &why) == 0);
        return repo;
}

void fuzz_damage(uint8_t *to, size_t n, FuzzInput damage) {
        for (size_t i = 0; i < n && i < damage.size; i++)
                to[i] ^= damage.data[i];
}

/* Directory and name of an object's file. */
static int
object_place(ObjectKind kind, const uint8_t uuid[UUID_SIZE], char ret_name[STORE_NAME_MAX]) {
        Store *store = fuzz_repo()->store;
        char *slash;
        int dir;

        store_object_name(kind, uuid, ret_name);
        slash = strchr(ret_name, '/');
        if (!slash)
                return store_dir_fd(store, "");
        *slash = '\0';
        dir = store_dir_fd(store, ret_name);
        memmove(ret_name, slash + 1, strlen(slash + 1) + 1);
        return dir;
}

void fuzz_write_object(ObjectKind kind, const uint8_t uuid[UUID_SIZE], FuzzInput file) {
        char name[STORE_NAME_MAX];
        int dir = object_place(kind, uuid, name);

        fuzz_write(dir, name, file);
}

void fuzz_turn_object(ObjectKind kind, const uint8_t uuid[UUID_SIZE], uint32_t place) {
        _cleanup_(buf_done) Buf file = BUF_INIT(OBJECT_PAYLOAD_MAX + 4096);
        char name[STORE_NAME_MAX];
        int dir = object_place(kind, uuid, name);

        fuzz_assert(fs_read_file(dir, name, OBJECT_PAYLOAD_MAX + 4096, &file) == 0);
        file.data[place / 8 % file.size] ^= (uint8_t) (1 << place % 8);
        fuzz_write(dir, name, (FuzzInput){ file.data, file.size });
}

void fuzz_remove_object(ObjectKind kind, const uint8_t uuid[UUID_SIZE]) {
        char name[STORE_NAME_MAX];

        store_object_name(kind, uuid, name);
        fuzz_assert(store_delete(fuzz_repo()->store, name, NULL) == 0);
}

/* The payload of a record as it lies on disk, behind the header that is in `to` already. */
static void put_sealed(const uint8_t uuid[UUID_SIZE], FuzzInput plain, Buf *to) {
        static const uint8_t nonce[NONCE_SIZE] = { 7 };
        Repo *repo = fuzz_repo();
        uint8_t key[KEY_SIZE];

        fuzz_assert(crypto_hkdf((CryptoPart){ repo->keys.meta.data, KEY_SIZE },
                                (CryptoPart){ uuid, UUID_SIZE },
                                (CryptoPart){ LABEL_RECORD, strlen(LABEL_RECORD) }, key) == 0);
        fuzz_assert(buf_reserve(to, NONCE_SIZE + plain.size + TAG_SIZE) == 0);
        memcpy(to->data + to->size, nonce, NONCE_SIZE);
        fuzz_assert(crypto_seal(repo->crypto, key, nonce,
                                (CryptoPart){ to->data, OBJECT_HEADER_SIZE }, plain.data,
                                plain.size, to->data + to->size + NONCE_SIZE) == 0);
        to->size += NONCE_SIZE + plain.size + TAG_SIZE;
}

void fuzz_seal_object(ObjectKind kind,
                      const uint8_t uuid[UUID_SIZE],
                      FuzzInput payload,
                      FuzzInput damage) {
        Repo *repo = fuzz_repo();
        _cleanup_(buf_done) Buf file = BUF_INIT(OBJECT_PAYLOAD_MAX + 4096);
        bool sealed = kind == OBJECT_RECORD;
        uint8_t header[OBJECT_HEADER_SIZE], mac[MAC_SIZE];

        memcpy(header, OBJECT_MAGIC, 8);
        put_le16(header + 8, FORMAT_VERSION);
        put_le16(header + 10, (uint16_t) kind);
        memcpy(header + 12, repo->uuid, UUID_SIZE);
        memcpy(header + 28, uuid, UUID_SIZE);
        put_le32(header + 44, (uint32_t) (payload.size + (sealed ? NONCE_SIZE + TAG_SIZE : 0)));
        fuzz_damage(header, sizeof(header), damage);
        fuzz_assert(buf_put(&file, header, sizeof(header)) == 0);
        if (sealed)
                put_sealed(uuid, payload, &file);
        else
                fuzz_assert(buf_put(&file, payload.data, payload.size) == 0);
        fuzz_assert(crypto_mac(repo->crypto, &(CryptoPart){ file.data, file.size }, 1, mac) == 0);
        fuzz_assert(buf_put(&file, mac, sizeof(mac)) == 0);
        fuzz_write_object(kind, uuid, (FuzzInput){ file.data, file.size });
}
