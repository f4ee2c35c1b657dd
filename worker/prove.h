#pragma once

/* What a verification by restoring leaves behind when it is killed. */

#include "worker/work.h"

/* Removes such directories, but those of running workers. Failures are logged. */
void prove_sweep(Work *w);
