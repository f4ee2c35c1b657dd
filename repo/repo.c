/*
 * What an open repository answers itself: locks, the private key, records.
 */

#include <errno.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/step.h"
#include "base/text.h"
#include "repo/repo-internal.h"

bool repo_is_interrupted(const Repo *repo) {
        return repo->interrupted && repo->interrupted(repo->userdata);
}

/* ---- locks ---- */

static int take_lock(Repo *repo, const char *dir, int how, uint64_t timeout, Failure *reterr) {
        uint64_t end = clock_monotonic_usec() + timeout;
        int fd = store_dir_fd(repo->store, dir);

        while (flock(fd, how | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK && errno != EINTR)
                        return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot lock %s/%s",
                                          repo->path, dir);
                if (repo_is_interrupted(repo))
                        return -ECANCELED;
                if (clock_monotonic_usec() >= end)
                        return fail_set(reterr, FAIL_BUSY, EBUSY,
                                        "another job works on %s/%s; try again after it",
                                        repo->path, dir);
                (void) usleep(20000);
        }
        return 0;
}

static int become_writer(Repo *repo, Failure *reterr) {
        int r;

        repo->writer = true;
        r = store_sweep_temporary(repo->store, reterr);
        /* Whoever wrote before us may have been killed since we opened the repository. */
        return r < 0 ? r : repo_sync_index(repo, reterr);
}

int repo_lock(Repo *repo, RepoLock lock, uint64_t timeout_usec, Failure *reterr) {
        int r;

        if (lock != REPO_LOCK_WRITER)
                return take_lock(repo, "packs", lock == REPO_LOCK_PACKS_SHARED ? LOCK_SH : LOCK_EX,
                                 timeout_usec, reterr);
        if (repo->writer)
                return 0;
        if (repo->read_only)
                return fail_set(
                        reterr, FAIL_NOT_RESTORABLE, ENOTSUP,
                        "repository %s has features of a newer program: it can be read, not "
                        "written",
                        repo->path);
        r = take_lock(repo, "backups", LOCK_EX, timeout_usec, reterr);
        return r < 0 ? r : become_writer(repo, reterr);
}

/* ---- the private key ---- */

int repo_use_private(Repo *repo, const Secret *blob, Failure *reterr) {
        Secret raw = SECRET_INIT;
        int r = keyfile_parse_private(&repo->places, blob, "the key that was given", &raw,
                                      repo->private_public, reterr);

        if (r < 0)
                return r;
        secret_done(&repo->private_raw);
        repo->private_raw = raw;
        repo->private_is_given = true;
        return 0;
}

int repo_need_private(Repo *repo, Failure *reterr) {
        int r;

        if (repo->private_raw.data)
                return 0;
        r = keyfile_load_private(&repo->places, &repo->private_raw, repo->private_public, reterr);
        if (r == -ENOENT)
                return fail_set(reterr, FAIL_KEY_MISSING, ENOKEY,
                                "the private key is not on this host; give the recovery key with "
                                "--key FILE");
        return r;
}

int repo_check_private(Repo *repo, Failure *reterr) {
        char id[KEY_ID_MAX];

        for (size_t i = 0; i < repo->n_recipients; i++)
                if (memcmp(repo->recipients[i].public, repo->private_public, 32) == 0)
                        return 0;
        if (crypto_key_id(repo->private_public, id) < 0)
                *id = '\0';
        return fail_set(reterr, FAIL_KEY_MISSING, EKEYREJECTED,
                        "the key that was given (%s) does not belong to the repository %s; its "
                        "backups are sealed to %s",
                        id, repo->path, repo->n_recipients > 0 ? repo->recipients[0].id : "nobody");
}

int repo_set_private_key(Repo *repo, const Secret *blob, Failure *reterr) {
        int r = 0;

        secret_done(&repo->private_raw); /* loaded again when content is read */
        repo->private_is_given = false;
        if (blob)
                r = repo_use_private(repo, blob, reterr);
        if (blob && r >= 0)
                r = repo_check_private(repo, reterr);
        if (r < 0)
                secret_done(&repo->private_raw);
        return r;
}

/* ---- records ---- */

static void
record_name(const char *backup_id, char ret[STORE_NAME_MAX], uint8_t ret_uuid[UUID_SIZE]) {
        if (text_uuid_parse(backup_id, ret_uuid) < 0)
                *ret = '\0';
        else
                store_object_name(OBJECT_RECORD, ret_uuid, ret);
}

static int no_such_backup(const char *backup_id, Failure *reterr) {
        return fail_set(reterr, FAIL_NO_SUCH_BACKUP, ENOENT, "there is no backup %s", backup_id);
}

char *repo_record_path(Repo *repo, const char *backup_id) {
        return text_printf("%s/backups/%s", repo->path, backup_id);
}

bool repo_has_backup(Repo *repo, const char *backup_id) {
        char name[STORE_NAME_MAX];
        uint8_t uuid[UUID_SIZE];

        record_name(backup_id, name, uuid);
        return *name && store_has(repo->store, name);
}

int repo_record_load(Repo *repo, const char *backup_id, json_object **ret, Failure *reterr) {
        uint8_t uuid[UUID_SIZE];
        int r;

        if (text_uuid_parse(backup_id, uuid) < 0)
                return no_such_backup(backup_id, reterr);
        r = object_read(repo, OBJECT_RECORD, uuid, ret, reterr);
        return r == -ENOENT ? no_such_backup(backup_id, reterr) : r;
}

typedef struct ListCall {
        Repo *repo;
        int (*on_record)(void *userdata,
                         const char *id,
                         json_object *record,
                         const Failure *damage);
        void *userdata;
} ListCall;

static int on_record_name(void *userdata, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        const ListCall *call = userdata;
        _cleanup_json_ json_object *record = NULL;
        Failure why = FAILURE_INIT;
        char id[UUID_TEXT_MAX];
        int r;

        if (repo_is_interrupted(call->repo))
                return -ECANCELED;
        text_uuid_format(uuid, id);
        r = object_read(call->repo, OBJECT_RECORD, uuid, &record, &why);
        if (r == -ENOENT)
                return 0; /* deleted since the directory was read */
        if (r < 0 && why.code == FAIL_NONE)
                return r;
        return call->on_record(call->userdata, id, record, r < 0 ? &why : NULL);
}

int repo_list(Repo *repo,
              int (*on_record)(void *userdata,
                               const char *id,
                               json_object *record,
                               const Failure *damage),
              void *userdata,
              Failure *reterr) {
        ListCall call = { .repo = repo, .on_record = on_record, .userdata = userdata };

        return store_list(repo->store, "backups", on_record_name, &call, reterr);
}

int repo_delete(Repo *repo, const char *backup_id, Failure *reterr) {
        char name[STORE_NAME_MAX];
        uint8_t uuid[UUID_SIZE];
        int r;

        record_name(backup_id, name, uuid);
        if (!*name || !store_has(repo->store, name))
                return no_such_backup(backup_id, reterr);
        if (!repo->writer)
                return fail_set(reterr, FAIL_INTERNAL, EPERM, "the writer's lock is not held");
        /* The record first: a pin without a backup is nothing, a backup without its pin may be
         * lost. */
        r = store_delete(repo->store, name, reterr);
        step("record-deleted");
        if (r < 0)
                return r;
        /* Should it come back with an older copy of the repository, its packs may not. On a full
         * disk this cannot be written: then it must be damaged as well to do harm. */
        if (index_distrust(repo->index, uuid, NULL) < 0)
                index_rollback(repo->index);
        store_object_name(OBJECT_PIN, uuid, name);
        return store_delete(repo->store, name, reterr);
}

/* ---- pins ---- */

bool repo_is_pinned(Repo *repo, const char *backup_id) {
        char name[STORE_NAME_MAX];
        uint8_t uuid[UUID_SIZE];

        if (text_uuid_parse(backup_id, uuid) < 0)
                return false;
        store_object_name(OBJECT_PIN, uuid, name);
        return store_has(repo->store, name);
}

int repo_pin(Repo *repo, const char *backup_id, bool pinned, Failure *reterr) {
        _cleanup_json_ json_object *payload = json_object_new_object();
        char name[STORE_NAME_MAX], now[CLOCK_TEXT_MAX];
        uint8_t uuid[UUID_SIZE];

        if (text_uuid_parse(backup_id, uuid) < 0)
                return no_such_backup(backup_id, reterr);
        if (!repo->writer)
                return fail_set(reterr, FAIL_INTERNAL, EPERM, "the writer's lock is not held");
        store_object_name(OBJECT_PIN, uuid, name);
        if (!pinned)
                return store_delete(repo->store, name, reterr);
        clock_format(clock_realtime_usec(), now);
        if (!payload || json_put_string(payload, "created_at", now) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "pin");
        return object_write(repo, OBJECT_PIN, uuid, payload, NULL, reterr);
}

/* ---- figures ---- */

uint64_t repo_free_bytes(Repo *repo) {
        uint64_t n = 0;

        return fs_space(store_dir_fd(repo->store, ""), &n, NULL) < 0 ? 0 : n;
}

typedef struct Count {
        uint64_t n;
} Count;

static int on_counted(void *userdata, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        ((Count *) userdata)->n++;
        return 0;
}

int repo_facts(Repo *repo, RepoFacts *ret, Failure *reterr) {
        static const char *const dirs[] = { "packs", "sessions", "backups", "pins" };
        Count counts[ELEMENTSOF(dirs)] = { 0 };
        int r = 0;

        for (size_t i = 0; i < ELEMENTSOF(dirs) && r >= 0; i++)
                r = store_list(repo->store, dirs[i], on_counted, &counts[i], reterr);
        if (r < 0)
                return r;
        *ret = (RepoFacts){
                .packs = counts[0].n,
                .sessions = counts[1].n,
                .backups = counts[2].n,
                .pins = counts[3].n,
                .suspects = repo->suspects.size / UUID_SIZE,
                .read_only = repo->read_only,
        };
        text_uuid_format(repo->uuid, ret->uuid);
        return 0;
}

json_object *repo_features(Repo *repo) {
        return repo->features ? json_object_get(repo->features) : json_object_new_object();
}

json_object *repo_recipients(Repo *repo) {
        _cleanup_json_ json_object *list = json_object_new_array();
        char hex[65];

        for (size_t i = 0; list && i < repo->n_recipients; i++) {
                _cleanup_json_ json_object *o = json_object_new_object();

                text_hex(repo->recipients[i].public, 32, hex);
                if (!o || json_put_string(o, "id", repo->recipients[i].id) < 0 ||
                    json_put_string(o, "public", hex) < 0 ||
                    json_put_string(o, "label", repo->recipients[i].label) < 0 ||
                    json_object_array_add(list, json_object_get(o)) < 0)
                        return NULL;
        }
        return TAKE_PTR(list);
}

uint64_t repo_stored_bytes(Repo *repo) {
        uint64_t n = 0;

        return index_stored_bytes(repo->index, &n, NULL) < 0 ? 0 : n;
}

RepoCorrections repo_corrections(const Repo *repo) {
        RepoCorrections c = repo->corrections;

        c.index = index_note(repo->index);
        return c;
}

bool repo_base_is_trusted(Repo *repo, const char *backup_id) {
        uint8_t uuid[UUID_SIZE];

        return repo_has_backup(repo, backup_id) && text_uuid_parse(backup_id, uuid) >= 0 &&
               !index_has_suspects(repo->index) && index_is_trusted(repo->index, uuid, NULL) > 0;
}
