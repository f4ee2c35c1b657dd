#pragma once

/*
 * What the rest of the agent tells the bus. The bus-*.c files are the only ones that know sd-bus.
 */

#include "agent/job.h"

/* Connects to the system bus and exports the objects. */
int bus_open(Manager *m, Failure *reterr);

/* Takes the well-known name; fails if another agent has it. */
int bus_own_name(Manager *m, Failure *reterr);

/* Sends what is waiting and closes. */
void bus_close(Manager *m);

void bus_manager_changed(Manager *m, const char *property);
void bus_backup_added(Manager *m, const char *id);
void bus_backup_removed(Manager *m, const char *id);
void bus_service_overdue(Manager *m, const char *service, uint64_t since_usec);

/* Announces a new job and its object. */
void bus_job_added(Job *j);

/* Some of its properties changed: told now or, at four times a second, soon. */
void bus_job_changed(Job *j);

/* It has finished: properties, Finished and JobRemoved. */
void bus_job_finished(Job *j);

/* Its object is about to go. */
void bus_job_gone(Job *j);

/* Frees what is remembered of refused calls. */
void bus_audit_forget(Manager *m);

/* Drops a caller that waits, unanswered. NULL is nothing. */
void bus_hold_free(BusHold *h);
