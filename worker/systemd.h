#pragma once

/*
 * systemd over the bus: unit files and units. The one sd-bus client of the worker. Every call
 * blocks; a job of systemd (start, stop) is waited for until it ends.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/fail.h"
#include "base/json.h"

typedef struct Systemd Systemd;

/*
 * Connects, and finds systemd on the bus. -ENOENT with `reterr` untouched if it is not there: what
 * that means is the caller's to say.
 */
int systemd_open(Systemd **ret, Failure *reterr);
/* As above; early in boot, where there is no bus yet, over systemd's own socket. */
int systemd_open_early(Systemd **ret, Failure *reterr);
void systemd_close(Systemd *s);
DEFINE_CLEANUP(Systemd *, systemd_close);

/* True if the system is going down: nothing can be started any more. False if it cannot be told. */
bool systemd_is_stopping(Systemd *s);

/* Makes systemd read its unit files again. */
int systemd_reload(Systemd *s, Failure *reterr);

/* "systemctl enable" and "disable", without starting or stopping. */
int systemd_enable(Systemd *s, const char *unit, bool enable, Failure *reterr);

/* The _ALONE ones leave all other units as they are, and wait for none. */
typedef enum SystemdAction {
        SYSTEMD_START,
        SYSTEMD_STOP,
        SYSTEMD_RESTART,
        SYSTEMD_START_ALONE,
        SYSTEMD_STOP_ALONE,
} SystemdAction;

/* The name of the unit of a mount point, an absolute clean path: owned, NULL if out of memory. */
char *systemd_mount_unit(const char *point);

/*
 * Runs one action and waits for its job. FAIL_INTERNAL naming the unit and systemd's word for how
 * it ended (failed, timeout, dependency, …) unless that is "done"; FAIL_CANCELED when interrupted
 * (the job goes on), FAIL_INTERNAL after `timeout_usec`. `interrupted` may be NULL.
 */
int systemd_run(Systemd *s,
                SystemdAction action,
                const char *unit,
                uint64_t timeout_usec,
                bool (*interrupted)(void *userdata),
                void *userdata,
                Failure *reterr);

/* Forgets that a unit failed, and how often it was started lately. */
void systemd_reset_failed(Systemd *s, const char *unit);

/* "systemctl clean --what=state", and its failed state forgotten. What is not there is fine. */
void systemd_forget(Systemd *s, const char *unit);

/*
 * Properties of a unit; the unit is loaded if it is not. `interface` is "Unit", "Timer" or
 * "Service". Texts are owned. The u64 takes t and u.
 */
int systemd_get_text(Systemd *s,
                     const char *unit,
                     const char *interface,
                     const char *property,
                     char **ret,
                     Failure *reterr);
int systemd_get_u64(Systemd *s,
                    const char *unit,
                    const char *interface,
                    const char *property,
                    uint64_t *ret,
                    Failure *reterr);

int systemd_get_bool(Systemd *s,
                     const char *unit,
                     const char *interface,
                     const char *property,
                     bool *ret,
                     Failure *reterr);

/* Whether a job is under way after which the unit would be active. */
int systemd_will_start(Systemd *s, const char *unit, bool *ret, Failure *reterr);

/* A list of texts, joined by blanks. Owned. */
int systemd_get_list(Systemd *s,
                     const char *unit,
                     const char *interface,
                     const char *property,
                     char **ret,
                     Failure *reterr);

/*
 * A list of structures whose first two members are texts, as "a b; c d". `type` is the whole
 * property's, "a(ss)" or "a(ssbt)". Owned.
 */
int systemd_get_pairs(Systemd *s,
                      const char *unit,
                      const char *interface,
                      const char *property,
                      const char *type,
                      char **ret,
                      Failure *reterr);

/* The calendar expressions of a timer, joined with "; ". Owned. */
int systemd_get_calendar(Systemd *s, const char *timer, char **ret, Failure *reterr);
