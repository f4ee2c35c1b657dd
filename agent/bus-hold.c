/*
 * Callers that wait for the end of a job: the reply is held back until its worker has ended. A
 * caller that leaves meanwhile takes its question along, and with it a job that nobody else has a
 * use for. One match for everybody is there from the start, so that none can leave unseen.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/bus-internal.h"
#include "agent/job-log.h"
#include "base/log.h"

struct BusHold {
        sd_bus_message *call;
        BusAnswer answer;
        int fd; /* goes with the answer; -1 */
};

void bus_hold_free(BusHold *h) {
        if (!h)
                return;
        sd_bus_message_unref(h->call);
        fd_close(h->fd);
        free(h);
}

int bus_hold_submit(Manager *m,
                    sd_bus_message *call,
                    JobRequest *request,
                    BusAnswer answer,
                    int fd,
                    Failure *reterr) {
        BusHold *h = malloc(sizeof(*h));
        Job *j;
        int r;

        if (!h) {
                fd_close(fd);
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        }
        *h = (BusHold){ .call = sd_bus_message_ref(call), .answer = answer, .fd = fd };
        r = job_submit(m, request, &j, reterr);
        if (r < 0) {
                bus_hold_free(h);
                return r;
        }
        j->hold = h;
        return 0;
}

void bus_hold_answer(Job *j) {
        BusHold *h = TAKE_PTR(j->hold);
        Failure why = j->failure;
        int r;

        if (!h)
                return;
        if (j->result == JOB_DONE || h->answer == bus_diagnose_answer)
                r = h->answer(h->call, j, h->fd, &why);
        else
                r = why.errnum > 0 ? -why.errnum : -EIO;
        if (r < 0)
                r = bus_error_reply(h->call, r, &why);
        if (r < 0)
                job_log(j, LOG_WARNING, "Job %u: the reply could not be sent, ignoring: %s", j->id,
                        strerror(-r));
        bus_hold_free(h);
}

static Job *find_held_by(Manager *m, const char *name) {
        for (size_t i = 0; i < m->n_jobs; i++) {
                const BusHold *h = m->jobs[i]->hold;

                if (h && strcmp(sd_bus_message_get_sender(h->call), name) == 0)
                        return m->jobs[i];
        }
        return NULL;
}

static int on_name_lost(sd_bus_message *signal, void *userdata, sd_bus_error *reterr_error) {
        Failure why = FAILURE_INIT;
        const char *name;
        Job *j;

        if (sd_bus_message_read(signal, "s", &name) <= 0)
                return 0;
        while ((j = find_held_by(userdata, name))) {
                job_log(j, LOG_INFO, "Job %u: who asked for it has left", j->id);
                bus_hold_free(TAKE_PTR(j->hold));
                if (job_is_reading(j) && job_cancel(j, &why) < 0)
                        job_log(j, LOG_DEBUG, "Job %u: %s", j->id, why.text);
        }
        return 0;
}

int bus_hold_watch(Manager *m) {
        return sd_bus_add_match_async(m->bus, NULL,
                                      "type='signal',sender='org.freedesktop.DBus',"
                                      "path='/org/freedesktop/DBus',"
                                      "interface='org.freedesktop.DBus',"
                                      "member='NameOwnerChanged',arg2=''",
                                      on_name_lost, NULL, m);
}
