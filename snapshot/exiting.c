#include "snapshot/exiting.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"

#define TRIES     200
#define STEP_USEC 10000
#define EXITING   0x4u /* PF_EXITING among the flags of proc(5)'s stat */

typedef enum TaskEnd { TASK_LIVES, TASK_ENDS, TASK_ENDED } TaskEnd;

static TaskEnd look(int procfd, pid_t tid) {
        _cleanup_close_ int fd = -1;
        char path[32], text[1024];
        const char *after;
        unsigned flags;
        ssize_t n;
        char state;

        (void) snprintf(path, sizeof(path), "%d/stat", tid);
        fd = openat(procfd, path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : fd_read_full(fd, text, sizeof(text) - 1);
        if (n <= 0)
                return TASK_ENDED; /* the file is for everybody: it is not there */
        text[n] = 0;
        after = strrchr(text, ')'); /* the name before it may hold anything */
        if (!after || sscanf(after, ") %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
                return TASK_LIVES;
        if (state == 'Z' || state == 'X')
                return TASK_ENDED;
        return flags & EXITING ? TASK_ENDS : TASK_LIVES;
}

bool exiting_wait(int procfd, pid_t tid) {
        for (unsigned i = 0; i < TRIES; i++) {
                TaskEnd end = look(procfd, tid);

                if (end != TASK_ENDS)
                        return end == TASK_ENDED;
                (void) usleep(STEP_USEC); /* a signal makes it shorter */
        }
        return false;
}
