#pragma once

/*
 * The units of a service around a swap. Without systemd on the bus a service that names units is
 * refused: nothing else can promise that they are down.
 */

#include "base/config.h"
#include "base/fail.h"

/* FAIL_NOT_RESTORABLE naming the unit when they cannot be stopped and started from here. */
int units_check(const ConfigService *service, Failure *reterr);
