/*
 * What a helper may answer to the worker: it runs as the owner of the data, who may have put
 * another in its place. The first byte says what is done: bits 0-1 hold and copy, recover, check;
 * bit 2 its process lives; bit 3 it repeats its last packet without end; bit 4 it may hold for as
 * long as it likes. The rest are its packets, one a line.
 *
 * Only the start of the process is replaced: the helper is a socket that has said everything.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "snapshot/hold-helper.h"
#include "tests/fuzz/fuzz.h"

#define DATABASES    2
#define TIMEOUT_USEC 20000

enum {
        HOW_LIVES = 4,
        HOW_FLOODS = 8,
        HOW_PATIENT = 16,
};

/* What every helper of this run says. */
static struct {
        FuzzInput packets;
        uint8_t how;
        unsigned polls; /* until the caller has had enough */
} script;

/* Outlives the run, and so the input. */
typedef struct Flood {
        int socket;
        size_t size;
        uint8_t packet[];
} Flood;

static void *flood(void *userdata) {
        Flood *f = userdata;

        while (send(f->socket, f->packet, f->size, MSG_NOSIGNAL) >= 0)
                ;
        (void) close(f->socket);
        free(f);
        return NULL;
}

static void talk(int socket) {
        FuzzInput in = script.packets, packet = { 0 };
        pthread_t thread;
        Flood *f;

        while (in.size > 0) {
                const uint8_t *end = memchr(in.data, '\n', in.size);

                packet = fuzz_take(&in, end ? (size_t) (end - in.data) : in.size);
                (void) fuzz_take(&in, 1);
                (void) send(socket, packet.data, packet.size, MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        if ((script.how & HOW_FLOODS) && packet.size > 0) {
                f = malloc(sizeof(*f) + packet.size);
                fuzz_assert(f);
                f->socket = dup(socket);
                f->size = packet.size;
                memcpy(f->packet, packet.data, packet.size);
                fuzz_assert(f->socket >= 0 && pthread_create(&thread, NULL, flood, f) == 0);
                fuzz_assert(pthread_detach(thread) == 0);
        } else
                (void) shutdown(socket, SHUT_WR);
}

int __wrap_hold_helper_start(HoldHelper *h,
                             const char *libexec_dir,
                             const char *mode,
                             Failure *reterr);

/* Keeps the other end as standard input of a process that does nothing, or of none. */
int __wrap_hold_helper_start(HoldHelper *h,
                             const char *libexec_dir,
                             const char *mode,
                             Failure *reterr) {
        char *const argv[] = { (char *) "sleep", (char *) "60", NULL }, *const env[] = { NULL };
        posix_spawn_file_actions_t actions;
        int pair[2];

        fuzz_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
        fuzz_assert(fcntl(pair[0], F_SETFL, O_NONBLOCK) == 0);
        talk(pair[1]);
        if (script.how & HOW_LIVES) {
                fuzz_assert(posix_spawn_file_actions_init(&actions) == 0);
                fuzz_assert(posix_spawn_file_actions_adddup2(&actions, pair[1], 0) == 0);
                fuzz_assert(posix_spawn(&h->pid, "/bin/sleep", &actions, NULL, argv, env) == 0);
                fuzz_assert(posix_spawn_file_actions_destroy(&actions) == 0);
                h->pidfd = (int) syscall(SYS_pidfd_open, h->pid, 0);
                fuzz_assert(h->pidfd >= 0);
        }
        (void) close(pair[1]);
        h->socket = pair[0];
        return 0;
}

static bool interrupted(void *userdata) {
        return script.polls++ > 200;
}

static void check_failures(const HoldDatabase *dbs, bool all) {
        for (size_t i = 0; i < DATABASES; i++) {
                fuzz_assert(memchr(dbs[i].failure.text, 0, sizeof(dbs[i].failure.text)));
                if (all && !dbs[i].held)
                        fuzz_assert(dbs[i].failure.code != FAIL_NONE && *dbs[i].failure.text);
        }
}

static void hold_and_copy(HoldDatabase *dbs) {
        HoldParams params = {
                .libexec_dir = "/nowhere",
                .databases = dbs,
                .n = DATABASES,
                .lock_timeout_usec = TIMEOUT_USEC,
                .max_hold_usec = script.how & HOW_PATIENT ? INT64_MAX : TIMEOUT_USEC,
                .interrupted = interrupted,
        };
        _cleanup_(hold_freep) Hold *h = NULL;
        _cleanup_close_ int copy = -1;
        Failure why = FAILURE_INIT;
        uint64_t pause;
        int r;

        if (hold_prepare(&params, &h, &why) < 0)
                return;
        r = hold_lock(h, &why);
        if (r == 0)
                fuzz_assert(dbs[0].held && dbs[1].held);
        (void) hold_pin(h, &why);
        fuzz_assert(hold_release(h, &pause, &why) == 0 || why.code != FAIL_NONE);
        fuzz_assert(pause < 60 * USEC_PER_SEC || dbs[0].locked_usec > 0 || dbs[1].locked_usec > 0);
        copy = open("/dev/null", O_RDWR | O_CLOEXEC);
        for (size_t i = 0; i < DATABASES; i++) {
                why = FAILURE_INIT;
                if (hold_copy(h, i, copy, &why) < 0)
                        fuzz_assert(why.code != FAIL_NONE && *why.text);
        }
}

static void use_image(HoldDatabase *dbs, bool check) {
        HoldImageJob job = {
                .libexec_dir = "/nowhere",
                .databases = dbs,
                .n = DATABASES,
                .timeout_usec = TIMEOUT_USEC,
                .interrupted = interrupted,
        };
        HoldVerdict verdicts[DATABASES] = { HOLD_UNCHECKED };
        Failure why = FAILURE_INIT;
        int r = check ? hold_check(&job, verdicts, &why) : hold_recover(&job, &why);

        fuzz_assert(r == 0 || why.code != FAIL_NONE);
        for (size_t i = 0; check && r == 0 && i < DATABASES; i++)
                fuzz_assert(verdicts[i] == HOLD_OK || dbs[i].failure.code != FAIL_NONE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FuzzInput in = { data, size };
        int dir = fuzz_mkdir(fuzz_dir_fd(), "data");
        HoldDatabase dbs[DATABASES] = {
                { .path = "/srv/a.db", .dirfd = dir, .name = "a.db", .uid = 65534, .gid = 65534 },
                { .path = "/srv/b.db", .dirfd = dir, .name = "b.db", .uid = 65534, .gid = 65534 },
        };

        script.how = fuzz_u8(&in);
        script.packets = in;
        script.polls = 0;
        for (size_t i = 0; i < DATABASES; i++) {
                fuzz_write(dir, dbs[i].name, (FuzzInput){ (const uint8_t *) "x", 1 });
                fuzz_assert(fchownat(dir, dbs[i].name, dbs[i].uid, dbs[i].gid, 0) == 0 ||
                            geteuid() != 0);
        }
        if ((script.how & 3) < 2)
                hold_and_copy(dbs);
        else
                use_image(dbs, script.how & 1);
        check_failures(dbs, (script.how & 3) < 2 && script.polls <= 200);
        (void) close(dir);
        fuzz_remove(fuzz_dir_fd(), "data");
        return 0;
}
