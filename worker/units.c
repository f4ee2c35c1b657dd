#include "worker/units.h"

#include <errno.h>
#include <stddef.h>

int units_check(const ConfigService *service, Failure *reterr) {
        const char *unit =
                service->units.n > 0 ? service->units.items[0] : service->health_check_unit;

        if (!unit)
                return 0;
        return fail_set(
                reterr, FAIL_NOT_RESTORABLE, EOPNOTSUPP,
                "service %s: unit %s would have to be stopped, and there is no systemd on the "
                "bus that could; restore aside with --into, or take Unit= out of %s and stop "
                "the service yourself",
                service->name, unit, service->file);
}
