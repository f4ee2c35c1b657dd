/*
 * What would only fail later, or be in somebody's way, is refused at the call. The locks of the
 * workers are what makes exclusion sure; these rules spare a user the wait.
 */

#include "agent/job-rules.h"

#include <errno.h>
#include <string.h>

static bool swaps(const Job *j) {
        return (j->type == JOB_RESTORE && !j->aside) || j->type == JOB_ROLLBACK ||
               j->type == JOB_CONFIRM;
}

static bool share_service(const Job *a, const Job *b) {
        for (size_t i = 0; i < b->services.n; i++)
                if (strings_has(&a->services, b->services.items[i]))
                        return true;
        return false;
}

static bool uses_backup(const Job *j, const char *id) {
        return strcmp(j->backup_id, id) == 0 || strcmp(j->other_id, id) == 0;
}

static int check_busy(Manager *m, const Job *new, Failure *reterr) {
        for (size_t i = 0; i < m->n_jobs; i++) {
                const Job *j = m->jobs[i];

                if (j->state == JOB_FINISHED)
                        continue;
                if (swaps(new) && swaps(j) && share_service(j, new))
                        return fail_set(
                                reterr, FAIL_BUSY, EBUSY,
                                "job %u (%s) of the same service is not finished: wait for it",
                                j->id, job_type_text(j->type));
                if (new->type == JOB_DELETE && uses_backup(j, new->backup_id))
                        return fail_set(reterr, FAIL_BUSY, EBUSY,
                                        "job %u (%s) uses backup %s: wait for it or cancel it",
                                        j->id, job_type_text(j->type), new->backup_id);
        }
        return 0;
}

static int check_limits(Manager *m, const Job *new, Failure *reterr) {
        uint32_t all = 0, own = 0;

        if (new->uid == JOB_UID_INTERNAL)
                return 0;
        for (size_t i = 0; i < m->n_jobs; i++) {
                const Job *j = m->jobs[i];

                if (j->state != JOB_QUEUED || j->uid == JOB_UID_INTERNAL)
                        continue;
                all++;
                own += j->uid == new->uid;
        }
        if (all >= m->config->max_queued_jobs)
                return fail_set(reterr, FAIL_QUEUE_FULL, EAGAIN,
                                "%u jobs are waiting already (MaxQueuedJobs=): try later", all);
        if (own >= m->config->max_queued_jobs_per_user)
                return fail_set(
                        reterr, FAIL_QUEUE_FULL, EAGAIN,
                        "%u of your jobs are waiting already (MaxQueuedJobsPerUser=): try later",
                        own);
        return 0;
}

int job_rules_check(Manager *m, const Job *new, Failure *reterr) {
        int r = check_busy(m, new, reterr);

        return r < 0 ? r : check_limits(m, new, reterr);
}
