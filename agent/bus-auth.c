/*
 * Who may call what. Every member has an action; one that is missing here is refused. The decision
 * is a chain of asynchronous steps, each ending in the next, in a denial, or in nothing when the
 * caller has gone: the bus daemon's word for the sender's uid (root may do everything), polkit's
 * answer for all others, and once more the bus daemon's word that the sender is still there, so
 * that nothing begins for somebody who has left meanwhile.
 *
 * Never by PID: it may belong to somebody else by the time it is looked at.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "agent/bus-internal.h"
#include "agent/polkit.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/names.h"

#define CALL_BYTES_MAX    (64 << 10)
#define PENDING_CALLS_MAX 256
#define QUESTIONS_MAX     16 /* to polkit, for one user at a time */
#define ANSWER_USEC       (10 * USEC_PER_SEC)

/*
 * `details` tells what the leading text arguments are, for polkit's rules: b the id of a backup,
 * s a service or nothing, t a service or "full", r the id of a restore.
 */
typedef struct Action {
        const char *member;
        const char *action;
        const char *details;
} Action;

static const Action actions[] = {
        { "CreateBackup", HP_POLKIT_PREFIX "create", "t" },
        { "ListBackups", HP_POLKIT_PREFIX "list", "" },
        { "GetBackup", HP_POLKIT_PREFIX "list", "b" },
        { "DeleteBackup", HP_POLKIT_PREFIX "delete", "b" },
        { "PinBackup", HP_POLKIT_PREFIX "delete", "b" },
        { "PlanRestore", HP_POLKIT_PREFIX "restore", "bt" },
        { "RestoreBackup", HP_POLKIT_PREFIX "restore", "bt" },
        { "ListRestores", HP_POLKIT_PREFIX "list", "" },
        { "RollbackRestore", HP_POLKIT_PREFIX "restore", "r" },
        { "ConfirmRestore", HP_POLKIT_PREFIX "restore", "r" },
        { "VerifyBackup", HP_POLKIT_PREFIX "verify", "b" },
        { "OpenBackup", HP_POLKIT_PREFIX "read-files", "b" },
        { "ListFiles", HP_POLKIT_PREFIX "read-files", "bs" },
        { "DiffBackups", HP_POLKIT_PREFIX "read-files", "b" },
        { "Prune", HP_POLKIT_PREFIX "delete", "" },
        { "ImportBackup", HP_POLKIT_PREFIX "manage-configuration", "" },
        { "GetRepository", HP_POLKIT_PREFIX "list", "" },
        { "SetSchedule", HP_POLKIT_PREFIX "manage-schedule", "" },
        { "GetSchedule", HP_POLKIT_PREFIX "list", "" },
        { "ListSchedules", HP_POLKIT_PREFIX "list", "" },
        { "DeleteSchedule", HP_POLKIT_PREFIX "manage-schedule", "" },
        { "RunSchedule", HP_POLKIT_PREFIX "create", "" },
        { "ListJobs", HP_POLKIT_PREFIX "list", "" },
        { "GetJob", HP_POLKIT_PREFIX "list", "" },
        { "ExportRecoveryKey", HP_POLKIT_PREFIX "manage-keys", "" },
        { "ProveRecoveryKey", HP_POLKIT_PREFIX "manage-keys", "" },
        { "ForgetPrivateKey", HP_POLKIT_PREFIX "manage-keys", "" },
        { "Diagnose", HP_POLKIT_PREFIX "verify", "" },
        { "GetStatus", HP_POLKIT_PREFIX "list", "" },
        { "Reload", HP_POLKIT_PREFIX "manage-configuration", "" },
};

#define SERVICE_TEXT_MAX 64 /* design: a name has at most 63 bytes */

/* What a call is about: who may do what to which data. */
typedef struct Subject {
        const char *action;
        char backup[UUID_TEXT_MAX];
        char service[SERVICE_TEXT_MAX]; /* "": none, "full": several */
        uint32_t job;                   /* to be canceled, 0: none */
        char task[UUID_TEXT_MAX];
} Subject;

static void name_services(Subject *s, const ConfigStrings *services) {
        (void) snprintf(s->service, sizeof(s->service), "%s",
                        services->n == 0   ? ""
                        : services->n == 1 ? services->items[0]
                                           : "full");
}

static int describe_job(Manager *m, sd_bus_message *call, Subject *ret) {
        void *found;
        const Job *j;

        if (strcmp(sd_bus_message_get_member(call), "Cancel") != 0 ||
            bus_job_object_find(m->bus, sd_bus_message_get_path(call), HP_IFACE_JOB, m, &found,
                                NULL) <= 0)
                return -ENOENT;
        j = found;
        ret->action = job_type_action(j->type); /* who may begin a job may end it */
        ret->job = j->id;
        (void) snprintf(ret->task, sizeof(ret->task), "%s", j->task_id);
        (void) snprintf(ret->backup, sizeof(ret->backup), "%s", j->backup_id);
        name_services(ret, &j->services);
        return 0;
}

static void describe_restore(Manager *m, const char *id, Subject *ret) {
        _cleanup_json_ json_object *row = NULL;
        _cleanup_strings_ ConfigStrings services = { .n = 0 };
        Failure ignored = FAILURE_INIT; /* the handler will say it again */
        const char *backup = "";

        if (catalog_get_restore(m->catalog, id, &row, &ignored) < 0)
                return;
        (void) json_get_string(row, "backup_id", &backup);
        (void) snprintf(ret->backup, sizeof(ret->backup), "%s", backup);
        if (record_services(row, &services) >= 0)
                name_services(ret, &services);
}

/* Only what is well formed goes on to polkit; the handler refuses the rest. */
static void describe_argument(Manager *m, char what, const char *text, Subject *ret) {
        switch (what) {
        case 'b':
                if (text_is_uuid(text))
                        (void) snprintf(ret->backup, sizeof(ret->backup), "%s", text);
                break;
        case 'r':
                if (text_is_uuid(text))
                        describe_restore(m, text, ret);
                break;
        case 's':
        case 't':
                if (text_is_service_name(text) || (what == 't' && strcmp(text, "full") == 0))
                        (void) snprintf(ret->service, sizeof(ret->service), "%s", text);
                break;
        }
}

static int describe_call(Manager *m, sd_bus_message *call, Subject *ret) {
        const char *member = sd_bus_message_get_member(call), *text;
        const Action *a = NULL;

        if (strcmp(sd_bus_message_get_interface(call) ?: HP_IFACE_MANAGER, HP_IFACE_JOB) == 0)
                return describe_job(m, call, ret);
        for (size_t i = 0; i < ELEMENTSOF(actions); i++)
                if (strcmp(actions[i].member, member) == 0)
                        a = actions + i;
        if (!a)
                return -ENOENT;
        ret->action = a->action;
        for (const char *d = a->details; *d; d++) {
                if (sd_bus_message_read(call, "s", &text) <= 0)
                        break;
                describe_argument(m, *d, text, ret);
        }
        return sd_bus_message_rewind(call, true);
}

struct PendingCall {
        Manager *manager;
        sd_bus_message *call;
        const BusMethod *method;
        Subject subject;
        uint32_t uid;
        bool known;  /* uid was asked for once */
        bool asking; /* polkit */
        PendingCall *prev, *next;
};

static void pending_free(void *userdata) {
        PendingCall *p = userdata;

        DL_DELETE(p->manager->pending_calls, p);
        sd_bus_message_unref(p->call);
        free(p);
}

/* Only what is well formed got into the subject. */
static BusCall call_to_tell(const PendingCall *p, bool known) {
        return (BusCall){
                .method = sd_bus_message_get_member(p->call),
                .action = p->subject.action,
                .backup = p->subject.backup,
                .service = p->subject.service,
                .job = p->subject.job,
                .task = p->subject.task,
                .uid = known ? &p->uid : NULL,
        };
}

static void deny(const PendingCall *p, const char *why, bool challenge) {
        const BusCall told = call_to_tell(p, p->known);
        _cleanup_free_ char *text = text_printf(
                "%s refused: %s (%s)", sd_bus_message_get_member(p->call), why, p->subject.action);

        bus_audit_denied(p->manager, &told, why);
        (void) bus_error_reply_standard(p->call,
                                        challenge ? SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED
                                                  : SD_BUS_ERROR_ACCESS_DENIED,
                                        text ?: why);
}

static void grant(const PendingCall *p) {
        const BusCall told = call_to_tell(p, true);
        Failure why = FAILURE_INIT;
        int r;

        bus_audit_granted(&told);
        r = p->method->handle(p->manager, p->call, p->uid, &why);
        if (r < 0)
                r = bus_error_reply(p->call, r, &why);
        if (r < 0)
                log_warning("%s: the reply could not be sent, ignoring: %s", p->method->member,
                            strerror(-r));
}

/* From here the slot owns the pending call, whatever ends it. */
static void hand_over(PendingCall *p, sd_bus_slot *slot) {
        (void) sd_bus_slot_set_destroy_callback(slot, pending_free);
        (void) sd_bus_slot_set_floating(slot, true);
        sd_bus_slot_unref(slot);
}

/* The same call in another slot: the one whose callback runs now goes when it returns. */
static PendingCall *pending_dup(const PendingCall *p) {
        PendingCall *copy = malloc(sizeof(*copy));

        if (!copy)
                return NULL;
        *copy = *p;
        sd_bus_message_ref(copy->call);
        DL_APPEND(copy->manager->pending_calls, copy);
        return copy;
}

static int on_uid(sd_bus_message *reply, void *userdata, sd_bus_error *reterr_error);

static int ask_uid(PendingCall *p) {
        _cleanup_message_ sd_bus_message *question = NULL;
        sd_bus_slot *slot = NULL;
        sd_bus *bus = p->manager->bus;
        const char *sender = sd_bus_message_get_sender(p->call);
        int r;

        if (!sender)
                return -ENXIO;
        r = sd_bus_message_new_method_call(bus, &question, "org.freedesktop.DBus",
                                           "/org/freedesktop/DBus", "org.freedesktop.DBus",
                                           "GetConnectionUnixUser");
        if (r >= 0)
                r = sd_bus_message_append(question, "s", sender);
        if (r >= 0)
                r = sd_bus_call_async(bus, &slot, question, on_uid, p, ANSWER_USEC);
        if (r >= 0)
                hand_over(p, slot);
        return r;
}

static int on_polkit(sd_bus_message *reply, void *userdata, sd_bus_error *reterr_error) {
        PendingCall *p = userdata, *next;
        PolkitAnswer answer;
        const char *why;

        if (p->manager->stopping)
                return 0;
        answer = polkit_answer(reply, &why);
        p->asking = false;
        if (answer != POLKIT_YES) {
                deny(p, why, answer == POLKIT_CHALLENGE);
                return 0;
        }
        next = pending_dup(p);
        if (!next || ask_uid(next) < 0) {
                deny(p, "cannot ask who the caller is", false);
                if (next)
                        pending_free(next);
        }
        return 0;
}

static int ask_polkit(PendingCall *p) {
        const PolkitQuestion question = {
                .sender = sd_bus_message_get_sender(p->call),
                .action = p->subject.action,
                .service = p->subject.service,
                .backup = p->subject.backup,
                .interactive = sd_bus_message_get_allow_interactive_authorization(p->call) > 0,
        };
        sd_bus_slot *slot = NULL;
        int r = polkit_ask(p->manager, &question, on_polkit, p, &slot);

        p->asking = true;
        if (r >= 0)
                hand_over(p, slot);
        return r;
}

/* Users wait for their own questions alone. */
static bool asks_too_much(const PendingCall *p) {
        const PendingCall *other;
        unsigned n = 0;

        DL_FOREACH(p->manager->pending_calls, other)
        n += other->asking && other->uid == p->uid;
        return n >= QUESTIONS_MAX;
}

static void go_on(PendingCall *p) {
        PendingCall *next;

        if (asks_too_much(p)) {
                (void) bus_error_reply_standard(p->call, SD_BUS_ERROR_LIMITS_EXCEEDED,
                                                "too many calls of this user wait for an "
                                                "authorisation: try later");
                return;
        }
        next = pending_dup(p);
        if (!next || ask_polkit(next) < 0) {
                deny(p, "cannot ask polkit", false);
                if (next)
                        pending_free(next);
        }
}

static int on_uid(sd_bus_message *reply, void *userdata, sd_bus_error *reterr_error) {
        PendingCall *p = userdata;
        const sd_bus_error *error = sd_bus_message_get_error(reply);
        uint32_t uid;

        if (p->manager->stopping)
                return 0;
        /* Nobody is left to have an answer, and a reply must not go to who gets that name next. */
        if (sd_bus_error_has_name(error, SD_BUS_ERROR_NAME_HAS_NO_OWNER))
                return 0;
        if (error || sd_bus_message_read(reply, "u", &uid) <= 0) {
                deny(p, error && error->message ? error->message : "no answer who the caller is",
                     false);
                return 0;
        }
        if (uid == 0 || (p->known && uid == p->uid)) {
                p->uid = uid;
                grant(p);
                return 0;
        }
        p->uid = uid;
        p->known = true;
        go_on(p);
        return 0;
}

/* Replies if the call may not even be looked at. */
static bool is_refused(Manager *m, sd_bus_message *call) {
        const PendingCall *other;
        unsigned pending = 0;
        const char *why = NULL;
        size_t size;

        DL_COUNT(m->pending_calls, other, pending);
        if (bus_body_size(call, &size) < 0) {
                (void) bus_error_reply_standard(call, SD_BUS_ERROR_INVALID_ARGS,
                                                "the arguments cannot be read: do all descriptors "
                                                "come along?");
                return true;
        }
        if (pending >= PENDING_CALLS_MAX)
                why = "too many calls at once: try later";
        else if (size > CALL_BYTES_MAX)
                why = "a call may have at most 64 KiB";
        if (why)
                (void) bus_error_reply_standard(call, SD_BUS_ERROR_LIMITS_EXCEEDED, why);
        return why != NULL;
}

int bus_auth_call(Manager *m, sd_bus_message *call, const BusMethod *method) {
        Subject subject = { .action = NULL };
        PendingCall *p;

        if (is_refused(m, call))
                return 1;
        p = method && describe_call(m, call, &subject) >= 0 ? calloc(1, sizeof(*p)) : NULL;
        if (!p) {
                (void) bus_error_reply_standard(call, SD_BUS_ERROR_ACCESS_DENIED, "refused");
                return 1;
        }
        *p = (PendingCall){
                .manager = m, .call = sd_bus_message_ref(call), .method = method, .subject = subject
        };
        DL_APPEND(m->pending_calls, p);
        if (ask_uid(p) < 0) {
                deny(p, "cannot ask who the caller is", false);
                pending_free(p);
        }
        return 1;
}
