/*
 * What a worker may say to the agent: each line of the input is a message to one job, whose type
 * the first byte chooses. The agent's own catalogue is written to, and nothing may end it.
 */

#include <string.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "agent/job-events.h"
#include "agent/job.h"
#include "base/proto.h"
#include "base/text.h"
#include "tests/fuzz/fuzz.h"

#define BACKUP_ID     "00000000-0000-4000-8000-000000000001"
#define RESTORE_ID    "00000000-0000-4000-8000-000000000002"
#define RUNS_PER_FILE 500 /* a catalogue grows with its history */

/* A manager as it is before the bus is there, with an empty catalogue now and then. */
static Manager *manager(void) {
        static Manager m = { .next_job_id = 1 };
        static unsigned runs;
        _cleanup_free_ char *dir = text_printf("%s/agent", fuzz_dir());
        Failure why = FAILURE_INIT;

        fuzz_assert(dir);
        if (runs++ % RUNS_PER_FILE == 0) {
                catalog_free(m.catalog);
                m.catalog = NULL;
                fuzz_remove(fuzz_dir_fd(), "agent");
                (void) close(fuzz_mkdir(fuzz_dir_fd(), "agent"));
                fuzz_assert(catalog_open(dir, &m.catalog, &why) == 0);
        }
        if (!m.event) {
                _cleanup_free_ char *etc = text_printf("%s/etc", fuzz_dir());

                (void) close(fuzz_mkdir(fuzz_dir_fd(), "etc"));
                fuzz_assert(sd_event_new(&m.event) >= 0);
                fuzz_assert(etc && config_load(etc, &m.config, &why) == 0);
                m.workers_dir = "/nowhere";
        }
        return &m;
}

static Job *begin(Manager *m, JobType type) {
        JobRequest q = {
                .type = type,
                .uid = JOB_UID_INTERNAL,
                .backup_id = BACKUP_ID,
                .restore_id = type == JOB_RESTORE ? RESTORE_ID : NULL,
                .verb = type == JOB_CONFIGURE ? "export-key" : NULL,
                .parameters = json_object_new_object(),
                .fds = JOB_FDS_INIT,
        };
        Failure why = FAILURE_INIT;
        Job *j = NULL;

        if (type == JOB_RECONCILE)
                fuzz_assert(catalog_reconcile_start(m->catalog, &why) == 0);
        fuzz_assert(job_submit(m, &q, &j, &why) == 0 && j);
        job_set_state(j, JOB_RUNNING);
        return j;
}

static void end_all(Manager *m) {
        for (size_t i = 0; i < m->n_jobs; i++)
                job_free(m->jobs[i]);
        m->n_jobs = 0;
        m->reconcile_timer = sd_event_source_disable_unref(m->reconcile_timer);
        m->queue_source = sd_event_source_disable_unref(m->queue_source);
        m->reconcile_again = m->recover_wanted = m->reconcile_follow = false;
        m->reconcile_failures = 0;
}

static void say(Job *j, FuzzInput line) {
        _cleanup_json_ json_object *message = json_parse((const char *) line.data, line.size);
        Failure why = FAILURE_INIT;
        double progress = j->progress;
        int r;

        if (!json_object_is_type(message, json_type_object))
                return;
        r = job_events_handle(j, message, &why);
        if (r < 0)
                fuzz_assert(why.code != FAIL_NONE && *why.text);
        fuzz_assert(j->progress >= progress && j->progress <= 1);
        fuzz_assert(memchr(j->phase, 0, sizeof(j->phase)));
        fuzz_assert((j->state == JOB_FINISHED) == (j->result != JOB_NONE));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        /* Inputs name them by their place here. */
        static const JobType types[] = {
                JOB_BACKUP,         JOB_RESTORE,    JOB_ROLLBACK,  JOB_CONFIRM, JOB_VERIFY,
                JOB_DELETE,         JOB_RECONCILE,  JOB_RECOVER,   JOB_IMPORT,  JOB_PLAN,
                JOB_VERIFY_RESTORE, JOB_EXPORT,     JOB_LIST,      JOB_DIFF,    JOB_PIN,
                JOB_PRUNE,          JOB_REPOSITORY, JOB_CONFIGURE,
        };
        FuzzInput in = { data, size };
        Manager *m = manager();
        Job *j = begin(m, types[fuzz_u8(&in) % ELEMENTSOF(types)]);

        while (in.size > 0 && j->state != JOB_FINISHED) {
                const uint8_t *end = memchr(in.data, '\n', in.size);

                say(j, fuzz_take(&in, end ? (size_t) (end - in.data) : in.size));
                (void) fuzz_take(&in, 1);
        }
        if (j->state == JOB_FINISHED) {
                _cleanup_json_ json_object *o = job_to_json(j);

                fuzz_assert(o && json_text(o));
        }
        end_all(m);
        return 0;
}
