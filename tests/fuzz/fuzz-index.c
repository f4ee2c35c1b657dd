/*
 * The worker's index as it may be found after anything: two pieces are index.db and its log. It is
 * opened, asked and written to; what cannot be used must be made anew, never be the end.
 */

#include <string.h>
#include <unistd.h>

#include "tests/fuzz/fuzz-repo.h"

static const uint8_t repository[UUID_SIZE] = { 9, 9, 9 };

static int on_pack(void *userdata, const IndexPack *pack, Failure *reterr) {
        uint64_t *last = userdata;

        *last = pack->no;
        return 0;
}

static int on_row(void *userdata, uint64_t no, Failure *reterr) {
        uint64_t *last = userdata;

        *last = no;
        return 0;
}

static void use(Index *x) {
        IndexPack pack = { .kind = PACK_META, .size = 1000, .uuid = { 1 }, .session = { 2 } };
        IndexPlace place = { .stored = 100, .plain = 50, .class = CLASS_BLOCK };
        static const uint8_t id[ID_SIZE] = { 7 };
        IndexExtra extra;
        uint64_t n = 0;

        (void) index_each_pack(x, on_pack, &n, NULL);
        (void) index_each_row(x, on_row, &n, NULL);
        (void) index_find(x, id, &place, NULL);
        (void) index_extra_get(x, n, 0, &extra, NULL);
        (void) index_pack_get(x, n, &pack, NULL);
        (void) index_stored_bytes(x, &n, NULL);
        (void) index_is_trusted(x, repository, NULL);
        if (index_pack_add(x, &pack, &place.pack_no, NULL) >= 0)
                (void) index_add(x, id, &place, NULL);
        (void) index_mark_durable(x, NULL, NULL);
        (void) index_sweep(x, NULL);
        if (index_commit(x, NULL) < 0)
                index_rollback(x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzInput in = { data, size }, log;
        int dir = fuzz_mkdir(fuzz_dir_fd(), "state-3"), before = fuzz_next_fd();
        Failure why = FAILURE_INIT;
        Index *x = NULL;

        fuzz_write(dir, "index.db", fuzz_piece(&in));
        log = fuzz_piece(&in);
        if (log.size > 0)
                fuzz_write(dir, "index.db-wal", log);
        if (index_open(dir, repository, &x, &why) < 0)
                fuzz_assert(why.code != FAIL_NONE && *why.text);
        else
                use(x);
        index_close(x);
        fuzz_assert(fuzz_next_fd() == before);
        (void) close(dir);
        fuzz_remove(fuzz_dir_fd(), "state-3");
        return 0;
}
