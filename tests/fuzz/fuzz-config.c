/*
 * The repository's own config: a repository is opened with it. First byte: bit 0 the rest is the
 * file as it is, bit 1 a piece that damages the header comes first; else the rest is the payload.
 * "%HOST%" in it stands for the id of the host object that is there.
 */

#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "tests/fuzz/fuzz-repo.h"

#define HOST_TOKEN "%HOST%"

static void put_with_host(FuzzInput in, Buf *to) {
        char host[UUID_TEXT_MAX];
        const uint8_t *at;

        text_uuid_format(fuzz_repo()->host_id, host);
        while (in.size > 0 && (at = memmem(in.data, in.size, HOST_TOKEN, strlen(HOST_TOKEN)))) {
                FuzzInput before = fuzz_take(&in, (size_t) (at - in.data));

                fuzz_assert(buf_put(to, before.data, before.size) == 0);
                fuzz_assert(buf_put(to, host, strlen(host)) == 0);
                (void) fuzz_take(&in, strlen(HOST_TOKEN));
        }
        fuzz_assert(buf_put(to, in.data, in.size) == 0);
}

static void open_it(void) {
        _cleanup_(repo_closep) Repo *repo = NULL;
        Failure why = FAILURE_INIT;
        RepoParams params = { .path = fuzz_repo_path(), .keys = { .dir = fuzz_repo_keys() } };
        int state = fuzz_mkdir(fuzz_dir_fd(), "state-2");

        params.state_fd = state;
        if (repo_open(&params, &repo, &why) < 0)
                fuzz_assert(why.code != FAIL_NONE && *why.text && !repo);
        else {
                fuzz_assert(repo->n_recipients <= REPO_RECIPIENTS_MAX);
                for (size_t i = 0; i < repo->n_recipients; i++)
                        fuzz_assert(strlen(repo->recipients[i].id) == 16);
        }
        (void) close(state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzInput in = { data, size }, damage = { 0 };
        _cleanup_(buf_done) Buf payload = BUF_INIT((size_t) 4 << 20);
        uint8_t how = fuzz_u8(&in);
        Repo *repo = fuzz_repo();
        int before = fuzz_next_fd();

        if (how & 1)
                fuzz_write_object(OBJECT_CONFIG, repo->uuid, in);
        else {
                if (how & 2)
                        damage = fuzz_piece(&in);
                put_with_host(in, &payload);
                fuzz_seal_object(OBJECT_CONFIG, repo->uuid,
                                 (FuzzInput){ payload.data, payload.size }, damage);
        }
        open_it();
        fuzz_assert(fuzz_next_fd() == before);
        return 0;
}
