/*
 * holdpoint-worker CLASS: runs one job as root and exits. Its whole contract is argv[1] and fd 3;
 * it trusts neither the agent (names and ids only, everything else from root's own configuration)
 * nor the data. `holdpoint-worker --recover` finishes or undoes what intents say, without an agent.
 */

#include <errno.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/names.h"
#include "worker/intent.h"
#include "worker/run.h"
#include "worker/state.h"
#include "worker/work.h"

#define WORKER_SOCKET        3
#define REQUEST_TIMEOUT_MSEC 10000
#define SERVICES_TOLD_MAX    64 /* in a line of the log */

typedef int (*Verb)(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr);

static const struct {
        const char *class, *verb;
        Verb run;
} verbs[] = {
        { "backup", "create", run_create },
        { "backup", "sweep", run_sweep },
        { "backup", "import", run_import },
        { "backup", "diagnose", run_diagnose },
        { "image", "open", run_open_image },
        { "image", "top", run_open_top },
        { "restore", "restore", run_restore },
        { "restore", "plan", run_plan },
        { "restore", "verify", run_prove },
        { "restore", "rollback", run_rollback },
        { "restore", "confirm", run_confirm },
        { "restore", "recover", run_recover },
        { "maintain", "verify", run_verify },
        { "maintain", "delete", run_delete },
        { "maintain", "reconcile", run_reconcile },
        { "maintain", "list", run_list },
        { "maintain", "diff", run_diff },
        { "maintain", "export", run_export },
        { "maintain", "pin", run_pin },
        { "maintain", "prune", run_prune },
        { "maintain", "repository", run_repository },
        { "configure", "export-key", run_export_key },
        { "configure", "prove-key", run_prove_key },
        { "configure", "forget-key", run_forget_key },
        { "configure", "list-schedules", run_list_schedules },
        { "configure", "set-schedule", run_set_schedule },
        { "configure", "default-schedule", run_default_schedule },
        { "configure", "delete-schedule", run_delete_schedule },
};

static bool class_is_known(const char *class) {
        return strcmp(class, "configure") == 0 || strcmp(class, "backup") == 0 ||
               strcmp(class, "restore") == 0 || strcmp(class, "maintain") == 0 ||
               strcmp(class, "image") == 0;
}

/* Only root and the agent's user may drive a worker, whatever the socket's mode says; only root one
 * of the class `image`. */
static int check_peer(const char *class, Failure *reterr) {
        const char *user = getenv(HP_ENV_AGENT_USER);
        struct ucred peer;
        socklen_t size = sizeof(peer);
        struct passwd *pw;

        if (getsockopt(WORKER_SOCKET, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "fd %d is no socket",
                                  WORKER_SOCKET);
        if (peer.uid == 0)
                return 0;
        pw = strcmp(class, "image") == 0 ? NULL
                                         : getpwnam(user && *user ? user : HP_DEFAULT_AGENT_USER);
        if (pw && pw->pw_uid == peer.uid)
                return 0;
        return fail_set(reterr, FAIL_INVALID_ARGUMENT, EPERM, "peer with uid %u is refused",
                        (unsigned) peer.uid);
}

static Verb find_verb(const char *class, const char *verb) {
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                if (strcmp(verbs[i].class, class) == 0 && strcmp(verbs[i].verb, verb) == 0)
                        return verbs[i].run;
        return NULL;
}

/* Receives the request; 1 when there is one, 0 when the agent left without a word. */
static int receive(Work *w, Failure *reterr) {
        uint64_t job = 0;
        int r;

        r = fd_wait_readable(w->socket, REQUEST_TIMEOUT_MSEC);
        if (r == 0)
                return fail_set(reterr, FAIL_INTERNAL, ETIMEDOUT, "no request came");
        if (r > 0)
                r = proto_recv(w->socket, &w->request, &w->fds);
        if (r <= 0)
                return r == 0 ? 0 : fail_errno(reterr, FAIL_INTERNAL, -r, "request");
        if (strcmp(proto_type(w->request), "request") != 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EBADMSG, "not a request");
        if (json_get_u64(w->request, "job", &job) < 0 || job > UINT32_MAX)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EBADMSG, "request without a job");
        w->job = (uint32_t) job;
        return 1;
}

/* What all lines carry, those of the helpers too. Names are the agent's word, and only told. */
static void set_log_context(Work *w) {
        LogFields f = { .job = w->job };
        const char *names[SERVICES_TOLD_MAX];
        json_object *about;

        (void) json_get_string(w->request, "task", &f.task);
        (void) json_get_string(w->request, "backup_id", &f.backup);
        (void) json_get_string(w->request, "restore_id", &f.restore);
        if (json_get_array(w->request, "about", &about) >= 0)
                for (size_t i = 0; i < json_object_array_length(about); i++) {
                        const char *name =
                                json_object_get_string(json_object_array_get_idx(about, i));

                        if (f.n_services < SERVICES_TOLD_MAX && name)
                                names[f.n_services++] = name;
                }
        f.services = names;
        log_set_context(&f);
}

static int run_request(Work *w,
                       const char *class,
                       const char **ret_result,
                       json_object **ret_summary,
                       Failure *reterr) {
        const char *name;
        Verb verb;
        int r;

        set_log_context(w);
        r = work_string(w, "verb", &name, reterr);
        if (r < 0)
                return r;
        verb = find_verb(class, name);
        if (!verb)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EOPNOTSUPP,
                                "a %s worker has no such verb", class);
        log_info("%s worker begins with '%s'", class, name);
        /* A diagnosis has to tell of these, not to fail of them. */
        if (verb == run_diagnose)
                return verb(w, ret_result, ret_summary, reterr);
        r = config_load(config_dir(), &w->config, reterr);
        if (r < 0)
                return r;
        w->state_fd = state_open(reterr);
        if (w->state_fd < 0)
                return w->state_fd;
        return verb(w, ret_result, ret_summary, reterr);
}

/* Serves the one request on fd 3. Exit code 0 once a RESULT is on its way. */
static int serve(const char *class) {
        _cleanup_json_ json_object *summary = NULL;
        Work w = WORK_INIT;
        Failure f = FAILURE_INIT;
        const char *result = "done";
        int r;

        work_set_socket(&w, WORKER_SOCKET, WORK_STALL_USEC);
        work_serve_watchdog(&w);
        r = check_peer(class, &f);
        if (r >= 0)
                r = receive(&w, &f);
        if (r == 0)
                return EXIT_SUCCESS; /* a probe: connected and left */
        if (r > 0)
                r = run_request(&w, class, &result, &summary, &f);
        if (r < 0)
                result = r == -ECANCELED || f.code == FAIL_CANCELED ? "canceled" : "failed";
        if (r == -ECANCELED && f.code != FAIL_CANCELED) { /* or somebody called it a failure */
                f = FAILURE_INIT;
                (void) fail_set(&f, FAIL_CANCELED, ECANCELED, "canceled");
        }
        if (r < 0 && f.code == FAIL_NONE)
                (void) fail_errno(&f, FAIL_INTERNAL, -r, "unexpected failure");
        work_result(&w, result, &f, TAKE_PTR(summary));
        json_object_put(w.request);
        proto_fds_done(&w.fds);
        config_free(w.config);
        fd_close(w.state_fd);
        return EXIT_SUCCESS;
}

static int recover(void) {
        Work w = WORK_INIT;
        Failure f = FAILURE_INIT;
        int r;

        w.state_fd = state_open(&f);
        r = w.state_fd < 0 ? w.state_fd : intent_recover_all(&w, &f);
        if (r < 0)
                log_error("recovery: %s", f.text);
        fd_close(w.state_fd);
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* A descriptor stands for each database's directory, live and in the image: the soft limit is for
 * programs that select(). */
static void raise_descriptor_limit(void) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return;
        limit.rlim_cur = limit.rlim_max;
        (void) setrlimit(RLIMIT_NOFILE, &limit); /* the old limit does for most */
}

/*
 * Stopped in good order (systemctl stop, a shutdown), these end at a safe point as after a cancel,
 * and bring a swap to its end; what the others do may end anywhere. Their helpers get it unheld.
 */
static void hold_back_sigterm(const char *class) {
        sigset_t set;

        if (strcmp(class, "backup") != 0 && strcmp(class, "restore") != 0 &&
            strcmp(class, "image") != 0)
                return;
        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGTERM);
        (void) sigprocmask(SIG_BLOCK, &set, NULL); /* none of them fails with these arguments */
}

int main(int argc, char **argv) {
        if (argc == 2 && strcmp(argv[1], "--version") == 0) {
                (void) printf("holdpoint-worker %s\n", HOLDPOINT_VERSION);
                return EXIT_SUCCESS;
        }
        log_open(HP_WORKER_PROGRAM);
        (void) umask(0077);
        (void) prctl(PR_SET_DUMPABLE, 0); /* keys are in here */
        (void) setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        (void) signal(SIGPIPE, SIG_IGN);
        raise_descriptor_limit();
        if (argc == 2 && strcmp(argv[1], "--recover") == 0)
                return recover();
        if (argc != 2 || !class_is_known(argv[1])) {
                (void) fprintf(stderr,
                               "usage: holdpoint-worker backup|restore|maintain|configure|image\n"
                               "       holdpoint-worker --recover\n");
                return 2;
        }
        hold_back_sigterm(argv[1]);
        return serve(argv[1]);
}
