/*
 * One root part, one block and the block before it are in memory, however large the backup. What is
 * read was authenticated, but not by whom: order, names and counts are checked here once, so that
 * whoever extracts may rely on them.
 */

#include <errno.h>
#include <stdlib.h>

#include "base/text.h"
#include "repo/manifest.h"
#include "repo/varint.h"

#define MANIFEST_ROOTS_MAX   65536
#define MANIFEST_DIR_MAX     65535
#define MANIFEST_SERVICE_MAX 255

static int manifest_bad(Failure *reterr, const char *what) {
        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG, "The manifest is malformed: %s",
                        what);
}

static int manifest_parse_roots(RepoManifest *m, json_object *record, Failure *reterr) {
        json_object *manifest, *roots;
        size_t n;

        if (json_get_object(record, "manifest", &manifest) < 0 ||
            json_get_array(manifest, "roots", &roots) < 0)
                return manifest_bad(reterr, "the record names no roots");
        n = json_object_array_length(roots);
        if (n > MANIFEST_ROOTS_MAX)
                return manifest_bad(reterr, "too many roots");
        m->roots = malloc(n * ID_SIZE + 1);
        if (!m->roots)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                json_object *id = json_object_array_get_idx(roots, i);

                if (!json_object_is_type(id, json_type_string) ||
                    text_unhex(json_object_get_string(id), m->roots + i * ID_SIZE, ID_SIZE) < 0)
                        return manifest_bad(reterr, "a root's id");
        }
        m->n_roots = n;
        return 0;
}

int repo_manifest_open(Repo *repo, json_object *record, RepoManifest **ret, Failure *reterr) {
        _cleanup_(repo_manifest_freep) RepoManifest *m = calloc(1, sizeof(*m));
        int r;

        if (!m)
                return -ENOMEM;
        m->repo = repo;
        m->root = m->block = m->previous = BUF_INIT(RECORD_PLAIN_MAX);
        r = manifest_parse_roots(m, record, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(m);
        return 0;
}

/* The wanted place is reached, or another one is wanted. */
static void manifest_seek_done(RepoManifest *m) {
        free(m->seek_service);
        free(m->seek_dir);
        free(m->seek_name);
        m->seek_service = m->seek_dir = m->seek_name = NULL;
}

void repo_manifest_free(RepoManifest *m) {
        if (!m)
                return;
        free(m->roots);
        manifest_seek_done(m);
        buf_done(&m->root);
        buf_done(&m->block);
        buf_done(&m->previous);
        content_cache_done(&m->cache);
        free(m);
}

/* Loads the next root part. 1, 0 after the last, negative errno. */
static int manifest_next_root(RepoManifest *m, Failure *reterr) {
        const uint8_t *id = m->roots + m->next_root * ID_SIZE;
        int r = 0;

        if (m->next_root == m->n_roots)
                return 0;
        if (m->on_record)
                r = m->on_record(m->userdata, CLASS_ROOT, id, reterr);
        if (r == 0)
                r = meta_load(m->repo, CLASS_ROOT, id, &m->root, reterr);
        if (r < 0)
                return r;
        m->blocks = READER_INIT(m->root.data, m->root.size);
        if (m->root.size > ROOT_MAX || reader_u8(&m->blocks) != ROOT_VERSION ||
            reader_left(&m->blocks) == 0)
                return manifest_bad(reterr, "a part of its root");
        m->next_root++;
        return 1;
}

static int manifest_parse_block_item(Reader *from, ManifestBlock *ret, Failure *reterr) {
        ret->id = reader_bytes(from, ID_SIZE);
        ret->size = reader_u32(from);
        ret->n_entries = reader_u32(from);
        ret->key.service = string_get(from, MANIFEST_SERVICE_MAX);
        ret->key.dir = string_get(from, MANIFEST_DIR_MAX);
        ret->key.name = string_get(from, ENTRY_NAME_MAX);
        if (from->failed || ret->n_entries == 0 || ret->size > BLOCK_PLAIN_MAX)
                return manifest_bad(reterr, "an item of its root");
        return 0;
}

/* The next block of the root, which stays valid until the next call. 1, 0, negative errno. */
static int manifest_next_item(RepoManifest *m, ManifestBlock *ret, Failure *reterr) {
        int r;

        if (reader_left(&m->blocks) == 0) {
                r = manifest_next_root(m, reterr);
                if (r <= 0)
                        return r;
        }
        r = manifest_parse_block_item(&m->blocks, ret, reterr);
        return r < 0 ? r : 1;
}

int manifest_peek_block(RepoManifest *m, const ManifestBlock **ret, Failure *reterr) {
        int r;

        if (!m->peeked) {
                r = manifest_next_item(m, &m->next, reterr);
                if (r <= 0)
                        return r;
                m->peeked = true;
        }
        *ret = &m->next;
        return 1;
}

void manifest_skip_block(RepoManifest *m) {
        m->peeked = false;
}

/* Takes a directory item; an entry must follow. */
static int manifest_take_dir(RepoManifest *m, Failure *reterr) {
        const char *service = string_get(&m->items, MANIFEST_SERVICE_MAX);
        const char *dir = string_get(&m->items, MANIFEST_DIR_MAX);

        if (m->items.failed || service[0] == 0 || strchr(service, '/') ||
            !text_is_clean_path(dir) || reader_u8(&m->items) != ITEM_ENTRY)
                return manifest_bad(reterr, "a directory");
        m->current.service = service;
        m->current.dir = dir;
        return 0;
}

/* Decodes the next entry of the block into m->current, and checks that it comes after the last. */
static int manifest_take_entry(RepoManifest *m, bool first, Failure *reterr) {
        Entry last = m->current, e;
        uint8_t tag = reader_u8(&m->items);
        int r;

        if (tag == ITEM_DIRECTORY)
                r = manifest_take_dir(m, reterr);
        else if (tag == ITEM_ENTRY && !first)
                r = 0;
        else
                r = manifest_bad(reterr, "an item of a block");
        if (r < 0)
                return r;
        r = entry_decode(&m->items, &e, m->xattrs);
        if (r < 0)
                return manifest_bad(reterr, "an entry");
        e.service = m->current.service;
        e.dir = m->current.dir;
        if (e.type == ENTRY_FILE && e.size > 0 && !content_is_valid(&e))
                return manifest_bad(reterr, "the list of chunks of a file");
        if (m->has_last && manifest_compare(&last, &e) >= 0)
                return manifest_bad(reterr, "entries are not in order");
        m->current = e;
        m->has_last = true;
        m->left--;
        if (m->left == 0 && reader_left(&m->items) > 0)
                return manifest_bad(reterr, "a block is longer than its root says");
        return 0;
}

/* Loads the next block and takes its first entry. 1, 0 at the end, negative errno. */
static int manifest_next_block(RepoManifest *m, Failure *reterr) {
        const ManifestBlock *next;
        Buf swap;
        int r;

        do {
                r = manifest_peek_block(m, &next, reterr);
                if (r <= 0)
                        return r;
                m->peeked = false;
                r = m->on_record ? m->on_record(m->userdata, CLASS_BLOCK, next->id, reterr) : 0;
        } while (r > 0);
        swap = m->previous;
        m->previous = m->block;
        m->block = swap;
        if (r == 0)
                r = meta_load(m->repo, CLASS_BLOCK, next->id, &m->block, reterr);
        if (r < 0)
                return r;
        m->items = READER_INIT(m->block.data, m->block.size);
        m->left = next->n_entries;
        if (m->block.size != next->size || reader_u8(&m->items) != BLOCK_VERSION)
                return manifest_bad(reterr, "a block is not what its root says");
        r = manifest_take_entry(m, true, reterr);
        if (r < 0)
                return r;
        if (manifest_compare(&m->current, &next->key) != 0)
                return manifest_bad(reterr, "a block does not begin as its root says");
        return 1;
}

static bool manifest_is_before_seek(const RepoManifest *m) {
        int r;

        if (!m->seek_service)
                return false;
        r = strcmp(m->current.service, m->seek_service);
        if (r != 0 || !m->seek_dir)
                return r < 0;
        r = text_path_compare(m->current.dir, m->seek_dir);
        return r < 0 || (r == 0 && m->seek_name && strcmp(m->current.name, m->seek_name) < 0);
}

int repo_manifest_next(RepoManifest *m, const Entry **ret, Failure *reterr) {
        int r;

        do {
                if (m->left > 0) {
                        r = manifest_take_entry(m, false, reterr);
                        r = r < 0 ? r : 1;
                } else
                        r = manifest_next_block(m, reterr);
                if (r <= 0)
                        return r;
        } while (manifest_is_before_seek(m));

        manifest_seek_done(m);
        *ret = &m->current;
        return 1;
}

static void manifest_rewind(RepoManifest *m) {
        manifest_seek_done(m);
        m->peeked = false;
        m->next_root = 0;
        m->left = 0;
        m->has_last = false;
        m->blocks = m->items = READER_INIT((const uint8_t *) NULL, 0);
}

/* Moves the root's reader before the last block that begins before the wanted place. */
static int manifest_seek_root(RepoManifest *m, const Entry *wanted, Failure *reterr) {
        size_t root = 0, offset = 0;
        bool found = false;
        int r;

        for (;;) {
                ManifestBlock item;
                size_t at;

                r = manifest_next_item(m, &item, reterr);
                if (r < 0)
                        return r;
                if (r == 0 || manifest_compare(&item.key, wanted) >= 0)
                        break;
                at = (size_t) (item.id - m->root.data);
                found = true;
                root = m->next_root - 1;
                offset = at;
        }

        if (m->next_root == 0)
                return 0; /* an empty manifest */
        if (!found || root != m->next_root - 1) {
                m->next_root = root;
                r = manifest_next_root(m, reterr);
                if (r < 0)
                        return r;
        }
        if (found)
                m->blocks = READER_INIT(m->root.data + offset, m->root.size - offset);
        else
                m->blocks = READER_INIT(m->root.data + 1, m->root.size - 1);
        return 0;
}

static int manifest_seek(RepoManifest *m,
                         const char *service,
                         const char *dir,
                         const char *name,
                         Failure *reterr) {
        Entry wanted = { .service = service, .dir = dir ? dir : "/", .name = name ? name : "" };
        int r;

        manifest_rewind(m);
        if (!service)
                return 0;
        r = manifest_seek_root(m, &wanted, reterr);
        if (r < 0)
                return r;
        m->seek_service = strdup(service);
        m->seek_dir = dir ? strdup(dir) : NULL;
        m->seek_name = name ? strdup(name) : NULL;
        return m->seek_service && (!dir || m->seek_dir) && (!name || m->seek_name) ? 0 : -ENOMEM;
}

int repo_manifest_seek(RepoManifest *m, const char *service, const char *dir, Failure *reterr) {
        return manifest_seek(m, service, dir, NULL, reterr);
}

int repo_manifest_find(RepoManifest *m,
                       const char *service,
                       const char *dir,
                       const char *name,
                       const Entry **ret,
                       Failure *reterr) {
        const Entry wanted = { .service = service, .dir = dir, .name = name };
        int r = manifest_seek(m, service, dir, name, reterr);

        if (r >= 0)
                r = repo_manifest_next(m, ret, reterr);
        return r <= 0 ? r : manifest_compare(*ret, &wanted) == 0;
}

typedef struct WalkIds {
        int (*on_id)(void *userdata, uint8_t class, const uint8_t id[ID_SIZE], Failure *reterr);
        void *userdata;
} WalkIds;

static int manifest_walk_record(void *userdata, uint8_t class, const uint8_t *id, Failure *reterr) {
        WalkIds *walk = userdata;

        return walk->on_id(walk->userdata, class, id, reterr);
}

static int manifest_walk_list(void *userdata, const uint8_t *id, Failure *reterr) {
        return manifest_walk_record(userdata, CLASS_LIST, id, reterr);
}

static int manifest_walk_content(Repo *repo, const Entry *e, WalkIds *walk, Failure *reterr) {
        _cleanup_(content_reader_done) ContentReader c = CONTENT_READER_INIT;
        ContentRun run;
        int r;

        c.on_list = manifest_walk_list;
        c.userdata = walk;
        r = content_reader_open(&c, repo, e, reterr);
        if (r < 0)
                return r;
        while ((r = content_reader_next(&c, &run, reterr)) > 0)
                for (uint64_t i = 0; run.ids && i < run.n; i++) {
                        r = walk->on_id(walk->userdata, (uint8_t) e->class, run.ids + i * ID_SIZE,
                                        reterr);
                        if (r < 0)
                                return r;
                }
        return r;
}

int manifest_walk_ids(
        Repo *repo,
        json_object *record,
        int (*on_id)(void *userdata, uint8_t class, const uint8_t id[ID_SIZE], Failure *reterr),
        void *userdata,
        Failure *reterr) {
        _cleanup_(repo_manifest_freep) RepoManifest *m = NULL;
        WalkIds walk = { .on_id = on_id, .userdata = userdata };
        const Entry *e;
        int r;

        r = repo_manifest_open(repo, record, &m, reterr);
        if (r < 0)
                return r;
        m->on_record = manifest_walk_record;
        m->userdata = &walk;
        while ((r = repo_manifest_next(m, &e, reterr)) > 0) {
                if (e->type != ENTRY_FILE || e->size == 0)
                        continue;
                r = manifest_walk_content(repo, e, &walk, reterr);
                if (r < 0) {
                        fail_prefix(reterr, "%s/%s", e->dir, e->name);
                        return r;
                }
        }
        return r;
}
