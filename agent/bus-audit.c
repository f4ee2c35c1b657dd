/*
 * What the journal learns of calls: who did what, and who was not let. Anybody may call and be
 * refused as often as they like; the journal's own limit on a service's lines would then swallow
 * the lines of everybody else, so each user has a bounded number.
 */

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "agent/bus-internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/names.h"

#define WINDOW_USEC (30 * USEC_PER_SEC)
#define TOLD_MAX    50 /* refusals of one user in a window */
#define USERS_MAX   64

struct BusDenials {
        uint32_t uid; /* UINT32_MAX: not known */
        uint64_t since_usec;
        unsigned n;
        BusDenials *prev, *next;
};

void bus_audit_forget(Manager *m) {
        BusDenials *d, *next;

        DL_FOREACH_SAFE(m->denials, d, next) {
                DL_DELETE(m->denials, d);
                free(d);
        }
}

/* The user's own count, or that of whoever was refused longest ago. */
static BusDenials *find(Manager *m, uint32_t uid) {
        BusDenials *d;
        unsigned n = 0;

        DL_FOREACH(m->denials, d) {
                n++;
                if (d->uid == uid)
                        break;
        }
        if (!d && n >= USERS_MAX)
                d = m->denials;
        if (d)
                DL_DELETE(m->denials, d);
        else if (!(d = calloc(1, sizeof(*d))))
                return NULL;
        if (d->uid != uid)
                *d = (BusDenials){ .uid = uid };
        DL_APPEND(m->denials, d);
        return d;
}

typedef enum Telling { TELL, TELL_LAST, TELL_NOTHING } Telling;

static Telling may_tell(Manager *m, uint32_t uid) {
        uint64_t now = clock_monotonic_usec();
        BusDenials *d = find(m, uid);

        if (!d)
                return TELL;
        if (d->n == 0 || now - d->since_usec > WINDOW_USEC) {
                d->since_usec = now;
                d->n = 0;
        }
        d->n++;
        return d->n < TOLD_MAX ? TELL : d->n == TOLD_MAX ? TELL_LAST : TELL_NOTHING;
}

static LogFields fields(const BusCall *c) {
        return (LogFields){
                .job = c->job,
                .task = c->task,
                .backup = *c->backup ? c->backup : NULL,
                .service = *c->service ? c->service : NULL,
                .method = c->method,
                .action = c->action,
                .uid = c->uid,
        };
}

void bus_audit_granted(const BusCall *c) {
        const LogFields f = fields(c);

        /* Looking at lists is not an event. */
        if (strcmp(c->action, HP_POLKIT_PREFIX "list") == 0)
                log_fields(LOG_DEBUG, &f, "%s for uid %u (%s)", c->method, *c->uid, c->action);
        else
                log_message(MESSAGE_CALL_GRANTED, &f, "%s for uid %u (%s)", c->method, *c->uid,
                            c->action);
}

void bus_audit_denied(Manager *m, const BusCall *c, const char *why) {
        const LogFields f = fields(c);
        int uid = c->uid ? (int) *c->uid : -1;
        Telling telling = may_tell(m, c->uid ? *c->uid : UINT32_MAX);

        if (telling == TELL_NOTHING)
                return;
        log_message(MESSAGE_CALL_DENIED, &f, "%s refused to uid %d (%s): %s", c->method, uid,
                    c->action, why);
        if (telling == TELL_LAST)
                log_message(MESSAGE_DENIALS_UNTOLD, &f,
                            "uid %d is refused again and again: more of it is not told for %u "
                            "seconds",
                            uid, (unsigned) (WINDOW_USEC / USEC_PER_SEC));
}
