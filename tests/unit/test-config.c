#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* clang-format off: it needs the headers above */
#include <cmocka.h>
/* clang-format on */

#include "base/config.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/names.h"

/* One directory per test, with the files written by put(). */
static int setup(void **state) {
        char *dir = strdup("/tmp/test-config-XXXXXX");

        *state = dir;
        return dir && mkdtemp(dir) && setenv(HP_ENV_DEFAULTS, "/nonexistent", 1) == 0 ? 0 : -1;
}

static int teardown(void **state) {
        char *dir = *state;
        int r = fs_remove_tree(-1, dir, NULL, NULL);

        free(dir);
        return r;
}

static void put(const char *dir, const char *name, const char *text) {
        char path[256], *slash;
        FILE *f;

        (void) snprintf(path, sizeof(path), "%s/%s", dir, name);
        slash = strrchr(path, '/');
        *slash = 0;
        (void) mkdir(path, 0755); /* there already for all but the first */
        *slash = '/';
        f = fopen(path, "we");
        assert_non_null(f);
        assert_true(fputs(text, f) >= 0);
        assert_int_equal(fclose(f), 0);
}

static Config *load(const char *dir) {
        Failure f = FAILURE_INIT;
        Config *c = NULL;

        if (config_load(dir, &c, &f) < 0)
                fail_msg("%s", f.text);
        return c;
}

/* Loading must fail with DIR/`message` at the start of the text. */
static void expect(const char *dir, const char *message) {
        Config *c = (Config *) 1;
        Failure f = FAILURE_INIT;
        char want[512];
        int r = config_load(dir, &c, &f);

        (void) snprintf(want, sizeof(want), "%s/%s", dir, message);
        if (r >= 0 || c != (Config *) 1 || f.code != FAIL_CONFIGURATION_INVALID ||
            strncmp(f.text, want, strlen(want)) != 0)
                fail_msg("wanted '%s', got %d '%s'", want, r, f.text);
}

static void test_defaults(void **state) {
        _cleanup_(config_freep) Config *c = load(*state);
        _cleanup_(config_freep) Config *gone = load("/nonexistent/holdpoint");

        assert_int_equal(c->max_queued_jobs, 16);
        assert_int_equal(c->max_queued_jobs_per_user, 4);
        assert_string_equal(c->repository_path, "/var/backups/holdpoint");
        assert_int_equal(c->compression_level, 6);
        assert_int_equal(c->pack_size_mib, 32);
        assert_int_equal(c->lock_timeout_msec, 200);
        assert_int_equal(c->max_hold_msec, 1000);
        assert_false(c->fail_on_timeout);
        assert_int_equal(c->retention_days, 30);
        assert_int_equal(c->minimum_backups, 1);
        assert_int_equal(c->hot_keep, 3);
        assert_int_equal(c->hot_max_age_days, 7);
        assert_int_equal(c->keep_old_days, 7);
        assert_int_equal(c->n_services, 0);
        assert_int_equal(gone->pack_size_mib, 32);
}

static void test_all_keys(void **state) {
        _cleanup_(config_freep) Config *c = NULL;
        const ConfigService *s;

        put(*state, "holdpoint.conf",
            "[Agent]\nMaxQueuedJobs=5\nMaxQueuedJobsPerUser=2\n[Repository]\nPath=/"
            "r\nCompressionLevel=0\n"
            "PackSizeMiB=8\n[Hold]\nLockTimeoutMSec=10\nMaxHoldMSec=20\nOnTimeout=fail\n[Retention]"
            "\n"
            "Days=40\nMinimumBackups=2\n[Hot]\nKeep=0\nMaxAgeDays=5\n[Restore]\nKeepOldDays=3\n");
        put(*state, "holdpoint.conf.d/20-b.conf", "[Repository]\nPackSizeMiB=10\n");
        put(*state, "holdpoint.conf.d/10-a.conf",
            "[Repository]\nPackSizeMiB=9\nCompressionLevel=3\n");
        put(*state, "holdpoint.conf.d/30.conf.bak", "rubbish");
        put(*state, "services.d/a.conf",
            "[Service]\nDescription=Tasks\nPath=/srv/b\nPath=/srv/a-b\nPath=/srv/a/"
            "x\nExclude=thumbnails/**\n"
            "Exclude=*.tmp\nDatabase=/srv/b/"
            "t.db\nDatabaseCapture=online-backup\nDatabaseCheck=age:24h\n"
            "Snapshot=lvm\nMaxAgeHours=48\nUnit=a.service\nUnit=b@x.socket\nHealthCheckUnit=h."
            "service\n"
            "HealthDelaySec=0\n");
        put(*state, "services.d/a-b.conf", "[Service]\nPath=/etc/x.conf\nDatabases=none\n");
        put(*state, "services.d/.hidden.conf", "rubbish");
        put(*state, "services.d/README", "rubbish");
        c = load(*state);
        assert_int_equal(c->max_queued_jobs, 5);
        assert_int_equal(c->max_queued_jobs_per_user, 2);
        assert_string_equal(c->repository_path, "/r");
        assert_int_equal(c->pack_size_mib, 10);
        assert_int_equal(c->compression_level, 3);
        assert_int_equal(c->lock_timeout_msec, 10);
        assert_int_equal(c->max_hold_msec, 20);
        assert_true(c->fail_on_timeout);
        assert_int_equal(c->retention_days, 40);
        assert_int_equal(c->minimum_backups, 2);
        assert_int_equal(c->hot_keep, 0);
        assert_int_equal(c->hot_max_age_days, 5);
        assert_int_equal(c->keep_old_days, 3);
        assert_int_equal(c->n_services, 2);
        assert_string_equal(c->services[0].name, "a");
        assert_string_equal(c->services[1].name, "a-b");

        s = config_service(c, "a");
        assert_non_null(s);
        assert_string_equal(s->description, "Tasks");
        assert_int_equal(s->paths.n, 3);
        assert_string_equal(s->paths.items[0], "/srv/a/x");
        assert_string_equal(s->paths.items[1], "/srv/a-b");
        assert_string_equal(s->paths.items[2], "/srv/b");
        assert_int_equal(s->excludes.n, 2);
        assert_string_equal(s->excludes.items[1], "*.tmp");
        assert_int_equal(s->databases, CONFIG_DATABASES_LIST);
        assert_int_equal(s->database_paths.n, 1);
        assert_int_equal(s->capture, CONFIG_CAPTURE_ONLINE_BACKUP);
        assert_int_equal(s->check, CONFIG_CHECK_AGE);
        assert_int_equal(s->check_age_usec, UINT64_C(24) * 3600 * 1000000);
        assert_int_equal(s->snapshot, CONFIG_SNAPSHOT_LVM);
        assert_int_equal(s->max_age_hours, 48);
        assert_int_equal(s->units.n, 2);
        assert_string_equal(s->health_check_unit, "h.service");
        assert_int_equal(s->health_delay_sec, 0);

        s = config_service(c, "a-b");
        assert_int_equal(s->databases, CONFIG_DATABASES_NONE);
        assert_int_equal(s->capture, CONFIG_CAPTURE_AUTO);
        assert_int_equal(s->check, CONFIG_CHECK_CHANGED);
        assert_int_equal(s->snapshot, CONFIG_SNAPSHOT_AUTO);
        assert_int_equal(s->max_age_hours, 26);
        assert_int_equal(s->health_delay_sec, 5);
        assert_null(s->health_check_unit);
        assert_null(config_service(c, "b"));
}

static const struct {
        const char *text, *message;
} bad_main[] = {
        { "[Remote]\nUrl=x\n", ":1: unknown section [Remote]; allowed here: [Agent] [Repository] "
                               "[Hold] [Retention] [Hot] "
                               "[Restore]" },
        { "[Retention]\nDays=0\n", ":2: Days=0:" },
        { "[Retention]\nMinimumBackups=0\n", ":2: MinimumBackups=0:" },
        { "[Hot]\nKeep=101\n", ":2: Keep=101:" },
        { "[Restore]\nKeepOldDays=0\n", ":2: KeepOldDays=0:" },
        { "[Service]\nPath=/a\n", ":1: unknown section [Service]" },
        { "[Agent]\nDays=1\n",
          ":2: unknown key Days= in [Agent]; allowed: MaxQueuedJobs= MaxQueuedJobsPerUser=" },
        { "[Agent]\nMaxQueuedJobs=0\n", ":2: MaxQueuedJobs=0:" },
        { "[Agent]\nMaxQueuedJobsPerUser=1025\n", ":2: MaxQueuedJobsPerUser=1025:" },
        { "[Repository]\nPath=x\n", ":2: Path=x: must be an absolute path" },
        { "[Repository]\nCompressionLevel=10\n",
          ":2: CompressionLevel=10: must be a whole number from 0 to 9" },
        { "[Repository]\nPackSizeMiB=0\n", ":2: PackSizeMiB=0:" },
        { "[Repository]\nPackSizeMiB=1025\n", ":2: PackSizeMiB=1025:" },
        { "[Hold]\nLockTimeoutMSec=10001\n", ":2: LockTimeoutMSec=10001:" },
        { "[Hold]\nMaxHoldMSec=60001\n", ":2: MaxHoldMSec=60001:" },
        { "[Hold]\nOnTimeout=ignore\n", ":2: OnTimeout=ignore: allowed: degrade, fail" },
        { "Path=/x\n", ":1: 'Path=/x' stands before" },
};

static void test_bad_main(void **state) {
        char message[256];

        for (size_t i = 0; i < ELEMENTSOF(bad_main); i++) {
                put(*state, "holdpoint.conf", bad_main[i].text);
                (void) snprintf(message, sizeof(message), "holdpoint.conf%s", bad_main[i].message);
                expect(*state, message);
        }
        put(*state, "holdpoint.conf", "");
        put(*state, "holdpoint.conf.d/x.conf", "[Agent]\n\nMaxQueuedJobs=no\n");
        expect(*state, "holdpoint.conf.d/x.conf:3: MaxQueuedJobs=no:");
}

static const struct {
        const char *text, *message;
} bad_service[] = {
        { "", ":1: no Path= in [Service]" },
        { "[Service]\nDescription=x\n", ":1: no Path=" },
        { "[Agent]\n", ":1: unknown section [Agent]; allowed here: [Service]" },
        { "[Service]\nPath=srv\n", ":2: Path=srv: must be an absolute path" },
        { "[Service]\nPath=/srv/../etc\n", ":2: Path=/srv/../etc: must be without" },
        { "[Service]\nPath=/srv//x\n", ":2: Path=/srv//x: must be without" },
        { "[Service]\nPath=/srv/.holdpoint/x\n",
          ":2: Path=/srv/.holdpoint/x: .holdpoint is Holdpoint's own" },
        { "[Service]\nPath=/a\nPath=/a\n", ":3: Path=/a: is claimed already at" },
        { "[Service]\nPath=/a\nPath=/a/b\n", ":3: Path=/a/b: lies inside the Path= at" },
        { "[Service]\nPath=/a/b\n\nPath=/a\n", ":4: Path=/a: contains the Path= at" },
        { "[Service]\nPath=/var/backups\n",
          ":2: Path=/var/backups: contains the repository /var/backups/holdpoint" },
        { "[Service]\nPath=/var/backups/holdpoint\n",
          ":2: Path=/var/backups/holdpoint: contains the repository" },
        { "[Service]\nPath=/var/backups/holdpoint/x\n",
          ":2: Path=/var/backups/holdpoint/x: lies inside the repository" },
        { "[Service]\nPath=/\n", ":2: Path=/: contains the repository" },
        { "[Service]\nPath=/a\nExclude=\n", ":3: Exclude=: '' is not a usable glob: it is empty" },
        { "[Service]\nPath=/a\nExclude=/x\n", ":3: Exclude=/x: '/x' is not a usable glob: it " },
        { "[Service]\nPath=/a\nExclude=x/../y\n",
          ":3: Exclude=x/../y: 'x/../y' is not a usable glob: '.' and '..'" },
        { "[Service]\nPath=/a\nExclude=..\n",
          ":3: Exclude=..: '..' is not a usable glob: '.' and '..'" },
        { "[Service]\nPath=/a\nExclude=a[b\n",
          ":3: Exclude=a[b: 'a[b' is not a usable glob: a '['" },
        { "[Service]\nPath=/a\nExclude=a**\n",
          ":3: Exclude=a**: 'a**' is not a usable glob: '**'" },
        { "[Service]\nPath=/a\nDatabase=/b/t.db\n", ":3: Database=/b/t.db: lies in none of" },
        { "[Service]\nPath=/a\nDatabase=/ab\n", ":3: Database=/ab: lies in none of" },
        { "[Service]\nPath=/a\nDatabase=t.db\n", ":3: Database=t.db: must be an absolute path" },
        { "[Service]\nPath=/a\nDatabase=/a/t\nDatabase=/a/t\n",
          ":4: Database=/a/t: is named already in line 3" },
        { "[Service]\nPath=/a\nDatabases=auto\nDatabase=/a/t\n",
          ":4: Database=/a/t: cannot stand beside" },
        { "[Service]\nPath=/a\nDatabase=/a/t\nDatabases=none\n",
          ":3: Database=/a/t: cannot stand beside" },
        { "[Service]\nPath=/a\nDatabases=yes\n", ":3: Databases=yes: allowed: auto, none" },
        { "[Service]\nPath=/a\nDatabases=auto\nDatabases=auto\n",
          ":4: Databases= is set a second time" },
        { "[Service]\nPath=/a\nDatabaseCapture=copy\n",
          ":3: DatabaseCapture=copy: allowed: auto, online-backup" },
        { "[Service]\nPath=/a\nDatabaseCheck=age:0h\n", ":3: DatabaseCheck=age:0h:" },
        { "[Service]\nPath=/a\nDatabaseCheck=age:8761h\n", ":3: DatabaseCheck=age:8761h:" },
        { "[Service]\nPath=/a\nDatabaseCheck=age:24\n", ":3: DatabaseCheck=age:24:" },
        { "[Service]\nPath=/a\nDatabaseCheck=age:h\n", ":3: DatabaseCheck=age:h:" },
        { "[Service]\nPath=/a\nDatabaseCheck=always\n",
          ":3: DatabaseCheck=always: allowed: changed, never" },
        { "[Service]\nPath=/a\nSnapshot=zfs\n",
          ":3: Snapshot=zfs: allowed: auto, btrfs, lvm, none" },
        { "[Service]\nPath=/a\nMaxAgeHours=0\n", ":3: MaxAgeHours=0:" },
        { "[Service]\nPath=/a\nMaxAgeHours=8761\n", ":3: MaxAgeHours=8761:" },
        { "[Service]\nPath=/a\nUnit=\n", ":3: Unit=: must name a" },
        { "[Service]\nPath=/a\nUnit=x\n", ":3: Unit=x: must name a" },
        { "[Service]\nPath=/a\nUnit=a/b.service\n", ":3: Unit=a/b.service: must name a" },
        { "[Service]\nPath=/a\nUnit=.service\n", ":3: Unit=.service: must name a" },
        { "[Service]\nPath=/a\nHealthCheckUnit=x.timer\n",
          ":3: HealthCheckUnit=x.timer: must name a .service" },
        { "[Service]\nPath=/a\nHealthDelaySec=3601\n", ":3: HealthDelaySec=3601:" },
        { "[Service]\nPath=/a\nRetention=3\n",
          ":3: unknown key Retention= in [Service]; allowed: Description= Path=" },
};

static void test_bad_service(void **state) {
        char message[256];

        for (size_t i = 0; i < ELEMENTSOF(bad_service); i++) {
                put(*state, "services.d/s.conf", bad_service[i].text);
                (void) snprintf(message, sizeof(message), "services.d/s.conf%s",
                                bad_service[i].message);
                expect(*state, message);
        }
}

static void test_two_services(void **state) {
        static const char *const second[] = { "/srv/a", "/srv/a/b", "/srv" };
        static const char *const why[] = { "is claimed already at", "lies inside the Path= at",
                                           "contains the Path= at" };
        char text[128], message[512];

        put(*state, "services.d/a.conf", "# a\n[Service]\nPath=/srv/a\n");
        for (size_t i = 0; i < ELEMENTSOF(second); i++) {
                (void) snprintf(text, sizeof(text), "[Service]\nPath=/srv-x\nPath=%s\n", second[i]);
                put(*state, "services.d/b.conf", text);
                (void) snprintf(message, sizeof(message),
                                "services.d/b.conf:3: Path=%s: %s %s/services.d/a.conf:3",
                                second[i], why[i], (const char *) *state);
                expect(*state, message);
        }
}

static void test_bad_names(void **state) {
        static const char *const names[] = { "full", "all", "latest", "default", "A",
                                             "1a",   "a b", "ü",      "" };
        char file[128], message[256], path[256];

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                if (!*names[i])
                        continue;
                (void) snprintf(file, sizeof(file), "services.d/%s.conf", names[i]);
                put(*state, file, "[Service]\nPath=/a\n");
                (void) snprintf(message, sizeof(message), "%s: ", file);
                expect(*state, message);
                (void) snprintf(path, sizeof(path), "%s/%s", (const char *) *state, file);
                assert_int_equal(unlink(path), 0);
        }
}

static void test_permissions(void **state) {
        char path[256];

        put(*state, "services.d/a.conf", "[Service]\nPath=/a\n");
        (void) snprintf(path, sizeof(path), "%s/services.d/a.conf", (const char *) *state);
        assert_int_equal(chmod(path, 0666), 0);
        expect(*state, "services.d/a.conf: is writable by others");
        assert_int_equal(chmod(path, 0640), 0);
        (void) snprintf(path, sizeof(path), "%s/services.d", (const char *) *state);
        assert_int_equal(chmod(path, 0777), 0);
        expect(*state, "services.d: is writable by others");
        assert_int_equal(chmod(path, 0755), 0);
        config_free(load(*state));
}

static void test_not_a_file(void **state) {
        char path[256];

        put(*state, "services.d/a.conf", "[Service]\nPath=/a\n");
        (void) snprintf(path, sizeof(path), "%s/services.d/b.conf", (const char *) *state);
        assert_int_equal(mkdir(path, 0755), 0);
        expect(*state, "services.d/b.conf: is not a regular file");
}

static void test_directory_from_environment(void **state) {
        assert_int_equal(setenv("CONFIGURATION_DIRECTORY", "/x/y", 1), 0);
        assert_string_equal(config_dir(), "/x/y");
        assert_int_equal(unsetenv("CONFIGURATION_DIRECTORY"), 0);
        assert_string_equal(config_dir(), "/etc/holdpoint");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_defaults),
                TEST(test_all_keys),
                TEST(test_bad_main),
                TEST(test_bad_service),
                TEST(test_two_services),
                TEST(test_bad_names),
                TEST(test_permissions),
                TEST(test_not_a_file),
                TEST(test_directory_from_environment),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
