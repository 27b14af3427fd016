/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/coop/retry.h"

#include "common/base/macros.h"

#include <math.h>

void shoal_retry_bucket_init(shoal_retry_bucket *bucket, double burst, double per_s,
                             uint64_t now_ms)
{
    *bucket = (shoal_retry_bucket){.burst = burst, .per_s = per_s, .level = burst, .at_ms = now_ms};
}

uint64_t shoal_retry_bucket_take(shoal_retry_bucket *bucket, uint64_t now_ms)
{
    if (now_ms > bucket->at_ms) {
        double filled = bucket->level + (double)(now_ms - bucket->at_ms) * bucket->per_s / 1000.0;
        bucket->level = SHOAL_MIN(filled, bucket->burst);
        bucket->at_ms = now_ms;
    }
    bucket->level -= 1.0;
    return bucket->level >= 0 ? 0 : (uint64_t)ceil(-bucket->level * 1000.0 / bucket->per_s);
}

void shoal_retry_bucket_give_back(shoal_retry_bucket *bucket)
{
    bucket->level = SHOAL_MIN(bucket->level + 1.0, bucket->burst);
}
