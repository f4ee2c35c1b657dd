/*
 * What the handlers that queue jobs share. Descriptors in a call are borrowed from its message:
 * what outlives the handler is a duplicate.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/bus-internal.h"

#define PATH_BYTES_MAX 16384 /* 4095 bytes, each written \xHH */

int bus_load_backup(Manager *m, const char *id, json_object **ret, Failure *reterr) {
        int r = catalog_get_backup(m->catalog, id, ret, reterr);

        if (r == -ENOENT)
                return fail_set(reterr, FAIL_NO_SUCH_BACKUP, ENOENT, "no backup %s", id);
        return r;
}

int bus_choose_services(json_object *backup,
                        const char *service,
                        ConfigStrings *ret,
                        Failure *reterr) {
        _cleanup_strings_ ConfigStrings all = { .n = 0 };
        const char *id;

        if (record_services(backup, &all) < 0 || json_get_string(backup, "backup_id", &id) < 0)
                return fail_set(reterr, FAIL_INTERNAL, EUCLEAN,
                                "the catalogue's row of this backup is damaged");
        if (!*service) {
                *ret = all;
                all = (ConfigStrings){ .n = 0 };
                return 0;
        }
        if (!strings_has(&all, service))
                return fail_set(reterr, FAIL_NO_SUCH_SERVICE, ENOENT,
                                "backup %s does not hold service '%.100s'", id, service);
        return strings_add(ret, service) < 0
                       ? fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory")
                       : 0;
}

int bus_check_path(const char *path, Failure *reterr) {
        _cleanup_free_ char *bytes = NULL;
        int r = text_is_label(path, PATH_BYTES_MAX) ? text_unescape(path, &bytes) : -EINVAL;

        if (r == -ENOMEM)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        if (r < 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "'%.100s' is not a path: write control characters, the backslash "
                                "and bytes that are not UTF-8 as \\xHH",
                                path);
        return 0;
}

int bus_new_id(char ret[UUID_TEXT_MAX], Failure *reterr) {
        uint8_t uuid[16];
        int r = text_uuid_new(uuid);

        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot make an id");
        text_uuid_format(uuid, ret);
        return 0;
}

int bus_keep_directory(int fd, uint32_t uid, int *ret, Failure *reterr) {
        struct stat st;

        if (fstat(fd, &st) < 0 || !S_ISDIR(st.st_mode))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, ENOTDIR,
                                "option 'directory' is not a directory");
        /* Root writes there, and whoever can list a directory can open it. */
        if (uid != 0 && st.st_uid != uid)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EPERM,
                                "option 'directory' belongs to another user: restore into one of "
                                "your own");
        *ret = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        return *ret < 0 ? fail_errno(reterr, FAIL_INTERNAL, errno, "cannot keep the directory") : 0;
}

int bus_keep_readable(int fd, const char *what, int *ret, Failure *reterr) {
        struct stat st;
        int flags = fcntl(fd, F_GETFL);

        if (fstat(fd, &st) < 0 || flags < 0 || (flags & O_PATH) ||
            (flags & O_ACCMODE) == O_WRONLY ||
            !(S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)))
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "'%s' must be a file or a pipe that is open for reading", what);
        *ret = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        return *ret < 0 ? fail_errno(reterr, FAIL_INTERNAL, errno, "cannot keep '%s'", what) : 0;
}

int bus_make_stream(JobRequest *q, int *ret, Failure *reterr) {
        int ends[2];

        if (pipe2(ends, O_CLOEXEC) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot make a pipe");
        *ret = ends[0];
        q->fds.stream = ends[1];
        return 0;
}

int bus_submit(Manager *m, sd_bus_message *call, JobRequest *q, Failure *reterr) {
        Job *j;
        int r = job_submit(m, q, &j, reterr);

        return r < 0 ? r : bus_reply_job(call, NULL, j, reterr);
}

int bus_submit_stream(Manager *m, sd_bus_message *call, JobRequest *q, Failure *reterr) {
        _cleanup_close_ int stream = -1;
        char path[JOB_PATH_MAX];
        Job *j;
        int r = bus_make_stream(q, &stream, reterr);

        if (r >= 0)
                r = job_submit(m, q, &j, reterr);
        if (r < 0)
                return r;
        job_path(j->id, path);
        return bus_fail(reterr, sd_bus_reply_method_return(call, "ho", stream, path));
}

int bus_answer_empty(sd_bus_message *call, const Job *j, int fd, Failure *reterr) {
        return bus_fail(reterr, sd_bus_reply_method_return(call, NULL));
}

int bus_answer_summary(sd_bus_message *call, const Job *j, int fd, Failure *reterr) {
        return bus_reply_dictionary(call, j->summary, bus_append_summary, reterr);
}

int bus_answer_fd(sd_bus_message *call, const Job *j, int fd, Failure *reterr) {
        return bus_fail(reterr, sd_bus_reply_method_return(call, "h", fd));
}
