#include "worker/units.h"

#include <errno.h>
#include <stddef.h>

#include "worker/systemd.h"

/* Without an answer there is nobody who could stop a unit. */
static bool systemd_is_there(void) {
        _cleanup_(systemd_closep) Systemd *systemd = NULL;
        Failure ignored = FAILURE_INIT;

        return systemd_open(&systemd, &ignored) >= 0;
}

int units_check(const ConfigService *service, Failure *reterr) {
        const char *unit =
                service->units.n > 0 ? service->units.items[0] : service->health_check_unit;

        if (!unit)
                return 0;
        return fail_set(reterr, FAIL_NOT_RESTORABLE, EOPNOTSUPP,
                        "service %s: unit %s would have to be stopped and started around the swap, "
                        "and %s; restore aside with --into, or stop the service yourself and take "
                        "Unit= and HealthCheckUnit= out of %s for the while",
                        service->name, unit,
                        systemd_is_there() ? "this version does not do that yet"
                                           : "there is no systemd on the bus that could",
                        service->file);
}
