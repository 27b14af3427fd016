/* SPDX-License-Identifier: Apache-2.0
 *
 * What a cloud node counts, by the names of docs/OPERATIONS.md. The struct holds pointers into a
 * registry; a zeroed struct counts nothing. Updated from any thread.
 */
#ifndef SHOAL_CLOUD_SERVER_METRICS_H
#define SHOAL_CLOUD_SERVER_METRICS_H

#include "cloud/admit/admit.h"
#include "common/base/macros.h"
#include "common/obs/metrics.h"

typedef struct shoal_cloud_metrics {
    shoal_metric *requests_ok;                    /* shoal_requests_total{code="ok"} */
    shoal_metric *requests_invalid;               /* code="invalid_argument" */
    shoal_metric *requests_mismatch;              /* code="failed_precondition" */
    shoal_metric *requests_exhausted;             /* code="resource_exhausted" */
    shoal_metric *requests_deadline;              /* code="deadline_exceeded" */
    shoal_metric *requests_cancelled;             /* code="cancelled": the edge went away */
    shoal_metric *requests_other;                 /* code="other" */
    shoal_metric *refused[SHOAL_ADMIT_N_REASONS]; /* shoal_admission_refused_total{reason=...} */
    shoal_metric *wait_seconds;                   /* shoal_admission_wait_seconds */
    shoal_metric *running;                        /* shoal_requests_running */
    shoal_metric *waiting;          /* shoal_requests_waiting: work that found no place */
    shoal_metric *first_token;      /* shoal_time_to_first_token_seconds */
    shoal_metric *next_token;       /* shoal_time_per_output_token_seconds */
    shoal_metric *tokens_prompt;    /* shoal_tokens_total{kind="prompt",place="cloud"} */
    shoal_metric *tokens_generated; /* kind="generated" */
    shoal_metric *tokens_verified;  /* kind="verified" */
    shoal_metric *tokens_accepted;  /* kind="accepted" */
    shoal_metric *tokens_cached;    /* kind="cached" */
    shoal_metric *kv_usage;         /* shoal_kv_cache_usage_ratio */
    shoal_metric *prefix_tokens;    /* shoal_prefix_hit_tokens_total */
    shoal_metric *prefix_evictions; /* shoal_prefix_evictions_total */
    shoal_metric *prefix_blocks;    /* shoal_prefix_blocks */
    shoal_metric *store_tokens;     /* shoal_store_hit_tokens_total */
    shoal_metric *store_hit;        /* shoal_store_fetches_total{result="hit"} */
    shoal_metric *store_miss;       /* result="miss" */
    shoal_metric *store_late;       /* result="late": what had not come was computed */
    shoal_metric *store_full;       /* result="full": no place for the questions */
    shoal_metric *store_dear;       /* result="dear": computing is predicted to be faster */
    shoal_metric *kv_evictions;     /* shoal_kv_evictions_total */
    shoal_metric *steps;            /* shoal_engine_steps_total */
    shoal_metric *step_seconds;     /* shoal_engine_step_seconds */
    shoal_metric *step_rows;        /* shoal_engine_step_rows */
} shoal_cloud_metrics;

/* Registers everything. registry may be NULL: nothing is counted then. */
shoal_status shoal_cloud_metrics_init(shoal_metrics *registry,
                                      shoal_cloud_metrics *ret_metrics) SHOAL_MUST_CHECK;

#endif
