/*
 * Packets on fd 3 as a hostile peer may send them, with and without descriptors, on a real socket.
 * Each piece of the input is a packet; what is read is what an honest reader makes of it: a
 * request, a cancel, a failure.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/proto.h"
#include "base/text.h"
#include "tests/fuzz/fuzz.h"
#include "worker/request-fds.h"

#define FDS_SENT_MAX 80 /* more than a message may have */

static bool send_packet(int socket, FuzzInput packet, size_t n_fds, int fd) {
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int) * FDS_SENT_MAX)];
        } control = { 0 };
        struct iovec iov = { .iov_base = (void *) packet.data, .iov_len = packet.size };
        struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };

        if (n_fds > 0) {
                struct cmsghdr *c;

                mh.msg_control = control.bytes;
                mh.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
                c = CMSG_FIRSTHDR(&mh);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
                for (size_t i = 0; i < n_fds; i++)
                        memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(int));
        }
        return sendmsg(socket, &mh, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

/* A failure of the peer's becomes one of ours, and what we make of it comes back the same. */
static void check_failure(json_object *message) {
        Failure first, second;
        _cleanup_json_ json_object *o = NULL;

        proto_failure_read(message, &first);
        fuzz_assert(first.code != FAIL_NONE && memchr(first.text, 0, sizeof(first.text)));
        o = proto_failure(&first);
        fuzz_assert(o && json_text(o));
        proto_failure_read(o, &second);
        fuzz_assert(second.code == first.code && second.errnum == first.errnum);
}

static void check_request(json_object *message) {
        static const char *const keys[] = { "verb", "backup_id", "services", "paths", "pinned" };
        Work w = WORK_INIT;
        Failure why = FAILURE_INIT;
        const char *text;
        bool yes;

        w.request = message;
        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                _cleanup_free_ char *path = NULL;

                if (work_string(&w, keys[i], &text, &why) >= 0)
                        fuzz_assert(text);
                if (work_uuid(&w, keys[i], &text, &why) >= 0)
                        fuzz_assert(strlen(text) == UUID_TEXT_MAX - 1);
                (void) work_bool(&w, keys[i], false, &yes, &why);
                if (json_get_path(message, keys[i], &path) >= 0)
                        fuzz_assert(path);
        }
}

/* The descriptors that a request says it brings are there, each once, or none is used. */
static void check_fds(json_object *message, ProtoFds *fds) {
        static const RequestFd all[] = { REQUEST_FD_DIRECTORY, REQUEST_FD_STREAM, REQUEST_FD_KEY };
        Work w = WORK_INIT;
        Failure why = FAILURE_INIT;
        int fd;

        w.request = message;
        w.fds = *fds;
        for (size_t i = 0; i < ELEMENTSOF(all); i++)
                if (request_fd(&w, all[i], &fd, &why) >= 0)
                        fuzz_assert(fd == -1 || fcntl(fd, F_GETFD) == FD_CLOEXEC);
        if (request_take_fd(&w, REQUEST_FD_STREAM, &fd, &why) >= 0)
                fuzz_assert(close(fd) == 0);
        *fds = w.fds;
}

static void receive_packet(int socket, bool with_fds) {
        _cleanup_proto_fds_ ProtoFds fds = PROTO_FDS_INIT;
        _cleanup_json_ json_object *message = NULL;
        json_object *error = NULL;
        int r = proto_recv(socket, &message, with_fds ? &fds : NULL);

        fuzz_assert(r <= 1);
        if (r < 1) {
                fuzz_assert(!message && fds.n == 0);
                return;
        }
        fuzz_assert(json_object_is_type(message, json_type_object));
        for (size_t i = 0; i < fds.n; i++)
                fuzz_assert(fcntl(fds.fds[i], F_GETFD) == FD_CLOEXEC);
        (void) json_get_object(message, "error", &error);
        check_failure(error ? error : message);
        check_request(message);
        check_fds(message, &fds);
}

/* What a worker under way makes of it: only `cancel` and a hang-up exist, and both stop it. */
static void receive_as_worker(int socket) {
        Work w = WORK_INIT;

        w.socket = socket;
        fuzz_assert(work_interrupted(&w));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzInput in = { data, size };
        int before = fuzz_next_fd(), pair[2], null = open("/dev/null", O_RDONLY | O_CLOEXEC);

        fuzz_assert(null >= 0);
        fuzz_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) ==
                    0);
        for (unsigned i = 0; i < 16 && in.size > 0; i++) {
                uint8_t how = fuzz_u8(&in);
                size_t n_fds = how & 0x40 ? fuzz_u8(&in) % FDS_SENT_MAX : 0;

                if (!send_packet(pair[0], fuzz_piece(&in), n_fds, null))
                        continue;
                if (how & 1)
                        receive_as_worker(pair[1]);
                else
                        receive_packet(pair[1], how & 2);
        }
        (void) close(pair[0]);
        receive_as_worker(pair[1]);
        (void) close(pair[1]);
        (void) close(null);
        fuzz_assert(fuzz_next_fd() == before);
        return 0;
}
