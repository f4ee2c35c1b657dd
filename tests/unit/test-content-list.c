#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "repo/chunk.h"
#include "repo/manifest.h"
#include "repo/varint.h"
#include "tests/lib/repofix.h"

/* A way to store metadata records by hand: also those that no session would write. */
typedef struct Craft {
        RepoFix *x;
        PackWriter *writer;
        Compressor *compressor;
        MetaSink sink;
} Craft;

static void craft_begin(Craft *c, RepoFix *x) {
        static const uint8_t session[UUID_SIZE] = { 1 };

        *c = (Craft){ .x = x };
        assert_int_equal(
                pack_writer_new(c->x->repo, PACK_META, session, NULL, 1 << 20, &c->writer, NULL),
                0);
        assert_int_equal(compress_new(1, &c->compressor), 0);
        c->sink = (MetaSink){
                .repo = c->x->repo,
                .writer = c->writer,
                .compressor = c->compressor,
        };
}

static void craft_end(Craft *c) {
        meta_done(&c->sink);
        compress_free(c->compressor);
        pack_writer_free(c->writer);
}

/* ---- lists ---- */

/* Kinds of units, and ids made from their numbers. */
static unsigned kind_of(uint64_t seed, unsigned unit) {
        uint64_t z = (unit / (1 + seed % 5) + seed) * 0x9e3779b97f4a7c15u;

        return (unsigned) (z >> 60) % 8 < 6 ? RUN_DATA : (z >> 59) & 1 ? RUN_HOLE : RUN_ZERO;
}

static void id_of(unsigned unit, uint8_t id[ID_SIZE]) {
        memset(id, 0x5a, ID_SIZE);
        put_le32(id, unit);
}

/* Writes the units one by one, or holes and zeros joined: the list must be the same. */
static void write_list(Craft *c, uint64_t seed, unsigned units, bool joined, Buf *ret) {
        _cleanup_(content_writer_done) ContentWriter w = { 0 };
        uint8_t id[ID_SIZE];

        for (unsigned i = 0; i < units;) {
                unsigned kind = kind_of(seed, i), n = 1;

                if (kind == RUN_DATA) {
                        id_of(i, id);
                        assert_int_equal(content_add_data(&w, &c->sink, id, NULL), 0);
                } else {
                        while (joined && i + n < units && kind_of(seed, i + n) == kind)
                                n++;
                        assert_int_equal(content_add_run(&w, &c->sink, kind, n, NULL), 0);
                }
                i += n;
        }
        assert_int_equal(content_finish(&w, &c->sink, ret, NULL), 0);
}

static void check_list(Craft *c, uint64_t seed, unsigned units, const Buf *list) {
        _cleanup_(content_reader_done) ContentReader reader = CONTENT_READER_INIT;
        Entry e = {
                .type = ENTRY_FILE,
                .class = ENTRY_CLASS_SQLITE,
                .size = (uint64_t) units * SQLITE_UNIT - 1,
                .content = list->data,
                .content_size = list->size,
        };
        Failure failure = FAILURE_INIT;
        uint8_t id[ID_SIZE];
        unsigned at = 0;
        ContentRun run;
        int r;

        assert_true(content_is_valid(&e));
        assert_int_equal(content_reader_open(&reader, c->x->repo, &e, &failure), 0);
        while ((r = content_reader_next(&reader, &run, &failure)) > 0)
                for (uint64_t i = 0; i < run.n; i++, at++) {
                        assert_int_equal(run.kind, kind_of(seed, at));
                        id_of(at, id);
                        if (run.kind == RUN_DATA)
                                assert_memory_equal(run.ids + i * ID_SIZE, id, ID_SIZE);
                }
        assert_int_equal(r, 0);
        assert_int_equal(at, units);
}

static void test_lists(void **state) {
        static const unsigned sizes[] = { 1, 2, 10, 511, 512, 2000, 2047, 2048, 4096, 20000 };
        Craft c;

        craft_begin(&c, *state);
        for (size_t i = 0; i < ELEMENTSOF(sizes); i++)
                for (uint64_t seed = 0; seed < 12; seed++) {
                        _cleanup_(buf_done) Buf one = { 0 }, other = { 0 };

                        write_list(&c, seed, sizes[i], false, &one);
                        write_list(&c, seed, sizes[i], true, &other);
                        assert_int_equal(one.size, other.size);
                        assert_memory_equal(one.data, other.data, one.size);
                        assert_true(one.size <= CONTENT_INLINE_MAX);
                        assert_int_equal(pack_writer_finish(c.writer, NULL), 0);
                        check_list(&c, seed, sizes[i], &one);
                }
        craft_end(&c);
}

static void test_bad_lists(void **state) {
        static const struct {
                uint64_t size;
                EntryClass class;
                size_t n;
                uint8_t list[40];
        } bad[] = {
                { 10, ENTRY_CLASS_SMALL, 1, { 0 } },                    /* no unit */
                { 10, ENTRY_CLASS_SMALL, 2, { 0, 2 << 2 | RUN_HOLE } }, /* one too many */
                { 10, ENTRY_CLASS_SMALL, 2, { 0, RUN_ZERO } },          /* of no length */
                { 10, ENTRY_CLASS_SMALL, 2, { 0, 1 << 2 | 3 } },        /* of no kind */
                { 10, ENTRY_CLASS_SMALL, 33, { 0, 1 << 2 } },           /* an id of 31 bytes */
                { 10, ENTRY_CLASS_SMALL, 35, { 0, 1 << 2 } },           /* bytes behind it */
                { 10, ENTRY_CLASS_SMALL, 2, { 2, 1 << 2 | RUN_HOLE } }, /* an unknown form */
                { 10, ENTRY_CLASS_SMALL, 34, { 1 } },                   /* an id and a bit */
                { 70000,
                  ENTRY_CLASS_SMALL,
                  2,
                  { 0, 1 << 2 | RUN_HOLE } }, /* too large for its class */
                { 10, ENTRY_CLASS_NONE, 2, { 0, 1 << 2 | RUN_HOLE } },
                { 0, ENTRY_CLASS_LARGE, 1, { 0 } },
                { 70000, ENTRY_CLASS_SQLITE, 3, { 0, 1 << 2 | RUN_HOLE, 0x80 } },
                { UINT64_MAX, ENTRY_CLASS_LARGE, 2, { 0, 1 << 2 | RUN_HOLE } },
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                uint8_t *exact = malloc(bad[i].n); /* so that one byte too far is seen */
                Entry e = {
                        .type = ENTRY_FILE,
                        .class = bad[i].class,
                        .size = bad[i].size,
                        .content = exact,
                        .content_size = bad[i].n,
                };

                memcpy(exact, bad[i].list, bad[i].n);
                assert_false(content_is_valid(&e));
                free(exact);
        }
}

/* ---- manifests that nobody should have written ---- */

/* What a crafted manifest of one block differs in from a good one. */
typedef struct Crafted {
        const char *service, *dir, *names[3]; /* NULL: "main", "/srv", and no more names */
        const char *key_name;                 /* in the root; NULL: the first name */
        int extra_entries, extra_size;
        bool no_dir, two_dirs, trailing, bad_version, bad_content;
} Crafted;

static void craft_block(const Crafted *k, Buf *b) {
        static const uint8_t nonsense[] = { 0, 9 << 2 | RUN_HOLE };

        assert_int_equal(buf_put_u8(b, k->bad_version ? 9 : BLOCK_VERSION), 0);
        for (int i = k->no_dir ? 1 : 0; i < (k->two_dirs ? 2 : 1); i++) {
                assert_int_equal(buf_put_u8(b, ITEM_DIRECTORY), 0);
                assert_int_equal(string_put(b, k->service ? k->service : "main"), 0);
                assert_int_equal(string_put(b, k->dir ? k->dir : "/srv"), 0);
        }
        for (size_t i = 0; i < 3 && k->names[i]; i++) {
                Entry e = { .name = k->names[i], .type = ENTRY_FILE };

                if (k->bad_content) {
                        e.size = 10;
                        e.class = ENTRY_CLASS_SMALL;
                        e.content = nonsense;
                        e.content_size = sizeof(nonsense);
                }
                assert_int_equal(buf_put_u8(b, ITEM_ENTRY), 0);
                assert_int_equal(entry_encode(b, &e), 0);
        }
        if (k->trailing)
                assert_int_equal(buf_put_u8(b, ITEM_ENTRY), 0);
}

static json_object *craft_manifest(Craft *c, const Crafted *k) {
        _cleanup_(buf_done) Buf block = { 0 }, root = { 0 };
        json_object *record = json_object_new_object(), *manifest = json_object_new_object();
        json_object *roots = json_object_new_array();
        char hex[2 * ID_SIZE + 1];
        uint8_t id[ID_SIZE];
        int n = k->extra_entries;

        for (size_t i = 0; i < 3 && k->names[i]; i++)
                n++;
        craft_block(k, &block);
        assert_int_equal(meta_put(&c->sink, CLASS_BLOCK, block.data, block.size, id, NULL), 0);
        assert_int_equal(buf_put_u8(&root, ROOT_VERSION), 0);
        assert_int_equal(buf_put(&root, id, ID_SIZE), 0);
        assert_int_equal(buf_put_u32(&root, (uint32_t) ((int) block.size + k->extra_size)), 0);
        assert_int_equal(buf_put_u32(&root, (uint32_t) n), 0);
        assert_int_equal(string_put(&root, k->service ? k->service : "main"), 0);
        assert_int_equal(string_put(&root, k->dir ? k->dir : "/srv"), 0);
        assert_int_equal(string_put(&root, k->key_name ? k->key_name : k->names[0]), 0);
        assert_int_equal(meta_put(&c->sink, CLASS_ROOT, root.data, root.size, id, NULL), 0);
        assert_int_equal(pack_writer_finish(c->writer, NULL), 0);

        text_hex(id, ID_SIZE, hex);
        json_object_array_add(roots, json_object_new_string(hex));
        json_object_object_add(manifest, "roots", roots);
        json_object_object_add(record, "manifest", manifest);
        return record;
}

static int read_crafted(Craft *c, const Crafted *k, unsigned *ret_n, Failure *reterr) {
        _cleanup_json_ json_object *record = craft_manifest(c, k);
        RepoManifest *m = repofix_manifest(c->x, record);
        const Entry *e;
        int r;

        for (*ret_n = 0; (r = repo_manifest_next(m, &e, reterr)) > 0;)
                (*ret_n)++;
        repo_manifest_free(m);
        return r;
}

static void test_bad_manifests(void **state) {
        static const Crafted good = { .names = { "a", "b", "c" } };
        static const Crafted bad[] = {
                { .names = { "b", "a" } },
                { .names = { "a", "a" } },
                { .names = { "a" }, .key_name = "b" },
                { .names = { "a" }, .extra_entries = 1 },
                { .names = { "a", "b" }, .extra_entries = -1 },
                { .names = { "a" }, .extra_entries = -1 },
                { .names = { "a" }, .extra_size = 1 },
                { .names = { "a" }, .no_dir = true },
                { .names = { "a" }, .two_dirs = true },
                { .names = { "a" }, .trailing = true },
                { .names = { "a" }, .bad_version = true },
                { .names = { "a" }, .bad_content = true },
                { .names = { "a" }, .dir = "srv" },
                { .names = { "a" }, .dir = "/srv/../etc" },
                { .names = { "a" }, .dir = "/srv/" },
                { .names = { "a" }, .service = "" },
                { .names = { "a" }, .service = "a/b" },
        };
        Failure failure = FAILURE_INIT;
        unsigned n;
        Craft c;

        craft_begin(&c, *state);
        assert_int_equal(read_crafted(&c, &good, &n, &failure), 0);
        assert_int_equal(n, 3);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                Failure why = FAILURE_INIT;

                assert_int_equal(read_crafted(&c, &bad[i], &n, &why), -EBADMSG);
                assert_int_equal(why.code, FAIL_INTEGRITY_FAILURE);
        }
        craft_end(&c);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                repofix_test(test_lists),
                cmocka_unit_test(test_bad_lists),
                repofix_test(test_bad_manifests),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
