#include "worker/reserve.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"

#define RESERVE_NAME  "reserve"
#define RESERVE_BYTES ((off_t) 1 << 20)

void reserve_make(int state_fd) {
        _cleanup_close_ int fd =
                openat(state_fd, RESERVE_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0 || st.st_size >= RESERVE_BYTES)
                return;
        if (posix_fallocate(fd, 0, RESERVE_BYTES) != 0)
                (void) unlinkat(state_fd, RESERVE_NAME, 0); /* half of it would look like all */
}

bool reserve_use(int state_fd) {
        return unlinkat(state_fd, RESERVE_NAME, 0) == 0;
}
