#include "snapshot/lvm-report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/json.h"

/*
 * LVM puts each line of a report through the same function as its warnings. JSON lines begin with
 * one of six characters, which no warning begins with.
 */

#define PERCENT_MAX 100

void lvm_report_done(LvmReport *r) {
        for (size_t i = 0; i < r->n; i++)
                free(r->volumes[i].tags);
        free(r->volumes);
        *r = (LvmReport){ 0 };
}

static int bad(Failure *reterr, const char *what) {
        return fail_set(reterr, FAIL_SNAPSHOT_FAILED, EBADMSG,
                        "LVM's report about its volumes is not understood (%s): look at 'lvs'",
                        what);
}

/* ---- fields ---- */

static const char *field(json_object *row, const char *key) {
        const char *text;

        return json_get_string(row, key, &text) < 0 ? NULL : text;
}

/* A size in bytes, without a unit. */
static bool get_bytes(json_object *row, const char *key, uint64_t *ret) {
        const char *text = field(row, key);
        char *end;

        if (!text || *text < '0' || *text > '9')
                return false;
        errno = 0;
        *ret = strtoull(text, &end, 10);
        return errno == 0 && *end == 0;
}

/* "12.34", or "" where there is nothing to fill. Rounded up: limits err on the safe side. */
static bool get_percent(json_object *row, const char *key, unsigned *ret) {
        const char *text = field(row, key);
        char *end;
        unsigned long whole;

        *ret = 0;
        if (!text)
                return false;
        if (!*text)
                return true;
        if (*text < '0' || *text > '9')
                return false;
        whole = strtoul(text, &end, 10);
        if (whole > PERCENT_MAX || (*end && *end != '.' && *end != ','))
                return false;
        if (*end && strspn(end + 1, "0123456789") != strlen(end + 1))
                return false;
        *ret = (unsigned) whole + (*end && strspn(end + 1, "0") != strlen(end + 1));
        return true;
}

static bool get_name(json_object *row, const char *key, bool empty, char ret[LVM_NAME_MAX + 1]) {
        const char *text = field(row, key);
        char inner[LVM_NAME_MAX + 3];
        size_t n;

        if (!text || (!*text && !empty))
                return false;
        /* Hidden volumes stand in brackets. */
        n = strlen(text);
        if (n > 2 && n < sizeof(inner) && text[0] == '[' && text[n - 1] == ']') {
                memcpy(inner, text + 1, n - 2);
                inner[n - 2] = 0;
                text = inner;
        }
        if (*text && !lvm_name_is_valid(text))
                return false;
        memcpy(ret, text, strlen(text) + 1);
        return true;
}

static bool get_uuid(json_object *row, const char *key, bool empty, char ret[LVM_UUID_MAX]) {
        const char *text = field(row, key);

        if (!text || (!(empty && !*text) && !lvm_uuid_is_valid(text)))
                return false;
        memcpy(ret, text, strlen(text) + 1);
        return true;
}

/* Whether a list of words separated by commas has this one. */
static bool has_word(const char *list, const char *word) {
        size_t n = strlen(word);

        for (const char *p = list; *p;) {
                size_t len = strcspn(p, ",");

                if (len == n && memcmp(p, word, n) == 0)
                        return true;
                p += len;
                if (*p)
                        p++;
        }
        return false;
}

bool lvm_volume_has_tag(const LvmVolume *v, const char *tag) {
        return has_word(v->tags, tag);
}

/* ---- rows ---- */

static const char *read_names(json_object *row, LvmVolume *v) {
        if (!get_name(row, "vg_name", false, v->name.vg))
                return "vg_name";
        if (!get_name(row, "lv_name", false, v->name.lv))
                return "lv_name";
        if (!get_name(row, "pool_lv", true, v->pool))
                return "pool_lv";
        if (!get_uuid(row, "vg_uuid", false, v->vg_uuid))
                return "vg_uuid";
        if (!get_uuid(row, "lv_uuid", false, v->lv_uuid))
                return "lv_uuid";
        if (!get_uuid(row, "origin_uuid", true, v->origin_uuid))
                return "origin_uuid";
        return NULL;
}

static const char *read_numbers(json_object *row, LvmVolume *v) {
        if (!get_bytes(row, "lv_size", &v->size))
                return "lv_size";
        if (!get_bytes(row, "vg_free", &v->vg_free))
                return "vg_free";
        if (!get_bytes(row, "vg_extent_size", &v->extent) || v->extent == 0)
                return "vg_extent_size";
        if (!get_bytes(row, "vg_missing_pv_count", &v->missing_pvs))
                return "vg_missing_pv_count";
        if (!get_percent(row, "data_percent", &v->data_percent))
                return "data_percent";
        if (!get_percent(row, "metadata_percent", &v->metadata_percent))
                return "metadata_percent";
        return NULL;
}

static const char *read_states(json_object *row, LvmVolume *v) {
        const char *layout = field(row, "lv_layout"), *role = field(row, "lv_role"),
                   *tags = field(row, "lv_tags"), *invalid = field(row, "lv_snapshot_invalid"),
                   *attr = field(row, "lv_attr"), *health = field(row, "lv_health_status");

        if (!layout || !role || !tags || !invalid || !health || !attr || strlen(attr) < 2)
                return "a state is missing";
        v->is_pool = has_word(layout, "pool");
        v->is_thin = has_word(layout, "thin") && !v->is_pool;
        v->is_snapshot = has_word(role, "snapshot") && !v->is_thin;
        v->is_plain =
                (has_word(layout, "linear") || has_word(layout, "striped")) && !v->is_snapshot;
        /* Empty is a good snapshot, "unknown" no snapshot at all; anything else is bad. */
        v->is_invalid = *invalid && strcmp(invalid, "unknown") != 0;
        v->is_read_only = attr[1] == 'r' || attr[1] == 'R';
        v->is_unhealthy = *health != 0;
        v->tags = strdup(tags);
        return v->tags ? NULL : "out of memory";
}

static const char *read_row(json_object *row, LvmVolume *v) {
        const char *wrong;

        if (!json_object_is_type(row, json_type_object))
                return "a volume is no object";
        wrong = read_names(row, v);
        if (!wrong)
                wrong = read_numbers(row, v);
        return wrong ? wrong : read_states(row, v);
}

static int read_rows(json_object *rows, LvmReport *ret, Failure *reterr) {
        size_t n = json_object_array_length(rows);
        LvmVolume *grown;

        if (n > LVM_REPORT_ROWS_MAX - ret->n)
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, E2BIG,
                                "LVM reports more than %d logical volumes", LVM_REPORT_ROWS_MAX);
        if (n == 0)
                return 0;
        grown = realloc(ret->volumes, (ret->n + n) * sizeof(*grown));
        if (!grown)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        ret->volumes = grown;
        for (size_t i = 0; i < n; i++) {
                LvmVolume *v = &ret->volumes[ret->n];
                const char *wrong;

                *v = (LvmVolume){ 0 };
                wrong = read_row(json_object_array_get_idx(rows, i), v);
                if (wrong) {
                        free(v->tags);
                        return bad(reterr, wrong);
                }
                ret->n++;
        }
        return 0;
}

static int read_report(json_object *top, LvmReport *ret, Failure *reterr) {
        json_object *list, *rows;
        int r = 0;

        if (!json_object_is_type(top, json_type_object) || json_get_array(top, "report", &list) < 0)
                return bad(reterr, "no report");
        for (size_t i = 0; r >= 0 && i < json_object_array_length(list); i++) {
                json_object *one = json_object_array_get_idx(list, i);

                if (!json_object_is_type(one, json_type_object) ||
                    json_get_array(one, "lv", &rows) < 0)
                        return bad(reterr, "no volumes");
                r = read_rows(rows, ret, reterr);
        }
        return r;
}

/* ---- lines ---- */

static int join_lines(const char *text, size_t n, Buf *ret) {
        const char *end = text + n;
        int r = 0;

        while (r >= 0 && text < end) {
                const char *eol = memchr(text, '\n', (size_t) (end - text));
                const char *next = eol ? eol : end;

                while (text < next && (*text == ' ' || *text == '\t'))
                        text++;
                if (text < next && memchr("{}[],\"", *text, 6))
                        r = buf_put(ret, text, (size_t) (next - text));
                text = next + 1;
        }
        return r;
}

int lvm_report_parse(const char *text, size_t n, LvmReport *ret, Failure *reterr) {
        _cleanup_json_ json_object *top = NULL;
        _cleanup_(buf_done) Buf json = BUF_INIT(LVM_REPORT_MAX);
        LvmReport report = { 0 };
        int r;

        if (n > LVM_REPORT_MAX)
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, E2BIG, "LVM's report is too long");
        if (join_lines(text, n, &json) < 0)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        top = json_parse((const char *) json.data, json.size);
        if (!top)
                return bad(reterr, "it is no JSON");
        r = read_report(top, &report, reterr);
        if (r < 0)
                lvm_report_done(&report);
        else
                *ret = report;
        return r;
}

const LvmVolume *lvm_report_by_uuid(const LvmReport *r, const char *lv_uuid) {
        for (size_t i = 0; i < r->n; i++)
                if (strcmp(r->volumes[i].lv_uuid, lv_uuid) == 0)
                        return &r->volumes[i];
        return NULL;
}

const LvmVolume *lvm_report_by_name(const LvmReport *r, const char *vg, const char *lv) {
        for (size_t i = 0; i < r->n; i++)
                if (strcmp(r->volumes[i].name.vg, vg) == 0 &&
                    strcmp(r->volumes[i].name.lv, lv) == 0)
                        return &r->volumes[i];
        return NULL;
}
