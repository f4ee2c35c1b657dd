#include "worker/intent-log.h"

#include "base/json.h"
#include "base/log.h"

#define SERVICES_MAX 64

typedef struct Names {
        const char *items[SERVICES_MAX];
        size_t n;
} Names;

static Names names_of(const Intent *i) {
        Names n = { .n = 0 };

        for (size_t k = 0; n.n < SERVICES_MAX && k < json_object_array_length(i->services); k++)
                n.items[n.n++] = json_object_get_string(json_object_array_get_idx(i->services, k));
        return n;
}

static LogFields fields(const Intent *i, const Names *names) {
        return (LogFields){
                .restore = i->restore_id,
                .backup = i->backup_id,
                .services = names->items,
                .n_services = names->n,
        };
}

void intent_log_state(const Intent *i) {
        const Names names = names_of(i);
        LogFields f = fields(i, &names);

        switch (i->state) {
        case INTENT_ACTIVE:
                f.result = "active";
                log_message(MESSAGE_RESTORE_ACTIVE, &f,
                            "restore %s is active: the data of backup %s is live, what it replaced "
                            "is kept",
                            i->restore_id, i->backup_id);
                break;
        case INTENT_ROLLED_BACK:
                f.result = "rolled_back";
                log_message(MESSAGE_RESTORE_ROLLED_BACK, &f,
                            "restore %s is rolled back: what it had replaced is live again",
                            i->restore_id);
                break;
        case INTENT_CONFIRMED:
                f.result = "confirmed";
                log_message(MESSAGE_RESTORE_CONFIRMED, &f,
                            "restore %s is confirmed: the tree that was not live is removed",
                            i->restore_id);
                break;
        case INTENT_FAILED:
                f.result = "failed";
                log_message(MESSAGE_RESTORE_FAILED, &f,
                            "restore %s failed, live data is as it was: %s", i->restore_id,
                            i->error ? i->error : "for a reason that is not known");
                break;
        case INTENT_STAGING:
        case INTENT_SWAPPING:
        case INTENT_CONFIRMING:
                break; /* on the way */
        }
}

void intent_log_recovered(const Intent *i, const char *what) {
        const Names names = names_of(i);
        const LogFields f = fields(i, &names);

        log_message(MESSAGE_RESTORE_RECOVERED, &f, "restore %s: %s", i->restore_id, what);
}

void intent_log_goes_back(const Intent *i, const Failure *why) {
        const Names names = names_of(i);
        const LogFields f = fields(i, &names);

        log_message(MESSAGE_RESTORE_GOES_BACK, &f,
                    "restore %s: %s; what was there before comes back", i->restore_id, why->text);
}

void intent_log_units_down(const Intent *i) {
        const Names names = names_of(i);
        const LogFields f = fields(i, &names);

        log_message(MESSAGE_RESTORE_UNITS_DOWN, &f,
                    "restore %s: its units are kept from starting until its data is whole",
                    i->restore_id);
}

void intent_log_attention(const Intent *i, const Failure *why) {
        const Names names = names_of(i);
        LogFields f = fields(i, &names);

        f.error = fail_name(why->code);
        log_message(MESSAGE_RESTORE_NEEDS_ATTENTION, &f,
                    "restore %s could not be finished or undone: %s", i->restore_id, why->text);
}
