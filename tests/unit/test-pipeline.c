/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "repo/pipeline.h"

/* Work and write check what they get and count; a failure can be planted at each stage. */
typedef struct Flow {
        Pipeline *pipeline;
        pthread_mutex_t lock;
        unsigned worked, written, retired, submitted;
        uint64_t worked_sum, written_sum, retired_sum, submitted_sum;
        int fail_work, fail_write, fail_retire; /* at this count; 0 never */
        bool slow_write;
        unsigned outputs_per_buffer;
        pthread_t caller;
} Flow;

static int flow_work(void *userdata, unsigned thread, PipeBuffer *b, Failure *reterr) {
        Flow *f = userdata;
        unsigned n;

        if (b->n_units != 1 || b->size < 8 || thread >= PIPE_THREADS_MAX)
                return fail_set(reterr, FAIL_INTERNAL, EINVAL, "bad buffer");
        if (b->data[9] % 7 == 0) /* let them finish in another order */
                (void) usleep(200);
        for (unsigned i = 0; i < f->outputs_per_buffer; i++) {
                PipeOutput *out;
                int r = pipeline_output_take(f->pipeline, &out);

                if (r < 0)
                        return r;
                memcpy(out->data, b->data, 8);
                out->size = 8;
                pipeline_output_put(f->pipeline, out);
        }
        memcpy(b->units[0].id, b->data, 8);
        pthread_mutex_lock(&f->lock);
        n = ++f->worked;
        pthread_mutex_unlock(&f->lock);
        if (f->fail_work && n >= (unsigned) f->fail_work)
                return fail_set(reterr, FAIL_NO_SPACE, ENOSPC, "planted in work");
        return 0;
}

static int flow_write(void *userdata, PipeOutput *out, Failure *reterr) {
        Flow *f = userdata;
        uint64_t v;

        memcpy(&v, out->data, 8);
        if (f->slow_write)
                (void) usleep(300);
        pthread_mutex_lock(&f->lock);
        f->written++;
        f->written_sum += v;
        pthread_mutex_unlock(&f->lock);
        if (f->fail_write && f->written >= (unsigned) f->fail_write)
                return fail_set(reterr, FAIL_NO_SPACE, ENOSPC, "planted in write");
        return 0;
}

static int flow_retire(void *userdata, PipeBuffer *b, Failure *reterr) {
        Flow *f = userdata;
        uint64_t v;

        assert_true(pthread_equal(f->caller, pthread_self()));
        memcpy(&v, b->units[0].id, 8);
        assert_int_equal(v, f->retired); /* order of submission */
        f->retired++;
        f->retired_sum += v;
        if (f->fail_retire && f->retired >= (unsigned) f->fail_retire)
                return fail_set(reterr, FAIL_NO_SPACE, ENOSPC, "planted in retire");
        return 0;
}

static const PipeOps flow_ops = { flow_work, flow_write, flow_retire };

static void flow_init(Flow *f, unsigned threads) {
        *f = (Flow){ .outputs_per_buffer = 1, .caller = pthread_self() };
        pthread_mutex_init(&f->lock, NULL);
        assert_int_equal(pipeline_new(&flow_ops, f, threads, &f->pipeline), 0);
}

static void flow_done(Flow *f) {
        pipeline_free(f->pipeline);
        pthread_mutex_destroy(&f->lock);
}

static int flow_feed(Flow *f, unsigned n, Failure *reterr) {
        for (unsigned i = 0; i < n; i++) {
                uint64_t v = i;
                PipeBuffer *b;
                int r;

                r = pipeline_take(f->pipeline, &b, reterr);
                if (r < 0)
                        return r;
                memset(b->data, (int) (i & 255), 64);
                memcpy(b->data, &v, 8);
                b->data[9] = (uint8_t) (i * 31);
                b->size = 64;
                b->class = ENTRY_CLASS_LARGE;
                b->n_units = 1;
                r = pipeline_submit(f->pipeline, b, reterr);
                if (r < 0)
                        return r;
                f->submitted++;
                f->submitted_sum += v;
        }
        return pipeline_drain(f->pipeline, reterr);
}

static void test_order(void **state) {
        for (unsigned threads = 1; threads <= PIPE_THREADS_MAX; threads++) {
                Failure failure = FAILURE_INIT;
                Flow f;

                flow_init(&f, threads);
                f.outputs_per_buffer = threads; /* more outputs than buffers of them */
                assert_int_equal(flow_feed(&f, 1000, &failure), 0);
                assert_int_equal(f.worked, 1000);
                assert_int_equal(f.written, 1000 * threads);
                assert_int_equal(f.retired, 1000);
                assert_int_equal(f.retired_sum, f.submitted_sum);
                assert_int_equal(f.written_sum, threads * f.submitted_sum);
                flow_done(&f);
        }
}

static void test_nothing(void **state) {
        Failure failure = FAILURE_INIT;
        PipeBuffer *b;
        Flow f;

        flow_init(&f, 2);
        assert_int_equal(pipeline_drain(f.pipeline, &failure), 0);
        assert_int_equal(pipeline_take(f.pipeline, &b, &failure), 0);
        flow_done(&f);
        pipeline_free(NULL);
}

static void test_all_held(void **state) {
        Failure failure = FAILURE_INIT;
        PipeBuffer *b;
        Flow f;

        flow_init(&f, 2);
        for (int i = 0; i < PIPE_BUFFERS; i++)
                assert_int_equal(pipeline_take(f.pipeline, &b, &failure), 0);
        assert_int_equal(pipeline_take(f.pipeline, &b, &failure), -ENOBUFS);
        flow_done(&f);
}

static void test_slow_writer(void **state) {
        Failure failure = FAILURE_INIT;
        Flow f;

        flow_init(&f, 3);
        f.slow_write = true;
        assert_int_equal(flow_feed(&f, 300, &failure), 0);
        assert_int_equal(f.written, 300); /* drain waits for the last write */
        flow_done(&f);
}

static void check_failure(Flow *f, const char *text) {
        Failure failure = FAILURE_INIT, again = FAILURE_INIT;
        PipeBuffer *b;

        assert_int_equal(flow_feed(f, 500, &failure), -ENOSPC);
        assert_int_equal(failure.code, FAIL_NO_SPACE);
        assert_string_equal(failure.text, text);
        assert_true(f->submitted < 500);

        /* It stays failed, with the first failure. */
        assert_int_equal(pipeline_take(f->pipeline, &b, &again), -ENOSPC);
        assert_string_equal(again.text, text);
        assert_int_equal(pipeline_drain(f->pipeline, &again), -ENOSPC);
        flow_done(f);
}

static void test_failures(void **state) {
        for (int at = 1; at < 40; at += 13) {
                Flow f;

                flow_init(&f, 2);
                f.fail_work = at;
                check_failure(&f, "planted in work");
                flow_init(&f, 2);
                f.fail_write = at;
                f.slow_write = true;
                check_failure(&f, "planted in write");
                flow_init(&f, 2);
                f.fail_retire = at;
                check_failure(&f, "planted in retire");
        }
}

/* Ending in the middle, with all stages busy, neither hangs nor leaks. */
static void test_free_busy(void **state) {
        for (unsigned n = 1; n <= PIPE_BUFFERS; n++) {
                Flow f;

                flow_init(&f, 2);
                f.slow_write = true;
                f.outputs_per_buffer = 20;
                for (unsigned i = 0; i < n; i++) {
                        PipeBuffer *b;

                        assert_int_equal(pipeline_take(f.pipeline, &b, NULL), 0);
                        memset(b->data, 0, 64);
                        memcpy(b->data, &i, sizeof(i));
                        b->size = 64;
                        b->n_units = 1;
                        assert_int_equal(pipeline_submit(f.pipeline, b, NULL), 0);
                }
                flow_done(&f);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_order),    cmocka_unit_test(test_nothing),
                cmocka_unit_test(test_all_held), cmocka_unit_test(test_slow_writer),
                cmocka_unit_test(test_failures), cmocka_unit_test(test_free_busy),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
