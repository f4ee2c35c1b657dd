/*
 * What arrives in the journal: the test stands where journald does, on its socket, in a mount
 * namespace of its own. A field of one line is "NAME=value\n"; a value with line breaks comes as
 * "NAME\n", its length in 8 bytes, the value.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/names.h"
#include "base/text.h"

#define TASK   "0b0e7a5c-6f0e-4a53-9f0a-8d1ce0a0c001"
#define BACKUP "0b0e7a5c-6f0e-4a53-9f0a-8d1ce0a0c002"

static int journal_socket(void) {
        struct sockaddr_un sa = { .sun_family = AF_UNIX,
                                  .sun_path = "/run/systemd/journal/socket" };
        int fd;

        assert_int_equal(unshare(CLONE_NEWNS), 0);
        assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
        assert_int_equal(mount("tmpfs", "/run", "tmpfs", 0, "mode=755"), 0);
        assert_int_equal(mkdir("/run/systemd", 0755), 0);
        assert_int_equal(mkdir("/run/systemd/journal", 0755), 0);
        fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        assert_true(fd >= 0);
        assert_int_equal(bind(fd, (struct sockaddr *) &sa, sizeof(sa)), 0);
        return fd;
}

static int group_setup(void **state) {
        int *fd = malloc(sizeof(*fd));

        assert_non_null(fd);
        *fd = journal_socket();
        assert_int_equal(setenv(HP_ENV_JOURNAL, "8:1", 1), 0);
        log_open("test-log");
        *state = fd;
        return 0;
}

static int group_teardown(void **state) {
        close(*(int *) *state);
        free(*state);
        log_set_context(NULL);
        return 0;
}

static int forget(void **state) {
        log_set_context(NULL);
        return 0;
}

/* The next entry; "" if there is none. */
static const char *next(void **state, char entry[8192]) {
        ssize_t n = recv(*(int *) *state, entry, 8191, MSG_DONTWAIT);

        entry[n > 0 ? n : 0] = 0;
        return entry;
}

static unsigned count(const char *entry, const char *line) {
        _cleanup_free_ char *wanted = text_printf("\n%s\n", line), *in = text_printf("\n%s", entry);
        unsigned n = 0;

        assert_non_null(wanted);
        for (const char *p = in; (p = strstr(p, wanted)); p++)
                n++;
        return n;
}

static void has(const char *entry, const char *line) {
        if (count(entry, line) != 1)
                fail_msg("'%s' is there %u times in\n%s", line, count(entry, line), entry);
}

static void lacks(const char *entry, const char *name) {
        _cleanup_free_ char *wanted = text_printf("\n%s=", name), *in = text_printf("\n%s", entry);

        if (strstr(in, wanted))
                fail_msg("%s is there in\n%s", name, entry);
}

static void test_plain_line(void **state) {
        char entry[8192];

        log_warning("a %s line", "plain");
        next(state, entry);
        has(entry, "MESSAGE=a plain line");
        has(entry, "PRIORITY=4");
        has(entry, "SYSLOG_IDENTIFIER=test-log");
        lacks(entry, "MESSAGE_ID");
        lacks(entry, HP_FIELD_JOB);
        lacks(entry, HP_FIELD_SERVICE);
        lacks(entry, "CODE_FILE");
        log_debug("not asked for");
        assert_string_equal(next(state, entry), "");
}

static void test_message_and_fields(void **state) {
        const char *const services[] = { "alpha", "beta" };
        const uint64_t none = 0, bytes = 123456789012;
        const uint32_t uid = 1000;
        const LogFields f = { .job = 7,
                              .task = TASK,
                              .backup = BACKUP,
                              .services = services,
                              .n_services = 2,
                              .phase = "store",
                              .result = "failed",
                              .error = "NoSpace",
                              .method = "CreateBackup",
                              .action = "a.b.create",
                              .uid = &uid,
                              .pause_usec = &none,
                              .bytes = &bytes };
        char entry[8192];

        log_message(MESSAGE_JOB_FAILED, &f, "Job %u failed", 7U);
        next(state, entry);
        has(entry, "MESSAGE=Job 7 failed");
        has(entry, "MESSAGE_ID=bc73065cd1ef46cba416b13e15ebeb9e");
        has(entry, "PRIORITY=3");
        has(entry, "HOLDPOINT_JOB=7");
        has(entry, "HOLDPOINT_TASK=" TASK);
        has(entry, "HOLDPOINT_BACKUP=" BACKUP);
        has(entry, "HOLDPOINT_SERVICE=alpha");
        has(entry, "HOLDPOINT_SERVICE=beta");
        has(entry, "HOLDPOINT_PHASE=store");
        has(entry, "HOLDPOINT_RESULT=failed");
        has(entry, "HOLDPOINT_ERROR=NoSpace");
        has(entry, "HOLDPOINT_METHOD=CreateBackup");
        has(entry, "HOLDPOINT_ACTION=a.b.create");
        has(entry, "HOLDPOINT_CALLER_UID=1000");
        has(entry, "HOLDPOINT_PAUSE_USEC=0");
        has(entry, "HOLDPOINT_BYTES=123456789012");
}

static void test_context(void **state) {
        const char *const services[] = { "alpha", "beta" };
        const LogFields job = { .job = 8,
                                .task = TASK,
                                .backup = BACKUP,
                                .restore = TASK,
                                .services = services,
                                .n_services = 2 };
        char entry[8192];

        log_set_context(&job);
        log_set_phase("hold");
        log_info("of the job");
        next(state, entry);
        has(entry, "HOLDPOINT_JOB=8");
        has(entry, "HOLDPOINT_RESTORE=" TASK);
        has(entry, "HOLDPOINT_SERVICE=alpha");
        has(entry, "HOLDPOINT_SERVICE=beta");
        has(entry, "HOLDPOINT_PHASE=hold");
        log_message(MESSAGE_HOLD_DEGRADED, &(LogFields){ .service = "beta" }, "of one service");
        next(state, entry);
        has(entry, "HOLDPOINT_JOB=8");
        has(entry, "HOLDPOINT_SERVICE=beta");
        assert_int_equal(count(entry, "HOLDPOINT_SERVICE=alpha"), 0);
        log_set_context(NULL);
        log_info("of nothing");
        next(state, entry);
        lacks(entry, HP_FIELD_JOB);
        lacks(entry, HP_FIELD_RESTORE);
        lacks(entry, HP_FIELD_PHASE);
        lacks(entry, HP_FIELD_SERVICE);
}

/* Terminals are not driven, lines not broken, entries not made into blobs; UTF-8 stays. */
static void test_controls(void **state) {
        char entry[8192];

        log_fields(LOG_INFO, &(LogFields){ .service = "x\nHOLDPOINT_JOB=1" },
                   "a\nb\x1b[2J\xff\xc2\x9b ü\\x41");
        next(state, entry);
        has(entry, "MESSAGE=a\\x0ab\\x1b[2J\\xff\\xc2\\x9b ü\\x41");
        has(entry, "HOLDPOINT_SERVICE=x\\x0aHOLDPOINT_JOB=1");
        lacks(entry, HP_FIELD_JOB);
}

static void test_long_line(void **state) {
        char entry[8192], text[4000];

        memset(text, 'x', sizeof(text) - 1);
        text[sizeof(text) - 1] = 0;
        log_info("%s", text);
        next(state, entry);
        assert_true(strlen(entry) > 2000 && strlen(entry) < 2200);
}

static void be_helper(char *const env[], size_t n) {
        log_set_context(NULL);
        assert_int_equal(clearenv(), 0);
        for (size_t i = 0; i < n; i++)
                assert_int_equal(putenv(env[i]), 0);
        log_open("helper");
        log_info("from there");
}

static void test_helper(void **state) {
        const char *const services[] = { "alpha", "beta" };
        const LogFields job = {
                .job = 9, .task = TASK, .backup = BACKUP, .services = services, .n_services = 2
        };
        char entry[8192], *env[LOG_ENV_MAX];
        size_t n;
        pid_t pid;
        int status;

        log_set_context(&job);
        n = log_env(env);
        pid = fork();
        if (pid == 0) {
                be_helper(env, n);
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        next(state, entry);
        has(entry, "MESSAGE=from there");
        has(entry, "SYSLOG_IDENTIFIER=helper");
        has(entry, "HOLDPOINT_JOB=9");
        has(entry, "HOLDPOINT_TASK=" TASK);
        has(entry, "HOLDPOINT_BACKUP=" BACKUP);
        has(entry, "HOLDPOINT_SERVICE=alpha");
        has(entry, "HOLDPOINT_SERVICE=beta");
        for (size_t i = 0; i < n; i++)
                free(env[i]);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_teardown(test_plain_line, forget),
                cmocka_unit_test_teardown(test_message_and_fields, forget),
                cmocka_unit_test_teardown(test_context, forget),
                cmocka_unit_test_teardown(test_controls, forget),
                cmocka_unit_test_teardown(test_long_line, forget),
                cmocka_unit_test_teardown(test_helper, forget),
        };

        if (geteuid() != 0)
                return 77; /* needs a mount namespace: skipped */
        return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
