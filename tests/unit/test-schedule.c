#include <errno.h>
#include <fcntl.h>
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

#include "base/fs.h"
#include "base/names.h"
#include "base/schedule.h"

static char directory[64];

static int set_up(void **state) {
        (void) snprintf(directory, sizeof(directory), "/tmp/test-schedule-XXXXXX");
        assert_non_null(mkdtemp(directory));
        return setenv(HP_ENV_UNIT_DIR, directory, 1);
}

static int tear_down(void **state) {
        return fs_remove_tree(AT_FDCWD, directory, NULL, NULL);
}

static Schedule sample(const char *name) {
        return (Schedule){
                .name = (char *) name,
                .backup_type = (char *) "full",
                .description = (char *) "by night; # quietly",
                .frequency = (char *) "daily",
                .time = (char *) "02:00",
                .calendar = (char *) "*-*-* 02:00:00",
                .origin = (char *) "",
                .retention_days = 30,
        };
}

static void test_names(void **state) {
        char longest[66];

        memset(longest, 'a', sizeof(longest));
        longest[63] = 0;
        assert_true(schedule_name_is_valid("default"));
        assert_true(schedule_name_is_valid("a-b_9"));
        assert_true(schedule_name_is_valid(longest));
        longest[63] = 'a';
        longest[64] = 0;
        assert_false(schedule_name_is_valid(longest));
        assert_false(schedule_name_is_valid(""));
        assert_false(schedule_name_is_valid("9a"));
        assert_false(schedule_name_is_valid("-a"));
        assert_false(schedule_name_is_valid("A"));
        assert_false(schedule_name_is_valid("a/b"));
        assert_false(schedule_name_is_valid("a.b"));
        assert_false(schedule_name_is_valid("a@b"));
}

static void test_calendars(void **state) {
        static const struct {
                const char *frequency, *time, *calendar;
        } table[] = {
                { "daily", "02:00", "*-*-* 02:00:00" },
                { "weekly", "23:59", "Mon *-*-* 23:59:00" },
                { "monthly", "00:00", "*-*-01 00:00:00" },
                { "hourly", "02:00", NULL },
                { "", "02:00", NULL },
                { "daily", "24:00", NULL },
                { "daily", "2:00", NULL },
                { "daily", "02:60", NULL },
                { "daily", "02:0x", NULL },
                { "daily", "", NULL },
                { "daily", "02:00:00", NULL },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_free_ char *calendar = NULL;
                Failure f = FAILURE_INIT;
                int r = schedule_calendar(table[i].frequency, table[i].time, &calendar, &f);

                if (table[i].calendar) {
                        assert_int_equal(r, 0);
                        assert_string_equal(calendar, table[i].calendar);
                } else {
                        assert_int_equal(r, -EINVAL);
                        assert_int_equal(f.code, FAIL_INVALID_ARGUMENT);
                        assert_null(calendar);
                }
        }
        assert_true(schedule_calendar_is_clean("Mon..Fri *-*-1/2 10:00:00 Europe/Berlin"));
        assert_false(schedule_calendar_is_clean(""));
        assert_false(schedule_calendar_is_clean("daily\nExecStart=/bin/x"));
        assert_false(schedule_calendar_is_clean("%n"));
        assert_false(schedule_calendar_is_clean("daily\\"));
}

static void assert_same(const Schedule *a, const Schedule *b) {
        assert_string_equal(a->name, b->name);
        assert_string_equal(a->backup_type, b->backup_type);
        assert_string_equal(a->description, b->description);
        assert_string_equal(a->frequency, b->frequency);
        assert_string_equal(a->time, b->time);
        assert_string_equal(a->calendar, b->calendar);
        assert_string_equal(a->origin, b->origin);
        assert_int_equal(a->retention_days, b->retention_days);
}

static void test_round_trip(void **state) {
        const Schedule by_frequency = sample("nightly");
        Schedule by_calendar = sample("often");
        _cleanup_schedule_list_ ScheduleList list = { 0 };
        _cleanup_schedule_ Schedule got = { 0 };
        Failure f = FAILURE_INIT;

        by_calendar.frequency = by_calendar.time = by_calendar.description = (char *) "";
        by_calendar.calendar = (char *) "*:0/15";
        by_calendar.origin = (char *) "defaults";
        assert_int_equal(schedule_load("nightly", &got, &f), -ENOENT);
        assert_int_equal(f.code, FAIL_NO_SUCH_SCHEDULE);
        f = FAILURE_INIT;
        assert_int_equal(schedule_save(&by_calendar, &f), 0);
        assert_int_equal(schedule_save(&by_frequency, &f), 0);
        assert_int_equal(schedule_load("nightly", &got, &f), 0);
        assert_same(&got, &by_frequency);
        assert_int_equal(schedule_list_load(&list, &f), 0);
        assert_int_equal(list.n, 2);
        assert_same(&list.items[0], &by_frequency);
        assert_same(&list.items[1], &by_calendar);
        assert_int_equal(schedule_remove("often", &f), 0);
        assert_int_equal(schedule_remove("often", &f), 0);
        schedule_list_done(&list);
        assert_int_equal(schedule_list_load(&list, &f), 0);
        assert_int_equal(list.n, 1);
}

/* Nothing that anybody hands over becomes a line of its own in a unit file. */
static void test_injection(void **state) {
        static const char *const bad[] = { "x\n[Timer]\nUnit=poweroff.target", "x\\", "x\r" };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                for (size_t k = 0; k < 6; k++) {
                        Schedule s = sample("nightly"), got = { 0 };
                        char **texts[] = { &s.backup_type, &s.description, &s.frequency,
                                           &s.time,        &s.calendar,    &s.origin };
                        Failure f = FAILURE_INIT;

                        *texts[k] = (char *) bad[i];
                        assert_int_equal(schedule_save(&s, &f), -EINVAL);
                        assert_int_equal(f.code, FAIL_INVALID_ARGUMENT);
                        f = FAILURE_INIT;
                        assert_int_equal(schedule_load("nightly", &got, &f), -ENOENT);
                }
}

static void write_drop_in(const char *name, const char *file, const char *text) {
        char sub[128];
        int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd;

        (void) snprintf(sub, sizeof(sub), "holdpoint@%s.timer.d", name);
        fd = fs_ensure_dir(dir, sub, 0755);
        assert_true(fd >= 0);
        assert_int_equal(fs_write_atomic(fd, file, text, strlen(text), 0644), 0);
        (void) close(fd);
        (void) close(dir);
}

/* What an operator puts beside it is systemd's affair; a broken one of ours is named by its line.
 */
static void test_strange_files(void **state) {
        const Schedule good = sample("good");
        char path[256];
        _cleanup_schedule_list_ ScheduleList list = { 0 };
        _cleanup_schedule_ Schedule got = { 0 };
        Failure f = FAILURE_INIT;

        assert_int_equal(schedule_save(&good, &f), 0);
        write_drop_in("good", "override.conf", "[Timer]\nOnCalendar=weekly\n");
        write_drop_in("theirs", "override.conf", "[Timer]\nOnCalendar=weekly\n");
        write_drop_in("Bad.Name", "50-holdpoint.conf", "nonsense\n");
        assert_int_equal(schedule_list_load(&list, &f), 0);
        assert_int_equal(list.n, 1);
        assert_string_equal(list.items[0].calendar, "*-*-* 02:00:00");

        /* Nor does it go with ours. */
        assert_int_equal(schedule_remove("good", &f), 0);
        assert_int_equal(schedule_load("good", &got, &f), -ENOENT);
        f = FAILURE_INIT;
        (void) snprintf(path, sizeof(path), "%s/holdpoint@good.timer.d/override.conf", directory);
        assert_int_equal(access(path, F_OK), 0);
        write_drop_in("broken", "50-holdpoint.conf", "[X-Holdpoint]\nType=full\nNonsense=1\n");
        assert_true(schedule_load("broken", &got, &f) < 0);
        assert_int_equal(f.code, FAIL_CONFIGURATION_INVALID);
        assert_non_null(strstr(f.text, "50-holdpoint.conf:3:"));
        f = FAILURE_INIT;
        schedule_list_done(&list);
        assert_true(schedule_list_load(&list, &f) < 0);
        assert_int_equal(f.code, FAIL_CONFIGURATION_INVALID);
        f = FAILURE_INIT;
        write_drop_in("broken", "50-holdpoint.conf", "[Timer]\nOnCalendar=daily\n");
        assert_true(schedule_load("broken", &got, &f) < 0);
        assert_non_null(strstr(f.text, "holdpoint schedule set broken"));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_names),
                cmocka_unit_test(test_calendars),
                cmocka_unit_test_setup_teardown(test_round_trip, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_injection, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_strange_files, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
