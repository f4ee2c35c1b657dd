/*
 * Making and opening a repository. It exists when `config` does, and that is written last: keys
 * durable, directories, hosts/, config. A crash before the end leaves keys (used again) and perhaps
 * an object in hosts/ that belongs to no repository (removed by the next try).
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/names.h"
#include "base/step.h"
#include "base/text.h"
#include "repo/repo-internal.h"

/* ---- recipients and features, as config has them ---- */

static int recipient_fill(Recipient *to, const uint8_t public[32], const char *label) {
        int r = crypto_key_id(public, to->id);

        if (r < 0)
                return r;
        memcpy(to->public, public, 32);
        (void) snprintf(to->label, sizeof(to->label), "%s", label);
        return 0;
}

static int config_damaged(Failure *reterr, const char *what) {
        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG, "config of the repository: %s",
                        what);
}

static int read_recipients(Repo *repo, json_object *config, Failure *reterr) {
        json_object *list;
        const char *public, *label;
        uint8_t raw[32];

        if (json_get_array(config, "recipients", &list) < 0)
                return config_damaged(reterr, "it names no recipients");
        for (size_t i = 0; i < json_object_array_length(list); i++) {
                json_object *o = json_object_array_get_idx(list, i);

                if (i >= REPO_RECIPIENTS_MAX || json_get_string(o, "public", &public) < 0 ||
                    text_unhex(public, raw, sizeof(raw)) < 0)
                        return config_damaged(reterr, "a recipient is malformed");
                if (json_get_string(o, "label", &label) < 0)
                        label = "";
                if (recipient_fill(&repo->recipients[repo->n_recipients++], raw, label) < 0)
                        return config_damaged(reterr, "a recipient is malformed");
        }
        return 0;
}

/* The first name in the list, for this version knows none; NULL if it is empty. */
static const char *feature(json_object *config, const char *key) {
        json_object *list;

        if (json_get_array(config, key, &list) < 0 || json_object_array_length(list) == 0)
                return NULL;
        return json_object_get_string(json_object_array_get_idx(list, 0));
}

static int keep_features(Repo *repo, json_object *config) {
        static const char *const lists[] = { "compat", "ro_compat", "incompat" };

        repo->features = json_object_new_object();
        for (size_t i = 0; repo->features && i < ELEMENTSOF(lists); i++) {
                json_object *list;

                if (json_get_array(config, lists[i], &list) >= 0 &&
                    json_put(repo->features, lists[i], json_object_get(list)) < 0)
                        return -ENOMEM;
        }
        return repo->features ? 0 : -ENOMEM;
}

static int read_config(Repo *repo, json_object *config, Failure *reterr) {
        const char *host, *id_alg, *aead_alg, *name = feature(config, "incompat");
        uint64_t format;

        if (json_get_u64(config, "format", &format) < 0 ||
            json_get_string(config, "host", &host) < 0 ||
            json_get_string(config, "id_alg", &id_alg) < 0 ||
            json_get_string(config, "aead_alg", &aead_alg) < 0 ||
            text_uuid_parse(host, repo->host_id) < 0)
                return config_damaged(reterr, "it is incomplete");
        if (format != FORMAT_VERSION || name || strcmp(id_alg, "hmac-sha256") != 0 ||
            strcmp(aead_alg, "aes-256-gcm") != 0)
                return fail_set(reterr, FAIL_NOT_RESTORABLE, ENOTSUP,
                                "repository %s needs a newer program (format %llu, feature %s)",
                                repo->path, (unsigned long long) format, name ? name : "none");
        repo->read_only = feature(config, "ro_compat") != NULL;
        if (keep_features(repo, config) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "cannot read config");
        return read_recipients(repo, config, reterr);
}

static int write_config(Repo *repo, Failure *reterr) {
        _cleanup_json_ json_object *o = json_object_new_object();
        static const char *const lists[] = { "compat", "ro_compat", "incompat" };
        char host[UUID_TEXT_MAX], hex[65];
        json_object *recipients = json_object_new_array();
        int r;

        text_uuid_format(repo->host_id, host);
        r = o ? json_put_u64(o, "format", FORMAT_VERSION) : -ENOMEM;
        for (size_t i = 0; i < ELEMENTSOF(lists) && r >= 0; i++)
                r = json_put(o, lists[i], json_object_new_array());
        if (r >= 0)
                r = json_put_string(o, "host", host);
        if (r >= 0)
                r = json_put_string(o, "id_alg", "hmac-sha256");
        if (r >= 0)
                r = json_put_string(o, "aead_alg", "aes-256-gcm");
        if (r >= 0)
                r = json_put(o, "recipients", recipients);
        for (size_t i = 0; i < repo->n_recipients && r >= 0; i++) {
                json_object *one = json_object_new_object();

                text_hex(repo->recipients[i].public, 32, hex);
                if (!one || json_object_array_add(recipients, one) < 0) {
                        json_object_put(one);
                        r = -ENOMEM;
                        break;
                }
                r = json_put_string(one, "id", repo->recipients[i].id);
                if (r >= 0)
                        r = json_put_string(one, "public", hex);
                if (r >= 0)
                        r = json_put_string(one, "label", repo->recipients[i].label);
        }
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot encode config");
        return object_write(repo, OBJECT_CONFIG, repo->uuid, o, NULL, reterr);
}

/* ---- making one ---- */

static int use_host(Repo *repo, const Secret *host, Failure *reterr) {
        int r;

        crypto_free(TAKE_PTR(repo->crypto));
        crypto_keys_done(&repo->keys);
        r = crypto_keys_derive(host->data, &repo->keys);
        if (r >= 0)
                r = crypto_new(&repo->keys, &repo->crypto);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot derive the host's keys") : 0;
}

static int ensure_host(Repo *repo, Failure *reterr) {
        _cleanup_secret_ Secret host = SECRET_INIT;
        int r = keyfile_load_host(&repo->places, &host, reterr);

        if (r == -ENOENT) {
                r = secret_new(&host, KEY_SIZE);
                if (r >= 0)
                        r = crypto_random(host.data, host.size);
                if (r < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot make a host secret");
                r = keyfile_save_host(&repo->places, &host, reterr);
        }
        return r < 0 ? r : use_host(repo, &host, reterr);
}

static int on_content(void *userdata, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        const Repo *repo = userdata;

        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, ENOENT,
                        "%s/config is missing, but there are backups; bring it back from a copy",
                        repo->path);
}

static int on_stray_host(void *userdata, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        Repo *repo = userdata;
        char name[STORE_NAME_MAX];

        store_object_name(OBJECT_HOST, uuid, name);
        return store_delete(repo->store, name, reterr);
}

/* One that has lost its config is damaged: neither "not there yet" nor a place for a new one. */
static int check_empty(Repo *repo, Failure *reterr) {
        static const char *const dirs[] = { "backups", "packs", "sessions" };
        int r = 0;

        for (size_t i = 0; i < ELEMENTSOF(dirs) && r >= 0; i++)
                r = store_list(repo->store, dirs[i], on_content, repo, reterr);
        return r;
}

static int make(Repo *repo, Failure *reterr) {
        uint8_t public[32];
        int r;

        r = check_empty(repo, reterr);
        if (r >= 0)
                r = store_list(repo->store, "hosts", on_stray_host, repo, reterr);
        if (r >= 0)
                r = keyfile_ensure_pair(&repo->places, public, reterr);
        if (r < 0)
                return r;
        step("repo-key-pair");
        r = ensure_host(repo, reterr);
        if (r < 0)
                return r;
        step("repo-host-secret");
        r = text_uuid_new(repo->uuid);
        if (r >= 0)
                r = text_uuid_new(repo->host_id);
        if (r >= 0)
                r = recipient_fill(&repo->recipients[0], public, "first key of this host");
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot make the repository");
        repo->n_recipients = 1;
        r = keyfile_seal(repo, OBJECT_HOST, repo->host_id, &repo->keys.host, NULL, reterr);
        if (r < 0)
                return r;
        step("repo-host");
        r = write_config(repo, reterr);
        step("repo-config");
        return r;
}

/* ---- opening one ---- */

typedef struct HostSearch {
        Repo *repo;
        bool found;
} HostSearch;

/* The object says which host secret it is: H opens to keys under which it authenticates itself. */
static int on_host_to_open(void *userdata, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        HostSearch *s = userdata;
        _cleanup_json_ json_object *payload = NULL;
        _cleanup_secret_ Secret host = SECRET_INIT;
        Failure why = FAILURE_INIT;

        if (s->found || object_peek(s->repo, OBJECT_HOST, uuid, &payload, &why) < 0 ||
            keyfile_unseal(s->repo, OBJECT_HOST, uuid, payload, &host, &why) < 0)
                return 0;
        if (use_host(s->repo, &host, &why) < 0)
                return 0;
        s->found = object_is_ours(s->repo, OBJECT_HOST, uuid);
        return 0;
}

/* The host secret was lost, or this is a bare machine: with the private key it comes back. */
static int recover_host(Repo *repo, Failure *reterr) {
        HostSearch s = { .repo = repo };
        Failure why = FAILURE_INIT;
        int r;

        if (repo_need_private(repo, &why) < 0)
                return fail_set(reterr, FAIL_KEY_MISSING, ENOKEY,
                                "%s/" KEY_HOST " is missing, and it takes the private key to bring "
                                "it back: %s",
                                repo->keys_dir, why.text);
        r = store_list(repo->store, "hosts", on_host_to_open, &s, reterr);
        if (r < 0)
                return r;
        if (!s.found)
                return fail_set(reterr, FAIL_KEY_MISSING, EKEYREJECTED,
                                "%s/" KEY_HOST " is missing, and %s does not open the repository "
                                "%s; put it back, or give the key that belongs to it",
                                repo->keys_dir,
                                repo->private_is_given ? "the key that was given"
                                                       : "the private key there",
                                repo->path);
        r = keyfile_save_host(&repo->places, &repo->keys.host, &why);
        if (r == -EROFS) /* a job that may not write there: it needs no more than this */
                return 0;
        if (r < 0 && reterr)
                *reterr = why;
        return r;
}

static int on_host_to_try(void *userdata, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        HostSearch *s = userdata;

        s->found = s->found || object_is_ours(s->repo, OBJECT_HOST, uuid);
        return 0;
}

/* A MAC that does not fit is damage, unless nothing here is ours. */
static int explain_config(Repo *repo, Failure *why, Failure *reterr) {
        HostSearch s = { .repo = repo };
        int r = store_list(repo->store, "hosts", on_host_to_try, &s, reterr);

        if (r < 0)
                return r;
        if (s.found || why->code != FAIL_INTEGRITY_FAILURE) {
                if (reterr && reterr->code == FAIL_NONE)
                        *reterr = *why;
                return -why->errnum;
        }
        return fail_set(
                reterr, FAIL_NOT_RESTORABLE, EKEYREJECTED,
                "repository %s belongs to another host than %s/host.secret; use its own keys, or "
                "another directory",
                repo->path, repo->keys_dir);
}

static int open_existing(Repo *repo, Failure *reterr) {
        _cleanup_json_ json_object *config = NULL;
        _cleanup_secret_ Secret host = SECRET_INIT;
        Failure why = FAILURE_INIT;
        int r;

        r = keyfile_load_host(&repo->places, &host, reterr);
        if (r == -ENOENT)
                r = recover_host(repo, reterr);
        else if (r >= 0)
                r = use_host(repo, &host, reterr);
        if (r < 0)
                return r;
        r = object_read(repo, OBJECT_CONFIG, repo->uuid, &config, &why);
        if (r < 0)
                return explain_config(repo, &why, reterr);
        r = read_config(repo, config, reterr);
        return r < 0 || !repo->private_is_given ? r : repo_check_private(repo, reterr);
}

/* Two that make it at once would make two of it: one after the other, by a lock on the directory.
 */
static int open_or_make(Repo *repo, bool create, Failure *reterr) {
        int top = store_dir_fd(repo->store, ""), r;

        if (create && flock(top, LOCK_EX) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot lock %s", repo->path);
        r = object_peek_repository(repo, repo->uuid, reterr);
        if (r >= 0)
                r = open_existing(repo, reterr);
        else if (r == -ENOENT && create)
                r = make(repo, reterr);
        else if (r == -ENOENT) {
                r = check_empty(repo, reterr);
                if (r >= 0)
                        r = fail_set(reterr, FAIL_NO_SUCH_BACKUP, ENOENT,
                                     "there is no repository in %s yet; the first backup makes it",
                                     repo->path);
        }
        if (create)
                (void) flock(top, LOCK_UN); /* cannot fail on a lock that we hold */
        return r;
}

static int copy_places(Repo *repo, const KeyPlaces *from) {
        repo->keys_dir = strdup(from->dir);
        if (from->credentials)
                repo->credentials_dir = strdup(from->credentials);
        if (!repo->keys_dir || (from->credentials && !repo->credentials_dir))
                return -ENOMEM;
        repo->places = (KeyPlaces){ .dir = repo->keys_dir,
                                    .credentials = repo->credentials_dir,
                                    .passphrase = from->passphrase };
        return 0;
}

static int init(const RepoParams *params, Repo *repo, Failure *reterr) {
        int r;

        repo->interrupted = params->interrupted;
        repo->userdata = params->userdata;
        repo->state_fd = params->state_fd;
        repo->path = strdup(params->path);
        r = copy_places(repo, &params->keys);
        if (r >= 0)
                r = repo->path ? compress_new(1, &repo->expand) : -ENOMEM;
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot open the repository");
        r = params->private_key ? repo_use_private(repo, params->private_key, reterr) : 0;
        if (r < 0)
                return r;
        r = store_open(params->path, params->create, &repo->store, reterr);
        if (r >= 0)
                r = open_or_make(repo, params->create, reterr);
        if (r < 0)
                return r;
        repo->index_lock = fs_open_lock(params->state_fd, "index.lock");
        if (repo->index_lock < 0)
                return fail_errno(reterr, fail_code_for_write(repo->index_lock, FAIL_INTERNAL),
                                  -repo->index_lock, "cannot make index.lock in the state");
        r = repo_open_index(repo, params->writer, reterr);
        return r < 0 || params->writer ? r : repo_sync_index(repo, reterr);
}

int repo_open(const RepoParams *params, Repo **ret, Failure *reterr) {
        _cleanup_(repo_closep) Repo *repo = calloc(1, sizeof(*repo));
        int r;

        if (!repo)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "cannot open the repository");
        repo->index_lock = -1;
        r = init(params, repo, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(repo);
        return 0;
}

void repo_close(Repo *repo) {
        if (!repo)
                return;
        pack_cache_free(repo->packs);
        buf_done(&repo->suspects);
        json_object_put(repo->features);
        index_close(repo->index);
        fd_close(repo->index_lock);
        store_close(repo->store); /* and with it the locks */
        compress_free(repo->expand);
        crypto_free(repo->crypto);
        crypto_keys_done(&repo->keys);
        secret_done(&repo->private_raw);
        free(repo->path);
        free(repo->keys_dir);
        free(repo->credentials_dir);
        free(repo);
}
