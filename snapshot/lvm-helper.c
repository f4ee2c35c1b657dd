/*
 * holdpoint-lvm: runs one LVM command and ends. liblvm2cmd is not reentrant, changes the process it
 * lives in and logs through one global function, so it gets a process of its own.
 *
 * The worker sends {"type": "run", "command": LINE}; the library is made ready and "ready" goes
 * back; {"type": "go"} runs the command. So a command can be prepared before databases are held and
 * costs nothing but itself while they are. The answer is {"type": "done", "status": N, "usec": T}
 * with a memfd of what LVM said: lines, each behind the digit of its level.
 *
 * A command under way is never given up, whatever becomes of the worker: half of one may leave
 * devices suspended. Hence no answer is waited for while it runs, its output goes to memory alone
 * (file systems may be suspended by it), and signals that ask to end are not taken.
 */

#include <errno.h>
#include <fcntl.h>
#include <lvm2cmd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/names.h"
#include "base/proto.h"
#include "snapshot/lvm-command.h"

#define SOCKET_FD  3
#define OUTPUT_FD  4
#define ROOM_BYTES (64 << 10) /* of the output, taken before anything is suspended */

/* Called by the library for all it has to say, debugging included. Must not block. */
static void on_log(int level, const char *file, int line, int dm_errno, const char *message) {
        char digit = (char) ('0' + level);

        if (level < LVM2_LOG_FATAL || level > LVM2_LOG_PRINT || !message)
                return;
        (void) fd_write_full(OUTPUT_FD, &digit, 1); /* what is missing shows in what is read */
        (void) fd_write_full(OUTPUT_FD, message, strlen(message));
        (void) fd_write_full(OUTPUT_FD, "\n", 1);
}

static int ignore_signals(void) {
        static const int ignored[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE };
        struct sigaction sa = { .sa_handler = SIG_IGN };

        for (size_t i = 0; i < ELEMENTSOF(ignored); i++)
                if (sigaction(ignored[i], &sa, NULL) < 0)
                        return -errno;
        return 0;
}

/* Programs that LVM starts (modprobe, thin_check) get neither descriptors nor environment. */
static int arrange(void) {
        int fd, r;

        if (clearenv() != 0)
                return -ENOMEM;
        closefrom(OUTPUT_FD);
        if (fcntl(SOCKET_FD, F_SETFD, FD_CLOEXEC) < 0)
                return -errno;
        fd = memfd_create("lvm", MFD_CLOEXEC);
        if (fd < 0)
                return -errno;
        if (fd != OUTPUT_FD) {
                r = dup3(fd, OUTPUT_FD, O_CLOEXEC) < 0 ? -errno : 0;
                (void) close(fd);
                if (r < 0)
                        return r;
        }
        return fallocate(OUTPUT_FD, FALLOC_FL_KEEP_SIZE, 0, ROOM_BYTES) < 0 ? -errno : 0;
}

/* The next message, which must be of this type; owned. NULL ends the program without a word. */
static json_object *receive(const char *type) {
        _cleanup_json_ json_object *m = NULL;

        if (proto_recv(SOCKET_FD, &m, NULL) != 1 || strcmp(proto_type(m), type) != 0)
                return NULL;
        return TAKE_PTR(m);
}

static int say_ready(void) {
        _cleanup_json_ json_object *m = proto_new("ready");

        return m ? proto_send(SOCKET_FD, m, NULL, 0) : -ENOMEM;
}

static int say_done(int status, uint64_t usec) {
        _cleanup_json_ json_object *m = proto_new("done");
        int fd = OUTPUT_FD;

        if (!m || json_put_u64(m, "status", (uint64_t) status) < 0 ||
            json_put_u64(m, "usec", usec) < 0)
                return -ENOMEM;
        return proto_send(SOCKET_FD, m, &fd, 1);
}

/* What changes something belongs into the story of the job. */
static void tell(const char *line, int status, uint64_t usec) {
        if (!lvm_command_is_report(line))
                log_info("'%s': %s by LVM in %llu us", line,
                         status == LVM2_COMMAND_SUCCEEDED ? "done" : "refused",
                         (unsigned long long) usec);
}

static int serve(void) {
        _cleanup_json_ json_object *run = receive("run"), *go = NULL;
        const char *line;
        uint64_t began, usec;
        void *lvm;
        int status, r;

        if (!run || json_get_string(run, "command", &line) < 0 || !lvm_command_is_safe(line))
                return -EBADMSG;
        lvm2_log_fn(on_log);
        lvm = lvm2_init();
        if (!lvm)
                return say_done(LVM2_INIT_FAILED, 0);
        if (say_ready() < 0 || !(go = receive("go")))
                return -EPIPE; /* not wanted any more; nothing has begun */
        began = clock_monotonic_usec();
        status = lvm2_run(lvm, line);
        usec = clock_monotonic_usec() - began;
        r = say_done(status, usec);
        tell(line, status, usec); /* writers wait no longer for us */
        return r;
}

int main(void) {
        log_open(HP_LVM_PROGRAM);
        if (ignore_signals() < 0 || arrange() < 0 || serve() < 0)
                return EXIT_FAILURE;
        /* All is done. Neither lvm2_exit() nor exit(), where the library counts what it did not
         * free. */
        _exit(EXIT_SUCCESS);
}
