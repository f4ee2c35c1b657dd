#pragma once

/*
 * Jobs: one running operation each, its queue, its state and its end.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/job-rate.h"
#include "agent/manager.h"
#include "base/schedule.h"

/* A row in job-type.c each. */
typedef enum JobType {
        JOB_BACKUP,
        JOB_IMPORT,
        JOB_RESTORE,
        JOB_ROLLBACK,
        JOB_CONFIRM,
        JOB_PLAN,
        JOB_VERIFY,
        JOB_VERIFY_RESTORE, /* "verify" on the bus: by a restore aside, which needs another worker
                             */
        JOB_EXPORT,
        JOB_LIST,
        JOB_DIFF,
        JOB_DELETE,
        JOB_PIN,
        JOB_PRUNE,
        JOB_REPOSITORY,
        JOB_DIAGNOSE,
        JOB_CONFIGURE, /* its request names the verb, as does that of the next */
        JOB_SCHEDULE,  /* "configure" on the bus: changes one; needs nothing of the repository */
        JOB_SCHEDULES, /* "configure" on the bus: looks at all of them */
        JOB_RECONCILE,
        JOB_RECOVER, /* "reconcile" on the bus: what a lost restore left is finished or undone */
        JOB_SWEEP,   /* "reconcile" on the bus: what a lost backup left is removed */
} JobType;

typedef enum JobState {
        JOB_QUEUED,    /* waits for its turn */
        JOB_RUNNING,   /* connecting to a worker, or the worker is at it */
        JOB_CANCELING, /* the worker has been told to stop */
        JOB_FINISHED,  /* has a result; shown for a while */
} JobState;

typedef enum JobResult {
        JOB_NONE, /* not finished */
        JOB_DONE,
        JOB_PARTIAL,
        JOB_CANCELED,
        JOB_FAILED,
        JOB_INTERRUPTED, /* its worker or the agent went away */
} JobResult;

/* What goes to the worker beside the request, in this order; -1: not there. */
typedef struct JobFds {
        int directory; /* to restore into */
        int stream;    /* write end of what the caller reads; for an import its read end */
        int key;       /* has a private key */
} JobFds;

#define JOB_FDS_INIT ((JobFds){ -1, -1, -1 })

void job_fds_done(JobFds *fds);

/* A caller that waits for the end of a job; agent/bus-hold.c. */
typedef struct BusHold BusHold;

#define JOB_UID_INTERNAL UINT32_MAX
#define JOB_PATH_MAX     64
#define JOB_PHASE_MAX    32

struct Job {
        Manager *manager;
        uint32_t id;
        char task_id[UUID_TEXT_MAX]; /* its own even where numbers begin again: a new catalogue */
        JobType type;
        JobState state;
        JobResult result;
        uint32_t uid; /* who asked; JOB_UID_INTERNAL: the agent */
        char backup_id[UUID_TEXT_MAX], restore_id[UUID_TEXT_MAX]; /* "": none */
        char other_id[UUID_TEXT_MAX];                             /* the second backup of a diff */
        ConfigStrings services;
        json_object *request; /* the message to the worker */
        JobFds fds;           /* until the request is sent */
        bool aside;           /* had a directory */
        bool allow_partial;
        BusHold *hold; /* NULL: nobody waits for the end */

        uint64_t queued_usec, started_usec, finished_usec;
        char phase[JOB_PHASE_MAX];
        double progress;
        uint64_t bytes_done, bytes_total, files_done, files_total;
        uint64_t pause_usec;
        JobRate rate;
        uint64_t saved_usec; /* progress last written to the catalogue (monotonic) */
        Failure failure;
        Failure catalog_failure; /* the work was done but could not be written down */
        json_object *summary;
        size_t summary_bytes; /* as text */
        bool has_record;      /* the worker sent the backup's record */
        unsigned n_corrected; /* rows of the catalogue that were not as the worker told them */
        bool committed;       /* it ends by itself: it cannot be canceled any more */
        json_object *rows;    /* schedules that the worker told of; NULL: none yet */
        char schedule[SCHEDULE_NAME_MAX + 1]; /* that ran this backup; "" */

        int socket; /* to the worker, -1 */
        sd_event_source *io, *retry;
        uint64_t deadline_usec; /* for reaching a worker */

        sd_event_source *changed, *expire;
        uint64_t changed_usec; /* when properties were last told (monotonic) */
};

/* What a new job is made of. */
typedef struct JobRequest {
        JobType type;
        uint32_t uid;
        const char *verb;                              /* NULL: that of the type */
        const char *backup_id, *other_id, *restore_id; /* may be NULL */
        const ConfigStrings *services;                 /* may be NULL */
        json_object *parameters;                       /* of the verb; owned */
        json_object *backup; /* a row to put into the catalogue with it; borrowed, may be NULL */
        JobFds fds;          /* owned */
        bool allow_partial;
} JobRequest;

/* Frees what it owns. */
void job_request_done(JobRequest *q);
#define _cleanup_job_request_ _cleanup_(job_request_done)

/*
 * Queues a job. Takes what the request owns, also on failure: FAIL_INVALID_ARGUMENT (too long for a
 * message), FAIL_QUEUE_FULL, FAIL_BUSY, or the catalogue's failure. Borrowed from the manager.
 */
int job_submit(Manager *m, JobRequest *request, Job **ret, Failure *reterr);

/* Starts what may run now. */
void job_run_queue(Manager *m);

/* The only place that assigns a state; tells log and bus. */
void job_set_state(Job *j, JobState state);

/* Ends a job: catalogue, signals, and what follows from it. `why` is needed unless it is done;
 * `summary` is taken. */
void job_finish(Job *j, JobResult result, const Failure *why, json_object *summary);

/* Asks a job to stop. A queued one ends here. */
int job_cancel(Job *j, Failure *reterr);

/* NULL: no such job, or no longer shown. */
Job *job_find(Manager *m, uint32_t id);

void job_free(Job *j);

bool job_is_reading(const Job *j);
bool job_is_cancelable(const Job *j);

const char *job_type_text(JobType type);
const char *job_type_verb(JobType type);   /* NULL: the request has it */
const char *job_type_class(JobType type);  /* of its worker */
const char *job_type_action(JobType type); /* that allows to end it */
const char *job_state_text(JobState state);
const char *job_result_text(JobResult result);           /* "" for JOB_NONE */
int job_result_from_text(const char *s, JobResult *ret); /* those a worker may send */
int job_state_from_text(const char *s, JobState *ret);
bool job_type_is_known(const char *name);
void job_path(uint32_t id, char ret[JOB_PATH_MAX]);

/* Bytes a second, and when it will be over (real time); 0 while unknown. */
uint64_t job_rate(const Job *j);
uint64_t job_expected_end_usec(const Job *j);

/* "org.holdpoint.Backup1.Error.X", "" without a failure. `ret` takes 128 bytes. */
void job_error_name(const Job *j, char ret[128]);

/* The dictionary of docs/DBUS.md. Owned, NULL if out of memory. */
json_object *job_to_json(const Job *j);
