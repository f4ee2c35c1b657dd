/*
 * holdpoint-sqlite: the only program that runs SQLite on a service's databases. It runs as their
 * owner, started by the worker with a socket as fd 3, and ends with it. Commands come one at a
 * time; each is answered by one message per database and a last "done".
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/proto.h"
#include "base/text.h"
#include "sql/helper.h"

#define HEAP_MAX ((sqlite3_int64) 512 << 20)

/* ---- answers ---- */

json_object *helper_answer_new(const char *type, const HelperDb *db) {
        _cleanup_json_ json_object *o = proto_new(type);

        if (o && db && json_put_u64(o, "index", db->index) < 0)
                return NULL;
        return TAKE_PTR(o);
}

int helper_answer_object(Helper *h, json_object *message) {
        return message ? proto_send(h->socket, message, NULL, 0) : -ENOMEM;
}

int helper_answer(Helper *h, const char *type, const HelperDb *db, const Failure *failure) {
        _cleanup_json_ json_object *o = helper_answer_new(type, db);

        if (!o)
                return -ENOMEM;
        if (failure && json_put(o, "failure", proto_failure(failure)) < 0)
                return -ENOMEM;
        return helper_answer_object(h, o);
}

/* ---- what the worker hands over ---- */

static int take_database(Helper *h, json_object *m, ProtoFds *fds) {
        _cleanup_free_ char *name = NULL, *zname = NULL, *path_copy = NULL;
        const char *path;
        HelperDb *dbs;
        uint64_t index;
        bool pin = false;

        if (fds->n != 1 || h->n_dbs >= HELPER_DATABASES_MAX ||
            json_get_u64(m, "index", &index) < 0 || json_get_string(m, "path", &path) < 0 ||
            json_get_path(m, "name", &name) < 0 || json_get_bool(m, "pin", &pin) < 0)
                return -EBADMSG;
        if (!*name || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
            strlen(name) > 255)
                return -EBADMSG;
        zname = text_printf("/proc/self/fd/%d/%s", fds->fds[0], name);
        path_copy = strdup(path);
        dbs = reallocarray(h->dbs, h->n_dbs + 1, sizeof(*dbs));
        if (dbs)
                h->dbs = dbs;
        if (!zname || !path_copy || !dbs)
                return -ENOMEM;
        h->dbs[h->n_dbs++] = (HelperDb){
                .index = index,
                .path = TAKE_PTR(path_copy),
                .name = TAKE_PTR(name),
                .zname = TAKE_PTR(zname),
                .dirfd = TAKE_FD(fds->fds[0]),
                .pin = pin,
                .fd = -1,
                .lock_fd = -1,
        };
        return 0;
}

static int take_image(Helper *h, json_object *m, ProtoFds *fds) {
        _cleanup_free_ char *live = NULL;
        HelperImage *images;

        if (fds->n != 1 || h->n_images >= HELPER_IMAGES_MAX ||
            json_get_path(m, "live", &live) < 0 || !text_is_clean_path(live))
                return -EBADMSG;
        images = reallocarray(h->images, h->n_images + 1, sizeof(*images));
        if (!images)
                return -ENOMEM;
        h->images = images;
        h->images[h->n_images++] =
                (HelperImage){ .live = TAKE_PTR(live), .fd = TAKE_FD(fds->fds[0]) };
        return 0;
}

/* ---- commands ---- */

static int run_hold(Helper *h, const char *type, json_object *m, ProtoFds *fds) {
        if (strcmp(type, "prepare") == 0)
                return helper_hold_prepare(h, m);
        if (strcmp(type, "lock") == 0)
                return helper_hold_lock(h, m);
        if (strcmp(type, "pin") == 0)
                return helper_hold_pin(h);
        if (strcmp(type, "release") == 0)
                return helper_hold_release(h, false);
        if (strcmp(type, "copy") == 0 && fds->n == 1)
                return helper_hold_copy(h, m, fds->fds[0]);
        return -EBADMSG;
}

static int run_image(Helper *h, const char *type, json_object *m) {
        if (h->n_dbs != 1)
                return -EBADMSG;
        if (strcmp(type, "recover") == 0) {
                h->mode = HELPER_RECOVER;
                return helper_image_recover(h, m);
        }
        if (strcmp(type, "check") == 0) {
                h->mode = HELPER_CHECK;
                return helper_image_check(h, m);
        }
        return -EBADMSG;
}

static int handle(Helper *h, json_object *m, ProtoFds *fds) {
        const char *type = proto_type(m);
        int r;

        /* Connections keep pointers into the list: it is complete before anything is opened. */
        if (strcmp(type, "database") == 0 && !h->timers_made)
                return take_database(h, m, fds);
        if (strcmp(type, "image") == 0 && h->mode != HELPER_HOLD)
                return take_image(h, m, fds);
        r = h->mode == HELPER_HOLD ? run_hold(h, type, m, fds) : run_image(h, type, m);
        return r < 0 ? r : helper_answer(h, "done", NULL, NULL);
}

/* Waits for the next command, and lets go by itself when the hold has lasted for too long. */
static int wait_command(Helper *h) {
        for (;;) {
                struct pollfd p = { .fd = h->socket, .events = POLLIN };
                uint64_t now = clock_monotonic_usec(), end = h->first_lock_usec + h->max_hold_usec;
                int r, msec = -1;

                if (h->first_lock_usec > 0) {
                        if (now >= end) {
                                r = helper_hold_release(h, true);
                                if (r < 0)
                                        return r;
                                continue;
                        }
                        msec = (int) ((end - now + 999) / 1000);
                }
                r = poll(&p, 1, msec);
                if (r < 0 && errno != EINTR)
                        return -errno;
                if (r > 0)
                        return 0;
        }
}

static int serve(Helper *h) {
        for (;;) {
                _cleanup_proto_fds_ ProtoFds fds = PROTO_FDS_INIT;
                _cleanup_json_ json_object *m = NULL;
                int r = wait_command(h);

                if (r < 0)
                        return r;
                r = proto_recv(h->socket, &m, &fds);
                if (r <= 0)
                        return r;
                r = handle(h, m, &fds);
                if (r < 0)
                        return r;
        }
}

/* What the owner, who may signal us, must not be able to do: trace us, fill our core files. */
static int set_up(Helper *h, Failure *reterr) {
        struct rlimit rl, no_core = { 0 };
        int r;

        if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
            prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || setrlimit(RLIMIT_CORE, &no_core) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot confine myself");
        if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
                rl.rlim_cur = rl.rlim_max;
                (void) setrlimit(RLIMIT_NOFILE,
                                 &rl); /* then a database fails to open, and says so */
        }
        (void) umask(0077);
        if (fcntl(h->socket, F_GETFD) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "fd 3 is not a socket");
        if (sqlite3_config(SQLITE_CONFIG_URI, 0) != SQLITE_OK || sqlite3_initialize() != SQLITE_OK)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "cannot start SQLite");
        if (sqlite3_libversion_number() < 3031000)
                return fail_set(reterr, FAIL_INTERNAL, ENOSYS, "SQLite %s is too old",
                                sqlite3_libversion());
        (void) sqlite3_hard_heap_limit64(HEAP_MAX);
        r = helper_vfs_register(h, reterr);
        return r;
}

int main(int argc, char **argv) {
        Helper h = { .socket = 3, .copy_fd = -1, .refused = FAILURE_INIT };
        Failure failure = FAILURE_INIT;
        int r;

        log_open("holdpoint-sqlite");
        if (argc != 2 || (strcmp(argv[1], "hold") != 0 && strcmp(argv[1], "image") != 0)) {
                (void) fprintf(stderr, "holdpoint-sqlite is started by holdpoint-worker alone\n");
                return 2;
        }
        h.mode = strcmp(argv[1], "hold") == 0 ? HELPER_HOLD : HELPER_RECOVER;
        r = set_up(&h, &failure);
        if (r < 0) {
                log_error("%s", failure.text);
                return 1;
        }
        r = serve(&h);
        if (r < 0)
                log_debug("ending: %s", strerror(-r));
        /* Without closing anything: the end of the process drops all locks at once. */
        _exit(r < 0 ? 1 : 0);
}
