#pragma once

/*
 * What keeps the units of a restore from being started, by whomever, while its data may be a mix: a
 * drop-in in /run for each, which wants that a flag of the restore is not there. All of it is gone
 * after a reboot. docs/adr/0014-units.md says why no unit is masked.
 */

#include "worker/intent.h"

/* Drop-ins and flag; in force once systemd has read its unit files again. */
int unit_hold_write(const Intent *i, Failure *reterr);

/* True if this boot has drop-ins of it. */
bool unit_hold_exists(const Intent *i);

/* Takes the flag away: the units can be started at once. */
int unit_hold_lift(const Intent *i, Failure *reterr);

/* Takes the drop-ins away; systemd forgets them when it next reads its unit files. */
int unit_hold_remove(const Intent *i, Failure *reterr);

/* Makes systemd read its unit files where its bus is not up yet: early in boot. */
int unit_hold_reload_early(Failure *reterr);
