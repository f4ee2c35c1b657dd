#include "snapshot/lvm-run.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/names.h"
#include "base/proc.h"
#include "base/proto.h"
#include "base/text.h"
#include "snapshot/helper-env.h"

/*
 * What the helper sends back is LVM's words about names that others chose: bounded, and shown
 * without control characters (fail_set() and the log escape them).
 */

#define READY_MSEC  30000
#define RUN_MSEC    300000 /* LVM waits for others that have the volume group locked */
#define REAP_MSEC   2000
#define STATUS_GOOD 1 /* LVM2_COMMAND_SUCCEEDED */
#define LEVEL_ERROR '3'
#define WORDS_MAX   500

static int broken(LvmRun *run, int errnum, Failure *reterr) {
        (void) run;
        return fail_errno(reterr, FAIL_SNAPSHOT_FAILED, errnum,
                          "the helper for LVM (" HP_LVM_PROGRAM ") gave no answer");
}

static int start(LvmRun *run, Failure *reterr) {
        _cleanup_free_ char *path = text_printf("%s/%s", proc_libexec_dir(), HP_LVM_PROGRAM);
        _cleanup_close_ int ours = -1, theirs = -1;
        const char *argv[] = { HP_LVM_PROGRAM, NULL };
        _cleanup_helper_env_ HelperEnv env = HELPER_ENV_INIT;
        ProcSpawn spawn = { .path = path, .argv = argv, .env = env.items, .outlives = true };
        int pair[2], r;

        helper_env_init(&env);
        if (!path)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "socketpair");
        ours = pair[0];
        theirs = pair[1];
        spawn.socket = theirs;
        r = proc_spawn(&spawn, &run->pid, &run->pidfd, reterr);
        if (r >= 0)
                run->socket = TAKE_FD(ours);
        return r;
}

static int send_message(LvmRun *run, const char *type, const char *line) {
        _cleanup_json_ json_object *m = proto_new(type);

        if (!m || (line && json_put_string(m, "command", line) < 0))
                return -ENOMEM;
        return proto_send(run->socket, m, NULL, 0);
}

static int receive(LvmRun *run, int msec, json_object **ret, ProtoFds *ret_fds) {
        int r = fd_wait_readable(run->socket, msec);

        if (r == 0)
                return -ETIMEDOUT;
        if (r > 0)
                r = proto_recv(run->socket, ret, ret_fds);
        return r == 0 ? -EPIPE : r < 0 ? r : 0;
}

int lvm_run_prepare(LvmRun *run, const LvmCommand *command, Failure *reterr) {
        _cleanup_json_ json_object *m = NULL;
        int r = start(run, reterr);

        if (r < 0)
                return r;
        run->command = *command;
        r = send_message(run, "run", command->line);
        if (r >= 0)
                r = receive(run, READY_MSEC, &m, NULL);
        if (r >= 0 && strcmp(proto_type(m), "ready") != 0)
                r = -EPROTO;
        return r < 0 ? broken(run, -r, reterr) : 0;
}

/* ---- what LVM said ---- */

/* LVM's errors, one after the other; `output` is made of lines that begin with their level. */
static void collect_errors(const Buf *output, char ret[WORDS_MAX]) {
        const char *p = (const char *) output->data, *end = p + output->size;
        size_t n = 0;

        ret[0] = 0;
        while (p < end) {
                const char *eol = memchr(p, '\n', (size_t) (end - p));
                size_t len = (size_t) ((eol ? eol : end) - p);

                if (len > 1 && *p <= LEVEL_ERROR && n < WORDS_MAX - 3) {
                        int k = snprintf(ret + n, WORDS_MAX - n, "%s%.*s", n ? "; " : "",
                                         (int) len - 1, p + 1);

                        n = k < 0 ? n : n + (size_t) k < WORDS_MAX ? n + (size_t) k : WORDS_MAX - 1;
                }
                p += len + 1;
        }
        for (char *c = ret; *c; c++)
                if (iscntrl((unsigned char) *c))
                        *c = ' ';
}

/* What to do about it, where LVM's own words do not say. */
static const char *remedy(const char *words) {
        if (strstr(words, "not detected in your kernel") || strstr(words, "modprobe"))
                return "load the kernel modules dm_snapshot and dm_thin_pool";
        if (strstr(words, "not found: device not cleared") || strstr(words, "udev"))
                return "look whether systemd-udevd runs";
        if (strstr(words, "insufficient free space") || strstr(words, "free space"))
                return "extend the volume group";
        return "try the same by hand";
}

static bool is_full(const char *words) {
        return strstr(words, "free space") || strstr(words, "free extents");
}

static int failed(LvmRun *run, uint64_t status, const Buf *output, Failure *reterr) {
        char words[WORDS_MAX];

        collect_errors(output, words);
        return fail_set(reterr, is_full(words) ? FAIL_SNAPSHOT_FULL : FAIL_SNAPSHOT_FAILED, EIO,
                        "LVM failed (status %u, '%s'): %s: %s", (unsigned) status,
                        run->command.line, *words ? words : "it did not say why", remedy(words));
}

/* Lines of output without their levels; errors are left out. */
static int keep_output(const Buf *all, Buf *ret) {
        const char *p = (const char *) all->data, *end = p + all->size;
        int r = 0;

        while (r >= 0 && p < end) {
                const char *eol = memchr(p, '\n', (size_t) (end - p));
                const char *next = eol ? eol + 1 : end;

                if (*p > LEVEL_ERROR)
                        r = buf_put(ret, p + 1, (size_t) (next - p - 1));
                p = next;
        }
        return r;
}

static int read_output(int fd, Buf *ret) {
        struct stat st;
        ssize_t n;
        int r;

        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || st.st_size > (off_t) LVM_REPORT_MAX)
                return -EFBIG;
        r = buf_reserve(ret, (size_t) st.st_size + 1);
        if (r < 0)
                return r;
        n = fd_pread_full(fd, ret->data, (size_t) st.st_size, 0);
        if (n < 0)
                return (int) n;
        ret->size = (size_t) n;
        return 0;
}

int lvm_run_go(LvmRun *run, Buf *ret_output, uint64_t *ret_usec, Failure *reterr) {
        _cleanup_(buf_done) Buf output = BUF_INIT(LVM_REPORT_MAX + 1);
        _cleanup_proto_fds_ ProtoFds fds = PROTO_FDS_INIT;
        _cleanup_json_ json_object *m = NULL;
        uint64_t status = 0, usec = 0;
        int r;

        r = send_message(run, "go", NULL);
        if (r >= 0)
                r = receive(run, RUN_MSEC, &m, &fds);
        if (r >= 0 &&
            (strcmp(proto_type(m), "done") != 0 || fds.n != 1 ||
             json_get_u64(m, "status", &status) < 0 || json_get_u64(m, "usec", &usec) < 0))
                r = -EPROTO;
        if (r >= 0)
                r = read_output(fds.fds[0], &output);
        if (r < 0)
                return broken(run, -r, reterr);
        if (ret_usec)
                *ret_usec = usec;
        if (status != STATUS_GOOD)
                return failed(run, status, &output, reterr);
        r = ret_output ? keep_output(&output, ret_output) : 0;
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "LVM's output") : 0;
}

void lvm_run_done(LvmRun *run) {
        struct pollfd p = { .fd = run->pidfd, .events = POLLIN };
        siginfo_t info = { 0 };

        run->socket = fd_close(run->socket);
        /* It ends by itself, with its socket or with its command. */
        if (run->pidfd >= 0 && poll(&p, 1, REAP_MSEC) > 0)
                (void) waitid(P_PIDFD, (id_t) run->pidfd, &info, WEXITED);
        else if (run->pidfd >= 0)
                log_debug("the LVM helper %d still runs", run->pid);
        run->pidfd = fd_close(run->pidfd);
}

int lvm_run(const LvmCommand *command, Failure *reterr) {
        _cleanup_lvm_run_ LvmRun run = LVM_RUN_INIT;
        int r = lvm_run_prepare(&run, command, reterr);

        return r < 0 ? r : lvm_run_go(&run, NULL, NULL, reterr);
}

int lvm_run_report(const char *vg_uuid, const char *tag, LvmReport *ret, Failure *reterr) {
        _cleanup_(buf_done) Buf output = BUF_INIT(LVM_REPORT_MAX);
        _cleanup_lvm_run_ LvmRun run = LVM_RUN_INIT;
        LvmCommand command;
        int r;

        r = lvm_command_report(vg_uuid, tag, &command, reterr);
        if (r >= 0)
                r = lvm_run_prepare(&run, &command, reterr);
        if (r >= 0)
                r = lvm_run_go(&run, &output, NULL, reterr);
        return r < 0 ? r : lvm_report_parse((const char *) output.data, output.size, ret, reterr);
}
