#include "base/defaults.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/envfile.h"
#include "base/fd.h"
#include "base/names.h"
#include "base/settings.h"
#include "base/text.h"

/*
 * The agent reads this file too, unless it is closed to it: then it goes without, for nothing in it
 * is the agent's to decide. The passphrase never leaves the Secret that the file was read into,
 * except into that of whoever asks for it by name.
 */

#define PASSPHRASE "BACKUP_ENCRYPTION_KEY"

const char *defaults_path(void) {
        const char *path = getenv(HP_ENV_DEFAULTS);

        return path && *path ? path : HP_DEFAULT_DEFAULTS;
}

int defaults_warn(ConfigStrings *warnings, const char *format, ...) {
        char **items = reallocarray(warnings->items, warnings->n + 1, sizeof(*items));
        va_list ap;
        int r;

        if (!items)
                return -ENOMEM;
        warnings->items = items;
        va_start(ap, format);
        r = vasprintf(&items[warnings->n], format, ap);
        va_end(ap);
        if (r < 0)
                return -ENOMEM;
        warnings->n++;
        return 0;
}

/* ---- values ---- */

typedef struct Line {
        const char *file, *name, *value;
        unsigned line;
} Line;

/* A quote or a backslash too many takes in the lines that follow, and one of them is a secret. */
static int refuse(const Line *l, Failure *reterr, const char *what) {
        const char *secret = strstr(l->value, PASSPHRASE);
        size_t n = strcspn(l->value, "\n");

        if (secret && (size_t) (secret - l->value) < n)
                n = (size_t) (secret - l->value);
        return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL, "%s:%u: %s=%.*s: %s%s", l->file,
                        l->line, l->name, (int) (n < 100 ? n : 100), l->value, what,
                        l->value[n] ? "; does a quote or a backslash run into the next line?" : "");
}

static int
parse_number(const Line *l, uint64_t min, uint64_t max, DefaultsNumber *ret, Failure *reterr) {
        char what[100];
        uint64_t n;

        if (text_to_u64(l->value, &n) < 0 || n < min || n > max) {
                (void) snprintf(what, sizeof(what), "must be a whole number from %llu to %llu",
                                (unsigned long long) min, (unsigned long long) max);
                return refuse(l, reterr, what);
        }
        *ret = (DefaultsNumber){ (uint32_t) n, l->line };
        return 0;
}

static int replace(char **to, const char *text) {
        char *copy = strdup(text);

        if (!copy)
                return -ENOMEM;
        free(*to);
        *to = copy;
        return 0;
}

/* A slash at the end is how many write a directory. */
static int parse_dir(const Line *l, Defaults *d, Failure *reterr) {
        size_t n = strlen(l->value);
        _cleanup_free_ char *path = strndup(l->value, n > 1 && l->value[n - 1] == '/' ? n - 1 : n);

        if (!path)
                return -ENOMEM;
        if (!text_is_clean_path(path) || !text_is_label(path, 4095) || strstr(path, PASSPHRASE))
                return refuse(l, reterr,
                              "must be an absolute path without '.', '..' and doubled slashes");
        d->dir_line = l->line;
        return replace(&d->dir, path);
}

static int parse_enabled(const Line *l, Defaults *d, Failure *reterr) {
        static const char *const words[] = { "no", "false", "off", "0", "yes", "true", "on", "1" };

        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (strcasecmp(l->value, words[i]) == 0) {
                        d->schedule.enabled = i >= ELEMENTSOF(words) / 2;
                        d->schedule.is_set = true;
                        return 0;
                }
        return refuse(l, reterr, "must be yes, no, true, false, on, off, 1 or 0");
}

static int parse_frequency(const Line *l, Defaults *d, Failure *reterr) {
        static const char *const words[] = {
                [CONFIG_DAILY] = "daily", [CONFIG_WEEKLY] = "weekly", [CONFIG_MONTHLY] = "monthly"
        };

        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (strcmp(l->value, words[i]) == 0) {
                        d->schedule.frequency = (ConfigFrequency) i;
                        return 0;
                }
        return refuse(l, reterr, "must be daily, weekly or monthly");
}

static int parse_time(const Line *l, Defaults *d, Failure *reterr) {
        const char *t = l->value;
        int hour, minute;

        if (strlen(t) != 5 || !isdigit((unsigned char) t[0]) || !isdigit((unsigned char) t[1]) ||
            t[2] != ':' || !isdigit((unsigned char) t[3]) || !isdigit((unsigned char) t[4]))
                return refuse(l, reterr, "must be a time of day as 02:00");
        hour = (t[0] - '0') * 10 + t[1] - '0';
        minute = (t[3] - '0') * 10 + t[4] - '0';
        if (hour > 23 || minute > 59)
                return refuse(l, reterr, "must be a time of day as 02:00");
        d->schedule.hour = (uint8_t) hour;
        d->schedule.minute = (uint8_t) minute;
        return 0;
}

/* Whether there is such a service is known when all were read. */
static int parse_type(const Line *l, Defaults *d, Failure *reterr) {
        if (!text_is_service_name(l->value))
                return refuse(l, reterr, "must be full or the name of a service");
        d->schedule_line = l->line;
        return replace(&d->schedule.backup_type, l->value);
}

/* ---- the file ---- */

static bool looks_like_ours(const char *name) {
        if (strncmp(name, "export ", 7) == 0)
                name += 7;
        return strncmp(name, "BACKUP_", 7) == 0 || strncmp(name, "AUTO_BACKUP_", 12) == 0;
}

static int on_value(void *userdata,
                    const char *name,
                    const char *value,
                    size_t n,
                    unsigned line,
                    Failure *reterr) {
        Defaults *d = userdata;
        const Line l = { .file = d->file, .name = name, .value = value, .line = line };

        if (n == 0) /* set to nothing is not set */
                return 0;
        /* Whatever its name: what it takes in would count as not set. */
        if (strcmp(name, PASSPHRASE) != 0 &&
            (strstr(value, "\nBACKUP_") || strstr(value, "\nAUTO_BACKUP_")))
                return refuse(&l, reterr, "takes in the lines after it");
        if (strcmp(name, PASSPHRASE) == 0) {
                d->passphrase_line = line;
                return 0;
        }
        if (strcmp(name, "BACKUP_DIR") == 0)
                return parse_dir(&l, d, reterr);
        if (strcmp(name, "BACKUP_RETENTION_DAYS") == 0)
                return parse_number(&l, 1, 36500, &d->retention_days, reterr);
        if (strcmp(name, "BACKUP_COMPRESSION_LEVEL") == 0)
                return parse_number(&l, 0, 9, &d->compression_level, reterr);
        if (strcmp(name, "AUTO_BACKUP_ENABLED") == 0)
                return parse_enabled(&l, d, reterr);
        if (strcmp(name, "AUTO_BACKUP_FREQUENCY") == 0)
                return parse_frequency(&l, d, reterr);
        if (strcmp(name, "AUTO_BACKUP_TIME") == 0)
                return parse_time(&l, d, reterr);
        if (strcmp(name, "AUTO_BACKUP_TYPE") == 0)
                return parse_type(&l, d, reterr);
        if (!looks_like_ours(name))
                return 0;
        return defaults_warn(&d->warnings, "%s:%u: '%.100s' means nothing to this program", d->file,
                             line, name);
}

/* The file as it is. -ENOENT when there is none, or none that we may read. */
static int read_file(const char *path, Secret *ret, size_t *ret_n, bool *ret_private, Failure *f) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        struct stat st;
        ssize_t n;
        int r;

        if (fd < 0 && (errno == ENOENT || (errno == EACCES && geteuid() != 0)))
                return -ENOENT;
        if (fd < 0 || fstat(fd, &st) < 0)
                return fail_errno(f, FAIL_CONFIGURATION_INVALID, errno, "%s: cannot be read", path);
        if (!S_ISREG(st.st_mode))
                return fail_set(f, FAIL_CONFIGURATION_INVALID, EINVAL, "%s: is not a regular file",
                                path);
        r = settings_check_dir(fd, path, f);
        if (r >= 0)
                r = secret_new(ret, ENVFILE_MAX + 1);
        if (r < 0)
                return r;
        n = fd_read_full(fd, ret->data, ret->size);
        if (n < 0)
                return fail_errno(f, FAIL_CONFIGURATION_INVALID, (int) -n, "%s: cannot be read",
                                  path);
        *ret_n = (size_t) n;
        *ret_private = (st.st_mode & 077) == 0;
        return 0;
}

static int check_passphrase(const Defaults *d, Failure *reterr) {
        if (d->passphrase_line == 0 || d->private)
                return 0;
        return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EACCES,
                        "%s:%u: " PASSPHRASE
                        " stands in a file that others can read; run chmod 600",
                        d->file, d->passphrase_line);
}

int defaults_load(Defaults *ret, Failure *reterr) {
        _cleanup_(defaults_done) Defaults d = { .schedule = { .hour = 2 } };
        _cleanup_secret_ Secret text = SECRET_INIT;
        size_t n;
        int r = read_file(defaults_path(), &text, &n, &d.private, reterr);

        if (r >= 0) {
                d.file = text_escape(defaults_path());
                d.schedule.backup_type = strdup("full");
                r = d.file && d.schedule.backup_type ? 0 : -ENOMEM;
        }
        if (r >= 0)
                r = envfile_parse((const char *) text.data, n, d.file, on_value, &d, reterr);
        if (r >= 0)
                r = check_passphrase(&d, reterr);
        if (r == -ENOMEM)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        if (r < 0 && r != -ENOENT)
                return r;
        *ret = d;
        d = (Defaults){ .file = NULL };
        return 0;
}

void defaults_done(Defaults *d) {
        free(d->file);
        free(d->dir);
        free(d->schedule.backup_type);
        for (size_t i = 0; i < d->warnings.n; i++)
                free(d->warnings.items[i]);
        free(d->warnings.items);
        *d = (Defaults){ .file = NULL };
}

static int on_passphrase(void *userdata,
                         const char *name,
                         const char *value,
                         size_t n,
                         unsigned line,
                         Failure *reterr) {
        Secret *s = userdata;

        if (strcmp(name, PASSPHRASE) != 0 || n == 0)
                return 0;
        secret_done(s); /* the last one counts */
        return secret_copy(s, value, n);
}

int defaults_passphrase(Secret *ret, Failure *reterr) {
        _cleanup_secret_ Secret text = SECRET_INIT, found = SECRET_INIT;
        bool private;
        size_t n;
        int r = read_file(defaults_path(), &text, &n, &private, reterr);

        if (r >= 0)
                r = envfile_parse((const char *) text.data, n, defaults_path(), on_passphrase,
                                  &found, reterr);
        if (r < 0)
                return r;
        if (!found.data)
                return -ENOENT;
        *ret = found;
        found = SECRET_INIT;
        return 0;
}
