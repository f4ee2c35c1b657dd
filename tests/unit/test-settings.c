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

#include "base/settings.h"

typedef struct Target {
        uint32_t number;
        int word;
        char *text;
        SettingsItem path;
        SettingsList list, paths;
} Target;

static const char *const colours[] = { "red", "green", NULL };

static const SettingsRule rules[] = {
        { "One", "Number", settings_parse_u32, offsetof(Target, number), .min = 2, .max = 70 },
        { "One", "Word", settings_parse_word, offsetof(Target, word), .words = colours },
        { "One", "Text", settings_parse_string, offsetof(Target, text) },
        { "Two", "Path", settings_parse_path, offsetof(Target, path) },
        { "Two", "Item", settings_parse_list, offsetof(Target, list), .repeatable = true },
        { "Two", "Dir", settings_parse_path_list, offsetof(Target, paths), .repeatable = true },
};
static const SettingsTable table = { rules, ELEMENTSOF(rules) };

static void target_done(Target *t) {
        free(t->text);
        settings_item_done(&t->path);
        settings_list_done(&t->list);
        settings_list_done(&t->paths);
}

static void test_good(void **state) {
        static const char text[] = "# comment\n"
                                   "; another\n"
                                   "\n"
                                   "[One]\n"
                                   "Number=70\r\n"
                                   "  Word = green\t\n"
                                   "Text=a ; b # c = d\n"
                                   "[Two]\n"
                                   "Path=/a/b\n"
                                   "Item=x\n"
                                   "Item=y:z=1\n"
                                   "Dir=/\n"
                                   "[One]\n";
        __attribute__((cleanup(target_done))) Target t = { 0 };
        Failure f = FAILURE_INIT;

        assert_int_equal(settings_parse(text, strlen(text), "f", &table, &t, &f), 0);
        assert_int_equal(f.code, FAIL_NONE);
        assert_int_equal(t.number, 70);
        assert_int_equal(t.word, 1);
        assert_string_equal(t.text, "a ; b # c = d");
        assert_string_equal(t.path.text, "/a/b");
        assert_int_equal(t.path.line, 9);
        assert_int_equal(t.list.n, 2);
        assert_string_equal(t.list.items[1].text, "y:z=1");
        assert_int_equal(t.list.items[1].line, 11);
        assert_string_equal(t.paths.items[0].text, "/");
}

static void test_no_newline_at_end(void **state) {
        static const char text[] = "[One]\nNumber=3";
        __attribute__((cleanup(target_done))) Target t = { 0 };

        assert_int_equal(settings_parse(text, strlen(text), "f", &table, &t, NULL), 0);
        assert_int_equal(t.number, 3);
        assert_int_equal(settings_parse("", 0, "f", &table, &t, NULL), 0);
}

static void test_long_lines(void **state) {
        __attribute__((cleanup(target_done))) Target t = { 0 };
        Failure f = FAILURE_INIT;
        size_t n = SETTINGS_LINE_MAX + 100;
        char *text = malloc(n);

        assert_non_null(text);
        memset(text, 'a', n);
        memcpy(text, "[Two]\nItem=", 11);
        text[6 + 4000] = '\n'; /* far longer than what the library splits lines at by itself */
        memcpy(text + 6 + 4001, "Item=", 5);
        assert_int_equal(settings_parse(text, 6 + 4000 + 7, "f", &table, &t, &f), 0);
        assert_int_equal(t.list.n, 2);
        assert_int_equal(strlen(t.list.items[0].text), 4000 - 5);

        text[6 + 4000] = 'a';
        assert_int_equal(settings_parse(text, n, "f", &table, &t, &f), -EINVAL);
        assert_int_equal(strncmp(f.text, "f:2: the line is longer", 23), 0);
        free(text);
}

static const struct {
        const char *text, *message;
} bad[] = {
        { "Number=3\n", "f:1: 'Number=3' stands before" },
        { "[One]\n\nNumber=1\n", "f:3: Number=1: must be a whole number from 2 to 70" },
        { "[One]\nNumber=71\n", "f:2: Number=71:" },
        { "[One]\nNumber=\n", "f:2: Number=:" },
        { "[One]\nNumber=+3\n", "f:2: Number=+3:" },
        { "[One]\nNumber=3 \nNumber=4\n", "f:3: Number= is set a second time" },
        { "[One]\nNumber=0x10\n", "f:2: Number=0x10:" },
        { "[One]\nNumber=18446744073709551619\n", "f:2: Number=" },
        { "[One]\nNumber=3 ; three\n", "f:2: Number=3 ; three:" },
        { "[One]\nWord=blue\n", "f:2: Word=blue: allowed: red, green" },
        { "[One]\nColour=red\n",
          "f:2: unknown key Colour= in [One]; allowed: Number= Word= Text=" },
        { "[One]\nnumber=3\n", "f:2: unknown key number=" },
        { "[One]\nPath=/a\n", "f:2: unknown key Path=" },
        { "[Three]\n", "f:1: unknown section [Three]; allowed here: [One] [Two]" },
        { "[ One ]\n", "f:1: unknown section [ One ]" },
        { "[one]\n", "f:1: unknown section [one]" },
        { "[One\n", "f:1: '[One' is not a section" },
        { "[One] x\n", "f:1: '[One] x' is not a section" },
        { "[]\n", "f:1: unknown section []" },
        { "[One]\nNumber: 3\n", "f:2: 'Number: 3' is not Key=Value" },
        { "[One]\nNumber\n", "f:2: 'Number' is not Key=Value" },
        { "[One]\n=3\n", "f:2: '=3' is not Key=Value" },
        { "[Two]\nItem=a\n  b\n", "f:3: 'b' is not Key=Value" },
        { "[Two]\nPath=a/b\n", "f:2: Path=a/b: must be an absolute path" },
        { "[Two]\nPath=\n", "f:2: Path=: must be an absolute path" },
        { "[Two]\nPath=/a/../b\n", "f:2: Path=/a/../b: must be without" },
        { "[Two]\nPath=/a//b\n", "f:2: Path=/a//b: must be without" },
        { "[Two]\nPath=/a/\n", "f:2: Path=/a/: must be without" },
        { "[Two]\nPath=/a/.\n", "f:2: Path=/a/.: must be without" },
        { "[Two]\nDir=/a\nDir=b\n", "f:3: Dir=b:" },
        { "[One]\nText=\001\n", "f:2: the line holds control characters" },
        { "[One]\nText=\xff\n", "f:2: the line holds control characters or is not UTF-8" },
        { "\xef\xbb\xbf[One]\n", "f:1: '" },
};

static void test_bad(void **state) {
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                __attribute__((cleanup(target_done))) Target t = { 0 };
                Failure f = FAILURE_INIT;
                int r = settings_parse(bad[i].text, strlen(bad[i].text), "f", &table, &t, &f);

                if (r != -EINVAL || f.code != FAIL_CONFIGURATION_INVALID ||
                    strncmp(f.text, bad[i].message, strlen(bad[i].message)) != 0)
                        fail_msg("'%s' gave %d: '%s'", bad[i].text, r, f.text);
        }
}

static void test_zero_byte(void **state) {
        __attribute__((cleanup(target_done))) Target t = { 0 };
        Failure f = FAILURE_INIT;

        assert_int_equal(settings_parse("[One]\nText=a\0b\n", 15, "f", &table, &t, &f), -EINVAL);
        assert_int_equal(strncmp(f.text, "f:2: a zero byte", 16), 0);
}

static void test_list_limit(void **state) {
        __attribute__((cleanup(target_done))) Target t = { 0 };
        Failure f = FAILURE_INIT;
        size_t n = 6;
        char *text = malloc(6 + 7 * (SETTINGS_LIST_MAX + 1) + 1);

        assert_non_null(text);
        memcpy(text, "[Two]\n", 6);
        for (int i = 0; i <= SETTINGS_LIST_MAX; i++, n += 7)
                memcpy(text + n, "Item=x\n", 7);
        assert_int_equal(settings_parse(text, n, "f", &table, &t, &f), -EINVAL);
        assert_int_equal(strncmp(f.text, "f:1026: Item=x: more than 1024", 30), 0);
        free(text);
}

static void write_file(int dirfd, const char *name, mode_t mode) {
        int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, "[One]\nNumber=5\n", 15), 15);
        assert_int_equal(fchmod(fd, mode), 0);
        close(fd);
}

static void test_files(void **state) {
        char dir[] = "/tmp/test-settings-XXXXXX";
        __attribute__((cleanup(target_done))) Target t = { 0 };
        Failure f = FAILURE_INIT;
        int dirfd;

        assert_non_null(mkdtemp(dir));
        dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(dirfd >= 0);

        assert_int_equal(settings_load(dirfd, "none", "none", &table, &t, &f), -ENOENT);
        assert_int_equal(f.code, FAIL_NONE);
        assert_int_equal(settings_check_dir(dirfd, "dir", &f), 0);

        write_file(dirfd, "good", 0644);
        assert_int_equal(settings_load(dirfd, "good", "good", &table, &t, &f), 0);
        assert_int_equal(t.number, 5);

        write_file(dirfd, "group", 0664);
        assert_int_equal(settings_load(dirfd, "group", "group", &table, &t, &f), -EPERM);
        assert_non_null(strstr(f.text, "group: is writable by others"));
        f = FAILURE_INIT;
        write_file(dirfd, "world", 0602);
        assert_int_equal(settings_load(dirfd, "world", "world", &table, &t, &f), -EPERM);
        f = FAILURE_INIT;
        assert_int_equal(mkfifoat(dirfd, "fifo", 0600), 0);
        assert_int_equal(settings_load(dirfd, "fifo", "fifo", &table, &t, &f), -EINVAL);
        assert_non_null(strstr(f.text, "fifo: is not a regular file"));
        f = FAILURE_INIT;
        assert_int_equal(symlinkat("gone", dirfd, "dangling"), 0);
        assert_int_equal(settings_load(dirfd, "dangling", "dangling", &table, &t, &f), -ENOENT);
        assert_int_equal(f.code, FAIL_CONFIGURATION_INVALID);
        f = FAILURE_INIT;
        if (geteuid() == 0) {
                write_file(dirfd, "other", 0644);
                assert_int_equal(fchownat(dirfd, "other", 65534, 65534, 0), 0);
                assert_int_equal(settings_load(dirfd, "other", "other", &table, &t, &f), -EPERM);
                assert_non_null(strstr(f.text, "other: belongs to uid 65534"));
                f = FAILURE_INIT;
        }
        assert_int_equal(fchmod(dirfd, 0770), 0);
        assert_int_equal(settings_check_dir(dirfd, "dir", &f), -EPERM);

        for (const char *const *n = (const char *const[]){ "good", "group", "world", "fifo",
                                                           "dangling", "other", NULL };
             *n; n++)
                (void) unlinkat(dirfd, *n, 0); /* one of them is made by root alone */
        close(dirfd);
        assert_int_equal(rmdir(dir), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_good),       cmocka_unit_test(test_no_newline_at_end),
                cmocka_unit_test(test_long_lines), cmocka_unit_test(test_bad),
                cmocka_unit_test(test_zero_byte),  cmocka_unit_test(test_list_limit),
                cmocka_unit_test(test_files),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
