#pragma once

/*
 * Time: microseconds, and RFC 3339 in UTC.
 */

#include <stdint.h>

#define USEC_PER_SEC  UINT64_C(1000000)
#define USEC_PER_MSEC UINT64_C(1000)

uint64_t clock_realtime_usec(void);
uint64_t clock_monotonic_usec(void);
uint64_t clock_boottime_usec(void); /* monotonic, and goes on while the machine sleeps */

/* Real time `usec` ago; 0 if the clock stands before that. */
uint64_t clock_ago_usec(uint64_t usec);

/* "2024-01-15T02:00:00Z"; empty for 0. */
#define CLOCK_TEXT_MAX 32
void clock_format(uint64_t usec, char ret[CLOCK_TEXT_MAX]);

/*
 * The same with nine digits of a second, for any time that a file may have: also before 1970 and
 * after 9999. A time whose year no calendar reaches is "@" and its seconds.
 */
#define CLOCK_NSEC_TEXT_MAX 64
void clock_format_nsec(int64_t sec, uint32_t nsec, char ret[CLOCK_NSEC_TEXT_MAX]);

/* The reverse of clock_format(). 0 or -EINVAL. */
int clock_parse(const char *text, uint64_t *ret);
