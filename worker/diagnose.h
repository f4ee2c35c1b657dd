#pragma once

/*
 * The parts of a diagnosis (worker/run-diagnose.c): each looks at one subject and adds what it
 * finds. They change nothing but what they take away again, and the empty area of a target, which
 * a restore would make. What cannot be looked at is a finding, never a failure.
 */

#include "base/findings.h"
#include "worker/systemd.h"
#include "worker/work.h"

/* What the records say of one configured service. */
typedef struct DiagnosedService {
        uint64_t last_usec;     /* newest completed backup, 0: none */
        uint64_t verified_usec; /* newest verification of one of its backups that found it sound */
        bool damaged;           /* its newest completed backup was found damaged */
        bool scheduled;         /* an enabled schedule backs it up */
} DiagnosedService;

typedef struct Diagnosis {
        Work *work;
        Findings findings;
        Systemd *systemd;           /* NULL: not on the bus */
        DiagnosedService *services; /* as the configuration's; NULL without one */
        bool has_records;           /* the repository could be read, or is not made yet */
} Diagnosis;

/* About something of one service. */
#define ABOUT_SERVICE(check, c, subject) (&(FindingAbout){ check, (c)->name, subject })

/* diagnose-host.c: configuration files and keys, state, repository and its records, restores. */
void diagnose_files(Diagnosis *d);
void diagnose_keys(Diagnosis *d);
void diagnose_repository(Diagnosis *d);
void diagnose_restores(Diagnosis *d);

/* diagnose-units.c: our units, their sandboxes, the units of services. */
void diagnose_units(Diagnosis *d);
void diagnose_units_of(Diagnosis *d, const ConfigService *c);

/* diagnose-schedules.c */
void diagnose_schedules(Diagnosis *d);

/* diagnose-service.c: its paths, volumes, databases, room, and what its backups are worth. */
void diagnose_service(Diagnosis *d, const ConfigService *c, const DiagnosedService *seen);

/* Free space of the file system of `fd`, judged. */
void diagnose_space(Diagnosis *d, int fd, const FindingAbout *about, const char *remedy);
