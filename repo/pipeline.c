/*
 * The only threads of the repository. One mutex guards every list here; buffers themselves belong
 * to whoever took them off a list, so that no data is touched under the lock.
 *
 * Nobody can wait in a circle: the writer waits for workers only, a worker waits for the writer
 * (outputs) or the caller (buffers), and the caller waits only while something is in flight.
 * Buffers retire in the order of submission, which is what keeps lists of chunks and the manifest
 * in order.
 */

#include "repo/pipeline.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

typedef struct PipeThread {
        Pipeline *pipeline;
        unsigned number;
        pthread_t id;
} PipeThread;

struct Pipeline {
        PipeOps ops;
        void *userdata;
        unsigned threads, n_outputs;

        pthread_mutex_t shared; /* pipeline_lock(); never taken with `lock` held */
        pthread_mutex_t lock;
        pthread_cond_t work_ready, output_ready, output_free, progress;

        PipeBuffer buffers[PIPE_BUFFERS];
        PipeBuffer *free_buffers;
        PipeBuffer *first, *last; /* submitted and not retired, in order */
        PipeBuffer *todo;         /* the first of those that no worker has begun */

        PipeOutput outputs[PIPE_OUTPUTS_MAX];
        PipeOutput *free_outputs;
        PipeOutput *write_first, *write_last;
        bool writing;

        PipeThread workers[PIPE_THREADS_MAX], writer;
        unsigned running; /* workers started; the writer is started before them */
        bool started, stop;
        int error; /* the first failure, negative */
        Failure failure;
};

unsigned pipeline_threads(void) {
        cpu_set_t set;
        int n = 1;

        if (sched_getaffinity(0, sizeof(set), &set) == 0)
                n = CPU_COUNT(&set);
        if (n < 1)
                n = 1;
        return n < PIPE_THREADS_MAX ? (unsigned) n : PIPE_THREADS_MAX;
}

/* With the lock held. */
static void pipeline_set_error(Pipeline *p, int error, const Failure *failure) {
        if (p->error == 0) {
                p->error = error;
                p->failure = *failure;
                (void) fail_errno(&p->failure, FAIL_INTERNAL, -error, "Content cannot be stored");
        }
        pthread_cond_broadcast(&p->work_ready);
        pthread_cond_broadcast(&p->output_ready);
        pthread_cond_broadcast(&p->output_free);
        pthread_cond_broadcast(&p->progress);
}

/* With the lock held: what a caller is told. */
static int pipeline_error(const Pipeline *p, Failure *reterr) {
        if (p->error < 0 && reterr && reterr->code == FAIL_NONE)
                *reterr = p->failure;
        return p->error;
}

static void *pipeline_work(void *userdata) {
        PipeThread *self = userdata;
        Pipeline *p = self->pipeline;

        pthread_mutex_lock(&p->lock);
        for (;;) {
                Failure failure = FAILURE_INIT;
                PipeBuffer *b;
                int r;

                while (!p->stop && p->error == 0 && !p->todo)
                        pthread_cond_wait(&p->work_ready, &p->lock);
                if (p->stop || p->error < 0)
                        break;
                b = p->todo;
                do /* an empty one has nothing to be worked on */
                        p->todo = p->todo->next;
                while (p->todo && p->todo->done);
                pthread_mutex_unlock(&p->lock);

                r = p->ops.work(p->userdata, self->number, b, &failure);

                pthread_mutex_lock(&p->lock);
                if (r < 0)
                        pipeline_set_error(p, r, &failure);
                b->done = true;
                if (b == p->first) /* the caller waits for the oldest one */
                        pthread_cond_signal(&p->progress);
        }
        pthread_mutex_unlock(&p->lock);
        return NULL;
}

static void *pipeline_write(void *userdata) {
        PipeThread *self = userdata;
        Pipeline *p = self->pipeline;

        pthread_mutex_lock(&p->lock);
        for (;;) {
                Failure failure = FAILURE_INIT;
                PipeOutput *out;
                int r;

                while (!p->stop && p->error == 0 && !p->write_first)
                        pthread_cond_wait(&p->output_ready, &p->lock);
                if (p->stop || p->error < 0)
                        break;
                out = p->write_first;
                p->write_first = out->next;
                p->writing = true;
                pthread_mutex_unlock(&p->lock);

                r = p->ops.write(p->userdata, out, &failure);

                pthread_mutex_lock(&p->lock);
                p->writing = false;
                if (r < 0)
                        pipeline_set_error(p, r, &failure);
                out->next = p->free_outputs;
                p->free_outputs = out;
                pthread_cond_signal(&p->output_free);
                if (!p->write_first)
                        pthread_cond_signal(&p->progress);
        }
        pthread_mutex_unlock(&p->lock);
        return NULL;
}

int pipeline_new(const PipeOps *ops, void *userdata, unsigned threads, Pipeline **ret) {
        Pipeline *p = calloc(1, sizeof(*p));

        if (!p)
                return -ENOMEM;
        p->ops = *ops;
        p->userdata = userdata;
        p->threads = threads < 1 ? 1 : threads > PIPE_THREADS_MAX ? PIPE_THREADS_MAX : threads;
        p->n_outputs = p->threads + 2;
        pthread_mutex_init(&p->shared, NULL);
        pthread_mutex_init(&p->lock, NULL);
        pthread_cond_init(&p->work_ready, NULL);
        pthread_cond_init(&p->output_ready, NULL);
        pthread_cond_init(&p->output_free, NULL);
        pthread_cond_init(&p->progress, NULL);
        for (unsigned i = 0; i < PIPE_BUFFERS; i++) {
                p->buffers[i].next = p->free_buffers;
                p->free_buffers = &p->buffers[i];
        }
        *ret = p;
        return 0;
}

void pipeline_free(Pipeline *p) {
        if (!p)
                return;
        pthread_mutex_lock(&p->lock);
        p->stop = true;
        pthread_cond_broadcast(&p->work_ready);
        pthread_cond_broadcast(&p->output_ready);
        pthread_cond_broadcast(&p->output_free);
        pthread_mutex_unlock(&p->lock);
        for (unsigned i = 0; i < p->running; i++)
                pthread_join(p->workers[i].id, NULL);
        if (p->started)
                pthread_join(p->writer.id, NULL);

        for (unsigned i = 0; i < PIPE_BUFFERS; i++) {
                free(p->buffers[i].data);
                free(p->buffers[i].units);
        }
        for (unsigned i = 0; i < PIPE_OUTPUTS_MAX; i++)
                free(p->outputs[i].data);
        pthread_cond_destroy(&p->progress);
        pthread_cond_destroy(&p->output_free);
        pthread_cond_destroy(&p->output_ready);
        pthread_cond_destroy(&p->work_ready);
        pthread_mutex_destroy(&p->lock);
        pthread_mutex_destroy(&p->shared);
        free(p);
}

static int pipeline_spawn(Pipeline *p, PipeThread *t, unsigned number, void *(*run)(void *) ) {
        t->pipeline = p;
        t->number = number;
        return -pthread_create(&t->id, NULL, run, t);
}

/* Signals stay with the caller's thread: the mask is inherited. */
static int pipeline_start(Pipeline *p) {
        sigset_t all, old;
        int r = 0;

        for (unsigned i = 0; i < p->n_outputs; i++) {
                p->outputs[i].data = malloc(PIPE_BUFFER_BYTES + PIPE_OUTPUT_EXTRA);
                if (!p->outputs[i].data)
                        return -ENOMEM;
                p->outputs[i].number = i;
                p->outputs[i].next = p->free_outputs;
                p->free_outputs = &p->outputs[i];
        }

        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        r = pipeline_spawn(p, &p->writer, 0, pipeline_write);
        p->started = r == 0;
        while (r == 0 && p->running < p->threads) {
                r = pipeline_spawn(p, &p->workers[p->running], p->running, pipeline_work);
                if (r == 0)
                        p->running++;
        }
        pthread_sigmask(SIG_SETMASK, &old, NULL);

        return p->running > 0 ? 0 : r; /* fewer workers than wished are slower, not wrong */
}

/* With the lock held: retires from the oldest on, as far as work is done. */
static int pipeline_retire(Pipeline *p, Failure *reterr) {
        while (p->error == 0 && p->first && p->first->done) {
                PipeBuffer *b = p->first;
                int r;

                p->first = b->next;
                if (!p->first)
                        p->last = NULL;
                pthread_mutex_unlock(&p->lock);

                r = p->ops.retire(p->userdata, b, reterr);

                pthread_mutex_lock(&p->lock);
                b->next = p->free_buffers;
                p->free_buffers = b;
                if (r < 0) {
                        pipeline_set_error(p, r, reterr ? reterr : &FAILURE_INIT);
                        return r;
                }
        }
        return pipeline_error(p, reterr);
}

int pipeline_take(Pipeline *p, PipeBuffer **ret, Failure *reterr) {
        PipeBuffer *b;
        int r;

        pthread_mutex_lock(&p->lock);
        for (;;) {
                r = pipeline_retire(p, reterr);
                if (r < 0 || p->free_buffers)
                        break;
                if (!p->first)
                        r = fail_errno(reterr, FAIL_INTERNAL, ENOBUFS, "All buffers are held back");
                if (r < 0)
                        break;
                if (!p->first->done)
                        pthread_cond_wait(&p->progress, &p->lock);
        }
        if (r < 0) {
                pthread_mutex_unlock(&p->lock);
                return r;
        }
        b = p->free_buffers;
        p->free_buffers = b->next;
        pthread_mutex_unlock(&p->lock);

        if (!b->data)
                b->data = malloc(PIPE_BUFFER_BYTES);
        if (!b->units)
                b->units = calloc(PIPE_UNITS_MAX, sizeof(*b->units));
        b->size = b->n_units = 0;
        b->class = ENTRY_CLASS_NONE;
        if (!b->data || !b->units) {
                pthread_mutex_lock(&p->lock);
                b->next = p->free_buffers;
                p->free_buffers = b;
                pthread_mutex_unlock(&p->lock);
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM,
                                  "No memory for a backup's buffers");
        }
        *ret = b;
        return 0;
}

int pipeline_submit(Pipeline *p, PipeBuffer *b, Failure *reterr) {
        int r = 0;

        b->next = NULL;
        b->done = b->n_units == 0;
        if (!p->started && p->error == 0) /* no thread yet, so no lock */
                r = pipeline_start(p);

        pthread_mutex_lock(&p->lock);
        if (r < 0) {
                Failure failure = FAILURE_INIT;

                (void) fail_errno(&failure, FAIL_INTERNAL, -r, "Threads cannot be started");
                pipeline_set_error(p, r, &failure);
        }
        if (p->last)
                p->last->next = b;
        else
                p->first = b;
        p->last = b;
        if (!b->done) {
                if (!p->todo)
                        p->todo = b;
                pthread_cond_signal(&p->work_ready);
        }
        r = pipeline_error(p, reterr);
        pthread_mutex_unlock(&p->lock);
        return r;
}

int pipeline_drain(Pipeline *p, Failure *reterr) {
        int r;

        pthread_mutex_lock(&p->lock);
        for (;;) {
                r = pipeline_retire(p, reterr);
                if (r < 0 || (!p->first && !p->write_first && !p->writing))
                        break;
                if (!p->first || !p->first->done)
                        pthread_cond_wait(&p->progress, &p->lock);
        }
        pthread_mutex_unlock(&p->lock);
        return r;
}

int pipeline_output_take(Pipeline *p, PipeOutput **ret) {
        int r = 0;

        pthread_mutex_lock(&p->lock);
        while (!p->free_outputs && !p->stop && p->error == 0)
                pthread_cond_wait(&p->output_free, &p->lock);
        if (p->error < 0 || p->stop)
                r = p->error < 0 ? p->error : -ECANCELED;
        else {
                *ret = p->free_outputs;
                p->free_outputs = (*ret)->next;
        }
        pthread_mutex_unlock(&p->lock);
        return r;
}

void pipeline_output_put(Pipeline *p, PipeOutput *out) {
        pthread_mutex_lock(&p->lock);
        out->next = NULL;
        if (p->write_first)
                p->write_last->next = out;
        else
                p->write_first = out;
        p->write_last = out;
        pthread_cond_signal(&p->output_ready);
        pthread_mutex_unlock(&p->lock);
}

void pipeline_output_drop(Pipeline *p, PipeOutput *out) {
        pthread_mutex_lock(&p->lock);
        out->next = p->free_outputs;
        p->free_outputs = out;
        pthread_cond_signal(&p->output_free);
        pthread_mutex_unlock(&p->lock);
}

void pipeline_lock(Pipeline *p) {
        pthread_mutex_lock(&p->shared);
}

void pipeline_unlock(Pipeline *p) {
        pthread_mutex_unlock(&p->shared);
}
