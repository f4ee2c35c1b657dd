/*
 * Keys in files, and sealed to recipients. In keys_dir (root's, 0700, files 0600):
 *
 *   host.secret   H, hex, one line
 *   private.pem   the recipient's private key; may be taken off the host
 *   public.pem    its public half
 *
 * A private key is durable before anything is sealed to it, and public.pem is written after
 * private.pem: a crash between the two is mended from the private key.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/text.h"
#include "repo/repo-internal.h"

#define HOST_FILE    "host.secret"
#define PRIVATE_FILE "private.pem"
#define PUBLIC_FILE  "public.pem"
#define KEY_FILE_MAX ((size_t) 64 << 10)

/* A secret that others can read is no secret: refused, with the way to mend it. */
static int check_private(int fd, const char *dir, const char *name, Failure *reterr) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot look at %s/%s", dir, name);
        if (!S_ISREG(st.st_mode) || (st.st_uid != 0 && st.st_uid != geteuid()) ||
            (st.st_mode & 077))
                return fail_set(
                        reterr, FAIL_KEY_MISSING, EACCES,
                        "%s/%s must be a file of root with mode 0600; run chown root and chmod 600",
                        dir, name);
        return 0;
}

/* Reads a key file into a Secret without leaving a copy. -ENOENT leaves reterr alone. */
static int load(const char *dir, const char *name, bool private, Secret *ret, Failure *reterr) {
        _cleanup_close_ int dirfd = -1, fd = -1;
        _cleanup_secret_ Secret s = SECRET_INIT;
        struct stat st;
        ssize_t n;
        int r;

        dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dirfd >= 0)
                fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? -ENOENT
                                       : fail_errno(reterr, FAIL_KEY_MISSING, errno,
                                                    "cannot open %s/%s", dir, name);
        r = private ? check_private(fd, dir, name, reterr) : 0;
        if (r < 0)
                return r;
        if (fstat(fd, &st) < 0 || st.st_size <= 0 || (uint64_t) st.st_size > KEY_FILE_MAX)
                return fail_set(reterr, FAIL_KEY_MISSING, EBADMSG, "%s/%s is no key file", dir,
                                name);
        r = secret_new(&s, (size_t) st.st_size);
        if (r < 0)
                return r;
        n = fd_read_full(fd, s.data, s.size);
        if (n < 0 || (size_t) n != s.size)
                return fail_errno(reterr, FAIL_KEY_MISSING, n < 0 ? (int) -n : EIO,
                                  "cannot read %s/%s", dir, name);
        *ret = s;
        s = SECRET_INIT;
        return 0;
}

static int save(const char *dir, const char *name, const void *data, size_t n, Failure *reterr) {
        _cleanup_close_ int fd = fs_ensure_path(dir, 0700);
        int r = fd < 0 ? fd : fs_write_atomic(fd, name, data, n, 0600);

        if (r < 0)
                return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "cannot write %s/%s", dir, name);
        return 0;
}

/* ---- the host secret ---- */

int keyfile_load_host(const char *keys_dir, Secret *ret, Failure *reterr) {
        _cleanup_secret_ Secret text = SECRET_INIT, host = SECRET_INIT;
        char hex[2 * KEY_SIZE + 1];
        int r;

        r = load(keys_dir, HOST_FILE, true, &text, reterr);
        if (r < 0)
                return r;
        r = -EINVAL;
        if (text.size == 2 * KEY_SIZE + 1 && text.data[2 * KEY_SIZE] == '\n') {
                r = secret_new(&host, KEY_SIZE);
                if (r < 0)
                        return r;
                memcpy(hex, text.data, 2 * KEY_SIZE);
                hex[2 * KEY_SIZE] = '\0';
                r = text_unhex(hex, host.data, KEY_SIZE);
                explicit_bzero(hex, sizeof(hex));
        }
        if (r < 0)
                return fail_set(reterr, FAIL_KEY_MISSING, EBADMSG,
                                "%s/" HOST_FILE
                                " is damaged; move it away, and it is made again from the "
                                "repository and the private key",
                                keys_dir);
        *ret = host;
        host = SECRET_INIT;
        return 0;
}

int keyfile_save_host(const char *keys_dir, const Secret *host, Failure *reterr) {
        char line[2 * KEY_SIZE + 2];
        int r;

        text_hex(host->data, KEY_SIZE, line);
        line[2 * KEY_SIZE] = '\n';
        r = save(keys_dir, HOST_FILE, line, 2 * KEY_SIZE + 1, reterr);
        explicit_bzero(line, sizeof(line));
        return r;
}

/* ---- the recipient's pair ---- */

int keyfile_load_private(const char *keys_dir, Secret *ret_pem, Failure *reterr) {
        return load(keys_dir, PRIVATE_FILE, true, ret_pem, reterr);
}

static int bad_key(const char *dir, const char *name, int r, Failure *reterr) {
        return fail_errno(reterr, FAIL_KEY_MISSING, -r, "%s/%s is no X25519 key in PEM", dir, name);
}

static int save_public(const char *keys_dir, const uint8_t public[32], Failure *reterr) {
        _cleanup_(buf_done) Buf pem = BUF_INIT(KEY_FILE_MAX);
        int r = crypto_public_pem(public, &pem);

        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot encode a public key");
        return save(keys_dir, PUBLIC_FILE, pem.data, pem.size, reterr);
}

/* The public half of private.pem. -ENOENT leaves reterr alone. */
static int private_half(const char *keys_dir, uint8_t ret_public[32], Failure *reterr) {
        _cleanup_secret_ Secret pem = SECRET_INIT, raw = SECRET_INIT;
        int r = keyfile_load_private(keys_dir, &pem, reterr);

        if (r < 0)
                return r;
        r = crypto_private_parse(&pem, &raw, ret_public);
        return r < 0 ? bad_key(keys_dir, PRIVATE_FILE, r, reterr) : 0;
}

/* Backups would be sealed to a key that nobody may have: found out now, or with the first restore.
 */
static int compare_pair(const char *keys_dir, const uint8_t public[32], Failure *reterr) {
        uint8_t half[32];
        int r = private_half(keys_dir, half, reterr);

        if (r == -ENOENT) /* it may be kept elsewhere */
                return 0;
        if (r >= 0 && memcmp(half, public, sizeof(half)) != 0)
                return fail_set(reterr, FAIL_KEY_MISSING, EKEYREJECTED,
                                "%s/" PUBLIC_FILE " does not belong to " PRIVATE_FILE
                                " beside it; move away the one that is not meant",
                                keys_dir);
        return r;
}

int keyfile_ensure_pair(const char *keys_dir, uint8_t ret_public[32], Failure *reterr) {
        _cleanup_secret_ Secret text = SECRET_INIT, pem = SECRET_INIT;
        uint8_t public[32];
        int r;

        r = load(keys_dir, PUBLIC_FILE, false, &text, reterr);
        if (r >= 0) {
                r = crypto_public_parse(text.data, text.size, ret_public);
                return r < 0 ? bad_key(keys_dir, PUBLIC_FILE, r, reterr)
                             : compare_pair(keys_dir, ret_public, reterr);
        }
        if (r != -ENOENT)
                return r;
        r = private_half(keys_dir, public, reterr);
        if (r == -ENOENT) {
                r = crypto_keypair_new(&pem, public);
                if (r < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot make a key pair");
                r = save(keys_dir, PRIVATE_FILE, pem.data, pem.size, reterr);
        }
        if (r >= 0)
                r = save_public(keys_dir, public, reterr);
        if (r < 0)
                return r;
        memcpy(ret_public, public, 32);
        return 0;
}

/* ---- keys sealed to recipients: hosts/ and sessions/ ---- */

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
