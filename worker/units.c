#include "worker/units.h"

#include <errno.h>
#include <stddef.h>
#include <systemd/sd-bus.h>

#define SYSTEMD_NAME "org.freedesktop.systemd1"

/* Without an answer there is nobody who could stop a unit. */
static bool systemd_is_there(void) {
        sd_bus *bus = NULL;
        bool found = false;

        if (sd_bus_open_system(&bus) >= 0)
                found = sd_bus_get_name_creds(bus, SYSTEMD_NAME, 0, NULL) >= 0;
        sd_bus_flush_close_unref(bus);
        return found;
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
