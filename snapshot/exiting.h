#pragma once

/*
 * Processes that are at their end. The kernel no longer shows what they hold, even to root, from
 * the moment they give up their memory until they have closed their files.
 */

#include <stdbool.h>
#include <sys/types.h>

/*
 * True once the task holds nothing any more: it has ended, or is a zombie. Waits up to two seconds
 * for one that is ending; false at once for one that is not.
 */
bool exiting_wait(int procfd, pid_t tid);
