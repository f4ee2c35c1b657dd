/*
 * holdpointd: wiring only.
 */

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "agent/manager.h"
#include "base/log.h"
#include "base/names.h"

#define DESCRIPTORS 8192

static int help(void) {
        printf("holdpointd [OPTIONS]\n\n"
               "The Holdpoint backup agent: offers %s on the system bus.\n\n"
               "      --check-config  read the configuration, print what is wrong with it, and "
               "exit\n"
               "  -h, --help          show this help\n"
               "      --version       show the version\n\n"
               "See holdpointd(8) and holdpoint.conf(5).\n",
               HP_BUS_NAME);
        return EXIT_SUCCESS;
}

/*
 * Calls that wait for an authorisation may carry sixteen descriptors each. Without room for them
 * the kernel cuts a message short and sd-bus gives the connection up.
 */
static void raise_descriptor_limit(void) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return;
        limit.rlim_cur = limit.rlim_max < DESCRIPTORS ? limit.rlim_max : DESCRIPTORS;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                log_warning("Cannot have %d descriptors, ignoring: %s", DESCRIPTORS,
                            strerror(errno));
}

static int run(Config *config) {
        _cleanup_(manager_freep) Manager *m = NULL;
        Failure why = FAILURE_INIT;
        sigset_t mask;

        /* For the event loop's own descriptor; nothing else of this process waits for them. */
        (void) sigemptyset(&mask);
        (void) sigaddset(&mask, SIGTERM);
        (void) sigaddset(&mask, SIGINT);
        (void) sigaddset(&mask, SIGHUP);
        (void) sigprocmask(SIG_BLOCK, &mask, NULL);
        (void) signal(SIGPIPE, SIG_IGN);
        raise_descriptor_limit();
        if (manager_new(config, &m, &why) < 0) {
                log_message(MESSAGE_START_REFUSED, &(LogFields){ .error = fail_name(why.code) },
                            "Cannot start: %s", why.text);
                return EXIT_FAILURE;
        }
        return manager_run(m);
}

int main(int argc, char *argv[]) {
        enum { ARG_CHECK = 256, ARG_VERSION };
        static const struct option options[] = {
                { "check-config", no_argument, NULL, ARG_CHECK },
                { "help", no_argument, NULL, 'h' },
                { "version", no_argument, NULL, ARG_VERSION },
                { NULL, 0, NULL, 0 },
        };
        Failure why = FAILURE_INIT;
        Config *config = NULL;
        bool check = false;
        int c;

        (void) umask(0077);
        log_open("holdpointd");
        while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0)
                switch (c) {
                case 'h':
                        return help();
                case ARG_VERSION:
                        printf("holdpointd %s\n", HOLDPOINT_VERSION);
                        return EXIT_SUCCESS;
                case ARG_CHECK:
                        check = true;
                        break;
                default:
                        return 2;
                }
        if (optind < argc) {
                fprintf(stderr, "holdpointd: unexpected argument '%s'; see --help\n", argv[optind]);
                return 2;
        }
        if (config_load(config_dir(), &config, &why) < 0) {
                if (check)
                        fprintf(stderr, "%s\n", why.text);
                else
                        log_message(MESSAGE_START_REFUSED,
                                    &(LogFields){ .error = fail_name(why.code) },
                                    "Cannot start: %s", why.text);
                return EXIT_FAILURE;
        }
        if (check) {
                for (size_t i = 0; i < config->warnings.n; i++)
                        fprintf(stderr, "%s\n", config->warnings.items[i]);
                config_free(config);
                return EXIT_SUCCESS;
        }
        return run(config);
}
