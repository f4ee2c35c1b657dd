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
        char *seek_service, *seek_dir; /* entries before these are skipped */
        EntryXattr xattrs[ENTRY_XATTRS_MAX];
        ContentCache cache;
        /* Called for each root part and block before it is read; may be NULL. */
        int (*on_record)(void *userdata, uint8_t class, const uint8_t id[ID_SIZE], Failure *reterr);
        void *userdata;
};
