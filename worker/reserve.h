#pragma once

/*
 * A little room in the worker's state that only those use who make room. State and repository often
 * lie on one disk; where it is full, deleting must still work, and the index cannot even be opened
 * without some pages.
 */

#include <stdbool.h>

/* Takes the room while there is enough. A disk that has none is no failure. */
void reserve_make(int state_fd);

/* Gives it up. True if there was any. */
bool reserve_use(int state_fd);
