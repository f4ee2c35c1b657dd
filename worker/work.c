#include "worker/work.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <systemd/sd-daemon.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/text.h"

#define POLL_USEC     (10 * USEC_PER_MSEC)
#define PROGRESS_USEC (100 * USEC_PER_MSEC)
#define WATCH_USEC    (500 * USEC_PER_MSEC)
#define WATCHDOG_PART 4

/* Reads what the agent has to say; anything but `cancel` is as good as a hang-up. */
static void read_agent(Work *w) {
        _cleanup_json_ json_object *message = NULL;
        int r = proto_recv(w->socket, &message, NULL);

        if (r == 1 && strcmp(proto_type(message), "cancel") == 0)
                log_notice("cancel requested");
        else
                log_notice("the agent hung up: stopping at the next safe point");
        w->canceled = true;
}

/* main() holds the signal back, and nobody takes it. */
static bool is_told_to_end(void) {
        sigset_t pending;

        return sigpending(&pending) == 0 && sigismember(&pending, SIGTERM) > 0;
}

static void watch(Work *w, uint64_t now) {
        if (!w->watch || now - w->watched_usec < WATCH_USEC)
                return;
        w->watched_usec = now;
        if (w->watch(w->watch_userdata, &w->trouble) < 0)
                w->canceled = true;
}

void work_serve_watchdog(Work *w) {
        uint64_t usec = 0;

        /* Out of the environment: it is not for the helpers. */
        if (sd_watchdog_enabled(true, &usec) > 0)
                w->alive_usec = usec / WATCHDOG_PART;
}

static void tell_alive(Work *w, uint64_t now) {
        if (w->alive_usec == 0 || now - w->told_alive_usec < w->alive_usec)
                return;
        w->told_alive_usec = now;
        (void) sd_notify(false, "WATCHDOG=1"); /* the next one comes long before the end */
}

bool work_interrupted(void *work) {
        Work *w = work;
        uint64_t now = clock_monotonic_usec();

        tell_alive(w, now);
        if (w->committed)
                return false;
        if (w->canceled || w->socket < 0)
                return w->canceled;
        if (now - w->polled_usec < POLL_USEC)
                return false;
        w->polled_usec = now;
        if (fd_wait_readable(w->socket, 0) > 0)
                read_agent(w);
        if (!w->canceled && is_told_to_end()) {
                log_notice("the unit is being stopped: ending at the next safe point");
                w->canceled = true;
        }
        watch(w, now);
        return w->canceled;
}

int work_check(Work *w, Failure *reterr) {
        w->polled_usec = 0;
        return work_interrupted(w) ? fail_set(reterr, FAIL_CANCELED, ECANCELED, "canceled") : 0;
}

void work_set_socket(Work *w, int socket_fd, uint64_t stall_usec) {
        const struct timeval stall = { .tv_sec = (time_t) (stall_usec / USEC_PER_SEC),
                                       .tv_usec = (suseconds_t) (stall_usec % USEC_PER_SEC) };

        w->socket = socket_fd;
        if (setsockopt(socket_fd, SOL_SOCKET, SO_SNDTIMEO, &stall, sizeof(stall)) < 0)
                log_warning("an agent that reads nothing will be waited for: %s", strerror(errno));
}

static void send_message(Work *w, json_object *message) {
        int r;

        if (w->socket < 0 || !message)
                return;
        r = proto_send(w->socket, message, NULL, 0);
        /* Whoever does not read must not hold what is stopped or locked here. */
        if (r == -EAGAIN) {
                log_warning("the agent reads nothing: as if it had hung up");
                (void) shutdown(w->socket, SHUT_RDWR); /* and nothing waits for it again */
        }
        /* A lost agent must not fail what is under way here: it shows as a hang-up. */
        if (r == -EPIPE || r == -EAGAIN)
                w->canceled = true;
}

void work_phase(Work *w, const char *phase) {
        _cleanup_json_ json_object *m = proto_new("phase");

        w->phase = phase;
        tell_alive(w, clock_monotonic_usec());
        log_set_phase(phase);
        log_debug("phase %s", phase);
        if (m && json_put_string(m, "phase", phase) >= 0)
                send_message(w, m);
}

void work_progress(Work *w, bool force) {
        _cleanup_json_ json_object *m = NULL;
        uint64_t now = clock_monotonic_usec();

        tell_alive(w, now);
        if (w->socket < 0 || (!force && now - w->sent_usec < PROGRESS_USEC))
                return;
        w->sent_usec = now;
        m = proto_new("progress");
        if (m && json_put_u64(m, "bytes_done", w->bytes_done) >= 0 &&
            json_put_u64(m, "bytes_total", w->bytes_total) >= 0 &&
            json_put_u64(m, "files_done", w->files_done) >= 0 &&
            json_put_u64(m, "files_total", w->files_total) >= 0)
                send_message(w, m);
}

void work_accepted(Work *w) {
        _cleanup_json_ json_object *m = proto_new("accepted");

        send_message(w, m);
}

void work_commit(Work *w) {
        _cleanup_json_ json_object *m = proto_new("committed");

        if (w->committed)
                return;
        w->committed = true;
        send_message(w, m);
}

void work_point(Work *w, uint64_t pause_usec) {
        _cleanup_json_ json_object *m = proto_new("point");

        if (m && json_put_u64(m, "pause_usec", pause_usec) >= 0)
                send_message(w, m);
}

void work_stream(Work *w, const char *type, const char *key, json_object *value) {
        _cleanup_json_ json_object *v = value, *m = proto_new(type);

        if (v && m && json_put(m, key, json_object_get(v)) >= 0)
                send_message(w, m);
}

/* Those that an operator can do something about; the others are explained by the job's end. */
static Message message_of(FailCode code) {
        static const Message messages[FAIL_N] = {
                [FAIL_CONFIGURATION_INVALID] = MESSAGE_ERROR_CONFIGURATION,
                [FAIL_HOLD_TIMEOUT] = MESSAGE_ERROR_HOLD_TIMEOUT,
                [FAIL_SNAPSHOT_FAILED] = MESSAGE_ERROR_SNAPSHOT_FAILED,
                [FAIL_SNAPSHOT_FULL] = MESSAGE_ERROR_SNAPSHOT_FULL,
                [FAIL_NO_SPACE] = MESSAGE_ERROR_NO_SPACE,
                [FAIL_SOURCE_MISSING] = MESSAGE_ERROR_SOURCE_MISSING,
                [FAIL_INTEGRITY_FAILURE] = MESSAGE_ERROR_INTEGRITY,
                [FAIL_KEY_MISSING] = MESSAGE_ERROR_KEY_MISSING,
                [FAIL_NOT_RESTORABLE] = MESSAGE_ERROR_NOT_RESTORABLE,
                [FAIL_TARGET_IN_USE] = MESSAGE_ERROR_TARGET_IN_USE,
        };

        return messages[code];
}

/* Before the agent's word of the end, so that the story reads in its order. */
static void tell_result(const char *result, const Failure *f) {
        LogFields fields = { .result = result };

        if (!f || f->code == FAIL_NONE || strcmp(result, "done") == 0) {
                log_fields(LOG_INFO, &fields, "worker ends: %s", result);
                return;
        }
        fields.error = fail_name(f->code);
        if (strcmp(result, "canceled") != 0 && message_of(f->code) != MESSAGE_NONE)
                log_message(message_of(f->code), &fields, "%s: %s: %s", result, fail_name(f->code),
                            f->text);
        else
                log_fields(strcmp(result, "failed") == 0 ? LOG_ERR : LOG_WARNING, &fields,
                           "%s: %s: %s", result, fail_name(f->code), f->text);
}

void work_result(Work *w, const char *result, const Failure *f, json_object *summary) {
        _cleanup_json_ json_object *s = summary ? summary : json_object_new_object();
        _cleanup_json_ json_object *m = proto_new("result");

        tell_result(result, f);
        if (!m || !s || json_put_string(m, "result", result) < 0 ||
            json_put(m, "summary", json_object_get(s)) < 0)
                return;
        if (f && f->code != FAIL_NONE && json_put(m, "error", proto_failure(f)) < 0)
                return;
        send_message(w, m);
}

int work_string(Work *w, const char *key, const char **ret, Failure *reterr) {
        int r = json_get_string(w->request, key, ret);

        if (r < 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, -r,
                                "request: '%s' is missing or no string", key);
        return 0;
}

int work_uuid(Work *w, const char *key, const char **ret, Failure *reterr) {
        int r = work_string(w, key, ret, reterr);

        if (r >= 0 && !text_is_uuid(*ret))
                r = fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL, "request: '%s' is no id", key);
        return r;
}

int work_bool(Work *w, const char *key, bool fallback, bool *ret, Failure *reterr) {
        int r = json_get_bool(w->request, key, ret);

        if (r == -ENOENT)
                *ret = fallback;
        else if (r < 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "request: '%s' is no boolean", key);
        return 0;
}
