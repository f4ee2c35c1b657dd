#pragma once

/*
 * The sink between the walk of the image and the repository's session: reuses what the base knows,
 * reads what changed, cuts databases as such, keeps what could not be read.
 */

#include "repo/repo.h"
#include "worker/base-state.h"
#include "worker/point.h"
#include "worker/source.h"

#define COLLECT_PROBLEMS_MAX 100  /* named in the record; the rest are counted */
#define COLLECT_PATH_MAX     4096 /* of a longer path the middle is left out */

typedef struct Collect {
        Work *work;
        Source *source;
        Repo *repo;
        RepoSession *session;
        const char *backup_id;
        bool include_files;
        int base_dir;

        const Point *point;
        size_t service; /* being walked; SIZE_MAX before the first */
        BaseReader *base;
        bool base_trusted;    /* its backup is still there: chunks need no look-up */
        bool base_same;       /* made with the same paths and rules */
        BaseWriter **writers; /* one per service */
        bool base_has_states; /* the states of databases were remembered with it */
        char *dir;            /* of the entries that come now */
        bool dir_has_database;

        char *parent_id;       /* the base's backup, of the first service */
        json_object *problems; /* list of {service, path, error} */
        json_object *left_out; /* sockets: list of {service, path} */
        uint64_t n_problems, n_unstable, n_sockets;
        uint64_t files;
} Collect;

int collect_init(Collect *c,
                 Work *w,
                 Source *s,
                 Repo *repo,
                 const char *backup_id,
                 bool include_files,
                 Failure *reterr);
void collect_done(Collect *c);

/* Session callback: writes the next base state. */
int collect_on_entry(void *userdata, const Entry *e, const EntryLocal *local, Failure *reterr);

/* Walks all services in the images of `p` into the session. */
int collect_walk(Collect *c, const Point *p, Failure *reterr);

/* Makes the new base states the valid ones, once the backup exists. */
int collect_commit(Collect *c, Failure *reterr);

/* Notes a source that could not be read: the backup is partial. */
int collect_problem(Collect *c, const char *service, const char *path, const Failure *why);
