/*
 * The Manager interface: one table of members, one way in. Every method is marked unprivileged
 * because sd-bus would otherwise look at the caller's capabilities itself, synchronously;
 * authorisation is bus-auth.c's alone.
 */

#include <errno.h>
#include <string.h>

#include "agent/bus-internal.h"
#include "base/names.h"

static int not_supported(Manager *m, sd_bus_message *call, uint32_t uid, Failure *reterr) {
        return -EOPNOTSUPP;
}

static const BusMethod methods[] = {
        { "CreateBackup", bus_backup_create },
        { "ListBackups", bus_backup_list },
        { "GetBackup", bus_backup_get },
        { "DeleteBackup", bus_backup_delete },
        { "PinBackup", bus_backup_pin },
        { "PlanRestore", bus_restore_plan },
        { "RestoreBackup", bus_restore_start },
        { "ListRestores", bus_restore_list },
        { "RollbackRestore", bus_restore_rollback },
        { "ConfirmRestore", bus_restore_confirm },
        { "VerifyBackup", bus_backup_verify },
        { "OpenBackup", bus_read_open },
        { "ListFiles", bus_read_list },
        { "DiffBackups", bus_read_diff },
        { "Prune", bus_repository_prune },
        { "ImportBackup", bus_repository_import },
        { "GetRepository", bus_repository_get },
        { "SetSchedule", bus_schedule_set },
        { "GetSchedule", bus_schedule_get },
        { "ListSchedules", bus_schedule_list },
        { "DeleteSchedule", bus_schedule_delete },
        { "RunSchedule", bus_schedule_run },
        { "ListJobs", bus_job_list },
        { "GetJob", bus_job_get },
        { "ExportRecoveryKey", bus_key_export },
        { "ProveRecoveryKey", bus_key_prove },
        { "ForgetPrivateKey", bus_key_forget },
        { "Diagnose", bus_diagnose },
        { "GetStatus", bus_status_get },
        { "Reload", bus_status_reload },
};

static int on_call(sd_bus_message *call, void *userdata, sd_bus_error *reterr_error) {
        static const BusMethod other = { "(other)", not_supported };
        const BusMethod *method = &other;

        for (size_t i = 0; i < ELEMENTSOF(methods); i++)
                if (strcmp(methods[i].member, sd_bus_message_get_member(call)) == 0)
                        method = methods + i;
        return bus_auth_call(userdata, call, method);
}

#define OPEN                        SD_BUS_VTABLE_UNPRIVILEGED
#define PROPERTY(name, type, flags) SD_BUS_PROPERTY(name, type, bus_status_property, 0, flags)
#define CHANGES                     SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE

/* clang-format off */
const sd_bus_vtable bus_manager_vtable[] = {
        SD_BUS_VTABLE_START(0),
        PROPERTY("Version", "s", SD_BUS_VTABLE_PROPERTY_CONST),
        PROPERTY("State", "s", CHANGES),
        PROPERTY("Services", "as", CHANGES),
        PROPERTY("RunningJobs", "ao", CHANGES),
        PROPERTY("BackupCount", "t", CHANGES),
        PROPERTY("StoredBytes", "t", CHANGES),
        PROPERTY("RepositoryFreeBytes", "t", CHANGES),
        PROPERTY("LastSuccessUSec", "t", CHANGES),
        PROPERTY("Overdue", "as", CHANGES),
        PROPERTY("SuccessRate", "d", CHANGES),
        PROPERTY("RestoreSuccessRate", "d", CHANGES),

        SD_BUS_METHOD_WITH_ARGS("CreateBackup", SD_BUS_ARGS("s", type, "s", name, "a{sv}", options), SD_BUS_RESULT("s", backup_id, "o", job), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("ListBackups", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("u", total, "aa{sv}", backups), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("GetBackup", SD_BUS_ARGS("s", id), SD_BUS_RESULT("a{sv}", backup), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("DeleteBackup", SD_BUS_ARGS("s", id, "a{sv}", options), SD_BUS_RESULT("o", job), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("PinBackup", SD_BUS_ARGS("s", id, "b", pinned), SD_BUS_NO_RESULT, on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("PlanRestore", SD_BUS_ARGS("s", id, "s", restore_type, "a{sv}", options), SD_BUS_RESULT("a{sv}", plan), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("RestoreBackup", SD_BUS_ARGS("s", id, "s", restore_type, "a{sv}", options), SD_BUS_RESULT("s", restore_id, "o", job), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("ListRestores", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("aa{sv}", restores), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("RollbackRestore", SD_BUS_ARGS("s", restore_id, "a{sv}", options), SD_BUS_RESULT("o", job), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("ConfirmRestore", SD_BUS_ARGS("s", restore_id), SD_BUS_RESULT("o", job), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("VerifyBackup", SD_BUS_ARGS("s", id, "a{sv}", options), SD_BUS_RESULT("o", job), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("OpenBackup", SD_BUS_ARGS("s", id, "a{sv}", options), SD_BUS_RESULT("h", stream, "o", job), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("ListFiles", SD_BUS_ARGS("s", id, "s", service, "s", path, "a{sv}", options), SD_BUS_RESULT("h", stream, "o", job), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("DiffBackups", SD_BUS_ARGS("s", a, "s", b, "a{sv}", options), SD_BUS_RESULT("h", stream, "o", job), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("Prune", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("o", job), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("ImportBackup", SD_BUS_ARGS("h", stream, "s", name, "a{sv}", options), SD_BUS_RESULT("s", backup_id, "o", job), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("GetRepository", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("a{sv}", repository), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("SetSchedule", SD_BUS_ARGS("s", name, "a{sv}", schedule), SD_BUS_NO_RESULT, on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("GetSchedule", SD_BUS_ARGS("s", name), SD_BUS_RESULT("a{sv}", schedule), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("ListSchedules", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("aa{sv}", schedules), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("DeleteSchedule", SD_BUS_ARGS("s", name), SD_BUS_NO_RESULT, on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("RunSchedule", SD_BUS_ARGS("s", name), SD_BUS_RESULT("s", backup_id, "o", job), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("ListJobs", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("aa{sv}", jobs), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("GetJob", SD_BUS_ARGS("u", id), SD_BUS_RESULT("a{sv}", job), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("ExportRecoveryKey", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("h", key), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("ProveRecoveryKey", SD_BUS_ARGS("h", key), SD_BUS_NO_RESULT, on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("ForgetPrivateKey", SD_BUS_ARGS("a{sv}", options), SD_BUS_NO_RESULT, on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("Diagnose", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("a{sv}", report), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("GetStatus", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("a{sv}", status), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("Reload", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_call, OPEN),

        SD_BUS_SIGNAL_WITH_ARGS("JobNew", SD_BUS_ARGS("u", id, "o", job, "s", type, "s", backup_id), 0),
        SD_BUS_SIGNAL_WITH_ARGS("JobRemoved", SD_BUS_ARGS("u", id, "o", job, "s", result, "a{sv}", summary), 0),
        SD_BUS_SIGNAL_WITH_ARGS("BackupAdded", SD_BUS_ARGS("s", backup_id), 0),
        SD_BUS_SIGNAL_WITH_ARGS("BackupRemoved", SD_BUS_ARGS("s", backup_id), 0),
        SD_BUS_SIGNAL_WITH_ARGS("ServiceOverdue", SD_BUS_ARGS("s", service, "t", since_usec), 0),
        SD_BUS_VTABLE_END,
};
/* clang-format on */
