#pragma once

/*
 * Questions to polkit about the sender of a call. Asynchronous: an answer that does not come is the
 * caller's to treat as a denial.
 */

#include <systemd/sd-bus.h>

#include "agent/manager.h"

typedef struct PolkitQuestion {
        const char *sender; /* unique name on the bus: the subject */
        const char *action;
        const char *service, *backup; /* details for rules; "" if there is none */
        bool interactive;             /* the caller's agent may ask for a password */
} PolkitQuestion;

typedef enum PolkitAnswer {
        POLKIT_YES,
        POLKIT_NO,
        POLKIT_CHALLENGE, /* would need a password, and nobody may be asked */
} PolkitAnswer;

/*
 * Asks, borrowing the question for the time of the call; `on_answer` gets the reply, or an error
 * when none came in time. `ret` is owned and cancels the question.
 */
int polkit_ask(Manager *m,
               const PolkitQuestion *q,
               sd_bus_message_handler_t on_answer,
               void *userdata,
               sd_bus_slot **ret);

/* Reads a reply. Whatever is not a clear yes is none; `ret_why` (borrowed from it) says why not. */
PolkitAnswer polkit_answer(sd_bus_message *reply, const char **ret_why);
