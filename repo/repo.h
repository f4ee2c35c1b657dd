#pragma once

/*
 * The repository: encrypted, deduplicated, incremental. docs/REPO-FORMAT.md is its twin.
 *
 * A writer begins a session, adds entries in manifest order, commits. A reader opens the manifest
 * of a record and streams entries and content. Not thread-safe towards its caller; threads are its
 * own affair (pipeline.c). All functions may block on the disk.
 */

#include "base/buf.h"
#include "base/bytes.h"
#include "base/entry.h"
#include "base/fail.h"
#include "base/json.h"
#include "base/secret.h"
#include "repo/keys.h"

typedef struct Repo Repo;
typedef struct RepoSession RepoSession;
typedef struct RepoManifest RepoManifest;

/* Positive outcomes. */
enum {
        REPO_E_SOURCE = 1,  /* the source could not be read; nothing was recorded for it */
        REPO_E_CHANGED = 2, /* the source changed while it was read; nothing was recorded */
        REPO_E_MISSING = 3, /* content that was to be reused is no longer in the repository */
};

typedef struct RepoParams {
        const char *path;          /* the repository's directory, absolute */
        KeyPlaces keys;            /* host secret, recipient keys */
        const Secret *private_key; /* given for this job, PEM or wrapped; NULL: as `keys` has it */
        int state_fd; /* the worker's state directory: the index lives there; borrowed */
        bool create;  /* make repository and keys on first use */
        bool writer;  /* REPO_LOCK_WRITER is taken next: not before that is the index synced */
        bool (*interrupted)(void *userdata); /* polled during long work; may be NULL */
        void *userdata;
} RepoParams;

/*
 * Opens (or makes) the repository, checks format and features, brings the index up to date with
 * the packs that are there. FAIL_INTEGRITY_FAILURE for damage, FAIL_NOT_RESTORABLE for a newer
 * format or another host's repository, FAIL_KEY_MISSING without the host secret (which is then
 * recovered from hosts/ if the private key is there or given).
 */
int repo_open(const RepoParams *params, Repo **ret, Failure *reterr);
void repo_close(Repo *repo);
DEFINE_CLEANUP(Repo *, repo_close);

/*
 * The two locks of the repository, by flock on its own directories: writer = backups/ (exclusive),
 * packs = packs/ (shared by all who read or write packs, exclusive for unlinking). Held until
 * repo_close(). Waits up to `timeout_usec` while not interrupted; then FAIL_BUSY.
 */
typedef enum RepoLock {
        REPO_LOCK_WRITER,
        REPO_LOCK_PACKS_SHARED,
        REPO_LOCK_PACKS_EXCLUSIVE
} RepoLock;
int repo_lock(Repo *repo, RepoLock lock, uint64_t timeout_usec, Failure *reterr);

/*
 * True if the record of this backup is there and no pack has vanished since it was committed: then
 * content that a base state of this backup names may be reused without looking it up.
 */
bool repo_base_is_trusted(Repo *repo, const char *backup_id);

/* What opening the repository, and becoming its writer, has put right in what is kept locally. */
typedef struct RepoCorrections {
        const char *index;  /* what was wrong with the index; NULL: nothing */
        bool begun_anew;    /* the index: packs that it relied on are gone */
        uint64_t taken;     /* packs that it did not have */
        uint64_t forgotten; /* packs that it had too many */
        bool suspects_lost; /* the list of damaged packs could not be read */
} RepoCorrections;

RepoCorrections repo_corrections(const Repo *repo);

/*
 * Gives the private key (PEM or wrapped, borrowed) or, with NULL, has it loaded when content is
 * first read. FAIL_KEY_MISSING if it belongs to no recipient of this repository.
 */
int repo_set_private_key(Repo *repo, const Secret *blob, Failure *reterr);

/* Loads that private key now: FAIL_KEY_MISSING before anything was begun. */
int repo_need_private(Repo *repo, Failure *reterr);

/* The absolute path of the record of a backup. Owned. */
char *repo_record_path(Repo *repo, const char *backup_id);
uint64_t repo_free_bytes(Repo *repo);
uint64_t repo_stored_bytes(Repo *repo); /* sum of the sizes of all packs */

/* ---- writing ---- */

typedef struct RepoSessionParams {
        unsigned level;      /* 0-9, the user's scale */
        uint64_t pack_bytes; /* target size of a pack */
        /*
         * Called once for each recorded entry, in manifest order, with its final content: where the
         * next base state is written. A negative result ends the session. May be NULL.
         */
        int (*on_entry)(void *userdata,
                        const Entry *entry,
                        const EntryLocal *local,
                        Failure *reterr);
        /* Called from time to time with bytes of content handled so far; may be NULL. */
        void (*on_bytes)(void *userdata, uint64_t bytes);
        void *userdata;
} RepoSessionParams;

/* Needs REPO_LOCK_WRITER and REPO_LOCK_PACKS_SHARED. The session key is sealed and stored first. */
int repo_session_begin(Repo *repo,
                       const RepoSessionParams *params,
                       RepoSession **ret,
                       Failure *reterr);

/*
 * Adds one entry. Entries come in manifest order: service, then parent directory and name,
 * component by component. For ENTRY_FILE with a size, content is read from `fd` (borrowed, only for
 * the time of the call) with pread, data extents only; entry->class says how it is cut (LARGE is
 * lowered to SMALL by size here; SQLITE is kept). With `stable` true, fstat of fd must match
 * `local` after the reading, else REPO_E_CHANGED. Reading errors are REPO_E_SOURCE with reterr
 * filled; a file shorter than entry->size is REPO_E_CHANGED if stable, else recorded as long as it
 * was. -ECANCELED when interrupted.
 */
int repo_session_add(RepoSession *s,
                     const Entry *entry,
                     const EntryLocal *local,
                     int fd,
                     bool stable,
                     Failure *reterr);

/*
 * Adds an entry whose content stands in entry->content already (from the base state). Chunks are
 * looked up only if `verify`; one that is gone gives REPO_E_MISSING and records nothing.
 */
int repo_session_reuse(RepoSession *s,
                       const Entry *entry,
                       const EntryLocal *local,
                       bool verify,
                       Failure *reterr);

typedef struct RepoTotals {
        uint64_t entries;    /* manifest entries */
        uint64_t bytes;      /* logical bytes of files (a hard-linked file once) */
        uint64_t new_bytes;  /* bytes added to the repository: packs, session, record */
        uint64_t read_bytes; /* bytes read from sources */
        char checksum[65];   /* SHA-256 over the ordered manifest block ids */
} RepoTotals;

/* Ends the stream of entries: all packs and the manifest are written (not yet durable). */
int repo_session_finish(RepoSession *s, RepoTotals *ret, Failure *reterr);

/*
 * Makes it a backup: packs durable (syncfs), then the record (`facts` plus manifest roots, session,
 * totals; borrowed) sealed, renamed into place, directory synced. new_bytes in `totals` gets its
 * final value, and the record that was written is returned (owned).
 */
int repo_session_commit(RepoSession *s,
                        const char *backup_id,
                        json_object *facts,
                        RepoTotals *totals,
                        json_object **ret_record,
                        Failure *reterr);

/* Ends a session without a backup (removes its packs if nothing was committed); NULL is fine. */
void repo_session_free(RepoSession *s);
DEFINE_CLEANUP(RepoSession *, repo_session_free);

/* ---- reading ---- */

/*
 * Streams all records, in no order: `record` owned by the callee for the call, or NULL with
 * `damage` filled for a record that cannot be read. A negative result of `on_record` ends it.
 */
int repo_list(Repo *repo,
              int (*on_record)(void *userdata,
                               const char *id,
                               json_object *record,
                               const Failure *damage),
              void *userdata,
              Failure *reterr);

/* One record, owned. FAIL_NO_SUCH_BACKUP, FAIL_INTEGRITY_FAILURE. */
int repo_record_load(Repo *repo, const char *backup_id, json_object **ret, Failure *reterr);

/* True if the record of this backup is there (nothing is read). */
bool repo_has_backup(Repo *repo, const char *backup_id);

int repo_manifest_open(Repo *repo, json_object *record, RepoManifest **ret, Failure *reterr);
void repo_manifest_free(RepoManifest *m);
DEFINE_CLEANUP(RepoManifest *, repo_manifest_free);

/*
 * Positions before the first entry of `service` (NULL: the beginning) whose parent directory is
 * not before `dir` (NULL: any), using the root's first keys; blocks before it are not read.
 */
int repo_manifest_seek(RepoManifest *m, const char *service, const char *dir, Failure *reterr);

/* 1 and the next entry (borrowed until the next call), 0 at the end, negative errno. */
int repo_manifest_next(RepoManifest *m, const Entry **ret, Failure *reterr);

/*
 * Looks one entry up, at the cost of the block that it would be in: 1 and the entry (borrowed until
 * the next call), 0 if there is none, negative errno. The cursor has moved.
 */
int repo_manifest_find(RepoManifest *m,
                       const char *service,
                       const char *dir,
                       const char *name,
                       const Entry **ret,
                       Failure *reterr);

/* What differs between two backups at one place; `before` or `after` is NULL for what is not there.
 */
typedef struct RepoDifference {
        const Entry *before, *after; /* borrowed for the call */
        bool content;                /* type, bytes, target or device number */
        bool metadata;               /* mode, owner, time, flags, extended attributes */
} RepoDifference;

/*
 * Compares two manifests of one repository, or only what they hold of `service` (NULL: all). Blocks
 * that both have are passed over unread, so equal backups of any size cost their roots.
 * `on_difference` gets what differs in manifest order; `on_progress` (may be NULL) the number of
 * entries done with on both sides. A negative result of either ends it. No private key is needed.
 */
int repo_manifest_diff(RepoManifest *before,
                       RepoManifest *after,
                       const char *service,
                       int (*on_difference)(void *userdata,
                                            const RepoDifference *d,
                                            Failure *reterr),
                       int (*on_progress)(void *userdata, uint64_t entries, Failure *reterr),
                       void *userdata,
                       Failure *reterr);

/*
 * Tells where a file has data, in ascending order, neighbours joined: all else is holes and zero
 * runs. Only lists are read, no content.
 */
int repo_content_map(RepoManifest *m,
                     const Entry *entry,
                     int (*on_data)(void *userdata, uint64_t offset, uint64_t n, Failure *reterr),
                     void *userdata,
                     Failure *reterr);

/*
 * Delivers the content of a file in ascending order of offset; holes and zero runs are left out.
 * Every chunk was opened, checked against its id and lies in memory for the call only.
 */
int repo_content_read(
        RepoManifest *m,
        const Entry *entry,
        int (*sink)(void *userdata, uint64_t offset, const void *data, size_t n, Failure *reterr),
        void *userdata,
        Failure *reterr);

/* ---- upkeep ---- */

typedef struct RepoCheck {
        uint64_t bytes, objects, packs;    /* what was read */
        uint64_t bytes_total, packs_total; /* what there is to read, known after the manifest; bytes
                                              stay 0 with `metadata` */
        uint64_t damaged;                  /* objects found damaged; each was reported */
} RepoCheck;

/*
 * Reads every byte of config, host, session, pin and record and of all packs that the backup uses,
 * and checks each against its MAC or hash; no private key is needed, nothing of the repository is
 * written. With `metadata` the records in content packs are not read: everything else is, and each
 * chunk must be in the directory of a pack. A pack found damaged is remembered in the worker's
 * state, and later backups do not rely on it until a check has found it mended. `on_damage` names
 * each damaged object. FAIL_INTEGRITY_FAILURE if there was one. `on_progress` may be NULL.
 */
int repo_check(Repo *repo,
               const char *backup_id,
               bool metadata,
               void (*on_damage)(void *userdata, const char *object, const Failure *why),
               void (*on_progress)(void *userdata, const RepoCheck *sum),
               void *userdata,
               RepoCheck *ret,
               Failure *reterr);

typedef struct RepoPruneParams {
        bool dry_run;
        const char *const *without; /* dry run: backups that are taken as deleted */
        size_t n_without;
        uint64_t wait_usec; /* for the jobs that read packs */
        /*
         * Names what is damaged. A record among it ("backups/…") makes prune fail; of missing
         * chunks the first are named, and packs that may have them stay. May be NULL.
         */
        void (*on_damage)(void *userdata, const char *object, const Failure *why);
        void (*on_progress)(void *userdata, uint64_t done, uint64_t total); /* backups; or NULL */
        void (*on_removal)(void *userdata); /* packs go now, and nothing stops it; or NULL */
        void *userdata;
} RepoPruneParams;

typedef struct RepoPrune {
        uint64_t packs, freed_bytes; /* removed, or of a dry run: that would be */
        uint64_t condemned;          /* needed by nobody, but a job still reads packs */
        uint64_t sessions;
        uint64_t missing; /* chunks that backups need and no pack has */
} RepoPrune;

/*
 * Removes what no record needs: whole packs, sessions, pins. Which packs are needed is read off all
 * records and their manifests; if one of those is damaged nothing is removed
 * (FAIL_INTEGRITY_FAILURE). Packs are unlinked under the exclusive lock of packs/; if that is not
 * to be had in time they stay, for the next run. Needs REPO_LOCK_WRITER and
 * REPO_LOCK_PACKS_SHARED. Killed anywhere it harms nothing.
 */
int repo_prune(Repo *repo, const RepoPruneParams *params, RepoPrune *ret, Failure *reterr);

/* What there is, for people. */
typedef struct RepoFacts {
        char uuid[40];
        uint64_t packs, sessions, backups, pins;
        uint64_t suspects; /* packs that were found damaged and not mended yet */
        bool read_only;    /* has features of a newer program */
} RepoFacts;
int repo_facts(Repo *repo, RepoFacts *ret, Failure *reterr);

/* Feature names by list ("compat" "ro_compat" "incompat"), as config has them. Owned; NULL. */
json_object *repo_features(Repo *repo);

/* The recipients of keys: a list of {"id", "public" (hex), "label"}. Owned; NULL: no memory. */
json_object *repo_recipients(Repo *repo);

/* Writes or removes the pin of a backup durably. Needs REPO_LOCK_WRITER. */
int repo_pin(Repo *repo, const char *backup_id, bool pinned, Failure *reterr);
bool repo_is_pinned(Repo *repo, const char *backup_id);

/* Removes the record (and pin) durably; packs stay until prune. Needs REPO_LOCK_WRITER. */
int repo_delete(Repo *repo, const char *backup_id, Failure *reterr);

/*
 * The codec of one entry, without service and dir: also the format of the local base state.
 * entry_decode() borrows from the input, which must stay, and from `xattrs`, filled up to `max`.
 */
#define ENTRY_XATTRS_MAX 128
int entry_encode(Buf *to, const Entry *entry);
int entry_decode(Reader *from, Entry *ret, EntryXattr xattrs[ENTRY_XATTRS_MAX]);
