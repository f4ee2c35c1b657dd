/*
 * Keys that leave the host: handing out a recovery copy, proving it, wiping the private key.
 *
 * recovery.json names the key it speaks of: for another one nothing was handed out or proven. A key
 * is wiped in this order: renamed, overwritten, unlinked; each durable before the next. From the
 * renaming on nothing uses it any more, and what a crash leaves is wiped by the next who may.
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
#include "base/step.h"
#include "base/text.h"
#include "repo/repo-internal.h"

#define RECOVERY_MAX ((size_t) 4 << 10)
#define WIPED_PREFIX ".wiped-"

static const char *const private_files[] = { KEY_PRIVATE, KEY_WRAPPED };
static const char *const wiped_files[] = { WIPED_PREFIX KEY_PRIVATE, WIPED_PREFIX KEY_WRAPPED };

/* ---- what is known of a key's recovery copy ---- */

typedef struct Recovery {
        uint8_t public[32];
        char exported[CLOCK_TEXT_MAX], proven[CLOCK_TEXT_MAX]; /* "": not */
} Recovery;

static int parse_recovery(json_object *o, Recovery *ret) {
        const char *public, *exported, *proven;

        if (!o || json_get_string(o, "public", &public) < 0 ||
            text_unhex(public, ret->public, sizeof(ret->public)) < 0 ||
            json_get_string(o, "exported_at", &exported) < 0 ||
            json_get_string(o, "proven_at", &proven) < 0 ||
            strlen(exported) >= sizeof(ret->exported) || strlen(proven) >= sizeof(ret->proven))
                return -EBADMSG;
        (void) strcpy(ret->exported, exported);
        (void) strcpy(ret->proven, proven);
        return 0;
}

/* What is noted for this key. A note that is damaged, or another key's, says nothing. */
static int load_recovery(int dirfd,
                         const KeyPlaces *places,
                         const uint8_t public[32],
                         Recovery *ret,
                         Failure *reterr) {
        _cleanup_(buf_done) Buf text = BUF_INIT(RECOVERY_MAX);
        _cleanup_json_ json_object *o = NULL;
        Recovery found = { .exported = "" };
        int r = fs_read_file(dirfd, KEY_RECOVERY, RECOVERY_MAX, &text);

        if (r < 0 && r != -ENOENT && r != -EFBIG)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot read %s/" KEY_RECOVERY,
                                  places->dir);
        o = r < 0 ? NULL : json_parse((const char *) text.data, text.size);
        if (parse_recovery(o, &found) < 0 ||
            memcmp(found.public, public, sizeof(found.public)) != 0)
                found = (Recovery){ .exported = "" };
        memcpy(found.public, public, sizeof(found.public));
        *ret = found;
        return 0;
}

static int save_recovery(const KeyPlaces *places, const Recovery *v, Failure *reterr) {
        _cleanup_json_ json_object *o = json_object_new_object();
        char id[KEY_ID_MAX], hex[2 * sizeof(v->public) + 1];
        const char *text;

        text_hex(v->public, sizeof(v->public), hex);
        if (!o || crypto_key_id(v->public, id) < 0 || json_put_string(o, "key", id) < 0 ||
            json_put_string(o, "public", hex) < 0 ||
            json_put_string(o, "exported_at", v->exported) < 0 ||
            json_put_string(o, "proven_at", v->proven) < 0 || !(text = json_text(o)))
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "cannot note a recovery key");
        return keyfile_save(places->dir, KEY_RECOVERY, text, strlen(text), reterr);
}

typedef enum Event { EXPORTED, PROVEN } Event;

static int note(const KeyPlaces *places, const uint8_t public[32], Event event, Failure *reterr) {
        _cleanup_close_ int dir = keyfile_lock(places, reterr);
        Recovery v;
        int r;

        if (dir < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -dir, "cannot note a recovery key in %s",
                                  places->dir);
        r = load_recovery(dir, places, public, &v, reterr);
        if (r < 0)
                return r;
        clock_format(clock_realtime_usec(), event == EXPORTED ? v.exported : v.proven);
        return save_recovery(places, &v, reterr);
}

/* ---- facts ---- */

static bool is_there(int dirfd, const char *name) {
        return faccessat(dirfd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int keys_facts(const KeyPlaces *places, KeyFacts *ret, Failure *reterr) {
        _cleanup_close_ int dir = open(places->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        KeyFacts facts = { .id = "" };
        uint8_t public[32];
        Recovery v;
        int r;

        facts.private_key = keyfile_has_credential(places, CREDENTIAL_PRIVATE);
        if (dir < 0 && errno != ENOENT)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot open %s", places->dir);
        for (size_t i = 0; dir >= 0 && i < ELEMENTSOF(private_files); i++)
                facts.private_key |=
                        is_there(dir, private_files[i]) || is_there(dir, wiped_files[i]);
        r = dir < 0 ? -ENOENT : keyfile_load_public(places, public, reterr);
        if (r >= 0) {
                r = load_recovery(dir, places, public, &v, reterr);
                if (r >= 0)
                        r = crypto_key_id(public, facts.id);
                if (r < 0)
                        return r;
                facts.recovery_exported = *v.exported;
                facts.recovery_proven = *v.proven;
        } else if (r != -ENOENT) {
                return r;
        }
        *ret = facts;
        return 0;
}

/* ---- wiping ---- */

/* On a file system that writes in place the bytes are gone; elsewhere at least their name is. */
static int overwrite(int dirfd, const char *name) {
        _cleanup_close_ int fd = openat(dirfd, name, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
        static const uint8_t zeros[512];
        struct stat st;
        int r = fd < 0 || fstat(fd, &st) < 0 ? -errno : 0;

        for (uint64_t at = 0; r >= 0 && at < (uint64_t) st.st_size; at += sizeof(zeros)) {
                uint64_t left = (uint64_t) st.st_size - at;

                r = fd_pwrite_full(fd, zeros, left < sizeof(zeros) ? (size_t) left : sizeof(zeros),
                                   at);
        }
        return r < 0 ? r : fs_sync(fd);
}

/* Wipes what was renamed, now or before a crash. `ret` is true if there was something. */
static int finish_wiping(const KeyPlaces *places, int dirfd, bool *ret, Failure *reterr) {
        for (size_t i = 0; i < ELEMENTSOF(wiped_files); i++) {
                int r;

                if (!is_there(dirfd, wiped_files[i]))
                        continue;
                *ret = true;
                r = overwrite(dirfd, wiped_files[i]);
                step("key-overwritten");
                if (r >= 0)
                        r = fs_unlink_durable(dirfd, wiped_files[i]);
                step("key-unlinked");
                if (r < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot wipe %s/%s",
                                          places->dir, wiped_files[i]);
        }
        return 0;
}

static int begin_wiping(const KeyPlaces *places, int dirfd, size_t i, Failure *reterr) {
        int r = renameat(dirfd, private_files[i], dirfd, wiped_files[i]) < 0 ? -errno
                                                                             : fs_sync(dirfd);

        if (r < 0 && r != -ENOENT)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot wipe %s/%s", places->dir,
                                  private_files[i]);
        step("key-renamed");
        return 0;
}

/* A key in the clear beside a passphrase that should wrap it: first the wrapped one, then the other
 * goes. */
static int wrap(const KeyPlaces *places, int dirfd, Failure *reterr) {
        _cleanup_secret_ Secret raw = SECRET_INIT;
        uint8_t public[32];
        bool wiped;
        int r;

        if (!is_there(dirfd, KEY_PRIVATE) || keyfile_has_credential(places, CREDENTIAL_PRIVATE))
                return 0;
        r = keyfile_passphrase(places, NULL, reterr);
        if (r < 0)
                return r == -ENOENT ? 0 : r;
        r = keyfile_load_private(places, &raw, public, reterr);
        if (r >= 0)
                r = keyfile_save_private(places, &raw, public, reterr);
        step("key-wrapped");
        if (r >= 0)
                r = begin_wiping(places, dirfd, 0, reterr);
        return r < 0 ? r : finish_wiping(places, dirfd, &wiped, reterr);
}

int keys_settle(const KeyPlaces *places, Failure *reterr) {
        _cleanup_close_ int dir = keyfile_lock(places, reterr);
        bool wiped;
        int r;

        if (dir < 0)
                return dir == -ENOENT ? 0 : dir;
        r = finish_wiping(places, dir, &wiped, reterr);
        return r < 0 ? r : wrap(places, dir, reterr);
}

/* ---- handing out, proving, forgetting ---- */

int keys_export(const KeyPlaces *places, Secret *ret_pem, Failure *reterr) {
        _cleanup_secret_ Secret raw = SECRET_INIT;
        uint8_t public[32];
        KeyFacts facts;
        int r = keyfile_load_private(places, &raw, public, reterr);

        if (r == -ENOENT) {
                r = keys_facts(places, &facts, reterr);
                if (r < 0)
                        return r;
                return fail_set(reterr, FAIL_KEY_MISSING, ENOKEY, "%s",
                                *facts.id ? "the private key was taken off this host; only its "
                                            "recovery copy is left"
                                          : "there is no key yet: the first backup makes it");
        }
        if (r < 0)
                return r;
        r = crypto_private_pem(&raw, ret_pem);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot encode the private key") : 0;
}

int keys_note_exported(const KeyPlaces *places, const Secret *pem, Failure *reterr) {
        _cleanup_secret_ Secret raw = SECRET_INIT;
        uint8_t public[32];
        int r = crypto_private_parse(pem, &raw, public);

        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot note the export of a key");
        return note(places, public, EXPORTED, reterr);
}

typedef struct Proof {
        Repo *repo;
        uint64_t sessions;
} Proof;

static int prove_session(void *userdata, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        Proof *p = userdata;
        _cleanup_secret_ Secret key = SECRET_INIT;
        int r;

        if (repo_is_interrupted(p->repo))
                return -ECANCELED;
        r = keyfile_session_open(p->repo, uuid, &key, reterr);
        p->sessions += r >= 0;
        return r;
}

int keys_prove(Repo *repo, uint64_t *ret_sessions, Failure *reterr) {
        _cleanup_json_ json_object *payload = NULL;
        _cleanup_secret_ Secret host = SECRET_INIT;
        Proof proof = { .repo = repo };
        int r;

        if (!repo->private_is_given)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "no key was given");
        r = object_read(repo, OBJECT_HOST, repo->host_id, &payload, reterr);
        if (r == -ENOENT)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, ENOENT,
                                "the host secret is missing in hosts/ of %s; bring it back from a "
                                "copy",
                                repo->path);
        if (r >= 0)
                r = keyfile_unseal(repo, OBJECT_HOST, repo->host_id, payload, &host, reterr);
        if (r < 0)
                return r;
        if (!crypto_equal(host.data, repo->keys.host.data, KEY_SIZE))
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "hosts/ of %s holds another host secret than %s", repo->path,
                                repo->keys_dir);
        r = store_list(repo->store, "sessions", prove_session, &proof, reterr);
        if (r < 0)
                return r;
        *ret_sessions = proof.sessions;
        return note(&repo->places, repo->private_public, PROVEN, reterr);
}

static int check_recovery(const KeyPlaces *places, int dirfd, const char *name, Failure *reterr) {
        uint8_t public[32];
        Recovery v;
        int r = keyfile_public_half(places->dir, name, public, reterr);

        if (r >= 0)
                r = load_recovery(dirfd, places, public, &v, reterr);
        if (r < 0)
                return r;
        if (!*v.exported)
                return fail_set(reterr, FAIL_NOT_CONFIRMED, EPERM,
                                "no recovery copy of %s/%s was handed out; run holdpoint key "
                                "export-recovery, then holdpoint key prove",
                                places->dir, name);
        if (!*v.proven)
                return fail_set(reterr, FAIL_NOT_CONFIRMED, EPERM,
                                "the recovery copy of %s/%s was not proven; run holdpoint key "
                                "prove with it",
                                places->dir, name);
        return 0;
}

int keys_forget(const KeyPlaces *places, bool *ret_forgotten, Failure *reterr) {
        _cleanup_close_ int dir = -1;
        int r;

        *ret_forgotten = false;
        if (keyfile_has_credential(places, CREDENTIAL_PRIVATE))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EOPNOTSUPP,
                                "the private key comes as credential " CREDENTIAL_PRIVATE
                                "; take it out of the units");
        dir = keyfile_lock(places, reterr);
        if (dir < 0)
                return dir == -ENOENT ? 0 : dir;
        for (size_t i = 0; i < ELEMENTSOF(private_files); i++) {
                r = check_recovery(places, dir, private_files[i], reterr);
                if (r < 0 && r != -ENOENT)
                        return r;
        }
        for (size_t i = 0; i < ELEMENTSOF(private_files); i++) {
                if (!is_there(dir, private_files[i]))
                        continue;
                r = begin_wiping(places, dir, i, reterr);
                if (r < 0)
                        return r;
        }
        return finish_wiping(places, dir, ret_forgotten, reterr);
}
