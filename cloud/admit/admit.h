/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether a session may begin now, and when to ask again if not. Pure: the time and the load come
 * in as arguments, an answer goes out, and nothing is waited for. What it holds is bounded: a table
 * of tenants with what they use. One thread at a time; whoever shares it brings a lock.
 *
 * In this order: what can never fit is refused for good, naming the limit; then the node's own
 * places; then the tenant's quota; then the predicted wait, for computing and for pages. A refusal
 * says when asking again makes sense, from what was measured: how long sessions last, how fast a
 * tenant's bucket fills, how long the work ahead takes.
 *
 * Pages of KV are promised: a session's prompt and all that it may still say. When a new one does
 * not fit beside those that there are, it has to wait until some of them end. How long a page is
 * held, from its promise to the end, is measured: the time that pages were held, of those that are
 * still held too, by the pages that came free (life testing; Epstein and Sobel, JASA 48, 1953),
 * beside what one session would take that says all it may, one token a step. Of n sessions the m-th
 * ends after 1/n + 1/(n-1) + ... + 1/(n-m+1) of that (Renyi, Acta Math. Hung. 4, 1953).
 *
 * Tokens per second are a token bucket that is paid afterwards: a session begins while the bucket
 * is not empty, and what it then costs may leave a debt, which has to be paid off before the next
 * one. Over any long time a tenant gets its rate; a single session is never cut in the middle.
 */
#ifndef SHOAL_CLOUD_ADMIT_ADMIT_H
#define SHOAL_CLOUD_ADMIT_ADMIT_H

#include "cloud/admit/quota.h"

#include <stdbool.h>

enum {
    SHOAL_ADMIT_SESSIONS_MAX = 65536,
    SHOAL_ADMIT_TEXT_BYTES = 256,
    SHOAL_ADMIT_RETRY_MS_MIN = 100,
    SHOAL_ADMIT_RETRY_MS_MAX = 60000
};

typedef struct shoal_admit_settings {
    size_t n_sessions_max;   /* of the node, 1..SHOAL_ADMIT_SESSIONS_MAX */
    size_t n_tokens_max;     /* one session can hold at most: context and KV pool */
    uint64_t kv_bytes_token; /* of one token over all layers; 0: unknown, nothing is counted */
    size_t n_pages;          /* of the KV pool; 0: there is none, no page is waited for */
    uint64_t wait_max_ms;    /* longest predicted wait; a shorter deadline counts instead; 0: any */
} shoal_admit_settings;

/* What the node is busy with. */
typedef struct shoal_admit_load {
    uint64_t n_rows_waiting; /* tokens that sessions wait to have computed */
    size_t n_rows_step;      /* of those, computed in one step of the engine; 0: unknown */
    size_t n_decoding;       /* sessions with one row in the steps beside them, */
    size_t n_samples_step;   /* at most so many in each, in turn; 0: all in every one */
    double fixed_us;         /* a step takes fixed + rows * row; both 0: unknown */
    double row_us;
    double sample_us;      /* what such a session's sample and answer take besides its row */
    size_t n_pages_shared; /* counted once for each session that holds one, but for the first */
} shoal_admit_load;

typedef enum shoal_admit_reason {
    SHOAL_ADMIT_OK,
    SHOAL_ADMIT_NEVER_FITS,      /* more tokens than the node can hold for anybody */
    SHOAL_ADMIT_NEVER_QUOTA,     /* more KV than the tenant may ever have */
    SHOAL_ADMIT_SESSIONS,        /* all places of the node are taken */
    SHOAL_ADMIT_TENANT_SESSIONS, /* all places of the tenant are taken */
    SHOAL_ADMIT_TENANT_KV,
    SHOAL_ADMIT_TENANT_TOKENS, /* the bucket is empty */
    SHOAL_ADMIT_WAIT,          /* the predicted wait passes deadline or wait_max_ms */
    SHOAL_ADMIT_KV,            /* the one for pages does */
    SHOAL_ADMIT_N_REASONS
} shoal_admit_reason;
const char *shoal_admit_reason_name(shoal_admit_reason reason); /* "never_fits", ... */

typedef struct shoal_admit_request {
    const char *tenant;    /* identity of the certificate, "" without; cut to 127 bytes */
    uint32_t n_tokens_max; /* the session will hold, prompt included */
    uint32_t n_prompt;     /* of these; 0: not known yet */
    uint32_t deadline_ms;  /* from now, 0: none */
    size_t n_pages;        /* that n_tokens_max take, at most settings.n_pages */
} shoal_admit_request;

/* An admitted session: give it back with close. A zeroed one is none. */
typedef struct shoal_admit_ticket {
    size_t tenant; /* slot + 1 */
    uint64_t kv_bytes;
    uint64_t opened_ms;
    size_t n_pages;
    uint32_t n_answer; /* tokens that it may make */
} shoal_admit_ticket;

typedef struct shoal_admit_answer {
    shoal_admit_reason reason;
    uint64_t retry_after_ms;           /* 0: asking again is of no use, or OK */
    uint64_t wait_ms;                  /* predicted */
    char text[SHOAL_ADMIT_TEXT_BYTES]; /* the limit and the remedy; "" for OK */
} shoal_admit_answer;

typedef struct shoal_admit shoal_admit;

/* Takes the quotas on success alone. SHOAL_E_INVALID: n_sessions_max. SHOAL_E_NOMEM. */
shoal_status shoal_admit_new(const shoal_admit_settings *settings, shoal_admit_quotas *take_quotas,
                             shoal_admit **ret_admit) SHOAL_MUST_CHECK;
void shoal_admit_free(shoal_admit *admit);
SHOAL_DEFINE_CLEANUP(shoal_admit, shoal_admit_free)

/* What may change while sessions run. Those over a lower limit stay. */
void shoal_admit_configure(shoal_admit *admit, uint64_t wait_max_ms,
                           shoal_admit_quotas *take_quotas);

/* The decision. With SHOAL_ADMIT_OK ret_ticket is filled and the session counts. */
shoal_admit_answer shoal_admit_open(shoal_admit *admit, const shoal_admit_request *request,
                                    const shoal_admit_load *load, uint64_t now_ms,
                                    shoal_admit_ticket *ret_ticket);
/* The session had n tokens computed. */
void shoal_admit_charge(shoal_admit *admit, const shoal_admit_ticket *ticket, uint64_t n,
                        uint64_t now_ms);
/* The session is over; ticket is none afterwards. None is ignored. */
void shoal_admit_close(shoal_admit *admit, shoal_admit_ticket *ticket, uint64_t now_ms);

size_t shoal_admit_n_sessions(const shoal_admit *admit);

/* Until the work ahead is computed, ms; 0 while nothing is known. */
uint64_t shoal_admit_wait_ms(const shoal_admit_load *load);
/* The same, or until n_pages more are there, if that is longer; SIZE_MAX: as many as a session has
 * on average. */
uint64_t shoal_admit_wait_all_ms(shoal_admit *admit, const shoal_admit_load *load, size_t n_pages,
                                 uint64_t now_ms);

#endif
