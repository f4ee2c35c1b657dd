#include "snapshot/image-remote.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/names.h"
#include "base/proto.h"

#define SOCKET_NAME "image.socket"
#define ANSWER_MSEC 300000 /* LVM may wait for others */

static int fill_address(struct sockaddr_un *a, Failure *reterr) {
        const char *dir = getenv(HP_ENV_WORKERS);
        int n = snprintf(a->sun_path, sizeof(a->sun_path), "%s/" SOCKET_NAME,
                         dir && *dir ? dir : HP_DEFAULT_WORKERS);

        a->sun_family = AF_UNIX;
        if (n < 0 || (size_t) n >= sizeof(a->sun_path))
                return fail_set(reterr, FAIL_SNAPSHOT_FAILED, ENAMETOOLONG,
                                "the path of '" SOCKET_NAME "' is too long");
        return 0;
}

static int connect_to_it(Failure *reterr) {
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        struct sockaddr_un a = { 0 };
        int r = fill_address(&a, reterr);

        if (r < 0)
                return r;
        if (fd < 0 || connect(fd, (const struct sockaddr *) &a, sizeof(a)) < 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, errno,
                                  "this worker may not use LVM, and '%s' does not answer",
                                  a.sun_path);
        return TAKE_FD(fd);
}

static json_object *request(const char *verb) {
        _cleanup_json_ json_object *m = proto_new("request");

        return !m || json_put_string(m, "verb", verb) < 0 || json_put_u64(m, "job", 0) < 0
                       ? NULL
                       : TAKE_PTR(m);
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

/* Sends the request (NULL: there was no memory for it); the descriptor that comes is owned. */
static int ask(json_object *m, int *ret_socket, Failure *reterr) {
        _cleanup_close_ int socket = connect_to_it(reterr);
        int r = socket, fd = -1;

        if (r >= 0)
                r = m ? proto_send(socket, m, NULL, 0) : -ENOMEM;
        if (r < 0 && socket >= 0)
                return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, -r, "asking for an image");
        while (r >= 0 && (r = receive(socket, &fd, reterr)) > 0)
                ;
        if (r < 0)
                return r;
        *ret_socket = TAKE_FD(socket);
        return fd;
}

int image_remote_open(json_object *identity, int *ret_socket, Failure *reterr) {
        _cleanup_json_ json_object *m = request("open");

        if (m && json_put(m, "identity", json_object_get(identity)) < 0)
                json_object_put(TAKE_PTR(m));
        return ask(m, ret_socket, reterr);
}

bool image_remote_is_there(void) {
        struct sockaddr_un a = { 0 };

        return fill_address(&a, NULL) >= 0 && access(a.sun_path, F_OK) == 0;
}

int image_remote_top(const char *fsid, const char *source, Failure *reterr) {
        _cleanup_json_ json_object *m = request("top");
        _cleanup_close_ int socket = -1, fd = -1;
        int r;

        if (m && (json_put_string(m, "fsid", fsid) < 0 || json_put_path(m, "source", source) < 0))
                json_object_put(TAKE_PTR(m));
        r = fd = ask(m, &socket, reterr);
        /* Until it has hung up it holds the mount, too, and would be taken for a user of the data.
         */
        while (r >= 0 && (r = fd_wait_readable(socket, ANSWER_MSEC)) > 0) {
                _cleanup_json_ json_object *rest = NULL;

                if (proto_recv(socket, &rest, NULL) <= 0)
                        break;
        }
        return fd < 0 ? fd : TAKE_FD(fd);
}
