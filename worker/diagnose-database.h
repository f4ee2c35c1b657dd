#pragma once

/* Databases of one service: how many, whose, in which mode, and which cannot be held. */

#include "worker/diagnose.h"
#include "worker/source.h"

/* `s` has been discovered. Reads the first bytes of each database, and locks none. */
void diagnose_databases(Diagnosis *d, const ConfigService *c, const Source *s);
