/*
 * Who may call what. Every member has an action; one that is missing here is refused. The decision
 * is a chain of asynchronous steps, each ending in the next, in a denial, or in nothing when the
 * caller has gone: now one step, the bus daemon's word for the sender's uid, of which only root's
 * passes. A step that asks polkit takes its place after on_uid(), with `action`.
 *
 * Never by PID: it may belong to somebody else by the time it is looked at.
 */

#include <errno.h>
#include <string.h>

#include "agent/bus-internal.h"
#include "base/log.h"
#include "base/names.h"

#define CALL_BYTES_MAX    (64 << 10)
#define PENDING_CALLS_MAX 256
#define ANSWER_USEC       (UINT64_C(10) * 1000000)

typedef struct Action {
        const char *member;
        const char *action;
} Action;

static const Action actions[] = {
        { "CreateBackup", HP_POLKIT_PREFIX "create" },
        { "ListBackups", HP_POLKIT_PREFIX "list" },
        { "GetBackup", HP_POLKIT_PREFIX "list" },
        { "DeleteBackup", HP_POLKIT_PREFIX "delete" },
        { "PinBackup", HP_POLKIT_PREFIX "delete" },
        { "PlanRestore", HP_POLKIT_PREFIX "restore" },
        { "RestoreBackup", HP_POLKIT_PREFIX "restore" },
        { "ListRestores", HP_POLKIT_PREFIX "list" },
        { "RollbackRestore", HP_POLKIT_PREFIX "restore" },
        { "ConfirmRestore", HP_POLKIT_PREFIX "restore" },
        { "VerifyBackup", HP_POLKIT_PREFIX "verify" },
        { "OpenBackup", HP_POLKIT_PREFIX "read-files" },
        { "ListFiles", HP_POLKIT_PREFIX "read-files" },
        { "DiffBackups", HP_POLKIT_PREFIX "read-files" },
        { "Prune", HP_POLKIT_PREFIX "delete" },
        { "SetSchedule", HP_POLKIT_PREFIX "manage-schedule" },
        { "GetSchedule", HP_POLKIT_PREFIX "list" },
        { "ListSchedules", HP_POLKIT_PREFIX "list" },
        { "DeleteSchedule", HP_POLKIT_PREFIX "manage-schedule" },
        { "RunSchedule", HP_POLKIT_PREFIX "create" },
        { "ListJobs", HP_POLKIT_PREFIX "list" },
        { "GetJob", HP_POLKIT_PREFIX "list" },
        { "ExportRecoveryKey", HP_POLKIT_PREFIX "manage-keys" },
        { "ProveRecoveryKey", HP_POLKIT_PREFIX "manage-keys" },
        { "ForgetPrivateKey", HP_POLKIT_PREFIX "manage-keys" },
        { "GetStatus", HP_POLKIT_PREFIX "list" },
        { "Reload", HP_POLKIT_PREFIX "manage-configuration" },
};

/* Who may begin a job may end it. */
static const char *action_of_job(JobType type) {
        switch (type) {
        case JOB_BACKUP:
                return HP_POLKIT_PREFIX "create";
        case JOB_RESTORE:
        case JOB_ROLLBACK:
        case JOB_CONFIRM:
                return HP_POLKIT_PREFIX "restore";
        case JOB_VERIFY:
                return HP_POLKIT_PREFIX "verify";
        case JOB_DELETE:
                return HP_POLKIT_PREFIX "delete";
        case JOB_RECONCILE:
        case JOB_RECOVER:
                return HP_POLKIT_PREFIX "manage-configuration";
        }
        return NULL;
}

static const char *find_action(Manager *m, sd_bus_message *call) {
        const char *member = sd_bus_message_get_member(call);
        void *job;

        if (strcmp(sd_bus_message_get_interface(call) ?: HP_IFACE_MANAGER, HP_IFACE_JOB) == 0) {
                if (strcmp(member, "Cancel") != 0 ||
                    bus_job_object_find(m->bus, sd_bus_message_get_path(call), HP_IFACE_JOB, m,
                                        &job, NULL) <= 0)
                        return NULL;
                return action_of_job(((Job *) job)->type);
        }
        for (size_t i = 0; i < ELEMENTSOF(actions); i++)
                if (strcmp(actions[i].member, member) == 0)
                        return actions[i].action;
        return NULL;
}

typedef struct PendingCall {
        Manager *manager;
        sd_bus_message *call;
        const BusMethod *method;
        const char *action;
        uint32_t uid;
} PendingCall;

static void pending_free(void *userdata) {
        PendingCall *p = userdata;

        p->manager->pending_calls--;
        sd_bus_message_unref(p->call);
        free(p);
}

static void deny(const PendingCall *p, const char *why) {
        log_notice("%s refused (%s): %s", sd_bus_message_get_member(p->call), p->action, why);
        (void) bus_error_reply_standard(p->call, SD_BUS_ERROR_ACCESS_DENIED,
                                        "only root may do this: run it as root");
}

static void grant(const PendingCall *p) {
        Failure why = FAILURE_INIT;
        int r = p->method->handle(p->manager, p->call, p->uid, &why);

        if (r < 0)
                r = bus_error_reply(p->call, r, &why);
        if (r < 0)
                log_warning("%s: the reply could not be sent, ignoring: %s", p->method->member,
                            strerror(-r));
}

static int on_uid(sd_bus_message *reply, void *userdata, sd_bus_error *reterr_error) {
        PendingCall *p = userdata;
        const sd_bus_error *error = sd_bus_message_get_error(reply);

        if (p->manager->stopping)
                return 0;
        /* Nobody is left to have an answer, and a reply must not go to who gets that name next. */
        if (sd_bus_error_has_name(error, SD_BUS_ERROR_NAME_HAS_NO_OWNER))
                return 0;
        if (error || sd_bus_message_read(reply, "u", &p->uid) <= 0)
                deny(p, error && error->message ? error->message : "no answer who the caller is");
        else if (p->uid != 0)
                deny(p, "the caller is not root");
        else
                grant(p);
        return 0;
}

static int ask(PendingCall *p) {
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
        if (r < 0)
                return r;
        /* From here the slot owns the pending call, whatever ends it. */
        (void) sd_bus_slot_set_destroy_callback(slot, pending_free);
        (void) sd_bus_slot_set_floating(slot, true);
        sd_bus_slot_unref(slot);
        return 0;
}

static int check_limits(Manager *m, sd_bus_message *call, const char **ret_why) {
        size_t size;

        *ret_why = NULL;
        if (m->pending_calls >= PENDING_CALLS_MAX)
                *ret_why = "too many calls at once: try later";
        else if (bus_body_size(call, &size) < 0 || size > CALL_BYTES_MAX)
                *ret_why = "a call may have at most 64 KiB";
        return *ret_why ? -E2BIG : 0;
}

int bus_auth_call(Manager *m, sd_bus_message *call, const BusMethod *method) {
        const char *why, *action;
        PendingCall *p;

        if (check_limits(m, call, &why) < 0) {
                (void) bus_error_reply_standard(call, SD_BUS_ERROR_LIMITS_EXCEEDED, why);
                return 1;
        }
        action = find_action(m, call);
        p = action && method ? calloc(1, sizeof(*p)) : NULL;
        if (!p) {
                (void) bus_error_reply_standard(call, SD_BUS_ERROR_ACCESS_DENIED, "refused");
                return 1;
        }
        *p = (PendingCall){
                .manager = m, .call = sd_bus_message_ref(call), .method = method, .action = action
        };
        m->pending_calls++;
        if (ask(p) < 0) {
                deny(p, "cannot ask who the caller is");
                pending_free(p);
        }
        return 1;
}
