#include "cli/follow.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>

#include "base/clock.h"
#include "base/names.h"
#include "base/text.h"
#include "cli/fields.h"
#include "cli/output.h"

/*
 * The state of a job is asked for four times a second; signals, where they reach us, only make that
 * sooner. So there is no race between the call and the first look, and a caller whom the bus sends
 * no signals waits just as well.
 */

#define POLL_MSEC    250
#define STREAM_CHUNK ((size_t) 256 << 10)

void follow_job_done(FollowJob *j) {
        json_object_put(j->reply);
        json_object_put(j->job);
        json_object_put(j->summary);
        *j = (FollowJob){ 0 };
}

static int job_of_reply(Cli *cli, json_object *reply, uint32_t *ret) {
        size_t n = json_object_array_length(reply);
        const char *path =
                n > 0 ? json_object_get_string(json_object_array_get_idx(reply, n - 1)) : NULL;
        uint64_t id;

        if (!path || strncmp(path, HP_BUS_JOB_PREFIX "/_", strlen(HP_BUS_JOB_PREFIX "/_")) != 0 ||
            text_to_u64(path + strlen(HP_BUS_JOB_PREFIX "/_"), &id) < 0 || id < 1 ||
            id > UINT32_MAX)
                return cli_error(&cli->error, CLI_EXIT_FAILED, "Internal",
                                 "the agent's answer names no job; is it another version?");
        *ret = (uint32_t) id;
        return 0;
}

/* Blocks SIGINT and SIGTERM and returns a descriptor for them, with the old mask in `ret_mask`. */
static int catch_signals(sigset_t *ret_mask) {
        sigset_t mask;
        int fd;

        (void) sigemptyset(&mask);
        (void) sigaddset(&mask, SIGINT);
        (void) sigaddset(&mask, SIGTERM);
        if (sigprocmask(SIG_BLOCK, &mask, ret_mask) < 0)
                return -errno;
        fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
        if (fd >= 0)
                return fd;
        fd = -errno;
        (void) sigprocmask(SIG_SETMASK, ret_mask, NULL);
        return fd;
}

static int on_interrupt(Cli *cli, int signal_fd, uint32_t id, bool *asked) {
        ClientCall call = { .job = id, .method = "Cancel", .has_options = true };
        CliError ignored = { 0 };
        struct signalfd_siginfo info;

        if (read(signal_fd, &info, sizeof(info)) != sizeof(info))
                return 0;
        if (*asked)
                return cli_error(&cli->error, CLI_EXIT_CANCELED, "Canceled",
                                 "left while job %u is being canceled; see 'holdpoint jobs'", id);
        *asked = true;
        if (client_call(cli->client, &call, NULL, &ignored) < 0)
                output_note("job %u could not be canceled: %s; interrupt again to leave it running",
                            id, ignored.message);
        else
                output_note("canceling job %u; interrupt again to leave at once", id);
        return 0;
}

/* Takes the summary of our job out of the signals; the others are not ours. */
static void take_summary(Cli *cli, FollowJob *j) {
        json_object *event;

        while ((event = client_next_event(cli->client))) {
                json_object *args = field_list(event, "args"), *summary;

                if (strcmp(field_text(event, "signal"), "JobRemoved") == 0 && args &&
                    json_object_get_uint64(json_object_array_get_idx(args, 0)) == j->id) {
                        summary = json_object_array_get_idx(args, 3);
                        if (!j->summary && json_object_is_type(summary, json_type_object))
                                j->summary = json_object_get(summary);
                }
                json_object_put(event);
        }
}

static int gone(Cli *cli, uint32_t id) {
        cli->error.exit_code = 0; /* this says more than what the bus said */
        return cli_error(&cli->error, CLI_EXIT_NO_AGENT, "Disconnected",
                         "the agent went away while job %u was running; when it is back, "
                         "'holdpoint jobs' tells "
                         "what became of it",
                         id);
}

static int look(Cli *cli, FollowJob *j) {
        ClientCall call = { .method = "GetJob", .number = &j->id };
        _cleanup_json_ json_object *reply = NULL;
        json_object *job;
        int r = client_call(cli->client, &call, &reply, &cli->error);

        if (r < 0)
                return cli->error.exit_code == CLI_EXIT_NO_AGENT ? gone(cli, j->id) : r;
        job = json_object_array_get_idx(reply, 0);
        if (!json_object_is_type(job, json_type_object))
                return cli_error(
                        &cli->error, CLI_EXIT_FAILED, "Internal",
                        "the agent's answer to GetJob is not understood; is it another version?");
        json_object_put(j->job);
        j->job = json_object_get(job);
        return 0;
}

static int follow(Cli *cli, int signal_fd, FollowJob *j) {
        OutputProgress progress = { .quiet = cli->options.json };
        bool asked = false;
        int r;

        for (;;) {
                r = look(cli, j);
                if (r < 0 || strcmp(field_text(j->job, "state"), "finished") == 0)
                        break;
                output_progress(&progress, j->job);
                switch (client_wait(cli->client, signal_fd, POLL_MSEC)) {
                case CLIENT_WAKE_EVENT:
                        take_summary(cli, j);
                        break;
                case CLIENT_WAKE_INTERRUPT:
                        output_progress_end(&progress);
                        r = on_interrupt(cli, signal_fd, j->id, &asked);
                        break;
                case CLIENT_WAKE_GONE:
                        r = gone(cli, j->id);
                        break;
                case CLIENT_WAKE_TIMEOUT:
                        break;
                }
                if (r < 0)
                        break;
        }
        output_progress_end(&progress);
        return r;
}

/* Hands on what the stream gives until it ends, the sink has enough, or somebody interrupts. */
static int
pump(Cli *cli, int signal_fd, int fd, const FollowStream *s, FollowJob *j, int *ret_sink) {
        struct pollfd fds[2] = { { .fd = fd, .events = POLLIN },
                                 { .fd = signal_fd, .events = POLLIN } };
        OutputProgress progress = { .quiet = true };
        _cleanup_free_ char *data = malloc(STREAM_CHUNK);
        uint64_t shown_usec = clock_monotonic_usec();
        bool asked = false;
        ssize_t n = 1;
        int r = data ? 0 : cli_oom(&cli->error);

        while (r >= 0 && n > 0 && *ret_sink >= 0) {
                if (poll(fds, ELEMENTSOF(fds), POLL_MSEC) < 0 && errno != EINTR)
                        return -errno;
                if (fds[1].revents & POLLIN) {
                        output_progress_end(&progress);
                        r = on_interrupt(cli, signal_fd, j->id, &asked);
                } else if (fds[0].revents) {
                        n = read(fd, data, STREAM_CHUNK);
                        if (n > 0)
                                *ret_sink = s->sink(s->userdata, data, (size_t) n);
                }
                if (r >= 0 && s->progress &&
                    clock_monotonic_usec() - shown_usec >= POLL_MSEC * USEC_PER_MSEC) {
                        shown_usec = clock_monotonic_usec();
                        r = look(cli, j);
                        if (r >= 0)
                                output_progress(&progress, j->job);
                }
        }
        output_progress_end(&progress);
        return r < 0 ? r : 0;
}

static void take_end(Cli *cli, FollowJob *j) {
        json_object *summary;

        (void) client_wait(cli->client, -1, 0); /* what has come in beside the last look */
        take_summary(cli, j);
        if (json_get_object(j->job, "summary", &summary) >= 0) {
                json_object_put(j->summary);
                j->summary = json_object_get(summary);
        }
}

/* Everything after the call: the stream if there is one, then the job. */
static int follow_to_end(Cli *cli, int *stream_fd, const FollowStream *s, FollowJob *j) {
        _cleanup_close_ int signal_fd = -1;
        int r = 0, sink = 0;
        sigset_t mask;

        signal_fd = catch_signals(&mask);
        if (signal_fd < 0)
                return cli_error(&cli->error, CLI_EXIT_FAILED, "Internal",
                                 "signalfd: %s; job %u runs on", strerror(-signal_fd), j->id);
        if (s) {
                r = pump(cli, signal_fd, *stream_fd, s, j, &sink);
                *stream_fd = fd_close(*stream_fd);
        }
        if (r >= 0)
                r = follow(cli, signal_fd, j);
        (void) sigprocmask(SIG_SETMASK, &mask, NULL); /* cannot fail with a mask it gave */
        if (r >= 0)
                take_end(cli, j);
        if (r >= 0 && sink < 0)
                return cli_error(&cli->error, CLI_EXIT_FAILED, "Internal",
                                 "the result could not be written: %s", strerror(-sink));
        return r;
}

static int run(Cli *cli, ClientCall *call, const FollowStream *stream, FollowJob *ret) {
        _cleanup_follow_job_ FollowJob j = { 0 };
        _cleanup_close_ int stream_fd = -1;
        int r = 0;

        if (stream)
                call->ret_fd = &stream_fd;
        if (!cli->options.no_wait)
                r = client_watch(cli->client, &cli->error);
        if (r >= 0)
                r = client_call(cli->client, call, &j.reply, &cli->error);
        if (r >= 0)
                r = job_of_reply(cli, j.reply, &j.id);
        if (r >= 0 && !cli->options.no_wait)
                r = follow_to_end(cli, &stream_fd, stream, &j);
        if (r < 0)
                return r;
        *ret = j;
        j = (FollowJob){ 0 };
        return 0;
}

int follow_run(Cli *cli, const ClientCall *call, FollowJob *ret) {
        ClientCall copy = *call;

        return run(cli, &copy, NULL, ret);
}

int follow_stream(Cli *cli, ClientCall *call, const FollowStream *stream, FollowJob *ret) {
        return run(cli, call, stream, ret);
}

int follow_exit_code(Cli *cli, const FollowJob *j) {
        const char *result, *message;

        if (!j->job)
                return CLI_EXIT_DONE;
        result = field_text(j->job, "result");
        message = field_text(j->job, "error_message");
        if (strcmp(result, "done") == 0)
                return CLI_EXIT_DONE;
        if (strcmp(result, "partial") == 0) {
                (void) cli_error(&cli->error, CLI_EXIT_PARTIAL, "Partial",
                                 "job %u is only partial: %s", j->id,
                                 *message ? message : "not everything could be read");
        } else if (strcmp(result, "canceled") == 0) {
                (void) cli_error(&cli->error, CLI_EXIT_CANCELED, "Canceled", "job %u was canceled",
                                 j->id);
        } else if (*field_text(j->job, "error_name")) {
                cli_error_from_name(&cli->error, field_text(j->job, "error_name"), message);
        } else {
                (void) cli_error(&cli->error, CLI_EXIT_FAILED,
                                 strcmp(result, "interrupted") == 0 ? "Interrupted" : "Internal",
                                 "job %u: %s", j->id, *message ? message : result);
        }
        return cli->error.exit_code;
}

int follow_print_json(Cli *cli, const FollowJob *j, json_object *object) {
        _cleanup_json_ json_object *o = json_object_get(object ? object : j->summary);
        int r;

        if (!o)
                o = json_object_new_object();
        if (!o)
                return cli_oom(&cli->error);
        if (j->job)
                r = json_put_string(o, "result", field_text(j->job, "result"));
        else
                r = json_put_u64(o, "job", j->id);
        if (r >= 0 && cli->error.exit_code != 0) {
                json_object *e = json_object_new_object();

                if (!e || json_put_string(e, "name", cli->error.name) < 0 ||
                    json_put_string(e, "message", cli->error.message) < 0) {
                        json_object_put(e);
                        return cli_oom(&cli->error);
                }
                r = json_put(o, "error", e);
        }
        if (r < 0)
                return cli_oom(&cli->error);
        output_json(o);
        cli->printed = true;
        return 0;
}

void follow_print_queued(const FollowJob *j) {
        output_line("job %u is queued; 'holdpoint jobs' shows it", j->id);
}
