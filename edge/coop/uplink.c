/* SPDX-License-Identifier: Apache-2.0
 *
 * The cloud's side of one generation: open, send, judge, lose, resume (protocol/SPEC.md).
 */
#include "edge/coop/coop_internal.h"

#include "common/base/mem.h"
#include "common/base/rng.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    PROMPT_CHUNK = 8192 /* ids of one PROMPT message */
};

/* The cloud, which was told that it may, ends the stream with the text. */
static bool ends_by_itself(const gen *g)
{
    const shoal_tokenizer *tokenizer = g->up->coop->model->tokenizer;
    bool over = g->n_confirmed == g->n_end ||
                shoal_tokenizer_is_end(tokenizer, g->tokens[g->n_confirmed - 1]);
    return g->whole && g->n_confirmed > g->n_prompt && over;
}

void shoal_uplink_close(gen *g)
{
    if (g->up) {
        bool ends = ends_by_itself(g);
        shoal_link_goodbye(SHOAL_STEAL(g->up), ends);
        g->cloud = CLOUD_NONE;
    }
}

/* Counts a message. True: the stream is to be lost before it, for tests. */
static bool is_fault_due(const shoal_coop *coop, gen *g)
{
    return ++g->n_messages == coop->settings.fault_cut_at;
}

static shoal_status send(gen *g, const shoal_edge_msg *msg, size_t *ret_bytes)
{
    if (is_fault_due(g->up->coop, g)) {
        return SHOAL_E_CANCELLED;
    }
    return shoal_link_send(g->up, msg, &g->usage.bytes_up, ret_bytes);
}

/* What is left of the request's time, for the cloud to know: at least 1, 0 without a deadline. */
static uint32_t deadline_left_ms(const shoal_coop *coop, const gen *g)
{
    if (g->deadline_at_ms == 0) {
        return 0;
    }
    uint64_t now_ms = shoal_clock_now_ms(&coop->clock);
    uint64_t left_ms = g->deadline_at_ms > now_ms ? g->deadline_at_ms - now_ms : 1;
    return (uint32_t)SHOAL_MIN(left_ms, (uint64_t)INT32_MAX);
}

/* With a node that reads it, what follows Open comes in it (SPEC.md, section 14): one packet to
 * read and one step to run, where each message may cost a wake-up and the prompt a step of its own.
 */
static void add_text(const gen *g, size_t n_drafts, size_t n_continue, uint8_t *shares,
                     shoal_msg_open *open)
{
    SHOAL_ASSERT(n_drafts <= (size_t)SHOAL_WIRE_DRAFT_MAX);
    for (size_t i = 0; i < n_drafts; i++) {
        shares[i] = shoal_wire_share(g->confidences[g->n_confirmed + i]);
    }
    open->prompt = g->tokens;
    open->n_prompt = g->n_confirmed;
    open->drafts = g->tokens + g->n_confirmed;
    open->n_drafts = n_drafts;
    open->confidences = shares;
    open->n_continue = (uint32_t)n_continue;
    open->ends = true;
}

/* Whom the cloud's text would be of now. */
static author author_of(const shoal_coop *coop, const gen *g)
{
    const shoal_wire_adapter *adapter =
        g->adapter ? shoal_describe_adapter(&coop->cloud, g->adapter) : NULL;
    author ret = {.known = true, .model = coop->cloud.model, .has_adapter = adapter != NULL};
    if (adapter) {
        ret.adapter = adapter->hash;
    }
    return ret;
}

/* Some of the answer was said under the author of a stream before. */
static bool has_begun(const gen *g)
{
    return g->author.known && g->n_confirmed > g->n_prompt;
}

static bool is_same_author(const author *a, const author *b)
{
    return memcmp(&a->model, &b->model, sizeof a->model) == 0 && a->has_adapter == b->has_adapter &&
           memcmp(&a->adapter, &b->adapter, sizeof a->adapter) == 0;
}

static shoal_status send_open(shoal_coop *coop, gen *g, size_t n_drafts, size_t n_continue)
{
    shoal_edge_msg msg = {
        .kind = SHOAL_EDGE_OPEN,
        .body.open =
            {
                .protocol = SHOAL_WIRE_PROTOCOL,
                .model = coop->cloud.model,
                .tokenizer = *shoal_tokenizer_hash(coop->model->tokenizer),
                .chat_template = *shoal_tokenizer_template_hash(coop->model->tokenizer),
                .sampling = g->sampling,
                .mode = g->mode,
                .deadline_ms = deadline_left_ms(coop, g),
                .priority = g->priority,
                .n_tokens_max = (uint32_t)g->n_end,
            },
    };
    if (g->form) {
        shoal_msg_form *form = &msg.body.open.form;
        msg.body.open.protocol = SHOAL_WIRE_PROTOCOL_FORM;
        form->grammar = (const uint8_t *)g->form_bytes.data;
        form->n_grammar = g->form_bytes.length;
        form->position = (uint32_t)g->n_prompt;
        (void)snprintf(form->opening, sizeof form->opening, "%s", shoal_form_opening(g->form));
    }
    g->author = author_of(coop, g);
    msg.body.open.has_adapter = g->author.has_adapter;
    msg.body.open.adapter = g->author.adapter;
    uint8_t shares[SHOAL_WIRE_DRAFT_MAX]; /* used until it is sent */
    if (g->whole) {
        add_text(g, n_drafts, n_continue, shares, &msg.body.open);
    }
    memcpy(msg.body.open.request_id, g->request_id, sizeof msg.body.open.request_id);
    size_t n = 0;
    return send(g, &msg, &n);
}

/* --- how long the cloud takes to answer --------------------------------------------------------
 */

static void start_trip(shoal_coop *coop, gen *g, size_t n_rows)
{
    g->sent_ns = shoal_clock_now_ns(&coop->clock);
    g->sent_position = g->n_sent;
    /* While the cloud goes on by itself it may have got to the drafts already. */
    g->sent_rows = g->continuing ? 0 : n_rows;
    g->sent_decoding = g->continuing;
    g->sent_alone = g->n_sent == g->n_confirmed;
}

/* Smoothed as TCP smooths its round trips (RFC 6298, alpha = 1/8). */
static void end_trip(shoal_coop *coop, gen *g)
{
    if (g->sent_ns == 0) {
        return;
    }
    double ms = (double)(shoal_clock_now_ns(&coop->clock) - g->sent_ns) / 1e6;
    g->sent_ns = 0;
    const shoal_pace_trip trip = {.us = ms * 1e3,
                                  .n_rows = g->sent_rows,
                                  .alone = g->sent_alone,
                                  .decoding = g->sent_decoding};
    shoal_pace_round_trip(&g->pace, &trip);
    coop->round_trip_ms =
        coop->round_trip_ms > 0 ? coop->round_trip_ms + (ms - coop->round_trip_ms) / 8 : ms;
}

static shoal_status send_tokens(gen *g, shoal_token_kind kind, size_t position, size_t n_ids,
                                size_t *ret_bytes)
{
    shoal_edge_msg msg = {
        .kind = SHOAL_EDGE_TOKENS,
        .body.tokens =
            {
                .epoch = g->epoch,
                .position = (uint32_t)position,
                .kind = kind,
                .ids = g->tokens + position,
                .n_ids = n_ids,
            },
    };
    return send(g, &msg, ret_bytes);
}

/* Everything confirmed, from the start: a cloud node knows nothing it was not told (R3). */
static shoal_status send_confirmed(gen *g)
{
    for (size_t at = 0; at < g->n_confirmed; at += PROMPT_CHUNK) {
        size_t n_ids = SHOAL_MIN(g->n_confirmed - at, (size_t)PROMPT_CHUNK);
        size_t n = 0;
        SHOAL_TRY(send_tokens(g, SHOAL_TOKENS_PROMPT, at, n_ids, &n));
    }
    return SHOAL_OK;
}

static shoal_status send_continue(gen *g, size_t n_max)
{
    shoal_edge_msg msg = {
        .kind = SHOAL_EDGE_CONTINUE,
        .body.cont =
            {
                .epoch = g->epoch,
                .position = (uint32_t)g->n_confirmed,
                .n_max = (uint32_t)n_max,
            },
    };
    size_t n = 0;
    return send(g, &msg, &n);
}

/* Drafts that the cloud is to judge before it decodes. With them the prompt waits, so that one step
 * runs both: it would be computed no sooner, for it is the way that takes the time. */
static bool opening(const shoal_coop *coop, gen *g)
{
    g->n_opening = 0;
    if (g->mode != SHOAL_MODE_EXACT || !g->seq || g->fetch ||
        shoal_pace_choose(&g->pace).n_draft > 0) {
        return false;
    }
    shoal_pace_world world = shoal_pace_world_get(&g->pace);
    double row_us = coop->figures.here_prefill_us;
    row_us = row_us > 0 ? row_us : world.edge_us;
    size_t n_fed = SHOAL_MIN(shoal_kv_seq_length(g->seq), g->n_confirmed);
    double ahead_us = row_us * (double)(g->n_confirmed - n_fed);
    g->n_opening = shoal_pace_opening(&g->pace, ahead_us);
    /* Where the edge turns out to be slower, what there is by then is sent. */
    double us = 2 * (ahead_us + (double)g->n_opening * world.edge_us) +
                coop->settings.spare_share * world.trip_us;
    g->opening_ns = shoal_clock_now_ns(&coop->clock) + (uint64_t)(us * 1e3);
    return g->n_opening > 0;
}

/* n_drafts and n_continue leave with Open where all of it does, else not. */
static shoal_status open_link(shoal_coop *coop, gen *g, size_t n_drafts, size_t n_continue)
{
    SHOAL_TRY(shoal_link_open(coop, &g->up));
    g->cloud = CLOUD_OPENING;
    g->open_by_ms = shoal_clock_now_ms(&coop->clock) + coop->settings.open_ms;
    g->epoch = 0;
    g->continuing = false;
    g->n_sent = g->n_confirmed;
    start_trip(coop, g, 0);
    SHOAL_TRY(send_open(coop, g, n_drafts, n_continue));
    if (g->whole) {
        g->n_sent += n_drafts;
        g->continuing = g->mode == SHOAL_MODE_EXACT && n_continue > 0;
    }
    return SHOAL_OK;
}

static shoal_status open_stream(shoal_coop *coop, gen *g)
{
    size_t n_left = g->n_end - g->n_confirmed;
    size_t n_continue = g->mode == SHOAL_MODE_CLOUD ? n_left : 0;
    g->whole = coop->cloud.opens_whole && g->mode != SHOAL_MODE_ASSIST &&
               g->n_confirmed <= (size_t)PROMPT_CHUNK;
    bool ahead = opening(coop, g);
    if (g->whole && ahead) {
        g->cloud = CLOUD_AHEAD;
        return SHOAL_OK;
    }
    SHOAL_TRY(open_link(coop, g, 0, n_continue));
    if (g->whole || ahead) {
        return SHOAL_OK;
    }
    SHOAL_TRY(send_confirmed(g));
    return n_continue > 0 ? send_continue(g, n_continue) : SHOAL_OK;
}

shoal_status shoal_uplink_open(shoal_coop *coop, gen *g)
{
    return open_stream(coop, g);
}

shoal_status shoal_uplink_hand_over(shoal_coop *coop, gen *g, size_t from, size_t n_max)
{
    size_t n = 0;
    if (from < g->n_confirmed) {
        SHOAL_TRY(send_tokens(g, SHOAL_TOKENS_TRUSTED, from, g->n_confirmed - from, &n));
    }
    if (g->sent_ns == 0) {
        start_trip(coop, g, 1);
    }
    return send_continue(g, n_max);
}

/* Sends drafts in spans of the length chosen; a shorter span when no more can be drafted for now.
 */
static shoal_status send_drafts(shoal_coop *coop, gen *g)
{
    for (;;) {
        size_t n_ready = g->n_tokens - g->n_sent;
        bool full = n_ready >= g->choice.n_draft;
        if (n_ready == 0 || (!full && shoal_gen_may_draft(coop, g))) {
            return SHOAL_OK;
        }
        size_t n_ids = SHOAL_MIN(n_ready, g->choice.n_draft);
        size_t n_bytes = 0;
        SHOAL_TRY(send_tokens(g, SHOAL_TOKENS_DRAFT, g->n_sent, n_ids, &n_bytes));
        if (g->sent_ns == 0) {
            start_trip(coop, g, n_ids);
        }
        g->continuing = false;
        g->n_sent += n_ids;
        g->usage.round_up_max = SHOAL_MAX(g->usage.round_up_max, (uint32_t)n_bytes);
    }
}

/* A draft of what is known already: the verdict comes at once, and the cloud goes on. */
static shoal_status ask_round_trip(shoal_coop *coop, gen *g)
{
    if (g->cloud != CLOUD_OPEN || g->sent_ns != 0 || !shoal_pace_wants_trip(&g->pace)) {
        return SHOAL_OK;
    }
    size_t position = g->n_confirmed - 1;
    size_t n_bytes = 0;
    SHOAL_TRY(send_tokens(g, SHOAL_TOKENS_DRAFT, position, 1, &n_bytes));
    start_trip(coop, g, 0);
    g->sent_position = position;
    return SHOAL_OK;
}

static void drop_drafts_from(gen *g, size_t position)
{
    if (g->n_tokens > position) {
        g->n_tokens = position;
        if (g->seq) {
            (void)shoal_kv_seq_truncate(g->seq, g->n_tokens - 1);
        }
    }
}

/* The cloud decodes alone: drafts that were not sent are of no use, those on their way are judged
 * first. */
static shoal_status leave_to_cloud(shoal_coop *coop, gen *g)
{
    if (g->continuing) {
        return ask_round_trip(coop, g);
    }
    drop_drafts_from(g, g->n_sent);
    SHOAL_TRY(send_continue(g, g->n_end - g->n_confirmed));
    g->continuing = true;
    return SHOAL_OK;
}

/* The prompt, what was drafted behind it, and the word is the cloud's. */
static shoal_status send_opening(shoal_coop *coop, gen *g)
{
    bool late = shoal_clock_now_ns(&coop->clock) >= g->opening_ns;
    g->choice = (shoal_pace_choice){.n_draft = g->n_opening, .n_window = g->n_opening};
    if (!late && shoal_gen_may_draft(coop, g)) {
        return SHOAL_OK;
    }
    g->n_opening = 0;
    if (g->cloud == CLOUD_AHEAD) {
        drop_drafts_from(g, g->n_confirmed + g->choice.n_draft);
        return open_link(coop, g, g->n_tokens - g->n_confirmed, g->n_end - g->n_confirmed);
    }
    SHOAL_TRY(send_confirmed(g));
    g->choice.n_window = 0; /* what there is, no more */
    SHOAL_TRY(send_drafts(coop, g));
    return leave_to_cloud(coop, g);
}

static shoal_status follow_pace(shoal_coop *coop, gen *g)
{
    if (g->n_opening > 0) {
        return send_opening(coop, g);
    }
    g->choice = shoal_pace_choose(&g->pace);
    coop->choice = g->choice;
    return g->choice.n_draft > 0 ? send_drafts(coop, g) : leave_to_cloud(coop, g);
}

static bool hash_is_zero(const shoal_hash *hash)
{
    static const shoal_hash zero;
    return memcmp(hash, &zero, sizeof zero) == 0;
}

bool shoal_uplink_identity_ok(const shoal_coop *coop, char *text, size_t n_text)
{
    const shoal_tokenizer *tokenizer = coop->model->tokenizer;
    const struct {
        const char *what;
        const shoal_hash *ours;
        const shoal_hash *theirs;
    } pairs[] = {
        {"tokenizer", shoal_tokenizer_hash(tokenizer), &coop->cloud.tokenizer},
        {"chat template", shoal_tokenizer_template_hash(tokenizer), &coop->cloud.chat_template},
        {"pinned model", &coop->settings.model_pin, &coop->cloud.model},
    };
    for (size_t i = 0; i < SHOAL_COUNT(pairs); i++) {
        bool free_choice = i == 2 && hash_is_zero(pairs[i].ours);
        if (!free_choice && memcmp(pairs[i].ours, pairs[i].theirs, sizeof(shoal_hash)) != 0) {
            char ours[SHOAL_HASH_HEX];
            char theirs[SHOAL_HASH_HEX];
            shoal_hash_hex(pairs[i].ours, ours);
            shoal_hash_hex(pairs[i].theirs, theirs);
            (void)snprintf(text, n_text,
                           "the cloud's %s is %.12s, ours is %.12s: the two models are not of one "
                           "family; see shoal-forge inspect",
                           pairs[i].what, theirs, ours);
            return false;
        }
    }
    return true;
}

/* Drafts that the cloud cannot judge are of no use: its own text is what `exact` would give, so a
 * request that may degrade takes that, and another one hears why. */
static bool verify_ok(shoal_coop *coop, gen *g)
{
    shoal_verify verify = coop->cloud.verify;
    bool greedy = shoal_sampling_is_greedy(&g->sampling);
    if (g->mode != SHOAL_MODE_EXACT || verify == SHOAL_VERIFY_ALL ||
        (verify == SHOAL_VERIFY_GREEDY && greedy)) {
        return true;
    }
    if (g->degrade) {
        g->mode = SHOAL_MODE_CLOUD;
        g->n_tokens = g->n_confirmed;
        g->n_sent = g->n_confirmed;
        if (g->seq) {
            (void)shoal_kv_seq_truncate(g->seq, g->n_confirmed - 1);
        }
        return true;
    }
    shoal_gen_fail(coop, g, SHOAL_E_UNSUPPORTED,
                   verify == SHOAL_VERIFY_GREEDY
                       ? "mode \"exact\": the cloud verifies drafts at temperature 0 without "
                         "penalties and biases alone; ask so, or use mode \"cloud\" or "
                         "shoal.degrade"
                       : "mode \"exact\": the cloud continues texts and cannot verify drafts; use "
                         "mode \"cloud\" or shoal.degrade");
    return false;
}

static const char no_forms[] =
    "it cannot hold an answer to a form (response_format, tools): it is of an older version, or "
    "stands before an engine of another kind; use mode \"local\"";

shoal_rpc_status shoal_uplink_can_serve(const shoal_coop *coop, const gen *g, char *text,
                                        size_t n_text)
{
    const author now = author_of(coop, g);
    if (g->form && !coop->cloud.forms) {
        (void)snprintf(text, n_text, "%s", no_forms);
        return SHOAL_RPC_UNIMPLEMENTED;
    }
    if (g->adapter && !now.has_adapter) {
        (void)snprintf(text, n_text,
                       "it has no adapter \"%s\" for its model (model.adapters of the node); use "
                       "mode \"local\"",
                       g->adapter);
        return SHOAL_RPC_UNIMPLEMENTED;
    }
    if (g->mode != SHOAL_MODE_ASSIST && has_begun(g) && !is_same_author(&now, &g->author)) {
        (void)snprintf(text, n_text,
                       "another model or adapter came up there in the middle of this answer; ask "
                       "again");
        return SHOAL_RPC_FAILED_PRECONDITION;
    }
    return SHOAL_RPC_OK;
}

/* Whether an attempt at that time could still help this request. */
static bool in_time(const gen *g, uint64_t at_ms)
{
    return at_ms - SHOAL_MIN(g->cut_at_ms, at_ms) < g->reconnect_ms;
}

/* A retry that the cloud will hear takes its place in the bucket; without a connection it is
 * answered by our own side. False: not now, and g->retry_at_ms says when. */
static bool retry_allowed(shoal_coop *coop, gen *g, uint64_t now_ms)
{
    bool retry = g->cut_at_ms != 0;
    if (!retry || g->retry_paid || shoal_rpc_channel_state(coop->channel) != SHOAL_RPC_LINK_READY) {
        g->retry_paid = false;
        return true;
    }
    uint64_t wait_ms = shoal_retry_bucket_take(&coop->retries, now_ms);
    if (wait_ms == 0) {
        return true;
    }
    if (!in_time(g, now_ms + wait_ms)) {
        shoal_retry_bucket_give_back(&coop->retries);
        shoal_uplink_refused(coop, g, SHOAL_RPC_RESOURCE_EXHAUSTED,
                             "busy, and this edge's retries are used up (coop.retries_per_s)");
        return false;
    }
    g->retry_paid = true;
    g->retry_at_ms = now_ms + wait_ms;
    return false;
}

static void schedule_retry(gen *g, uint64_t now_ms)
{
    uint64_t jitter = shoal_rng_next(&g->fault_rng) % (g->retry_ms + 1);
    uint64_t at_ms = now_ms + g->retry_ms / 2 + jitter / 2;
    g->retry_at_ms = SHOAL_MAX(g->retry_at_ms, at_ms); /* a Busy may have asked for more */
    g->retry_ms = SHOAL_MIN(g->retry_ms * 2, (uint32_t)COOP_RETRY_MS_MAX);
}

static const char cut_text[] = "the link is switched off: switch it on at /v1/shoal/link";

void shoal_uplink_check_cut(shoal_coop *coop)
{
    bool cut = atomic_load(&coop->link_cut);
    if (cut && !coop->link_is_cut) {
        shoal_coop_describe_end(coop);
        for (gen *g = coop->active; g; g = g->next) {
            if (g->up) {
                shoal_uplink_lost(coop, g, SHOAL_RPC_UNAVAILABLE, cut_text);
            }
        }
    } else if (!cut && coop->link_is_cut) {
        shoal_breaker_reset(&coop->breaker, shoal_clock_now_ms(&coop->clock));
    }
    coop->link_is_cut = cut;
}

/* A node says Opened before it computes anything. Of one that is silent for so long nothing is to
 * come: its machine stands still, or the call reached it while it ended and nobody has it. */
static bool is_open_late(shoal_coop *coop, gen *g, uint64_t now_ms)
{
    if (g->cloud != CLOUD_OPENING || now_ms < g->open_by_ms) {
        return false;
    }
    char text[SHOAL_WIRE_TEXT_MAX];
    (void)snprintf(text, sizeof text, "no answer to Open within coop.open_ms, %" PRIu64 " ms",
                   coop->settings.open_ms);
    shoal_uplink_lost(coop, g, SHOAL_RPC_UNAVAILABLE, text);
    return true;
}

void shoal_uplink_pump(shoal_coop *coop, gen *g, uint64_t now_ms)
{
    if (g->done || g->mode == SHOAL_MODE_LOCAL || is_open_late(coop, g, now_ms)) {
        return;
    }
    if (g->mode == SHOAL_MODE_ASSIST) {
        shoal_assist_pump(coop, g, now_ms);
        return;
    }
    if (g->cloud == CLOUD_NONE) {
        if (now_ms < g->retry_at_ms) {
            return;
        }
        if (coop->link_is_cut) {
            shoal_uplink_lost(coop, g, SHOAL_RPC_UNAVAILABLE, cut_text);
            return;
        }
        if (!coop->channel) {
            shoal_uplink_lost(coop, g, SHOAL_RPC_UNAVAILABLE, coop->channel_trouble);
            return;
        }
        if (!coop->described) {
            if (!coop->describe_call && now_ms >= coop->describe_at_ms) {
                shoal_coop_describe_start(coop);
            }
            return;
        }
        char text[SHOAL_WIRE_TEXT_MAX];
        if (!shoal_uplink_identity_ok(coop, text, sizeof text)) {
            shoal_gen_fail(coop, g, SHOAL_E_MISMATCH, text);
            return;
        }
        shoal_rpc_status served = shoal_uplink_can_serve(coop, g, text, sizeof text);
        if (served != SHOAL_RPC_OK) {
            shoal_uplink_refused(coop, g, served, text);
            return;
        }
        if (!verify_ok(coop, g)) {
            return;
        }
        if (!shoal_assist_may_spend(coop, text, sizeof text)) {
            shoal_uplink_refused(coop, g, SHOAL_RPC_RESOURCE_EXHAUSTED, text);
            return;
        }
        if (!retry_allowed(coop, g, now_ms)) {
            return;
        }
        if (open_stream(coop, g) != SHOAL_OK) {
            shoal_uplink_lost(coop, g, SHOAL_RPC_UNAVAILABLE, "the stream could not be opened");
            return;
        }
    }
    if (g->cloud == CLOUD_AHEAD && coop->link_is_cut) {
        shoal_uplink_lost(coop, g, SHOAL_RPC_UNAVAILABLE, cut_text);
        return;
    }
    if (g->mode == SHOAL_MODE_EXACT && follow_pace(coop, g) != SHOAL_OK) {
        shoal_uplink_lost(coop, g, SHOAL_RPC_UNAVAILABLE, "the stream broke while sending");
    }
}

static void broken_protocol(shoal_coop *coop, gen *g, const char *what)
{
    char text[SHOAL_WIRE_TEXT_MAX];
    (void)snprintf(text, sizeof text, "the cloud broke the protocol: %s", what);
    shoal_uplink_lost(coop, g, SHOAL_RPC_INTERNAL, text);
}

/* A draft that was sent has been judged. */
static void note_judged(gen *g, bool right)
{
    g->usage.n_drafted++;
    g->usage.n_accepted += right;
    shoal_pace_judged(&g->pace, right);
}

/* The epoch after an answer of the given one. What we send from here on is of it, and a Continue
 * of the one before may have been dropped on arrival. */
static void follow_epoch(gen *g, uint32_t epoch, bool void_on_way)
{
    if (epoch > g->epoch) {
        g->epoch = epoch;
        g->n_sent = g->n_confirmed;
        g->continuing = false;
        g->sent_ns = 0; /* what is timed may never be answered */
    } else if (void_on_way) {
        /* Drafts past the correction are on their way and wrong: the cloud will raise the epoch
         * when it meets them. */
        g->epoch++;
        g->continuing = false;
        g->sent_ns = 0;
    }
}

/* The time of drafts that were sent, when their answer is here. Alone, any answer from where they
 * begin is theirs. */
static void time_verdict(shoal_coop *coop, gen *g, size_t accepted_to)
{
    if (accepted_to > g->sent_position || (g->sent_alone && accepted_to == g->sent_position)) {
        end_trip(coop, g);
    }
}

static const char formless[] = "a token that breaks the form asked for";

static void take_verdict(shoal_coop *coop, gen *g, const shoal_msg_verdict *v, size_t n_bytes)
{
    g->usage.n_rounds++;
    g->usage.n_cloud_steps += v->accepted_to + v->n_ids > g->n_confirmed;
    time_verdict(coop, g, v->accepted_to);
    g->usage.round_down_max = SHOAL_MAX(g->usage.round_down_max, (uint32_t)n_bytes);
    uint32_t round = (uint32_t)g->usage.n_rounds;
    if (v->accepted_to > g->n_sent) {
        broken_protocol(coop, g, "a verdict about drafts that were never sent");
        return;
    }
    while (!g->done && g->n_confirmed < v->accepted_to) {
        if (!shoal_gen_keeps_form(coop, g, g->tokens[g->n_confirmed])) {
            broken_protocol(coop, g, formless);
            return;
        }
        note_judged(g, true);
        shoal_gen_confirm(coop, g, SHOAL_TIER_EDGE, round);
    }
    /* The cloud's own tokens: the correction after a mismatch, or the bonus after full acceptance.
     */
    size_t sent_before = g->n_sent;
    bool rolled_back = false;
    for (size_t i = 0; i < v->n_ids && !g->done; i++) {
        size_t position = (size_t)v->accepted_to + i;
        if (position < g->n_confirmed) {
            if (g->tokens[position] != v->ids[i]) {
                broken_protocol(coop, g, "a verdict that contradicts an earlier one");
                return;
            }
            continue;
        }
        if (!shoal_gen_keeps_form(coop, g, v->ids[i])) {
            broken_protocol(coop, g, formless);
            return;
        }
        bool judged = position < sent_before && !rolled_back;
        size_t confidence_i = v->n_confidences - v->n_ids + i;
        float confidence =
            v->n_confidences >= v->n_ids ? (float)v->confidences[confidence_i] / 255.0F : 0;
        bool right = shoal_gen_take_cloud(coop, g, v->ids[i], confidence, round);
        if (judged) {
            note_judged(g, right);
        }
        rolled_back = rolled_back || !right;
    }
    if (rolled_back) {
        g->sent_ns = 0; /* the drafts timed may never be judged */
    }
    follow_epoch(g, v->epoch,
                 rolled_back && sent_before > g->n_confirmed - 1 && v->epoch == g->epoch);
}

static void take_tokens(shoal_coop *coop, gen *g, const shoal_msg_tokens *t)
{
    size_t sent_before = g->n_sent;
    bool rolled_back = false;
    for (size_t i = 0; i < t->n_ids && !g->done; i++) {
        size_t position = (size_t)t->position + i;
        if (position < g->n_confirmed) {
            if (g->tokens[position] != t->ids[i]) {
                broken_protocol(coop, g, "tokens that contradict earlier ones");
                return;
            }
            continue;
        }
        if (position > g->n_confirmed) {
            broken_protocol(coop, g, "a gap between tokens");
            return;
        }
        if (!shoal_gen_keeps_form(coop, g, t->ids[i])) {
            broken_protocol(coop, g, formless);
            return;
        }
        g->usage.n_cloud_steps++;
        bool judged = position < sent_before && !rolled_back;
        bool compared = position < g->n_tokens && !judged;
        uint32_t round = g->mode == SHOAL_MODE_ASSIST ? (uint32_t)g->usage.n_rounds : 0;
        float confidence = (float)t->confidences[i] / 255.0F;
        bool right = shoal_gen_take_cloud(coop, g, t->ids[i], confidence, round);
        if (judged) {
            note_judged(g, right);
        } else if (compared) {
            shoal_pace_judged(&g->pace, right); /* drafted to see what would have stood */
        }
        rolled_back = rolled_back || (judged && !right);
    }
    if (rolled_back) {
        g->sent_ns = 0;
    }
    /* Drafts of an epoch later than the tokens' are compared with them all the same. */
    follow_epoch(g, t->epoch, rolled_back);
}

/* A target may have nodes of several versions: one that passed over what Open brought is asked
 * again, message by message, and so is every other one until the next Describe. */
static void take_opened(shoal_coop *coop, gen *g, bool whole)
{
    g->cloud = CLOUD_OPEN;
    end_trip(coop, g);
    if (g->whole && !whole) {
        coop->cloud.opens_whole = false;
        shoal_uplink_lost(coop, g, SHOAL_RPC_UNAVAILABLE, "it has not read all of Open");
    }
}

/* Not before that time, and not all at it: up to a quarter later (SPEC.md, section 4). */
static void take_busy(shoal_coop *coop, gen *g, uint32_t retry_after_ms)
{
    uint64_t jitter_ms = shoal_rng_next(&g->fault_rng) % (retry_after_ms / 4 + 1);
    g->busy = true;
    g->retry_at_ms = shoal_clock_now_ms(&coop->clock) + retry_after_ms + jitter_ms;
}

void shoal_uplink_message(shoal_coop *coop, gen *g, const shoal_cloud_msg *msg, size_t n_bytes)
{
    size_t n_before = g->n_confirmed;
    if (is_fault_due(coop, g)) {
        shoal_uplink_lost(coop, g, SHOAL_RPC_UNAVAILABLE, "cut by fault.cut_at");
        return;
    }
    g->usage.bytes_down += n_bytes;
    g->usage.n_cached = SHOAL_MAX(g->usage.n_cached, SHOAL_MIN((size_t)msg->n_cached, g->n_prompt));
    if (msg->cost.step_us > 0) {
        shoal_pace_told(&g->pace, msg->cost.step_us, msg->cost.row_us,
                        (double)msg->cost.price / SHOAL_WIRE_PRICE_ONE);
    }
    if (msg->kind == SHOAL_CLOUD_VERDICT) {
        g->cloud_said_ns = 0; /* rounds are not timed as the cloud's own tokens are */
    }
    switch (msg->kind) {
    case SHOAL_CLOUD_OPENED:
        take_opened(coop, g, msg->body.opened.whole);
        break;
    case SHOAL_CLOUD_VERDICT:
        take_verdict(coop, g, &msg->body.verdict, n_bytes);
        break;
    case SHOAL_CLOUD_TOKENS:
        take_tokens(coop, g, &msg->body.tokens);
        shoal_charge_cloud_tokens(coop, g, g->n_confirmed - n_before);
        break;
    case SHOAL_CLOUD_BUSY:
        take_busy(coop, g, msg->body.busy_retry_after_ms);
        break;
    case SHOAL_CLOUD_FINISHED:
        break;
    case SHOAL_CLOUD_ERROR:
        if (msg->body.error.code == SHOAL_RPC_RESOURCE_EXHAUSTED && !g->busy) {
            /* No time to come back: it can never fit there. */
            shoal_uplink_refused(coop, g, SHOAL_RPC_RESOURCE_EXHAUSTED, msg->body.error.text);
        } else {
            shoal_uplink_lost(coop, g, (shoal_rpc_status)msg->body.error.code,
                              msg->body.error.text);
        }
        break;
    }
    if (g->mode != SHOAL_MODE_ASSIST && g->n_confirmed > n_before) {
        shoal_pace_confirmed(&g->pace, g->n_confirmed - n_before,
                             shoal_clock_now_ns(&coop->clock) / 1000);
    }
    if (g->up && g->n_confirmed > n_before) {
        /* Not when the stream opens: a node may open every one and then fail it. */
        g->cut_at_ms = 0;
        g->retry_ms = COOP_RETRY_MS_MIN;
        if (g->mode == SHOAL_MODE_ASSIST) {
            end_trip(coop, g);
            shoal_assist_progress(coop, g);
        }
    }
}

/* Whether another attempt could end otherwise. */
static bool worth_retrying(shoal_rpc_status status)
{
    switch (status) {
    case SHOAL_RPC_INVALID_ARGUMENT:
    case SHOAL_RPC_PERMISSION_DENIED:
    case SHOAL_RPC_FAILED_PRECONDITION:
    case SHOAL_RPC_UNIMPLEMENTED:
    case SHOAL_RPC_UNAUTHENTICATED:
        return false;
    case SHOAL_RPC_OK:
    case SHOAL_RPC_CANCELLED:
    case SHOAL_RPC_UNKNOWN:
    case SHOAL_RPC_DEADLINE_EXCEEDED:
    case SHOAL_RPC_NOT_FOUND:
    case SHOAL_RPC_RESOURCE_EXHAUSTED:
    case SHOAL_RPC_ABORTED:
    case SHOAL_RPC_INTERNAL:
    case SHOAL_RPC_UNAVAILABLE:
        return true;
    }
    return true;
}

static shoal_status to_status(shoal_rpc_status status)
{
    switch (status) {
    case SHOAL_RPC_FAILED_PRECONDITION:
        return SHOAL_E_MISMATCH;
    case SHOAL_RPC_RESOURCE_EXHAUSTED:
        return SHOAL_E_EXHAUSTED;
    case SHOAL_RPC_INVALID_ARGUMENT:
    case SHOAL_RPC_UNIMPLEMENTED:
        return SHOAL_E_PROTOCOL;
    case SHOAL_RPC_PERMISSION_DENIED:
    case SHOAL_RPC_UNAUTHENTICATED:
        return SHOAL_E_AUTH;
    case SHOAL_RPC_OK:
    case SHOAL_RPC_CANCELLED:
    case SHOAL_RPC_UNKNOWN:
    case SHOAL_RPC_DEADLINE_EXCEEDED:
    case SHOAL_RPC_NOT_FOUND:
    case SHOAL_RPC_ABORTED:
    case SHOAL_RPC_INTERNAL:
    case SHOAL_RPC_UNAVAILABLE:
        return SHOAL_E_UNAVAILABLE;
    }
    return SHOAL_E_UNAVAILABLE;
}

/* The request goes on with the edge alone: what was drafted stands, marked as the edge's. */
static void degrade_to_local(shoal_coop *coop, gen *g)
{
    g->mode = SHOAL_MODE_LOCAL;
    g->degraded =
        shoal_assist_may_spend(coop, NULL, 0) ? SHOAL_UNASSISTED_AWAY : SHOAL_UNASSISTED_BUDGET;
    shoal_gen_drop_formless(coop, g);
    while (!g->done && g->n_confirmed < g->n_tokens) {
        shoal_gen_confirm(coop, g, SHOAL_TIER_EDGE, 0);
    }
    g->n_sent = g->n_confirmed;
}

static void drop(gen *g)
{
    if (g->up) {
        shoal_link_drop(g->up);
        g->up = NULL;
    }
    g->cloud = CLOUD_NONE;
    g->continuing = false;
    g->n_opening = 0;
    g->sent_ns = 0;
    g->busy = false;
    shoal_pace_paused(&g->pace);
}

void shoal_uplink_refused(shoal_coop *coop, gen *g, shoal_rpc_status status, const char *text)
{
    drop(g);
    if (g->done) {
        return;
    }
    if (g->mode == SHOAL_MODE_ASSIST) {
        shoal_assist_lost(coop, g, false, text);
        return;
    }
    if (g->degrade && g->seq) {
        degrade_to_local(coop, g);
        return;
    }
    char message[SHOAL_ERR_TEXT_MAX];
    (void)snprintf(message, sizeof message, "the cloud at %.64s: %.160s", coop->target,
                   text[0] ? text : "no connection");
    shoal_gen_fail(coop, g, to_status(status), message);
}

void shoal_uplink_lost(shoal_coop *coop, gen *g, shoal_rpc_status status, const char *text)
{
    bool was_open = g->up != NULL;
    drop(g);
    g->cloud_said_ns = 0;
    if (g->done) {
        return;
    }
    if (status == SHOAL_RPC_FAILED_PRECONDITION) {
        coop->described = false; /* another model came up there: ask again before the next one */
        if (g->mode != SHOAL_MODE_ASSIST && !g->asked_again && !has_begun(g)) {
            g->asked_again = true; /* nothing of the one before was said: this one's will do */
            g->usage.n_reconnects++;
            return;
        }
    }
    if (g->mode == SHOAL_MODE_ASSIST) {
        g->usage.n_reconnects += was_open;
        shoal_assist_lost(coop, g, worth_retrying(status), text);
        return;
    }
    uint64_t now_ms = shoal_clock_now_ms(&coop->clock);
    if (g->cut_at_ms == 0) {
        g->cut_at_ms = now_ms;
    }
    /* Who would have to wait for longer than the request may hears it now. */
    if (worth_retrying(status) && in_time(g, SHOAL_MAX(now_ms, g->retry_at_ms))) {
        g->usage.n_reconnects++;
        schedule_retry(g, now_ms);
        return;
    }
    shoal_uplink_refused(coop, g, status, text);
}
