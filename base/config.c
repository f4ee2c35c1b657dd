#include "base/config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/config-internal.h"
#include "base/defaults.h"
#include "base/names.h"
#include "base/text.h"

/*
 * Two readers of the same files: the agent to know names and limits, and root's worker to know what
 * it may touch. Both must come to the same answer, so everything that can be judged from the text
 * alone is judged here, and nothing that depends on the state of the disk.
 *
 * Files are read in the order of their bytes: holdpoint.conf, its drop-ins (the last one wins),
 * then the services. Checks between services run once all are read, with the places kept beside the
 * paths.
 */

#define CONFIG_FILE      "holdpoint.conf"
#define CONFIG_DROP_INS  "holdpoint.conf.d"
#define CONFIG_SERVICES  "services.d"
#define CONFIG_SUFFIX    ".conf"
#define CONFIG_FILES_MAX 512

/* Where a claimed path was written. */
typedef struct Claim {
        char *path;
        const char *file;
        unsigned line;
} Claim;

typedef struct Claims {
        Claim *items;
        size_t n;
} Claims;

static void claims_done(Claims *c) {
        for (size_t i = 0; i < c->n; i++)
                free(c->items[i].path);
        free(c->items);
}

static int out_of_memory(Failure *reterr) {
        return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
}

static int claim_path(Claims *claims, const char *file, const SettingsItem *item, Failure *reterr) {
        Claim *items, claim = { .file = file, .line = item->line };

        for (size_t i = 0; i < claims->n; i++) {
                const Claim *c = &claims->items[i];
                const char *what;

                if (strcmp(item->text, c->path) == 0)
                        what = "is claimed already at";
                else if (text_path_is_below(item->text, c->path))
                        what = "lies inside the Path= at";
                else if (text_path_is_below(c->path, item->text))
                        what = "contains the Path= at";
                else
                        continue;
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                                "%s:%u: Path=%s: %s %s:%u; a path belongs to one service, once",
                                file, item->line, item->text, what, c->file, c->line);
        }
        items = reallocarray(claims->items, claims->n + 1, sizeof(*items));
        if (!items)
                return out_of_memory(reterr);
        claims->items = items;
        claim.path = strdup(item->text);
        if (!claim.path)
                return out_of_memory(reterr);
        claims->items[claims->n++] = claim;
        return 0;
}

static int check_repository(const Config *c, const Claims *claims, Failure *reterr) {
        for (size_t i = 0; i < claims->n; i++) {
                const Claim *claim = &claims->items[i];
                const char *what = NULL;

                if (text_path_is_below(c->repository_path, claim->path))
                        what = "contains";
                else if (text_path_is_below(claim->path, c->repository_path))
                        what = "lies inside";
                if (what)
                        return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                                        "%s:%u: Path=%s: %s the repository %s; move one of them "
                                        "([Repository] Path=)",
                                        claim->file, claim->line, claim->path, what,
                                        c->repository_path);
        }
        return 0;
}

static int check_databases(const RawService *raw, const char *file, Failure *reterr) {
        for (size_t i = 0; i < raw->database_paths.n; i++) {
                const SettingsItem *d = &raw->database_paths.items[i];
                bool inside = false;

                if (raw->databases >= 0)
                        return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                                        "%s:%u: Database=%s: cannot stand beside Databases=; keep "
                                        "one of the two",
                                        file, d->line, d->text);
                for (size_t j = 0; j < raw->paths.n; j++)
                        inside = inside || text_path_is_below(d->text, raw->paths.items[j].text);
                if (!inside)
                        return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                                        "%s:%u: Database=%s: lies in none of this service's Path=",
                                        file, d->line, d->text);
                for (size_t j = 0; j < i; j++)
                        if (strcmp(raw->database_paths.items[j].text, d->text) == 0)
                                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                                                "%s:%u: Database=%s: is named already in line %u",
                                                file, d->line, d->text,
                                                raw->database_paths.items[j].line);
        }
        return 0;
}

/* Moves the texts out of `list`. */
static int take_strings(SettingsList *list, ConfigStrings *ret) {
        if (list->n == 0)
                return 0;
        ret->items = calloc(list->n, sizeof(char *));
        if (!ret->items)
                return -ENOMEM;
        for (size_t i = 0; i < list->n; i++)
                ret->items[ret->n++] = TAKE_PTR(list->items[i].text);
        return 0;
}

static int compare_paths(const void *a, const void *b) {
        return text_path_compare(*(char *const *) a, *(char *const *) b);
}

/* Moves everything from `raw` into `s`. */
static int take_service(RawService *raw, ConfigService *s) {
        if (take_strings(&raw->paths, &s->paths) < 0 ||
            take_strings(&raw->excludes, &s->excludes) < 0 ||
            take_strings(&raw->database_paths, &s->database_paths) < 0 ||
            take_strings(&raw->units, &s->units) < 0)
                return -ENOMEM;
        qsort(s->paths.items, s->paths.n, sizeof(char *), compare_paths);

        s->description = raw->description ? TAKE_PTR(raw->description) : strdup("");
        if (!s->description)
                return -ENOMEM;
        if (raw->health_check_unit && *raw->health_check_unit)
                s->health_check_unit = TAKE_PTR(raw->health_check_unit);
        if (s->database_paths.n > 0)
                s->databases = CONFIG_DATABASES_LIST;
        else
                s->databases = raw->databases == 1 ? CONFIG_DATABASES_NONE : CONFIG_DATABASES_AUTO;
        s->capture = (ConfigCapture) raw->capture;
        s->check = raw->check.check;
        s->check_age_usec = raw->check.age_usec;
        s->snapshot = (ConfigSnapshot) raw->snapshot;
        s->max_age_hours = raw->max_age_hours;
        s->health_delay_sec = raw->health_delay_sec;
        return 0;
}

bool config_is_reserved(const char *name) {
        static const char *const reserved[] = { "full", "all", "latest", "default" };

        for (size_t i = 0; i < ELEMENTSOF(reserved); i++)
                if (strcmp(name, reserved[i]) == 0)
                        return true;
        return false;
}

/* services.d/NAME.conf: the name before the suffix, or what is wrong with it. Owned. */
static int service_name(const char *file_name, const char *label, char **ret, Failure *reterr) {
        _cleanup_free_ char *name = strndup(file_name, strlen(file_name) - strlen(CONFIG_SUFFIX));

        if (!name)
                return out_of_memory(reterr);
        if (!text_is_service_name(name))
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                                "%s: the file's name is not a service name; allowed are a "
                                "lower-case letter, then "
                                "up to 62 of a-z 0-9 _ -, before .conf",
                                label);
        if (config_is_reserved(name))
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                                "%s: '%s' is a reserved word and cannot name a service", label,
                                name);
        *ret = TAKE_PTR(name);
        return 0;
}

static int load_service(int dirfd,
                        const char *file_name,
                        const char *label,
                        Config *c,
                        Claims *claims,
                        Failure *reterr) {
        _cleanup_(config_raw_service_done)
                RawService raw = { .databases = -1, .max_age_hours = 26, .health_delay_sec = 5 };
        ConfigService *s = &c->services[c->n_services];
        int r;

        r = service_name(file_name, label, &s->name, reterr);
        if (r < 0)
                return r;
        c->n_services++; /* from here on config_free() sees it */
        s->file = strdup(label);
        if (!s->file)
                return out_of_memory(reterr);

        r = settings_load(dirfd, file_name, label, &config_service_table, &raw, reterr);
        if (r == -ENOENT) /* removed since the directory was read */
                return fail_errno(reterr, FAIL_CONFIGURATION_INVALID, ENOENT, "%s: cannot be read",
                                  label);
        if (r < 0)
                return r;
        if (raw.paths.n == 0)
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                                "%s:1: no Path= in [Service]; at least one is needed", label);
        for (size_t i = 0; i < raw.paths.n; i++) {
                r = claim_path(claims, s->file, &raw.paths.items[i], reterr);
                if (r < 0)
                        return r;
        }
        r = check_databases(&raw, label, reterr);
        if (r < 0)
                return r;
        return take_service(&raw, s) < 0 ? out_of_memory(reterr) : 0;
}

static int compare_names(const void *a, const void *b) {
        return strcmp(*(char *const *) a, *(char *const *) b);
}

/* The names of all *.conf in the open directory, in the order of their bytes; hidden ones are not
 * ours. */
static int list_files(DIR *dir, const char *label, SettingsList *ret, Failure *reterr) {
        for (;;) {
                struct dirent *e;
                SettingsItem *items;
                size_t n;

                errno = 0;
                e = readdir(dir);
                if (!e && errno)
                        return fail_errno(reterr, FAIL_CONFIGURATION_INVALID, errno,
                                          "%s: cannot be listed", label);
                if (!e)
                        break;
                n = strlen(e->d_name);
                if (e->d_name[0] == '.' || n < strlen(CONFIG_SUFFIX) ||
                    strcmp(e->d_name + n - strlen(CONFIG_SUFFIX), CONFIG_SUFFIX) != 0)
                        continue;
                if (ret->n >= CONFIG_FILES_MAX)
                        return fail_set(reterr, FAIL_CONFIGURATION_INVALID, E2BIG,
                                        "%s: holds more than %d files", label, CONFIG_FILES_MAX);
                items = reallocarray(ret->items, ret->n + 1, sizeof(*items));
                if (!items)
                        return out_of_memory(reterr);
                ret->items = items;
                ret->items[ret->n].line = 0;
                ret->items[ret->n].text = strdup(e->d_name);
                if (!ret->items[ret->n].text)
                        return out_of_memory(reterr);
                ret->n++;
        }
        if (ret->n > 0)
                qsort(ret->items, ret->n, sizeof(*ret->items), compare_names);
        return 0;
}

/* Opens a directory of configuration files and lists it. 1, 0 if there is none, or a negative
 * errno. */
static int open_files(int dirfd,
                      const char *name,
                      const char *label,
                      int *ret_fd,
                      SettingsList *ret,
                      Failure *reterr) {
        _cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_dir_ DIR *dir = NULL;
        int copy, r;

        if (fd < 0 && errno == ENOENT)
                return 0;
        if (fd < 0)
                return fail_errno(reterr, FAIL_CONFIGURATION_INVALID, errno, "%s: cannot be opened",
                                  label);
        r = settings_check_dir(fd, label, reterr);
        if (r < 0)
                return r;
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (copy < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "%s", label);
        dir = fdopendir(copy);
        if (!dir) {
                (void) fd_close(copy);
                return out_of_memory(reterr);
        }
        r = list_files(dir, label, ret, reterr);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 1;
}

static char *label_of(const char *dir, const char *name) {
        _cleanup_free_ char *path = text_printf("%s/%s", dir, name);

        return path ? text_escape(path) : NULL;
}

static int load_services(int dirfd, const char *dir, Config *c, Failure *reterr) {
        _cleanup_free_ char *label = label_of(dir, CONFIG_SERVICES);
        _cleanup_(settings_list_done) SettingsList names = { 0 };
        _cleanup_(claims_done) Claims claims = { 0 };
        _cleanup_close_ int fd = -1;
        int r;

        if (!label)
                return out_of_memory(reterr);
        r = open_files(dirfd, CONFIG_SERVICES, label, &fd, &names, reterr);
        if (r <= 0)
                return r;
        c->services = calloc(names.n + 1, sizeof(*c->services));
        if (!c->services)
                return out_of_memory(reterr);
        for (size_t i = 0; i < names.n; i++) {
                _cleanup_free_ char *file = label_of(label, names.items[i].text);

                if (!file)
                        return out_of_memory(reterr);
                r = load_service(fd, names.items[i].text, file, c, &claims, reterr);
                if (r < 0)
                        return r;
        }
        return check_repository(c, &claims, reterr);
}

static int load_agent(int dirfd, const char *dir, RawAgent *raw, Failure *reterr) {
        _cleanup_free_ char *main_label = label_of(dir, CONFIG_FILE),
                            *label = label_of(dir, CONFIG_DROP_INS);
        _cleanup_(settings_list_done) SettingsList names = { 0 };
        _cleanup_close_ int fd = -1;
        int r;

        if (!main_label || !label)
                return out_of_memory(reterr);
        r = settings_load(dirfd, CONFIG_FILE, main_label, &config_agent_table, raw, reterr);
        if (r < 0 && r != -ENOENT)
                return r;
        r = open_files(dirfd, CONFIG_DROP_INS, label, &fd, &names, reterr);
        for (size_t i = 0; r > 0 && i < names.n; i++) {
                _cleanup_free_ char *file = label_of(label, names.items[i].text);

                if (!file)
                        return out_of_memory(reterr);
                r = settings_load(fd, names.items[i].text, file, &config_agent_table, raw, reterr);
                if (r == -ENOENT)
                        return fail_errno(reterr, FAIL_CONFIGURATION_INVALID, ENOENT,
                                          "%s: cannot be read", file);
                if (r < 0)
                        return r;
                r = 1;
        }
        return r < 0 ? r : 0;
}

static int compare_services(const void *a, const void *b) {
        return strcmp(((const ConfigService *) a)->name, ((const ConfigService *) b)->name);
}

static int open_dir(const char *dir, int *ret, Failure *reterr) {
        _cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int r;

        if (fd < 0 && errno == ENOENT)
                return 0;
        if (fd < 0)
                return fail_errno(reterr, FAIL_CONFIGURATION_INVALID, errno, "%s: cannot be opened",
                                  dir);
        r = settings_check_dir(fd, dir, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_FD(fd);
        return 1;
}

/* A number that no key allows: the configuration files do not set it. */
#define NOT_SET UINT32_MAX

static int warn_conflict(Config *c,
                         const Defaults *d,
                         unsigned line,
                         const char *name,
                         const char *key,
                         const char *dir,
                         Failure *reterr) {
        return defaults_warn(&c->warnings,
                             "%s:%u: %s is ignored: %s in %s says otherwise; remove one of the two",
                             d->file, line, name, key, dir) < 0
                       ? out_of_memory(reterr)
                       : 0;
}

/* What the configuration files say, else /etc/default/holdpoint, else `fallback`. */
static int merge_number(Config *c,
                        const Defaults *d,
                        const DefaultsNumber *n,
                        const char *name,
                        const char *key,
                        const char *dir,
                        uint32_t *value,
                        Failure *reterr) {
        if (n->line > 0 && *value != NOT_SET && *value != n->value)
                return warn_conflict(c, d, n->line, name, key, dir, reterr);
        if (n->line > 0)
                *value = n->value;
        return 0;
}

static int merge_path(Config *c, const Defaults *d, RawAgent *raw, const char *dir, Failure *f) {
        const char *configured = raw->repository_path.text;

        if (configured && d->dir && strcmp(configured, d->dir) != 0 &&
            warn_conflict(c, d, d->dir_line, "BACKUP_DIR", "[Repository] Path=", dir, f) < 0)
                return -ENOMEM;
        if (configured)
                c->repository_path = TAKE_PTR(raw->repository_path.text);
        else
                c->repository_path = strdup(d->dir ? d->dir : HP_DEFAULT_REPOSITORY);
        return c->repository_path ? 0 : out_of_memory(f);
}

/* Below the configuration files: they win, and a conflict is told. */
static int merge_defaults(Config *c, Defaults *d, RawAgent *raw, const char *dir, Failure *reterr) {
        int r;

        c->warnings = d->warnings;
        d->warnings = (ConfigStrings){ .n = 0 };
        c->private_defaults = d->file && d->private;
        c->default_schedule = d->schedule;
        d->schedule.backup_type = NULL;
        r = merge_path(c, d, raw, dir, reterr);
        if (r >= 0)
                r = merge_number(c, d, &d->compression_level, "BACKUP_COMPRESSION_LEVEL",
                                 "[Repository] CompressionLevel=", dir, &raw->compression_level,
                                 reterr);
        if (r >= 0)
                r = merge_number(c, d, &d->retention_days, "BACKUP_RETENTION_DAYS",
                                 "[Retention] Days=", dir, &raw->retention_days, reterr);
        if (r < 0)
                return r;
        c->compression_level = raw->compression_level == NOT_SET ? 6 : raw->compression_level;
        c->retention_days = raw->retention_days == NOT_SET ? 30 : raw->retention_days;
        return 0;
}

/* Only now is it known which services there are. */
static int check_schedule(const Config *c, const Defaults *d, Failure *reterr) {
        const char *type = c->default_schedule.backup_type;

        if (d->schedule_line == 0 || strcmp(type, "full") == 0 || config_service(c, type))
                return 0;
        return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                        "%s:%u: AUTO_BACKUP_TYPE=%s: there is no such service; allowed: full and "
                        "the services of services.d",
                        d->file, d->schedule_line, type);
}

static int load_all(int dirfd, const char *dir, RawAgent *raw, Config *c, Failure *reterr) {
        _cleanup_(defaults_done) Defaults defaults = { .file = NULL };
        int r = dirfd < 0 ? 0 : load_agent(dirfd, dir, raw, reterr);

        if (r < 0)
                return r;
        c->max_queued_jobs = raw->max_queued_jobs;
        c->max_queued_jobs_per_user = raw->max_queued_jobs_per_user;
        c->pack_size_mib = raw->pack_size_mib;
        c->lock_timeout_msec = raw->lock_timeout_msec;
        c->max_hold_msec = raw->max_hold_msec;
        c->fail_on_timeout = raw->on_timeout == 1;
        c->minimum_backups = raw->minimum_backups;
        c->hot_keep = raw->hot_keep;
        c->hot_max_age_days = raw->hot_max_age_days;
        c->keep_old_days = raw->keep_old_days;
        r = defaults_load(&defaults, reterr);
        if (r >= 0)
                r = merge_defaults(c, &defaults, raw, dir, reterr);
        if (r < 0)
                return r;
        r = dirfd < 0 ? 0 : load_services(dirfd, dir, c, reterr);
        if (r < 0)
                return r;
        /* "a-b.conf" sorts before "a.conf" as a file and after it as a name. */
        if (c->n_services > 0)
                qsort(c->services, c->n_services, sizeof(*c->services), compare_services);
        return check_schedule(c, &defaults, reterr);
}

int config_load(const char *dir, Config **ret, Failure *reterr) {
        RawAgent raw = { .max_queued_jobs = 16,
                         .max_queued_jobs_per_user = 4,
                         .compression_level = NOT_SET,
                         .pack_size_mib = 32,
                         .lock_timeout_msec = 200,
                         .max_hold_msec = 1000,
                         .retention_days = NOT_SET,
                         .minimum_backups = 1,
                         .hot_keep = 3,
                         .hot_max_age_days = 7,
                         .keep_old_days = 7 };
        _cleanup_(config_freep) Config *c = calloc(1, sizeof(*c));
        _cleanup_close_ int dirfd = -1;
        int r;

        if (!c)
                return out_of_memory(reterr);
        r = open_dir(dir, &dirfd, reterr);
        if (r >= 0)
                r = load_all(dirfd, dir, &raw, c, reterr);
        settings_item_done(&raw.repository_path);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(c);
        return 0;
}

static void strings_done(ConfigStrings *s) {
        for (size_t i = 0; i < s->n; i++)
                free(s->items[i]);
        free(s->items);
}

void config_free(Config *c) {
        if (!c)
                return;
        for (size_t i = 0; i < c->n_services; i++) {
                ConfigService *s = &c->services[i];

                free(s->name);
                free(s->file);
                free(s->description);
                free(s->health_check_unit);
                strings_done(&s->paths);
                strings_done(&s->excludes);
                strings_done(&s->database_paths);
                strings_done(&s->units);
        }
        free(c->services);
        free(c->repository_path);
        free(c->default_schedule.backup_type);
        strings_done(&c->warnings);
        free(c);
}

const ConfigService *config_service(const Config *c, const char *name) {
        for (size_t i = 0; i < c->n_services; i++)
                if (strcmp(c->services[i].name, name) == 0)
                        return &c->services[i];
        return NULL;
}

const char *config_dir(void) {
        const char *dir = getenv(HP_ENV_CONFIGURATION);

        return dir && *dir ? dir : HP_DEFAULT_CONFIGURATION;
}
