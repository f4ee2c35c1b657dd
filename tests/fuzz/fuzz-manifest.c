/*
 * A manifest with its roots, blocks, lists and chunks, stored by the writers of the repository and
 * read as a restore does. The input is a row of records: class, then a piece. In a piece "ID#" and
 * a byte k stand for the id of the k-th record before (32 bytes are replaced), "SZ#" and k for its
 * size.
 */

#include <string.h>

#include "base/text.h"
#include "repo/manifest.h"
#include "tests/fuzz/fuzz-repo.h"

#define RECORDS_MAX 64
#define ENTRIES_MAX 100000

typedef struct Stored {
        uint8_t session[UUID_SIZE];
        PackWriter *content, *meta;
        uint8_t ids[RECORDS_MAX][ID_SIZE];
        uint32_t sizes[RECORDS_MAX];
        size_t n;
        json_object *record, *roots;
        Buf scratch, plain;
} Stored;

static void begin(Stored *s) {
        static uint8_t session[UUID_SIZE];
        static Secret key;
        json_object *manifest = json_object_new_object();

        *s = (Stored){ .scratch = BUF_INIT(RECORD_PLAIN_MAX + 4096),
                       .plain = BUF_INIT(RECORD_PLAIN_MAX) };
        if (!key.data)
                fuzz_assert(keyfile_session_new(fuzz_repo(), session, &key, NULL, NULL) == 0);
        memcpy(s->session, session, UUID_SIZE);
        fuzz_assert(pack_writer_new(fuzz_repo(), PACK_CONTENT, session, &key, PACK_SIZE_MAX,
                                    &s->content, NULL) == 0);
        fuzz_assert(pack_writer_new(fuzz_repo(), PACK_META, session, NULL, PACK_SIZE_MAX, &s->meta,
                                    NULL) == 0);
        s->record = json_object_new_object();
        s->roots = json_object_new_array();
        fuzz_assert(json_put(manifest, "roots", s->roots) == 0);
        fuzz_assert(json_put(s->record, "manifest", manifest) == 0);
}

static void end(Stored *s) {
        pack_writer_abort(s->content);
        pack_writer_abort(s->meta);
        pack_writer_free(s->content);
        pack_writer_free(s->meta);
        json_object_put(s->record);
        buf_done(&s->scratch);
        buf_done(&s->plain);
}

static void fill_in(Stored *s) {
        uint8_t *p = s->plain.data;

        for (size_t i = 0; s->n > 0 && i + 4 <= s->plain.size; i++) {
                size_t k = p[i + 3] % s->n;

                if (memcmp(p + i, "ID#", 3) == 0 && i + ID_SIZE <= s->plain.size)
                        memcpy(p + i, s->ids[k], ID_SIZE);
                else if (memcmp(p + i, "SZ#", 3) == 0)
                        put_le32(p + i, s->sizes[k]);
        }
}

static void store(Stored *s, FuzzInput *in) {
        PackRecord r = { .class = (uint8_t) (fuzz_u8(in) % CLASS_ROOT + 1) };
        FuzzInput content = fuzz_piece(in);
        char hex[2 * ID_SIZE + 1];
        IndexPlace place;

        if (content.size == 0)
                return;
        buf_clear(&s->plain);
        fuzz_assert(buf_put(&s->plain, content.data, content.size) == 0);
        if (r.class >= CLASS_LIST)
                fill_in(s);
        r.data = s->plain.data;
        r.plain = r.size = (uint32_t) s->plain.size;
        fuzz_assert(crypto_id(fuzz_repo()->crypto, r.class, r.data, r.size, r.id) == 0);
        if (index_find(fuzz_repo()->index, r.id, &place, NULL) == 0)
                fuzz_assert(pack_store(r.class >= CLASS_LIST ? s->meta : s->content,
                                       fuzz_repo()->crypto, &r, &s->scratch, NULL) == 0);
        memcpy(s->ids[s->n], r.id, ID_SIZE);
        s->sizes[s->n++] = r.size;
        if (r.class != CLASS_ROOT)
                return;
        text_hex(r.id, ID_SIZE, hex);
        fuzz_assert(json_object_array_add(s->roots, json_object_new_string(hex)) == 0);
}

typedef struct Got {
        const Entry *entry;
        uint64_t end;
} Got;

static int
on_content(void *userdata, uint64_t offset, const void *data, size_t n, Failure *reterr) {
        Got *got = userdata;

        fuzz_assert(data && n > 0 && offset >= got->end);
        fuzz_assert(n <= got->entry->size && offset <= got->entry->size - n);
        got->end = offset + n;
        return 0;
}

static int on_data(void *userdata, uint64_t offset, uint64_t n, Failure *reterr) {
        Got *got = userdata;

        fuzz_assert(n > 0 && offset >= got->end);
        fuzz_assert(n <= got->entry->size && offset <= got->entry->size - n);
        got->end = offset + n;
        return 0;
}

/* Reads on to the end or the first damage. */
static void read_all(RepoManifest *m, bool with_content) {
        char last_service[256] = "", *last_dir = NULL, last_name[ENTRY_NAME_MAX + 1] = "";
        Failure why = FAILURE_INIT;
        const Entry *e;
        unsigned n = 0;
        int r;

        while ((r = repo_manifest_next(m, &e, &why)) > 0 && n < ENTRIES_MAX) {
                Entry last = { .service = last_service, .dir = last_dir, .name = last_name };
                Got got = { .entry = e };

                fuzz_assert(text_is_clean_path(e->dir) && *e->service && !strchr(e->name, '/'));
                fuzz_assert(!last_dir || manifest_compare(&last, e) < 0);
                if (with_content && e->type == ENTRY_FILE) {
                        (void) repo_content_map(m, e, on_data, &got, NULL);
                        got.end = 0;
                        (void) repo_content_read(m, e, on_content, &got, NULL);
                }
                free(last_dir);
                last_dir = strdup(e->dir);
                fuzz_assert(last_dir && strlen(e->service) < sizeof(last_service));
                (void) strcpy(last_service, e->service);
                (void) strcpy(last_name, e->name);
                n++;
        }
        fuzz_assert(r >= 0 || (why.code != FAIL_NONE && *why.text));
        free(last_dir);
}

static int on_id(void *userdata, uint8_t class, const uint8_t id[ID_SIZE], Failure *reterr) {
        fuzz_assert(class >= CLASS_LARGE && class <= CLASS_ROOT);
        return 0;
}

static int on_difference(void *userdata, const RepoDifference *d, Failure *reterr) {
        unsigned *n = userdata;

        fuzz_assert(d->before || d->after);
        *n += 1;
        return 0;
}

/* The first root part alone against all of them, and all against themselves. */
static void compare(Stored *s) {
        _cleanup_(repo_manifest_freep) RepoManifest *all = NULL, *same = NULL, *first = NULL;
        _cleanup_json_ json_object *record = json_object_new_object();
        json_object *manifest = json_object_new_object(), *roots = json_object_new_array();
        unsigned n = 0;

        if (json_object_array_length(s->roots) > 0)
                fuzz_assert(json_object_array_add(roots, json_object_get(json_object_array_get_idx(
                                                                 s->roots, 0))) == 0);
        fuzz_assert(json_put(manifest, "roots", roots) == 0);
        fuzz_assert(json_put(record, "manifest", manifest) == 0);
        fuzz_assert(repo_manifest_open(fuzz_repo(), s->record, &all, NULL) == 0);
        fuzz_assert(repo_manifest_open(fuzz_repo(), s->record, &same, NULL) == 0);
        fuzz_assert(repo_manifest_open(fuzz_repo(), record, &first, NULL) == 0);
        if (repo_manifest_diff(all, same, NULL, on_difference, NULL, &n, NULL) >= 0)
                fuzz_assert(n == 0);
        (void) repo_manifest_diff(first, all, NULL, on_difference, NULL, &n, NULL);
        (void) repo_manifest_diff(all, first, "main", on_difference, NULL, &n, NULL);
}

static void use(Stored *s) {
        static const char *const dirs[] = { NULL, "/", "/srv/app", "/srv/app/b", "/zz" };
        _cleanup_(repo_manifest_freep) RepoManifest *m = NULL;
        const Entry *e;

        fuzz_assert(repo_manifest_open(fuzz_repo(), s->record, &m, NULL) == 0);
        read_all(m, true);
        for (size_t i = 0; i < ELEMENTSOF(dirs); i++)
                if (repo_manifest_seek(m, "main", dirs[i], NULL) >= 0)
                        read_all(m, false);
        if (repo_manifest_find(m, "main", "/srv/app", "b", &e, NULL) > 0)
                fuzz_assert(strcmp(e->name, "b") == 0 && strcmp(e->dir, "/srv/app") == 0);
        compare(s);
        (void) manifest_walk_ids(fuzz_repo(), s->record, on_id, NULL, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzInput in = { data, size };
        Stored s;
        int before;

        (void) fuzz_repo();
        before = fuzz_next_fd();
        begin(&s);
        while (in.size > 0 && s.n < RECORDS_MAX)
                store(&s, &in);
        fuzz_assert(pack_writer_finish(s.content, NULL) == 0);
        fuzz_assert(pack_writer_finish(s.meta, NULL) == 0);
        use(&s);
        end(&s);
        pack_cache_free(TAKE_PTR(fuzz_repo()->packs));
        fuzz_assert(fuzz_next_fd() == before);
        return 0;
}
