/*
 * Keys sealed to recipients: the host secret in hosts/, the content key of each run in sessions/.
 *
 * Sealing needs public keys alone. A key is durable in its object before anything is sealed with
 * it.
 */

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "repo/repo-internal.h"

#define CONTEXT_MAX 64

static CryptoPart box_context(const Repo *repo,
                              ObjectKind kind,
                              const uint8_t uuid[UUID_SIZE],
                              uint8_t buf[CONTEXT_MAX]) {
        const char *label = kind == OBJECT_HOST ? LABEL_SEAL_HOST : LABEL_SEAL_SESSION;
        size_t n = strlen(label);

        memcpy(buf, label, n);
        memcpy(buf + n, repo->uuid, UUID_SIZE);
        memcpy(buf + n + UUID_SIZE, uuid, UUID_SIZE);
        return (CryptoPart){ buf, n + 2 * (size_t) UUID_SIZE };
}

static int add_box(json_object *boxes, const Recipient *to, CryptoPart context, const Secret *key) {
        uint8_t box[BOX_SIZE];
        char hex[2 * BOX_SIZE + 1];
        json_object *o;
        int r;

        r = crypto_box_seal(to->public, context, key->data, box);
        if (r < 0)
                return r;
        text_hex(box, sizeof(box), hex);
        o = json_object_new_object();
        if (!o || json_object_array_add(boxes, o) < 0) {
                json_object_put(o);
                return -ENOMEM;
        }
        r = json_put_string(o, "recipient", to->id);
        return r < 0 ? r : json_put_string(o, "box", hex);
}

int keyfile_seal(Repo *repo,
                 ObjectKind kind,
                 const uint8_t uuid[UUID_SIZE],
                 const Secret *key,
                 uint64_t *ret_bytes,
                 Failure *reterr) {
        _cleanup_json_ json_object *payload = json_object_new_object();
        json_object *boxes = json_object_new_array();
        uint8_t context[CONTEXT_MAX];
        char now[CLOCK_TEXT_MAX];
        int r;

        clock_format(clock_realtime_usec(), now);
        r = payload ? json_put(payload, "boxes", boxes) : -ENOMEM;
        if (r >= 0)
                r = json_put_string(payload, "created_at", now);
        for (size_t i = 0; i < repo->n_recipients && r >= 0; i++)
                r = add_box(boxes, &repo->recipients[i], box_context(repo, kind, uuid, context),
                            key);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot seal a key");
        return object_write(repo, kind, uuid, payload, ret_bytes, reterr);
}

int keyfile_unseal(Repo *repo,
                   ObjectKind kind,
                   const uint8_t uuid[UUID_SIZE],
                   json_object *payload,
                   Secret *ret,
                   Failure *reterr) {
        uint8_t box[BOX_SIZE], context[CONTEXT_MAX];
        _cleanup_secret_ Secret key = SECRET_INIT;
        char name[STORE_NAME_MAX];
        json_object *boxes;
        const char *hex;
        int r;

        store_object_name(kind, uuid, name);
        if (json_get_array(payload, "boxes", &boxes) < 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG, "%s holds no sealed keys",
                                name);
        r = secret_new(&key, KEY_SIZE);
        if (r < 0)
                return r;
        for (size_t i = 0; i < json_object_array_length(boxes); i++) {
                /* Every box is tried: the recipient's id is a hint, not a promise. */
                if (json_get_string(json_object_array_get_idx(boxes, i), "box", &hex) < 0 ||
                    text_unhex(hex, box, sizeof(box)) < 0)
                        continue;
                r = crypto_box_open(repo->private_raw.data, repo->private_public,
                                    box_context(repo, kind, uuid, context), box, key.data);
                if (r >= 0) {
                        *ret = key;
                        key = SECRET_INIT;
                        return 0;
                }
        }
        return fail_set(reterr, FAIL_KEY_MISSING, ENOKEY,
                        "the private key does not open %s; give the key of one of its recipients",
                        name);
}

int keyfile_session_new(Repo *repo,
                        uint8_t ret_id[UUID_SIZE],
                        Secret *ret_key,
                        uint64_t *ret_bytes,
                        Failure *reterr) {
        _cleanup_secret_ Secret key = SECRET_INIT;
        uint8_t id[UUID_SIZE];
        int r;

        r = secret_new(&key, KEY_SIZE);
        if (r >= 0)
                r = crypto_random(key.data, key.size);
        if (r >= 0)
                r = text_uuid_new(id);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot make a session key");
        r = keyfile_seal(repo, OBJECT_SESSION, id, &key, ret_bytes, reterr);
        if (r < 0)
                return r;
        memcpy(ret_id, id, UUID_SIZE);
        *ret_key = key;
        key = SECRET_INIT;
        return 0;
}

int keyfile_session_open(Repo *repo,
                         const uint8_t id[UUID_SIZE],
                         Secret *ret_key,
                         Failure *reterr) {
        _cleanup_json_ json_object *payload = NULL;
        char name[STORE_NAME_MAX];
        int r;

        r = repo_need_private(repo, reterr);
        if (r < 0)
                return r;
        r = object_read(repo, OBJECT_SESSION, id, &payload, reterr);
        if (r == -ENOENT) {
                store_object_name(OBJECT_SESSION, id, name);
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, ENOENT,
                                "%s is missing; bring it back from a copy of the repository", name);
        }
        return r < 0 ? r : keyfile_unseal(repo, OBJECT_SESSION, id, payload, ret_key, reterr);
}
