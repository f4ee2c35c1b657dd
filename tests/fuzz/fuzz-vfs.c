/*
 * A database of a frozen image with whatever journal and log stand beside it, recovered and checked
 * as the helper does it, through the helper's VFS. Nothing but the database and its own side files
 * may be made, changed or deleted, wherever a journal points.
 *
 * The input: flags, then pieces: database, journal, log, name of a super-journal, its content. Flag
 * bit 0: the name is put behind the journal as SQLite does it; bit 1: checksums of the log are made
 * right; bit 2: the directory of the image is handed over, as that of the live one; bit 3: checked
 * without recovery. "%TOP%" in the name stands for the directory above all: "%TOP%/outside" is the
 * live one.
 */

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/text.h"
#include "sql/helper.h"
#include "tests/fuzz/fuzz.h"

#define TOP_TOKEN    "%TOP%"
#define TIMEOUT_USEC 5000000

enum {
        HOW_SUPER = 1,
        HOW_SUMS = 2,
        HOW_IMAGE = 4,
        HOW_CHECK = 8,
};

/* ---- the worker's end: what the helper answers is all it wants ---- */

json_object *helper_answer_new(const char *type, const HelperDb *db) {
        return json_object_new_object();
}

int helper_answer_object(Helper *h, json_object *message) {
        return 0;
}

int helper_answer(Helper *h, const char *type, const HelperDb *db, const Failure *failure) {
        bool good = strcmp(type, "recovered") == 0 || strcmp(type, "sound") == 0;

        fuzz_assert(good == !failure);
        fuzz_assert(good || (failure->code != FAIL_NONE && *failure->text));
        return 0;
}

/* ---- files ---- */

static uint32_t get_be32(const uint8_t *p) {
        return (uint32_t) p[0] << 24 | (uint32_t) p[1] << 16 | (uint32_t) p[2] << 8 | p[3];
}

static void put_be32(uint8_t *p, uint32_t v) {
        for (int i = 0; i < 4; i++)
                p[i] = (uint8_t) (v >> (24 - 8 * i));
}

/* SQLite's checksum of logs, over whole pairs of words. */
static void log_sum(bool big, const uint8_t *p, size_t n, uint32_t sum[2]) {
        for (; n >= 8; p += 8, n -= 8) {
                sum[0] += (big ? get_be32(p) : get_le32(p)) + sum[1];
                sum[1] += (big ? get_be32(p + 4) : get_le32(p + 4)) + sum[0];
        }
}

/* Header and frames get the checksums and salts that make them count. */
static void mend_log(uint8_t *p, size_t n) {
        uint32_t sum[2] = { 0 }, page;
        bool big;

        if (n < 32)
                return;
        big = p[3] & 1;
        put_be32(p, 0x377f0682 | big);
        put_be32(p + 4, 3007000);
        page = get_be32(p + 8);
        log_sum(big, p, 24, sum);
        put_be32(p + 24, sum[0]);
        put_be32(p + 28, sum[1]);
        if (page < 512 || page > 65536)
                return;
        for (size_t at = 32; at + 24 + page <= n; at += 24 + page) {
                memcpy(p + at + 8, p + 16, 8);
                log_sum(big, p + at, 8, sum);
                log_sum(big, p + at + 24, page, sum);
                put_be32(p + at + 16, sum[0]);
                put_be32(p + at + 20, sum[1]);
        }
}

static void write_log(int dir, FuzzInput log, bool mend) {
        _cleanup_free_ uint8_t *copy = malloc(log.size + 1);

        fuzz_assert(copy);
        if (log.size == 0)
                return;
        memcpy(copy, log.data, log.size);
        if (mend)
                mend_log(copy, log.size);
        fuzz_write(dir, "app.db-wal", (FuzzInput){ copy, log.size });
}

/* The end of a journal that is part of a transaction over several databases. */
static void put_super(Buf *journal, const char *name) {
        static const uint8_t magic[8] = { 0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7 };
        uint8_t number[4];
        uint32_t sum = 0;

        put_be32(number, 0x200001); /* the page of the lock bytes, of pages of 512 bytes */
        fuzz_assert(buf_put(journal, number, 4) == 0);
        fuzz_assert(buf_put(journal, name, strlen(name)) == 0);
        for (const char *c = name; *c; c++)
                sum += (uint32_t) (int32_t) (signed char) *c;
        put_be32(number, (uint32_t) strlen(name));
        fuzz_assert(buf_put(journal, number, 4) == 0);
        put_be32(number, sum);
        fuzz_assert(buf_put(journal, number, 4) == 0);
        fuzz_assert(buf_put(journal, magic, sizeof(magic)) == 0);
}

static void write_journal(int dir, FuzzInput journal, const char *super) {
        _cleanup_(buf_done) Buf file = BUF_INIT((size_t) 4 << 20);

        if (journal.size == 0 && !super)
                return;
        fuzz_assert(buf_put(&file, journal.data, journal.size) == 0);
        if (super)
                put_super(&file, super);
        fuzz_write(dir, "app.db-journal", (FuzzInput){ file.data, file.size });
}

static char *expand_name(const char *name) {
        const char *at = strstr(name, TOP_TOKEN);

        return at ? text_printf("%.*s%s%s", (int) (at - name), name, fuzz_dir(),
                                at + strlen(TOP_TOKEN))
                  : strdup(name);
}

/* ---- the helper ---- */

/* One for all runs: SQLite keeps its VFS. */
static Helper *helper(void) {
        static Helper h = { .socket = -1, .copy_fd = -1 };
        Failure why = FAILURE_INIT;

        if (!h.stock) {
                fuzz_assert(sqlite3_config(SQLITE_CONFIG_URI, 0) == SQLITE_OK);
                fuzz_assert(sqlite3_initialize() == SQLITE_OK);
                log_limit(LOG_WARNING); /* not a line for each input */
                fuzz_assert(helper_vfs_register(&h, &why) == 0);
        }
        return &h;
}

static void run(int image, uint8_t how) {
        _cleanup_free_ char *live = text_printf("%s/outside", fuzz_dir());
        char zname[64], path[] = "/srv/app/app.db", name[] = "app.db";
        HelperDb db = { .path = path, .name = name, .zname = zname, .dirfd = image, .fd = -1 };
        HelperImage directory = { .live = live, .fd = image };
        _cleanup_json_ json_object *message = json_object_new_object();
        Helper *h = helper();

        fuzz_assert(live);
        (void) snprintf(zname, sizeof(zname), "/proc/self/fd/%d/app.db", image);
        fuzz_assert(json_put_u64(message, "timeout_usec", TIMEOUT_USEC) == 0);
        h->dbs = &db;
        h->n_dbs = 1;
        h->images = &directory;
        h->n_images = how & HOW_IMAGE ? 1 : 0;
        if (!(how & HOW_CHECK)) {
                h->mode = HELPER_RECOVER;
                fuzz_assert(helper_image_recover(h, message) == 0);
        }
        h->mode = HELPER_CHECK;
        fuzz_assert(helper_image_check(h, message) == 0);
}

/* What SQLite may change is the database and its side files; all else of the image is `kept`. */
static void check_image(int image) {
        _cleanup_free_ char *names = fuzz_listing(image);

        for (const char *line = names; *line; line = strchr(line, '\n') + 1)
                fuzz_assert(strncmp(line, "/app.db", 7) == 0 || strncmp(line, "/super", 6) == 0 ||
                            strncmp(line, "/other.db", 9) == 0);
        fuzz_assert(faccessat(image, "app.db", F_OK, AT_SYMLINK_NOFOLLOW) == 0);
        fuzz_assert(faccessat(image, "super", F_OK, AT_SYMLINK_NOFOLLOW) == 0);
        fuzz_assert(faccessat(image, "other.db", F_OK, AT_SYMLINK_NOFOLLOW) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const char *const live[] = { "bait", "app.db", "app.db-journal", "other.db",
                                            "super" };
        FuzzInput in = { data, size };
        uint8_t how = fuzz_u8(&in);
        FuzzInput database = fuzz_piece(&in), journal = fuzz_piece(&in), log = fuzz_piece(&in);
        _cleanup_free_ char *name = fuzz_string(&in), *super = expand_name(name);
        _cleanup_free_ char *before = NULL, *after = NULL;
        int top = fuzz_dir_fd(), here = open(".", O_PATH | O_CLOEXEC), outside, image, next;

        fuzz_assert(here >= 0);
        (void) helper();
        next = fuzz_next_fd();
        outside = fuzz_mkdir(top, "outside");
        for (size_t i = 0; i < ELEMENTSOF(live); i++)
                fuzz_write(outside, live[i], (FuzzInput){ (const uint8_t *) "bait", 4 });
        fuzz_assert(fchdir(outside) == 0); /* relative names would show here */
        image = fuzz_mkdir(top, "image");
        fuzz_write(image, "app.db", database);
        fuzz_write(image, "other.db", (FuzzInput){ (const uint8_t *) "other", 5 });
        fuzz_write(image, "super", fuzz_piece(&in));
        write_journal(image, journal, how & HOW_SUPER ? super : NULL);
        write_log(image, log, how & HOW_SUMS);
        before = fuzz_listing(outside);
        run(image, how);
        after = fuzz_listing(outside);
        fuzz_assert(strcmp(before, after) == 0);
        check_image(image);
        (void) close(image);
        (void) close(outside);
        fuzz_assert(fchdir(here) == 0);
        fuzz_assert(fuzz_next_fd() == next);
        (void) close(here);
        fuzz_remove(top, "image");
        fuzz_remove(top, "outside");
        return 0;
}
