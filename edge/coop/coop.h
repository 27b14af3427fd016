/* SPDX-License-Identifier: Apache-2.0
 *
 * Generation at the edge: takes requests from the HTTP side, runs the edge model, drafts, talks to
 * the cloud, and tells what may be shown, token by token, with its origin. One engine thread owns
 * everything; requests and cancels come in through bounded queues from any thread, events go out
 * on the engine thread.
 */
#ifndef SHOAL_COOP_COOP_H
#define SHOAL_COOP_COOP_H

#include "common/base/macros.h"
#include "common/engine/rules.h"
#include "common/grammar/grammar.h"
#include "common/kv/evict.h"
#include "common/model/adapters.h"
#include "common/model/model.h"
#include "common/obs/metrics.h"
#include "common/sample/sample.h"
#include "common/tokenizer/tokenizer.h"
#include "edge/coop/energy.h"
#include "edge/coop/power.h"
#include "edge/coop/route.h"
#include "edge/coop/spend.h"
#include "edge/coop/traffic.h"
#include "edge/session/blob.h"
#include "protocol/rpc/rpc.h"
#include "protocol/wire/wire.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum shoal_tier {
    SHOAL_TIER_EXIT,
    SHOAL_TIER_EDGE,
    SHOAL_TIER_CLOUD,
    SHOAL_TIERS
} shoal_tier;
const char *shoal_tier_name(shoal_tier tier); /* "exit", "edge", "cloud" */

/* Why a token is the edge's although it was the cloud's to say: mode ASSIST would have asked, or
 * the request degraded. */
typedef enum shoal_unassisted {
    SHOAL_UNASSISTED_NOT,    /* the edge was sure, the cloud agreed, or nobody was to be asked */
    SHOAL_UNASSISTED_AWAY,   /* the cloud was given up, lost, too slow or of no use */
    SHOAL_UNASSISTED_BUDGET, /* a budget of the edge, or max_cloud_tokens of the request */
    SHOAL_UNASSISTED_KINDS
} shoal_unassisted;
const char *shoal_unassisted_name(shoal_unassisted why); /* "", "away", "budget" */

typedef enum shoal_finish {
    SHOAL_FINISH_STOP,   /* end token or stop string */
    SHOAL_FINISH_LENGTH, /* n_tokens_max or the context is full */
    SHOAL_FINISH_CANCELLED
} shoal_finish;

typedef struct shoal_usage {
    size_t n_prompt;
    size_t n_cached;   /* of those, whose KV the cloud had already */
    size_t n_kept;     /* of those, whose KV the edge had: of its session, or of a prefix */
    size_t n_fed;      /* tokens of the prompt that the edge's model computed, each time it did */
    size_t n_fetched;  /* tokens of the prompt whose KV came from the cloud */
    size_t n_archived; /* of both, whose KV came archived: near what would have been computed */
    double fetch_ms;   /* with it: from asking to its being of use */
    size_t n_generated;
    size_t n_by_tier[SHOAL_TIERS];               /* sums to n_generated */
    size_t n_unassisted[SHOAL_UNASSISTED_KINDS]; /* likewise */
    size_t n_drafted;                            /* draft tokens judged by the cloud */
    size_t n_accepted;                           /* of those, accepted */
    size_t n_rounds;      /* verification rounds; in mode ASSIST hand-overs to the cloud */
    size_t n_cloud_steps; /* steps of the cloud's model waited for, the prompt's aside */
    size_t n_steps;       /* steps of the edge's model that gave a token */
    size_t n_layers; /* layers they went through: n_steps times the model's, or fewer by exits */
    size_t n_exit_checked; /* tokens that left at an exit and whose full depth was computed later */
    size_t n_exit_agreed;  /* of those, that the full depth says too */
    uint64_t bytes_up;     /* message bytes with gRPC frame headers, above TLS */
    uint64_t bytes_down;
    uint32_t round_up_max; /* largest bytes of one round each way */
    uint32_t round_down_max;
    uint32_t n_reconnects;
    double first_token_ms;
    double total_ms;
} shoal_usage;

/* What all generations so far add up to, those under way included. Only ever grows. */
typedef struct shoal_coop_totals {
    uint64_t n_by_tier[SHOAL_TIERS];
    uint64_t n_unassisted; /* of them, for either reason */
    uint64_t n_prompt;
    uint64_t n_drafted;
    uint64_t n_accepted;
    uint64_t n_rounds;
    uint64_t n_cloud_steps;
    uint64_t n_steps;
    uint64_t n_layers;
    uint64_t n_exit_checked;
    uint64_t n_exit_agreed;
    uint64_t n_reconnects;
    uint64_t n_saved; /* generated tokens for which no step of the cloud was waited for */
    uint64_t bytes_up;
    uint64_t bytes_down;
    uint64_t packet_bytes_up; /* of the link's IP packets, whatever for; 0 without traffic */
    uint64_t packet_bytes_down;
    uint64_t energy_uj;            /* charged to answers; 0 without a meter */
    uint64_t energy_cloud_only_uj; /* had the cloud made all tokens, as far as known */
} shoal_coop_totals;

typedef enum shoal_coop_event_kind {
    SHOAL_COOP_TOKEN,
    SHOAL_COOP_DONE, /* last event */
    SHOAL_COOP_ERROR /* last event */
} shoal_coop_event_kind;

typedef struct shoal_coop_event {
    shoal_coop_event_kind kind;
    uint64_t request; /* id given by submit */
    /* TOKEN */
    int32_t id;
    shoal_tier tier;
    shoal_unassisted unassisted;
    float confidence; /* of the tier that produced it */
    uint32_t round;   /* verification round or hand-over, 0: none */
    const char *text; /* valid UTF-8 now safe to show, may be empty; borrowed for the call */
    size_t n_text;
    /* DONE */
    shoal_finish finish;
    const shoal_usage *usage; /* also for ERROR */
    /* ERROR */
    const shoal_err *error;
} shoal_coop_event;

/* What the edge model thought of a token, and which it thought likeliest (the lowest id among
 * equals): natural logarithms of softmax probabilities at T = 1 on the raw logits. */
typedef struct shoal_coop_score {
    int32_t id;
    int32_t top_id; /* -1: nothing stands before it that could tell */
    float logprob;
    float top_logprob;
} shoal_coop_score;

enum {
    SHOAL_COOP_PREFIXES_MAX = 16,
    SHOAL_COOP_TOPS_MAX = 20,
    SHOAL_COOP_OPENING_MAX = 32
};

/* One of the tokens the edge model thought likeliest at a place. */
typedef struct shoal_coop_top {
    int32_t id;
    float logprob;
} shoal_coop_top;

typedef struct shoal_coop_request {
    shoal_mode mode;
    const int32_t *ids; /* prompt tokens, copied; at least one */
    size_t n_ids;
    size_t n_tokens_max; /* tokens to generate; at least 1 */
    /* [n_ids + n_tokens_max], written by the engine thread up to the last event, each entry before
     * the event of its token: scores of the prompt and of what is generated. Mode LOCAL alone.
     * NULL: not wanted; those of the prompt cost a product with the output matrix for each of its
     * tokens, those of the answer nothing but a look at its logits. */
    shoal_coop_score *scores;
    bool score_prompt; /* else the entries of the prompt stay as they are */
    /* [n_ids + n_tokens_max, n_tops], with scores: the likeliest first, lower ids first among
     * equals. At most SHOAL_COOP_TOPS_MAX; NULL with 0. */
    shoal_coop_top *tops;
    size_t n_tops;
    shoal_sampling sampling;  /* biases copied */
    const char *const *stops; /* copied */
    size_t n_stops;
    shoal_grammar *take_grammar; /* what the text must be; NULL: free. Taken by OK */
    /* NULL or "": the whole text is of the grammar. Else the text is free, but for one that begins
     * with these bytes: what follows them is of the grammar, as far as the token that ended them
     * left it possible. At most SHOAL_COOP_OPENING_MAX bytes, copied. */
    const char *grammar_opening;
    uint64_t deadline_ms;         /* from now, 0: none */
    uint32_t priority;            /* of its work in the cloud, 0..SHOAL_WIRE_PRIORITY_MAX */
    uint64_t reconnect_ms;        /* how long a lost cloud is waited for, 0: the configured time */
    const char *exit_policy;      /* as in shoal_exit_rules_choose; NULL: the configured one */
    float exit_threshold;         /* with it: in place of the policy's own; NaN: none */
    bool degrade;                 /* exact, cloud: go on locally when the cloud is gone */
    const shoal_adapter *adapter; /* one of the settings'; NULL: none but settings.lora */
    const char *session;    /* its KV is kept under this name, and what was kept under it is taken
                             * up; copied, as shoal_session_name_ok says; NULL: none */
    size_t n_cloud_max;     /* mode ASSIST: tokens the cloud may make; SIZE_MAX: no limit */
    double risk;            /* mode ASSIST: as shoal_route_judge takes it; 0: as configured */
    const char *request_id; /* for logs, copied, at most 64 bytes */
    void (*on_event)(void *ctx, const shoal_coop_event *event); /* engine thread, must not block */
    void *ctx;
} shoal_coop_request;

/* In which modes a prompt's KV may be fetched: where the cloud hears the prompt in any case, or
 * also where it might not have. Never in mode LOCAL. */
typedef enum shoal_coop_fetching {
    SHOAL_COOP_FETCH_OFF,
    SHOAL_COOP_FETCH_EXACT,
    SHOAL_COOP_FETCH_ALL /* EXACT and ASSIST */
} shoal_coop_fetching;

/* A blob of KVWIRE.md without a salt: KV of a text that prompts begin with. */
typedef struct shoal_coop_prefix {
    const uint8_t *bytes;
    size_t n_bytes;
} shoal_coop_prefix;

typedef struct shoal_coop_settings {
    const char *cloud_target; /* "host:port", NULL or "": no cloud */
    shoal_rpc_tls tls;
    uint32_t keepalive_ms;  /* as shoal_rpc_limits has it */
    uint32_t rest_ms;       /* without anything for the cloud, and the connection is let go until
                             * there is; 0: never */
    shoal_traffic *traffic; /* of the target, borrowed for coop's life: what it carries is what
                             * counts as sent, else messages are; NULL: not known */
    uint32_t n_threads;     /* compute threads */
    bool pin_threads;       /* each on a CPU of its own */
    uint32_t cpu_mask;      /* shoal_cpu_tier bits allowed */
    size_t kv_bytes_max;    /* KV pool, default 64 MiB */
    size_t n_ctx_max;       /* 0: the model's */
    int kv_type;            /* shoal_kv_type, -1: f32 for F32 models, else f16 */
    const char *kv_levels;  /* as shoal_engine_settings has it */
    const shoal_kv_evict_policy *kv_evict; /* NULL: nothing is evicted */
    size_t kv_budget;                      /* tokens of a text that are held, with a policy */
    bool kv_hadamard;                      /* as shoal_engine_settings has it */
    size_t n_active_max;                   /* requests generating at once */
    size_t n_waiting_max;                  /* requests waiting, more are refused SHOAL_BUSY */
    size_t n_draft;          /* draft tokens per round, 1..32; 0: chosen (edge/pace) */
    size_t n_window;         /* unverified draft tokens in flight at most, n_draft..64; 0: chosen */
    double plain_gain;       /* times faster the cloud alone must be before drafts are left, >= 1 */
    double spare_share;      /* of a round trip, what drafts before plain decoding may cost, 0..1 */
    uint64_t reconnect_ms;   /* how long a cut stream is retried before the request fails */
    uint64_t open_ms;        /* how long a node may take to say Opened, at least 1 */
    double retry_burst;      /* retries of all requests that reach the cloud at once, at least 1 */
    double retries_per_s;    /* and from then on, above 0 */
    shoal_exit_fitted exits; /* of the model's file; zeroed: it has no exits */
    const char *exit_policy; /* of requests that name none, borrowed; "off": nothing leaves */
    size_t n_exit_waiting;   /* tokens of a request that wait for their depth, 1..64 */
    double fault_flip_ratio; /* testing: share of drafts replaced by a random id */
    uint32_t fault_cut_at;   /* testing: each generation loses its stream once, before the message
                              * of this number, both ways counted from 1; 0: never */
    shoal_route_settings route;
    bool has_escalation; /* the model's metadata has a calibrated policy: */
    shoal_exit_policy escalation;
    shoal_exit_risks risks; /* and thresholds of greater risks than its */
    shoal_spend_limits spend;
    shoal_power_kind power_kind; /* of the meter; an energy budget needs one */
    const char *power_path;      /* its file or folder, borrowed for the making */
    shoal_energy_settings energy;
    uint64_t patience_ms;       /* mode ASSIST: how long the cloud is waited for, at least 1 */
    size_t n_sessions_max;      /* sessions whose KV is kept, 0..SHOAL_SESSIONS_MAX */
    const char *archive_path;   /* basis of what is archived, borrowed for the making; NULL: none */
    bool archive_sessions;      /* with it: saved ones are archived, not exact */
    size_t session_percent_max; /* of the KV pool that they may hold while nobody else wants it */
    bool has_session_secret;    /* blobs of sessions are for those alone who know it: */
    uint8_t session_secret[SHOAL_HASH_BYTES];
    shoal_coop_fetching fetching;
    shoal_coop_fetching fetch_archived; /* where it may come archived, which is not exact */
    bool fetch_always;                  /* and waited for, even where computing would be faster */
    uint64_t fetch_ms;                  /* longest time of one fetch, at least 1 */
    uint64_t fetch_quarantine_ms;       /* nothing is fetched for so long after what was no KV */
    const shoal_lora
        *lora; /* of all that the edge's model computes, borrowed for coop's life; NULL */
    const shoal_adapter *adapters;     /* [n_adapters], as lora; requests may choose one */
    size_t n_adapters;                 /* at most SHOAL_ADAPTERS_MAX */
    const shoal_coop_prefix *prefixes; /* borrowed for the making, as long as the KV has room */
    size_t n_prefixes;                 /* at most SHOAL_COOP_PREFIXES_MAX */
    shoal_hash model_pin; /* cloud model to insist on; all zero: whatever it describes */
} shoal_coop_settings;
shoal_coop_settings shoal_coop_settings_default(void);

typedef struct shoal_coop shoal_coop;

/* model is borrowed for coop's life. metrics may be NULL; where it has coop's metrics already, of
 * another coop before this one, they go on. Starts the engine thread. SHOAL_E_MISMATCH: a prefix is
 * not of this model, adapter and form of KV. */
shoal_status shoal_coop_new(const shoal_model *model, const shoal_coop_settings *settings,
                            shoal_metrics *metrics, shoal_coop **ret_coop,
                            shoal_err *err) SHOAL_MUST_CHECK;
/* Refuses new requests, gives open ones grace_ms, then cancels them. Blocks. */
void shoal_coop_stop(shoal_coop *coop, uint64_t grace_ms);
void shoal_coop_free(shoal_coop *coop);

/* Any thread. What was generated and spent before this coop by another counts as its own: totals
 * are added; spend (NULL: totals are spent now) is what of the budgets was used. SHOAL_E_NOMEM. */
shoal_status shoal_coop_carry(shoal_coop *coop, const shoal_coop_totals *totals,
                              const shoal_spend *spend) SHOAL_MUST_CHECK;

/* Any thread. Whether a request may have this exit policy: SHOAL_E_INVALID says why not. */
shoal_status shoal_coop_check_exit(const shoal_coop *coop, const char *policy, float threshold,
                                   shoal_err *err) SHOAL_MUST_CHECK;
/* Any thread. Whether a request of this mode may name this session: SHOAL_E_INVALID and
 * SHOAL_E_UNSUPPORTED say why not. */
shoal_status shoal_coop_check_session(const shoal_coop *coop, const char *session, shoal_mode mode,
                                      shoal_err *err) SHOAL_MUST_CHECK;
/* Any thread. SHOAL_OK with an id; SHOAL_BUSY when n_waiting_max wait; SHOAL_E_LIMIT when prompt
 * and n_tokens_max cannot fit; SHOAL_E_UNAVAILABLE when a cloud mode is asked and none is
 * configured or coop is stopping; SHOAL_E_UNSUPPORTED for a mode that is not offered, or a session
 * where none is kept. */
shoal_status shoal_coop_submit(shoal_coop *coop, const shoal_coop_request *request,
                               uint64_t *ret_id, shoal_err *err) SHOAL_MUST_CHECK;
/* Any thread; unknown ids are ignored. The request ends with DONE(CANCELLED). */
void shoal_coop_cancel(shoal_coop *coop, uint64_t id);

/* --- kept sessions ---------------------------------------------------------------------------- */

typedef enum shoal_session_act {
    SHOAL_SESSION_LIST,
    SHOAL_SESSION_SAVE, /* a copy of one */
    SHOAL_SESSION_LOAD, /* a copy becomes one */
    SHOAL_SESSION_DROP
} shoal_session_act;

typedef struct shoal_session_info {
    char name[SHOAL_SESSION_NAME_MAX + 1];
    size_t n_tokens;
    size_t n_bytes; /* of the KV pool */
} shoal_session_info;

/* Valid for the callback; its copy is to be taken by setting it to NULL. */
typedef struct shoal_session_done {
    const shoal_err *error;         /* code SHOAL_OK: done. SHOAL_E_NOTFOUND: no such session */
    const shoal_session_info *list; /* LIST: all, the last used first; SAVE, LOAD: the one */
    size_t n_list;
    shoal_session_copy *copy; /* SAVE */
} shoal_session_done;

typedef struct shoal_session_order {
    shoal_session_act act;
    const char *name;              /* of all but LIST; copied */
    shoal_session_copy *take_copy; /* LOAD; taken with SHOAL_OK */
    /* Engine thread, must not block; never when coop is freed before. */
    void (*on_done)(void *ctx, shoal_session_done *done);
    void *ctx;
} shoal_session_order;

/* Any thread. SHOAL_OK: on_done will be called. SHOAL_E_UNSUPPORTED: no session is kept here;
 * SHOAL_E_INVALID: the name; SHOAL_E_UNAVAILABLE: coop is stopping; SHOAL_E_NOMEM. A load fails
 * with SHOAL_BUSY while requests under way hold the pages, with SHOAL_E_LIMIT when it needs more
 * than kept sessions may have. */
shoal_status shoal_coop_session(shoal_coop *coop, const shoal_session_order *order,
                                shoal_err *err) SHOAL_MUST_CHECK;
/* What a blob must be of; immutable. */
const shoal_session_identity *shoal_coop_session_identity(const shoal_coop *coop);

/* How far ahead the edge drafts, and why. */
typedef struct shoal_coop_speculation {
    bool fixed;           /* by the settings; else chosen as it goes */
    size_t n_draft;       /* of a round, in the last generation; 0: the cloud decodes alone */
    size_t n_window;      /* in flight at most */
    double acceptance;    /* of recent drafts; of an assumption before the first */
    double edge_token_ms; /* 0: not yet seen */
    double cloud_step_ms; /* as the cloud says; 0: it has not */
    double price;         /* of a draft in tokens, 0..1, as the cloud says */
} shoal_coop_speculation;

/* What is known of fetching KV; 0: not measured, or too long ago. */
typedef struct shoal_coop_fetch_state {
    double down_bytes_s;
    double prefill_us;                 /* a token of a prompt, here */
    double peer_prefill_us;            /* at the cloud, by this edge's model */
    bool quarantined;                  /* what came was no KV */
    char trouble[SHOAL_WIRE_TEXT_MAX]; /* the last; "": none yet */
} shoal_coop_fetch_state;

/* With a meter alone; all zero without. */
typedef struct shoal_coop_energy_state {
    shoal_power_kind kind;
    bool up;      /* the last look at it told something */
    double level; /* of the budget, 0..1 */
    shoal_energy_costs costs;
    char trouble[SHOAL_WIRE_TEXT_MAX]; /* the last; "": none yet */
} shoal_coop_energy_state;

typedef struct shoal_coop_state {
    size_t n_active;
    size_t n_waiting;
    size_t kv_pages_used;
    size_t kv_pages;
    size_t kv_tokens_max; /* the longest text the pool holds; 0: unknown */
    bool cloud_configured;
    shoal_rpc_link link;
    bool link_rests; /* for want of work: the next that needs the cloud connects; link is then IDLE
                      */
    bool cloud_described;
    shoal_describe cloud; /* when cloud_described */
    bool link_cut;        /* by shoal_coop_cut_link; link is then DOWN */
    double round_trip_ms; /* from sending to the cloud's answer, smoothed; 0: not yet seen */
    shoal_coop_speculation speculation;
    bool cloud_given_up;                     /* mode ASSIST goes on without it for now */
    char cloud_trouble[SHOAL_WIRE_TEXT_MAX]; /* why, "": no trouble yet */
    double unsure;      /* share of the edge's rows that mode ASSIST would hand over, smoothed */
    double spend_level; /* of the budgets, 0..1: shoal_spend_level */
    shoal_spend spend;
    uint64_t spend_left_ms[SHOAL_SPEND_PERIODS]; /* until each period of the budgets ends */
    shoal_coop_fetch_state fetch;
    shoal_coop_energy_state energy;
    shoal_coop_totals totals;
} shoal_coop_state;
/* A consistent copy; any thread. */
void shoal_coop_state_get(shoal_coop *coop, shoal_coop_state *ret_state);

/* Any thread. Behaves as if the link to the cloud were cut (true) or whole (false): open streams
 * are lost at once and none can be opened, nor the cloud asked who it is. For demonstrations and
 * drills. */
void shoal_coop_cut_link(shoal_coop *coop, bool cut);

/* Any thread. Reads the files of settings.tls again: streams from now on are of connections made
 * with them, those under way end on theirs. An error names the file and leaves everything as it
 * was. Without a cloud, or in plaintext, there is nothing to do. */
shoal_status shoal_coop_renew_tls(shoal_coop *coop, shoal_err *err) SHOAL_MUST_CHECK;

/* How long the engine thread has been at its present turn (one step, and what came of it), ms; 0
 * while it waits. What a watchdog asks. Any thread. */
uint64_t shoal_coop_turn_ms(const shoal_coop *coop);

/* Tokens one request may hold, prompt included. */
size_t shoal_coop_n_ctx(const shoal_coop *coop);
/* [*ret_n], of the settings. */
const shoal_adapter *shoal_coop_adapters(const shoal_coop *coop, size_t *ret_n);

#endif
