#pragma once

/*
 * The agent as seen from the command line: calls with JSON in and out, and its signals.
 * All of it blocks; nothing here prints.
 */

#include "cli/cli.h"

#define CLIENT_FDS_MAX 2

typedef struct ClientFd {
        const char *key; /* its name among the options */
        int fd;          /* borrowed */
} ClientFd;

/*
 * One call: the stream, then strings, then the number, then the flag, then the options; each only
 * if given.
 */
typedef struct ClientCall {
        uint32_t job; /* call the object of this job; 0: the manager */
        const char *method;
        const int *stream; /* a descriptor; borrowed */
        const char *strings[3];
        const uint32_t *number;
        const bool *flag;
        bool has_options;
        json_object
                *options; /* borrowed; string s, bool b, integer u, array of strings as; NULL: {} */
        ClientFd fds[CLIENT_FDS_MAX];
        size_t n_fds;
        int *ret_fd; /* for the descriptor that comes back first; owned by the caller, -1 before */
} ClientCall;

typedef enum ClientWake {
        CLIENT_WAKE_TIMEOUT,
        CLIENT_WAKE_EVENT,     /* client_next_event() has something */
        CLIENT_WAKE_INTERRUPT, /* `signal_fd` became readable */
        CLIENT_WAKE_GONE,      /* the agent left the bus, or the bus itself went */
} ClientWake;

/* Connects to the system bus. The agent is not spoken to yet. */
int client_open(Client **ret, CliError *error);
void client_close(Client *c);
DEFINE_CLEANUP(Client *, client_close);

/* Calls and waits. `ret` is an owned array of the results (may be NULL). 0 or a negative errno. */
int client_call(Client *c, const ClientCall *call, json_object **ret, CliError *error);

/* ActiveState of a unit, as systemd on the bus says; owned, NULL if nobody says anything. */
char *client_unit_state(Client *c, const char *unit);

/* From here on signals of the agent are kept. To be called before the call that causes them. */
int client_watch(Client *c, CliError *error);

/* Waits up to `msec` (< 0: for ever) for a signal of the agent; `signal_fd` may be -1. */
ClientWake client_wait(Client *c, int signal_fd, int msec);

/* The oldest kept signal as {"signal": name, "args": [...]}, owned, or NULL. */
json_object *client_next_event(Client *c);
