/*
 * org.freedesktop.PolicyKit1.Authority.CheckAuthorization. The subject is the sender's name on the
 * bus, which the bus daemon vouches for and never gives to another. That we may ask about others,
 * without being root, is written in each action (org.freedesktop.policykit.owner).
 */

#include "agent/polkit.h"

#include <string.h>

#include "agent/bus-internal.h"
#include "base/clock.h"

#define ANSWER_USEC      (10 * USEC_PER_SEC)
#define PASSWORD_USEC    (120 * USEC_PER_SEC) /* somebody types */
#define FLAG_INTERACTIVE 1U

static int append_details(sd_bus_message *m, const PolkitQuestion *q) {
        const char *const details[][2] = { { "service", q->service }, { "backup", q->backup } };
        int r = sd_bus_message_open_container(m, 'a', "{ss}");

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(details); i++)
                if (*details[i][1])
                        r = sd_bus_message_append(m, "{ss}", details[i][0], details[i][1]);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

int polkit_ask(Manager *m,
               const PolkitQuestion *q,
               sd_bus_message_handler_t on_answer,
               void *userdata,
               sd_bus_slot **ret) {
        _cleanup_message_ sd_bus_message *question = NULL;
        int r = sd_bus_message_new_method_call(m->bus, &question, "org.freedesktop.PolicyKit1",
                                               "/org/freedesktop/PolicyKit1/Authority",
                                               "org.freedesktop.PolicyKit1.Authority",
                                               "CheckAuthorization");

        if (r >= 0)
                r = sd_bus_message_append(question, "(sa{sv})s", "system-bus-name", 1, "name", "s",
                                          q->sender, q->action);
        if (r >= 0)
                r = append_details(question, q);
        if (r >= 0)
                r = sd_bus_message_append(question, "us", q->interactive ? FLAG_INTERACTIVE : 0U,
                                          "");
        return r < 0 ? r
                     : sd_bus_call_async(m->bus, ret, question, on_answer, userdata,
                                         q->interactive ? PASSWORD_USEC : ANSWER_USEC);
}

PolkitAnswer polkit_answer(sd_bus_message *reply, const char **ret_why) {
        const sd_bus_error *error = sd_bus_message_get_error(reply);
        int yes = 0, challenge = 0;

        *ret_why = "not authorised";
        if (sd_bus_error_has_name(error, SD_BUS_ERROR_SERVICE_UNKNOWN) ||
            sd_bus_error_has_name(error, SD_BUS_ERROR_NAME_HAS_NO_OWNER)) {
                *ret_why = "without polkit only root may do this";
                return POLKIT_NO;
        }
        if (error) {
                *ret_why = "polkit gave no answer";
                return POLKIT_NO;
        }
        if (sd_bus_message_enter_container(reply, 'r', "bba{ss}") <= 0 ||
            sd_bus_message_read(reply, "bb", &yes, &challenge) <= 0) {
                *ret_why = "polkit's answer makes no sense";
                return POLKIT_NO;
        }
        if (yes)
                return POLKIT_YES;
        if (!challenge)
                return POLKIT_NO;
        *ret_why = "a password is needed, and this call does not allow to ask for one";
        return POLKIT_CHALLENGE;
}
