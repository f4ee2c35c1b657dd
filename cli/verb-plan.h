#pragma once

/*
 * "restore --dry-run": what a restore would do, or why it cannot be done. Nothing is touched.
 */

#include "cli/client.h"

/* `call` has the arguments and options of the restore without its confirmation. An exit code, or a
 * negative errno with the error set. */
int plan_restore(Cli *cli, ClientCall *call);
