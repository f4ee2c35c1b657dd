/* /etc/default/holdpoint: its syntax, its values, and what wins over it. */

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

#include "base/defaults.h"
#include "base/envfile.h"
#include "base/fs.h"
#include "base/names.h"

/* ---- the syntax ---- */

typedef struct Seen {
        char text[1024]; /* "line:NAME=value|" for each */
} Seen;

static int on_value(void *userdata,
                    const char *name,
                    const char *value,
                    size_t n,
                    unsigned line,
                    Failure *reterr) {
        Seen *s = userdata;
        size_t at = strlen(s->text);

        assert_int_equal(strlen(value), n);
        (void) snprintf(s->text + at, sizeof(s->text) - at, "%u:%s=%s|", line, name, value);
        return 0;
}

static void check(const char *text, const char *want) {
        Seen s = { "" };
        Failure f = FAILURE_INIT;
        int r = envfile_parse(text, strlen(text), "file", on_value, &s, &f);

        if (r < 0)
                (void) snprintf(s.text, sizeof(s.text), "%s", f.text);
        assert_string_equal(s.text, want);
}

/* Each is what systemd.exec(5) says of EnvironmentFile=. */
static void test_syntax(void **state) {
        check("", "");
        check("\n\n", "");
        check("A=b", "1:A=b|");
        check("A=b\nC=d\n", "1:A=b|2:C=d|");
        check("  A = b c \t\r\n", "1:A=b c|");
        check("# A=b\n; A=b\nno equals sign\nC=d\n", "4:C=d|");
        check("# a comment \\\nA=b\nC=d\n", "3:C=d|");
        check("no equals sign\\\nA=b\n", "2:A=b|");
        check("A=one \\\ntwo\nC=d", "1:A=one two|3:C=d|");
        check("A=it's #1\n", "1:A=it's #1|");
        check("A=a\\'b\\\\c\\d\n", "1:A=a'b\\cd|");
        check("A=b\\ \n", "1:A=b |");
        check("A=' b\\n\\\nc '\nC=d\n", "1:A= b\\n\\\nc |3:C=d|");
        check("A=\" b\\\"\\\\\\$\\`\\n \"\n", "1:A= b\"\\$`\\n |");
        check("A=\"one\\\ntwo\nthree\"\nC=d", "1:A=onetwo\nthree|4:C=d|");
        check("A='a' \"b\" c d \n", "1:A=abc d|");
        check("A=\n", "1:A=|");
        check("A=''\n", "1:A=|");
        check("A=b=c\n", "1:A=b=c|");
        check("export A=b\n", "1:export A=b|");
        check("A=b\\", "1:A=b|");
        check("A='b\nC=d\n", "file:1: a quote is opened and not closed");
        check("C=d\nA=x\\\ny\nA=\"b\\\"\n", "file:4: a quote is opened and not closed");
}

static void test_bytes(void **state) {
        static const char zero[] = "A=b\nC=\0d\n";
        static char big[ENVFILE_MAX + 1];
        Seen s = { "" };
        Failure f = FAILURE_INIT;

        assert_true(envfile_parse(zero, sizeof(zero) - 1, "file", on_value, &s, &f) < 0);
        assert_string_equal(f.text, "file:2: a zero byte in the line; the file must be text");
        f = FAILURE_INIT;
        memset(big, '#', sizeof(big));
        assert_true(envfile_parse(big, sizeof(big), "file", on_value, &s, &f) < 0);
        assert_int_equal(f.code, FAIL_CONFIGURATION_INVALID);
        assert_int_equal(envfile_parse(big, sizeof(big) - 1, "file", on_value, &s, NULL), 0);
        big[0] = 'A'; /* a long name is cut, not written past its place */
        big[sizeof(big) - 2] = '=';
        assert_int_equal(envfile_parse(big, sizeof(big) - 1, "file", on_value, &s, NULL), 0);
}

/* ---- the values ---- */

typedef struct Site {
        char dir[64], file[128];
} Site;

static int setup(void **state) {
        Site *s = calloc(1, sizeof(*s));

        *state = s;
        if (!s)
                return -1;
        (void) snprintf(s->dir, sizeof(s->dir), "/tmp/test-defaults-XXXXXX");
        if (!mkdtemp(s->dir))
                return -1;
        (void) snprintf(s->file, sizeof(s->file), "%s/defaults", s->dir);
        return setenv(HP_ENV_DEFAULTS, s->file, 1);
}

static int teardown(void **state) {
        Site *s = *state;
        int r = fs_remove_tree(-1, s->dir, NULL, NULL);

        free(s);
        return r;
}

static void write_file(const char *path, const char *text, mode_t mode) {
        FILE *f = fopen(path, "we");

        assert_non_null(f);
        assert_true(fputs(text, f) >= 0);
        assert_int_equal(fclose(f), 0);
        assert_return_code(chmod(path, mode), errno);
}

static void put(const Site *s, const char *name, const char *text) {
        char path[256];

        (void) snprintf(path, sizeof(path), "%s/services.d", s->dir);
        (void) mkdir(path, 0755); /* there already for all but the first */
        (void) snprintf(path, sizeof(path), "%s/%s", s->dir, name);
        write_file(path, text, 0644);
}

static Config *load(const Site *s) {
        Failure f = FAILURE_INIT;
        Config *c = NULL;

        if (config_load(s->dir, &c, &f) < 0)
                fail_msg("%s", f.text);
        return c;
}

/* FILE`rest` must begin the text. */
static void refused(const Site *s, const char *text, const char *rest) {
        Failure f = FAILURE_INIT;
        Config *c = NULL;
        char want[512];

        write_file(s->file, text, 0600);
        (void) snprintf(want, sizeof(want), "%s%s", s->file, rest);
        if (config_load(s->dir, &c, &f) >= 0 || f.code != FAIL_CONFIGURATION_INVALID ||
            strncmp(f.text, want, strlen(want)) != 0 || strstr(f.text, "geheim"))
                fail_msg("wanted '%s', got '%s'", want, f.text);
}

static void test_values(void **state) {
        Site *s = *state;
        _cleanup_(config_freep) Config *none = load(s), *c = NULL, *empty = NULL;

        assert_string_equal(none->repository_path, HP_DEFAULT_REPOSITORY);
        assert_int_equal(none->compression_level, 6);
        assert_int_equal(none->retention_days, 30);
        assert_false(none->default_schedule.is_set);
        write_file(s->file,
                   "BACKUP_DIR=\"/srv/backups/\"\nBACKUP_COMPRESSION_LEVEL=9\nPATH=/bin\n"
                   "BACKUP_RETENTION_DAYS=14\nAUTO_BACKUP_ENABLED=True\n"
                   "AUTO_BACKUP_FREQUENCY=weekly\nAUTO_BACKUP_TIME=03:45\n"
                   "AUTO_BACKUP_TYPE=full\n",
                   0644);
        c = load(s);
        assert_string_equal(c->repository_path, "/srv/backups");
        assert_int_equal(c->compression_level, 9);
        assert_int_equal(c->retention_days, 14);
        assert_true(c->default_schedule.is_set && c->default_schedule.enabled);
        assert_int_equal(c->default_schedule.frequency, CONFIG_WEEKLY);
        assert_int_equal(c->default_schedule.hour, 3);
        assert_int_equal(c->default_schedule.minute, 45);
        assert_string_equal(c->default_schedule.backup_type, "full");
        assert_int_equal(c->warnings.n, 0);
        assert_false(c->private_defaults);

        write_file(s->file, "BACKUP_DIR=\nBACKUP_COMPRESSION_LEVEL=''\nAUTO_BACKUP_ENABLED=0\n",
                   0600);
        empty = load(s);
        assert_string_equal(empty->repository_path, HP_DEFAULT_REPOSITORY);
        assert_int_equal(empty->compression_level, 6);
        assert_true(empty->default_schedule.is_set && !empty->default_schedule.enabled);
        assert_int_equal(empty->default_schedule.hour, 2);
        assert_true(empty->private_defaults);
}

static void test_bad_values(void **state) {
        Site *s = *state;

        refused(s, "\nBACKUP_DIR=back", ":2: BACKUP_DIR=back: must be an absolute path");
        refused(s, "BACKUP_DIR=/a/../b", ":1: BACKUP_DIR=");
        refused(s, "BACKUP_DIR='/a\nb'", ":1: BACKUP_DIR=");
        refused(s, "BACKUP_DIR=\"/a\nBACKUP_ENCRYPTION_KEY=\"geheim",
                ":1: BACKUP_DIR=/a: takes in the lines after it; does a quote");
        refused(s, "BACKUP_DIR=/a\\\nBACKUP_ENCRYPTION_KEY=geheim", ":1: BACKUP_DIR=/a: must be");
        refused(s, "OTHER='a\nBACKUP_ENCRYPTION_KEY='geheim", ":1: OTHER=a: takes in the lines");
        refused(s, "AUTO_BACKUP_TYPE=app \\\nBACKUP_ENCRYPTION_KEY=geheim",
                ":1: AUTO_BACKUP_TYPE=app : must be");
        refused(s, "BACKUP_COMPRESSION_LEVEL=10", ":1: BACKUP_COMPRESSION_LEVEL=10: must be");
        refused(s, "BACKUP_COMPRESSION_LEVEL=-1", ":1: BACKUP_COMPRESSION_LEVEL");
        refused(s, "BACKUP_RETENTION_DAYS=0", ":1: BACKUP_RETENTION_DAYS=0: must be");
        refused(s, "BACKUP_RETENTION_DAYS=thirty", ":1: BACKUP_RETENTION_DAYS");
        refused(s, "AUTO_BACKUP_ENABLED=maybe", ":1: AUTO_BACKUP_ENABLED=maybe: must be yes");
        refused(s, "AUTO_BACKUP_FREQUENCY=hourly", ":1: AUTO_BACKUP_FREQUENCY=hourly: must be");
        refused(s, "AUTO_BACKUP_TIME=24:00", ":1: AUTO_BACKUP_TIME=24:00: must be");
        refused(s, "AUTO_BACKUP_TIME=2:00", ":1: AUTO_BACKUP_TIME");
        refused(s, "AUTO_BACKUP_TIME=02:60", ":1: AUTO_BACKUP_TIME");
        refused(s, "AUTO_BACKUP_TYPE=../x", ":1: AUTO_BACKUP_TYPE=../x: must be");
        refused(s, "#\nAUTO_BACKUP_TYPE=app", ":2: AUTO_BACKUP_TYPE=app: there is no such service");
        refused(s, "A='", ":1: a quote is opened");
        put(s, "services.d/app.conf", "[Service]\nPath=/srv/app\n");
        write_file(s->file, "AUTO_BACKUP_TYPE=app\n", 0600);
        config_free(load(s));
        /* The repository that it names is checked against the services as any other. */
        write_file(s->file, "BACKUP_DIR=/srv/app/backups\n", 0600);
        _cleanup_(config_freep) Config *c = NULL;
        assert_true(config_load(s->dir, &c, NULL) < 0);
}

static void test_who_wins(void **state) {
        Site *s = *state;
        _cleanup_(config_freep) Config *c = NULL, *same = NULL;

        put(s, "holdpoint.conf",
            "[Repository]\nPath=/srv/one\nCompressionLevel=3\n[Retention]\nDays=7\n");
        write_file(s->file,
                   "BACKUP_DIR=/srv/two\nBACKUP_COMPRESSION_LEVEL=9\nBACKUP_RETENTION_DAYS=60\n",
                   0600);
        c = load(s);
        assert_string_equal(c->repository_path, "/srv/one");
        assert_int_equal(c->compression_level, 3);
        assert_int_equal(c->retention_days, 7);
        assert_int_equal(c->warnings.n, 3);
        assert_non_null(strstr(c->warnings.items[0], "BACKUP_DIR"));
        assert_non_null(strstr(c->warnings.items[0], "Path="));
        assert_non_null(strstr(c->warnings.items[1], ":2: BACKUP_COMPRESSION_LEVEL"));
        write_file(s->file, "BACKUP_DIR=/srv/one\nBACKUP_COMPRESSION_LEVEL=3\n",
                   0600); /* and no days */
        same = load(s);
        assert_int_equal(same->warnings.n, 0);
}

static void test_unknown_names(void **state) {
        Site *s = *state;
        _cleanup_(config_freep) Config *c = NULL;

        write_file(s->file,
                   "OTHER=1\nBACKUP_TARGET=x\nexport BACKUP_DIR=/srv/x\nAUTO_BACKUP_AT=1\n", 0600);
        c = load(s);
        assert_int_equal(c->warnings.n, 3);
        assert_non_null(strstr(c->warnings.items[0], ":2: 'BACKUP_TARGET'"));
        assert_non_null(strstr(c->warnings.items[1], ":3: 'export BACKUP_DIR'"));
        assert_string_equal(c->repository_path, HP_DEFAULT_REPOSITORY);
}

/* ---- whose it is ---- */

static void test_passphrase(void **state) {
        Site *s = *state;
        _cleanup_secret_ Secret p = SECRET_INIT;
        _cleanup_(config_freep) Config *c = NULL, *bad = NULL;
        Failure f = FAILURE_INIT;

        assert_int_equal(defaults_passphrase(&p, NULL), -ENOENT);
        write_file(s->file, "BACKUP_ENCRYPTION_KEY=''\n", 0600);
        assert_int_equal(defaults_passphrase(&p, NULL), -ENOENT);
        write_file(s->file, "BACKUP_ENCRYPTION_KEY=old\nBACKUP_ENCRYPTION_KEY=\"open se$ame\"\n",
                   0600);
        assert_int_equal(defaults_passphrase(&p, NULL), 0);
        assert_int_equal(p.size, 11);
        assert_memory_equal(p.data, "open se$ame", 11);
        c = load(s);
        assert_true(c->private_defaults);
        assert_int_equal(c->warnings.n, 0);
        for (mode_t mode = 0604; mode <= 0640; mode += 0640 - 0604) {
                f = FAILURE_INIT;
                assert_return_code(chmod(s->file, mode), errno);
                assert_true(config_load(s->dir, &bad, &f) < 0);
                assert_non_null(strstr(f.text, ":2: BACKUP_ENCRYPTION_KEY"));
                assert_null(strstr(f.text, "se$ame"));
        }
}

static void test_owner(void **state) {
        Site *s = *state;
        _cleanup_(config_freep) Config *c = NULL;

        refused(s, "BACKUP_DIR=/a\nBACKUP_DIR=b", ":2: ");
        write_file(s->file, "BACKUP_DIR=/srv/x\n", 0666);
        assert_true(config_load(s->dir, &c, NULL) < 0);
        assert_return_code(chmod(s->file, 0600), errno);
        if (geteuid() != 0)
                return;
        assert_return_code(chown(s->file, 34, 34), errno);
        assert_true(config_load(s->dir, &c, NULL) < 0);
        assert_return_code(chown(s->file, 0, 0), errno);
        /* The agent cannot read it: it goes without. */
        assert_return_code(chmod(s->dir, 0755), errno);
        assert_return_code(seteuid(34), errno);
        c = load(s);
        assert_return_code(seteuid(0), errno);
        assert_string_equal(c->repository_path, HP_DEFAULT_REPOSITORY);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_syntax),
                cmocka_unit_test(test_bytes),
                TEST(test_values),
                TEST(test_bad_values),
                TEST(test_who_wins),
                TEST(test_unknown_names),
                TEST(test_passphrase),
                TEST(test_owner),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
