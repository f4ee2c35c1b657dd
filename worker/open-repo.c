#include "worker/open-repo.h"

#include <errno.h>
#include <unistd.h>

#include "base/text.h"

int open_repo(Work *w, bool create, bool writer, Repo **ret, Failure *reterr) {
        _cleanup_free_ char *keys = text_printf("%s/keys", config_dir());
        _cleanup_free_ char *config = text_printf("%s/config", w->config->repository_path);
        _cleanup_free_ char *backups = text_printf("%s/backups", w->config->repository_path);
        _cleanup_(repo_closep) Repo *repo = NULL;
        RepoParams params = {
                .path = w->config->repository_path,
                .keys_dir = keys,
                .state_fd = w->state_fd,
                .create = create,
                .writer = writer,
                .interrupted = work_interrupted,
                .userdata = w,
        };
        int r;

        if (!keys || !config || !backups)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "repository");
        /* Without its config, but with its directories, it may be one that is damaged. */
        if (!create && access(config, F_OK) < 0 && errno == ENOENT && access(backups, F_OK) < 0 &&
            errno == ENOENT)
                return -ENOENT;
        r = repo_open(&params, &repo, reterr);
        if (r == -ENOENT && reterr->code == FAIL_NO_SUCH_BACKUP) {
                *reterr = FAILURE_INIT; /* its first backup never came to its config */
                return r;
        }
        if (r >= 0 && writer)
                r = repo_lock(repo, REPO_LOCK_WRITER, LOCK_TIMEOUT_USEC, reterr);
        if (r >= 0)
                r = repo_lock(repo, REPO_LOCK_PACKS_SHARED, LOCK_TIMEOUT_USEC, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(repo);
        return 0;
}

void open_repo_tell_space(Work *w, Repo *repo) {
        _cleanup_json_ json_object *m = proto_new("space");

        if (m && w->socket >= 0 && json_put_u64(m, "stored_bytes", repo_stored_bytes(repo)) >= 0 &&
            json_put_u64(m, "free_bytes", repo_free_bytes(repo)) >= 0)
                (void) proto_send(w->socket, m, NULL, 0); /* the next job says it again */
}
