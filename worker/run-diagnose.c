/*
 * diagnose: looks at everything that a backup or a restore will need, and tells what is wrong and
 * what to do about it. It runs also where nothing else does, so the configuration and the state are
 * opened here, and a broken one is a finding like any other.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "worker/diagnose.h"
#include "worker/run.h"
#include "worker/state.h"

#define SERVICES_TOLD_MAX 256
#define STATE_LEAST_BYTES (UINT64_C(1) << 20)

static void diagnosis_done(Diagnosis *d) {
        findings_done(&d->findings);
        systemd_close(d->systemd);
        free(d->services);
}

static int open_configuration(Diagnosis *d, Failure *reterr) {
        Work *w = d->work;
        Failure f = FAILURE_INIT;

        if (config_load(config_dir(), &w->config, &f) < 0) {
                findings_add(&d->findings, FINDING_ERROR, ABOUT("configuration", config_dir()),
                             "correct it, then 'systemctl reload-or-restart holdpointd'; "
                             "'holdpointd --check-config' prints the next mistake",
                             "%s", f.text);
                return 0;
        }
        d->services = calloc(w->config->n_services + 1, sizeof(*d->services));
        if (!d->services)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "diagnosis");
        findings_add(&d->findings, FINDING_OK, ABOUT("configuration", config_dir()), NULL,
                     "valid, %zu services", w->config->n_services);
        if (w->config->n_services == 0)
                findings_add(&d->findings, FINDING_WARNING,
                             ABOUT("configuration.services", config_dir()),
                             "add a file to services.d/; holdpoint.conf(5) has the keys",
                             "no service is configured: there is nothing to back up");
        for (size_t i = 0; i < w->config->warnings.n; i++)
                findings_add(&d->findings, FINDING_WARNING,
                             ABOUT("configuration.defaults", config_dir()),
                             "take one of the two out, or correct it", "%s",
                             w->config->warnings.items[i]);
        return 0;
}

/* NULL: it can be. */
static const char *why_unwritable(int fd) {
        uint64_t free_bytes, total;

        if (faccessat(fd, ".", W_OK, 0) < 0)
                return strerror(errno);
        return fs_space(fd, &free_bytes, &total) >= 0 && free_bytes < STATE_LEAST_BYTES
                       ? strerror(ENOSPC)
                       : NULL;
}

static void open_state(Diagnosis *d) {
        Failure f = FAILURE_INIT;
        const char *why;

        d->work->state_fd = state_open(&f);
        why = d->work->state_fd < 0 ? f.text : why_unwritable(d->work->state_fd);
        if (why)
                findings_add(&d->findings, FINDING_ERROR, ABOUT("state", "the workers' state"),
                             "make it a directory of root's with mode 0700, on a file system that "
                             "has room and can be written: without it there is reading alone",
                             "%s", why);
        else
                findings_add(&d->findings, FINDING_OK, ABOUT("state", "the workers' state"), NULL,
                             "there, and root's alone");
}

static void open_systemd(Diagnosis *d) {
        Failure f = FAILURE_INIT;
        int r = systemd_open(&d->systemd, &f);

        if (r < 0)
                findings_add(&d->findings, FINDING_NOTE, ABOUT("systemd", "systemd"), NULL,
                             "%s: units, sandboxes and timers were not looked at",
                             f.code != FAIL_NONE ? f.text : "not on the bus");
}

static int look_at_host(Diagnosis *d, Failure *reterr) {
        void (*const parts[])(Diagnosis *) = {
                diagnose_files,    diagnose_keys,  diagnose_repository,
                diagnose_restores, diagnose_units, diagnose_schedules,
        };

        for (size_t i = 0; i < ELEMENTSOF(parts); i++) {
                int r = work_check(d->work, reterr);

                if (r < 0)
                        return r;
                parts[i](d);
        }
        return 0;
}

static int look_at_services(Diagnosis *d, Failure *reterr) {
        const Config *c = d->work->config;

        for (size_t i = 0; c && i < c->n_services; i++) {
                int r = work_check(d->work, reterr);

                if (r < 0)
                        return r;
                diagnose_service(d, &c->services[i], &d->services[i]);
                diagnose_units_of(d, &c->services[i]);
        }
        /* A walk that was interrupted looked like a failure of its service. */
        return work_check(d->work, reterr);
}

/* The agent compares them with those it knows itself; a message has an end. */
static int put_services(const Diagnosis *d) {
        const Config *c = d->work->config;
        json_object *names;

        if (!c || c->n_services > SERVICES_TOLD_MAX)
                return 0;
        names = json_object_new_array();
        for (size_t i = 0; names && i < c->n_services; i++)
                if (json_object_array_add(names, json_object_new_string(c->services[i].name)) < 0) {
                        json_object_put(names);
                        return -ENOMEM;
                }
        return json_put(d->findings.rest, "services", names);
}

int run_diagnose(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(diagnosis_done) Diagnosis d = { .work = w };
        int r = findings_init(&d.findings);

        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "diagnosis");
        work_accepted(w);
        work_phase(w, "diagnose");
        r = open_configuration(&d, reterr);
        if (r < 0)
                return r;
        open_state(&d);
        open_systemd(&d);
        r = look_at_host(&d, reterr);
        if (r >= 0)
                r = look_at_services(&d, reterr);
        if (r < 0)
                return r;
        *ret_summary = put_services(&d) < 0 ? NULL : findings_report(&d.findings);
        return *ret_summary ? 0 : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "diagnosis");
}
