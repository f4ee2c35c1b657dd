#include "worker/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "worker/request-fds.h"

#define PENDING_BYTES ((size_t) 64 << 10)

int stream_stall_msec(void) {
        const char *text = getenv("HOLDPOINT_TEST_STALL_MSEC");
        unsigned long msec = text ? strtoul(text, NULL, 10) : 0;

        return msec > 0 && msec < STREAM_STALL_MSEC ? (int) msec : STREAM_STALL_MSEC;
}

int stream_open(Work *w, Stream *ret, Failure *reterr) {
        _cleanup_close_ int fd = -1;
        int flags, r = request_take_fd(w, REQUEST_FD_STREAM, &fd, reterr);

        if (r < 0)
                return r;
        flags = fcntl(fd, F_GETFL);
        if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY ||
            fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EBADF,
                                "request: the stream cannot be written to");
        *ret = (Stream){ .work = w,
                         .fd = TAKE_FD(fd),
                         .stall_msec = stream_stall_msec(),
                         .pending = BUF_INIT(2 * PENDING_BYTES) };
        return 0;
}

void stream_done(Stream *s) {
        s->fd = fd_close(s->fd);
        buf_done(&s->pending);
}

/* Looks at the agent right now: its socket has something to say. */
static int check(Stream *s, Failure *reterr) {
        return work_check(s->work, reterr);
}

/* Waits until the reader has taken something. */
static int wait_for_reader(Stream *s, Failure *reterr) {
        uint64_t end = clock_monotonic_usec() + (uint64_t) s->stall_msec * USEC_PER_MSEC;

        for (;;) {
                struct pollfd fds[] = { { .fd = s->fd, .events = POLLOUT },
                                        { .fd = s->work->socket, .events = POLLIN } };
                uint64_t now = clock_monotonic_usec();
                int r;

                if (now >= end)
                        return fail_set(reterr, FAIL_INTERRUPTED, ETIMEDOUT,
                                        "the reader of the stream took nothing for %d seconds and "
                                        "was cut off; begin again",
                                        s->stall_msec / 1000);
                r = poll(fds, ELEMENTSOF(fds), (int) ((end - now) / USEC_PER_MSEC) + 1);
                if (r < 0 && errno != EINTR)
                        return fail_errno(reterr, FAIL_INTERNAL, errno, "waiting for the reader");
                if (r > 0 && fds[1].revents) {
                        r = check(s, reterr);
                        if (r < 0)
                                return r;
                }
                if (r >= 0 && fds[0].revents)
                        return 0;
        }
}

static int send_all(Stream *s, const uint8_t *data, size_t n, Failure *reterr) {
        while (n > 0) {
                ssize_t done = write(s->fd, data, n);
                int r = 0;

                if (done >= 0) {
                        data += done;
                        n -= (size_t) done;
                } else if (errno == EAGAIN) {
                        r = wait_for_reader(s, reterr);
                } else if (errno == EPIPE) {
                        r = fail_set(reterr, FAIL_CANCELED, ECANCELED,
                                     "canceled: the reader closed the stream");
                } else if (errno != EINTR) {
                        r = fail_errno(reterr, fail_code_for_write(errno, FAIL_INTERNAL), errno,
                                       "writing to the stream");
                }
                if (r < 0)
                        return r;
        }
        return work_interrupted(s->work) ? check(s, reterr) : 0;
}

static int flush(Stream *s, Failure *reterr) {
        int r = send_all(s, s->pending.data, s->pending.size, reterr);

        buf_clear(&s->pending);
        return r;
}

int stream_write(Stream *s, const void *data, size_t n, Failure *reterr) {
        int r;

        if (s->pending.size + n < PENDING_BYTES) {
                r = buf_put(&s->pending, data, n);
                return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "stream") : 0;
        }
        r = flush(s, reterr);
        if (r >= 0 && n < PENDING_BYTES)
                return stream_write(s, data, n, reterr);
        return r < 0 ? r : send_all(s, data, n, reterr);
}

int stream_line(Stream *s, json_object *o, Failure *reterr) {
        const char *text = json_text(o);
        int r;

        if (!text)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "stream");
        r = stream_write(s, text, strlen(text), reterr);
        return r < 0 ? r : stream_write(s, "\n", 1, reterr);
}

int stream_end(Stream *s, Failure *reterr) {
        int r = flush(s, reterr);

        if (r >= 0)
                stream_done(s);
        return r;
}

int stream_end_lines(Stream *s, uint64_t entries, Failure *reterr) {
        _cleanup_json_ json_object *o = json_object_new_object();
        int r;

        if (!o || json_put_bool(o, "end", true) < 0 || json_put_u64(o, "entries", entries) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "stream");
        r = stream_line(s, o, reterr);
        return r < 0 ? r : stream_end(s, reterr);
}
