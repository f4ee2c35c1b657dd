#include "base/proto.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/text.h"

void proto_fds_done(ProtoFds *fds) {
        for (size_t i = 0; i < fds->n; i++)
                fd_close(fds->fds[i]);
        fds->n = 0;
}

int proto_send(int socket, json_object *message, const int *fds, size_t n_fds) {
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int) * PROTO_FDS_MAX)];
        } control = { 0 };
        const char *text = json_text(message);
        struct iovec iov;
        struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
        ssize_t n;

        if (!text)
                return -ENOMEM;
        iov = (struct iovec){ .iov_base = (char *) text, .iov_len = strlen(text) };
        if (iov.iov_len > PROTO_MESSAGE_MAX || n_fds > PROTO_FDS_MAX)
                return -EMSGSIZE;
        if (n_fds > 0) {
                struct cmsghdr *c;

                mh.msg_control = control.bytes;
                mh.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
                c = CMSG_FIRSTHDR(&mh);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
                memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
        }
        do
                n = sendmsg(socket, &mh, MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == ECONNRESET || errno == ENOTCONN ? -EPIPE : -errno;
        return 0;
}

/* Takes all descriptors of a message; too many for us are closed by the kernel (MSG_CTRUNC). */
static int take_fds(struct msghdr *mh, ProtoFds *ret) {
        for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
                size_t n;

                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                if (ret->n + n > PROTO_FDS_MAX)
                        return -EBADMSG;
                memcpy(ret->fds + ret->n, CMSG_DATA(c), n * sizeof(int));
                ret->n += n;
        }
        return mh->msg_flags & (MSG_CTRUNC | MSG_TRUNC) ? -EBADMSG : 0;
}

int proto_recv(int socket, json_object **ret, ProtoFds *ret_fds) {
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int) * PROTO_FDS_MAX)];
        } control;
        _cleanup_free_ char *text = malloc(PROTO_MESSAGE_MAX);
        _cleanup_proto_fds_ ProtoFds fds = PROTO_FDS_INIT;
        _cleanup_json_ json_object *o = NULL;
        struct iovec iov = { .iov_base = text, .iov_len = PROTO_MESSAGE_MAX };
        struct msghdr mh = {
                .msg_iov = &iov,
                .msg_iovlen = 1,
                .msg_control = control.bytes,
                .msg_controllen = sizeof(control.bytes),
        };
        unsigned reset = 0;
        ssize_t n;
        int r;

        if (!text)
                return -ENOMEM;
        /*
         * A peer that closed without reading all (a cancel that came too late) shows as a reset
         * first; what it had sent, its result, comes after that.
         */
        do
                n = recvmsg(socket, &mh, MSG_CMSG_CLOEXEC);
        while (n < 0 && (errno == EINTR || (errno == ECONNRESET && !reset++)));
        if (n < 0)
                return errno == ECONNRESET ? 0 : -errno;
        r = take_fds(&mh, &fds);
        if (r < 0)
                return r;
        if (n == 0)
                return 0;
        if (fds.n > 0 && !ret_fds)
                return -EBADMSG;
        o = json_parse(text, (size_t) n);
        if (!json_object_is_type(o, json_type_object))
                return -EBADMSG;
        if (ret_fds) {
                *ret_fds = fds;
                fds.n = 0;
        }
        *ret = TAKE_PTR(o);
        return 1;
}

json_object *proto_new(const char *type) {
        json_object *o = json_object_new_object();

        if (o && json_put_string(o, "type", type) < 0) {
                json_object_put(o);
                return NULL;
        }
        return o;
}

const char *proto_type(json_object *message) {
        const char *type;

        return json_get_string(message, "type", &type) < 0 ? "" : type;
}

json_object *proto_failure(const Failure *f) {
        _cleanup_json_ json_object *o = json_object_new_object();
        int r;

        if (!o || json_put_string(o, "name", fail_name(f->code)) < 0 ||
            json_put_u64(o, "errno", (uint64_t) (f->errnum > 0 ? f->errnum : 0)) < 0)
                return NULL;
        /* Texts name files: bytes that are not text must not make the message malformed. */
        r = text_is_label(f->text, sizeof(f->text)) ? json_put_string(o, "text", f->text)
                                                    : json_put_path(o, "text", f->text);
        if (r < 0)
                return NULL;
        return TAKE_PTR(o);
}

void proto_failure_read(json_object *o, Failure *ret) {
        const char *name, *text;
        uint64_t errnum;

        *ret = FAILURE_INIT;
        if (json_get_string(o, "name", &name) < 0 || json_get_string(o, "text", &text) < 0 ||
            json_get_u64(o, "errno", &errnum) < 0 || errnum > 4095) {
                (void) fail_set(ret, FAIL_INTERNAL, EBADMSG, "malformed failure from a peer");
                return;
        }
        (void) fail_set(ret, fail_from_name(name), (int) errnum, "%s", text);
}
