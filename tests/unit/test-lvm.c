/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "snapshot/dm.h"
#include "snapshot/lvm-command.h"
#include "snapshot/lvm-internal.h"
#include "snapshot/lvm-name.h"
#include "snapshot/lvm-report.h"

#define VG_UUID "abcdef-0123-4567-89AB-CDEF-ghij-KLMNOP"
#define LV_UUID "zyxwvu-0123-4567-89AB-CDEF-ghij-KLMNOP"

/* ---- names ---- */

static void test_names(void **state) {
        static const char *const good[] = { "a", "vg-data", "lv_1", "a.b", "+x", "0", "_", "a..b" };
        static const char *const bad[] = {
                "",    "-a",  ".",    "..",    "a b", "a\tb",  "a/b", "a\"b", "a'b",
                "a#b", "a@b", "a\nb", "a;b",   "a$b", "a\\b",  "a,b", "a=b",  "a:b",
                "a[b", "a{b", "\xc3", "a\x01", "a*b", "a\x7f", " a",  "a ",
        };
        char longest[LVM_NAME_MAX + 2];

        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                if (!lvm_name_is_valid(good[i]))
                        fail_msg("'%s' was refused", good[i]);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                if (lvm_name_is_valid(bad[i]) || lvm_tag_is_valid(bad[i]) != (bad[i][0] == '.'))
                        fail_msg("'%s' was taken", bad[i]);
        memset(longest, 'a', sizeof(longest));
        longest[LVM_NAME_MAX + 1] = 0;
        assert_false(lvm_name_is_valid(longest));
        longest[LVM_NAME_MAX] = 0;
        assert_true(lvm_name_is_valid(longest));
}

static void test_pairs(void **state) {
        static const char *const bad[] = { "",    "vg",   "vg/",     "/lv",  "vg/lv/x", "vg//lv",
                                           "-/a", "a/-b", "vg lv/x", "../x", "a/..",    "a/b c" };
        LvmName name = { .vg = "before" };
        Failure f = FAILURE_INIT;
        char text[400];

        assert_int_equal(lvm_name_parse("vg-a/lv.b", &name, &f), 0);
        assert_string_equal(name.vg, "vg-a");
        assert_string_equal(name.lv, "lv.b");
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                f = FAILURE_INIT;
                assert_int_equal(lvm_name_parse(bad[i], &name, &f), -EINVAL);
                assert_int_equal(f.code, FAIL_INVALID_ARGUMENT);
        }
        memset(text, 'x', sizeof(text) - 1);
        text[sizeof(text) - 1] = 0;
        text[150] = '/';
        assert_int_equal(lvm_name_parse(text, &name, &f), -EINVAL);
        assert_string_equal(name.vg, "vg-a");
}

static void test_uuids(void **state) {
        char vg[LVM_UUID_MAX], lv[LVM_UUID_MAX], dm[LVM_DM_MAX];

        assert_true(lvm_uuid_is_valid(VG_UUID));
        assert_false(lvm_uuid_is_valid(""));
        assert_false(lvm_uuid_is_valid(VG_UUID "x"));
        assert_false(lvm_uuid_is_valid("abcdef-0123-4567-89AB-CDEF-ghij-KLMNO "));
        lvm_dm_uuid_format(VG_UUID, LV_UUID, dm);
        assert_string_equal(dm,
                            "LVM-abcdef0123456789ABCDEFghijKLMNOPzyxwvu0123456789ABCDEFghijKLMNOP");
        assert_int_equal(lvm_dm_uuid_parse(dm, vg, lv), 0);
        assert_string_equal(vg, VG_UUID);
        assert_string_equal(lv, LV_UUID);
        assert_int_equal(lvm_dm_uuid_parse("", vg, lv), -EINVAL);
        assert_int_equal(lvm_dm_uuid_parse("CRYPT-LUKS2-abc", vg, lv), -EINVAL);
        dm[10] = '-';
        assert_int_equal(lvm_dm_uuid_parse(dm, vg, lv), -EINVAL);
        assert_int_equal(
                lvm_dm_uuid_parse("LVM-abcdef0123456789ABCDEFghijKLMNOPzyxwvu0123456789ABCDEFghij"
                                  "KLMNOP-real",
                                  vg, lv),
                -EINVAL);
}

/* ---- commands ---- */

static void test_commands(void **state) {
        LvmName lv = { "vg", "lv" }, hostile = { "vg", "lv -f x" };
        Failure f = FAILURE_INIT;
        LvmCommand c;

        assert_int_equal(lvm_command_report(VG_UUID, NULL, &c, &f), 0);
        assert_non_null(strstr(c.line, "-S vg_uuid=" VG_UUID));
        assert_int_equal(lvm_command_report(NULL, "holdpoint", &c, &f), 0);
        assert_non_null(strstr(c.line, " @holdpoint"));
        assert_int_equal(lvm_command_report("x", NULL, &c, &f), -EINVAL);
        assert_int_equal(lvm_command_report(NULL, "a @b", &c, &f), -EINVAL);
        assert_int_equal(lvm_command_create(&lv, "s", "t", "u", 4096, &c, &f), 0);
        assert_non_null(strstr(c.line, "-L 4096b -n s --addtag t --addtag u vg/lv"));
        assert_int_equal(lvm_command_create(&lv, "s", "t", "u", 0, &c, &f), 0);
        assert_null(strstr(c.line, "-L"));
        assert_int_equal(lvm_command_create(&lv, "-s", "t", "u", 0, &c, &f), -EINVAL);
        assert_int_equal(lvm_command_create(&lv, "s", "t u", "u", 0, &c, &f), -EINVAL);
        assert_int_equal(lvm_command_create(&hostile, "s", "t", "u", 0, &c, &f), -EINVAL);
        assert_int_equal(lvm_command_change(LVM_REMOVE, &hostile, &c, &f), -EINVAL);
        assert_int_equal(lvm_command_change(LVM_REMOVE, &lv, &c, &f), 0);
        assert_string_equal(c.line, "lvremove -f vg/lv");
        assert_int_equal(lvm_command_extend(&lv, 512, &c, &f), 0);
}

/* What the helper takes, should a worker ever send anything else. */
static void test_the_last_gate(void **state) {
        static const char *const bad[] = { "",
                                           "vgremove -f vg",
                                           "lvs",
                                           "lvs \"a b\"",
                                           "lvs a # b",
                                           "lvs 'a'",
                                           "lvs a\nlvremove -f b",
                                           "lvremovex a",
                                           "pvcreate /dev/sda",
                                           "lvs -S lv_name=~a" };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                if (lvm_command_is_safe(bad[i]))
                        fail_msg("'%s' was taken", bad[i]);
        assert_true(lvm_command_is_safe("lvremove -f vg/lv"));
}

/* ---- reports ---- */

/* A row with one field replaced. */
static char *row(const char *key, const char *value) {
        static const char *const fields[][2] = {
                { "vg_name", "vg" },
                { "vg_uuid", VG_UUID },
                { "vg_free", "1048576" },
                { "vg_extent_size", "4194304" },
                { "vg_missing_pv_count", "0" },
                { "lv_name", "lv" },
                { "lv_uuid", LV_UUID },
                { "lv_size", "209715200" },
                { "lv_layout", "linear" },
                { "lv_role", "public" },
                { "origin_uuid", "" },
                { "pool_lv", "" },
                { "data_percent", "" },
                { "metadata_percent", "" },
                { "lv_tags", "" },
                { "lv_snapshot_invalid", "unknown" },
                { "lv_attr", "-wi-ao----" },
                { "lv_health_status", "" },
        };
        char *text = strdup("");

        for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
                bool is_it = key && strcmp(key, fields[i][0]) == 0;
                const char *v = is_it ? value : fields[i][1];
                char *more;

                if (!v)
                        continue; /* left out */
                more = text_printf("%s%s\"%s\":\"%s\"", text, *text ? ", " : "", fields[i][0], v);
                free(text);
                text = more;
                assert_non_null(text);
        }
        return text;
}

static int parse_rows(const char *rows, LvmReport *ret) {
        _cleanup_free_ char *text = text_printf("  WARNING: something is odd\n"
                                                "  {\n      \"report\": [\n          {\n"
                                                "              \"lv\": [\n%s\n"
                                                "              ]\n          }\n      ]\n  }\n",
                                                rows);
        Failure f = FAILURE_INIT;
        int r = lvm_report_parse(text, strlen(text), ret, &f);

        if (r < 0)
                assert_true(f.code != FAIL_NONE && f.text[0]);
        return r;
}

static int parse_with(const char *key, const char *value, LvmReport *ret) {
        _cleanup_free_ char *one = row(key, value);
        _cleanup_free_ char *rows = text_printf("{%s}", one);

        return parse_rows(rows, ret);
}

static void test_report(void **state) {
        _cleanup_free_ char *a = row(NULL, NULL), *b = row("lv_tags", "x,holdpoint,holdpoint.1");
        _cleanup_free_ char *rows = text_printf("{%s},\n {%s}", a, b);
        _cleanup_(lvm_report_done) LvmReport r = { 0 };
        const LvmVolume *v;

        assert_int_equal(parse_rows(rows, &r), 0);
        assert_int_equal(r.n, 2);
        v = lvm_report_by_uuid(&r, LV_UUID);
        assert_ptr_equal(v, &r.volumes[0]);
        assert_ptr_equal(lvm_report_by_name(&r, "vg", "lv"), v);
        assert_null(lvm_report_by_name(&r, "vg", "l"));
        assert_null(lvm_report_by_uuid(&r, VG_UUID));
        assert_int_equal(v->size, 209715200);
        assert_int_equal(v->extent, 4194304);
        assert_true(v->is_plain && !v->is_thin && !v->is_pool && !v->is_snapshot && !v->is_invalid);
        assert_true(lvm_volume_has_tag(&r.volumes[1], "holdpoint"));
        assert_true(lvm_volume_has_tag(&r.volumes[1], "holdpoint.1"));
        assert_false(lvm_volume_has_tag(&r.volumes[1], "holdpoint."));
        assert_false(lvm_volume_has_tag(v, "holdpoint"));
}

static void test_no_volumes(void **state) {
        _cleanup_(lvm_report_done) LvmReport r = { 0 };

        assert_int_equal(parse_rows("", &r), 0);
        assert_int_equal(r.n, 0);
}

static void test_kinds(void **state) {
        static const struct {
                const char *key, *value;
                bool thin, pool, snapshot, plain, invalid, read_only;
                unsigned data;
        } cases[] = {
                { "lv_layout", "thin,sparse", .thin = true },
                { "lv_layout", "thin,pool", .pool = true },
                { "lv_layout", "raid,raid1" },
                { "lv_layout", "striped", .plain = true },
                { "lv_role", "public,snapshot,thicksnapshot", .snapshot = true },
                { "lv_snapshot_invalid", "", .plain = true },
                { "lv_snapshot_invalid", "snapshot invalid", .plain = true, .invalid = true },
                { "lv_attr", "Vri---tz-k", .plain = true, .read_only = true },
                { "lv_attr", "-Ri-a-----", .plain = true, .read_only = true },
                { "data_percent", "79.00", .plain = true, .data = 79 },
                { "data_percent", "79.01", .plain = true, .data = 80 },
                { "data_percent", "100.00", .plain = true, .data = 100 },
                { "data_percent", "12,5", .plain = true, .data = 13 },
                { "lv_name", "[pool_tdata]", .plain = true },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(lvm_report_done) LvmReport r = { 0 };
                const LvmVolume *v;

                if (parse_with(cases[i].key, cases[i].value, &r) < 0 || r.n != 1)
                        fail_msg("%s=%s was refused", cases[i].key, cases[i].value);
                v = &r.volumes[0];
                if (v->is_thin != cases[i].thin || v->is_pool != cases[i].pool ||
                    v->is_snapshot != cases[i].snapshot || v->is_plain != cases[i].plain ||
                    v->is_invalid != cases[i].invalid || v->is_read_only != cases[i].read_only ||
                    v->data_percent != cases[i].data)
                        fail_msg("%s=%s was misread", cases[i].key, cases[i].value);
        }
}

static void test_hostile(void **state) {
        static const char *const cases[][2] = {
                { "vg_name", "" },
                { "vg_name", "a b" },
                { "vg_name", "-rf" },
                { "lv_name", ".." },
                { "lv_name", "[a b]" },
                { "lv_name", "[]" },
                { "lv_name", "a/b" },
                { "lv_name", "a\\u0000b" },
                { "lv_name", "a\\nb" },
                { "lv_name", "\xc3\xa4" },
                { "pool_lv", "a#b" },
                { "vg_uuid", "short" },
                { "lv_uuid", "" },
                { "origin_uuid", "x" },
                { "lv_size", "" },
                { "lv_size", "-1" },
                { "lv_size", "1k" },
                { "lv_size", "99999999999999999999999" },
                { "vg_free", " 1" },
                { "vg_extent_size", "0" },
                { "vg_missing_pv_count", "some" },
                { "data_percent", "101" },
                { "data_percent", "-1" },
                { "data_percent", "1.2.3" },
                { "data_percent", "nan" },
                { "metadata_percent", "1e2" },
                { "lv_attr", "-" },
        };
        static const char *const keys[] = {
                "vg_name", "vg_uuid",   "vg_free",      "lv_name",          "lv_uuid",
                "lv_size", "lv_layout", "lv_role",      "lv_tags",          "lv_snapshot_invalid",
                "lv_attr", "pool_lv",   "data_percent", "lv_health_status", "origin_uuid"
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                LvmReport r = { 0 };

                if (parse_with(cases[i][0], cases[i][1], &r) >= 0)
                        fail_msg("%s=%s was taken", cases[i][0], cases[i][1]);
                assert_int_equal(r.n, 0);
        }
        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                LvmReport r = { 0 };

                if (parse_with(keys[i], NULL, &r) >= 0)
                        fail_msg("a volume without %s was taken", keys[i]);
        }
}

static void test_no_reports(void **state) {
        static const char *const texts[] = {
                "",
                "WARNING: nothing\n",
                "{",
                "{}",
                "[]",
                "\"report\"",
                "{\"report\": {}}",
                "{\"report\": [1]}",
                "{\"report\": [{}]}",
                "{\"report\": [{\"lv\": 1}]}",
                "{\"report\": [{\"lv\": [1]}]}",
                "{\"report\": [{\"lv\": [{}]}]}",
                "{\"report\": [{\"lv\": []}]} {\"report\": []}",
        };

        for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
                Failure f = FAILURE_INIT;
                LvmReport r = { 0 };

                if (lvm_report_parse(texts[i], strlen(texts[i]), &r, &f) >= 0)
                        fail_msg("'%s' was taken", texts[i]);
                assert_int_equal(f.code, FAIL_SNAPSHOT_FAILED);
        }
}

/* ---- fill levels ---- */

static void test_usage(void **state) {
        DmUsage u;

        assert_int_equal(dm_usage_parse("snapshot", "24/172032 16", &u), 0);
        assert_true(!u.is_failed && u.used == 24 && u.total == 172032);
        assert_int_equal(dm_usage_parse("snapshot", "Invalid", &u), 0);
        assert_true(u.is_failed);
        assert_int_equal(dm_usage_parse("snapshot", "Overflow", &u), 0);
        assert_true(u.is_failed);
        assert_int_equal(dm_usage_parse("thin-pool",
                                        "2 116/1024 279/6400 - rw no_discard_passdown "
                                        "queue_if_no_space - 256",
                                        &u),
                         0);
        assert_true(!u.is_failed && u.used == 279 && u.total == 6400 && u.metadata_used == 116 &&
                    u.metadata_total == 1024);
        assert_int_equal(dm_usage_parse("thin-pool",
                                        "2 116/1024 6400/6400 - out_of_data_space "
                                        "discard_passdown error_if_no_space - 256",
                                        &u),
                         0);
        assert_true(u.is_failed);
        assert_int_equal(dm_usage_parse("thin-pool", "Fail", &u), 0);
        assert_true(u.is_failed);
        assert_int_equal(dm_usage_parse("linear", "", &u), -EINVAL);
        assert_int_equal(dm_percent(0, 0), 100);
        assert_int_equal(dm_percent(0, 10), 0);
        assert_int_equal(dm_percent(1, 1000), 1);
        assert_int_equal(dm_percent(80, 100), 80);
        assert_int_equal(dm_percent(UINT64_MAX, 10), 100);
}

/* ---- sizes ---- */

#define MIB (UINT64_C(1) << 20)

static void test_sizes(void **state) {
        static const struct {
                uint64_t origin, room, extent, wanted; /* MiB */
        } cases[] = {
                { 1000, 9000, 4, 200 },  { 100, 9000, 4, 64 },        { 20, 9000, 4, 20 },
                { 1000, 150, 4, 148 },   { 1000, 63, 4, 0 },          { 1000, 0, 4, 0 },
                { 1012, 9000, 4, 204 },  { 4096, 9000, 1024, 1024 },  { 10240, 9000, 1024, 2048 },
                { 4096, 1000, 1024, 0 }, { 10240, 1500, 1024, 1024 }, { 20, 12, 4, 0 },
                { 512, 9000, 128, 128 },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                uint64_t size = lvm_snapshot_size(cases[i].origin * MIB, cases[i].room * MIB,
                                                  cases[i].extent * MIB);

                if (size != cases[i].wanted * MIB)
                        fail_msg("case %zu: %llu MiB", i, (unsigned long long) (size / MIB));
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_names),         cmocka_unit_test(test_pairs),
                cmocka_unit_test(test_uuids),         cmocka_unit_test(test_commands),
                cmocka_unit_test(test_the_last_gate), cmocka_unit_test(test_report),
                cmocka_unit_test(test_no_volumes),    cmocka_unit_test(test_kinds),
                cmocka_unit_test(test_hostile),       cmocka_unit_test(test_no_reports),
                cmocka_unit_test(test_usage),         cmocka_unit_test(test_sizes),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
