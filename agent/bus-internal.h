#pragma once

/*
 * What the bus-*.c files share: the way of a call from its arrival over its authorisation to its
 * handler, reading of options, writing of dictionaries.
 */

#include <systemd/sd-bus.h>

#include "agent/bus.h"
#include "agent/job.h"
#include "base/clock.h"

/* Between two tellings of an object's properties: with its end, which does not wait, four a second.
 */
#define BUS_CHANGED_USEC (340 * USEC_PER_MSEC)

/*
 * Handles an authorised call: reads the arguments and replies, once. Returns 0, or a negative errno
 * with a failure to be replied; -EOPNOTSUPP without one is NotSupported. `uid` is the sender's.
 */
typedef int (*BusHandler)(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);

typedef struct BusMethod {
        const char *member;
        BusHandler handle;
} BusMethod;

/*
 * bus-auth.c: finds out who calls and whether they may, without blocking, then calls the handler
 * and replies its failure. A member without an action in the table is refused. Returns 1 (handled).
 */
int bus_auth_call(Manager *m, sd_bus_message *call, const BusMethod *method);

/* A call as the journal knows it. */
typedef struct BusCall {
        const char *method, *action;
        const char *backup, *service, *task; /* task NULL, the others "": none */
        uint32_t job;                        /* 0: none */
        const uint32_t *uid;                 /* NULL: not known */
} BusCall;

/* bus-audit.c */
void bus_audit_granted(const BusCall *call);
void bus_audit_denied(Manager *m, const BusCall *call, const char *why);

/* bus-error.c: replies with a failure, or what an errno without one stands for. */
int bus_error_reply(sd_bus_message *call, int r, const Failure *failure);

/* Replies with a standard D-Bus error. */
int bus_error_reply_standard(sd_bus_message *call, const char *name, const char *text);

/* bus-options.c: one allowed key of an a{sv}. `type` is s, b, u, h or as; fds are borrowed from the
 * call. */
typedef struct BusOption {
        const char *key;
        const char *type;
        void *ret;     /* const char *, bool (as bool), uint32_t, int, ConfigStrings (owned) */
        bool *ret_set; /* may be NULL */
} BusOption;

/* Reads an a{sv}; unknown keys, keys given twice and wrong types are FAIL_INVALID_ARGUMENT by name.
 */
int bus_read_options(sd_bus_message *call, const BusOption *options, size_t n, Failure *reterr);

/* The bytes of a call's body, as far as they matter: sums texts and values. */
int bus_body_size(sd_bus_message *call, size_t *ret);

/* A UUID of a backup or restore from the call; FAIL_INVALID_ARGUMENT for anything else. */
int bus_read_id(sd_bus_message *call, const char *what, const char **ret, Failure *reterr);

/*
 * bus-hold.c: callers that are answered when the job they asked for has ended.
 */

/* Replies to the caller of a job that is done. `fd` is what was held with the call, -1: nothing. */
typedef int (*BusAnswer)(sd_bus_message *call, const Job *j, int fd, Failure *reterr);

/*
 * bus-diagnose.c: an answer also where its worker failed, since that is what it has to tell then.
 */
int bus_diagnose_answer(sd_bus_message *call, const Job *j, int fd, Failure *reterr);

/* Submits a job whose end is the reply; `fd` is taken, also on failure. */
int bus_hold_submit(Manager *m,
                    sd_bus_message *call,
                    JobRequest *request,
                    BusAnswer answer,
                    int fd,
                    Failure *reterr);

/* The job has ended: replies, if somebody waits. */
void bus_hold_answer(Job *j);

/* Notices callers that leave, from now on. */
int bus_hold_watch(Manager *m);

/*
 * bus-request.c: what handlers that queue jobs share.
 */

int bus_load_backup(Manager *m, const char *id, json_object **ret, Failure *reterr);

/* Those of the backup that are meant: all for "", else one. FAIL_NO_SUCH_SERVICE. */
int bus_choose_services(json_object *backup,
                        const char *service,
                        ConfigStrings *ret,
                        Failure *reterr);

/* An escaped path; "" passes. */
int bus_check_path(const char *path, Failure *reterr);

int bus_new_id(char ret[UUID_TEXT_MAX], Failure *reterr);

/* A duplicate of a descriptor of the call, which must be a directory that is the caller's own (any
 * for root), or a file, pipe or socket that can be read (`what` names the argument). Owned. */
int bus_keep_directory(int fd, uint32_t uid, int *ret, Failure *reterr);
int bus_keep_readable(int fd, const char *what, int *ret, Failure *reterr);

/* A pipe: its write end goes into the request, its read end is owned by the caller. */
int bus_make_stream(JobRequest *q, int *ret, Failure *reterr);

/* Submits and replies with the job; bus_submit_stream() with the read end of a new pipe before it.
 */
int bus_submit(Manager *m, sd_bus_message *call, JobRequest *q, Failure *reterr);
int bus_submit_stream(Manager *m, sd_bus_message *call, JobRequest *q, Failure *reterr);

/* Answers for bus_hold_submit(): nothing, the job's summary, the descriptor. */
int bus_answer_empty(sd_bus_message *call, const Job *j, int fd, Failure *reterr);
int bus_answer_summary(sd_bus_message *call, const Job *j, int fd, Failure *reterr);
int bus_answer_fd(sd_bus_message *call, const Job *j, int fd, Failure *reterr);

/* bus-backup.c: name and description of a new backup, and who made it. */
#define BUS_CREATED_BY_MAX 32
int bus_check_name(const char *name, const char *description, Failure *reterr);
void bus_created_by(uint32_t uid, char ret[BUS_CREATED_BY_MAX]);

/* bus-dict.c: each appends one a{sv}. */
int bus_append_backup(sd_bus_message *m, json_object *backup);
int bus_append_restore(sd_bus_message *m, json_object *restore);
int bus_append_schedule(sd_bus_message *m, json_object *schedule);
int bus_append_job(sd_bus_message *m, json_object *job);
int bus_append_summary(sd_bus_message *m, json_object *summary); /* NULL: empty */

/* Appends an "as". */
int bus_append_strings(sd_bus_message *m, const ConfigStrings *list);

/* Replies with an array of dictionaries made by `append`. */
int bus_reply_list(sd_bus_message *call,
                   json_object *list,
                   int (*append)(sd_bus_message *, json_object *),
                   Failure *reterr);
int bus_reply_dictionary(sd_bus_message *call,
                         json_object *o,
                         int (*append)(sd_bus_message *, json_object *),
                         Failure *reterr);

/* Replies with the path of a job, after a text if `id` is not NULL. */
int bus_reply_job(sd_bus_message *call, const char *id, const Job *j, Failure *reterr);

/* Turns a failed append or send into a failure. */
int bus_fail(Failure *reterr, int r);

/* bus-backup.c: queues a new backup and replies with its id and job; all borrowed. */
typedef struct BusNewBackup {
        const char *type, *name, *description, *created_by;
        const char *schedule; /* "": by hand */
        bool include_files, pinned, has_level;
        uint32_t level;
} BusNewBackup;

int bus_backup_submit(Manager *m,
                      sd_bus_message *call,
                      const BusNewBackup *n,
                      uint32_t uid,
                      Failure *reterr);

/* Handlers, by file. */
int bus_backup_create(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_backup_list(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_backup_get(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_backup_delete(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_backup_pin(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_backup_verify(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_read_open(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_read_list(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_read_diff(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_repository_get(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_repository_prune(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_repository_import(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_key_export(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_key_prove(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_key_forget(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_restore_plan(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_restore_start(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_restore_list(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_restore_rollback(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_restore_confirm(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_schedule_set(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_schedule_get(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_schedule_list(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_schedule_delete(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_schedule_run(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_job_list(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_job_get(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_diagnose(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_status_get(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);
int bus_status_reload(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr);

/* bus-status.c: properties of the manager. */
int bus_status_property(sd_bus *bus,
                        const char *path,
                        const char *interface,
                        const char *property,
                        sd_bus_message *reply,
                        void *userdata,
                        sd_bus_error *reterr_error);

/* The tables of the two interfaces. */
extern const sd_bus_vtable bus_manager_vtable[];
extern const sd_bus_vtable bus_job_vtable[];

/* bus-job.c: the job behind an object path, and the paths there are. */
int bus_job_object_find(sd_bus *bus,
                        const char *path,
                        const char *interface,
                        void *userdata,
                        void **ret_found,
                        sd_bus_error *reterr_error);
int bus_job_enumerate(sd_bus *bus,
                      const char *prefix,
                      void *userdata,
                      char ***ret_nodes,
                      sd_bus_error *reterr_error);

static inline void bus_message_freep(sd_bus_message **m) {
        sd_bus_message_unref(*m);
}

#define _cleanup_message_ _cleanup_(bus_message_freep)
