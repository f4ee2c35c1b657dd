/*
 * Metadata records are small and few: made and stored by the thread that owns the session, one by
 * one. The id of the plaintext decides whether there is anything to store at all, which is what
 * makes an unchanged tree cost nothing.
 */

#include <errno.h>

#include "base/text.h"
#include "repo/content.h"
#include "repo/pipeline.h"

static void meta_lock(MetaSink *m) {
        if (m->pipeline)
                pipeline_lock(m->pipeline);
}

static void meta_unlock(MetaSink *m) {
        if (m->pipeline)
                pipeline_unlock(m->pipeline);
}

int meta_put(MetaSink *m,
             uint8_t class,
             const void *data,
             size_t n,
             uint8_t ret_id[ID_SIZE],
             Failure *reterr) {
        PackRecord record = { .class = class, .plain = (uint32_t) n, .data = data };
        IndexPlace place;
        size_t size = 0;
        int r;

        if (n > RECORD_PLAIN_MAX)
                return fail_set(reterr, FAIL_INTERNAL, EMSGSIZE, "A metadata record is too large");
        r = crypto_id(m->repo->crypto, class, data, n, record.id);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "Metadata cannot be hashed");
        memcpy(ret_id, record.id, ID_SIZE);

        meta_lock(m);
        r = index_find_sound(m->repo->index, record.id, &place, reterr);
        meta_unlock(m);
        if (r != 0)
                return r < 0 ? r : 0;

        buf_clear(&m->compressed);
        r = buf_reserve(&m->compressed, n);
        if (r == 0)
                r = compress_run(m->compressor, data, n, m->compressed.data, &size);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "Metadata cannot be compressed");
        record.compressed = r > 0;
        record.size = r > 0 ? (uint32_t) size : (uint32_t) n;
        if (r > 0)
                record.data = m->compressed.data;

        meta_lock(m);
        r = pack_store(m->writer, m->repo->crypto, &record, &m->scratch, reterr);
        meta_unlock(m);
        return r;
}

void meta_done(MetaSink *m) {
        buf_done(&m->compressed);
        buf_done(&m->scratch);
}

static const char *meta_class_name(uint8_t class) {
        switch (class) {
        case CLASS_LIST:
                return "List of chunks";
        case CLASS_BLOCK:
                return "Manifest block";
        default:
                return "Manifest root";
        }
}

int meta_load(Repo *repo, uint8_t class, const uint8_t id[ID_SIZE], Buf *ret, Failure *reterr) {
        char hex[2 * ID_SIZE + 1];
        uint8_t found[ID_SIZE];
        IndexPlace place;
        int r;

        text_hex(id, ID_SIZE, hex);
        r = index_find(repo->index, id, &place, reterr);
        if (r < 0)
                return r;
        if (r == 0)
                return fail_set(
                        reterr, FAIL_INTEGRITY_FAILURE, ENOENT,
                        "%s %.16s… is in no pack of the repository: the pack that held it is lost",
                        meta_class_name(class), hex);
        if (place.class != class || place.member)
                return fail_set(
                        reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                        "%s %.16s… stands in the index as something else; the index will be "
                        "rebuilt if index.db is removed from the worker's state",
                        meta_class_name(class), hex);
        r = pack_read(repo, &place, id, ret, reterr);
        if (r < 0)
                return r;
        r = crypto_id(repo->crypto, class, ret->data, ret->size, found);
        if (r < 0)
                return r;
        if (!crypto_equal(found, id, ID_SIZE))
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "%s %.16s… does not match its id", meta_class_name(class), hex);
        return 0;
}
