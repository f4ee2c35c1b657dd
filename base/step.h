#pragma once

/*
 * Named steps: the points at which the fault tests stop a program. HOLDPOINT_STEP is set by root's
 * tests alone (a worker's environment is root's): "NAME=kill", "NAME=stop" (SIGSTOP) or
 * "NAME=exit", several separated by commas; NAME may end in "@N" for its Nth passing. Without the
 * variable a step costs one comparison.
 */

/* Passes the step `name`; may not return. */
void step(const char *name);
