/*
 * The catalogue is a copy, and the history of jobs. That the disk below it is full, or has become
 * read-only, is no reason to refuse a list, a restore, or the deletion that would make room: it
 * goes on in the runtime directory, which lies in memory, and comes back by itself. What is lost if
 * the machine goes down meanwhile is the history of that time alone.
 */

#include "agent/catalogue.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "agent/job-log.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/names.h"
#include "base/text.h"

#define RETURN_USEC (60 * USEC_PER_SEC)
#define COPY_BYTES  ((size_t) 1 << 20)

static const char *runtime_dir(void) {
        const char *dir = getenv(HP_ENV_RUNTIME);

        return dir && *dir ? dir : NULL;
}

static bool is_unwritable(int r) {
        return r == -ENOSPC || r == -EDQUOT || r == -EROFS || r == -EIO;
}

static int on_return(sd_event_source *source, uint64_t usec, void *userdata) {
        catalogue_return(userdata);
        return 0;
}

static void set_timer(Manager *m) {
        int r;

        m->return_timer = sd_event_source_disable_unref(m->return_timer);
        r = sd_event_add_time_relative(m->event, &m->return_timer, CLOCK_MONOTONIC, RETURN_USEC,
                                       USEC_PER_SEC, on_return, m);
        if (r < 0)
                log_warning("The catalogue stays in memory until the agent ends: %s", strerror(-r));
}

static void tell_away(Manager *m, const char *why) {
        m->catalogue_away = true;
        log_message(MESSAGE_CATALOGUE_AWAY, NULL,
                    "The catalogue in %s cannot be written, it is kept in memory until it can: %s",
                    manager_state_dir(), why);
}

/* 0 also if there is none. */
static int copy_file(const char *from_dir, const char *to_dir, const char *name) {
        _cleanup_free_ char *from = text_printf("%s/%s", from_dir, name);
        _cleanup_free_ char *to = text_printf("%s/%s", to_dir, name);
        _cleanup_close_ int in = -1, out = -1;
        ssize_t n;

        if (!from || !to)
                return -ENOMEM;
        (void) unlink(to); /* what stays shows at the open */
        in = open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
        if (in < 0)
                return errno == ENOENT ? 0 : -errno;
        out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (out < 0)
                return -errno;
        while ((n = sendfile(out, in, NULL, COPY_BYTES)) > 0)
                ;
        return n < 0 ? -errno : 0;
}

/* With its log: SQLite cannot open a database with one where it cannot write. */
static int copy_files(const char *from, const char *to, Failure *reterr) {
        int r = copy_file(from, to, CATALOG_FILE);

        if (r >= 0)
                r = copy_file(from, to, CATALOG_FILE "-wal");
        return r < 0 ? fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "cannot copy the catalogue to %s", to)
                     : 0;
}

static int open_at(Manager *m, const char *dir, json_object **ret_tasks, Failure *reterr) {
        _cleanup_catalog_ Catalog *catalog = NULL;
        Failure interrupted = FAILURE_INIT;
        int r = catalog_open(dir, &catalog, reterr);

        (void) fail_set(&interrupted, FAIL_INTERRUPTED, ESHUTDOWN, "the agent ended while it ran");
        if (r >= 0)
                r = catalog_interrupt(catalog, &interrupted, ret_tasks, reterr);
        if (r < 0)
                return r;
        for (size_t i = 0; i < json_object_array_length(*ret_tasks); i++)
                job_log_interrupted(json_object_array_get_idx(*ret_tasks, i), &interrupted);
        m->catalog = TAKE_PTR(catalog);
        return 0;
}

static int open_away(Manager *m, json_object **ret_tasks, const char *why, Failure *reterr) {
        int r = open_at(m, runtime_dir(), ret_tasks, reterr);

        if (r < 0)
                return r;
        tell_away(m, why);
        set_timer(m);
        return 0;
}

/* An agent that was away and crashed has left one: it is newer than what is on the disk. */
static bool is_copy_there(void) {
        _cleanup_free_ char *path =
                runtime_dir() ? text_printf("%s/%s", runtime_dir(), CATALOG_FILE) : NULL;

        return path && access(path, F_OK) == 0;
}

static int open_somewhere(Manager *m, json_object **ret_tasks, Failure *reterr) {
        Failure why = FAILURE_INIT;
        int r;

        if (is_copy_there() &&
            open_away(m, ret_tasks, "an agent before had to leave it", &why) >= 0) {
                catalogue_return(m);
                return 0;
        }
        why = FAILURE_INIT;
        r = open_at(m, manager_state_dir(), ret_tasks, &why);
        if (!is_unwritable(r) || !runtime_dir()) {
                *reterr = why;
                return r;
        }
        r = copy_files(manager_state_dir(), runtime_dir(), reterr);
        return r < 0 ? r : open_away(m, ret_tasks, why.text, reterr);
}

/* systemd has made it; parents that the agent may pass but not read are no hindrance then. */
static int ensure_state(const char *dir, Failure *reterr) {
        int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0)
                fd = errno == ENOENT ? fs_ensure_path(dir, 0700) : -errno;
        if (fd < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -fd, "cannot use the state directory %s",
                                  dir);
        fd_close(fd);
        return 0;
}

int catalogue_open(Manager *m, Failure *reterr) {
        _cleanup_json_ json_object *tasks = NULL;
        int r = ensure_state(manager_state_dir(), reterr);

        if (r >= 0)
                r = open_somewhere(m, &tasks, reterr);
        if (r < 0)
                return r;
        m->reconcile_follow = m->sweep_wanted = json_object_array_length(tasks) > 0;
        r = catalog_highest_task(m->catalog, &m->next_job_id, reterr);
        if (r < 0)
                return r;
        m->next_job_id++;
        return 0;
}

bool catalogue_leave(Manager *m, int r) {
        Failure why = FAILURE_INIT;

        /* It was written before: what is refused now is the file system's refusal. */
        if (m->catalogue_away || !runtime_dir() || (!is_unwritable(r) && r != -EACCES))
                return false;
        if (catalog_move(m->catalog, runtime_dir(), &why) < 0) {
                log_warning("The catalogue cannot be kept in memory: %s", why.text);
                return false;
        }
        tell_away(m, strerror(-r));
        set_timer(m);
        return true;
}

static void remove_copy(void) {
        static const char *const names[] = { CATALOG_FILE, CATALOG_FILE "-wal",
                                             CATALOG_FILE "-shm" };

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_free_ char *path = text_printf("%s/%s", runtime_dir(), names[i]);

                if (path)
                        (void) unlink(path); /* what stays is replaced by the next copy */
        }
}

void catalogue_return(Manager *m) {
        Failure why = FAILURE_INIT;

        if (!m->catalogue_away)
                return;
        if (catalog_move(m->catalog, manager_state_dir(), &why) < 0) {
                log_debug("The catalogue stays in memory: %s", why.text);
                if (!m->stopping)
                        set_timer(m);
                return;
        }
        m->catalogue_away = false;
        m->return_timer = sd_event_source_disable_unref(m->return_timer);
        remove_copy();
        log_message(MESSAGE_CATALOGUE_BACK, NULL, "The catalogue is written to %s again",
                    manager_state_dir());
}
