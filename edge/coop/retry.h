/* SPDX-License-Identifier: Apache-2.0
 *
 * How many retries may reach the cloud: a token bucket over all generations of this edge, so that a
 * cloud in trouble hears no more of us than it can bear (the aim of gRPC's proposal A6, with a
 * place in line instead of a refusal). Pure: time comes in. One thread, the caller's memory.
 */
#ifndef SHOAL_COOP_RETRY_H
#define SHOAL_COOP_RETRY_H

#include <stdint.h>

typedef struct shoal_retry_bucket {
    double burst; /* retries at once after a pause, at least 1 */
    double per_s; /* and from then on, above 0 */
    double level; /* below 0: those who wait in line */
    uint64_t at_ms;
} shoal_retry_bucket;

/* Full. */
void shoal_retry_bucket_init(shoal_retry_bucket *bucket, double burst, double per_s,
                             uint64_t now_ms);
/* One retry is charged. Returns for how many ms it must wait, 0: none; its place is its own. */
uint64_t shoal_retry_bucket_take(shoal_retry_bucket *bucket, uint64_t now_ms);
/* A retry that was charged and will not be made. */
void shoal_retry_bucket_give_back(shoal_retry_bucket *bucket);

#endif
