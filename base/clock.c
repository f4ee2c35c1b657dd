#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static uint64_t clock_read(clockid_t id) {
        struct timespec ts;

        (void) clock_gettime(id, &ts); /* cannot fail for these clocks */
        return (uint64_t) ts.tv_sec * USEC_PER_SEC + (uint64_t) ts.tv_nsec / 1000;
}

uint64_t clock_realtime_usec(void) {
        return clock_read(CLOCK_REALTIME);
}

uint64_t clock_monotonic_usec(void) {
        return clock_read(CLOCK_MONOTONIC);
}

uint64_t clock_boottime_usec(void) {
        return clock_read(CLOCK_BOOTTIME);
}

uint64_t clock_ago_usec(uint64_t usec) {
        uint64_t now = clock_realtime_usec();

        return now > usec ? now - usec : 0;
}

void clock_format(uint64_t usec, char ret[CLOCK_TEXT_MAX]) {
        time_t t = (time_t) (usec / USEC_PER_SEC);
        struct tm tm;

        ret[0] = 0;
        if (usec > 0 && gmtime_r(&t, &tm))
                (void) strftime(ret, CLOCK_TEXT_MAX, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

void clock_format_nsec(int64_t sec, uint32_t nsec, char ret[CLOCK_NSEC_TEXT_MAX]) {
        time_t t = (time_t) sec;
        struct tm tm;

        if (!gmtime_r(&t, &tm)) {
                (void) snprintf(ret, CLOCK_NSEC_TEXT_MAX, "@%lld.%09u", (long long) sec, nsec);
                return;
        }
        (void) snprintf(ret, CLOCK_NSEC_TEXT_MAX, "%04lld-%02d-%02dT%02d:%02d:%02d.%09uZ",
                        tm.tm_year + 1900LL, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
                        tm.tm_sec, nsec);
}

int clock_parse(const char *text, uint64_t *ret) {
        struct tm tm = { 0 };
        const char *end = strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm);
        char back[CLOCK_TEXT_MAX];
        time_t t;

        if (!end || *end)
                return -EINVAL;
        t = timegm(&tm);
        if (t <= 0)
                return -EINVAL;
        /* strptime() takes blanks, missing digits and the 30th of February. */
        clock_format((uint64_t) t * USEC_PER_SEC, back);
        if (strcmp(back, text) != 0)
                return -EINVAL;
        *ret = (uint64_t) t * USEC_PER_SEC;
        return 0;
}
