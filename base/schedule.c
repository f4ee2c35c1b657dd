/*
 * The drop-in is written whole each time and is never merged with what an operator puts beside it
 * ("systemctl edit"): systemd does that, and asks nobody.
 */

#include "base/schedule.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/names.h"
#include "base/text.h"

#define PREFIX        "holdpoint@"
#define SUFFIX        ".timer.d"
#define FILE_NAME     "50-holdpoint.conf"
#define SCHEDULES_MAX 256

/* What stands in the file, before it is looked at as a whole. */
typedef struct ScheduleFile {
        Schedule s;
        SettingsList calendars;
} ScheduleFile;

#define RULE(section_, key_, parse_, member)                                                       \
        {                                                                                          \
                .section = (section_), .key = (key_), .parse = (parse_),                           \
                .offset = offsetof(ScheduleFile, member)                                           \
        }

static const SettingsRule rules[] = {
        RULE("X-Holdpoint", "Type", settings_parse_string, s.backup_type),
        RULE("X-Holdpoint", "Description", settings_parse_string, s.description),
        RULE("X-Holdpoint", "Frequency", settings_parse_string, s.frequency),
        RULE("X-Holdpoint", "Time", settings_parse_string, s.time),
        RULE("X-Holdpoint", "Origin", settings_parse_string, s.origin),
        { .section = "X-Holdpoint",
          .key = "RetentionDays",
          .parse = settings_parse_u32,
          .offset = offsetof(ScheduleFile, s.retention_days),
          .max = SCHEDULE_DAYS_MAX },
        { .section = "Timer",
          .key = "OnCalendar",
          .parse = settings_parse_list,
          .offset = offsetof(ScheduleFile, calendars),
          .repeatable = true },
};

void schedule_done(Schedule *s) {
        free(s->name);
        free(s->backup_type);
        free(s->description);
        free(s->frequency);
        free(s->time);
        free(s->calendar);
        free(s->origin);
        *s = (Schedule){ 0 };
}

void schedule_list_done(ScheduleList *l) {
        for (size_t i = 0; i < l->n; i++)
                schedule_done(&l->items[i]);
        free(l->items);
        *l = (ScheduleList){ 0 };
}

const char *schedule_unit_dir(void) {
        const char *dir = getenv(HP_ENV_UNIT_DIR);

        return dir && *dir ? dir : HP_DEFAULT_UNIT_DIR;
}

bool schedule_name_is_valid(const char *name) {
        size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-");

        return islower((unsigned char) name[0]) && !name[n] && n <= SCHEDULE_NAME_MAX;
}

bool schedule_calendar_is_clean(const char *text) {
        size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                " *,.:/~_+-");

        return *text && !text[n] && n <= 255;
}

static bool time_is_valid(const char *t) {
        unsigned hour, minute;
        int n = 0;

        return strlen(t) == 5 && strspn(t, "0123456789:") == 5 &&
               sscanf(t, "%2u:%2u%n", &hour, &minute, &n) == 2 && n == 5 && hour < 24 &&
               minute < 60;
}

int schedule_calendar(const char *frequency, const char *time, char **ret, Failure *reterr) {
        static const char *const days[][2] = { { "daily", "*-*-*" },
                                               { "weekly", "Mon *-*-*" },
                                               { "monthly", "*-*-01" } };

        if (!time_is_valid(time))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "time is HH:MM, as 02:00, not '%.50s'", time);
        for (size_t i = 0; i < ELEMENTSOF(days); i++)
                if (strcmp(days[i][0], frequency) == 0) {
                        *ret = text_printf("%s %s:00", days[i][1], time);
                        return *ret ? 0 : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "schedule");
                }
        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                        "frequency is daily, weekly or monthly, not '%.50s'; a calendar says "
                        "everything else",
                        frequency);
}

/* A file of ours sets every member; what is missing was taken out by somebody. */
static int complete(ScheduleFile *f, const char *name, const char *label, Failure *reterr) {
        char **const texts[] = { &f->s.description, &f->s.frequency, &f->s.time, &f->s.origin };

        if (!f->s.backup_type || f->calendars.n == 0)
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                                "%s:1: Type= in [X-Holdpoint] and OnCalendar= in [Timer] are "
                                "needed; set the schedule anew with 'holdpoint schedule set %s'",
                                label, name);
        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                if (!*texts[i] && !(*texts[i] = strdup("")))
                        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", label);
        /* The first assignment is the empty one that takes the template's away. */
        f->s.calendar = strdup(f->calendars.items[f->calendars.n - 1].text);
        f->s.name = strdup(name);
        return f->s.calendar && f->s.name ? 0
                                          : fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "%s", label);
}

static int load(int dir, const char *name, Schedule *ret, Failure *reterr) {
        const SettingsTable table = { rules, ELEMENTSOF(rules) };
        _cleanup_free_ char *sub = text_printf(PREFIX "%s" SUFFIX, name), *label = NULL;
        _cleanup_close_ int fd = -1;
        ScheduleFile f = { 0 };
        int r;

        label = sub ? text_printf("%s/%s/" FILE_NAME, schedule_unit_dir(), sub) : NULL;
        if (!label)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "schedule");
        fd = fs_open_dir(dir, sub);
        r = fd < 0 ? fd : settings_load(fd, FILE_NAME, label, &table, &f, reterr);
        if (r >= 0)
                r = complete(&f, name, label, reterr);
        settings_list_done(&f.calendars);
        if (r < 0) {
                schedule_done(&f.s);
                return r;
        }
        *ret = f.s;
        return 0;
}

static int open_dir(void) {
        int fd = open(schedule_unit_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        return fd < 0 ? -errno : fd;
}

int schedule_load(const char *name, Schedule *ret, Failure *reterr) {
        _cleanup_close_ int dir = open_dir();
        int r = !schedule_name_is_valid(name) ? -ENOENT
                : dir < 0                     ? dir
                                              : load(dir, name, ret, reterr);

        if (r == -ENOENT)
                return fail_set(reterr, FAIL_NO_SUCH_SCHEDULE, ENOENT, "no schedule '%.100s'",
                                name);
        if (r < 0 && reterr->code == FAIL_NONE)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot read schedule '%s' in %s",
                                  name, schedule_unit_dir());
        return r;
}

/* The name of a schedule out of that of a directory, or NULL. Owned. */
static char *name_of(const char *directory) {
        size_t n = strlen(directory), around = strlen(PREFIX) + strlen(SUFFIX);
        char *name;

        if (n <= around || strncmp(directory, PREFIX, strlen(PREFIX)) != 0 ||
            strcmp(directory + n - strlen(SUFFIX), SUFFIX) != 0)
                return NULL;
        name = strndup(directory + strlen(PREFIX), n - around);
        if (name && schedule_name_is_valid(name))
                return name;
        free(name);
        return NULL;
}

static int add(ScheduleList *l, int dir, const char *name, Failure *reterr) {
        Schedule *items;
        int r;

        if (l->n >= SCHEDULES_MAX)
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, E2BIG,
                                "%s has more than %d schedules", schedule_unit_dir(),
                                SCHEDULES_MAX);
        items = reallocarray(l->items, l->n + 1, sizeof(*items));
        if (!items)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "schedules");
        l->items = items;
        r = load(dir, name, &l->items[l->n], reterr);
        if (r == -ENOENT && reterr->code == FAIL_NONE)
                return 0; /* a drop-in of somebody's for a timer that is none of ours */
        if (r < 0 && reterr->code == FAIL_NONE)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot read schedule '%s' in %s",
                                  name, schedule_unit_dir());
        l->n += r >= 0;
        return r;
}

static int compare(const void *a, const void *b) {
        return strcmp(((const Schedule *) a)->name, ((const Schedule *) b)->name);
}

int schedule_list_load(ScheduleList *ret, Failure *reterr) {
        _cleanup_schedule_list_ ScheduleList l = { 0 };
        int fd = open_dir(), r = 0;
        _cleanup_dir_ DIR *d = fd < 0 ? NULL : fdopendir(fd);
        struct dirent *e;

        if (!d && fd >= 0)
                fd_close(fd);
        if (!d)
                return fd == -ENOENT ? 0
                                     : fail_errno(reterr, FAIL_INTERNAL, fd < 0 ? -fd : ENOMEM,
                                                  "cannot read %s", schedule_unit_dir());
        while (r >= 0 && (errno = 0, e = readdir(d))) {
                _cleanup_free_ char *name = name_of(e->d_name);

                if (name)
                        r = add(&l, dirfd(d), name, reterr);
        }
        if (r >= 0 && errno != 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot read %s",
                                  schedule_unit_dir());
        if (r < 0)
                return r;
        if (l.n > 0)
                qsort(l.items, l.n, sizeof(*l.items), compare);
        *ret = l;
        l = (ScheduleList){ 0 };
        return 0;
}

static char *text_of(const Schedule *s) {
        return text_printf("# Written by holdpoint; change it with 'holdpoint schedule set %s'.\n"
                           "[X-Holdpoint]\n"
                           "Type=%s\n"
                           "RetentionDays=%u\n"
                           "%s%s%s%s%s%s%s%s%s%s%s%s"
                           "\n[Timer]\n"
                           "OnCalendar=\n"
                           "OnCalendar=%s\n",
                           s->name, s->backup_type, s->retention_days,
                           *s->description ? "Description=" : "", s->description,
                           *s->description ? "\n" : "", *s->frequency ? "Frequency=" : "",
                           s->frequency, *s->frequency ? "\n" : "", *s->time ? "Time=" : "",
                           s->time, *s->time ? "\n" : "", *s->origin ? "Origin=" : "", s->origin,
                           *s->origin ? "\n" : "", s->calendar);
}

/* Whatever came from the agent: a line more would be a directive of its writer's for systemd. */
static int check_texts(const Schedule *s, Failure *reterr) {
        const char *const texts[] = { s->backup_type, s->description, s->frequency,
                                      s->time,        s->origin,      s->calendar };

        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                if (!text_is_label(texts[i], 255) || strchr(texts[i], '\\'))
                        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                        "schedule '%s': texts have at most 255 bytes, without "
                                        "control characters and backslashes",
                                        s->name);
        return 0;
}

int schedule_save(const Schedule *s, Failure *reterr) {
        _cleanup_free_ char *sub = text_printf(PREFIX "%s" SUFFIX, s->name), *text = text_of(s);
        _cleanup_close_ int dir = open_dir(), fd = -1;
        int r = check_texts(s, reterr);

        if (r < 0)
                return r;
        r = !sub || !text ? -ENOMEM : dir < 0 ? dir : 0;

        if (r >= 0)
                r = fd = fs_ensure_dir(dir, sub, 0755);
        if (r >= 0)
                r = fs_write_atomic(fd, FILE_NAME, text, strlen(text), 0644);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot write %s/%s/" FILE_NAME,
                                  schedule_unit_dir(), sub ?: "")
                     : 0;
}

int schedule_remove(const char *name, Failure *reterr) {
        _cleanup_free_ char *sub = text_printf(PREFIX "%s" SUFFIX, name);
        _cleanup_close_ int dir = open_dir(), fd = -1;
        int r = !sub ? -ENOMEM : dir;

        if (r >= 0)
                r = fd = fs_open_dir(dir, sub);
        if (r >= 0)
                r = fs_unlink_durable(fd, FILE_NAME);
        /* With an operator's own drop-in beside it the directory stays. */
        if ((r >= 0 || (r == -ENOENT && fd >= 0)) && unlinkat(dir, sub, AT_REMOVEDIR) == 0)
                r = fs_sync(dir);
        return r < 0 && r != -ENOENT ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot remove %s/%s",
                                                  schedule_unit_dir(), sub ?: "")
                                     : 0;
}
