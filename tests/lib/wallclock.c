/*
 * Preloaded into an agent: its real time, its time since boot and its monotonic time are off by so
 * many seconds as the file $WALLCLOCK says (three numbers of eight bytes). The machine's clock
 * stays as it is, and so do the kernel's timers: a loop sees that one is due when something else
 * wakes it.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static const volatile int64_t *shift(void) {
        static const int64_t none[3] = { 0, 0, 0 };
        static const volatile int64_t *mapped;
        const char *path = getenv("WALLCLOCK");

        if (!mapped) {
                int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
                void *p = fd < 0 ? MAP_FAILED
                                 : mmap(NULL, sizeof(none), PROT_READ, MAP_SHARED, fd, 0);

                mapped = p == MAP_FAILED ? none : p;
        }
        return mapped;
}

int clock_gettime(clockid_t id, struct timespec *ts) {
        static int (*real)(clockid_t, struct timespec *);
        int r;

        if (!real)
                real = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
        r = real(id, ts);
        if (r == 0 && id == CLOCK_REALTIME)
                ts->tv_sec += shift()[0];
        if (r == 0 && id == CLOCK_BOOTTIME)
                ts->tv_sec += shift()[1];
        if (r == 0 && id == CLOCK_MONOTONIC)
                ts->tv_sec += shift()[2];
        return r;
}
