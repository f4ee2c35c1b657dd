#pragma once

/*
 * The base state of a service: what its last backup saw, entry by entry in manifest order, with the
 * local facts (inode, ctime) that the repository does not keep and the content that it does. A
 * cache: every doubt about it ends in reading the source again.
 *
 * File base/SERVICE: frames of [u32 length, u32 CRC-32C, payload]; the first holds magic, backup id
 * and signature, each further one begins with a directory, so that a damaged frame loses only
 * itself.
 */

#include "base/entry.h"
#include "base/fail.h"

typedef struct BaseReader BaseReader;
typedef struct BaseWriter BaseWriter;

/* Opens the base of `service`; NULL in *ret if there is none that can be believed. 0 or -ENOMEM. */
int base_reader_open(int base_dirfd, const char *service, BaseReader **ret);
void base_reader_free(BaseReader *b);

const char *base_reader_backup(const BaseReader *b);    /* the backup that wrote it */
const char *base_reader_signature(const BaseReader *b); /* the paths and rules it was made with */

/*
 * The entry of dir/name: 1 and borrowed results (until the next call), else 0. Questions come in
 * manifest order: the file is read once, in step.
 */
int base_reader_find(BaseReader *b,
                     const char *dir,
                     const char *name,
                     Entry *ret,
                     EntryLocal *ret_local);

int base_writer_new(int base_dirfd,
                    const char *service,
                    const char *backup_id,
                    const char *signature,
                    BaseWriter **ret,
                    Failure *reterr);
int base_writer_add(BaseWriter *b, const Entry *entry, const EntryLocal *local, Failure *reterr);

/* Makes it the base. Not synced: a torn one is found by its checksums. */
int base_writer_commit(BaseWriter *b, Failure *reterr);
void base_writer_free(BaseWriter *b); /* removes what was not committed; NULL is fine */
