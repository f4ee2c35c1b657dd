#pragma once

/*
 * Between the two halves of the configuration's reader: what a file says, before the checks that
 * need all files, and the tables of what may be said.
 */

#include "base/config.h"
#include "base/settings.h"

/* [Service] as written: text and lines, before the checks that need the whole. */
typedef struct RawService {
        char *description;
        SettingsList paths, excludes, database_paths, units;
        int databases; /* -1: not said */
        int capture, snapshot;
        struct RawCheck {
                ConfigCheck check;
                uint64_t age_usec;
        } check;
        uint32_t max_age_hours, health_delay_sec;
        char *health_check_unit;
} RawService;

typedef struct RawAgent {
        uint32_t max_queued_jobs, max_queued_jobs_per_user;
        SettingsItem repository_path;
        uint32_t compression_level, pack_size_mib;
        uint32_t lock_timeout_msec, max_hold_msec;
        int on_timeout;
        uint32_t retention_days, minimum_backups;
        uint32_t hot_keep, hot_max_age_days;
        uint32_t keep_old_days;
} RawAgent;

extern const SettingsTable config_agent_table;   /* holdpoint.conf into a RawAgent */
extern const SettingsTable config_service_table; /* services.d/NAME.conf into a RawService */

void config_raw_service_done(RawService *s);
