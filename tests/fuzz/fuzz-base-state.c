/*
 * The base state of a service: pieces of the input become frames with the right checksum (or, with
 * the first byte odd, the input is the file), and the entries it holds are asked for.
 */

#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/crc32c.h"
#include "tests/fuzz/fuzz.h"
#include "worker/base-state.h"

static void put_frames(FuzzInput *in, Buf *to) {
        while (in->size > 0) {
                FuzzInput frame = fuzz_piece(in);

                fuzz_assert(buf_put_u32(to, (uint32_t) frame.size) == 0);
                fuzz_assert(buf_put_u32(to, crc32c(0, frame.data, frame.size)) == 0);
                fuzz_assert(buf_put(to, frame.data, frame.size) == 0);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const struct {
                const char *dir, *name;
        } asked[] = { { "/srv", "app" }, { "/srv/app", "a" }, { "/srv/app", "b" }, { "/zz", "z" } };
        int dirfd = fuzz_dir_fd(), before = fuzz_next_fd();
        FuzzInput in = { data, size };
        bool raw = fuzz_u8(&in) & 1;
        _cleanup_(buf_done) Buf file = BUF_INIT((size_t) 4 << 20);
        BaseReader *b = NULL;
        EntryLocal local;
        Entry e;

        if (raw)
                fuzz_write(dirfd, "main", in);
        else {
                put_frames(&in, &file);
                fuzz_write(dirfd, "main", (FuzzInput){ file.data, file.size });
        }
        fuzz_assert(base_reader_open(dirfd, "main", &b) == 0);
        if (b) {
                fuzz_assert(strlen(base_reader_backup(b)) == 36 && base_reader_signature(b));
                for (size_t i = 0; i < ELEMENTSOF(asked); i++)
                        if (base_reader_find(b, asked[i].dir, asked[i].name, &e, &local) > 0)
                                fuzz_assert(strcmp(e.dir, asked[i].dir) == 0 &&
                                            strcmp(e.name, asked[i].name) == 0);
        }
        base_reader_free(b);
        fuzz_assert(fuzz_next_fd() == before);
        return 0;
}
