/*
 * A session is one run that may become a backup. The order on disk is what makes it one: session
 * key, packs, syncfs, record. Until the record is in place everything here can vanish without a
 * trace, and repo_session_free() makes it so.
 */

#include "repo/session.h"

#include <errno.h>
#include <stdlib.h>

#include "base/text.h"
#include "repo/chunk.h"

/*
 * Entries that wait: beyond this the open bundle is closed and the pipeline emptied. A full ring of
 * bundles has about 7000 of them, which must not be the limit.
 */
#define SESSION_PENDING_MAX      16384
#define SESSION_PENDING_COST_MAX ((size_t) 8 << 20)
#define SESSION_HIGH_LEVEL       7 /* from here on compression takes much memory for each thread */

static int session_work(void *userdata, unsigned thread, PipeBuffer *b, Failure *reterr) {
        RepoSession *s = userdata;

        return ingest_work(s->ingest, thread, b, reterr);
}

static int session_write(void *userdata, PipeOutput *out, Failure *reterr) {
        RepoSession *s = userdata;

        return ingest_write(s->ingest, out, reterr);
}

static int session_on_retire(void *userdata, PipeBuffer *b, Failure *reterr) {
        RepoSession *s = userdata;

        return session_retire(s, b, reterr);
}

static int session_make_parts(RepoSession *s, Failure *reterr) {
        static const PipeOps ops = { session_work, session_write, session_on_retire };
        unsigned threads = pipeline_threads();
        int r;

        if (s->params.level >= SESSION_HIGH_LEVEL && threads > 2)
                threads = 2;
        r = pack_writer_new(s->repo, PACK_CONTENT, s->id, &s->key, s->params.pack_bytes,
                            &s->content, reterr);
        if (r == 0)
                r = pack_writer_new(s->repo, PACK_META, s->id, NULL, s->params.pack_bytes, &s->meta,
                                    reterr);
        if (r == 0)
                r = ingest_new(s->repo, s->content, s->params.level, &s->ingest);
        if (r == 0)
                r = pipeline_new(&ops, s, threads, &s->pipeline);
        if (r == 0) /* level 0 means the content */
                r = compress_new(s->params.level > 0 ? s->params.level : 1, &s->compressor);
        if (r < 0)
                return r;
        ingest_attach(s->ingest, s->pipeline);
        s->sink = (MetaSink){
                .repo = s->repo,
                .writer = s->meta,
                .compressor = s->compressor,
                .pipeline = s->pipeline,
        };
        return manifest_writer_new(&s->sink, &s->manifest);
}

int repo_session_begin(Repo *repo,
                       const RepoSessionParams *params,
                       RepoSession **ret,
                       Failure *reterr) {
        _cleanup_(repo_session_freep) RepoSession *s = NULL;
        int r;

        if (!repo->writer)
                return fail_set(reterr, FAIL_INTERNAL, EPERM, "A session needs the writer's lock");
        if (params->level > 9)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "Compression level %u is not between 0 and 9", params->level);
        s = calloc(1, sizeof(*s));
        if (!s)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "A session cannot be begun");
        s->repo = repo;
        s->params = *params;
        r = keyfile_session_new(repo, s->id, &s->key, &s->session_bytes, reterr);
        if (r == 0)
                r = session_make_parts(s, reterr);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "A session cannot be begun");
        *ret = TAKE_PTR(s);
        return 0;
}

static int session_key(Buf *to, const Entry *e, Entry *ret) {
        size_t service = strlen(e->service) + 1, dir = strlen(e->dir) + 1;
        int r;

        buf_clear(to);
        r = buf_put(to, e->service, service);
        if (r == 0)
                r = buf_put(to, e->dir, dir);
        if (r == 0)
                r = buf_put(to, e->name, strlen(e->name) + 1);
        if (r < 0)
                return r;
        *ret = (Entry){
                .service = (const char *) to->data,
                .dir = (const char *) to->data + service,
                .name = (const char *) to->data + service + dir,
        };
        return 0;
}

/* Refuses early what could not be recorded later: order, names, attributes. */
static int session_check_entry(RepoSession *s, const Entry *entry, Failure *reterr) {
        Entry bare = *entry;
        int r;

        if (!entry->service || !entry->dir || !entry->name ||
            !text_is_service_name(entry->service) || !text_is_clean_path(entry->dir))
                return fail_set(reterr, FAIL_INTERNAL, EINVAL, "An entry without service or path");
        bare.size = 0;
        buf_clear(&s->probe);
        r = entry_encode(&s->probe, &bare);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "%s/%s cannot be recorded", entry->dir,
                                  entry->name);
        if (s->has_newest && manifest_compare(&s->newest, entry) >= 0)
                return fail_set(reterr, FAIL_INTERNAL, EINVAL, "%s/%s comes out of order",
                                entry->dir, entry->name);
        return 0;
}

static int session_begin_entry(RepoSession *s, const Entry *entry, Failure *reterr) {
        if (s->error < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -s->error,
                                  "The session has failed before");
        if (s->finished)
                return fail_set(reterr, FAIL_INTERNAL, EINVAL, "The session is finished");
        return session_check_entry(s, entry, reterr);
}

/* The entry is recorded, or will be: the next one must come after it. */
static int session_end_entry(RepoSession *s, const Entry *entry, Failure *reterr) {
        int r;

        r = session_key(&s->order, entry, &s->newest);
        if (r < 0)
                return r;
        s->has_newest = true;
        r = session_drain_queue(s, reterr);
        if (r < 0)
                return r;
        if (s->n_pending <= SESSION_PENDING_MAX && s->pending_cost <= SESSION_PENDING_COST_MAX)
                return 0;
        r = session_flush_bundle(s, reterr);
        return r < 0 ? r : pipeline_drain(s->pipeline, reterr);
}

/* An error that is not the entry's own ends the session. */
static int session_fail(RepoSession *s, int r) {
        if (r < 0)
                s->error = r;
        return r;
}

static int session_add_content(RepoSession *s,
                               const Entry *entry,
                               const EntryLocal *local,
                               int fd,
                               bool stable,
                               Failure *reterr) {
        Pending *p;
        int r;

        r = pending_new(entry, local, &p);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "%s/%s", entry->dir, entry->name);
        p->open = true;
        session_enqueue(s, p);
        r = session_read_file(s, p, fd, stable, reterr);
        p->open = false;
        p->dropped = r != 0;
        return r;
}

static int
session_add_bare(RepoSession *s, const Entry *entry, const EntryLocal *local, Failure *reterr) {
        Entry bare = *entry;
        Pending *p;
        int r;

        bare.size = 0;
        bare.class = ENTRY_CLASS_NONE;
        bare.content = NULL;
        bare.content_size = 0;
        if (!s->first)
                return session_emit(s, &bare, local, reterr);
        r = pending_new(&bare, local, &p);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "%s/%s", entry->dir, entry->name);
        session_enqueue(s, p);
        return 0;
}

int repo_session_add(RepoSession *s,
                     const Entry *entry,
                     const EntryLocal *local,
                     int fd,
                     bool stable,
                     Failure *reterr) {
        int r;

        r = session_begin_entry(s, entry, reterr);
        if (r < 0)
                return r;
        if (entry->type == ENTRY_FILE && entry->size > 0) {
                if (fd < 0 || (stable && !local) || entry->size > INT64_MAX)
                        return fail_set(reterr, FAIL_INTERNAL, EINVAL, "%s/%s has no source",
                                        entry->dir, entry->name);
                r = session_add_content(s, entry, local, fd, stable, reterr);
        } else
                r = session_add_bare(s, entry, local, reterr);
        if (r > 0) { /* what is complete before it need not wait */
                int q = session_drain_queue(s, NULL);

                return q < 0 ? session_fail(s, q) : r;
        }
        if (r == 0)
                r = session_end_entry(s, entry, reterr);
        return session_fail(s, r);
}

/* A list that is read from a damaged pack is well, but another one may not be: it is made again. */
static int on_reused_list(void *userdata, const uint8_t *id, Failure *reterr) {
        RepoSession *s = userdata;
        IndexPlace place;
        int r = index_find_sound(s->repo->index, id, &place, reterr);

        if (r == 0)
                r = fail_set(reterr, FAIL_INTEGRITY_FAILURE, ENOENT, "A list of chunks is gone");
        return r < 0 ? r : 0;
}

/* 0 if all chunks of the entry can be found, REPO_E_MISSING, negative errno. */
static int session_verify_content(RepoSession *s, const Entry *entry, Failure *reterr) {
        _cleanup_(content_reader_done) ContentReader c = CONTENT_READER_INIT;
        Failure failure = FAILURE_INIT;
        IndexPlace place;
        ContentRun run;
        int r;

        c.on_list = on_reused_list;
        c.userdata = s;
        r = content_reader_open(&c, s->repo, entry, &failure);
        while (r >= 0 && (r = content_reader_next(&c, &run, &failure)) > 0)
                for (uint64_t i = 0; run.ids && i < run.n; i++) {
                        r = index_find_sound(s->repo->index, run.ids + i * ID_SIZE, &place, reterr);
                        if (r < 0)
                                return r;
                        if (r == 0)
                                return REPO_E_MISSING;
                }
        if (r < 0 && failure.code == FAIL_INTEGRITY_FAILURE)
                return REPO_E_MISSING; /* a list of chunks is gone, or damaged */
        if (r < 0 && reterr && reterr->code == FAIL_NONE)
                *reterr = failure;
        return r;
}

static int
session_put_reused(RepoSession *s, const Entry *entry, const EntryLocal *local, Failure *reterr) {
        Pending *p;
        int r;

        if (!s->first)
                return session_emit(s, entry, local, reterr);
        r = pending_new(entry, local, &p);
        if (r == 0 && entry->content_size > 0)
                r = buf_put(&p->content, entry->content, entry->content_size);
        if (r < 0) {
                pending_freep(&p);
                return fail_errno(reterr, FAIL_INTERNAL, -r, "%s/%s", entry->dir, entry->name);
        }
        p->given = true;
        p->cost += entry->content_size;
        session_enqueue(s, p);
        return 0;
}

int repo_session_reuse(RepoSession *s,
                       const Entry *entry,
                       const EntryLocal *local,
                       bool verify,
                       Failure *reterr) {
        bool content = entry->type == ENTRY_FILE && entry->size > 0;
        int r;

        r = session_begin_entry(s, entry, reterr);
        if (r < 0)
                return r;
        if (content && !content_is_valid(entry))
                return REPO_E_MISSING; /* base state that makes no sense: read the file again */
        if (content && verify) {
                pipeline_lock(s->pipeline);
                r = session_verify_content(s, entry, reterr);
                pipeline_unlock(s->pipeline);
                if (r != 0)
                        return session_fail(s, r);
        }
        r = session_put_reused(s, entry, local, reterr);
        if (r == 0 && content)
                session_count(s, entry->size);
        if (r == 0)
                r = session_end_entry(s, entry, reterr);
        return session_fail(s, r);
}

static int session_finish(RepoSession *s, Failure *reterr) {
        int r;

        r = session_flush_bundle(s, reterr);
        if (r == 0)
                r = pipeline_drain(s->pipeline, reterr);
        if (r == 0)
                r = session_drain_queue(s, reterr);
        if (r == 0)
                r = manifest_writer_finish(s->manifest, reterr);
        if (r < 0)
                return r;

        /* Threads and buffers are not needed any more, nor is their mutex. */
        s->sink.pipeline = NULL;
        pipeline_free(TAKE_PTR(s->pipeline));
        ingest_free(TAKE_PTR(s->ingest));
        r = pack_writer_finish(s->content, reterr);
        if (r == 0)
                r = pack_writer_finish(s->meta, reterr);
        return r;
}

int repo_session_finish(RepoSession *s, RepoTotals *ret, Failure *reterr) {
        int r;

        if (s->error < 0 || s->finished)
                return fail_set(reterr, FAIL_INTERNAL, s->error < 0 ? -s->error : EINVAL,
                                "The session has ended before");
        r = session_finish(s, reterr);
        if (r < 0) {
                session_fail(s, r);
                return fail_errno(reterr, FAIL_INTERNAL, -r, "The backup cannot be finished");
        }
        s->finished = true;
        if (s->params.on_bytes && s->handled > s->told)
                s->params.on_bytes(s->params.userdata, s->handled);
        s->totals.new_bytes =
                pack_writer_bytes(s->content) + pack_writer_bytes(s->meta) + s->session_bytes;
        memcpy(s->totals.checksum, manifest_writer_checksum(s->manifest),
               sizeof(s->totals.checksum));
        *ret = s->totals;
        return 0;
}

/* The record: the caller's facts, and what the repository itself knows. */
static int session_make_record(RepoSession *s, json_object *facts, json_object **ret) {
        _cleanup_json_ json_object *record = NULL, *manifest = json_object_new_object();
        char id[UUID_TEXT_MAX];
        int r;

        if (!manifest || json_object_deep_copy(facts, &record, NULL) < 0)
                return -ENOMEM;
        text_uuid_format(s->id, id);
        r = manifest_writer_describe(s->manifest, manifest);
        if (r == 0)
                r = json_put_u64(manifest, "level", s->params.level);
        if (r == 0)
                r = json_put_u64(manifest, "entries", s->totals.entries);
        if (r == 0)
                r = json_put_u64(manifest, "bytes", s->totals.bytes);
        if (r == 0)
                r = json_put(record, "manifest", TAKE_PTR(manifest));
        if (r == 0)
                r = json_put_string(record, "session", id);
        if (r == 0)
                r = json_put_u64(record, "bytes", s->totals.bytes);
        if (r == 0)
                r = json_put_u64(record, "files", s->totals.entries);
        if (r == 0)
                r = json_put_string(record, "checksum", s->totals.checksum);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(record);
        return 0;
}

/* "new_bytes" counts the record that it stands in: its number of digits settles at once. */
static int session_put_new_bytes(RepoSession *s, json_object *record) {
        uint64_t bytes = s->totals.new_bytes;

        for (int i = 0; i < 4; i++) {
                const char *text;
                uint64_t all;
                int r;

                r = json_put_u64(record, "new_bytes", bytes);
                if (r < 0)
                        return r;
                text = json_text(record);
                if (!text)
                        return -ENOMEM;
                all = s->totals.new_bytes + OBJECT_HEADER_SIZE + NONCE_SIZE + strlen(text) +
                      TAG_SIZE + MAC_SIZE;
                if (all == bytes)
                        break;
                bytes = all;
        }
        return 0;
}

/*
 * A record that may or may not be in place after an error must not outlive its packs: it goes
 * first. If not even that works, packs stay, and are garbage at worst.
 */
static void session_withdraw_record(RepoSession *s, const uint8_t uuid[UUID_SIZE]) {
        char name[STORE_NAME_MAX];

        store_object_name(OBJECT_RECORD, uuid, name);
        if (store_delete(s->repo->store, name, NULL) < 0)
                s->committed = true;
}

int repo_session_commit(RepoSession *s,
                        const char *backup_id,
                        json_object *facts,
                        RepoTotals *totals,
                        json_object **ret_record,
                        Failure *reterr) {
        _cleanup_json_ json_object *record = NULL;
        uint8_t uuid[UUID_SIZE];
        uint64_t bytes;
        int r;

        if (s->error < 0 || !s->finished || s->committed)
                return fail_set(reterr, FAIL_INTERNAL, EINVAL, "The session cannot be committed");
        if (text_uuid_parse(backup_id, uuid) < 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "'%s' is no backup id",
                                backup_id);
        if (repo_has_backup(s->repo, backup_id))
                return fail_set(reterr, FAIL_INTERNAL, EEXIST, "Backup %s is there already",
                                backup_id);
        r = session_make_record(s, facts, &record);
        if (r == 0)
                r = session_put_new_bytes(s, record);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "The record of %s cannot be made",
                                  backup_id);

        r = pack_commit(s->repo, s->id, reterr);
        if (r < 0)
                return session_fail(s, r);
        r = object_write(s->repo, OBJECT_RECORD, uuid, record, &bytes, reterr);
        if (r < 0) {
                session_withdraw_record(s, uuid);
                return session_fail(s, r);
        }
        s->committed = true;
        s->totals.new_bytes += bytes;
        *totals = s->totals;
        *ret_record = TAKE_PTR(record);
        return 0;
}

/* Nothing of the run shall stay. What cannot be removed is garbage, which prune finds. */
static void session_abort(RepoSession *s) {
        char name[STORE_NAME_MAX];

        if (s->content)
                pack_writer_abort(s->content);
        if (s->meta)
                pack_writer_abort(s->meta);
        if (s->session_bytes == 0)
                return;
        store_object_name(OBJECT_SESSION, s->id, name);
        (void) store_delete(s->repo->store, name, NULL);
}

void repo_session_free(RepoSession *s) {
        if (!s)
                return;
        pipeline_free(s->pipeline); /* no thread touches anything from here on */
        if (!s->committed)
                session_abort(s);
        while (s->first) {
                Pending *p = s->first;

                s->first = p->next;
                pending_free(p);
        }
        ingest_free(s->ingest);
        manifest_writer_freep(&s->manifest);
        pack_writer_freep(&s->content);
        pack_writer_freep(&s->meta);
        compress_freep(&s->compressor);
        meta_done(&s->sink);
        secret_done(&s->key);
        buf_done(&s->order);
        buf_done(&s->probe);
        free(s);
}
