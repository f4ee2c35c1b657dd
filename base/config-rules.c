#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config-internal.h"
#include "base/globs.h"
#include "base/names.h"
#include "base/text.h"

/*
 * Every key there is, and how each value is judged by itself. A key that a later version brings is
 * unknown here and so an error: it must not look as if it were honoured.
 */

#define UNIT_NAME_MAX 255

void config_raw_service_done(RawService *s) {
        free(s->description);
        free(s->health_check_unit);
        settings_list_done(&s->paths);
        settings_list_done(&s->excludes);
        settings_list_done(&s->database_paths);
        settings_list_done(&s->units);
}

static int parse_service_path(const SettingsValue *v, void *target, Failure *reterr) {
        const char *p = v->text;

        while ((p = strstr(p, "/" HP_AREA_NAME))) {
                p += strlen("/" HP_AREA_NAME);
                if (*p == 0 || *p == '/')
                        return settings_refuse(
                                v, reterr, HP_AREA_NAME " is Holdpoint's own and never backed up");
        }
        return settings_parse_path_list(v, target, reterr);
}

static int parse_exclude(const SettingsValue *v, void *target, Failure *reterr) {
        _cleanup_(globs_freep) Globs *globs = NULL;
        Failure why = FAILURE_INIT;

        if (globs_new(&v->text, 1, &globs, &why) < 0)
                return settings_refuse(v, reterr, "%s", why.text);
        return settings_parse_list(v, target, reterr);
}

static bool unit_name_is_valid(const char *s) {
        static const char allowed[] =
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:-_.\\@";
        static const char *const suffixes[] = { ".service", ".socket", ".target", ".timer",
                                                ".path" };
        size_t n = strlen(s);

        if (n > UNIT_NAME_MAX || s[strspn(s, allowed)] || s[0] == '.' || s[0] == '@')
                return false;
        for (size_t i = 0; i < ELEMENTSOF(suffixes); i++) {
                size_t m = strlen(suffixes[i]);

                if (n > m && strcmp(s + n - m, suffixes[i]) == 0)
                        return true;
        }
        return false;
}

static int parse_unit(const SettingsValue *v, void *target, Failure *reterr) {
        if (!unit_name_is_valid(v->text))
                return settings_refuse(
                        v, reterr, "must name a .service, .socket, .target, .timer or .path unit");
        return settings_parse_list(v, target, reterr);
}

static int parse_health_unit(const SettingsValue *v, void *target, Failure *reterr) {
        size_t n = strlen(v->text), m = strlen(".service");

        if (n > 0 &&
            (!unit_name_is_valid(v->text) || n <= m || strcmp(v->text + n - m, ".service") != 0))
                return settings_refuse(v, reterr, "must name a .service unit, or nothing");
        return settings_parse_string(v, target, reterr);
}

static int parse_check(const SettingsValue *v, void *target, Failure *reterr) {
        static const struct {
                const char *suffix;
                uint64_t seconds;
        } scales[] = { { "min", 60 }, { "h", 3600 }, { "d", 86400 } };
        struct RawCheck *check = target;

        if (strcmp(v->text, "changed") == 0 || strcmp(v->text, "never") == 0) {
                *check = (struct RawCheck){ v->text[0] == 'c' ? CONFIG_CHECK_CHANGED
                                                              : CONFIG_CHECK_NEVER,
                                            0 };
                return 0;
        }
        for (size_t i = 0; strncmp(v->text, "age:", 4) == 0 && i < ELEMENTSOF(scales); i++) {
                size_t digits = strspn(v->text + 4, "0123456789");
                _cleanup_free_ char *number = strndup(v->text + 4, digits);
                uint64_t n;

                if (strcmp(v->text + 4 + digits, scales[i].suffix) != 0)
                        continue;
                if (!number || text_to_u64(number, &n) < 0 || n < 1 ||
                    n > 8760 * 3600 / scales[i].seconds)
                        break;
                *check =
                        (struct RawCheck){ CONFIG_CHECK_AGE, n * scales[i].seconds * USEC_PER_SEC };
                return 0;
        }
        return settings_refuse(v, reterr,
                               "allowed: changed, never, or age: with a number up to a year "
                               "in min, h or d, as in age:24h");
}

static const char *const timeout_words[] = { "degrade", "fail", NULL };
static const char *const databases_words[] = { "auto", "none", NULL };
static const char *const capture_words[] = { "auto", "online-backup", NULL };
static const char *const snapshot_words[] = { "auto", "btrfs", "lvm", "none", NULL };

#define NUMBER(s, key, type, field, from, to)                                                      \
        { s, key, settings_parse_u32, offsetof(type, field), .min = (from), .max = (to) }
#define WORD(s, key, type, field, list)                                                            \
        { s, key, settings_parse_word, offsetof(type, field), .words = (list) }
#define REPEATED(s, key, type, field, parser)                                                      \
        { s, key, parser, offsetof(type, field), .repeatable = true }

static const SettingsRule agent_rules[] = {
        NUMBER("Agent", "MaxQueuedJobs", RawAgent, max_queued_jobs, 1, 1024),
        NUMBER("Agent", "MaxQueuedJobsPerUser", RawAgent, max_queued_jobs_per_user, 1, 1024),
        { "Repository", "Path", settings_parse_path, offsetof(RawAgent, repository_path) },
        NUMBER("Repository", "CompressionLevel", RawAgent, compression_level, 0, 9),
        NUMBER("Repository", "PackSizeMiB", RawAgent, pack_size_mib, 1, 1024),
        NUMBER("Hold", "LockTimeoutMSec", RawAgent, lock_timeout_msec, 1, 10000),
        NUMBER("Hold", "MaxHoldMSec", RawAgent, max_hold_msec, 1, 60000),
        WORD("Hold", "OnTimeout", RawAgent, on_timeout, timeout_words),
        NUMBER("Retention", "Days", RawAgent, retention_days, 1, 36500),
        NUMBER("Retention", "MinimumBackups", RawAgent, minimum_backups, 1, 10000),
        NUMBER("Hot", "Keep", RawAgent, hot_keep, 0, 100),
        NUMBER("Hot", "MaxAgeDays", RawAgent, hot_max_age_days, 1, 36500),
        NUMBER("Restore", "KeepOldDays", RawAgent, keep_old_days, 1, 36500),
};

static const SettingsRule service_rules[] = {
        { "Service", "Description", settings_parse_string, offsetof(RawService, description) },
        REPEATED("Service", "Path", RawService, paths, parse_service_path),
        REPEATED("Service", "Exclude", RawService, excludes, parse_exclude),
        WORD("Service", "Databases", RawService, databases, databases_words),
        REPEATED("Service", "Database", RawService, database_paths, settings_parse_path_list),
        WORD("Service", "DatabaseCapture", RawService, capture, capture_words),
        { "Service", "DatabaseCheck", parse_check, offsetof(RawService, check) },
        WORD("Service", "Snapshot", RawService, snapshot, snapshot_words),
        NUMBER("Service", "MaxAgeHours", RawService, max_age_hours, 1, 8760),
        REPEATED("Service", "Unit", RawService, units, parse_unit),
        { "Service", "HealthCheckUnit", parse_health_unit,
          offsetof(RawService, health_check_unit) },
        NUMBER("Service", "HealthDelaySec", RawService, health_delay_sec, 0, 3600),
};

const SettingsTable config_agent_table = { agent_rules, ELEMENTSOF(agent_rules) };
const SettingsTable config_service_table = { service_rules, ELEMENTSOF(service_rules) };
