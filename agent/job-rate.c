#include "agent/job-rate.h"

#include "base/clock.h"

#define MEASURE_USEC USEC_PER_SEC        /* shorter spans say nothing */
#define SMOOTH_USEC  (5 * USEC_PER_SEC)  /* what is older than that counts less */
#define SILENCE_USEC (15 * USEC_PER_SEC) /* a rate without news is none */
#define LEFT_MAX     (UINT64_C(366) * 86400 * USEC_PER_SEC) /* as good as unknown */

void job_rate_add(JobRate *r, uint64_t now, uint64_t bytes) {
        uint64_t span = now - r->usec;
        double rate, weight;

        if (r->usec != 0 && bytes >= r->bytes && span < MEASURE_USEC)
                return;
        if (r->usec != 0 && bytes >= r->bytes) {
                rate = (double) (bytes - r->bytes) * (double) USEC_PER_SEC / (double) span;
                weight = (double) span / (double) (span + SMOOTH_USEC);
                r->per_sec = r->per_sec > 0 ? r->per_sec * (1 - weight) + rate * weight : rate;
        }
        r->usec = now;
        r->bytes = bytes;
}

uint64_t job_rate_now(const JobRate *r, uint64_t now) {
        return r->usec == 0 || now - r->usec > SILENCE_USEC ? 0 : (uint64_t) r->per_sec;
}

uint64_t job_rate_left_usec(const JobRate *r, uint64_t now, uint64_t bytes) {
        uint64_t rate = job_rate_now(r, now);
        double left;

        if (rate == 0)
                return 0;
        left = (double) bytes / (double) rate * (double) USEC_PER_SEC;
        return left < (double) LEFT_MAX ? (uint64_t) left : 0;
}
