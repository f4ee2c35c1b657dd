#pragma once

/*
 * What a backup reads: the configured paths of its services, the volumes they lie on, the databases
 * in them.
 */

#include "archive/arc.h"
#include "base/text.h"
#include "snapshot/hold.h"
#include "snapshot/snapshot.h"
#include "worker/work.h"

#define SOURCE_DATABASES_MAX 500
#define SOURCE_PROBLEMS_MAX  100

typedef struct SourcePath {
        size_t service; /* index into Source.services */
        const char *path;
        size_t volume; /* index into Source.volumes */
        TreeKind kind;
} SourcePath;

/* A file beside its lock, journal and log: (present, inode, size, mtime, ctime) before recovery. */
typedef struct SourceFileState {
        bool present;
        uint64_t ino, size, mtime_nsec, ctime_nsec;
} SourceFileState;

typedef struct SourceDatabase {
        char *path; /* live */
        char *name; /* last component, in `path` */
        size_t service, volume;
        int live_dirfd;
        uint64_t ino;  /* of the file that is held; another one in the image was not */
        uint64_t size; /* when it was found */
        uid_t uid;
        gid_t gid;
        bool copy; /* captured by online backup instead of in the image */

        /* filled as the backup goes on */
        SourceFileState state[3]; /* NAME, -wal, -journal, in the image before recovery */
        bool unchanged;           /* since the base: its content is reused unread */
        bool found;               /* the walk met it */
        bool gone;                /* not in the image any more */
        bool hot;                 /* its journal counts, and perhaps a super-journal elsewhere */
        int copy_fd;              /* `copy`: an unlinked file with the copy */
        uint64_t copy_size;
        HoldVerdict verdict;
        uint64_t checked_usec;
        bool failed; /* could not be recovered or copied: the backup is partial */
} SourceDatabase;

typedef struct SourceService {
        const ConfigService *config;
        Globs *rules;
        bool uses_image;       /* all its paths lie in snapshots */
        bool online;           /* some database is copied, so the image is not what is archived */
        bool unheld;           /* has a database that nobody held: new, or one too many */
        uint64_t files, bytes; /* what the discovery counted */
        char states_of[UUID_TEXT_MAX]; /* the backup that the remembered states belong to, or "" */
        Failure fallback; /* why a path of it on a logical volume has no snapshot; or no code */
} SourceService;

/* What the image does not show, seen in the live tree: the backup is partial. */
typedef struct SourceProblem {
        size_t service;
        char *path;
        Failure why;
        bool walk_tells; /* but for a backup of databases alone, which walks past it */
} SourceProblem;

/* A service that was asked for and is not in the backup: the others are, and it is partial. */
typedef struct SourceRefusal {
        const ConfigService *config;
        Failure why;
} SourceRefusal;

typedef struct Source {
        SourceService *services; /* sorted by name */
        size_t n_services;
        SourcePath *paths;
        size_t n_paths;
        Volume **volumes;
        size_t n_volumes;
        SourceDatabase *databases;
        size_t n_databases;
        HoldDatabase *holds; /* one per database, same order */
        SourceProblem *problems;
        size_t n_problems;
        SourceRefusal *refused; /* room for all services */
        size_t n_refused;
} Source;

/*
 * Finds paths and volumes of the named services, and refuses those where that fails.
 * FAIL_NO_SUCH_SERVICE; FAIL_SOURCE_MISSING, FAIL_SNAPSHOT_FAILED or FAIL_NO_SPACE if none is left.
 */
int source_open(Work *w, json_object *services, Source *ret, Failure *reterr);
void source_close(Source *s); /* what is open of the live data; names and facts stay */
void source_done(Source *s);

/* Snapshot= of a service as the providers name it. */
SnapshotKind source_snapshot_kind(const ConfigService *c);

/*
 * Looks through the live trees for databases and counts what is there: nothing is locked, no
 * content is read but the first bytes of what may be a database. A nested subvolume refuses the
 * service; a mount, which would be an empty directory in the image, is a problem.
 */
int source_discover(Work *w, Source *s, Failure *reterr);

/* Makes `holds` anew, for the databases that there are. */
int source_make_holds(Source *s, Failure *reterr);

/*
 * Takes service `i` out because of `r` and `why` (worker/source-refuse.c). 0 if the others can go
 * on without it; else r, with `why` in *reterr: what failed is not this service's own affair, or
 * none is left. Indices of services, paths, volumes and databases are other ones afterwards.
 */
int source_refuse(Source *s, size_t i, int r, const Failure *why, Failure *reterr);

/* The same for all services with a path on volume `v`. */
int source_refuse_volume(Source *s, size_t v, int r, const Failure *why, Failure *reterr);

/* The database with this path, or NULL. */
SourceDatabase *source_database(const Source *s, const char *path);

/* How many of the first 16 bytes make a file a database: all of "SQLite format 3" and its NUL. */
bool source_is_sqlite(int fd, uint64_t size);
