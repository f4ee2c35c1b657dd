#include "agent/job-log.h"

#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "base/names.h"

static const char *or_none(const char *text) {
        return *text ? text : NULL;
}

LogFields job_log_fields(const Job *j) {
        return (LogFields){
                .job = j->id,
                .task = j->task_id,
                .backup = or_none(j->backup_id),
                .restore = or_none(j->restore_id),
                .services = (const char *const *) j->services.items,
                .n_services = j->services.n,
                .phase = or_none(j->phase),
        };
}

void job_log_queued(const Job *j) {
        LogFields f = job_log_fields(j);

        if (j->uid == JOB_UID_INTERNAL) {
                log_message(MESSAGE_JOB_QUEUED, &f, "Job %u (%s) queued by the agent itself", j->id,
                            job_type_text(j->type));
                return;
        }
        f.uid = &j->uid;
        log_message(MESSAGE_JOB_QUEUED, &f, "Job %u (%s) queued for uid %u", j->id,
                    job_type_text(j->type), j->uid);
}

void job_log_started(const Job *j) {
        const LogFields f = job_log_fields(j);

        log_message(MESSAGE_JOB_STARTED, &f, "Job %u (%s) started", j->id, job_type_text(j->type));
}

/* The size that an operator asks for: of what was backed up, restored, exported, read. */
static uint64_t bytes_of(const Job *j) {
        uint64_t bytes;

        return json_get_u64(j->summary, "bytes", &bytes) >= 0 ? bytes : j->bytes_done;
}

static void tell_backup(const Job *j, const LogFields *f) {
        uint64_t new_bytes = 0, files = 0;

        if (j->type != JOB_BACKUP && j->type != JOB_IMPORT)
                return;
        (void) json_get_u64(j->summary, "new_bytes", &new_bytes);
        (void) json_get_u64(j->summary, "files", &files);
        log_message(MESSAGE_BACKUP_COMPLETED, f,
                    "Backup %s completed: %" PRIu64 " bytes in %" PRIu64 " entries, %" PRIu64
                    " bytes new in the repository, databases held for %" PRIu64 " us",
                    j->backup_id, bytes_of(j), files, new_bytes, j->pause_usec);
}

static Message message_of(JobResult result) {
        switch (result) {
        case JOB_DONE:
                return MESSAGE_JOB_DONE;
        case JOB_PARTIAL:
                return MESSAGE_JOB_PARTIAL;
        case JOB_CANCELED:
                return MESSAGE_JOB_CANCELED;
        case JOB_INTERRUPTED:
                return MESSAGE_JOB_INTERRUPTED;
        case JOB_FAILED:
        case JOB_NONE:
                break;
        }
        return MESSAGE_JOB_FAILED;
}

void job_log_end(const Job *j) {
        LogFields f = job_log_fields(j);
        uint64_t bytes = bytes_of(j);

        f.result = job_result_text(j->result);
        f.error = j->failure.code != FAIL_NONE ? fail_name(j->failure.code) : NULL;
        f.bytes = &bytes;
        f.pause_usec = j->type == JOB_BACKUP ? &j->pause_usec : NULL;
        if (j->result == JOB_DONE) {
                tell_backup(j, &f);
                log_message(MESSAGE_JOB_DONE, &f, "Job %u (%s) done", j->id,
                            job_type_text(j->type));
        } else
                log_message(message_of(j->result), &f, "Job %u (%s) %s: %s", j->id,
                            job_type_text(j->type), f.result, j->failure.text);
}

void job_log_interrupted(json_object *task, const Failure *why) {
        LogFields f = { .result = "interrupted", .error = fail_name(why->code) };
        const char *type = "";
        uint64_t id = 0;

        (void) json_get_u64(task, "id", &id);
        (void) json_get_string(task, "type", &type);
        (void) json_get_string(task, "task_id", &f.task);
        (void) json_get_string(task, "backup_id", &f.backup);
        (void) json_get_string(task, "restore_id", &f.restore);
        f.job = (uint32_t) id;
        log_message(MESSAGE_JOB_INTERRUPTED, &f, "Job %u (%s) interrupted: %s", f.job, type,
                    why->text);
}
