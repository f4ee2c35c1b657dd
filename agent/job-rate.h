#pragma once

/*
 * How fast a job is: bytes a second, smoothed over some seconds, so that what is told about its end
 * does not jump.
 */

#include <stdint.h>

typedef struct JobRate {
        uint64_t usec, bytes; /* where it was measured last (monotonic) */
        double per_sec;       /* 0: not measured yet */
} JobRate;

/* A job has done `bytes` in all at the time `now` (monotonic). Fewer than before begin anew. */
void job_rate_add(JobRate *r, uint64_t now, uint64_t bytes);

/* Bytes a second; 0 while unknown, and when nothing has been heard for long. */
uint64_t job_rate_now(const JobRate *r, uint64_t now);

/* How long `bytes` more take, 0 while unknown or absurdly long. */
uint64_t job_rate_left_usec(const JobRate *r, uint64_t now, uint64_t bytes);
