/*
 * What is the host's and not one service's: who may read and write our files, the keys, the
 * repository, what its records say, restores that are not settled.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/names.h"
#include "base/proc.h"
#include "base/text.h"
#include "worker/cutover.h"
#include "worker/diagnose.h"
#include "worker/intent.h"
#include "worker/job-keys.h"
#include "worker/open-repo.h"
#include "worker/verified.h"

#define FILES_TOLD_MAX 10
#define GROUPS_MAX     64

/* Below a share of the whole, and below so much that a big disk is not full at that share. */
#define SPACE_LOW_PART        10
#define SPACE_LOW_BYTES       (UINT64_C(10) << 30)
#define SPACE_EXHAUSTED_PART  50
#define SPACE_EXHAUSTED_BYTES (UINT64_C(1) << 30)

/* A record may be of a clock that was a little ahead. */
#define FUTURE_USEC (UINT64_C(3600) * USEC_PER_SEC)

/* ---- room ---- */

static uint64_t least(uint64_t a, uint64_t b) {
        return a < b ? a : b;
}

void diagnose_space(Diagnosis *d, int fd, const FindingAbout *about, const char *remedy) {
        uint64_t free_bytes, total;
        FindingSeverity severity = FINDING_OK;
        int r = fs_space(fd, &free_bytes, &total);

        if (r < 0) {
                findings_add(&d->findings, FINDING_WARNING, about, NULL,
                             "free space cannot be told: %s", strerror(-r));
                return;
        }
        if (free_bytes < least(total / SPACE_EXHAUSTED_PART, SPACE_EXHAUSTED_BYTES))
                severity = FINDING_ERROR;
        else if (free_bytes < least(total / SPACE_LOW_PART, SPACE_LOW_BYTES))
                severity = FINDING_WARNING;
        findings_add(&d->findings, severity, about, severity == FINDING_OK ? NULL : remedy,
                     "%llu of %llu MiB free", (unsigned long long) (free_bytes >> 20),
                     (unsigned long long) (total >> 20));
}

/* ---- files of the configuration ---- */

static bool is_member(const struct passwd *agent, gid_t gid) {
        gid_t groups[GROUPS_MAX];
        int n = GROUPS_MAX;

        (void) getgrouplist(agent->pw_name, agent->pw_gid, groups, &n); /* of too many the first */
        for (int i = 0; i < n && i < GROUPS_MAX; i++)
                if (groups[i] == gid)
                        return true;
        return false;
}

static bool agent_may_read(const struct stat *st, const struct passwd *agent) {
        if (st->st_uid == agent->pw_uid)
                return st->st_mode & S_IRUSR;
        return st->st_mode & (is_member(agent, st->st_gid) ? S_IRGRP : S_IROTH);
}

/* The agent is not root and reads the same files; it would not start, or not reload. */
static void check_dir(Diagnosis *d, const char *path, const struct passwd *agent) {
        _cleanup_dir_ DIR *dir = opendir(path);
        const struct dirent *e;
        unsigned told = 0;

        while (dir && told < FILES_TOLD_MAX && (e = readdir(dir))) {
                _cleanup_free_ char *file = text_printf("%s/%s", path, e->d_name);
                size_t n = strlen(e->d_name);
                struct stat st;

                if (!file || n < 5 || strcmp(e->d_name + n - 5, ".conf") != 0 ||
                    fstatat(dirfd(dir), e->d_name, &st, 0) < 0 || agent_may_read(&st, agent))
                        continue;
                told++;
                findings_add(&d->findings, FINDING_ERROR, ABOUT("configuration.permissions", file),
                             "make it readable for the agent: chmod 0644, or chgrp to its group "
                             "and chmod 0640",
                             "the agent (user %s) cannot read it", agent->pw_name);
        }
}

static void check_program(Diagnosis *d, const char *name, const char *what) {
        _cleanup_free_ char *path = text_printf("%s/%s", proc_libexec_dir(), name);

        if (path && access(path, X_OK) < 0)
                findings_add(&d->findings, FINDING_ERROR, ABOUT("program", path),
                             "install Holdpoint again; all its programs must be of one version",
                             "the program that %s cannot be run: %s", what, strerror(errno));
}

void diagnose_files(Diagnosis *d) {
        static const char *const dirs[] = { "", "/holdpoint.conf.d", "/services.d" };
        const char *name = getenv(HP_ENV_AGENT_USER);
        const struct passwd *agent = getpwnam(name && *name ? name : HP_DEFAULT_AGENT_USER);

        if (!agent)
                findings_add(&d->findings, FINDING_ERROR,
                             ABOUT("agent.user", name && *name ? name : HP_DEFAULT_AGENT_USER),
                             "run 'systemd-sysusers holdpoint.conf'",
                             "there is no such user, so only root may drive the workers");
        for (size_t i = 0; agent && i < ELEMENTSOF(dirs); i++) {
                _cleanup_free_ char *path = text_printf("%s%s", config_dir(), dirs[i]);

                if (path)
                        check_dir(d, path, agent);
        }
        check_program(d, HP_SQLITE_PROGRAM, "holds databases");
        check_program(d, HP_LVM_PROGRAM, "speaks to LVM");
}

/* ---- keys ---- */

static void check_key_files(Diagnosis *d, const char *path) {
        _cleanup_dir_ DIR *dir = opendir(path);
        const struct dirent *e;
        struct stat st;

        if (!dir)
                return;
        if (fstat(dirfd(dir), &st) == 0 && (st.st_uid != 0 || st.st_mode & 077))
                findings_add(&d->findings, FINDING_ERROR, ABOUT("keys.permissions", path),
                             "chown root:root and chmod 0700 it, and look who made it so",
                             "belongs to uid %u with mode %04o", st.st_uid, st.st_mode & 07777);
        while ((e = readdir(dir))) {
                _cleanup_free_ char *file = text_printf("%s/%s", path, e->d_name);

                if (!file || fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
                    !S_ISREG(st.st_mode) || strncmp(e->d_name, "public", 6) == 0 ||
                    (st.st_uid == 0 && (st.st_mode & 077) == 0))
                        continue;
                findings_add(
                        &d->findings, FINDING_ERROR, ABOUT("keys.permissions", file),
                        "chown root:root and chmod 0600 it; if it is a key, others may have it",
                        "belongs to uid %u with mode %04o", st.st_uid, st.st_mode & 07777);
        }
}

static void judge_keys(Diagnosis *d, const KeyFacts *k, const char *dir) {
        if (!*k->id) {
                findings_add(&d->findings, FINDING_NOTE, ABOUT("keys.recovery", dir),
                             "after the first backup run 'holdpoint key export-recovery'",
                             "there is no key yet; the first backup makes it");
                return;
        }
        if (!k->recovery_exported)
                findings_add(&d->findings, FINDING_WARNING, ABOUT("keys.recovery", k->id),
                             "run 'holdpoint key export-recovery', keep the file elsewhere, and "
                             "prove it with 'holdpoint key prove FILE'",
                             "no recovery copy of the private key was handed out: with this host "
                             "all backups are lost");
        else if (!k->recovery_proven)
                findings_add(&d->findings, FINDING_WARNING, ABOUT("keys.recovery", k->id),
                             "run 'holdpoint key prove FILE' with the copy that was handed out",
                             "a recovery copy of the private key was handed out, but never proven");
        else
                findings_add(&d->findings, FINDING_OK, ABOUT("keys.recovery", k->id), NULL,
                             "a recovery copy was handed out and proven");
        findings_add(&d->findings, k->private_key ? FINDING_OK : FINDING_NOTE,
                     ABOUT("keys.private", k->id),
                     k->private_key ? NULL : "have the recovery key at hand: --key FILE",
                     k->private_key ? "the private key is on this host"
                                    : "the private key is not on this host: restores from the "
                                      "repository ask for it");
}

void diagnose_keys(Diagnosis *d) {
        _cleanup_free_ char *dir = NULL;
        Failure f = FAILURE_INIT;
        KeyPlaces places;
        KeyFacts facts;
        int r = job_keys_places(&dir, &places, &f);

        if (r >= 0) {
                check_key_files(d, dir);
                r = keys_facts(&places, &facts, &f);
        }
        if (r >= 0)
                judge_keys(d, &facts, dir);
        else
                findings_add(&d->findings, FINDING_ERROR, ABOUT("keys", dir),
                             "put the file back from a copy of the configuration", "%s", f.text);
}

/* ---- repository ---- */

typedef struct Records {
        Diagnosis *d;
        uint64_t now, newest, damaged;
        char damaged_id[UUID_TEXT_MAX];
} Records;

static uint64_t time_of(json_object *o, const char *key) {
        const char *text;
        uint64_t usec;

        return json_get_string(o, key, &text) < 0 || clock_parse(text, &usec) < 0 ? 0 : usec;
}

static void note_record(DiagnosedService *s, uint64_t made, uint64_t verified, bool sound) {
        if (made >= s->last_usec) {
                s->last_usec = made;
                s->damaged = verified > 0 && !sound;
        }
        if (sound && verified > s->verified_usec)
                s->verified_usec = verified;
}

static int on_record(void *userdata, const char *id, json_object *record, const Failure *damage) {
        _cleanup_json_ json_object *verified = json_object_new_object();
        const char *status = "", *result = "";
        Records *all = userdata;
        const Config *c = all->d->work->config;
        json_object *services;
        uint64_t made;

        if (work_interrupted(all->d->work))
                return -ECANCELED;
        if (!record) {
                all->damaged++;
                (void) snprintf(all->damaged_id, sizeof(all->damaged_id), "%.36s", id);
                return 0;
        }
        if (json_get_u64(record, "instant_usec", &made) < 0)
                made = time_of(record, "created_at");
        if (made > all->newest)
                all->newest = made;
        (void) json_get_string(record, "status", &status);
        if (strcmp(status, "completed") != 0 || json_get_array(record, "services", &services) < 0)
                return 0;
        if (!verified || verified_put(all->d->work, id, verified) < 0)
                return -ENOMEM;
        (void) json_get_string(verified, "verified_result", &result);
        for (size_t i = 0; i < json_object_array_length(services); i++) {
                const ConfigService *s = config_service(
                        c, json_object_get_string(json_object_array_get_idx(services, i)) ?: "");

                if (s)
                        note_record(&all->d->services[s - c->services], made,
                                    time_of(verified, "verified_at"), strcmp(result, "sound") == 0);
        }
        return 0;
}

static void read_records(Diagnosis *d, Repo *repo) {
        Records all = { .d = d, .now = clock_realtime_usec() };
        const char *path = d->work->config->repository_path;
        Failure f = FAILURE_INIT;
        char when[CLOCK_TEXT_MAX];

        if (repo_list(repo, on_record, &all, &f) < 0) {
                if (!d->work->canceled)
                        findings_add(&d->findings, FINDING_ERROR, ABOUT("repository.records", path),
                                     NULL, "the records cannot be read: %s", f.text);
                return;
        }
        d->has_records = true;
        if (all.damaged > 0)
                findings_add(
                        &d->findings, FINDING_ERROR, ABOUT("repository.records", path),
                        "those backups are lost unless the file comes back; look for errors of "
                        "the disk in the journal, and verify the others",
                        "%llu records cannot be read, %s among them",
                        (unsigned long long) all.damaged, all.damaged_id);
        if (all.newest <= all.now + FUTURE_USEC)
                return;
        clock_format(all.newest, when);
        findings_add(&d->findings, FINDING_ERROR, ABOUT("clock", "the clock"),
                     "set the clock; retention goes by it",
                     "the newest backup is of %s, which lies ahead", when);
}

static void judge_repository(Diagnosis *d, Repo *repo) {
        const char *path = d->work->config->repository_path;
        Failure f = FAILURE_INIT;
        RepoFacts facts;

        if (repo_facts(repo, &facts, &f) < 0) {
                findings_add(&d->findings, FINDING_ERROR, ABOUT("repository", path), NULL, "%s",
                             f.text);
                return;
        }
        findings_add(&d->findings, FINDING_OK, ABOUT("repository", path), NULL,
                     "%llu backups in %llu packs", (unsigned long long) facts.backups,
                     (unsigned long long) facts.packs);
        if (facts.read_only)
                findings_add(&d->findings, FINDING_ERROR, ABOUT("repository.features", path),
                             "install the version that wrote it, or a later one",
                             "a newer program wrote it: it can be read, not written");
        if (facts.suspects > 0)
                findings_add(&d->findings, FINDING_ERROR, ABOUT("repository.damage", path),
                             "make a backup, which stores again what is still there, then verify "
                             "the backups that matter; look for errors of the disk in the journal",
                             "%llu packs were found damaged", (unsigned long long) facts.suspects);
        read_records(d, repo);
}

void diagnose_repository(Diagnosis *d) {
        _cleanup_(repo_closep) Repo *repo = NULL;
        _cleanup_close_ int fd = -1;
        Failure f = FAILURE_INIT;
        const char *path;
        struct stat st;
        int r;

        if (!d->work->config || d->work->state_fd < 0)
                return;
        path = d->work->config->repository_path;
        r = open_repo(d->work, false, false, &repo, &f);
        if (r == -ENOENT && f.code == FAIL_NONE) {
                d->has_records = true;
                findings_add(&d->findings, FINDING_NOTE, ABOUT("repository", path),
                             "run 'holdpoint create full'",
                             "not there yet; the first backup makes it");
                return;
        }
        if (r < 0)
                findings_add(&d->findings, FINDING_ERROR, ABOUT("repository", path),
                             "mount what holds it, or put it back; 'holdpoint repository' says "
                             "whether it opens",
                             "%s", f.text);
        else
                judge_repository(d, repo);
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return;
        if (st.st_uid != 0 || st.st_mode & 077)
                findings_add(&d->findings, FINDING_ERROR, ABOUT("repository.permissions", path),
                             "chown root:root and chmod 0700 it",
                             "belongs to uid %u with mode %04o", st.st_uid, st.st_mode & 07777);
        diagnose_space(d, fd, ABOUT("repository.space", path),
                       "keep fewer days (Days= in [Retention]) and run 'holdpoint prune', or move "
                       "the repository to a larger disk");
}

/* ---- restores ---- */

static int on_intent(void *userdata, Intent *i, Failure *reterr) {
        Diagnosis *d = userdata;

        if (i->state == INTENT_SWAPPING || i->state == INTENT_CONFIRMING || cutover_is_open(i))
                findings_add(&d->findings, FINDING_ERROR, ABOUT("restore", i->restore_id),
                             "unless it is running now ('holdpoint jobs'), restart holdpointd, "
                             "which has it finished or undone; the journal says what is in the way",
                             "a restore stands half done");
        else if (i->state == INTENT_ACTIVE)
                findings_add(&d->findings, FINDING_NOTE, ABOUT("restore", i->restore_id),
                             "run 'holdpoint confirm' or 'holdpoint rollback'",
                             "a restore is not confirmed: what it replaced is kept");
        return 0;
}

void diagnose_restores(Diagnosis *d) {
        Failure f = FAILURE_INIT;

        if (d->work->state_fd >= 0 && intent_for_each(d->work, on_intent, d, &f) < 0)
                findings_add(&d->findings, FINDING_ERROR, ABOUT("restore", "restores"), NULL, "%s",
                             f.text);
}
