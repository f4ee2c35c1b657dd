/*
 * Names that want out. First byte even: the rest is a path, escaped and taken back, judged and
 * shown. Odd: a stream of entries is extracted, and removed again; nothing outside of the tree may
 * appear, vanish or change, whatever paths, links and targets say.
 */

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "archive/arc-internal.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/text.h"
#include "tests/fuzz/fuzz.h"

#define ENTRIES_MAX 64
#define XATTRS_MAX  4

/* ---- texts ---- */

static void check_compare(const char *a, const char *b) {
        int c = text_path_compare(a, b);

        fuzz_assert(c == -text_path_compare(b, a) && (c == 0) == (strcmp(a, b) == 0));
        if (text_path_is_below(a, b))
                fuzz_assert(c >= 0);
}

static void check_text(FuzzInput in) {
        _cleanup_free_ char *raw = fuzz_string(&in), *other = fuzz_string(&in);
        _cleanup_free_ char *shown = text_escape(raw), *back = NULL, *meant = NULL, *again = NULL;
        char cut[ARC_SHOWN_MAX];

        fuzz_assert(shown && text_is_label(shown, SIZE_MAX));
        fuzz_assert(text_unescape(shown, &back) == 0 && strcmp(back, raw) == 0);
        if (text_unescape(raw, &meant) >= 0) {
                fuzz_assert(strlen(meant) <= strlen(raw));
                again = text_escape(meant);
                fuzz_assert(again);
        }
        fuzz_assert(text_is_label(arc_show(raw, cut), sizeof(cut)));
        if (text_is_clean_path(raw)) {
                fuzz_assert(*raw == '/' && !strstr(raw, "//") && !strstr(raw, "/../") &&
                            !strstr(raw, "/./"));
                if (text_is_clean_path(other))
                        check_compare(raw, other);
        }
        if (arc_path_is_clean(raw)) {
                _cleanup_free_ char *absolute = text_printf("/%s", raw);

                fuzz_assert(absolute && text_is_clean_path(absolute));
        }
        (void) text_is_service_name(raw);
        (void) text_is_uuid(raw);
}

/* ---- trees ---- */

static const EntryType types[] = { ENTRY_DIRECTORY, ENTRY_FILE,  ENTRY_SYMLINK, ENTRY_FIFO,
                                   ENTRY_CHAR,      ENTRY_BLOCK, ENTRY_HARDLINK };

static int on_content(void *userdata, const Entry *entry, int fd, Failure *reterr) {
        return fd_write_full(fd, "content", entry->size < 7 ? (size_t) entry->size : 7);
}

static bool is_interrupted(void *userdata) {
        return false;
}

/* One entry, in the order of docs/REPO-FORMAT.md but with the path as a whole. */
static int put_one(ArcExtract *x, FuzzInput *in, Failure *reterr) {
        uint8_t how = fuzz_u8(in);
        Entry e = { .service = "main", .dir = "/", .name = "x" };
        _cleanup_free_ char *path = NULL, *target = NULL;
        char *names[XATTRS_MAX] = { 0 };
        EntryXattr xattrs[XATTRS_MAX];
        int r;

        e.type = types[fuzz_u8(in) % ELEMENTSOF(types)];
        e.mode = fuzz_u16(in) & 07777;
        path = fuzz_string(in);
        target = fuzz_string(in);
        e.target = target;
        if (how & 2) {
                e.uid = fuzz_u32(in);
                e.gid = fuzz_u32(in);
                e.mtime_sec = (int64_t) fuzz_u32(in) - INT32_MAX;
                e.mtime_nsec = fuzz_u32(in) % 1000000000;
        }
        if (how & 4)
                e.flags = fuzz_u32(in);
        if (how & 8)
                e.size = (uint64_t) fuzz_u16(in) << (fuzz_u8(in) % 48);
        if (how & 16)
                e.major = fuzz_u8(in), e.minor = fuzz_u8(in);
        for (; (how & 32) && e.n_xattrs < XATTRS_MAX && in->size > 0; e.n_xattrs++) {
                FuzzInput value;

                names[e.n_xattrs] = fuzz_string(in);
                value = fuzz_piece(in);
                xattrs[e.n_xattrs] =
                        (EntryXattr){ names[e.n_xattrs], value.data, (uint32_t) value.size };
                if (!*names[e.n_xattrs])
                        break;
        }
        e.xattrs = xattrs;
        r = arc_extract_put(x, path, &e, target, how & 1, reterr);
        for (size_t i = 0; i < XATTRS_MAX; i++)
                free(names[i]);
        return r;
}

static void extract(int parent, FuzzInput in) {
        ArcExtractParams params = { .parent_fd = parent,
                                    .name = "t",
                                    .content = on_content,
                                    .interrupted = is_interrupted };
        _cleanup_(arc_extract_freep) ArcExtract *x = NULL;
        Failure why = FAILURE_INIT;

        fuzz_assert(arc_extract_new(&params, &x, &why) == 0);
        for (unsigned i = 0; i < ENTRIES_MAX && in.size > 0; i++) {
                why = FAILURE_INIT;
                if (put_one(x, &in, &why) < 0)
                        fuzz_assert(why.code != FAIL_NONE && *why.text);
        }
        (void) arc_extract_finish(x, &why);
}

/* "parent" holds nothing but the tree. */
static void check_alone(int parent) {
        _cleanup_free_ char *names = fuzz_listing(parent);

        for (const char *line = names; *line; line = strchr(line, '\n') + 1)
                fuzz_assert(strncmp(line, "/t ", 3) == 0 || strncmp(line, "/t/", 3) == 0);
}

static void check_tree(FuzzInput in) {
        int top = fuzz_mkdir(fuzz_dir_fd(), "paths"), fd_before = fuzz_next_fd();
        int parent = fuzz_mkdir(top, "parent"), outside = fuzz_mkdir(top, "outside");
        _cleanup_free_ char *before = NULL, *after = NULL, *removed = NULL, *left = NULL;

        fuzz_write(outside, "marker", (FuzzInput){ (const uint8_t *) "marker", 6 });
        (void) close(fuzz_mkdir(outside, "d"));
        before = fuzz_listing(outside);
        extract(parent, in);
        after = fuzz_listing(outside);
        fuzz_assert(strcmp(before, after) == 0);
        check_alone(parent);
        fuzz_remove(parent, "t");
        removed = fuzz_listing(outside);
        fuzz_assert(strcmp(before, removed) == 0);
        left = fuzz_listing(parent);
        fuzz_assert(!*left);
        (void) close(parent);
        (void) close(outside);
        fuzz_assert(fuzz_next_fd() == fd_before);
        (void) close(top);
        fuzz_remove(fuzz_dir_fd(), "paths");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzInput in = { data, size };

        if (fuzz_u8(&in) & 1)
                check_tree(in);
        else
                check_text(in);
        return 0;
}
