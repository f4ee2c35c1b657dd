#pragma once

/*
 * Between the two halves of prune: which packs and sessions the backups need (prune-mark.c), and
 * the removal of the rest (prune.c).
 */

#include "repo/repo-internal.h"

/* One pack by its number in the index. */
typedef struct MarkedPack {
        bool used;
        uint8_t *walked; /* a bit per ordinal: this block of a manifest was walked through */
        uint32_t n_walked;
} MarkedPack;

typedef struct Marks {
        Repo *repo;
        const RepoPruneParams *params;
        MarkedPack *packs;
        size_t n_packs;
        Buf backups;  /* uuids of records */
        Buf sessions; /* uuids named by records */
        uint64_t missing, damaged;
        uint64_t done;
        const char *current; /* the backup that is being walked */
} Marks;

/*
 * Marks what every record in the repository needs (but for those of params->without). Missing
 * content is counted; FAIL_INTEGRITY_FAILURE if a record or a manifest cannot be read, each of
 * which was reported before.
 */
int prune_mark(Marks *m, Failure *reterr);
void marks_done(Marks *m);
bool marks_use(const Marks *m, uint64_t pack_no);

/* True if `list` (uuids back to back, in no order) has `uuid`. */
bool uuids_have(const Buf *list, const uint8_t uuid[UUID_SIZE]);
