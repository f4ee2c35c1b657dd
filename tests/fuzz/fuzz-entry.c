/*
 * The codec of one entry, and the chunk list in it. What is accepted has one encoding alone: it
 * comes out again byte by byte.
 */

#include <string.h>

#include "base/bytes.h"
#include "repo/content.h"
#include "tests/fuzz/fuzz.h"

static void check_entry(const Entry *e) {
        fuzz_assert(*e->name && strlen(e->name) <= ENTRY_NAME_MAX && !strchr(e->name, '/'));
        fuzz_assert(strcmp(e->name, ".") != 0 && strcmp(e->name, "..") != 0);
        fuzz_assert((e->mode & ~07777u) == 0 && e->mtime_nsec < 1000000000);
        fuzz_assert(e->n_xattrs <= ENTRY_XATTRS_MAX);
        fuzz_assert((e->type != ENTRY_SYMLINK && e->type != ENTRY_HARDLINK) || *e->target);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        Reader from = READER_INIT(data, size);
        EntryXattr xattrs[ENTRY_XATTRS_MAX];
        _cleanup_(buf_done) Buf again = BUF_INIT(RECORD_PLAIN_MAX);
        Entry e;

        while (reader_left(&from) > 0) {
                const uint8_t *start = from.p;

                if (entry_decode(&from, &e, xattrs) < 0) {
                        fuzz_assert(from.failed && reader_left(&from) == 0);
                        return 0;
                }
                check_entry(&e);
                if (e.type == ENTRY_FILE && e.size > 0)
                        (void) content_is_valid(&e);
                buf_clear(&again);
                fuzz_assert(entry_encode(&again, &e) == 0);
                fuzz_assert(again.size == (size_t) (from.p - start));
                fuzz_assert(memcmp(again.data, start, again.size) == 0);
        }
        return 0;
}
