/*
 * The queue. Jobs stand in the order of their numbers. Writing jobs run one at a time, reading jobs
 * at most four beside it; neither line waits for the other. Nothing here blocks: starting a job is
 * connecting to a socket, everything else arrives as events.
 */

#include "agent/job.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/bus.h"
#include "agent/catalogue.h"
#include "agent/job-events.h"
#include "agent/job-log.h"
#include "agent/job-rules.h"
#include "agent/job-worker.h"
#include "agent/reconcile.h"
#include "agent/service.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/names.h"
#include "base/proto.h"

#define READING_JOBS_MAX    4
#define FINISHED_SHOWN_USEC (5 * 60 * USEC_PER_SEC)
/* So that a storm of short jobs, or of ones that have much to say, does not pile up objects. */
#define FINISHED_SHOWN_MAX   500
#define FINISHED_SHOWN_BYTES ((size_t) 2 << 20) /* of summaries */

static const char *const state_names[] = {
        [JOB_QUEUED] = "queued",
        [JOB_RUNNING] = "running",
        [JOB_CANCELING] = "canceling",
        [JOB_FINISHED] = "finished",
};

static const char *const result_names[] = {
        [JOB_NONE] = "",           [JOB_DONE] = "done",
        [JOB_PARTIAL] = "partial", [JOB_CANCELED] = "canceled",
        [JOB_FAILED] = "failed",   [JOB_INTERRUPTED] = "interrupted",
};

const char *job_state_text(JobState state) {
        return state_names[state];
}

const char *job_result_text(JobResult result) {
        return result_names[result];
}

int job_result_from_text(const char *s, JobResult *ret) {
        static const JobResult said[] = { JOB_DONE, JOB_PARTIAL, JOB_CANCELED, JOB_FAILED };

        for (size_t i = 0; i < ELEMENTSOF(said); i++)
                if (strcmp(s, result_names[said[i]]) == 0) {
                        *ret = said[i];
                        return 0;
                }
        return -EINVAL;
}

int job_state_from_text(const char *s, JobState *ret) {
        for (size_t i = 0; i < ELEMENTSOF(state_names); i++)
                if (strcmp(s, state_names[i]) == 0) {
                        *ret = (JobState) i;
                        return 0;
                }
        return -EINVAL;
}

uint64_t job_rate(const Job *j) {
        return j->state == JOB_FINISHED ? 0 : job_rate_now(&j->rate, clock_monotonic_usec());
}

uint64_t job_expected_end_usec(const Job *j) {
        uint64_t left;

        if (j->state == JOB_FINISHED || j->bytes_total <= j->bytes_done)
                return 0;
        left = job_rate_left_usec(&j->rate, clock_monotonic_usec(), j->bytes_total - j->bytes_done);
        return left > 0 ? clock_realtime_usec() + left : 0;
}

void job_path(uint32_t id, char ret[JOB_PATH_MAX]) {
        (void) snprintf(ret, JOB_PATH_MAX, HP_BUS_JOB_PREFIX "/_%u", id);
}

void job_error_name(const Job *j, char ret[128]) {
        ret[0] = 0;
        if (j->failure.code != FAIL_NONE)
                (void) snprintf(ret, 128, HP_BUS_ERROR_PREFIX "%s", fail_name(j->failure.code));
}

bool job_is_cancelable(const Job *j) {
        return j->state == JOB_QUEUED || (j->state == JOB_RUNNING && !j->committed);
}

Job *job_find(Manager *m, uint32_t id) {
        for (size_t i = 0; i < m->n_jobs; i++)
                if (m->jobs[i]->id == id)
                        return m->jobs[i];
        return NULL;
}

static int put_numbers(json_object *o, const Job *j) {
        const struct {
                const char *key;
                uint64_t value;
        } numbers[] = {
                { "id", j->id },
                { "started_by_uid", j->uid },
                { "queued_usec", j->queued_usec },
                { "started_usec", j->started_usec },
                { "finished_usec", j->finished_usec },
                { "bytes_done", j->bytes_done },
                { "bytes_total", j->bytes_total },
                { "files_done", j->files_done },
                { "files_total", j->files_total },
                { "rate", job_rate(j) },
                { "expected_end_usec", job_expected_end_usec(j) },
                { "pause_usec", j->pause_usec },
        };

        for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
                if (json_put_u64(o, numbers[i].key, numbers[i].value) < 0)
                        return -ENOMEM;
        return 0;
}

json_object *job_to_json(const Job *j) {
        _cleanup_json_ json_object *o = json_object_new_object();
        char path[JOB_PATH_MAX], error[128];

        job_path(j->id, path);
        job_error_name(j, error);
        if (!o || put_numbers(o, j) < 0 || json_put_string(o, "job", path) < 0 ||
            json_put_string(o, "task_id", j->task_id) < 0 ||
            json_put_string(o, "type", job_type_text(j->type)) < 0 ||
            json_put_string(o, "backup_id", j->backup_id) < 0 ||
            json_put_string(o, "restore_id", j->restore_id) < 0 ||
            json_put(o, "services", strings_to_json(&j->services)) < 0 ||
            json_put_string(o, "state", job_state_text(j->state)) < 0 ||
            json_put_string(o, "phase", j->phase) < 0 ||
            json_put(o, "progress", json_object_new_double(j->progress)) < 0 ||
            json_put_bool(o, "cancelable", job_is_cancelable(j)) < 0 ||
            json_put_string(o, "result", job_result_text(j->result)) < 0 ||
            json_put_string(o, "error_name", error) < 0 ||
            json_put_path(o, "error_message", j->failure.text) < 0 ||
            json_put(o, "summary",
                     j->summary ? json_object_get(j->summary) : json_object_new_object()) < 0)
                return NULL;
        return TAKE_PTR(o);
}

static void tell_unwritten(const Job *j, const char *what, const char *why) {
        const LogFields f = job_log_fields(j);

        log_message(MESSAGE_CATALOGUE_UNWRITTEN, &f, "Job %u: %s could not be written: %s", j->id,
                    what, why);
}

static void save(Job *j) {
        _cleanup_json_ json_object *o = job_to_json(j);
        Failure why = FAILURE_INIT;

        catalog_relax(j->manager->catalog, job_is_reading(j));
        if (!o || catalog_put_task(j->manager->catalog, o, &why) < 0)
                tell_unwritten(j, "its history", o ? why.text : "out of memory");
        catalog_relax(j->manager->catalog, false);
}

void job_free(Job *j) {
        if (!j)
                return;
        job_worker_close(j);
        sd_event_source_disable_unref(j->changed);
        sd_event_source_disable_unref(j->expire);
        job_fds_done(&j->fds);
        bus_hold_free(j->hold);
        json_object_put(j->request);
        json_object_put(j->summary);
        json_object_put(j->rows);
        strings_done(&j->services);
        free(j);
}

static void forget(Job *j) {
        Manager *m = j->manager;
        size_t i = 0;

        bus_job_gone(j);
        while (m->jobs[i] != j)
                i++;
        memmove(m->jobs + i, m->jobs + i + 1, (m->n_jobs - i - 1) * sizeof(*m->jobs));
        m->n_jobs--;
        job_free(j);
}

static int on_expire(sd_event_source *source, uint64_t usec, void *userdata) {
        forget(userdata);
        return 0;
}

static int on_queue(sd_event_source *source, void *userdata) {
        job_run_queue(userdata);
        return 0;
}

/* Before the next message of a client, but after the reply to this one. */
static void wake_queue(Manager *m) {
        int r;

        if (m->stopping)
                return;
        if (m->queue_source)
                r = sd_event_source_set_enabled(m->queue_source, SD_EVENT_ONESHOT);
        else {
                r = sd_event_add_defer(m->event, &m->queue_source, on_queue, m);
                if (r >= 0)
                        r = sd_event_source_set_priority(m->queue_source,
                                                         SD_EVENT_PRIORITY_IMPORTANT);
        }
        if (r < 0)
                log_error("Cannot schedule the queue of jobs: %s", strerror(-r));
}

static void copy_id(char ret[UUID_TEXT_MAX], const char *id) {
        (void) snprintf(ret, UUID_TEXT_MAX, "%s", id ? id : "");
}

/* Completes the request to the worker: it names the verb and what descriptors come along. */
static int complete_request(Job *j, const JobRequest *q) {
        const char *verb = q->verb ? q->verb : job_type_verb(q->type);

        if (!j->request || json_put_string(j->request, "type", "request") < 0 ||
            json_put_string(j->request, "verb", verb) < 0 ||
            json_put_u64(j->request, "job", j->id) < 0 ||
            json_put_string(j->request, "task", j->task_id) < 0 ||
            json_put(j->request, "about", strings_to_json(&j->services)) < 0 ||
            json_put_bool(j->request, "into", j->fds.directory >= 0) < 0 ||
            json_put_bool(j->request, "stream", j->fds.stream >= 0) < 0 ||
            json_put_bool(j->request, "key", j->fds.key >= 0) < 0)
                return -ENOMEM;
        return 0;
}

static int fill(Job *j, const JobRequest *q, Failure *reterr) {
        uint8_t task[16];
        const char *text;
        int r;

        r = text_uuid_new(task);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot make an id for the job");
        text_uuid_format(task, j->task_id);
        copy_id(j->backup_id, q->backup_id);
        copy_id(j->other_id, q->other_id);
        copy_id(j->restore_id, q->restore_id);
        j->type = q->type;
        j->uid = q->uid;
        j->aside = j->fds.directory >= 0;
        j->allow_partial = q->allow_partial;
        j->queued_usec = clock_realtime_usec();
        for (size_t i = 0; q->services && i < q->services->n; i++)
                if (strings_add(&j->services, q->services->items[i]) < 0)
                        return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        text = complete_request(j, q) < 0 ? NULL : json_text(j->request);
        if (!text)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        if (strlen(text) > PROTO_MESSAGE_MAX)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, E2BIG,
                                "the arguments are too long for one request: pass fewer paths");
        return 0;
}

static int put_both(Catalog *c, json_object *task, json_object *backup, Failure *reterr) {
        int r = catalog_batch_begin(c, reterr);

        if (r < 0)
                return r;
        if (backup)
                r = catalog_put_backup(c, backup, NULL, reterr);
        if (r >= 0)
                r = catalog_put_task(c, task, reterr);
        if (r < 0) {
                catalog_batch_cancel(c);
                return r;
        }
        return catalog_batch_commit(c, reterr);
}

/*
 * One transaction: no job without its backup's row, no row without its job. What only reads waits
 * for no disk, or many who ask would slow down everybody while a backup writes.
 */
static int write_down(Manager *m, Job *j, json_object *backup, Failure *reterr) {
        _cleanup_json_ json_object *task = job_to_json(j);
        int r;

        if (!task)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        catalog_relax(m->catalog, job_is_reading(j));
        r = put_both(m->catalog, task, backup, reterr);
        catalog_relax(m->catalog, false);
        return r;
}

static int add(Manager *m, Job *j, json_object *backup, Failure *reterr) {
        Job **jobs = reallocarray(m->jobs, m->n_jobs + 1, sizeof(*jobs));
        int r;

        if (!jobs)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        m->jobs = jobs;
        r = write_down(m, j, backup, reterr);
        if (r < 0 && catalogue_leave(m, r)) {
                *reterr = FAILURE_INIT;
                r = write_down(m, j, backup, reterr);
        }
        if (r < 0)
                return r;
        m->jobs[m->n_jobs++] = j;
        m->next_job_id++;
        return 0;
}

void job_fds_done(JobFds *fds) {
        fd_close(fds->directory);
        fd_close(fds->stream);
        fd_close(fds->key);
        *fds = JOB_FDS_INIT;
}

void job_request_done(JobRequest *q) {
        json_object_put(q->parameters);
        q->parameters = NULL;
        job_fds_done(&q->fds);
}

static Job *job_new(Manager *m, JobRequest *q) {
        Job *j = calloc(1, sizeof(*j));

        if (!j) {
                job_request_done(q);
                return NULL;
        }
        j->manager = m;
        j->id = m->next_job_id;
        j->socket = -1;
        j->request = TAKE_PTR(q->parameters);
        j->fds = q->fds;
        q->fds = JOB_FDS_INIT;
        return j;
}

int job_submit(Manager *m, JobRequest *q, Job **ret, Failure *reterr) {
        Job *j = job_new(m, q);
        int r;

        if (!j)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        r = fill(j, q, reterr);
        if (r >= 0)
                r = job_rules_check(m, j, reterr);
        if (r >= 0)
                r = add(m, j, q->backup, reterr);
        if (r < 0) {
                job_free(j);
                return r;
        }
        job_log_queued(j);
        bus_job_added(j);
        wake_queue(m);
        if (ret)
                *ret = j;
        return 0;
}

void job_set_state(Job *j, JobState state) {
        static const bool legal[][JOB_FINISHED + 1] = {
                [JOB_QUEUED] = { [JOB_RUNNING] = true, [JOB_FINISHED] = true },
                [JOB_RUNNING] = { [JOB_CANCELING] = true, [JOB_FINISHED] = true },
                [JOB_CANCELING] = { [JOB_FINISHED] = true },
                [JOB_FINISHED] = { false },
        };

        assert(legal[j->state][state]);
        job_log(j, LOG_DEBUG, "Job %u: %s -> %s", j->id, job_state_text(j->state),
                job_state_text(state));
        j->state = state;
        if (state == JOB_RUNNING) {
                j->started_usec = clock_realtime_usec();
                bus_manager_changed(j->manager, "RunningJobs");
                bus_manager_changed(j->manager, "State");
        }
        if (state == JOB_FINISHED)
                j->finished_usec = clock_realtime_usec();
        else
                bus_job_changed(j);
}

/* What only the catalogue can tell, and what may have changed while the job waited. */
static int check_restorable(Job *j, Failure *reterr) {
        _cleanup_json_ json_object *backup = NULL;
        const char *status = "";
        int r = catalog_get_backup(j->manager->catalog, j->backup_id, &backup, reterr);

        if (r == -ENOENT)
                return fail_set(reterr, FAIL_NO_SUCH_BACKUP, ENOENT, "backup %s has been deleted",
                                j->backup_id);
        if (r < 0)
                return r;
        (void) json_get_string(backup, "status", &status);
        if (strcmp(status, "completed") == 0 ||
            (strcmp(status, "partial") == 0 && j->allow_partial))
                return 0;
        return fail_set(
                reterr, FAIL_NOT_RESTORABLE, EINVAL, "backup %s is %s%s", j->backup_id, status,
                strcmp(status, "partial") == 0 ? ": allow_partial would restore what there is"
                                               : ": choose a completed one");
}

static int begin_restore(Job *j, Failure *reterr) {
        _cleanup_json_ json_object *row = NULL;
        int r = check_restorable(j, reterr);

        if (r < 0 || j->aside)
                return r;
        row = record_new_restore(j->restore_id, j->backup_id, &j->services);
        if (!row)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        return catalog_put_restore(j->manager->catalog, row, reterr);
}

static void start(Job *j) {
        Failure why = FAILURE_INIT;

        job_set_state(j, JOB_RUNNING);
        job_log_started(j);
        if (j->type == JOB_RESTORE && begin_restore(j, &why) < 0) {
                job_finish(j, JOB_FAILED, &why, NULL);
                return;
        }
        if (j->type == JOB_RECONCILE && catalog_reconcile_start(j->manager->catalog, &why) < 0) {
                job_finish(j, JOB_FAILED, &why, NULL);
                return;
        }
        save(j);
        job_worker_start(j);
}

void job_run_queue(Manager *m) {
        unsigned writing = 0, reading = 0;

        for (size_t i = 0; i < m->n_jobs; i++) {
                const Job *j = m->jobs[i];

                if (j->state == JOB_RUNNING || j->state == JOB_CANCELING)
                        *(job_is_reading(j) ? &reading : &writing) += 1;
        }
        for (size_t i = 0; i < m->n_jobs && !m->stopping; i++) {
                Job *j = m->jobs[i];
                unsigned *count = job_is_reading(j) ? &reading : &writing;

                if (j->state != JOB_QUEUED || *count >= (job_is_reading(j) ? READING_JOBS_MAX : 1))
                        continue;
                start(j);
                /* One that failed at once has woken the queue again. */
                *count += j->state != JOB_FINISHED;
        }
}

/* Too many finished objects: the oldest go at once. `keep` is the newest. */
static void bound_finished(Manager *m, const Job *keep) {
        for (;;) {
                size_t n = 0, bytes = 0;
                Job *oldest = NULL;

                for (size_t i = 0; i < m->n_jobs; i++)
                        if (m->jobs[i]->state == JOB_FINISHED) {
                                n++;
                                bytes += m->jobs[i]->summary_bytes;
                                if (!oldest)
                                        oldest = m->jobs[i];
                        }
                if (!oldest || oldest == keep ||
                    (n <= FINISHED_SHOWN_MAX && bytes <= FINISHED_SHOWN_BYTES))
                        return;
                forget(oldest);
        }
}

/* Finished objects go after a while. */
static void let_expire(Job *j) {
        int r;

        if (j->manager->stopping)
                return; /* all objects go */
        r = sd_event_add_time_relative(j->manager->event, &j->expire, CLOCK_MONOTONIC,
                                       FINISHED_SHOWN_USEC, USEC_PER_SEC, on_expire, j);
        if (r < 0)
                job_log(j, LOG_WARNING, "Job %u: its object stays until the agent ends: %s", j->id,
                        strerror(-r));
        bound_finished(j->manager, j);
}

static int complete_summary(Job *j, json_object *summary) {
        char error[128];

        j->summary = summary ? summary : json_object_new_object();
        job_error_name(j, error);
        if (!j->summary ||
            (*j->backup_id && json_put_string(j->summary, "backup_id", j->backup_id) < 0) ||
            (*j->restore_id && json_put_string(j->summary, "restore_id", j->restore_id) < 0))
                return -ENOMEM;
        if (!*error)
                return 0;
        return json_put_string(j->summary, "error_name", error) < 0
                       ? -ENOMEM
                       : json_put_path(j->summary, "error_message", j->failure.text);
}

/* What a schedule made takes the place of what is past its retention. */
static void prune_after(const Job *backup) {
        Manager *m = backup->manager;
        _cleanup_job_request_ JobRequest q = {
                .type = JOB_PRUNE,
                .uid = JOB_UID_INTERNAL,
                .parameters = json_object_new_object(),
                .fds = JOB_FDS_INIT,
        };
        Failure why = FAILURE_INIT;

        for (size_t i = 0; i < m->n_jobs; i++)
                if (m->jobs[i]->type == JOB_PRUNE && m->jobs[i]->state == JOB_QUEUED)
                        return; /* it will see this backup, too */
        if (json_put_bool(q.parameters, "dry_run", false) < 0 || job_submit(m, &q, NULL, &why) < 0)
                log_warning("Schedule '%s': what is past its retention stays until the next "
                            "prune: %s",
                            backup->schedule, why.text);
}

static void write_end(Job *j) {
        Catalog *c = j->manager->catalog;
        Failure failure = FAILURE_INIT;
        bool batch;

        catalog_relax(c, job_is_reading(j));
        batch = catalog_batch_begin(c, &failure) >= 0;
        job_events_settle(j);
        save(j);
        if (batch && catalog_batch_commit(c, &failure) < 0) {
                tell_unwritten(j, "its end", failure.text);
                reconcile_request(j->manager);
        }
        catalog_relax(c, false);
}

void job_finish(Job *j, JobResult result, const Failure *why, json_object *summary) {
        Manager *m = j->manager;

        job_worker_close(j);
        job_fds_done(&j->fds);
        json_object_put(j->request);
        j->request = NULL;
        j->result = result;
        if (result != JOB_DONE)
                j->failure = *why;
        else
                j->progress = 1;
        job_set_state(j, JOB_FINISHED);
        if (complete_summary(j, summary) < 0)
                job_log(j, LOG_WARNING, "Job %u: out of memory, its summary is not complete",
                        j->id);
        j->summary_bytes = strlen(json_text(j->summary) ?: "");
        job_log_end(j);
        write_end(j);
        bus_job_finished(j);
        if (j->type == JOB_RECONCILE)
                reconcile_ended(j);
        else if (result == JOB_INTERRUPTED) {
                m->sweep_wanted |= j->type == JOB_BACKUP;
                reconcile_after_loss(m);
        }
        service_update_overdue(m);
        if (j->type == JOB_BACKUP && result == JOB_DONE && *j->schedule)
                prune_after(j);
        let_expire(j);
        wake_queue(m);
}

int job_cancel(Job *j, Failure *reterr) {
        Failure why = FAILURE_INIT;

        if (j->state == JOB_FINISHED)
                return fail_set(reterr, FAIL_NO_SUCH_JOB, ENOENT, "job %u has finished already",
                                j->id);
        if (j->state == JOB_CANCELING)
                return 0;
        if (j->committed)
                return fail_set(reterr, FAIL_BUSY, EBUSY,
                                "job %u cannot be canceled any more: it is about to end", j->id);
        if (j->state == JOB_QUEUED || j->socket < 0) {
                (void) fail_set(&why, FAIL_CANCELED, ECANCELED, "canceled before it began");
                job_finish(j, JOB_CANCELED, &why, NULL);
                return 0;
        }
        job_set_state(j, JOB_CANCELING);
        job_worker_cancel(j);
        return 0;
}
