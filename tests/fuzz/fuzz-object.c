/*
 * Small objects: the envelope, and what becomes of the payload of each kind. First byte: the kind;
 * second: bit 0 the rest is the file as it is, bit 1 a piece that damages the header comes first,
 * bit 2 an object of this name is looked for among all, bit 3 a place comes first, of which one bit
 * is turned in the finished file: that must be noticed. "%BOX%" in a payload stands for a box that
 * our private key opens.
 */

#include <string.h>

#include "agent/record.h"
#include "base/text.h"
#include "tests/fuzz/fuzz-repo.h"

#define BACKUP_ID "00000000-0000-4000-8000-000000000001"
#define BOX_TOKEN "%BOX%"

/* Replaces the token by a box of 32 bytes sealed to us for this object. */
static void put_with_boxes(ObjectKind kind, const uint8_t *uuid, FuzzInput in, Buf *to) {
        const char *label = kind == OBJECT_HOST ? LABEL_SEAL_HOST : LABEL_SEAL_SESSION;
        uint8_t context[64], box[BOX_SIZE], key[KEY_SIZE] = { 1 };
        size_t n = strlen(label);
        char hex[2 * BOX_SIZE + 1];
        const uint8_t *at;

        memcpy(context, label, n);
        memcpy(context + n, fuzz_repo()->uuid, UUID_SIZE);
        memcpy(context + n + UUID_SIZE, uuid, UUID_SIZE);
        while (in.size > 0 && (at = memmem(in.data, in.size, BOX_TOKEN, strlen(BOX_TOKEN)))) {
                FuzzInput before = fuzz_take(&in, (size_t) (at - in.data));

                fuzz_assert(crypto_box_seal(fuzz_repo()->private_public,
                                            (CryptoPart){ context, n + 2 * (size_t) UUID_SIZE },
                                            key, box) == 0);
                text_hex(box, sizeof(box), hex);
                fuzz_assert(buf_put(to, before.data, before.size) == 0);
                fuzz_assert(buf_put(to, hex, strlen(hex)) == 0);
                (void) fuzz_take(&in, strlen(BOX_TOKEN));
        }
        fuzz_assert(buf_put(to, in.data, in.size) == 0);
}

static void use_keys(ObjectKind kind, const uint8_t *uuid, json_object *payload) {
        _cleanup_secret_ Secret key = SECRET_INIT;
        Failure why = FAILURE_INIT;

        if (keyfile_unseal(fuzz_repo(), kind, uuid, payload, &key, &why) >= 0)
                fuzz_assert(key.size == KEY_SIZE && key.data[0] == 1);
        else
                fuzz_assert(why.code != FAIL_NONE);
}

static void use_record(json_object *payload) {
        _cleanup_(repo_manifest_freep) RepoManifest *m = NULL;
        _cleanup_json_ json_object *row = NULL;
        Failure why = FAILURE_INIT;
        const Entry *e;

        if (record_read_backup(payload, &row, &why) >= 0)
                fuzz_assert((size_t) json_object_object_length(row) == record_n_backup_fields);
        if (repo_manifest_open(fuzz_repo(), payload, &m, NULL) >= 0)
                (void) repo_manifest_next(m, &e, NULL);
}

static int on_record(void *userdata, const char *id, json_object *record, const Failure *damage) {
        unsigned *count = userdata;

        fuzz_assert(strcmp(id, BACKUP_ID) == 0);
        fuzz_assert(record ? !damage : damage->code != FAIL_NONE);
        *count += 1;
        return 0;
}

static void look_for_all(const uint8_t *uuid) {
        Repo *repo = fuzz_repo();
        unsigned count = 0;

        fuzz_assert(repo_list(repo, on_record, &count, NULL) == 0 && count == 1);
        fuzz_assert(repo_has_backup(repo, BACKUP_ID));
        (void) repo_base_is_trusted(repo, BACKUP_ID);
        (void) object_is_ours(repo, OBJECT_RECORD, uuid);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const ObjectKind kinds[] = { OBJECT_HOST, OBJECT_SESSION, OBJECT_RECORD,
                                            OBJECT_PIN };
        FuzzInput in = { data, size }, damage = { 0 };
        ObjectKind kind = kinds[fuzz_u8(&in) % ELEMENTSOF(kinds)];
        uint8_t how = fuzz_u8(&in), uuid[UUID_SIZE];
        _cleanup_(buf_done) Buf payload = BUF_INIT((size_t) 4 << 20);
        _cleanup_json_ json_object *sealed = NULL, *peeked = NULL;
        Failure why = FAILURE_INIT;
        Repo *repo = fuzz_repo();
        uint32_t turn = 0;
        int r;

        fuzz_assert(text_uuid_parse(BACKUP_ID, uuid) == 0);
        if (how & 1)
                fuzz_write_object(kind, uuid, in);
        else {
                if (how & 2)
                        damage = fuzz_piece(&in);
                if (how & 8)
                        turn = fuzz_u32(&in);
                put_with_boxes(kind, uuid, in, &payload);
                fuzz_seal_object(kind, uuid, (FuzzInput){ payload.data, payload.size }, damage);
                if (how & 8)
                        fuzz_turn_object(kind, uuid, turn);
        }
        (void) object_peek(repo, kind, uuid, &peeked, NULL);
        r = object_read(repo, kind, uuid, &sealed, &why);
        fuzz_assert(r < 0 || (how & 1) || !(how & 8)); /* a turned bit */
        if (r < 0)
                fuzz_assert(why.code != FAIL_NONE && *why.text && !sealed);
        else if (kind == OBJECT_RECORD)
                use_record(sealed);
        else if (kind != OBJECT_PIN)
                use_keys(kind, uuid, sealed);
        if (peeked && (kind == OBJECT_HOST || kind == OBJECT_SESSION))
                use_keys(kind, uuid, peeked); /* how a lost host secret is found again */
        if ((how & 4) && kind == OBJECT_RECORD)
                look_for_all(uuid);
        if (kind == OBJECT_PIN)
                fuzz_assert(repo_is_pinned(repo, BACKUP_ID));
        fuzz_remove_object(kind, uuid);
        return 0;
}
