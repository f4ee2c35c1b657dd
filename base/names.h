#pragma once

/*
 * Every well-known string: bus names, paths, environment, log fields, directories.
 */

#define HP_BUS_NAME         "org.holdpoint.Backup1"
#define HP_BUS_ROOT         "/org/holdpoint/Backup1"
#define HP_BUS_JOB_PREFIX   "/org/holdpoint/Backup1/job"
#define HP_IFACE_MANAGER    "org.holdpoint.Backup1.Manager"
#define HP_IFACE_JOB        "org.holdpoint.Backup1.Job"
#define HP_BUS_ERROR_PREFIX "org.holdpoint.Backup1.Error."
#define HP_POLKIT_PREFIX    "org.holdpoint.backup1."

#define HP_ENV_CONFIGURATION "CONFIGURATION_DIRECTORY"
#define HP_ENV_STATE         "STATE_DIRECTORY"
#define HP_ENV_RUNTIME       "RUNTIME_DIRECTORY"
#define HP_ENV_CREDENTIALS   "CREDENTIALS_DIRECTORY"
#define HP_ENV_BUS           "DBUS_SYSTEM_BUS_ADDRESS"
#define HP_ENV_LIBEXEC       "HOLDPOINT_LIBEXECDIR"
#define HP_ENV_WORKERS       "HOLDPOINT_WORKERS_DIR"
#define HP_ENV_AGENT_USER    "HOLDPOINT_AGENT_USER"
#define HP_ENV_DEFAULTS      "HOLDPOINT_DEFAULTS_FILE" /* another than HP_DEFAULT_DEFAULTS */
#define HP_ENV_FSTAB         "HOLDPOINT_FSTAB"         /* another than /etc/fstab */
#define HP_ENV_STEP          "HOLDPOINT_STEP"          /* base/step.h; set by tests only */
#define HP_ENV_UNIT_DIR      "HOLDPOINT_UNIT_DIR"
#define HP_ENV_DEBUG         "HOLDPOINT_DEBUG"
#define HP_ENV_JOURNAL       "JOURNAL_STREAM" /* set by systemd: stderr is the journal */

#define HP_DEFAULT_CONFIGURATION "/etc/holdpoint"
#define HP_DEFAULT_DEFAULTS      "/etc/default/holdpoint"
#define HP_DEFAULT_STATE         "/var/lib/holdpoint"
#define HP_DEFAULT_WORKER_STATE  "/var/lib/holdpoint-worker"
#define HP_DEFAULT_REPOSITORY    "/var/backups/holdpoint"
#define HP_DEFAULT_WORKERS       "/run/holdpoint-workers"
#define HP_DEFAULT_UNIT_DIR      "/etc/systemd/system"
#define HP_DEFAULT_AGENT_USER    "holdpoint"

/* Where units of a restore are kept down: both are gone after a reboot. */
#define HP_RUNTIME_UNIT_DIR "/run/systemd/system"
#define HP_HELD_DIR         "/run/holdpoint-held"

#define HP_WORKER_PROGRAM "holdpoint-worker"
#define HP_SQLITE_PROGRAM "holdpoint-sqlite"
#define HP_LVM_PROGRAM    "holdpoint-lvm"

/* The directory beside live data that holds snapshots, staged and old trees; never archived. */
#define HP_AREA_NAME ".holdpoint"

/* Journal fields; a job's helpers get some of them as environment (base/log.h). */
#define HP_FIELD_JOB        "HOLDPOINT_JOB"
#define HP_FIELD_TASK       "HOLDPOINT_TASK"
#define HP_FIELD_BACKUP     "HOLDPOINT_BACKUP"
#define HP_FIELD_RESTORE    "HOLDPOINT_RESTORE"
#define HP_FIELD_SERVICE    "HOLDPOINT_SERVICE"
#define HP_FIELD_PHASE      "HOLDPOINT_PHASE"
#define HP_FIELD_PAUSE      "HOLDPOINT_PAUSE_USEC"
#define HP_FIELD_BYTES      "HOLDPOINT_BYTES"
#define HP_FIELD_RESULT     "HOLDPOINT_RESULT"
#define HP_FIELD_ERROR      "HOLDPOINT_ERROR"
#define HP_FIELD_METHOD     "HOLDPOINT_METHOD"
#define HP_FIELD_ACTION     "HOLDPOINT_ACTION"
#define HP_FIELD_CALLER_UID "HOLDPOINT_CALLER_UID"

/* Version of the programs, from meson. */
#ifndef HOLDPOINT_VERSION
#define HOLDPOINT_VERSION "0"
#endif
