#pragma once

/*
 * File tree <-> entries. Untrusted input: the tree belongs to the service's user, who may change it
 * while we walk. Everything is relative to directory descriptors, nothing follows a link, no mount
 * is crossed, no FIFO or device is opened.
 */

#include "base/cleanup.h"
#include "base/entry.h"
#include "base/fail.h"
#include "base/globs.h"

/* ---- walk ---- */

typedef struct ArcRoot {
        const char *service;
        const char *path; /* live absolute path: what entries are named by */
        int fd;           /* O_PATH or read descriptor of the directory or file to read; borrowed */
        const Globs *rules; /* may be NULL */
} ArcRoot;

typedef struct ArcSink {
        /*
         * First look at an object, before anything but statx was done: 1 if it is known unchanged
         * and was taken care of (a directory is still descended into), 0 to read it, negative
         * to stop. Not asked for a further name of a file (that entry costs no reading), so what it
         * knows of a file with nlink > 1 must be a file, not a hard link. May be NULL.
         */
        int (*known)(void *userdata,
                     const char *service,
                     const char *dir,
                     const char *name,
                     const EntryLocal *local,
                     Failure *reterr);
        /*
         * A complete entry (class LARGE for files; the sink decides about SQLITE). `fd` is open for
         * reading for a file with a size, else -1; borrowed. Negative stops the walk; positive: it
         * was not recorded (no further name will be a link to it, a directory is not entered).
         */
        int (*entry)(void *userdata,
                     const Entry *entry,
                     const EntryLocal *local,
                     int fd,
                     Failure *reterr);
        /*
         * Something could not be read or is left out (socket, nested subvolume, mount): `path` is
         * absolute. Negative stops the walk.
         */
        int (*problem)(void *userdata, const char *service, const char *path, const Failure *why);
        /* True leaves this object (and all below) out, silently. May be NULL. */
        bool (*skip)(void *userdata, const char *service, const char *dir, const char *name);
        bool (*interrupted)(void *userdata); /* may be NULL */
        void *userdata;
} ArcSink;

/*
 * Walks all roots and emits entries in manifest order: (service, parent directory, name), component
 * by component; a directory's children are one run, then its subdirectories in order. Roots may
 * come in any order and must not overlap. Memory: one directory's names, and the pending
 * subdirectories of each ancestor. A directory named HP_AREA_NAME that is root's alone is left out.
 * Problem codes: FAIL_SOURCE_MISSING (vanished or unreadable), FAIL_SNAPSHOT_FAILED (nested
 * subvolume: st_ino 256 on another device, or the empty stub with inode 2), FAIL_NOT_RESTORABLE
 * (mount, not crossed). Sockets are reported with FAIL_NONE: left out and named. Hard links of all
 * but directories: the first name in order is the object, further ones are ENTRY_HARDLINK with
 * `target` its absolute path, owner, mode and mtime, without flags, xattrs and size. A directory
 * that cannot be recorded is one problem, and nothing below it is handed out. "/" cannot be a root.
 */
int arc_walk(const ArcRoot *roots, size_t n, const ArcSink *sink, Failure *reterr);

/* ---- extract ---- */

typedef struct ArcExtract ArcExtract;

typedef struct ArcExtractParams {
        int parent_fd;    /* the fresh tree's parent: root's, 0700, nobody else in it; borrowed */
        const char *name; /* the tree's root in it; may exist as an empty directory or subvolume */
        /*
         * Writes the content of a file into `fd` (new and empty; a hole at its end may be left to
         * us). Not called for empty files. Negative stops.
         */
        int (*content)(void *userdata, const Entry *entry, int fd, Failure *reterr);
        bool (*interrupted)(void *userdata);
        void *userdata;
} ArcExtractParams;

int arc_extract_new(const ArcExtractParams *params, ArcExtract **ret, Failure *reterr);

/*
 * Makes one object. `path` is relative to the tree's root ("" is the root itself); entries come in
 * manifest order; `link` is, for ENTRY_HARDLINK, the relative path of the file in this tree. Owner,
 * mode, xattrs, ACLs, times, flags are set by descriptor after the content; a directory's times and
 * flags again when its last child is there. Duplicates, a missing or non-directory parent: -EINVAL.
 * Missing ancestors of the very first entries are an error too, unless `make_parents` (then 0700 of
 * the caller's, as is a missing root). A flag or xattr that the file system cannot take is a
 * failure, unless it is harmless there (nodump, noatime, sync, compression; no-copy-on-write where
 * nothing is copied on write).
 */
int arc_extract_put(ArcExtract *x,
                    const char *path,
                    const Entry *entry,
                    const char *link,
                    bool make_parents,
                    Failure *reterr);

/* Finishes all open directories and pending flags. Nothing is synced here: the caller syncfs()es.
 */
int arc_extract_finish(ArcExtract *x, Failure *reterr);
void arc_extract_free(ArcExtract *x); /* NULL is fine; what was made stays */
DEFINE_CLEANUP(ArcExtract *, arc_extract_free);

/* ---- one object, for comparing and copying ---- */

/*
 * The entry of one object by descriptor (O_PATH is enough for anything but a file's flags). Strings
 * and xattrs are owned by `store`, to be freed with arc_stat_done().
 */
typedef struct ArcStat {
        Entry entry;
        EntryLocal local;
        void *store;
} ArcStat;
int arc_stat(int dirfd, const char *name, ArcStat *ret, Failure *reterr);
void arc_stat_done(ArcStat *s);

/*
 * Copies `src_name` with everything below from `src_dirfd` to a new `dst_name` in `dst_dirfd`,
 * metadata and all, data by FICLONE where the file systems allow it, else byte by byte with holes
 * kept. Both are one component. Sockets are left out; a file that changes meanwhile is -EBUSY. Adds
 * to *ret_bytes what was copied byte by byte. Does not cross mounts or subvolumes (-EXDEV).
 */
int arc_copy_tree(int src_dirfd,
                  const char *src_name,
                  int dst_dirfd,
                  const char *dst_name,
                  bool (*interrupted)(void *),
                  void *userdata,
                  uint64_t *ret_bytes,
                  Failure *reterr);

/* FICLONE if possible, else the data extents by copy. 0 or negative errno. */
int arc_copy_content(int src_fd, int dst_fd, uint64_t *ret_copied);
