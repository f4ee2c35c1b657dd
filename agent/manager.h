#pragma once

/*
 * The one object that owns everything: event loop, bus, catalogue, configuration and jobs.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "agent/record.h"
#include "base/config.h"
#include "base/fail.h"
#include "sql/catalog.h"

typedef struct Job Job;
typedef struct sd_bus sd_bus;
typedef struct PendingCall PendingCall;
typedef struct ServiceSeen ServiceSeen;
typedef struct BusDenials BusDenials;

/* What the last worker said of the recipient's key. */
typedef struct ManagerKeys {
        bool known, private_key, recovery_exported, recovery_proven;
} ManagerKeys;

typedef struct Manager {
        sd_event *event;
        sd_bus *bus;
        Catalog *catalog;
        bool catalogue_away; /* it lies in the runtime directory; catalogue.c */
        sd_event_source *return_timer;
        Config *config;
        const char *workers_dir; /* borrowed from the environment */

        Job **jobs; /* by number, finished ones that are still shown included */
        size_t n_jobs;
        uint32_t next_job_id;
        sd_event_source *queue_source;

        sd_event_source *reconcile_timer;
        unsigned reconcile_failures;
        bool reconcile_again;  /* something changed while one was running */
        bool recover_wanted;   /* a reconcile met a restore that is in the middle */
        bool sweep_wanted;     /* a worker that made images may have left some */
        bool reconcile_follow; /* a worker of ours may still be stopping: ask once more later */

        bool judged; /* the catalogue has been corrected (or that was tried): services may be
                        overdue */
        ConfigStrings overdue;
        ServiceSeen *seen; /* since when we know of each service's last good backup; service.c */
        sd_event_source *overdue_timer;

        uint32_t changed; /* properties that have to be told, by their place in bus.c */
        sd_event_source *changed_timer;
        uint64_t changed_usec; /* when they were last told (monotonic) */

        uint64_t stored_bytes, free_bytes;
        ManagerKeys keys;
        bool workers_reachable;
        PendingCall *pending_calls; /* waiting for an answer about their sender; bus-auth.c */
        BusDenials *denials;        /* who was refused lately, and how often; bus-audit.c */
        bool stopping;
} Manager;

/* Opens the catalogue, then the bus. Owned. `config` is taken. */
int manager_new(Config *config, Manager **ret, Failure *reterr);
Manager *manager_free(Manager *m);

/* Runs until told to stop. The program's exit code. */
int manager_run(Manager *m);

/* Reads the configuration again; a bad one changes nothing. */
int manager_reload(Manager *m, Failure *reterr);

static inline void manager_freep(Manager **m) {
        manager_free(*m);
}

/* STATE_DIRECTORY or its default. */
const char *manager_state_dir(void);
