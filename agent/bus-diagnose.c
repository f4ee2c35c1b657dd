/*
 * Diagnose: a worker looks at what only root sees; what only the agent knows is added here. A
 * worker that could not do it is what there is to tell then, so the call is answered all the same.
 */

#include <errno.h>
#include <string.h>

#include "agent/bus-internal.h"
#include "agent/service.h"
#include "base/findings.h"
#include "base/names.h"

#define RATE_SPAN_USEC (UINT64_C(30) * 86400 * USEC_PER_SEC)
#define RATE_PERCENT   90 /* fewer good ones of a month than this are worth a look */

static void tell_worker(Findings *l, const Job *j) {
        findings_add(l, FINDING_ERROR, ABOUT("workers", "holdpoint-backup.socket"),
                     "see 'systemctl status holdpoint-backup.socket', and the journal of "
                     "holdpoint-backup@.service",
                     "no worker could look at configuration, data and repository: %s",
                     j->failure.text);
}

static bool knows_them(Manager *m, json_object *names) {
        size_t n = json_object_array_length(names);

        if (n != m->config->n_services)
                return false;
        for (size_t i = 0; i < n; i++) {
                const char *name = json_object_get_string(json_object_array_get_idx(names, i));

                if (!name || !config_service(m->config, name))
                        return false;
        }
        return true;
}

/* The files may have changed since the agent read them. */
static void tell_configuration(Findings *l, Manager *m, json_object *report) {
        json_object *names;

        if (json_get_array(report, "services", &names) < 0)
                return; /* the worker found it broken, and says so */
        if (!knows_them(m, names))
                findings_add(l, FINDING_ERROR, ABOUT("agent.configuration", "holdpointd"),
                             "run 'systemctl reload holdpointd'",
                             "the agent has other services than the configuration: it was not "
                             "reloaded");
}

static void tell_catalogue(Findings *l, const Manager *m) {
        if (m->catalogue_away)
                findings_add(l, FINDING_WARNING, ABOUT("agent.catalogue", "catalogue.db"),
                             "make room there, or make it writable again; 'systemctl reload "
                             "holdpointd' tries at once",
                             "%s cannot be written: the history of jobs is in memory alone",
                             manager_state_dir());
}

static void tell_rate(Findings *l, Manager *m, const char *type, const char *check) {
        Failure why = FAILURE_INIT;
        uint64_t done, all;

        if (catalog_task_rate(m->catalog, type, clock_ago_usec(RATE_SPAN_USEC), &done, &all, &why) <
            0)
                findings_add(l, FINDING_WARNING, ABOUT("agent.catalogue", "catalogue.db"),
                             "see the journal of holdpointd", "%s", why.text);
        else if (all > 0)
                findings_add(l, done * 100 < all * RATE_PERCENT ? FINDING_WARNING : FINDING_OK,
                             ABOUT(check, type),
                             done * 100 < all * RATE_PERCENT ? "'holdpoint jobs' tells why" : NULL,
                             "%llu of %llu %s jobs of the last 30 days were good",
                             (unsigned long long) done, (unsigned long long) all, type);
}

/* A worker goes by the repository; this is for when there was none. */
static void tell_overdue(Findings *l, const Manager *m) {
        for (size_t i = 0; i < m->overdue.n; i++)
                findings_add(l, FINDING_ERROR,
                             &(FindingAbout){ "service.backup", m->overdue.items[i],
                                              m->overdue.items[i] },
                             "'holdpoint jobs' tells why; 'holdpoint create' makes one", "overdue");
}

static int look(Manager *m, const Job *j, Findings *l) {
        int r = 0;

        findings_add(l, FINDING_OK, ABOUT("agent", "holdpointd"), NULL, "version %s, %zu services",
                     HOLDPOINT_VERSION, m->config->n_services);
        tell_catalogue(l, m);
        tell_rate(l, m, "backup", "jobs.backup");
        tell_rate(l, m, "restore", "jobs.restore");
        if (j->result == JOB_DONE) {
                tell_configuration(l, m, j->summary);
                r = findings_merge(l, j->summary);
        } else {
                tell_worker(l, j);
                tell_overdue(l, m);
        }
        return r;
}

int bus_diagnose_answer(sd_bus_message *call, const Job *j, int fd, Failure *reterr) {
        _cleanup_json_ json_object *report = NULL;
        Findings l;
        int r;

        if (j->result == JOB_CANCELED)
                return -ECANCELED; /* with the job's own failure */
        r = findings_init(&l);
        if (r >= 0)
                r = look(j->manager, j, &l);
        if (r >= 0) {
                report = findings_report(&l);
                r = report ? 0 : -ENOMEM;
        }
        findings_done(&l);
        if (r >= 0)
                return bus_reply_dictionary(call, report, bus_append_summary, reterr);
        *reterr = FAILURE_INIT;
        return fail_errno(reterr, FAIL_INTERNAL, -r, "the worker's report");
}

int bus_diagnose(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        _cleanup_job_request_ JobRequest q = {
                .type = JOB_DIAGNOSE,
                .uid = uid,
                .parameters = json_object_new_object(),
                .fds = JOB_FDS_INIT,
        };
        int r = bus_read_options(call, NULL, 0, reterr);

        return r < 0 ? r : bus_hold_submit(m, call, &q, bus_diagnose_answer, -1, reterr);
}
