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
        char kind;           /* s text, b bool, l list */
        const char *fine[2]; /* texts that do no harm; a bool must be off, a list empty */
        const char *why;
} rules[] = {
        { "br", "ProtectSystem", 's', { "no", "" }, WHY_MOUNTS },
        { "br", "ProtectHome", 's', { "no", "" }, WHY_MOUNTS },
        { "br", "ReadWritePaths", 'l', { NULL }, WHY_MOUNTS },
        { "br", "ReadOnlyPaths", 'l', { NULL }, WHY_MOUNTS },
        { "br", "InaccessiblePaths", 'l', { NULL }, WHY_MOUNTS },
        { "bri", "PrivateDevices", 'b', { NULL }, "hides volumes and forbids device nodes" },
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
        default:
                r = systemd_get_list(d->systemd, unit, "Service", property, ret, reterr);
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

/* `list` is systemd's, joined by blanks; "-" and "+" may stand before a path. */
static bool is_in_list(const char *path, char *list) {
        char *rest = NULL;

        for (char *p = strtok_r(list, " ", &rest); p; p = strtok_r(NULL, " ", &rest)) {
                p += strspn(p, "-+");
                if (text_is_clean_path(p) && text_path_is_below(path, p))
                        return true;
        }
        return false;
}

/* Where the whole system is read-only, the repository has to be named. */
static bool check_writable(Diagnosis *d, const char *unit, const char *path) {
        _cleanup_free_ char *system = NULL, *home = NULL, *list = NULL, *remedy = NULL;
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
        if ((strcmp(system, "strict") != 0 || is_in_list(path, list)) &&
            (strcmp(home, "no") == 0 || !text_path_is_below(path, "/home")))
                return true;
        remedy = text_printf("'systemctl edit %s', with [Service] and ReadWritePaths=%s%s", unit,
                             path, text_path_is_below(path, "/home") ? " and ProtectHome=no" : "");
        findings_add(&d->findings, FINDING_ERROR, ABOUT("sandbox", unit), remedy,
                     "%s is read-only or hidden there", path);
        return false;
}

static void check_worker(Diagnosis *d, char class, const char *unit) {
        const Config *c = d->work->config;
        bool good = check_rules(d, class, unit);

        good = good && check_capabilities(d, class, unit);
        if (good && c && (class == 'm' || class == 'c'))
                good = check_writable(d, unit, c->repository_path);
        if (good && class == 'c')
                good = check_writable(d, unit, config_dir());
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
