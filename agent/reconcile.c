/*
 * The catalogue is a copy; this is how it follows the original: at the start, after a lost worker,
 * and again later when no worker could be asked. Until then the agent answers from what it has.
 */

#include "agent/reconcile.h"

#include <errno.h>
#include <string.h>

#include "agent/bus.h"
#include "agent/job-log.h"
#include "base/clock.h"
#include "base/log.h"

#define RETRY_FIRST_USEC (30 * USEC_PER_SEC)
#define RETRY_LAST_USEC  (10 * 60 * USEC_PER_SEC)
#define FOLLOW_USEC      (10 * USEC_PER_SEC)

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *m = userdata;

        m->reconcile_timer = sd_event_source_disable_unref(m->reconcile_timer);
        reconcile_request(m);
        return 0;
}

static void schedule(Manager *m, uint64_t usec) {
        int r;

        m->reconcile_timer = sd_event_source_disable_unref(m->reconcile_timer);
        r = sd_event_add_time_relative(m->event, &m->reconcile_timer, CLOCK_MONOTONIC, usec,
                                       USEC_PER_SEC, on_timer, m);
        if (r < 0)
                log_error("Cannot schedule the next reconcile, restart the agent to have one: %s",
                          strerror(-r));
}

void reconcile_retry(Manager *m) {
        uint64_t usec = RETRY_FIRST_USEC;

        m->reconcile_failures++;
        for (unsigned i = 1; i < m->reconcile_failures && usec < RETRY_LAST_USEC; i++)
                usec *= 2;
        if (usec > RETRY_LAST_USEC)
                usec = RETRY_LAST_USEC;
        schedule(m, usec);
}

void reconcile_after_loss(Manager *m) {
        m->reconcile_follow = true;
        reconcile_request(m);
}

static Job *find_unfinished(Manager *m, JobType type) {
        for (size_t i = 0; i < m->n_jobs; i++)
                if (m->jobs[i]->type == type && m->jobs[i]->state != JOB_FINISHED)
                        return m->jobs[i];
        return NULL;
}

void reconcile_outdated(Manager *m) {
        const Job *j = find_unfinished(m, JOB_RECONCILE);

        if (j && j->state != JOB_QUEUED)
                m->reconcile_again = true;
}

void reconcile_request(Manager *m) {
        _cleanup_job_request_ JobRequest request = {
                .type = JOB_RECONCILE,
                .uid = JOB_UID_INTERNAL,
                .fds = JOB_FDS_INIT,
        };
        Failure why = FAILURE_INIT;

        if (m->stopping)
                return;
        if (find_unfinished(m, JOB_RECONCILE)) {
                reconcile_outdated(m);
                return;
        }
        m->reconcile_again = false;
        request.parameters = json_object_new_object();
        if (job_submit(m, &request, NULL, &why) < 0) {
                log_error("Cannot begin a reconcile: %s", why.text);
                reconcile_retry(m);
        }
}

int reconcile_complete(Manager *m, Failure *reterr) {
        _cleanup_json_ json_object *removed = NULL;
        int r = catalog_reconcile_finish(m->catalog, &removed, reterr);

        if (r < 0)
                return r;
        for (size_t i = 0; i < json_object_array_length(removed); i++) {
                const char *id = json_object_get_string(json_object_array_get_idx(removed, i));

                log_message(MESSAGE_BACKUP_VANISHED, &(LogFields){ .backup = id },
                            "Backup %s is no longer in the repository: removed from the catalogue",
                            id);
                bus_backup_removed(m, id);
        }
        if (json_object_array_length(removed) > 0) {
                bus_manager_changed(m, "BackupCount");
                bus_manager_changed(m, "LastSuccessUSec");
        }
        return 0;
}

static void begin(Manager *m, JobType type, const char *what) {
        _cleanup_job_request_ JobRequest request = {
                .type = type,
                .uid = JOB_UID_INTERNAL,
                .fds = JOB_FDS_INIT,
        };
        Failure why = FAILURE_INIT;

        if (m->stopping || find_unfinished(m, type))
                return;
        request.parameters = json_object_new_object();
        if (job_submit(m, &request, NULL, &why) < 0)
                log_error("Cannot %s: %s", what, why.text);
}

/*
 * A restore in the middle is left by a worker that died: nobody but us would finish or undo it
 * before the next boot. One that still runs holds its services' locks, and the recovery passes it
 * over.
 */
static void recover_restores(Manager *m) {
        m->recover_wanted = false;
        begin(m, JOB_RECOVER, "recover an unfinished restore");
}

/*
 * Images of a backup that was lost take room, and an LVM one slows all writes of its origin: they
 * do not wait for the next backup. If this one does not work, they do.
 */
static void sweep_images(Manager *m) {
        m->sweep_wanted = false;
        begin(m, JOB_SWEEP, "remove what a lost backup left");
}

void reconcile_ended(Job *j) {
        Manager *m = j->manager;

        m->judged = true;
        if (j->n_corrected > 0)
                job_log(j, LOG_NOTICE,
                        "The catalogue was not what repository and workers say: %u rows of backups "
                        "and restores corrected",
                        j->n_corrected);
        if (m->recover_wanted)
                recover_restores(m);
        if (j->result != JOB_DONE) {
                reconcile_retry(m);
                return;
        }
        m->reconcile_failures = 0;
        if (m->reconcile_again)
                reconcile_request(m);
        else if (m->reconcile_follow) {
                m->reconcile_follow = false;
                schedule(m, FOLLOW_USEC);
        } else if (m->sweep_wanted)
                sweep_images(m); /* the lost worker had its time to stop */
}
