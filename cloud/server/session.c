/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/server/session_internal.h"

#include "common/base/mem.h"
#include "common/kv/kv_move.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Drafts judged in one span: with our own token the confidences of a verdict then fit
 * SHOAL_WIRE_DRAFT_MAX entries. */
enum {
    VERIFY_MAX = SHOAL_SESSION_DRAFTS_MAX,
    EPOCH_MAX = 1 << 30 /* a peer's epoch at most: ours, raised by one a mismatch, cannot wrap */
};
/* Of drafts that an edge was sure of, SURE 255ths, behind one that fell: what share stands, and
 * how many seen that is worth. Minnow: 0.69 of 932 from 0.999 on, 0.12 of 147 from 0.95 to it. */
static const double GUESSED = 0.6;
static const double GUESSED_WEIGHT = 4.0;
static const uint8_t SURE = 255;
_Static_assert((int)VERIFY_MAX <= (int)SHOAL_SPEC_SPAN_MAX, "a span must fit shoal_spec_verify");

/* --- life ------------------------------------------------------------------------------------- */

shoal_status shoal_session_new(const shoal_session_env *env, const shoal_session_out *out,
                               uint64_t now_ms, shoal_session **ret_session)
{
    shoal_session *session = shoal_calloc(1, sizeof(*session));
    if (session == NULL) {
        return SHOAL_E_NOMEM;
    }
    session->env = *env;
    session->out = *out;
    session->deadline_ms = UINT64_MAX;
    session->stats.opened_ms = now_ms;
    *ret_session = session;
    return SHOAL_OK;
}

/* Gives back what the generation held; the statistics stay readable. */
static void release(shoal_session *session)
{
    shoal_kv_seq_free(session->seq);
    shoal_free(session->ids);
    shoal_free(session->shares);
    shoal_free(session->biases);
    shoal_form_free(SHOAL_STEAL(session->form));
    shoal_free(SHOAL_STEAL(session->held));
    shoal_free(SHOAL_STEAL(session->allowed));
    session->seq = NULL;
    session->ids = NULL;
    session->shares = NULL;
    session->biases = NULL;
    session->n_ids = 0;
    session->n_drafts = 0;
    session->n_guesses = 0;
    session->decode_to = 0;
}

void shoal_session_free(shoal_session *session)
{
    if (session == NULL) {
        return;
    }
    release(session);
    shoal_free(session);
}

static void finish(shoal_session *session, shoal_rpc_status status, const char *text)
{
    session->state = SESSION_DONE;
    release(session);
    session->out.finish(session->out.ctx, status, text);
}

void shoal_session_fail(shoal_session *session, shoal_rpc_status status, const char *text)
{
    if (session->state == SESSION_DONE) {
        return;
    }
    shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_ERROR, .body.error.code = (int32_t)status};
    snprintf(msg.body.error.text, sizeof(msg.body.error.text), "%s", text);
    session->out.emit(session->out.ctx, &msg);
    finish(session, status, msg.body.error.text);
}

void shoal_session_failf(shoal_session *session, shoal_rpc_status status, const char *format, ...)
{
    char text[SHOAL_WIRE_TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    shoal_session_fail(session, status, text);
}

static void finish_close(shoal_session *session)
{
    shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_FINISHED,
                           .body.finished = {.n_prompt = session->stats.n_prompt,
                                             .n_generated = session->stats.n_generated,
                                             .n_verified = session->stats.n_verified,
                                             .compute_us = session->stats.compute_us}};
    session->out.emit(session->out.ctx, &msg);
    finish(session, SHOAL_RPC_OK, "");
}

/* --- answers ---------------------------------------------------------------------------------- */

void shoal_session_set_cost(shoal_session *session, const shoal_msg_cost *cost)
{
    session->cost = cost;
}

static bool differs(uint32_t now, uint32_t told, uint32_t least)
{
    uint32_t by = now > told ? now - told : told - now;
    return by > SHOAL_MAX(told / 8, least);
}

/* The cost, when the edge has to hear of it. A few us or 1000ths more say nothing. */
static shoal_msg_cost cost_to_tell(shoal_session *session)
{
    const shoal_msg_cost *now = session->cost;
    const shoal_msg_cost *told = &session->told;
    if (now == NULL || now->step_us == 0 ||
        (told->step_us > 0 && !differs(now->step_us, told->step_us, 10) &&
         !differs(now->row_us, told->row_us, 10) && !differs(now->price, told->price, 10))) {
        return (shoal_msg_cost){.step_us = 0};
    }
    session->told = *now;
    return *now;
}

/* How much of the text was found, not computed, when the edge has to hear of it. */
static uint32_t cached_to_tell(shoal_session *session)
{
    uint32_t now = session->stats.n_cached;
    bool told = session->told_cached == now;
    session->told_cached = now;
    return told ? 0 : now;
}

static void note_first_token(shoal_session *session, uint64_t now_ms)
{
    if (session->stats.first_token_ms == 0) {
        session->stats.first_token_ms = now_ms;
    }
}

/* H[from..to) as CloudTokens, in pieces the edge's decoder takes. */
static void emit_tokens(shoal_session *session, size_t from, size_t to)
{
    while (from < to) {
        size_t n = SHOAL_MIN(to - from, (size_t)SHOAL_WIRE_DRAFT_MAX);
        shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_TOKENS,
                               .cost = cost_to_tell(session),
                               .n_cached = cached_to_tell(session),
                               .body.tokens = {.epoch = session->epoch,
                                               .position = (uint32_t)from,
                                               .ids = session->ids + from,
                                               .n_ids = n,
                                               .confidences = session->shares + from}};
        session->out.emit(session->out.ctx, &msg);
        from += n;
    }
}

/* Drafts below accepted_to stand; H goes on from there. share_from is where the confidences
 * begin: at the first draft judged by this verdict. */
static void emit_verdict(shoal_session *session, size_t share_from, size_t accepted_to)
{
    size_t n_ids = SHOAL_MIN(session->n_ids - accepted_to, (size_t)SHOAL_WIRE_DRAFT_MAX);
    shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_VERDICT,
                           .cost = cost_to_tell(session),
                           .n_cached = cached_to_tell(session),
                           .body.verdict = {.epoch = session->epoch,
                                            .accepted_to = (uint32_t)accepted_to,
                                            .ids = session->ids + accepted_to,
                                            .n_ids = n_ids,
                                            .confidences = session->shares + share_from,
                                            .n_confidences = accepted_to - share_from + n_ids}};
    session->stats.n_rounds++;
    session->out.emit(session->out.ctx, &msg);
    emit_tokens(session, accepted_to + n_ids, session->n_ids);
}

/* --- Open ------------------------------------------------------------------------------------- */

static void push_open(shoal_session *session, const shoal_msg_open *open, uint64_t now_ms)
{
    if (session->state != SESSION_NEW) {
        shoal_session_failf(session, SHOAL_RPC_INVALID_ARGUMENT,
                            "a second open in one call; start a new call");
        return;
    }
    snprintf(session->stats.request_id, sizeof(session->stats.request_id), "%s", open->request_id);
    session->stats.mode = open->mode;
    if (!shoal_session_open_agrees(session, open)) {
        return;
    }
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_sampling_check(&open->sampling, session->env.describe->n_vocab, &err) != SHOAL_OK) {
        shoal_session_failf(session, SHOAL_RPC_INVALID_ARGUMENT, "open.sampling: %s", err.text);
        return;
    }
    shoal_status status = shoal_session_open_form(session, &open->form, &err);
    if (status == SHOAL_E_PROTOCOL) {
        shoal_session_failf(session, SHOAL_RPC_INVALID_ARGUMENT, "open.form: %s", err.text);
        return;
    }
    if (status != SHOAL_OK || shoal_session_open_allocate(session, open) != SHOAL_OK) {
        shoal_cloud_msg busy = {.kind = SHOAL_CLOUD_BUSY, .body.busy_retry_after_ms = 1000};
        session->out.emit(session->out.ctx, &busy);
        shoal_session_failf(session, SHOAL_RPC_RESOURCE_EXHAUSTED,
                            "this node is out of memory for a session of %" PRIu32
                            " tokens; try again later",
                            open->n_tokens_max);
        return;
    }
    session->state = SESSION_OPEN;
    session->priority = open->priority;
    session->ends = open->ends;
    if (open->deadline_ms > 0) {
        session->deadline_ms = now_ms + open->deadline_ms;
    }
    shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_OPENED, .cost = cost_to_tell(session)};
    snprintf(msg.body.opened.node, sizeof(msg.body.opened.node), "%s", session->env.node);
    msg.body.opened.whole = true;
    session->out.emit(session->out.ctx, &msg);
}

/* --- tokens ----------------------------------------------------------------------------------- */

static void drop_drafts(shoal_session *session)
{
    session->n_drafts = 0;
    session->n_guesses = 0;
}

/* Raises the epoch: drafts still on their way belong to a text that is not ours. */
static void next_epoch(shoal_session *session)
{
    session->epoch++;
    drop_drafts(session);
}

/* False when the message is to be ignored: its epoch is over, or the session now is. A newer epoch
 * is the edge's own roll back: drafts queued before it are void. */
static bool enter_epoch(shoal_session *session, uint32_t epoch)
{
    if (epoch > EPOCH_MAX) {
        shoal_session_failf(session, SHOAL_RPC_INVALID_ARGUMENT, "epoch %" PRIu32 " is above %d",
                            epoch, (int)EPOCH_MAX);
        return false;
    }
    if (epoch < session->epoch) {
        return false;
    }
    if (epoch > session->epoch) {
        session->epoch = epoch;
        drop_drafts(session);
    }
    return true;
}

/* The form after all of H. What we sample keeps it, so what does not came from the edge. */
static bool follow_form(shoal_session *session)
{
    while (session->form != NULL && session->n_followed < session->n_ids) {
        size_t at = session->n_followed++;
        if (!shoal_form_push(session->form, session->env.words, &session->held[0],
                             session->ids[at])) {
            shoal_session_failf(session, SHOAL_RPC_INVALID_ARGUMENT,
                                "the token at position %zu breaks the form that open gave", at);
            return false;
        }
    }
    return true;
}

/* Index of the first id that differs from H, from position on; n when none does. */
static size_t first_difference(const shoal_session *session, const shoal_msg_tokens *tokens)
{
    size_t n = SHOAL_MIN(tokens->n_ids, session->n_ids - tokens->position);
    for (size_t i = 0; i < n; i++) {
        if (session->ids[tokens->position + i] != tokens->ids[i]) {
            return i;
        }
    }
    return n;
}

static void push_confirmed(shoal_session *session, const shoal_msg_tokens *tokens)
{
    size_t position = tokens->position;
    if (position > session->n_ids) {
        shoal_session_failf(
            session, SHOAL_RPC_INVALID_ARGUMENT,
            "tokens.position is %zu, but only %zu tokens are known: a gap; resend from there",
            position, session->n_ids);
        return;
    }
    size_t n_known = SHOAL_MIN(tokens->n_ids, session->n_ids - position);
    size_t same = first_difference(session, tokens);
    if (same < n_known) {
        shoal_session_failf(
            session, SHOAL_RPC_INVALID_ARGUMENT,
            "tokens.ids differ from what this session holds at position %zu; open a new call",
            position + same);
        return;
    }
    size_t n_new = tokens->n_ids - n_known;
    if (n_new == 0) {
        return;
    }
    memcpy(session->ids + session->n_ids, tokens->ids + n_known, n_new * sizeof(*session->ids));
    memset(session->shares + session->n_ids, 0, n_new);
    session->n_ids += n_new;
    drop_drafts(session);
    session->ended = false;
    session->stats.n_prompt += (uint32_t)n_new;
    (void)follow_form(session);
}

/* Queues what of the draft lies beyond H; answers at once where it lies within. */
static void push_draft(shoal_session *session, const shoal_msg_tokens *tokens, uint64_t now_ms)
{
    size_t position = tokens->position;
    size_t end = position + tokens->n_ids;
    if (session->n_ids == 0) {
        shoal_session_failf(session, SHOAL_RPC_INVALID_ARGUMENT,
                            "a draft before any prompt token; send the prompt first");
        return;
    }
    if (position > session->n_ids + session->n_drafts) {
        if (!session->ended) {
            shoal_session_failf(
                session, SHOAL_RPC_INVALID_ARGUMENT,
                "draft at position %zu, but only %zu tokens are known and %zu drafts wait: a gap",
                position, session->n_ids, session->n_drafts);
        }
        return;
    }
    if (position < session->n_ids) {
        size_t n_known = SHOAL_MIN(tokens->n_ids, session->n_ids - position);
        size_t same = first_difference(session, tokens);
        session->stats.n_verified += (uint32_t)SHOAL_MIN(same + 1, n_known);
        session->stats.n_accepted += (uint32_t)same;
        if (same < n_known) {
            next_epoch(session);
        }
        if (same < n_known || end <= session->n_ids) {
            /* Nothing of it is left to run: the answer is in H already. */
            note_first_token(session, now_ms);
            emit_verdict(session, position + same, position + same);
            return;
        }
    }
    if (session->ended) {
        /* A draft cannot go on after the end of the text. */
        emit_verdict(session, session->n_ids, session->n_ids);
        return;
    }
    size_t from = SHOAL_MAX(position, session->n_ids);
    memcpy(session->ids + from, tokens->ids + (from - position), (end - from) * sizeof(int32_t));
    session->weighed = tokens->confidences != NULL;
    if (session->weighed) {
        memcpy(session->shares + from, tokens->confidences + (from - position), end - from);
    }
    session->n_drafts = end - session->n_ids;
    session->n_guesses = 0;
    /* The edge speaks again: a Continue that still runs is over once these are judged. */
    session->decode_to = 0;
}

static void push_tokens(shoal_session *session, const shoal_msg_tokens *tokens, uint64_t now_ms)
{
    if (!enter_epoch(session, tokens->epoch) || tokens->n_ids == 0) {
        return;
    }
    if (tokens->n_ids > session->capacity || tokens->position > session->capacity - tokens->n_ids) {
        shoal_session_failf(session, SHOAL_RPC_INVALID_ARGUMENT,
                            "tokens end at position %" PRIu64 ", open.n_tokens_max was %zu",
                            (uint64_t)tokens->position + tokens->n_ids, session->capacity);
        return;
    }
    switch (tokens->kind) {
    case SHOAL_TOKENS_PROMPT:
    case SHOAL_TOKENS_TRUSTED:
        push_confirmed(session, tokens);
        break;
    case SHOAL_TOKENS_DRAFT:
        push_draft(session, tokens, now_ms);
        break;
    default:
        shoal_session_failf(session, SHOAL_RPC_INVALID_ARGUMENT,
                            "tokens.kind %d is not one of prompt, trusted, draft",
                            (int)tokens->kind);
        break;
    }
}

static void push_continue(shoal_session *session, const shoal_msg_continue *cont, uint64_t now_ms)
{
    /* One of an epoch that has passed stands: it was sent behind drafts, of which one has fallen
     * meanwhile, and asks to go on from there. */
    bool late = cont->epoch < session->epoch;
    if (late ? cont->position > session->n_ids : !enter_epoch(session, cont->epoch)) {
        return;
    }
    if (cont->position > session->n_ids || session->n_ids == 0) {
        shoal_session_failf(session, SHOAL_RPC_INVALID_ARGUMENT,
                            "continue.position is %" PRIu32 ", but only %zu tokens are known",
                            cont->position, session->n_ids);
        return;
    }
    size_t left = session->capacity - cont->position;
    session->decode_to = cont->position + SHOAL_MIN((size_t)cont->n_max, left);
    if (cont->position < session->n_ids) {
        note_first_token(session, now_ms);
        emit_tokens(session, cont->position, session->n_ids);
    }
}

/* What Open brought beside itself, as if it had come behind it. */
static void push_open_text(shoal_session *session, const shoal_msg_open *open, uint64_t now_ms)
{
    uint32_t end = (uint32_t)open->n_prompt;
    const shoal_msg_tokens parts[] = {
        {.kind = SHOAL_TOKENS_PROMPT, .ids = open->prompt, .n_ids = end},
        {.kind = SHOAL_TOKENS_DRAFT,
         .position = end,
         .ids = open->drafts,
         .n_ids = open->n_drafts,
         .confidences = open->confidences},
    };
    for (size_t i = 0; i < SHOAL_COUNT(parts) && session->state == SESSION_OPEN; i++) {
        push_tokens(session, &parts[i], now_ms);
    }
    if (session->state == SESSION_OPEN && open->n_continue > 0) {
        push_continue(session, &(shoal_msg_continue){0, end, open->n_continue}, now_ms);
    }
}

static void push_opened(shoal_session *session, const shoal_edge_msg *msg, uint64_t now_ms)
{
    switch (msg->kind) {
    case SHOAL_EDGE_TOKENS:
        push_tokens(session, &msg->body.tokens, now_ms);
        break;
    case SHOAL_EDGE_CONTINUE:
        push_continue(session, &msg->body.cont, now_ms);
        break;
    case SHOAL_EDGE_CANCEL:
        drop_drafts(session);
        session->decode_to = 0;
        break;
    case SHOAL_EDGE_CLOSE:
    case SHOAL_EDGE_OPEN:
    default:
        shoal_session_failf(session, SHOAL_RPC_INVALID_ARGUMENT, "message kind %d is not known",
                            (int)msg->kind);
        break;
    }
}

void shoal_session_push(shoal_session *session, const shoal_edge_msg *msg, uint64_t now_ms)
{
    if (session->state == SESSION_DONE) {
        return;
    }
    shoal_session_tick(session, now_ms);
    if (session->state == SESSION_DONE) {
        return;
    }
    if (msg->kind == SHOAL_EDGE_OPEN) {
        push_open(session, &msg->body.open, now_ms);
        push_open_text(session, &msg->body.open, now_ms);
    } else if (msg->kind == SHOAL_EDGE_CLOSE) {
        finish_close(session);
    } else if (session->state == SESSION_NEW) {
        shoal_session_failf(session, SHOAL_RPC_INVALID_ARGUMENT, "the first message must be open");
    } else {
        push_opened(session, msg, now_ms);
    }
}

void shoal_session_half_close(shoal_session *session)
{
    session->half_closed = true;
    if (session->state != SESSION_DONE && shoal_session_wants(session, 0) == SHOAL_WANT_NOTHING) {
        finish_close(session);
    }
}

void shoal_session_tick(shoal_session *session, uint64_t now_ms)
{
    if (session->state != SESSION_DONE && now_ms >= session->deadline_ms) {
        shoal_session_failf(session, SHOAL_RPC_DEADLINE_EXCEEDED,
                            "open.deadline_ms has passed after %" PRIu32 " generated tokens",
                            session->stats.n_generated);
    }
    /* Not with the last tokens: those who share its KV come between. */
    bool over = session->ended || session->n_ids == session->capacity;
    if (session->state == SESSION_OPEN && session->ends && over) {
        finish_close(session);
    }
}

uint64_t shoal_session_deadline_ms(const shoal_session *session)
{
    return session->state == SESSION_DONE ? UINT64_MAX : session->deadline_ms;
}

const shoal_lora *shoal_session_lora(const shoal_session *session)
{
    return session->lora;
}

const char *shoal_session_tenant(const shoal_session *session)
{
    return session->env.tenant == NULL ? "" : session->env.tenant;
}

bool shoal_session_done(const shoal_session *session)
{
    return session->state == SESSION_DONE;
}

/* --- work ------------------------------------------------------------------------------------- */

/* A sample is due: drafts wait, or a Continue is not fulfilled. */
static bool wants_tokens(const shoal_session *session)
{
    return session->n_drafts > 0 || (!session->ended && session->decode_to > session->n_ids);
}

/* Rows of H missing before the row of its last token, which is run only with a sample in mind
 * because its logits are not kept. */
static size_t n_missing(const shoal_session *session)
{
    return session->seq == NULL ? 0 : session->n_ids - 1 - shoal_kv_seq_length(session->seq);
}

static const shoal_tokenizer *tokenizer_of(const shoal_session *session)
{
    shoal_engine *engine = session->env.engine;
    return engine != NULL ? shoal_engine_model(engine)->tokenizer : session->env.tokenizer;
}

shoal_session_want shoal_session_wants(const shoal_session *session, size_t max_rows)
{
    if (session->state != SESSION_OPEN || session->n_ids == 0) {
        return SHOAL_WANT_NOTHING;
    }
    size_t missing = n_missing(session);
    if (wants_tokens(session)) {
        return missing <= max_rows ? SHOAL_WANT_TOKENS : SHOAL_WANT_PREFILL;
    }
    /* A prompt is computed as soon as it is here, the sample will be asked for soon; but a KV that
     * was evicted while the edge is silent stays away until the session has something to do. */
    return missing > 0 && session->stats.n_evictions == 0 && !session->half_closed
               ? SHOAL_WANT_PREFILL
               : SHOAL_WANT_NOTHING;
}

/* Drafts, or guesses that the edge was sure of; behind these comes a token of our own. */
static size_t n_to_judge(const shoal_session *session)
{
    if (session->n_drafts > 0 || session->decode_to <= session->n_ids) {
        return session->n_drafts;
    }
    size_t n_most = SHOAL_MIN(session->n_guesses, session->decode_to - session->n_ids - 1);
    size_t n = 0;
    while (n < n_most && session->shares[session->n_ids + n] == SURE) {
        n++;
    }
    return n;
}

static double guessed_share(const shoal_session *session)
{
    const shoal_session_stats *stats = &session->stats;
    return (GUESSED * GUESSED_WEIGHT + stats->n_guessed_right) /
           (GUESSED_WEIGHT + stats->n_guessed);
}

shoal_session_due shoal_session_due_get(const shoal_session *session)
{
    if (shoal_session_wants(session, 0) == SHOAL_WANT_NOTHING) {
        return (shoal_session_due){.priority = session->priority};
    }
    size_t n = n_to_judge(session);
    bool drafts = session->n_drafts > 0;
    return (shoal_session_due){.n_prefill = n_missing(session),
                               .sample = wants_tokens(session),
                               .n_drafts = n,
                               .odds = n > 0 && session->weighed ? session->shares + session->n_ids
                                                                 : NULL,
                               .guessed = n > 0 && !drafts ? guessed_share(session) : 0.0,
                               .priority = session->priority};
}

bool shoal_session_offer(const shoal_session *session, size_t n_rows, size_t n_logits,
                         shoal_span *ret_span)
{
    if (n_rows == 0 || shoal_session_wants(session, 0) == SHOAL_WANT_NOTHING) {
        return false;
    }
    size_t length = shoal_kv_seq_length(session->seq);
    size_t missing = n_missing(session);
    *ret_span =
        (shoal_span){.seq = session->seq, .lora = session->lora, .ids = session->ids + length};
    if (!wants_tokens(session) || missing >= n_rows || n_logits == 0) {
        ret_span->n_ids = SHOAL_MIN(missing, n_rows);
        return ret_span->n_ids > 0;
    }
    size_t n_drafts = SHOAL_MIN(n_to_judge(session), (size_t)VERIFY_MAX);
    n_drafts = SHOAL_MIN(n_drafts, n_logits - 1);
    n_drafts = SHOAL_MIN(n_drafts, n_rows - missing - 1);
    ret_span->n_ids = missing + 1 + n_drafts;
    ret_span->n_logits = 1 + n_drafts;
    return true;
}

static int is_end(const void *ctx, int32_t id)
{
    return shoal_tokenizer_is_end(ctx, id) ? 1 : 0;
}

static void append_own(shoal_session *session, const shoal_sampled *own)
{
    session->ids[session->n_ids] = own->id;
    session->shares[session->n_ids] = shoal_wire_share(own->confidence);
    session->n_ids++;
}

static void append_accepted(shoal_session *session, const shoal_verdict *verdict)
{
    for (size_t i = 0; i < verdict->n_accepted; i++) {
        session->shares[session->n_ids + i] = shoal_wire_share(verdict->confidences[i]);
    }
    session->n_ids += verdict->n_accepted;
}

/* Commits what the verifier confirmed, then its own token, which also judges the draft that stands
 * at its place: the first refused one, or the next in the queue beyond the judged ones. Returns
 * how far the drafts stand. */
static size_t commit_judged(shoal_session *session, const shoal_verdict *verdict)
{
    const shoal_sampled *own = &verdict->next;
    size_t n_queued = session->n_drafts - verdict->n_accepted;
    append_accepted(session, verdict);
    session->n_drafts = 0;
    session->stats.n_verified += (uint32_t)verdict->n_accepted;
    session->stats.n_accepted += (uint32_t)verdict->n_accepted;
    size_t accepted_to = session->n_ids;
    if (own->id < 0) {
        session->ended = true;
    } else if (n_queued > 0) {
        bool same = session->ids[session->n_ids] == own->id;
        append_own(session, own);
        session->stats.n_verified++;
        if (same) {
            session->stats.n_accepted++;
            session->n_drafts = n_queued - 1;
            accepted_to++;
        } else {
            session->stats.n_generated++;
            next_epoch(session);
            /* What is left may stand behind our token all the same, where we are to go on. */
            session->n_guesses = session->weighed && session->seq != NULL ? n_queued - 1 : 0;
        }
    } else if (session->n_ids < session->capacity) {
        append_own(session, own);
        session->stats.n_generated++;
    }
    return accepted_to;
}

/* The same where all of it is our own: guesses that stand, and the token behind them. */
static void commit_decoded(shoal_session *session, const shoal_verdict *verdict)
{
    const shoal_sampled *own = &verdict->next;
    uint32_t n_right = (uint32_t)verdict->n_accepted;
    session->n_guesses -= verdict->n_accepted;
    append_accepted(session, verdict);
    session->stats.n_generated += n_right;
    session->stats.n_guessed += n_right;
    session->stats.n_guessed_right += n_right;
    session->ended = own->id < 0;
    if (own->id < 0 || session->n_ids == session->capacity) {
        return;
    }
    if (session->n_guesses > 0) {
        session->n_guesses--;
        if (session->shares[session->n_ids] == SURE) {
            session->stats.n_guessed++;
            session->stats.n_guessed_right += session->ids[session->n_ids] == own->id;
        }
    }
    append_own(session, own);
    session->stats.n_generated++;
}

static size_t commit(shoal_session *session, const shoal_verdict *verdict)
{
    const shoal_sampled *own = &verdict->next;
    size_t accepted_to = session->n_ids;
    if (session->n_drafts > 0) {
        accepted_to = commit_judged(session, verdict);
    } else {
        commit_decoded(session, verdict);
    }
    if (own->id >= 0 && shoal_tokenizer_is_end(tokenizer_of(session), own->id)) {
        session->ended = true;
    }
    if (session->ended) {
        drop_drafts(session);
        session->decode_to = 0;
    }
    return accepted_to;
}

/* What may stand next in a span: the second of held runs ahead of H with the drafts that stand. */
static bool guide_allow(void *ctx, const uint32_t **ret_allowed)
{
    shoal_session *session = ctx;
    size_t n =
        shoal_form_allow(session->form, session->env.words, &session->held[1], session->allowed);
    *ret_allowed = n == SHOAL_FORM_ALL ? NULL : session->allowed;
    return n > 0;
}

static void guide_follow(void *ctx, int32_t id)
{
    shoal_session *session = ctx;
    bool kept = shoal_form_push(session->form, session->env.words, &session->held[1], id);
    SHOAL_ASSERT(kept); /* it was allowed */
}

/* False: the session has ended, by the form's doing. */
static bool verify(shoal_session *session, const float *const *logits, size_t n_judged,
                   shoal_verdict *ret_verdict)
{
    if (session->form != NULL && session->n_followed != session->n_ids) {
        shoal_session_failf(
            session, SHOAL_RPC_INVALID_ARGUMENT,
            "form.position is %zu, but only %zu tokens are known: send the prompt first",
            session->n_followed, session->n_ids);
        return false;
    }
    const shoal_spec_guide guide = {.allow = guide_allow, .follow = guide_follow, .ctx = session};
    if (session->form != NULL) {
        session->held[1] = session->held[0];
    }
    shoal_status status = shoal_spec_verify(
        session->env.sampler, &session->sampling, session->form != NULL ? &guide : NULL, logits,
        session->ids, session->n_ids, n_judged, is_end, tokenizer_of(session), ret_verdict);
    if (status != SHOAL_OK) {
        shoal_session_failf(
            session, SHOAL_RPC_INVALID_ARGUMENT,
            "the model has no token that goes on in the form asked for: ask for another one");
    }
    return status == SHOAL_OK;
}

void shoal_session_result(shoal_session *session, const shoal_span *span, uint64_t compute_us,
                          uint64_t now_ms)
{
    session->stats.compute_us += compute_us;
    if (session->state != SESSION_OPEN || span->n_logits == 0) {
        return;
    }
    SHOAL_ASSERT(span->n_logits <= VERIFY_MAX + 1);
    const float *logits[VERIFY_MAX + 1];
    for (size_t i = 0; i < span->n_logits; i++) {
        logits[i] = shoal_engine_logits(session->env.engine, span->logits_i + i);
    }
    size_t n_judged = span->n_logits - 1;
    size_t n_before = session->n_ids;
    shoal_verdict verdict;
    if (!verify(session, logits, n_judged, &verdict)) {
        return;
    }
    shoal_session_take(session, &verdict, now_ms);
    if (session->seq != NULL) {
        /* Rows of refused drafts go, and the row of the last token is run again with the next
         * sample: its logits are gone with this step. Should a windowed layer have forgotten too
         * much, nothing is left and the next spans feed H again. */
        (void)shoal_kv_seq_truncate(session->seq,
                                    SHOAL_MIN(n_before + n_judged, session->n_ids - 1));
    }
}

void shoal_session_computed(shoal_session *session, uint64_t compute_us)
{
    session->stats.compute_us += compute_us;
}

bool shoal_session_work_get(const shoal_session *session, shoal_session_work *ret_work)
{
    if (session->state != SESSION_OPEN || session->n_ids == 0 || !wants_tokens(session)) {
        return false;
    }
    *ret_work = (shoal_session_work){.ids = session->ids,
                                     .n_ids = session->n_ids,
                                     .n_drafts = session->n_drafts,
                                     .decode_to = session->decode_to,
                                     .sampling = &session->sampling};
    return true;
}

void shoal_session_take(shoal_session *session, const shoal_verdict *verdict, uint64_t now_ms)
{
    size_t n_before = session->n_ids;
    bool drafted = session->n_drafts > 0;
    SHOAL_ASSERT(session->state == SESSION_OPEN && verdict->n_accepted <= n_to_judge(session));
    size_t accepted_to = commit(session, verdict);
    if (!follow_form(session)) {
        return;
    }
    bool first = session->stats.first_token_ms == 0;
    session->stats.n_next += first ? 0 : (uint32_t)(session->n_ids - n_before);
    session->stats.last_token_ms = now_ms;
    note_first_token(session, now_ms);
    if (drafted) {
        emit_verdict(session, n_before, accepted_to);
    } else {
        emit_tokens(session, n_before, session->n_ids);
    }
    if (session->half_closed && !wants_tokens(session)) {
        finish_close(session);
    }
}

/* --- prefixes --------------------------------------------------------------------------------- */

/* What was dropped and found again is not counted twice. */
static void note_cached(shoal_session *session, size_t n)
{
    session->stats.n_cached += session->stats.n_evictions == 0 ? (uint32_t)n : 0;
}

size_t shoal_session_take_prefix(shoal_session *session, shoal_prefix *prefix,
                                 const shoal_prefix_owner *owner)
{
    if (session->seq == NULL || shoal_session_wants(session, 0) == SHOAL_WANT_NOTHING ||
        n_missing(session) < SHOAL_PREFIX_BLOCK) {
        return 0;
    }
    size_t n = shoal_prefix_take(prefix, owner, session->ids, session->n_ids - 1, session->seq);
    session->n_published = n > 0 ? shoal_kv_seq_length(session->seq) : session->n_published;
    note_cached(session, n);
    return n;
}

void shoal_session_publish(shoal_session *session, shoal_prefix *prefix,
                           const shoal_prefix_owner *owner)
{
    size_t n = session->seq == NULL ? 0 : shoal_kv_seq_length(session->seq);
    if (n / SHOAL_PREFIX_BLOCK > session->n_published / SHOAL_PREFIX_BLOCK) {
        shoal_prefix_publish(prefix, owner, session->ids, session->seq);
        session->n_published = n;
    }
}

size_t shoal_session_blocks_missing(const shoal_session *session)
{
    if (session->seq == NULL || shoal_session_wants(session, 0) == SHOAL_WANT_NOTHING ||
        shoal_kv_seq_length(session->seq) % SHOAL_PREFIX_BLOCK != 0) {
        return 0;
    }
    return n_missing(session) / SHOAL_PREFIX_BLOCK;
}

shoal_status shoal_session_import(shoal_session *session, const uint8_t *bytes, size_t n)
{
    SHOAL_ASSERT(shoal_session_blocks_missing(session) > 0);
    SHOAL_TRY(shoal_kv_block_import(session->seq, bytes, n));
    note_cached(session, SHOAL_PREFIX_BLOCK);
    return SHOAL_OK;
}

shoal_status shoal_session_export(const shoal_session *session, size_t block, uint8_t *ret_bytes)
{
    SHOAL_ASSERT(session->seq != NULL);
    return shoal_kv_block_export(session->seq, block, ret_bytes);
}

/* --- KV and reports --------------------------------------------------------------------------- */

size_t shoal_session_kv_length(const shoal_session *session)
{
    return session->seq == NULL ? 0 : shoal_kv_seq_length(session->seq);
}

shoal_kv_need shoal_session_kv_need(const shoal_session *session)
{
    shoal_kv_need need = {.n_rows_held = 0};
    if (session->seq != NULL) {
        need = shoal_kv_seq_need(session->seq);
    }
    return need;
}

void shoal_session_evict(shoal_session *session)
{
    if (session->seq != NULL) {
        (void)shoal_kv_seq_truncate(session->seq, 0);
        session->n_published = 0;
        session->stats.n_evictions++;
    }
}

const shoal_session_stats *shoal_session_stats_get(const shoal_session *session)
{
    return &session->stats;
}

const int32_t *shoal_session_ids(const shoal_session *session, size_t *ret_n)
{
    *ret_n = session->n_ids;
    return session->ids;
}
