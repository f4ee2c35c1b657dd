/*
 * Reading content back. Nothing reaches the caller that was not checked against the id which the
 * manifest names, whatever pack, directory and index say.
 */

#include "repo/content.h"

#include <errno.h>

#include "base/text.h"
#include "repo/chunk.h"
#include "repo/manifest.h"

void content_cache_done(ContentCache *cache) {
        for (size_t i = 0; i < CONTENT_CACHE_N; i++)
                buf_done(&cache->slots[i].plain);
        buf_done(&cache->chunk);
}

static int content_lost(const uint8_t id[ID_SIZE], const char *what, Failure *reterr) {
        char hex[2 * ID_SIZE + 1];

        text_hex(id, ID_SIZE, hex);
        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG, "chunk %.16s… %s", hex, what);
}

/* The opened bundle at `place`, from the cache or read into its oldest slot. */
static int content_bundle(Repo *repo,
                          ContentCache *cache,
                          const IndexPlace *place,
                          const uint8_t id[ID_SIZE],
                          const Buf **ret,
                          Failure *reterr) {
        size_t oldest = 0;
        int r;

        for (size_t i = 0; i < CONTENT_CACHE_N; i++) {
                if (cache->slots[i].used > 0 && cache->slots[i].pack_no == place->pack_no &&
                    cache->slots[i].ordinal == place->ordinal) {
                        cache->slots[i].used = ++cache->clock;
                        cache->last_slot = i;
                        *ret = &cache->slots[i].plain;
                        return 0;
                }
                if (cache->slots[i].used < cache->slots[oldest].used)
                        oldest = i;
        }
        cache->slots[oldest].used = 0; /* worth nothing until it was read */
        cache->slots[oldest].plain.max = RECORD_PLAIN_MAX;
        r = pack_read(repo, place, id, &cache->slots[oldest].plain, reterr);
        if (r < 0)
                return r;
        cache->slots[oldest].used = ++cache->clock;
        cache->slots[oldest].pack_no = place->pack_no;
        cache->slots[oldest].ordinal = place->ordinal;
        cache->last_slot = oldest;
        *ret = &cache->slots[oldest].plain;
        return 0;
}

/*
 * Small files come back in the order in which they were bundled, so the next is most often where
 * the last one ended: its id tells, and the index need not be asked. 1, 0 if it is not there.
 */
static int content_guess(RepoManifest *m,
                         EntryClass class,
                         const uint8_t id[ID_SIZE],
                         size_t n,
                         const uint8_t **ret) {
        ContentCache *cache = &m->cache;
        const Buf *plain = &cache->slots[cache->last_slot].plain;
        uint8_t found[ID_SIZE];
        int r;

        if (class != ENTRY_CLASS_SMALL || cache->slots[cache->last_slot].used == 0 ||
            cache->last_offset > plain->size || n > plain->size - cache->last_offset)
                return 0;
        r = crypto_id(m->repo->crypto, (uint8_t) class, plain->data + cache->last_offset, n, found);
        if (r < 0)
                return r;
        if (!crypto_equal(found, id, ID_SIZE))
                return 0;
        *ret = plain->data + cache->last_offset;
        cache->last_offset += n;
        cache->slots[cache->last_slot].used = ++cache->clock;
        return 1;
}

/* One unit of `n` bytes, borrowed until the next call. */
static int content_load(RepoManifest *m,
                        EntryClass class,
                        const uint8_t id[ID_SIZE],
                        size_t n,
                        const uint8_t **ret,
                        Failure *reterr) {
        Repo *repo = m->repo;
        uint8_t found[ID_SIZE];
        const Buf *plain = &m->cache.chunk;
        IndexPlace place;
        uint64_t offset = 0;
        int r;

        r = content_guess(m, class, id, n, ret);
        if (r != 0)
                return r < 0 ? r : 0;
        r = index_find(repo->index, id, &place, reterr);
        if (r < 0)
                return r;
        if (r == 0)
                return content_lost(
                        id, "is in no pack that can be read; verify names what is missing", reterr);
        if (place.class != (uint8_t) class || (place.member && class != ENTRY_CLASS_SMALL))
                return content_lost(id, "stands in the index as something else", reterr);

        if (place.member) {
                r = content_bundle(repo, &m->cache, &place, id, &plain, reterr);
                offset = place.member_offset;
        } else {
                m->cache.chunk.max = RECORD_PLAIN_MAX;
                r = pack_read(repo, &place, id, &m->cache.chunk, reterr);
        }
        if (r < 0)
                return r;
        if (place.member ? place.member_size != n || offset + n > plain->size : plain->size != n)
                return content_lost(id, "has another length than its file says", reterr);
        r = crypto_id(repo->crypto, (uint8_t) class, plain->data + offset, n, found);
        if (r < 0)
                return r;
        if (!crypto_equal(found, id, ID_SIZE))
                return content_lost(id, "does not match its id", reterr);
        *ret = plain->data + offset;
        if (place.member)
                m->cache.last_offset = offset + n;
        return 0;
}

typedef int (*ContentSink)(void *, uint64_t, const void *, size_t, Failure *);

static int content_read_run(RepoManifest *m,
                            const Entry *entry,
                            const ContentRun *run,
                            uint64_t offset,
                            ContentSink sink,
                            void *userdata,
                            Failure *reterr) {
        uint32_t unit = chunk_unit(entry->class);

        for (uint64_t i = 0; i < run->n; i++, offset += unit) {
                uint64_t left = entry->size - offset;
                size_t n = left < unit ? (size_t) left : unit;
                const uint8_t *data;
                int r;

                if (repo_is_interrupted(m->repo))
                        return fail_set(reterr, FAIL_CANCELED, ECANCELED, "Canceled");
                r = content_load(m, entry->class, run->ids + i * ID_SIZE, n, &data, reterr);
                if (r == 0)
                        r = sink(userdata, offset, data, n, reterr);
                if (r < 0)
                        return r;
        }
        return 0;
}

int repo_content_read(RepoManifest *m,
                      const Entry *entry,
                      ContentSink sink,
                      void *userdata,
                      Failure *reterr) {
        _cleanup_(content_reader_done) ContentReader c = CONTENT_READER_INIT;
        uint64_t offset = 0;
        ContentRun run;
        int r;

        if (entry->type != ENTRY_FILE || entry->size == 0)
                return 0;
        r = content_reader_open(&c, m->repo, entry, reterr);
        while (r >= 0 && (r = content_reader_next(&c, &run, reterr)) > 0) {
                if (run.kind == RUN_DATA)
                        r = content_read_run(m, entry, &run, offset, sink, userdata, reterr);
                offset += run.n * chunk_unit(entry->class);
        }
        if (r < 0 && reterr && reterr->code == FAIL_INTEGRITY_FAILURE)
                fail_prefix(reterr, "%s/%s", entry->dir, entry->name);
        return r;
}

int repo_content_map(RepoManifest *m,
                     const Entry *entry,
                     int (*on_data)(void *userdata, uint64_t offset, uint64_t n, Failure *reterr),
                     void *userdata,
                     Failure *reterr) {
        _cleanup_(content_reader_done) ContentReader c = CONTENT_READER_INIT;
        uint64_t offset = 0, begin = 0;
        bool in_data = false;
        ContentRun run;
        int r;

        if (entry->type != ENTRY_FILE || entry->size == 0)
                return 0;
        r = content_reader_open(&c, m->repo, entry, reterr);
        while (r >= 0 && (r = content_reader_next(&c, &run, reterr)) > 0) {
                if (run.kind == RUN_DATA && !in_data)
                        begin = offset;
                if (run.kind != RUN_DATA && in_data)
                        r = on_data(userdata, begin, offset - begin, reterr);
                in_data = run.kind == RUN_DATA;
                offset += run.n * chunk_unit(entry->class);
        }
        if (r == 0 && in_data) /* the last unit may be a part of one */
                r = on_data(userdata, begin, entry->size - begin, reterr);
        if (r < 0 && reterr && reterr->code == FAIL_INTEGRITY_FAILURE)
                fail_prefix(reterr, "%s/%s", entry->dir, entry->name);
        return r;
}
