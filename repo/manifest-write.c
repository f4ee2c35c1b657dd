/*
 * Blocks are cut where the entries themselves say so: after a change somewhere the cuts fall into
 * step again with those of the last backup, and all further blocks have ids that are stored
 * already.
 */

#include <errno.h>
#include <stdlib.h>

#include "base/text.h"
#include "repo/manifest.h"
#include "repo/varint.h"

/* Ids of root parts in a record: 16 million blocks and more. */
#define MANIFEST_ROOTS_MAX ((size_t) 65536)

struct ManifestWriter {
        MetaSink *sink;
        Buf block, entry;
        uint32_t n_entries; /* in the block */
        Buf key;            /* of the block's first entry, as the root has it */
        Buf service, dir;   /* of the current directory item, with their zeros */
        Buf root, roots;
        uint64_t n_blocks;
        CryptoSha *sha;
        char checksum[65];
};

int manifest_compare(const Entry *a, const Entry *b) {
        int r = strcmp(a->service, b->service);

        if (r == 0 && a->dir != b->dir)
                r = text_path_compare(a->dir, b->dir);
        return r != 0 ? r : strcmp(a->name, b->name);
}

int manifest_writer_new(MetaSink *sink, ManifestWriter **ret) {
        _cleanup_(manifest_writer_freep) ManifestWriter *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return -ENOMEM;
        w->sink = sink;
        w->block = BUF_INIT(RECORD_PLAIN_MAX);
        w->roots = BUF_INIT(MANIFEST_ROOTS_MAX * ID_SIZE);
        r = crypto_sha_new(&w->sha);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(w);
        return 0;
}

void manifest_writer_free(ManifestWriter *w) {
        if (!w)
                return;
        buf_done(&w->block);
        buf_done(&w->entry);
        buf_done(&w->key);
        buf_done(&w->service);
        buf_done(&w->dir);
        buf_done(&w->root);
        buf_done(&w->roots);
        crypto_sha_freep(&w->sha);
        free(w);
}

static int manifest_flush_root(ManifestWriter *w, Failure *reterr) {
        uint8_t id[ID_SIZE];
        int r;

        if (w->root.size == 0)
                return 0;
        r = meta_put(w->sink, CLASS_ROOT, w->root.data, w->root.size, id, reterr);
        if (r == 0)
                r = buf_put(&w->roots, id, ID_SIZE);
        buf_clear(&w->root);
        return r;
}

static int manifest_flush_block(ManifestWriter *w, Failure *reterr) {
        uint8_t id[ID_SIZE];
        int r;

        if (w->n_entries == 0)
                return 0;
        r = meta_put(w->sink, CLASS_BLOCK, w->block.data, w->block.size, id, reterr);
        if (r == 0)
                r = crypto_sha_add(w->sha, id, ID_SIZE);
        if (r == 0 && w->root.size + ID_SIZE + 8 + w->key.size > ROOT_MAX)
                r = manifest_flush_root(w, reterr);
        if (r == 0 && w->root.size == 0)
                r = buf_put_u8(&w->root, ROOT_VERSION);
        if (r == 0)
                r = buf_put(&w->root, id, ID_SIZE);
        if (r == 0)
                r = buf_put_u32(&w->root, (uint32_t) w->block.size);
        if (r == 0)
                r = buf_put_u32(&w->root, w->n_entries);
        if (r == 0)
                r = buf_put(&w->root, w->key.data, w->key.size);
        w->n_entries = 0;
        w->n_blocks++;
        buf_clear(&w->block);
        return r;
}

static bool manifest_is_same_dir(const ManifestWriter *w, const Entry *e) {
        return w->n_entries > 0 && strcmp((const char *) w->service.data, e->service) == 0 &&
               strcmp((const char *) w->dir.data, e->dir) == 0;
}

/* An entry may end the block before it, by its own key and by the block's size. */
static bool manifest_cuts_before(const ManifestWriter *w, const Entry *e, size_t n_dir) {
        uint32_t crc;

        if (w->n_entries == 0)
                return false;
        if (w->block.size + n_dir + 1 + w->entry.size > BLOCK_CUT_MAX)
                return true;
        if (w->block.size < BLOCK_CUT_MIN)
                return false;
        crc = crc32c(0, e->service, strlen(e->service) + 1);
        crc = crc32c(crc, e->dir, strlen(e->dir) + 1);
        crc = crc32c(crc, e->name, strlen(e->name));
        return (crc & BLOCK_CUT_MASK) == 0;
}

static int manifest_put_dir(ManifestWriter *w, const Entry *e) {
        int r;

        buf_clear(&w->service);
        buf_clear(&w->dir);
        r = string_put(&w->service, e->service);
        if (r == 0)
                r = string_put(&w->dir, e->dir);
        if (r == 0)
                r = buf_put_u8(&w->block, ITEM_DIRECTORY);
        if (r == 0)
                r = buf_put(&w->block, w->service.data, w->service.size);
        if (r == 0)
                r = buf_put(&w->block, w->dir.data, w->dir.size);
        return r;
}

/* Begins a block with its version and the key that the root will have for it. */
static int manifest_begin_block(ManifestWriter *w, const Entry *e) {
        int r = buf_put_u8(&w->block, BLOCK_VERSION);

        buf_clear(&w->key);
        if (r == 0)
                r = string_put(&w->key, e->service);
        if (r == 0)
                r = string_put(&w->key, e->dir);
        if (r == 0)
                r = string_put(&w->key, e->name);
        return r;
}

int manifest_writer_add(ManifestWriter *w, const Entry *e, Failure *reterr) {
        bool same = manifest_is_same_dir(w, e);
        size_t n_dir = same ? 0 : 1 + strlen(e->service) + 1 + strlen(e->dir) + 1;
        int r;

        buf_clear(&w->entry);
        r = entry_encode(&w->entry, e);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "%s/%s cannot be recorded", e->dir,
                                  e->name);
        if (manifest_cuts_before(w, e, n_dir)) {
                r = manifest_flush_block(w, reterr);
                same = false;
        }
        if (r == 0 && w->n_entries == 0)
                r = manifest_begin_block(w, e);
        if (r == 0 && !same)
                r = manifest_put_dir(w, e);
        if (r == 0)
                r = buf_put_u8(&w->block, ITEM_ENTRY);
        if (r == 0)
                r = buf_put(&w->block, w->entry.data, w->entry.size);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "The manifest cannot be written");
        w->n_entries++;
        return 0;
}

int manifest_writer_finish(ManifestWriter *w, Failure *reterr) {
        uint8_t digest[32];
        int r;

        r = manifest_flush_block(w, reterr);
        if (r == 0)
                r = manifest_flush_root(w, reterr);
        if (r == 0)
                r = crypto_sha_end(w->sha, digest);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "The manifest cannot be written");
        text_hex(digest, sizeof(digest), w->checksum);
        return 0;
}

const char *manifest_writer_checksum(const ManifestWriter *w) {
        return w->checksum;
}

int manifest_writer_describe(const ManifestWriter *w, json_object *to) {
        json_object *roots = json_object_new_array();
        char hex[2 * ID_SIZE + 1];
        int r;

        r = roots ? json_put(to, "roots", roots) : -ENOMEM;
        for (size_t at = 0; r == 0 && at < w->roots.size; at += ID_SIZE) {
                json_object *id;

                text_hex(w->roots.data + at, ID_SIZE, hex);
                id = json_object_new_string(hex);
                if (!id || json_object_array_add(roots, id) < 0)
                        r = -ENOMEM;
        }
        if (r == 0)
                r = json_put_u64(to, "blocks", w->n_blocks);
        if (r == 0)
                r = json_put_string(to, "checksum", w->checksum);
        return r;
}
