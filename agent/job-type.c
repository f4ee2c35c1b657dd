/*
 * What kinds of jobs there are: one row each, so that a new kind cannot be half known.
 */

#include <string.h>

#include "agent/job.h"
#include "base/names.h"

typedef struct TypeRow {
        const char *name;   /* on the bus and in the catalogue */
        const char *verb;   /* of the worker, unless the request names one */
        const char *class;  /* of the worker */
        const char *action; /* who may begin a job may end it */
        bool reading;       /* runs beside a writing job */
} TypeRow;

#define ACTION(name) HP_POLKIT_PREFIX name

static const TypeRow rows[] = {
        [JOB_BACKUP] = { "backup", "create", "backup", ACTION("create"), false },
        [JOB_IMPORT] = { "import", "import", "backup", ACTION("manage-configuration"), false },
        [JOB_RESTORE] = { "restore", "restore", "restore", ACTION("restore"), false },
        [JOB_ROLLBACK] = { "rollback", "rollback", "restore", ACTION("restore"), false },
        [JOB_CONFIRM] = { "confirm", "confirm", "restore", ACTION("restore"), false },
        [JOB_PLAN] = { "plan", "plan", "restore", ACTION("restore"), true },
        [JOB_VERIFY] = { "verify", "verify", "maintain", ACTION("verify"), true },
        [JOB_VERIFY_RESTORE] = { "verify", "verify", "restore", ACTION("verify"), true },
        [JOB_EXPORT] = { "export", "export", "maintain", ACTION("read-files"), true },
        [JOB_LIST] = { "list", "list", "maintain", ACTION("read-files"), true },
        [JOB_DIFF] = { "diff", "diff", "maintain", ACTION("read-files"), true },
        [JOB_DELETE] = { "delete", "delete", "maintain", ACTION("delete"), false },
        [JOB_PIN] = { "pin", "pin", "maintain", ACTION("delete"), false },
        [JOB_PRUNE] = { "prune", "prune", "maintain", ACTION("delete"), false },
        [JOB_REPOSITORY] = { "repository", "repository", "maintain", ACTION("list"), true },
        [JOB_DIAGNOSE] = { "diagnose", "diagnose", "backup", ACTION("verify"), true },
        [JOB_CONFIGURE] = { "configure", NULL, "configure", ACTION("manage-keys"), false },
        [JOB_SCHEDULE] = { "configure", NULL, "configure", ACTION("manage-schedule"), true },
        [JOB_SCHEDULES] = { "configure", "list-schedules", "configure", ACTION("list"), true },
        [JOB_RECONCILE] = { "reconcile", "reconcile", "maintain", ACTION("manage-configuration"),
                            true },
        [JOB_RECOVER] = { "reconcile", "recover", "restore", ACTION("manage-configuration"),
                          false },
        [JOB_SWEEP] = { "reconcile", "sweep", "backup", ACTION("manage-configuration"), false },
};

const char *job_type_text(JobType type) {
        return rows[type].name;
}

bool job_type_is_known(const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(rows); i++)
                if (strcmp(rows[i].name, name) == 0)
                        return true;
        return false;
}

const char *job_type_verb(JobType type) {
        return rows[type].verb;
}

const char *job_type_class(JobType type) {
        return rows[type].class;
}

const char *job_type_action(JobType type) {
        return rows[type].action;
}

bool job_is_reading(const Job *j) {
        return rows[j->type].reading || (j->type == JOB_RESTORE && j->aside);
}
