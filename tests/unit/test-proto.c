/*
 * Packets of a peer that means harm: too long, not JSON, with descriptors nobody asked for.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/proto.h"

#define FLOOD 200 /* descriptors in one message; the kernel takes up to 253 */

typedef struct Pair {
        int here, there;
} Pair;

static int make_pair(void **state) {
        Pair *p = calloc(1, sizeof(*p));
        int fds[2];

        if (!p || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
                return -1;
        *p = (Pair){ fds[0], fds[1] };
        *state = p;
        return 0;
}

static int free_pair(void **state) {
        Pair *p = *state;

        fd_close(p->here);
        fd_close(p->there);
        free(p);
        return 0;
}

static size_t count_open(void) {
        DIR *d = opendir("/proc/self/fd");
        size_t n = 0;

        assert_non_null(d);
        while (readdir(d))
                n++;
        closedir(d);
        return n;
}

/* Sends raw bytes with `n` copies of a descriptor. */
static void send_raw(int socket, const void *data, size_t size, size_t n) {
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int) * FLOOD)];
        } control = { 0 };
        struct iovec iov = { .iov_base = (void *) data, .iov_len = size };
        struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
        int fds[FLOOD];

        for (size_t i = 0; i < n; i++)
                fds[i] = STDERR_FILENO;
        if (n > 0) {
                struct cmsghdr *c;

                mh.msg_control = control.bytes;
                mh.msg_controllen = CMSG_SPACE(sizeof(int) * n);
                c = CMSG_FIRSTHDR(&mh);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int) * n);
                memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
        }
        assert_int_equal(sendmsg(socket, &mh, MSG_NOSIGNAL), (ssize_t) size);
}

static void test_round_trip(void **state) {
        Pair *p = *state;
        _cleanup_json_ json_object *sent = proto_new("request"), *got = NULL;
        _cleanup_proto_fds_ ProtoFds fds = PROTO_FDS_INIT;
        int null = open("/dev/null", O_RDONLY | O_CLOEXEC), both[2] = { null, null };
        const char *text;

        assert_int_equal(json_put_path(sent, "path", "/a\xff\\"), 0);
        assert_int_equal(proto_send(p->here, sent, both, 2), 0);
        assert_int_equal(proto_recv(p->there, &got, &fds), 1);
        assert_string_equal(proto_type(got), "request");
        assert_int_equal(json_get_string(got, "path", &text), 0);
        assert_string_equal(text, "/a\\xff\\x5c");
        assert_int_equal(fds.n, 2);
        assert_true(fcntl(fds.fds[1], F_GETFD) & FD_CLOEXEC);
        close(null);
}

static void test_empty_and_closed(void **state) {
        Pair *p = *state;
        _cleanup_json_ json_object *got = NULL, *m = proto_new("x");

        assert_int_equal(proto_recv(p->there, &got, NULL), -EAGAIN);
        p->here = fd_close(p->here);
        assert_int_equal(proto_recv(p->there, &got, NULL), 0);
        assert_int_equal(proto_send(p->there, m, NULL, 0), -EPIPE);
        assert_null(got);
}

static void test_malformed(void **state) {
        static const char *const bad[] = {
                "x",    "{",          "[]",       "\"text\"",         "1",      "null",
                "{}{}", "{\"a\":1,}", "{\"a\":}", "{\"a\":\"\xff\"}", "/**/{}",
        };
        Pair *p = *state;
        json_object *got = NULL;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                send_raw(p->here, bad[i], strlen(bad[i]), 0);
                assert_int_equal(proto_recv(p->there, &got, NULL), -EBADMSG);
        }
        send_raw(p->here, "{}\0{}", 5, 0);
        assert_int_equal(proto_recv(p->there, &got, NULL), -EBADMSG);
        assert_null(got);
}

static void test_too_deep(void **state) {
        char text[256];
        size_t n = 0;
        Pair *p = *state;
        json_object *got = NULL;

        for (int i = 0; i < 30; i++, n += 5)
                memcpy(text + n, "{\"a\":", 5);
        text[n++] = '1';
        memset(text + n, '}', 30);
        send_raw(p->here, text, n + 30, 0);
        assert_int_equal(proto_recv(p->there, &got, NULL), -EBADMSG);
}

static void test_too_long(void **state) {
        Pair *p = *state;
        _cleanup_free_ char *text = malloc(PROTO_MESSAGE_MAX + 1);
        _cleanup_json_ json_object *m = proto_new("x"), *got = NULL;

        memset(text, ' ', PROTO_MESSAGE_MAX + 1);
        memcpy(text, "{}", 2);
        send_raw(p->here, text, PROTO_MESSAGE_MAX + 1, 0);
        assert_int_equal(proto_recv(p->there, &got, NULL), -EBADMSG);
        text[PROTO_MESSAGE_MAX] = 0;
        assert_int_equal(json_put_string(m, "long", text), 0);
        assert_int_equal(proto_send(p->here, m, NULL, 0), -EMSGSIZE);
        assert_int_equal(proto_recv(p->there, &got, NULL), -EAGAIN);
}

static void test_unwanted_descriptors(void **state) {
        Pair *p = *state;
        size_t before = count_open();
        json_object *got = NULL;

        send_raw(p->here, "{}", 2, 1);
        assert_int_equal(proto_recv(p->there, &got, NULL), -EBADMSG);
        assert_int_equal(count_open(), before);
}

static void test_flood_of_descriptors(void **state) {
        Pair *p = *state;
        _cleanup_json_ json_object *got = NULL;
        ProtoFds fds = PROTO_FDS_INIT;
        size_t before = count_open();

        send_raw(p->here, "{}", 2, FLOOD);
        assert_int_equal(proto_recv(p->there, &got, &fds), -EBADMSG);
        assert_int_equal(fds.n, 0);
        assert_int_equal(count_open(), before);
        send_raw(p->here, "{}", 2, PROTO_FDS_MAX);
        assert_int_equal(proto_recv(p->there, &got, &fds), 1);
        assert_int_equal(count_open(), before + PROTO_FDS_MAX);
        fd_close(fds.fds[3]);
        fds.fds[3] = -1; /* kept by somebody else, here: closed already */
        proto_fds_done(&fds);
        assert_int_equal(count_open(), before);
}

static void test_malformed_with_descriptors(void **state) {
        Pair *p = *state;
        ProtoFds fds = PROTO_FDS_INIT;
        size_t before = count_open();
        json_object *got = NULL;

        send_raw(p->here, "no", 2, 3);
        assert_int_equal(proto_recv(p->there, &got, &fds), -EBADMSG);
        assert_int_equal(count_open(), before);
}

static void test_type(void **state) {
        _cleanup_json_ json_object *none = json_parse("{}", 2),
                                   *number = json_parse("{\"type\":1}", 10),
                                   *nul = json_parse("{\"type\":\"a\\u0000b\"}", 19);

        assert_non_null(nul);
        assert_string_equal(proto_type(none), "");
        assert_string_equal(proto_type(number), "");
        assert_string_equal(proto_type(nul), "");
}

static void test_failure(void **state) {
        _cleanup_json_ json_object *o = NULL, *bad = json_parse("{\"name\":\"Busy\"}", 15);
        Failure f = FAILURE_INIT, back;

        assert_int_equal(fail_set(&f, FAIL_SOURCE_MISSING, ENOENT, "/a\xff: gone"), -ENOENT);
        o = proto_failure(&f);
        assert_non_null(o);
        proto_failure_read(o, &back);
        assert_int_equal(back.code, FAIL_SOURCE_MISSING);
        assert_int_equal(back.errnum, ENOENT);
        assert_string_equal(back.text, "/a\\xff: gone");
        proto_failure_read(bad, &back);
        assert_int_equal(back.code, FAIL_INTERNAL);
        assert_int_equal(back.errnum, EBADMSG);
        proto_failure_read(NULL, &back);
        assert_int_equal(back.code, FAIL_INTERNAL);
}

int main(void) {
#define WITH_PAIR(f) cmocka_unit_test_setup_teardown(f, make_pair, free_pair)
        const struct CMUnitTest tests[] = {
                WITH_PAIR(test_round_trip),
                WITH_PAIR(test_empty_and_closed),
                WITH_PAIR(test_malformed),
                WITH_PAIR(test_too_deep),
                WITH_PAIR(test_too_long),
                WITH_PAIR(test_unwanted_descriptors),
                WITH_PAIR(test_flood_of_descriptors),
                WITH_PAIR(test_malformed_with_descriptors),
                cmocka_unit_test(test_type),
                cmocka_unit_test(test_failure),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
