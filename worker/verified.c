#include "worker/verified.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/text.h"
#include "worker/state.h"

#define NAME_MAX_LENGTH (UUID_TEXT_MAX + 8)

static const char *const keys[] = { "verified_at", "verified_depth", "verified_result" };

static void file_name(const char *backup_id, char ret[NAME_MAX_LENGTH]) {
        (void) snprintf(ret, NAME_MAX_LENGTH, "%.36s.json", backup_id);
}

int verified_note(Work *w,
                  const char *backup_id,
                  const char *depth,
                  const char *result,
                  Failure *reterr) {
        _cleanup_json_ json_object *o = json_object_new_object();
        _cleanup_close_ int dir = state_open_dir(w->state_fd, "verified", reterr);
        char name[NAME_MAX_LENGTH], now[CLOCK_TEXT_MAX];

        if (dir < 0)
                return dir;
        clock_format(clock_realtime_usec(), now);
        if (!o || json_put_string(o, keys[0], now) < 0 || json_put_string(o, keys[1], depth) < 0 ||
            json_put_string(o, keys[2], result) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "verify");
        file_name(backup_id, name);
        return state_write_json(dir, name, o, reterr);
}

int verified_put(Work *w, const char *backup_id, json_object *dictionary) {
        _cleanup_json_ json_object *o = NULL;
        _cleanup_close_ int dir = fs_open_dir(w->state_fd, "verified");
        Failure f = FAILURE_INIT;
        char name[NAME_MAX_LENGTH];
        int r = 0;

        file_name(backup_id, name);
        if (dir >= 0 && state_read_json(dir, name, &o, &f) < 0 && f.code != FAIL_NONE) {
                log_warning("verification of backup %s: %s; it counts as not verified", backup_id,
                            f.text);
                if (f.code == FAIL_INTEGRITY_FAILURE)
                        (void) unlinkat(dir, name, 0); /* else it is told again */
        }
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(keys); i++) {
                const char *value = "";

                if (o && json_get_string(o, keys[i], &value) < 0)
                        value = "";
                r = json_put_string(dictionary, keys[i], value);
        }
        return r;
}

bool verified_is_damaged(Work *w, const char *backup_id) {
        _cleanup_json_ json_object *o = json_object_new_object();
        const char *result;

        return o && verified_put(w, backup_id, o) >= 0 &&
               json_get_string(o, keys[2], &result) >= 0 && strcmp(result, "damaged") == 0;
}

void verified_forget(Work *w, const char *backup_id) {
        _cleanup_close_ int dir = fs_open_dir(w->state_fd, "verified");
        char name[NAME_MAX_LENGTH];

        file_name(backup_id, name);
        if (dir >= 0)
                (void) fs_unlink_durable(dir, name); /* a leftover says nothing about anything */
}
