/*
 * The pipe to a reader: what it gets, and how it ends when the reader is slow, gone, or never
 * comes.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "worker/stream.h"

#define BLOCK ((size_t) 100000)

typedef struct Fix {
        Work work;
        Stream stream;
        int agent, reader;
} Fix;

static int setup(void **state) {
        Fix *x = calloc(1, sizeof(*x));
        int sockets[2], pipes[2];

        assert_non_null(x);
        assert_return_code(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets), errno);
        assert_return_code(pipe(pipes), errno);
        x->work = WORK_INIT;
        x->work.socket = sockets[0];
        x->work.request = json_object_new_object();
        assert_int_equal(json_put_bool(x->work.request, "stream", true), 0);
        x->work.fds = (ProtoFds){ .fds = { pipes[1] }, .n = 1 };
        x->agent = sockets[1];
        x->reader = pipes[0];
        (void) signal(SIGPIPE, SIG_IGN);
        assert_int_equal(stream_open(&x->work, &x->stream, NULL), 0);
        *state = x;
        return 0;
}

static int teardown(void **state) {
        Fix *x = *state;

        stream_done(&x->stream);
        fd_close(x->work.socket);
        fd_close(x->agent);
        fd_close(x->reader);
        json_object_put(x->work.request);
        free(x);
        return 0;
}

#define stream_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* Writes until it fails: more than any pipe takes. */
static int write_much(Fix *x, Failure *reterr) {
        static const char block[BLOCK];
        int r = 0;

        for (unsigned i = 0; r >= 0 && i < 1000; i++)
                r = stream_write(&x->stream, block, sizeof(block), reterr);
        return r;
}

static void test_lines(void **state) {
        static const char expected[] = "{\"path\":\"/a\"}\n{\"end\":true,\"entries\":1}\n";
        _cleanup_json_ json_object *o = json_object_new_object();
        char got[100] = "";
        Fix *x = *state;

        assert_int_equal(json_put_string(o, "path", "/a"), 0);
        assert_int_equal(stream_line(&x->stream, o, NULL), 0);
        assert_int_equal(stream_end_lines(&x->stream, 1, NULL), 0);
        assert_int_equal(read(x->reader, got, sizeof(got)), strlen(expected));
        assert_string_equal(got, expected);
        assert_int_equal(read(x->reader, got, sizeof(got)), 0); /* closed */
}

/* A reader that takes nothing is cut off. */
static void test_stall(void **state) {
        Failure failure = FAILURE_INIT;
        Fix *x = *state;

        x->stream.stall_msec = 50;
        assert_int_equal(write_much(x, &failure), -ETIMEDOUT);
        assert_int_equal(failure.code, FAIL_INTERRUPTED);
        assert_non_null(strstr(failure.text, "reader"));
}

static void test_reader_left(void **state) {
        Failure failure = FAILURE_INIT;
        Fix *x = *state;

        x->reader = fd_close(x->reader);
        assert_int_equal(write_much(x, &failure), -ECANCELED);
        assert_int_equal(failure.code, FAIL_CANCELED);
}

/* The agent is heard while the reader is waited for. */
static void test_agent_left(void **state) {
        Failure failure = FAILURE_INIT;
        Fix *x = *state;

        x->agent = fd_close(x->agent);
        assert_int_equal(write_much(x, &failure), -ECANCELED);
        assert_int_equal(failure.code, FAIL_CANCELED);
}

typedef struct Slow {
        int fd;
        size_t n;
} Slow;

static void *read_slowly(void *userdata) {
        Slow *s = userdata;
        char block[7001];
        ssize_t n;

        while ((n = read(s->fd, block, sizeof(block))) > 0)
                s->n += (size_t) n;
        return NULL;
}

/* One that takes little at a time gets all of it. */
static void test_slow(void **state) {
        Fix *x = *state;
        Slow slow = { .fd = x->reader };
        pthread_t thread;

        assert_int_equal(pthread_create(&thread, NULL, read_slowly, &slow), 0);
        assert_int_equal(write_much(x, NULL), 0);
        assert_int_equal(stream_end(&x->stream, NULL), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(slow.n, 1000 * BLOCK);
}

/* Descriptors that are none, or that nobody can write to. */
static void test_refused(void **state) {
        Failure failure = FAILURE_INIT;
        Fix *x = *state;
        Stream s = STREAM_INIT;

        assert_true(stream_open(&x->work, &s, &failure) < 0); /* taken already */
        assert_int_equal(failure.code, FAIL_INVALID_ARGUMENT);
        failure = FAILURE_INIT;
        x->work.fds = (ProtoFds){ .fds = { dup(x->reader) }, .n = 1 };
        assert_true(stream_open(&x->work, &s, &failure) < 0);
        assert_int_equal(failure.code, FAIL_INVALID_ARGUMENT);
        failure = FAILURE_INIT;
        assert_int_equal(json_put_bool(x->work.request, "key", true), 0);
        assert_true(stream_open(&x->work, &s, &failure) < 0); /* two are named, one came */
        assert_int_equal(failure.code, FAIL_INVALID_ARGUMENT);
        proto_fds_done(&x->work.fds);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                stream_test(test_lines),       stream_test(test_stall),
                stream_test(test_reader_left), stream_test(test_agent_left),
                stream_test(test_slow),        stream_test(test_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
