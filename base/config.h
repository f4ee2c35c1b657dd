#pragma once

/*
 * Root's configuration: holdpoint.conf, its drop-ins, services.d/NAME.conf (design:
 * docs/man/holdpoint.conf.5), and below them /etc/default/holdpoint. Agent and worker read the same
 * files, but for a /etc/default/holdpoint that is root's alone. An unknown section or key, a
 * bad value, a relative path or two services claiming one path is an error that names file and
 * line.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/fail.h"

typedef enum ConfigDatabases {
        CONFIG_DATABASES_AUTO,
        CONFIG_DATABASES_NONE,
        CONFIG_DATABASES_LIST
} ConfigDatabases;
typedef enum ConfigCapture { CONFIG_CAPTURE_AUTO, CONFIG_CAPTURE_ONLINE_BACKUP } ConfigCapture;
typedef enum ConfigCheck { CONFIG_CHECK_CHANGED, CONFIG_CHECK_AGE, CONFIG_CHECK_NEVER } ConfigCheck;
typedef enum ConfigSnapshot {
        CONFIG_SNAPSHOT_AUTO,
        CONFIG_SNAPSHOT_BTRFS,
        CONFIG_SNAPSHOT_LVM,
        CONFIG_SNAPSHOT_NONE
} ConfigSnapshot;

typedef struct ConfigStrings {
        char **items;
        size_t n;
} ConfigStrings;

typedef struct ConfigService {
        char *name;
        char *file; /* where it was read from, for messages */
        char *description;
        ConfigStrings paths; /* clean, absolute, sorted by text_path_compare(), not overlapping */
        ConfigStrings excludes;
        ConfigDatabases databases;
        ConfigStrings database_paths; /* CONFIG_DATABASES_LIST: each below one of `paths` */
        ConfigCapture capture;
        ConfigCheck check;
        uint64_t check_age_usec; /* CONFIG_CHECK_AGE */
        ConfigSnapshot snapshot;
        uint32_t max_age_hours;
        ConfigStrings units;
        char *health_check_unit; /* NULL: none */
        uint32_t health_delay_sec;
} ConfigService;

typedef enum ConfigFrequency { CONFIG_DAILY, CONFIG_WEEKLY, CONFIG_MONTHLY } ConfigFrequency;

/* AUTO_BACKUP_* of /etc/default/holdpoint: the schedule named `default`. */
typedef struct ConfigSchedule {
        bool is_set, enabled; /* not set: nothing was said about it */
        ConfigFrequency frequency;
        uint8_t hour, minute;
        char *backup_type; /* "full" or a service; NULL if the file is not there */
} ConfigSchedule;

typedef struct Config {
        uint32_t max_queued_jobs, max_queued_jobs_per_user; /* [Agent] */
        char *repository_path;                              /* [Repository] */
        uint32_t compression_level, pack_size_mib;
        uint32_t lock_timeout_msec, max_hold_msec; /* [Hold] */
        bool fail_on_timeout;                      /* OnTimeout=fail */
        uint32_t retention_days, minimum_backups;  /* [Retention] */
        uint32_t hot_keep, hot_max_age_days;       /* [Hot] */
        uint32_t keep_old_days;                    /* [Restore] */
        ConfigService *services;                   /* sorted by name */
        size_t n_services;
        ConfigSchedule default_schedule;
        ConfigStrings warnings; /* what is ignored in it; to be told once */
        bool private_defaults;  /* some of it comes from a file that is root's alone */
} Config;

/* Reads everything below `dir`. Owned; FAIL_CONFIGURATION_INVALID with "file:line: what". */
int config_load(const char *dir, Config **ret, Failure *reterr);
void config_free(Config *c);
DEFINE_CLEANUP(Config *, config_free);

bool config_is_reserved(const char *name); /* means something else than a service */
const ConfigService *config_service(const Config *c, const char *name); /* NULL: no such service */

/* CONFIGURATION_DIRECTORY or its default. */
const char *config_dir(void);
