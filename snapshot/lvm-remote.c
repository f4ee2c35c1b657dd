#include "snapshot/lvm-remote.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/names.h"
#include "base/proto.h"

#define ANSWER_MSEC 300000 /* LVM may wait for others */

static int connect_to(const char *name, Failure *reterr) {
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        const char *dir = getenv(HP_ENV_WORKERS);
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        int n = snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s",
                         dir && *dir ? dir : HP_DEFAULT_WORKERS, name);

        if (n < 0 || (size_t) n >= sizeof(a.sun_path))
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, ENAMETOOLONG,
                                "the path of '%s' is too long", name);
        if (fd < 0 || connect(fd, (const struct sockaddr *) &a, sizeof(a)) < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, errno,
                                  "this worker may not use LVM, and '%s' does not answer",
                                  a.sun_path);
        return TAKE_FD(fd);
}

static int ask(int socket, json_object *identity) {
        _cleanup_json_ json_object *m = proto_new("request");

        if (!m || json_put_string(m, "verb", "open") < 0 || json_put_u64(m, "job", 0) < 0 ||
            json_put(m, "identity", json_object_get(identity)) < 0)
                return -ENOMEM;
        return proto_send(socket, m, NULL, 0);
}

/* 1: another message comes; 0: the image is there; negative: it is not. */
static int receive(int socket, int *ret_fd, Failure *reterr) {
        _cleanup_proto_fds_ ProtoFds fds = PROTO_FDS_INIT;
        _cleanup_json_ json_object *m = NULL;
        json_object *error;
        int r = fd_wait_readable(socket, ANSWER_MSEC);

        if (r > 0)
                r = proto_recv(socket, &m, &fds);
        else if (r == 0)
                r = -ETIMEDOUT;
        if (r <= 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, r < 0 ? -r : EPIPE,
                                  "the worker that opens images gave no answer");
        if (strcmp(proto_type(m), "image") == 0 && fds.n == 1) {
                *ret_fd = TAKE_FD(fds.fds[0]);
                return 0;
        }
        if (strcmp(proto_type(m), "result") != 0)
                return 1;
        if (json_get_object(m, "error", &error) < 0)
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, EBADMSG, "an image without a reason");
        proto_failure_read(error, reterr);
        return reterr->errnum > 0 ? -reterr->errnum : -EIO;
}

int lvm_remote_open(json_object *identity, int *ret_socket, Failure *reterr) {
        _cleanup_close_ int socket = connect_to("image.socket", reterr);
        int r = socket, fd = -1;

        if (r >= 0)
                r = ask(socket, identity);
        if (r < 0 && socket >= 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r, "asking for an image");
        while (r >= 0 && (r = receive(socket, &fd, reterr)) > 0)
                ;
        if (r < 0)
                return r;
        *ret_socket = TAKE_FD(socket);
        return fd;
}
