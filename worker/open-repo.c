#include "worker/open-repo.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/text.h"
#include "worker/job-keys.h"
#include "worker/reserve.h"
#include "worker/state.h"

#define KNOWN_NAME "repository.json"

/*
 * True if this worker has used a repository at the configured path before: also if what it noted
 * cannot be read any more, for then it did note something. `ret_note`: it must be noted (again).
 */
static bool is_known(Work *w, bool *ret_note) {
        _cleanup_json_ json_object *o = NULL;
        _cleanup_free_ char *path = NULL;
        Failure f = FAILURE_INIT;
        int r = state_read_json(w->state_fd, KNOWN_NAME, &o, &f);

        *ret_note = true;
        if (r == -ENOENT)
                return false;
        if (r < 0 || json_get_path(o, "path", &path) < 0) {
                log_warning(KNOWN_NAME " cannot be read; it is written again");
                return true;
        }
        *ret_note = strcmp(path, w->config->repository_path) != 0;
        return !*ret_note;
}

static int remember(Work *w, Failure *reterr) {
        _cleanup_json_ json_object *o = json_object_new_object();

        if (!o || json_put_path(o, "path", w->config->repository_path) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "repository");
        return state_write_json(w->state_fd, KNOWN_NAME, o, reterr);
}

/*
 * A disk that is not mounted looks like a repository that was never made: a backup into the bare
 * mount point would be told as good, and a reconcile would forget every backup there is.
 */
static int refuse_vanished(Work *w, Failure *reterr) {
        return fail_set(
                reterr, FAIL_SOURCE_MISSING, ENOENT,
                "the repository %s is gone; is its file system mounted? If it was removed on "
                "purpose, remove " KNOWN_NAME " from the worker's state directory to begin a "
                "new one",
                w->config->repository_path);
}

/* Backups need no private key: what is wrong with it must not stop them. */
static void settle_keys(const KeyPlaces *places) {
        Failure f = FAILURE_INIT;

        if (keys_settle(places, &f) < 0)
                log_warning("the private key is not as it should be: %s", f.text);
}

/* Caches follow the repository by themselves; whoever wonders what a run did reads it here. */
static void tell_corrections(const Repo *repo) {
        RepoCorrections c = repo_corrections(repo);

        if (c.index && c.taken > 0)
                log_notice("index of the repository: %s; made again from %llu packs", c.index,
                           (unsigned long long) c.taken);
        else if (c.index)
                log_info("index of the repository: %s", c.index);
        if (c.begun_anew)
                log_warning("index of the repository: packs that it relied on are gone; made again "
                            "from the %llu that are there",
                            (unsigned long long) c.taken);
        else if (!c.index && c.taken + c.forgotten > 0)
                log_notice("index of the repository: %llu packs were not in it, %llu are gone or "
                           "were never finished; corrected",
                           (unsigned long long) c.taken, (unsigned long long) c.forgotten);
        if (c.suspects_lost)
                log_warning("the list of damaged packs cannot be read and is not used: the next "
                            "verification finds them again");
}

static int open_and_lock(const RepoParams *params, Repo **ret, Failure *reterr) {
        _cleanup_(repo_closep) Repo *repo = NULL;
        int r = repo_open(params, &repo, reterr);

        if (r >= 0 && params->writer)
                r = repo_lock(repo, REPO_LOCK_WRITER, LOCK_TIMEOUT_USEC, reterr);
        if (r >= 0)
                r = repo_lock(repo, REPO_LOCK_PACKS_SHARED, LOCK_TIMEOUT_USEC, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(repo);
        return 0;
}

int open_repo(Work *w, bool create, bool writer, Repo **ret, Failure *reterr) {
        _cleanup_free_ char *keys = NULL;
        _cleanup_free_ char *config = text_printf("%s/config", w->config->repository_path);
        _cleanup_free_ char *backups = text_printf("%s/backups", w->config->repository_path);
        _cleanup_(repo_closep) Repo *repo = NULL;
        _cleanup_secret_ Secret key = SECRET_INIT;
        RepoParams params = {
                .path = w->config->repository_path,
                .state_fd = w->state_fd,
                .create = create,
                .writer = writer,
                .interrupted = work_interrupted,
                .userdata = w,
        };
        bool note, known = is_known(w, &note), absent;
        int r;

        if (!config || !backups)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "repository");
        r = job_keys_places(&keys, &params.keys, reterr);
        if (r >= 0)
                r = job_keys_receive(w, &key, reterr);
        if (r < 0 && (r != -ENOENT || reterr->code != FAIL_NONE))
                return r;
        params.private_key = r < 0 ? NULL : &key;
        /* Without its config, but with its directories, it may be one that is damaged. */
        absent = access(config, F_OK) < 0 && errno == ENOENT && access(backups, F_OK) < 0 &&
                 errno == ENOENT;
        if (absent && known)
                return refuse_vanished(w, reterr);
        if (absent && !create)
                return -ENOENT;
        if (create)
                settle_keys(&params.keys);
        r = open_and_lock(&params, &repo, reterr);
        if (r == -ENOENT && reterr->code == FAIL_NO_SUCH_BACKUP) {
                *reterr = FAILURE_INIT; /* its first backup never came to its config */
                return r;
        }
        if (r < 0 && reterr->code == FAIL_NO_SPACE && writer && !create &&
            reserve_use(w->state_fd)) {
                log_notice("the disk is full: the reserve is used to make room");
                *reterr = FAILURE_INIT;
                r = open_and_lock(&params, &repo, reterr);
        }
        if (r >= 0)
                tell_corrections(repo);
        if (r >= 0 && create)
                reserve_make(w->state_fd);
        if (r >= 0 && note)
                r = remember(w, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(repo);
        return 0;
}

int open_repo_of(Work *w, bool writer, const char *backup_id, Repo **ret, Failure *reterr) {
        int r = open_repo(w, false, writer, ret, reterr);

        if (r == -ENOENT && reterr->code == FAIL_NONE)
                return fail_set(reterr, FAIL_NO_SUCH_BACKUP, ENOENT,
                                "no backup %s: there is no repository", backup_id);
        return r;
}

void open_repo_tell_space(Work *w, Repo *repo) {
        _cleanup_json_ json_object *m = proto_new("space");

        if (m && w->socket >= 0 && json_put_u64(m, "stored_bytes", repo_stored_bytes(repo)) >= 0 &&
            json_put_u64(m, "free_bytes", repo_free_bytes(repo)) >= 0)
                (void) proto_send(w->socket, m, NULL, 0); /* the next job says it again */
}
