/* SPDX-License-Identifier: Apache-2.0
 *
 * What each tenant may use: a default, and other values for some. Immutable once made, any thread.
 */
#ifndef SHOAL_CLOUD_ADMIT_QUOTA_H
#define SHOAL_CLOUD_ADMIT_QUOTA_H

#include "common/base/macros.h"

#include <stdint.h>

enum {
    SHOAL_ADMIT_TENANT_BYTES = 128, /* of a tenant's name, its end included */
    SHOAL_ADMIT_OVERRIDES_MAX = 1024
};

/* 0: no limit but the node's. */
typedef struct shoal_admit_quota {
    uint32_t n_sessions;   /* at once */
    uint32_t tokens_per_s; /* in and out: prompts, drafts and what is generated */
    uint32_t tokens_burst; /* what a full bucket holds; 0: ten seconds' worth */
    uint64_t kv_bytes;     /* of all its sessions together, at the length they asked for */
} shoal_admit_quota;

typedef struct shoal_admit_quotas shoal_admit_quotas;

/* overrides: entries divided by ';' or line ends, each a name and what differs for it:
 *     spiffe://site-7/gw-3 sessions=8 tokens_per_s=500 tokens_burst=5000 kv_mib=64
 * A name that ends in '*' stands for every tenant that begins like it, each with a quota of its
 * own; the longest match counts, and a whole name before any of those. "" or NULL: none.
 * SHOAL_E_INVALID and SHOAL_E_LIMIT name the entry. */
shoal_status shoal_admit_quotas_new(const shoal_admit_quota *fallback, const char *overrides,
                                    shoal_admit_quotas **ret_quotas,
                                    shoal_err *err) SHOAL_MUST_CHECK;
void shoal_admit_quotas_free(shoal_admit_quotas *quotas);
SHOAL_DEFINE_CLEANUP(shoal_admit_quotas, shoal_admit_quotas_free)

/* Valid as long as quotas. */
const shoal_admit_quota *shoal_admit_quotas_find(const shoal_admit_quotas *quotas,
                                                 const char *tenant);

#endif
