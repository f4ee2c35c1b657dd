#pragma once

/*
 * Manifests, as repo/ itself sees them: writing, and what a reader holds.
 */

#include "repo/content.h"

typedef struct ManifestWriter ManifestWriter;

/* `sink` is borrowed. */
int manifest_writer_new(MetaSink *sink, ManifestWriter **ret);
void manifest_writer_free(ManifestWriter *w);
DEFINE_CLEANUP(ManifestWriter *, manifest_writer_free);

/* Adds an entry; the caller keeps the order. Blocks are stored as they fill. */
int manifest_writer_add(ManifestWriter *w, const Entry *entry, Failure *reterr);

/* Stores the last block and the root. Nothing may be added afterwards. */
int manifest_writer_finish(ManifestWriter *w, Failure *reterr);

/* After finish: the hex checksum, and the members "roots", "blocks", "checksum" of a record. */
const char *manifest_writer_checksum(const ManifestWriter *w);
int manifest_writer_describe(const ManifestWriter *w, json_object *to);

/* Order of (service, dir, name); dir is compared component by component. */
int manifest_compare(const Entry *a, const Entry *b);

/* What a root says of one block. */
typedef struct ManifestBlock {
        const uint8_t *id;
        uint32_t size, n_entries;
        Entry key; /* of its first entry: service, dir, name alone */
} ManifestBlock;

struct RepoManifest {
        Repo *repo;
        uint8_t *roots; /* ids of the root parts */
        size_t n_roots, next_root;
        Buf root;
        Reader blocks;       /* what is left of the current root part */
        Buf block, previous; /* the one before stays, its last key is compared with the next */
        Reader items;
        uint32_t left; /* entries of the block that are still to come */
        Entry current; /* service and dir of the current directory item; the last entry */
        bool has_last;
        bool peeked; /* `next` is the block that comes */
        ManifestBlock next;
        char *seek_service, *seek_dir, *seek_name; /* entries before these are skipped */
        EntryXattr xattrs[ENTRY_XATTRS_MAX];
        ContentCache cache;
        /* Called for each root part and block before it is read; may be NULL. */
        int (*on_record)(void *userdata, uint8_t class, const uint8_t id[ID_SIZE], Failure *reterr);
        void *userdata;
};

/*
 * Between two blocks (manifest_at_block()): what the root says of the next one, borrowed until it
 * is skipped or repo_manifest_next() enters it. 1, 0 at the end, negative errno.
 */
static inline bool manifest_at_block(const RepoManifest *m) {
        return m->left == 0;
}
int manifest_peek_block(RepoManifest *m, const ManifestBlock **ret, Failure *reterr);
void manifest_skip_block(RepoManifest *m); /* the one that was peeked at: it is not read */
