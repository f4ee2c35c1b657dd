/*
 * A worker and an agent that does not listen.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "worker/work.h"

#define MESSAGES_MAX 100000

/* The worker would wait for ever; what it has stopped meanwhile would stay stopped. */
static void test_agent_reads_nothing(void **state) {
        Work w = WORK_INIT;
        int sockets[2], sent = 0;

        assert_return_code(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets), errno);
        work_set_socket(&w, sockets[0], 20 * USEC_PER_MSEC);
        while (!w.canceled && sent++ < MESSAGES_MAX)
                work_phase(&w, "stage");
        assert_true(w.canceled && sent > 1);
        /* From then on nothing waits. */
        for (int i = 0; i < MESSAGES_MAX; i++)
                work_phase(&w, "stage");
        assert_int_equal(work_check(&w, NULL), -ECANCELED);
        fd_close(sockets[0]);
        fd_close(sockets[1]);
}

static void test_agent_reads(void **state) {
        Work w = WORK_INIT;
        int sockets[2];

        assert_return_code(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets), errno);
        work_set_socket(&w, sockets[0], 20 * USEC_PER_MSEC);
        for (int i = 0; i < 1000; i++) {
                char text[100];

                work_phase(&w, "stage");
                assert_true(recv(sockets[1], text, sizeof(text), MSG_DONTWAIT) > 0);
        }
        assert_int_equal(work_check(&w, NULL), 0);
        fd_close(sockets[0]);
        fd_close(sockets[1]);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_agent_reads_nothing),
                cmocka_unit_test(test_agent_reads),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
