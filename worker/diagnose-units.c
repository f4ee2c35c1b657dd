/*
 * Our units as systemd has them, drop-ins of the administrator's included: what would break a
 * provider, an exchange or a store is in the tables here, for the reasons that docs/SANDBOX.md
 * gives.
 */

#include <linux/capability.h>
#include <string.h>

#include "base/text.h"
#include "worker/diagnose.h"

/* A class by its letter: backup, restore (and recover), maintain, configure, image. */
static const struct {
        char class;
        const char *unit;
} workers[] = {
        { 'b', "holdpoint-backup@doctor.service" },    { 'r', "holdpoint-restore@doctor.service" },
        { 'r', "holdpoint-recover.service" },          { 'm', "holdpoint-maintain@doctor.service" },
        { 'c', "holdpoint-configure@doctor.service" }, { 'i', "holdpoint-image@doctor.service" },
};

#define WHY_MOUNTS                                                                                 \
        "makes bind mounts over the data: a snapshot or an exchange would meet another file "      \
        "system"

static const struct {
        const char *classes, *property;
        char kind;           /* s text, b bool, l list, p list of pairs, q of pairs and more */
        const char *fine[2]; /* texts that do no harm; a bool must be off, a list empty */
        const char *why;
} rules[] = {
        { "br", "ProtectSystem", 's', { "no", "" }, WHY_MOUNTS },
        { "br", "ProtectHome", 's', { "no", "" }, WHY_MOUNTS },
        { "br", "ReadWritePaths", 'l', { NULL }, WHY_MOUNTS },
        { "br", "ReadOnlyPaths", 'l', { NULL }, WHY_MOUNTS },
        { "br", "InaccessiblePaths", 'l', { NULL }, WHY_MOUNTS },
        { "br", "ExecPaths", 'l', { NULL }, WHY_MOUNTS },
        { "br", "NoExecPaths", 'l', { NULL }, WHY_MOUNTS },
        { "br", "BindPaths", 'q', { NULL }, WHY_MOUNTS },
        { "br", "BindReadOnlyPaths", 'q', { NULL }, WHY_MOUNTS },
        { "br", "TemporaryFileSystem", 'p', { NULL }, WHY_MOUNTS },
        { "bri", "PrivateDevices", 'b', { NULL }, "hides volumes and forbids device nodes" },
        { "bi",
          "KillMode",
          's',
          { "control-group", "" },
          "lets an LVM command be killed half way, or go on without its worker" },
        { "rmc",
          "KillMode",
          's',
          { "mixed", "control-group" },
          "lets helpers go on without their worker" },
        { "bi", "ProcSubset", 's', { "all", "" }, "hides what device-mapper is asked by" },
        { "r",
          "ProtectProc",
          's',
          { "ptraceable", "default" },
          "hides who uses the target: every exchange is refused" },
        { "brmci",
          "PrivateUsers",
          'b',
          { NULL },
          "hides the host's users: the agent is not recognised, owners cannot be kept" },
        { "brmci",
          "RestrictSUIDSGID",
          'b',
          { NULL },
          "makes openat2() fail, by which all paths are opened" },
        { "brmci", "RootDirectory", 's', { "", "/" }, "hides the data and the repository" },
        { "brmci", "User", 's', { "", "root" }, "takes away what only root may do" },
};

static const struct {
        const char *classes, *name;
        unsigned number;
} capabilities[] = {
        { "bri", "CAP_SYS_ADMIN", CAP_SYS_ADMIN },
        { "br", "CAP_DAC_OVERRIDE", CAP_DAC_OVERRIDE },
        { "br", "CAP_FOWNER", CAP_FOWNER },
        { "br", "CAP_CHOWN", CAP_CHOWN },
        { "br", "CAP_SETUID", CAP_SETUID },
        { "br", "CAP_SETGID", CAP_SETGID },
        { "br", "CAP_KILL", CAP_KILL },
        { "r", "CAP_SYS_PTRACE", CAP_SYS_PTRACE },
        { "r", "CAP_FSETID", CAP_FSETID },
        { "r", "CAP_SETFCAP", CAP_SETFCAP },
        { "r", "CAP_MKNOD", CAP_MKNOD },
        { "r", "CAP_LINUX_IMMUTABLE", CAP_LINUX_IMMUTABLE },
};

/* What a class does with devices, and what must be allowed for it once anything is refused. */
static const struct {
        char class;
        const char *device, *rights;
} devices[] = {
        { 'b', "/dev/mapper/control", "rw" },
        { 'b', "block-device-mapper", "rw" },
        { 'b', "block-*", "rw" },
        { 'b', "/dev/btrfs-control", "rw" },
        { 'i', "/dev/mapper/control", "rw" },
        { 'i', "block-device-mapper", "rw" },
        { 'i', "block-*", "r" },
        { 'r', "block-*", "m" },
        { 'r', "char-*", "m" },
};

static void unreadable(Diagnosis *d, const char *unit, const Failure *f) {
        findings_add(&d->findings, FINDING_WARNING, ABOUT("units", unit),
                     "see 'systemctl status' of it; install Holdpoint again if it is not there",
                     "cannot be looked at: %s", f->text);
}

/* ---- sandboxes ---- */

static bool is_fine_text(const char *text, const char *const fine[2]) {
        return strcmp(text, fine[0]) == 0 || strcmp(text, fine[1]) == 0;
}

/* 1: as it should be; 0: not, and `ret` (owned) has what is there. */
static int try_rule(Diagnosis *d, const char *unit, size_t rule, char **ret, Failure *reterr) {
        const char *property = rules[rule].property;
        bool on = false;
        int r;

        switch (rules[rule].kind) {
        case 's':
                r = systemd_get_text(d->systemd, unit, "Service", property, ret, reterr);
                return r < 0 ? r : is_fine_text(*ret, rules[rule].fine);
        case 'b':
                r = systemd_get_bool(d->systemd, unit, "Service", property, &on, reterr);
                *ret = r < 0 ? NULL : strdup("yes");
                return r < 0 ? r : !on;
        case 'l':
                r = systemd_get_list(d->systemd, unit, "Service", property, ret, reterr);
                return r < 0 ? r : **ret == 0;
        default:
                r = systemd_get_pairs(d->systemd, unit, "Service", property,
                                      rules[rule].kind == 'p' ? "a(ss)" : "a(ssbt)", ret, reterr);
                return r < 0 ? r : **ret == 0;
        }
}

static bool check_rules(Diagnosis *d, char class, const char *unit) {
        bool good = true;

        for (size_t i = 0; i < ELEMENTSOF(rules); i++) {
                _cleanup_free_ char *is = NULL, *remedy = NULL;
                Failure f = FAILURE_INIT;
                int r = strchr(rules[i].classes, class) ? try_rule(d, unit, i, &is, &f) : 1;

                if (r > 0)
                        continue;
                good = false;
                if (r < 0) {
                        unreadable(d, unit, &f);
                        return false;
                }
                remedy = text_printf("take it out of the drop-in that sets it; 'systemctl cat %s' "
                                     "shows which",
                                     unit);
                findings_add(&d->findings, FINDING_ERROR, ABOUT("sandbox", unit), remedy,
                             "%s=%s %s", rules[i].property, is ?: "", rules[i].why);
        }
        return good;
}

static bool check_capabilities(Diagnosis *d, char class, const char *unit) {
        Failure f = FAILURE_INIT;
        uint64_t set = 0;
        bool good = true;
        int r = systemd_get_u64(d->systemd, unit, "Service", "CapabilityBoundingSet", &set, &f);

        if (r < 0) {
                unreadable(d, unit, &f);
                return false;
        }
        for (size_t i = 0; i < ELEMENTSOF(capabilities); i++) {
                if (!strchr(capabilities[i].classes, class) ||
                    (set & (UINT64_C(1) << capabilities[i].number)))
                        continue;
                good = false;
                findings_add(&d->findings, FINDING_ERROR, ABOUT("sandbox", unit),
                             "add it to CapabilityBoundingSet= again; docs/SANDBOX.md says what it "
                             "is for",
                             "lacks %s", capabilities[i].name);
        }
        return good;
}

static bool has_all(const char *rights, const char *granted, size_t n) {
        for (; *rights; rights++)
                if (!memchr(granted, *rights, n))
                        return false;
        return true;
}

/* `list` is "device rights; device rights". */
static bool is_allowed(const char *list, const char *device, const char *rights) {
        size_t n = strlen(device);

        for (const char *p = list, *end; *p; p = *end ? end + 2 : end) {
                end = p + strcspn(p, ";");
                if (strncmp(p, device, n) == 0 && p[n] == ' ' &&
                    has_all(rights, p + n + 1, (size_t) (end - p) - n - 1))
                        return true;
        }
        return false;
}

/* An empty list of a policy that is not strict refuses nothing; ProtectClock= puts one in. */
static bool check_devices(Diagnosis *d, char class, const char *unit) {
        _cleanup_free_ char *policy = NULL, *list = NULL;
        Failure f = FAILURE_INIT;
        bool good = true;
        int r = systemd_get_text(d->systemd, unit, "Service", "DevicePolicy", &policy, &f);

        if (r >= 0)
                r = systemd_get_pairs(d->systemd, unit, "Service", "DeviceAllow", "a(ss)", &list,
                                      &f);
        if (r < 0) {
                unreadable(d, unit, &f);
                return false;
        }
        if (strcmp(policy, "auto") == 0 && !*list)
                return true;
        for (size_t i = 0; i < ELEMENTSOF(devices); i++) {
                if (devices[i].class != class ||
                    is_allowed(list, devices[i].device, devices[i].rights))
                        continue;
                good = false;
                findings_add(&d->findings, FINDING_ERROR, ABOUT("sandbox", unit),
                             "add it to DeviceAllow= again, or take out of the drop-ins what "
                             "empties that; docs/SANDBOX.md says what it is for",
                             "lacks DeviceAllow=%s %s", devices[i].device, devices[i].rights);
        }
        return good;
}

/* `list` is systemd's, joined by blanks; "-" and "+" may stand before a path. */
static bool is_in_list(const char *path, char *list) {
        char *found = strstr(list, path), *rest = NULL;
        size_t n = strlen(path);

        /* A path with blanks in it must be there as it is. */
        if (found && (found == list || strchr(" -+", found[-1])) &&
            (found[n] == ' ' || found[n] == 0))
                return true;
        for (char *p = strtok_r(list, " ", &rest); p; p = strtok_r(NULL, " ", &rest)) {
                p += strspn(p, "-+");
                if (text_is_clean_path(p) && text_path_is_below(path, p))
                        return true;
        }
        return false;
}

static bool is_home(const char *path) {
        return text_path_is_below(path, "/home") || text_path_is_below(path, "/root") ||
               text_path_is_below(path, "/run/user");
}

/* Where all is read-only, what has to be written is named; what is hidden stays hidden. */
static bool is_writable(const char *path, const char *system, const char *home, char *list) {
        bool guarded = is_home(path) && strcmp(home, "no") != 0;

        if (guarded && strcmp(home, "read-only") != 0)
                return false;
        return (!guarded && strcmp(system, "strict") != 0) || is_in_list(path, list);
}

static bool check_writable(Diagnosis *d, const char *unit, const char *path, const char *remedy) {
        _cleanup_free_ char *system = NULL, *home = NULL, *list = NULL;
        Failure f = FAILURE_INIT;
        int r = systemd_get_text(d->systemd, unit, "Service", "ProtectSystem", &system, &f);

        if (r >= 0)
                r = systemd_get_text(d->systemd, unit, "Service", "ProtectHome", &home, &f);
        if (r >= 0)
                r = systemd_get_list(d->systemd, unit, "Service", "ReadWritePaths", &list, &f);
        if (r < 0) {
                unreadable(d, unit, &f);
                return false;
        }
        if (is_writable(path, system, home, list))
                return true;
        findings_add(&d->findings, FINDING_ERROR, ABOUT("sandbox", unit), remedy,
                     "%s is read-only or hidden there", path);
        return false;
}

/* A directory of its own that goes with each worker. */
static bool check_kept(Diagnosis *d, const char *unit, const char *path) {
        Failure f = FAILURE_INIT;
        bool on = false;

        if (!text_path_is_below(path, "/tmp") && !text_path_is_below(path, "/var/tmp"))
                return true;
        if (systemd_get_bool(d->systemd, unit, "Service", "PrivateTmp", &on, &f) < 0) {
                unreadable(d, unit, &f);
                return false;
        }
        if (on)
                findings_add(&d->findings, FINDING_ERROR, ABOUT("sandbox", unit),
                             "move the repository elsewhere",
                             "has a /tmp of its own: what is stored in %s is gone at its end",
                             path);
        return !on;
}

static bool check_repository(Diagnosis *d, char class, const char *unit, const char *path) {
        if (!check_kept(d, unit, path))
                return false;
        return (class != 'm' && class != 'c') ||
               check_writable(d, unit, path,
                              "run 'systemctl daemon-reload': holdpoint-generator then names it; "
                              "if it does not, 'systemctl cat' of the unit shows what overrides "
                              "it, and the journal since that what the generator met");
}

static void check_worker(Diagnosis *d, char class, const char *unit) {
        const Config *c = d->work->config;
        bool good = check_rules(d, class, unit);

        good = good && check_capabilities(d, class, unit);
        good = good && check_devices(d, class, unit);
        if (good && c)
                good = check_repository(d, class, unit, c->repository_path);
        if (good && class == 'c')
                good = check_writable(d, unit, config_dir(),
                                      "take what overrides it out of the drop-ins that "
                                      "'systemctl cat' shows");
        if (good)
                findings_add(&d->findings, FINDING_OK, ABOUT("sandbox", unit), NULL,
                             "nothing in its way");
}

/* ---- states ---- */

static bool read_states(Diagnosis *d, const char *unit, char **ret_load, char **ret_active) {
        Failure f = FAILURE_INIT;

        if (systemd_get_text(d->systemd, unit, "Unit", "LoadState", ret_load, &f) >= 0 &&
            systemd_get_text(d->systemd, unit, "Unit", "ActiveState", ret_active, &f) >= 0)
                return true;
        unreadable(d, unit, &f);
        return false;
}

static void check_socket(Diagnosis *d, const char *unit) {
        _cleanup_free_ char *load = NULL, *active = NULL, *remedy = NULL;

        if (!read_states(d, unit, &load, &active))
                return;
        remedy = text_printf(
                "run 'systemctl start %s'; if it is not loaded, install Holdpoint again", unit);
        if (strcmp(active, "active") == 0)
                findings_add(&d->findings, FINDING_OK, ABOUT("units", unit), NULL, "listening");
        else
                findings_add(&d->findings, FINDING_ERROR, ABOUT("units", unit), remedy,
                             "is %s, %s: jobs of its class cannot begin", load, active);
}

/* `wanted`: what is lost while it is not started by itself. */
static void check_enabled(Diagnosis *d, const char *unit, const char *wanted) {
        _cleanup_free_ char *state = NULL, *remedy = NULL;
        Failure f = FAILURE_INIT;

        if (systemd_get_text(d->systemd, unit, "Unit", "UnitFileState", &state, &f) < 0) {
                unreadable(d, unit, &f);
                return;
        }
        remedy = text_printf("run 'systemctl %s %s'",
                             strncmp(state, "masked", 6) == 0 ? "unmask" : "enable", unit);
        if (strncmp(state, "enabled", 7) == 0 || strcmp(state, "static") == 0)
                findings_add(&d->findings, FINDING_OK, ABOUT("units", unit), NULL, "%s", state);
        else
                findings_add(&d->findings, FINDING_WARNING, ABOUT("units", unit), remedy, "%s: %s",
                             *state ? state : "not there", wanted);
}

void diagnose_units(Diagnosis *d) {
        static const char *const sockets[] = {
                "holdpoint-backup.socket",   "holdpoint-restore.socket",
                "holdpoint-maintain.socket", "holdpoint-configure.socket",
                "holdpoint-image.socket",
        };

        if (!d->systemd)
                return;
        for (size_t i = 0; i < ELEMENTSOF(sockets); i++)
                check_socket(d, sockets[i]);
        check_enabled(d, "holdpointd.service",
                      "nobody tells of an overdue service until something calls the agent");
        check_enabled(d, "holdpoint-recover.service",
                      "after a crash the services of an unfinished restore would start on a mix");
        for (size_t i = 0; i < ELEMENTSOF(workers); i++)
                check_worker(d, workers[i].class, workers[i].unit);
}

/* ---- units of a service ---- */

static void check_unit_of(Diagnosis *d, const ConfigService *c, const char *unit, bool health) {
        _cleanup_free_ char *load = NULL, *active = NULL, *type = NULL;
        Failure ignored = FAILURE_INIT;

        if (!read_states(d, unit, &load, &active))
                return;
        if (strcmp(load, "loaded") != 0)
                findings_add(&d->findings, FINDING_ERROR, ABOUT_SERVICE("service.units", c, unit),
                             "correct the name in the service's file, or install the unit",
                             "is %s: a restore would not find it", load);
        else if (strcmp(active, "failed") == 0)
                findings_add(&d->findings, FINDING_WARNING, ABOUT_SERVICE("service.units", c, unit),
                             "see 'systemctl status' of it", "has failed");
        else if (health &&
                 systemd_get_text(d->systemd, unit, "Service", "Type", &type, &ignored) >= 0 &&
                 strcmp(type, "oneshot") != 0)
                findings_add(&d->findings, FINDING_WARNING, ABOUT_SERVICE("service.units", c, unit),
                             "set Type=oneshot in it, so that its end says whether all is well",
                             "HealthCheckUnit= is of type %s", type);
        else
                findings_add(&d->findings, FINDING_OK, ABOUT_SERVICE("service.units", c, unit),
                             NULL, "%s", active);
}

/* Workers have directories of their own there. */
static void check_private_tmp(Diagnosis *d, const ConfigService *c) {
        Failure ignored = FAILURE_INIT;
        bool on = false;

        (void) systemd_get_bool(d->systemd, workers[0].unit, "Service", "PrivateTmp", &on,
                                &ignored);
        for (size_t i = 0; on && i < c->paths.n; i++)
                if (text_path_is_below(c->paths.items[i], "/tmp") ||
                    text_path_is_below(c->paths.items[i], "/var/tmp"))
                        findings_add(&d->findings, FINDING_ERROR,
                                     ABOUT_SERVICE("service.path", c, c->paths.items[i]),
                                     "move the data elsewhere, or set PrivateTmp=no in drop-ins of "
                                     "holdpoint-backup@.service and holdpoint-restore@.service",
                                     "workers have a /tmp of their own and do not see it");
}

void diagnose_units_of(Diagnosis *d, const ConfigService *c) {
        if (d->systemd) {
                for (size_t i = 0; i < c->units.n; i++)
                        check_unit_of(d, c, c->units.items[i], false);
                if (c->health_check_unit)
                        check_unit_of(d, c, c->health_check_unit, true);
                check_private_tmp(d, c);
        } else if (c->units.n > 0 || c->health_check_unit) {
                findings_add(
                        &d->findings, FINDING_ERROR,
                        ABOUT_SERVICE("service.units", c,
                                      c->units.n > 0 ? c->units.items[0] : c->health_check_unit),
                        "take Unit= and HealthCheckUnit= out of the service's file and stop "
                        "the service by other means, or restore aside",
                        "there is no systemd on the bus that could stop it: a restore is "
                        "refused");
        }
}
