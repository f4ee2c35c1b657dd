/*
 * Every message is taken as it might be meant to harm: types and ranges are checked, a second
 * result cannot come (the first closes the connection), and a backup's record counts only if it is
 * the one that was asked for. Progress never goes back, whatever is said.
 */

#include "agent/job-events.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/bus.h"
#include "agent/job-log.h"
#include "agent/reconcile.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/proto.h"

#define SAVE_USEC           (5 * USEC_PER_SEC)
#define SCHEDULES_MAX       256
#define PROGRESS_BEFORE_END 0.99 /* the whole is for the end alone */

static int malformed(Failure *reterr, const char *what) {
        return fail_set(reterr, FAIL_INTERNAL, EBADMSG, "%s", what);
}

static int on_phase(Job *j, json_object *message, Failure *reterr) {
        const char *phase;

        if (json_get_string(message, "phase", &phase) < 0 ||
            !text_is_label(phase, JOB_PHASE_MAX - 1))
                return malformed(reterr, "a phase without a name");
        (void) snprintf(j->phase, sizeof(j->phase), "%s", phase);
        /* How fast the last one was says nothing of this one. */
        j->rate = (JobRate){ .usec = clock_monotonic_usec(), .bytes = j->bytes_done };
        job_log(j, LOG_DEBUG, "Job %u: phase %s", j->id, phase);
        bus_job_changed(j);
        return 0;
}

static void raise_progress(Job *j) {
        double p = 0;

        if (j->bytes_total > 0)
                p = (double) j->bytes_done / (double) j->bytes_total;
        else if (j->files_total > 0)
                p = (double) j->files_done / (double) j->files_total;
        if (p > PROGRESS_BEFORE_END)
                p = PROGRESS_BEFORE_END;
        if (p > j->progress)
                j->progress = p;
}

static void save_progress(Job *j) {
        uint64_t now = clock_monotonic_usec();
        Failure why = FAILURE_INIT;

        if (now - j->saved_usec < SAVE_USEC)
                return;
        j->saved_usec = now;
        catalog_relax(j->manager->catalog, true);
        if (catalog_task_progress(j->manager->catalog, j->id, (unsigned) (j->progress * 100),
                                  &why) < 0)
                job_log(j, LOG_WARNING, "Job %u: its progress could not be written, ignoring: %s",
                        j->id, why.text);
        catalog_relax(j->manager->catalog, false);
}

static int on_progress(Job *j, json_object *message, Failure *reterr) {
        uint64_t bytes, bytes_total, files, files_total;

        if (json_get_u64(message, "bytes_done", &bytes) < 0 ||
            json_get_u64(message, "bytes_total", &bytes_total) < 0 ||
            json_get_u64(message, "files_done", &files) < 0 ||
            json_get_u64(message, "files_total", &files_total) < 0)
                return malformed(reterr, "a progress without its numbers");
        j->bytes_done = bytes;
        j->bytes_total = bytes_total;
        j->files_done = files;
        j->files_total = files_total;
        job_rate_add(&j->rate, clock_monotonic_usec(), bytes);
        raise_progress(j);
        save_progress(j);
        bus_job_changed(j);
        return 0;
}

static int on_committed(Job *j, json_object *message, Failure *reterr) {
        j->committed = true;
        bus_job_changed(j);
        return 0;
}

static int on_point(Job *j, json_object *message, Failure *reterr) {
        if (json_get_u64(message, "pause_usec", &j->pause_usec) < 0)
                return malformed(reterr, "a point without its pause");
        bus_job_changed(j);
        return 0;
}

/* May a worker of this job tell of backup `id`? */
static bool may_tell(const Job *j, const char *id) {
        switch (j->type) {
        case JOB_RECONCILE:
        case JOB_BACKUP: /* its own, and older ones whose hot copies it dropped */
        case JOB_IMPORT:
        case JOB_PRUNE: /* those whose copies changed */
        case JOB_SWEEP: /* the same */
                return true;
        case JOB_PIN:
        case JOB_VERIFY:
        case JOB_VERIFY_RESTORE:
                return strcmp(id, j->backup_id) == 0;
        case JOB_RESTORE:
        case JOB_ROLLBACK:
        case JOB_CONFIRM:
        case JOB_PLAN:
        case JOB_EXPORT:
        case JOB_LIST:
        case JOB_DIFF:
        case JOB_DELETE:
        case JOB_REPOSITORY:
        case JOB_DIAGNOSE:
        case JOB_CONFIGURE:
        case JOB_SCHEDULE:
        case JOB_SCHEDULES:
        case JOB_RECOVER:
                break;
        }
        return false;
}

/* A row that only changes one must not bring back what has been removed meanwhile. */
static bool is_late(Job *j, const char *id) {
        _cleanup_json_ json_object *row = NULL;
        Failure ignored = FAILURE_INIT;

        return j->type != JOB_RECONCILE &&
               catalog_get_backup(j->manager->catalog, id, &row, &ignored) == -ENOENT;
}

static void
tell_unwritten(const Job *j, const char *what, const char *kind, const char *id, const char *why) {
        const LogFields f = job_log_fields(j);

        log_message(MESSAGE_CATALOGUE_UNWRITTEN, &f, "%s %s cannot be %s: %s", kind, id, what, why);
}

static void put_backup(Job *j, const char *id, json_object *backup) {
        bool added = false;
        int r = catalog_put_backup(j->manager->catalog, backup, &added, &j->catalog_failure);

        if (r < 0)
                tell_unwritten(j, "put into the catalogue", "Backup", id, j->catalog_failure.text);
        j->n_corrected += r > 0;
        if (j->type != JOB_RECONCILE)
                reconcile_outdated(j->manager);
        if (!added)
                return;
        bus_backup_added(j->manager, id);
        bus_manager_changed(j->manager, "BackupCount");
        bus_manager_changed(j->manager, "LastSuccessUSec");
}

static int on_backup(Job *j, json_object *message, Failure *reterr) {
        _cleanup_json_ json_object *backup = NULL;
        json_object *in;
        const char *id, *status;
        int r;

        if (json_get_object(message, "backup", &in) < 0)
                return malformed(reterr, "a backup without its record");
        r = record_read_backup(in, &backup, reterr);
        if (r < 0)
                return r;
        if (json_get_string(backup, "backup_id", &id) < 0 ||
            json_get_string(backup, "status", &status) < 0)
                return malformed(reterr, "a backup without id or status");
        if (!may_tell(j, id))
                return malformed(reterr, "a backup that was not asked for");
        if (strcmp(status, "completed") != 0 && strcmp(status, "partial") != 0)
                return malformed(reterr, "the record of a backup that is not finished");
        if (j->type == JOB_RECONCILE || strcmp(id, j->backup_id) == 0)
                j->has_record = true;
        if (is_late(j, id))
                job_log(j, LOG_DEBUG, "Job %u: backup %s has gone meanwhile", j->id, id);
        else
                put_backup(j, id, backup);
        return 0;
}

/* A backup that is no longer in the repository, on purpose. */
static void drop_backup(Job *j, const char *id) {
        Manager *m = j->manager;
        Failure why = FAILURE_INIT;
        int r = catalog_delete_backup(m->catalog, id, &why);

        if (r < 0 && r != -ENOENT) {
                tell_unwritten(j, "taken out of the catalogue", "Backup", id, why.text);
                reconcile_request(m);
                return;
        }
        /* One that runs may have listed it before. */
        reconcile_outdated(m);
        bus_backup_removed(m, id);
        bus_manager_changed(m, "BackupCount");
        bus_manager_changed(m, "LastSuccessUSec");
}

static int on_removed(Job *j, json_object *message, Failure *reterr) {
        const char *id;

        if (j->type != JOB_PRUNE || json_get_string(message, "backup_id", &id) < 0 ||
            !text_is_uuid(id))
                return malformed(reterr, "a removed backup that cannot be");
        drop_backup(j, id);
        return 0;
}

/* An intent that only a worker which runs, or a recovery, can bring to an end. */
static bool is_unfinished(json_object *restore) {
        const char *state;

        return json_get_string(restore, "state", &state) >= 0 &&
               (strcmp(state, "staging") == 0 || strcmp(state, "swapping") == 0 ||
                strcmp(state, "confirming") == 0);
}

static int on_restore(Job *j, json_object *message, Failure *reterr) {
        _cleanup_json_ json_object *restore = NULL;
        json_object *in;
        const char *id;
        int r;

        if (json_get_object(message, "restore", &in) < 0)
                return malformed(reterr, "a restore without its row");
        r = record_read_restore(in, &restore, reterr);
        if (r < 0)
                return r;
        if (json_get_string(restore, "restore_id", &id) < 0)
                return malformed(reterr, "a restore without an id");
        /* Another id is that of an earlier restore which this worker finished or undid first. */
        if (j->aside && strcmp(id, j->restore_id) == 0)
                return 0; /* nothing was swapped: there is nothing to roll back */
        if (j->type == JOB_RECONCILE && is_unfinished(restore)) {
                j->manager->recover_wanted = true;
                /* Its worker may be one that an agent before us left on its way to the end. */
                if (!j->manager->judged)
                        j->manager->reconcile_follow = true;
        }
        r = catalog_put_restore(j->manager->catalog, restore, &j->catalog_failure);
        if (r < 0)
                tell_unwritten(j, "put into the catalogue", "Restore", id, j->catalog_failure.text);
        j->n_corrected += r > 0;
        return 0;
}

static int on_space(Job *j, json_object *message, Failure *reterr) {
        Manager *m = j->manager;
        uint64_t stored, space;

        if (json_get_u64(message, "stored_bytes", &stored) < 0 ||
            json_get_u64(message, "free_bytes", &space) < 0)
                return malformed(reterr, "a space without its numbers");
        m->stored_bytes = stored;
        m->free_bytes = space;
        bus_manager_changed(m, "StoredBytes");
        bus_manager_changed(m, "RepositoryFreeBytes");
        return 0;
}

/* With this host all backups would be lost. */
static bool is_unproven(const ManagerKeys *keys) {
        return keys->known && keys->private_key && !keys->recovery_proven;
}

static int on_keys(Job *j, json_object *message, Failure *reterr) {
        ManagerKeys keys = { .known = true };

        if (json_get_bool(message, "private_key", &keys.private_key) < 0 ||
            json_get_bool(message, "recovery_exported", &keys.recovery_exported) < 0 ||
            json_get_bool(message, "recovery_proven", &keys.recovery_proven) < 0)
                return malformed(reterr, "keys without what is known of them");
        if (is_unproven(&keys) && !is_unproven(&j->manager->keys))
                log_message(MESSAGE_RECOVERY_KEY_UNPROVEN, NULL,
                            "The private key is on this host alone: %s",
                            keys.recovery_exported
                                    ? "a recovery copy was handed out, but not proven"
                                    : "no recovery copy has been exported");
        j->manager->keys = keys;
        return 0;
}

static int on_schedule(Job *j, json_object *message, Failure *reterr) {
        json_object *in, *row;
        int r;

        if ((j->type != JOB_SCHEDULE && j->type != JOB_SCHEDULES) ||
            json_get_object(message, "schedule", &in) < 0)
                return malformed(reterr, "a schedule that was not asked for");
        r = record_read_schedule(in, &row, reterr);
        if (r < 0)
                return r;
        if (!j->rows)
                j->rows = json_object_new_array();
        if (!j->rows || json_object_array_length(j->rows) >= SCHEDULES_MAX ||
            json_object_array_add(j->rows, row) < 0) {
                json_object_put(row);
                return malformed(reterr, "too many schedules");
        }
        return 0;
}

/* Does a good result stand? Not without a record, nor with one that could not be written down. */
static void doubt_result(Job *j, JobResult *result, Failure *why) {
        if (*result != JOB_DONE && *result != JOB_PARTIAL)
                return;
        if (!j->has_record &&
            (j->type == JOB_BACKUP || j->type == JOB_IMPORT || j->type == JOB_PIN)) {
                *why = FAILURE_INIT;
                (void) fail_set(why, FAIL_INTERNAL, EBADMSG,
                                "the worker said done but sent no record of the backup");
                *result = JOB_FAILED;
        } else if (j->catalog_failure.code != FAIL_NONE) {
                *why = j->catalog_failure;
                fail_prefix(why, "the work was done, but the catalogue could not be written");
                *result = JOB_FAILED;
        }
}

/* Deleting what only the catalogue knows: a failed run never got as far as a record. */
static bool is_gone_already(Job *j, const Failure *why) {
        _cleanup_json_ json_object *backup = NULL;
        Failure ignored = FAILURE_INIT;
        const char *status;

        return j->type == JOB_DELETE && why->code == FAIL_NO_SUCH_BACKUP &&
               catalog_get_backup(j->manager->catalog, j->backup_id, &backup, &ignored) >= 0 &&
               json_get_string(backup, "status", &status) >= 0 && strcmp(status, "failed") == 0;
}

static int on_result(Job *j, json_object *message, Failure *reterr) {
        Failure why = FAILURE_INIT;
        json_object *error, *summary = NULL;
        JobResult result;
        const char *text;
        int r;

        if (json_get_string(message, "result", &text) < 0 ||
            job_result_from_text(text, &result) < 0)
                return malformed(reterr, "a result that is none");
        r = json_get_object(message, "error", &error);
        if (r >= 0)
                proto_failure_read(error, &why);
        else if (result == JOB_CANCELED)
                (void) fail_set(&why, FAIL_CANCELED, ECANCELED, "canceled");
        else if (result == JOB_PARTIAL)
                (void) fail_set(&why, FAIL_SOURCE_MISSING, EIO, "not everything could be read");
        else if (result != JOB_DONE)
                return malformed(reterr, "a failure without an error");
        r = record_read_summary(message, &summary, reterr);
        if (r < 0)
                return r;
        if (result == JOB_FAILED && is_gone_already(j, &why))
                result = JOB_DONE;
        if (j->type == JOB_RECONCILE && result == JOB_DONE &&
            j->catalog_failure.code == FAIL_NONE &&
            reconcile_complete(j->manager, &j->catalog_failure) < 0)
                job_log(j, LOG_ERR, "The catalogue could not be corrected: %s",
                        j->catalog_failure.text);
        doubt_result(j, &result, &why);
        job_finish(j, result, &why, summary);
        if (j->catalog_failure.code != FAIL_NONE && j->type != JOB_RECONCILE)
                reconcile_request(j->manager);
        return 0;
}

int job_events_handle(Job *j, json_object *message, Failure *reterr) {
        static const struct {
                const char *type;
                int (*handle)(Job *j, json_object *message, Failure *reterr);
        } table[] = {
                { "phase", on_phase },   { "progress", on_progress },   { "point", on_point },
                { "backup", on_backup }, { "removed", on_removed },     { "restore", on_restore },
                { "space", on_space },   { "keys", on_keys },           { "schedule", on_schedule },
                { "result", on_result }, { "committed", on_committed },
        };
        const char *type = proto_type(message);

        if (strcmp(type, "accepted") == 0) {
                job_log(j, LOG_DEBUG, "Job %u: accepted", j->id);
                return 0;
        }
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (strcmp(type, table[i].type) == 0)
                        return table[i].handle(j, message, reterr);
        return malformed(reterr, "a message of an unknown type");
}

static void settle_backup(Job *j) {
        Catalog *c = j->manager->catalog;
        _cleanup_json_ json_object *backup = NULL;
        Failure why = FAILURE_INIT;
        const char *status = "";

        if (catalog_get_backup(c, j->backup_id, &backup, &why) < 0)
                return;
        (void) json_get_string(backup, "status", &status);
        /* A record that arrived before the end is in the repository, whatever came after it. */
        if (strcmp(status, "running") == 0 &&
            catalog_fail_backup(c, j->backup_id, &j->failure, &why) < 0)
                tell_unwritten(j, "marked as failed", "Backup", j->backup_id, why.text);
}

static void settle_restore(Job *j) {
        Catalog *c = j->manager->catalog;
        _cleanup_json_ json_object *row = NULL;
        Failure why = FAILURE_INIT;
        char now[CLOCK_TEXT_MAX];
        const char *state = "";

        /* An interrupted one may be anything: only its intent knows, and a reconcile asks for it.
         */
        if (j->aside || j->result == JOB_INTERRUPTED ||
            catalog_get_restore(c, j->restore_id, &row, &why) < 0)
                return;
        (void) json_get_string(row, "state", &state);
        if (strcmp(state, "staging") != 0)
                return;
        clock_format(clock_realtime_usec(), now);
        if (json_put_string(row, "state", "failed") < 0 ||
            json_put_string(row, "completed_at", now) < 0 || catalog_put_restore(c, row, &why) < 0)
                tell_unwritten(j, "marked as failed", "Restore", j->restore_id, why.text);
}

/* The worker has told all that there are. */
static void settle_schedules(Job *j) {
        Failure why = FAILURE_INIT;

        if (j->result != JOB_DONE)
                return;
        if (!j->rows)
                j->rows = json_object_new_array();
        if (!j->rows || catalog_replace_schedules(j->manager->catalog, j->rows, &why) < 0)
                log_warning("The catalogue's copy of the schedules is old: %s",
                            j->rows ? why.text : "out of memory");
}

void job_events_settle(Job *j) {
        switch (j->type) {
        case JOB_BACKUP:
                settle_backup(j);
                bus_manager_changed(j->manager, "SuccessRate");
                break;
        case JOB_IMPORT:
                settle_backup(j);
                break;
        case JOB_RESTORE:
                settle_restore(j);
                bus_manager_changed(j->manager, "RestoreSuccessRate");
                break;
        case JOB_DELETE:
                if (j->result == JOB_DONE)
                        drop_backup(j, j->backup_id);
                break;
        case JOB_ROLLBACK:
        case JOB_CONFIRM:
        case JOB_PLAN:
        case JOB_VERIFY:
        case JOB_VERIFY_RESTORE:
        case JOB_EXPORT:
        case JOB_LIST:
        case JOB_DIFF:
        case JOB_PIN:
        case JOB_PRUNE:
        case JOB_REPOSITORY:
        case JOB_DIAGNOSE:
        case JOB_CONFIGURE:
        case JOB_RECONCILE:
        case JOB_RECOVER:
        case JOB_SWEEP:
                break;
        case JOB_SCHEDULE:
        case JOB_SCHEDULES:
                settle_schedules(j);
                break;
        }
}
