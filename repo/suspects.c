/*
 * Packs that a check has found damaged. What they hold is still read, since most of it may be well;
 * but a writer does not rely on them: what is needed again is stored again, from the source.
 *
 * The list is a file of its own in the worker's state and not a part of the index: it must survive
 * an index that is made anew, and a check must be able to write it while a backup holds the index.
 */

#include <errno.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/text.h"
#include "repo/repo-internal.h"

#define SUSPECTS_NAME "damaged-packs.json"
#define SUSPECTS_MAX  ((size_t) 16 << 20)

static uint8_t *find(const Buf *list, const uint8_t pack[UUID_SIZE]) {
        for (size_t i = 0; i < list->size; i += UUID_SIZE)
                if (memcmp(list->data + i, pack, UUID_SIZE) == 0)
                        return list->data + i;
        return NULL;
}

static int parse(json_object *o, Buf *ret) {
        uint8_t uuid[UUID_SIZE];
        json_object *list;

        if (json_get_array(o, "packs", &list) < 0)
                return -EBADMSG;
        for (size_t i = 0; i < json_object_array_length(list); i++) {
                const char *text = json_object_get_string(json_object_array_get_idx(list, i));

                if (!text || text_uuid_parse(text, uuid) < 0)
                        return -EBADMSG;
                if (buf_put(ret, uuid, UUID_SIZE) < 0)
                        return -ENOMEM;
        }
        return 0;
}

/* A list that is lost costs no more than the next check. */
static int read_list(Repo *repo, Failure *reterr) {
        _cleanup_(buf_done) Buf text = BUF_INIT(SUSPECTS_MAX);
        _cleanup_json_ json_object *o = NULL;
        int r;

        buf_clear(&repo->suspects);
        r = fs_read_file(repo->state_fd, SUSPECTS_NAME, SUSPECTS_MAX, &text);
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot read " SUSPECTS_NAME);
        o = json_parse((const char *) text.data, text.size);
        r = o ? parse(o, &repo->suspects) : -EBADMSG;
        if (r == -ENOMEM)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "cannot read " SUSPECTS_NAME);
        if (r < 0) {
                buf_clear(&repo->suspects);
                repo->corrections.suspects_lost = true;
                (void) unlinkat(repo->state_fd, SUSPECTS_NAME, 0); /* else it is told again */
        }
        return 0;
}

static int write_list(Repo *repo, Failure *reterr) {
        _cleanup_json_ json_object *o = json_object_new_object();
        json_object *list = json_object_new_array();
        char uuid[UUID_TEXT_MAX];
        const char *text;
        int r = o ? json_put(o, "packs", list) : -ENOMEM;

        for (size_t i = 0; r >= 0 && i < repo->suspects.size; i += UUID_SIZE) {
                text_uuid_format(repo->suspects.data + i, uuid);
                r = json_object_array_add(list, json_object_new_string(uuid)) < 0 ? -ENOMEM : 0;
        }
        text = r >= 0 ? json_text(o) : NULL;
        r = text ? fs_write_atomic(repo->state_fd, SUSPECTS_NAME, text, strlen(text), 0600)
                 : -ENOMEM;
        return r < 0 ? fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "cannot write " SUSPECTS_NAME)
                     : 0;
}

static int tell_index(Repo *repo, Failure *reterr) {
        return index_set_suspects(repo->index, repo->suspects.data, repo->suspects.size / UUID_SIZE,
                                  reterr);
}

int suspects_load(Repo *repo, Failure *reterr) {
        int r = read_list(repo, reterr);

        return r < 0 ? r : tell_index(repo, reterr);
}

static int change(Repo *repo, const uint8_t pack[UUID_SIZE], bool damaged, Failure *reterr) {
        uint8_t *at;
        int r = read_list(repo, reterr);

        if (r < 0)
                return r;
        at = find(&repo->suspects, pack);
        if ((at != NULL) == damaged)
                return 0;
        if (damaged)
                r = buf_put(&repo->suspects, pack, UUID_SIZE);
        else {
                repo->suspects.size -= UUID_SIZE;
                memmove(at, repo->suspects.data + repo->suspects.size, UUID_SIZE);
        }
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot note a damaged pack");
        return write_list(repo, reterr);
}

int suspects_note(Repo *repo, const uint8_t pack[UUID_SIZE], bool damaged, Failure *reterr) {
        int r;

        if (!damaged && !find(&repo->suspects, pack))
                return 0;
        r = repo_lock_index(repo, reterr);
        if (r < 0)
                return r;
        r = change(repo, pack, damaged, reterr);
        if (r >= 0)
                r = tell_index(repo, reterr);
        (void) flock(repo->index_lock, LOCK_UN); /* cannot fail on a lock that we hold */
        return r;
}
