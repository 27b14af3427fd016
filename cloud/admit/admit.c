/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/admit/admit.h"

#include "common/base/mem.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    /* Slots beyond one per session remember what idle tenants owe. */
    TENANTS_PER_SESSION = 4,
    TENANTS_MIN = 64,
    BURST_S = 10,
    FIRST_RETRY_MS = 1000 /* before any session has ended */
};

static const double DURATION_SHARE = 0.1; /* weight of the last session in the mean */

typedef struct tenant {
    char name[SHOAL_ADMIT_TENANT_BYTES];
    shoal_admit_quota quota;
    size_t n_sessions;
    uint64_t kv_bytes;
    double level;    /* of the bucket, tokens; below 0: a debt */
    uint64_t at_ms;  /* level is of then */
    size_t next;     /* in the chain of its hash, slot + 1 */
    uint64_t use_ms; /* last seen */
    bool used;
} tenant;

struct shoal_admit {
    shoal_admit_settings settings;
    shoal_admit_quotas *quotas;
    size_t n_sessions;
    double duration_ms; /* mean of a session, 0: none has ended */
    size_t n_pages;     /* promised to the sessions, */
    uint64_t n_answer;  /* and tokens that they may make */
    double held;        /* pages times ms that they were promised, fading, */
    double n_freed;     /* and pages that came free */
    uint64_t held_ms;   /* held is of then */
    size_t n_tenants;
    tenant *tenants;
    size_t n_chains;
    size_t *chains; /* slot + 1 of the first */
};

const char *shoal_admit_reason_name(shoal_admit_reason reason)
{
    static const char *const names[SHOAL_ADMIT_N_REASONS] = {
        "ok",        "never_fits",    "never_quota", "sessions", "tenant_sessions",
        "tenant_kv", "tenant_tokens", "wait",        "kv"};
    SHOAL_ASSERT(reason < SHOAL_ADMIT_N_REASONS);
    return names[reason];
}

/* --- life ------------------------------------------------------------------------------------- */

shoal_status shoal_admit_new(const shoal_admit_settings *settings, shoal_admit_quotas *take_quotas,
                             shoal_admit **ret_admit)
{
    if (settings->n_sessions_max < 1 || settings->n_sessions_max > SHOAL_ADMIT_SESSIONS_MAX) {
        return SHOAL_E_INVALID;
    }
    SHOAL_CLEANUP(shoal_admit_freep) shoal_admit *admit = shoal_calloc(1, sizeof(*admit));
    if (admit == NULL) {
        return SHOAL_E_NOMEM;
    }
    admit->settings = *settings;
    admit->n_tenants = settings->n_sessions_max * TENANTS_PER_SESSION + TENANTS_MIN;
    admit->n_chains = admit->n_tenants;
    admit->tenants = shoal_calloc(admit->n_tenants, sizeof(*admit->tenants));
    admit->chains = shoal_calloc(admit->n_chains, sizeof(*admit->chains));
    if (admit->tenants == NULL || admit->chains == NULL) {
        return SHOAL_E_NOMEM;
    }
    admit->quotas = take_quotas;
    *ret_admit = SHOAL_STEAL(admit);
    return SHOAL_OK;
}

void shoal_admit_free(shoal_admit *admit)
{
    if (admit != NULL) {
        shoal_admit_quotas_free(admit->quotas);
        shoal_free(admit->tenants);
        shoal_free(admit->chains);
        shoal_free(admit);
    }
}

size_t shoal_admit_n_sessions(const shoal_admit *admit)
{
    return admit->n_sessions;
}

/* --- buckets ---------------------------------------------------------------------------------- */

static double burst_of(const shoal_admit_quota *quota)
{
    return quota->tokens_burst > 0 ? (double)quota->tokens_burst
                                   : (double)quota->tokens_per_s * BURST_S;
}

static void fill(tenant *t, uint64_t now_ms)
{
    if (now_ms > t->at_ms) {
        t->level += (double)(now_ms - t->at_ms) * (double)t->quota.tokens_per_s / 1000.0;
        t->at_ms = now_ms;
    }
    t->level = SHOAL_MIN(t->level, burst_of(&t->quota));
}

void shoal_admit_configure(shoal_admit *admit, uint64_t wait_max_ms,
                           shoal_admit_quotas *take_quotas)
{
    admit->settings.wait_max_ms = wait_max_ms;
    shoal_admit_quotas_free(admit->quotas);
    admit->quotas = take_quotas;
    for (size_t i = 0; i < admit->n_tenants; i++) {
        tenant *t = &admit->tenants[i];
        if (!t->used) {
            continue;
        }
        bool had_rate = t->quota.tokens_per_s > 0;
        t->quota = *shoal_admit_quotas_find(take_quotas, t->name);
        /* Who had no bucket begins with a full one; a smaller one spills when it is next filled. */
        if (!had_rate) {
            t->level = burst_of(&t->quota);
        }
    }
}

/* --- tenants ---------------------------------------------------------------------------------- */

/* FNV-1a, 64 bits. Names come from certificates that the operator's authority has signed. */
static size_t chain_of(const shoal_admit *admit, const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *name != '\0'; name++) {
        hash = (hash ^ (uint8_t)*name) * 0x100000001b3u;
    }
    return (size_t)(hash % admit->n_chains);
}

static void unchain(shoal_admit *admit, size_t slot)
{
    size_t *at = &admit->chains[chain_of(admit, admit->tenants[slot].name)];
    while (*at != slot + 1) {
        at = &admit->tenants[*at - 1].next;
    }
    *at = admit->tenants[slot].next;
}

/* A slot nobody uses, else the one of the tenant without sessions that was away longest. There is
 * one: tenants with sessions are fewer than slots. */
static size_t free_slot(const shoal_admit *admit)
{
    size_t best = admit->n_tenants;
    for (size_t i = 0; i < admit->n_tenants; i++) {
        const tenant *t = &admit->tenants[i];
        if (!t->used) {
            return i;
        }
        if (t->n_sessions == 0 &&
            (best == admit->n_tenants || t->use_ms < admit->tenants[best].use_ms)) {
            best = i;
        }
    }
    SHOAL_ASSERT(best < admit->n_tenants);
    return best;
}

static size_t find_tenant(shoal_admit *admit, const char *long_name, uint64_t now_ms)
{
    char name[SHOAL_ADMIT_TENANT_BYTES];
    snprintf(name, sizeof(name), "%s", long_name);
    size_t *chain = &admit->chains[chain_of(admit, name)];
    for (size_t i = *chain; i > 0; i = admit->tenants[i - 1].next) {
        if (strcmp(admit->tenants[i - 1].name, name) == 0) {
            admit->tenants[i - 1].use_ms = now_ms;
            return i - 1;
        }
    }
    size_t slot = free_slot(admit);
    tenant *t = &admit->tenants[slot];
    if (t->used) {
        unchain(admit, slot);
    }
    *t = (tenant){.quota = *shoal_admit_quotas_find(admit->quotas, name),
                  .at_ms = now_ms,
                  .use_ms = now_ms,
                  .next = *chain,
                  .used = true};
    memcpy(t->name, name, sizeof(name));
    t->level = burst_of(&t->quota);
    *chain = slot + 1;
    return slot;
}

/* --- the decision ----------------------------------------------------------------------------- */

/* Rows that decode in a step, and what it takes without those that are waited for. */
static double step_us(const shoal_admit_load *load)
{
    size_t n = load->n_decoding;
    n = load->n_samples_step > 0 ? SHOAL_MIN(n, load->n_samples_step) : n;
    return load->fixed_us + (double)n * (load->row_us + load->sample_us);
}

/* What is no number predicts nothing. */
static uint64_t whole_ms(double ms)
{
    if (!(ms > 0)) {
        return 0;
    }
    return ms < 1e12 ? (uint64_t)ms : (uint64_t)1e12;
}

uint64_t shoal_admit_wait_ms(const shoal_admit_load *load)
{
    double n_rows = (double)load->n_rows_waiting;
    if (n_rows <= 0 || load->n_rows_step == 0) {
        return 0;
    }
    double n_steps = ceil(n_rows / (double)load->n_rows_step);
    /* Where not all can have a sample in a step, its own comes in turn. */
    n_steps += load->n_samples_step > 0
                   ? floor((double)load->n_decoding / (double)load->n_samples_step)
                   : 0.0;
    return whole_ms((n_steps * step_us(load) + n_rows * load->row_us) / 1000.0);
}

/* --- pages ------------------------------------------------------------------------------------ */

static void hold(shoal_admit *admit, uint64_t now_ms)
{
    admit->held += (double)admit->n_pages * (double)(now_ms - SHOAL_MIN(admit->held_ms, now_ms));
    admit->held_ms = SHOAL_MAX(admit->held_ms, now_ms);
}

/* What some poolfuls of pages ago came free counts little. */
static void free_pages(shoal_admit *admit, size_t n)
{
    double n_pool = (double)admit->settings.n_pages;
    if (n > 0 && n_pool > 0) {
        double keep = 1.0 - SHOAL_MIN((double)n / n_pool, 1.0) / 2.0;
        admit->held *= keep;
        admit->n_freed = (admit->n_freed + (double)n) * keep;
    }
    admit->n_pages -= n;
}

/* Until n_pages more are free beside what is promised. hold was called. */
static uint64_t wait_pages_ms(const shoal_admit *admit, const shoal_admit_load *load,
                              size_t n_pages)
{
    size_t n_held = admit->n_pages - SHOAL_MIN(load->n_pages_shared, admit->n_pages);
    if (admit->settings.n_pages == 0 || n_held + n_pages <= admit->settings.n_pages) {
        return 0;
    }
    double n = (double)admit->n_sessions;
    double mean = (double)admit->n_pages / n;
    double says_all_ms = (double)admit->n_answer / n * step_us(load) / 1000.0;
    double lasts_ms = (admit->held + mean * says_all_ms) / (admit->n_freed + mean);
    double over = (double)(n_held + n_pages - admit->settings.n_pages) / (double)n_held;
    size_t n_ends = (size_t)ceil(SHOAL_MIN(over, 1.0) * n);
    double parts = 0.0;
    for (size_t i = 0; i < n_ends; i++) {
        parts += 1.0 / (n - (double)i);
    }
    return whole_ms(parts * lasts_ms);
}

uint64_t shoal_admit_wait_all_ms(shoal_admit *admit, const shoal_admit_load *load, size_t n_pages,
                                 uint64_t now_ms)
{
    if (n_pages == SIZE_MAX) {
        n_pages = admit->n_sessions > 0 ? admit->n_pages / admit->n_sessions : 0;
    }
    hold(admit, now_ms);
    uint64_t pages_ms = wait_pages_ms(admit, load, n_pages);
    return SHOAL_MAX(shoal_admit_wait_ms(load), pages_ms);
}

static uint64_t clamp_retry(double ms)
{
    if (!(ms > SHOAL_ADMIT_RETRY_MS_MIN)) {
        return SHOAL_ADMIT_RETRY_MS_MIN;
    }
    return ms < SHOAL_ADMIT_RETRY_MS_MAX ? (uint64_t)ms : SHOAL_ADMIT_RETRY_MS_MAX;
}

/* Until one of n sessions ends, on average. */
static uint64_t retry_of_places(const shoal_admit *admit, size_t n)
{
    return admit->duration_ms > 0 ? clamp_retry(admit->duration_ms / (double)SHOAL_MAX(n, 1u))
                                  : FIRST_RETRY_MS;
}

__attribute__((format(printf, 4, 5))) static void refuse(shoal_admit_answer *answer,
                                                         shoal_admit_reason reason,
                                                         uint64_t retry_after_ms,
                                                         const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(answer->text, sizeof(answer->text), format, args);
    va_end(args);
    answer->reason = reason;
    answer->retry_after_ms = retry_after_ms;
}

static void check_fit(const shoal_admit *admit, const shoal_admit_request *request, const tenant *t,
                      uint64_t kv_bytes, shoal_admit_answer *answer)
{
    size_t n_max = admit->settings.n_tokens_max;
    if (request->n_tokens_max > n_max) {
        refuse(answer, SHOAL_ADMIT_NEVER_FITS, 0,
               "open.n_tokens_max is %u, this node holds at most %zu tokens per session "
               "(context.max, kv.max_mib); ask for less",
               request->n_tokens_max, n_max);
    } else if (t->quota.kv_bytes > 0 && kv_bytes > t->quota.kv_bytes) {
        refuse(answer, SHOAL_ADMIT_NEVER_QUOTA, 0,
               "open.n_tokens_max is %u, which takes %llu MiB of KV; this tenant may have %llu "
               "(kv_mib); ask for less",
               request->n_tokens_max, (unsigned long long)((kv_bytes + (1 << 20) - 1) >> 20),
               (unsigned long long)(t->quota.kv_bytes >> 20));
    }
}

static void check_places(const shoal_admit *admit, const tenant *t, uint64_t kv_bytes,
                         shoal_admit_answer *answer)
{
    const shoal_admit_quota *quota = &t->quota;
    if (admit->n_sessions >= admit->settings.n_sessions_max) {
        refuse(answer, SHOAL_ADMIT_SESSIONS, retry_of_places(admit, admit->n_sessions),
               "all %zu sessions of this node are taken (sessions.max); try again later",
               admit->settings.n_sessions_max);
    } else if (quota->n_sessions > 0 && t->n_sessions >= quota->n_sessions) {
        refuse(answer, SHOAL_ADMIT_TENANT_SESSIONS, retry_of_places(admit, t->n_sessions),
               "all %u sessions of this tenant are taken (tenants.sessions_max); try again later",
               quota->n_sessions);
    } else if (quota->kv_bytes > 0 && t->kv_bytes + kv_bytes > quota->kv_bytes) {
        refuse(answer, SHOAL_ADMIT_TENANT_KV, retry_of_places(admit, t->n_sessions),
               "the sessions of this tenant hold %llu of the %llu MiB of KV it may have "
               "(tenants.kv_mib); try again later or ask for less",
               (unsigned long long)(t->kv_bytes >> 20),
               (unsigned long long)(quota->kv_bytes >> 20));
    } else if (quota->tokens_per_s > 0 && t->level <= 0) {
        refuse(answer, SHOAL_ADMIT_TENANT_TOKENS,
               clamp_retry((1.0 - t->level) * 1000.0 / (double)quota->tokens_per_s),
               "this tenant has used up its %u tokens per second (tenants.tokens_per_s); "
               "try again later",
               quota->tokens_per_s);
    }
}

static void check_wait(const shoal_admit *admit, const shoal_admit_request *request,
                       const shoal_admit_load *load, shoal_admit_answer *answer)
{
    uint64_t limit = admit->settings.wait_max_ms;
    bool deadline = request->deadline_ms > 0 && (limit == 0 || request->deadline_ms <= limit);
    limit = deadline ? request->deadline_ms : limit;
    if (limit == 0 || answer->wait_ms <= limit) {
        return;
    }
    const char *which = deadline ? "open.deadline_ms is" : "admit.wait_max_ms is";
    uint64_t retry_ms = clamp_retry((double)(answer->wait_ms - limit));
    if (shoal_admit_wait_ms(load) > limit) {
        refuse(answer, SHOAL_ADMIT_WAIT, retry_ms,
               "the first token would come after %llu ms, %s %llu ms; try again later or elsewhere",
               (unsigned long long)answer->wait_ms, which, (unsigned long long)limit);
    } else {
        refuse(answer, SHOAL_ADMIT_KV, retry_ms,
               "the KV of open.n_tokens_max %u would have room after %llu ms (kv.max_mib), %s %llu "
               "ms; try again later or elsewhere, or ask for less",
               request->n_tokens_max, (unsigned long long)answer->wait_ms, which,
               (unsigned long long)limit);
    }
}

static void enter(shoal_admit *admit, size_t slot, const shoal_admit_request *request,
                  uint64_t kv_bytes, uint64_t now_ms, shoal_admit_ticket *ret_ticket)
{
    uint32_t n_prompt = SHOAL_MIN(request->n_prompt, request->n_tokens_max);
    *ret_ticket = (shoal_admit_ticket){.tenant = slot + 1,
                                       .kv_bytes = kv_bytes,
                                       .opened_ms = now_ms,
                                       .n_pages = request->n_pages,
                                       .n_answer = request->n_tokens_max - n_prompt};
    admit->n_sessions++;
    admit->n_pages += ret_ticket->n_pages;
    admit->n_answer += ret_ticket->n_answer;
    admit->tenants[slot].n_sessions++;
    admit->tenants[slot].kv_bytes += kv_bytes;
}

shoal_admit_answer shoal_admit_open(shoal_admit *admit, const shoal_admit_request *request,
                                    const shoal_admit_load *load, uint64_t now_ms,
                                    shoal_admit_ticket *ret_ticket)
{
    shoal_admit_answer answer = {.reason = SHOAL_ADMIT_OK};
    answer.wait_ms = shoal_admit_wait_all_ms(admit, load, request->n_pages, now_ms);
    size_t slot = find_tenant(admit, request->tenant, now_ms);
    tenant *t = &admit->tenants[slot];
    uint64_t kv_bytes = (uint64_t)request->n_tokens_max * admit->settings.kv_bytes_token;
    fill(t, now_ms);
    check_fit(admit, request, t, kv_bytes, &answer);
    if (answer.reason == SHOAL_ADMIT_OK) {
        check_places(admit, t, kv_bytes, &answer);
    }
    if (answer.reason == SHOAL_ADMIT_OK) {
        check_wait(admit, request, load, &answer);
    }
    if (answer.reason == SHOAL_ADMIT_OK) {
        enter(admit, slot, request, kv_bytes, now_ms, ret_ticket);
    }
    return answer;
}

void shoal_admit_charge(shoal_admit *admit, const shoal_admit_ticket *ticket, uint64_t n,
                        uint64_t now_ms)
{
    if (ticket->tenant == 0) {
        return;
    }
    tenant *t = &admit->tenants[ticket->tenant - 1];
    if (t->quota.tokens_per_s > 0) {
        fill(t, now_ms);
        t->level -= (double)n;
    }
}

void shoal_admit_close(shoal_admit *admit, shoal_admit_ticket *ticket, uint64_t now_ms)
{
    if (ticket->tenant == 0) {
        return;
    }
    tenant *t = &admit->tenants[ticket->tenant - 1];
    SHOAL_ASSERT(t->n_sessions > 0 && admit->n_sessions > 0 && t->kv_bytes >= ticket->kv_bytes);
    SHOAL_ASSERT(admit->n_pages >= ticket->n_pages && admit->n_answer >= ticket->n_answer);
    hold(admit, now_ms);
    free_pages(admit, ticket->n_pages);
    admit->n_answer -= ticket->n_answer;
    t->n_sessions--;
    t->kv_bytes -= ticket->kv_bytes;
    t->use_ms = now_ms;
    admit->n_sessions--;
    double lasted_ms = (double)(now_ms - SHOAL_MIN(ticket->opened_ms, now_ms));
    admit->duration_ms =
        admit->duration_ms > 0
            ? admit->duration_ms + (lasted_ms - admit->duration_ms) * DURATION_SHARE
            : lasted_ms;
    *ticket = (shoal_admit_ticket){0};
}
