#pragma once

/*
 * Schedules as they stand in systemd's unit files: holdpoint@NAME.timer has a drop-in of ours with
 * its calendar for systemd and, in a section of our own, what to back up and how long to keep it.
 * This is the one truth about them; whoever may write there is root.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/fail.h"
#include "base/settings.h"

#define SCHEDULE_NAME_MAX 63
#define SCHEDULE_DAYS_MAX 36500

typedef struct Schedule {
        char *name;
        char *backup_type; /* "full" or a service */
        char *description; /* "" if there is none */
        char *frequency;   /* daily, weekly, monthly; "": only the calendar says */
        char *time;        /* HH:MM, with a frequency; else "" */
        char *calendar;    /* systemd's calendar expression */
        char *origin;      /* "defaults…": follows /etc/default/holdpoint; else "" */
        uint32_t retention_days;
} Schedule;

void schedule_done(Schedule *s);
#define _cleanup_schedule_ __attribute__((cleanup(schedule_done)))

typedef struct ScheduleList {
        Schedule *items; /* by name */
        size_t n;
} ScheduleList;

void schedule_list_done(ScheduleList *l);
#define _cleanup_schedule_list_ __attribute__((cleanup(schedule_list_done)))

/* HOLDPOINT_UNIT_DIR or /etc/systemd/system. */
const char *schedule_unit_dir(void);

/* True for [a-z][a-z0-9_-]{0,62}. */
bool schedule_name_is_valid(const char *name);

/* True for what may stand in an OnCalendar= line; whether systemd understands it, only systemd
 * knows. */
bool schedule_calendar_is_clean(const char *text);

/*
 * Makes the calendar of a frequency and a time ("02:00"). Owned; FAIL_INVALID_ARGUMENT that names
 * what is wrong.
 */
int schedule_calendar(const char *frequency, const char *time, char **ret, Failure *reterr);

/* One schedule. FAIL_NO_SUCH_SCHEDULE; FAIL_CONFIGURATION_INVALID with file and line. */
int schedule_load(const char *name, Schedule *ret, Failure *reterr);

/* All of them. A broken one fails it. */
int schedule_list_load(ScheduleList *ret, Failure *reterr);

/* Writes the drop-in durably; systemd has to be told to read it. */
int schedule_save(const Schedule *s, Failure *reterr);

/* Removes it, and what others have put beside it. A missing one is fine. */
int schedule_remove(const char *name, Failure *reterr);
