/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/load/edge.h"

#include "tests/bench/load/stats.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

enum {
    PROMPT_CHUNK = 8192 /* ids of one PROMPT message */
};

void load_edge_init(load_edge *edge, const load_edge_settings *settings, const load_truth *truth,
                    load_item *item, uint64_t noise)
{
    *edge = (load_edge){.settings = *settings,
                        .truth = truth,
                        .item = item,
                        .noise = noise,
                        .n_confirmed = item->n_prompt};
    if (settings->pace) {
        shoal_pace_fork(&edge->pace, settings->pace);
        shoal_pace_edge_token(&edge->pace, SHOAL_MAX(settings->draft_us, 1.0));
        edge->choice = shoal_pace_choose(&edge->pace);
    }
    load_edge_reopen(edge);
}

void load_edge_reopen(load_edge *edge)
{
    edge->step = LOAD_EDGE_OPEN;
    edge->epoch = 0;
    edge->n_prompted = 0;
    edge->n_sent = edge->n_confirmed;
    edge->finished = false;
    edge->continuing = false;
    edge->sent_us = 0;
    shoal_pace_paused(&edge->pace);
}

/* How it is drafted now; n_draft 0: not at all. */
static shoal_pace_choice choice_of(const load_edge *edge)
{
    const load_edge_settings *s = &edge->settings;
    if (s->pace) {
        return edge->choice;
    }
    return s->plain ? (shoal_pace_choice){.n_draft = 0}
                    : (shoal_pace_choice){.n_draft = s->span, .n_window = s->span * s->ahead};
}

/* Where the answer ends: what was recorded, or what may come at most. */
static size_t end_of(const load_edge *edge)
{
    const load_item *item = edge->item;
    return item->n_prompt + (edge->settings.record ? item->n_out_max : item->n_out);
}

bool load_edge_complete(const load_edge *edge)
{
    return edge->n_confirmed == end_of(edge);
}

/* A draft is a function of its position: the recorded token or, as often as asked, another one. */
static int32_t draft_at(const load_edge *edge, size_t position)
{
    int32_t right = edge->item->ids[position];
    if (load_uniform_at(edge->noise, position) < edge->settings.accept) {
        return right;
    }
    return (int32_t)(((uint32_t)right + 1) % edge->truth->describe.n_vocab);
}

size_t load_edge_n_drafts(const load_edge *edge)
{
    return SHOAL_MIN(choice_of(edge).n_draft, end_of(edge) - edge->n_sent);
}

load_edge_step load_edge_next(const load_edge *edge)
{
    if (edge->step == LOAD_EDGE_OPEN || edge->step == LOAD_EDGE_PROMPT ||
        edge->step == LOAD_EDGE_HALF_CLOSE || edge->step == LOAD_EDGE_CLOSED) {
        return edge->step;
    }
    if (load_edge_complete(edge)) {
        return LOAD_EDGE_CLOSE;
    }
    if (edge->settings.mode != SHOAL_MODE_EXACT) {
        return edge->step == LOAD_EDGE_CONTINUE ? LOAD_EDGE_CONTINUE : LOAD_EDGE_WAIT;
    }
    size_t n = load_edge_n_drafts(edge);
    size_t room = choice_of(edge).n_window;
    if (choice_of(edge).n_draft == 0) {
        bool ask = edge->settings.pace && edge->sent_us == 0 && shoal_pace_wants_trip(&edge->pace);
        return !edge->continuing ? LOAD_EDGE_CONTINUE : ask ? LOAD_EDGE_ASK : LOAD_EDGE_WAIT;
    }
    return n > 0 && edge->n_sent - edge->n_confirmed + n <= room ? LOAD_EDGE_DRAFT : LOAD_EDGE_WAIT;
}

/* --- sending ---------------------------------------------------------------------------------- */

/* What is sent now is timed, unless something is. */
static void start_trip(load_edge *edge, size_t n_rows)
{
    if (edge->sent_us == 0) {
        edge->sent_us = edge->now_us;
        edge->sent_position = edge->n_sent;
        edge->sent_rows = edge->continuing ? 0 : n_rows;
        edge->sent_decoding = edge->continuing;
        edge->sent_alone = edge->n_sent == edge->n_confirmed;
    }
}

static void end_trip(load_edge *edge)
{
    if (edge->sent_us > 0 && edge->settings.pace) {
        const shoal_pace_trip trip = {.us = (double)(edge->now_us - edge->sent_us),
                                      .n_rows = edge->sent_rows,
                                      .alone = edge->sent_alone,
                                      .decoding = edge->sent_decoding};
        shoal_pace_round_trip(&edge->pace, &trip);
    }
    edge->sent_us = 0;
}

static void make_open(load_edge *edge, const char *request_id, shoal_edge_msg *ret_msg)
{
    const shoal_describe *describe = &edge->truth->describe;
    shoal_msg_open *open = &ret_msg->body.open;
    ret_msg->kind = SHOAL_EDGE_OPEN;
    *open = (shoal_msg_open){.protocol = SHOAL_WIRE_PROTOCOL,
                             .model = describe->model,
                             .tokenizer = describe->tokenizer,
                             .chat_template = describe->chat_template,
                             .sampling = load_truth_sampling(edge->truth, edge->item),
                             .mode = edge->settings.mode,
                             .deadline_ms = edge->settings.deadline_ms,
                             .priority = edge->settings.priority};
    open->n_tokens_max = (uint32_t)(edge->item->n_prompt + edge->item->n_out_max);
    (void)snprintf(open->request_id, sizeof open->request_id, "%s", request_id);
    edge->counts.n_opens++;
    start_trip(edge, 0);
    edge->step = LOAD_EDGE_PROMPT;
}

static void make_prompt(load_edge *edge, shoal_edge_msg *ret_msg)
{
    size_t n = SHOAL_MIN(edge->n_confirmed - edge->n_prompted, (size_t)PROMPT_CHUNK);
    ret_msg->kind = SHOAL_EDGE_TOKENS;
    ret_msg->body.tokens = (shoal_msg_tokens){.position = (uint32_t)edge->n_prompted,
                                              .kind = SHOAL_TOKENS_PROMPT,
                                              .ids = edge->item->ids + edge->n_prompted,
                                              .n_ids = n};
    edge->n_prompted += n;
    if (edge->n_prompted == edge->n_confirmed) {
        edge->step = LOAD_EDGE_CONTINUE;
    }
}

static void make_continue(load_edge *edge, shoal_edge_msg *ret_msg)
{
    ret_msg->kind = SHOAL_EDGE_CONTINUE;
    ret_msg->body.cont =
        (shoal_msg_continue){.epoch = edge->epoch,
                             .position = (uint32_t)edge->n_confirmed,
                             .n_max = (uint32_t)(end_of(edge) - edge->n_confirmed)};
    edge->step = edge->settings.record ? LOAD_EDGE_HALF_CLOSE : LOAD_EDGE_WAIT;
    edge->continuing = true;
}

static void make_drafts(load_edge *edge, shoal_edge_msg *ret_msg)
{
    size_t n = load_edge_n_drafts(edge);
    for (size_t i = 0; i < n; i++) {
        edge->drafts[i] = draft_at(edge, edge->n_sent + i);
    }
    ret_msg->kind = SHOAL_EDGE_TOKENS;
    ret_msg->body.tokens = (shoal_msg_tokens){.epoch = edge->epoch,
                                              .position = (uint32_t)edge->n_sent,
                                              .kind = SHOAL_TOKENS_DRAFT,
                                              .ids = edge->drafts,
                                              .n_ids = n};
    start_trip(edge, n);
    edge->continuing = false;
    edge->n_sent += n;
}

/* A draft of what is known already: its verdict comes at once. */
static void make_question(load_edge *edge, shoal_edge_msg *ret_msg)
{
    size_t position = edge->n_confirmed - 1;
    ret_msg->kind = SHOAL_EDGE_TOKENS;
    ret_msg->body.tokens = (shoal_msg_tokens){.epoch = edge->epoch,
                                              .position = (uint32_t)position,
                                              .kind = SHOAL_TOKENS_DRAFT,
                                              .ids = edge->item->ids + position,
                                              .n_ids = 1};
    start_trip(edge, 0);
    edge->sent_position = position;
}

void load_edge_send(load_edge *edge, const char *request_id, shoal_edge_msg *ret_msg)
{
    *ret_msg = (shoal_edge_msg){.kind = SHOAL_EDGE_CLOSE};
    switch (load_edge_next(edge)) {
    case LOAD_EDGE_OPEN:
        make_open(edge, request_id, ret_msg);
        break;
    case LOAD_EDGE_PROMPT:
        make_prompt(edge, ret_msg);
        break;
    case LOAD_EDGE_CONTINUE:
        make_continue(edge, ret_msg);
        break;
    case LOAD_EDGE_DRAFT:
        make_drafts(edge, ret_msg);
        break;
    case LOAD_EDGE_ASK:
        make_question(edge, ret_msg);
        break;
    case LOAD_EDGE_CLOSE:
        edge->step = LOAD_EDGE_CLOSED;
        break;
    case LOAD_EDGE_WAIT:
    case LOAD_EDGE_HALF_CLOSE:
    case LOAD_EDGE_CLOSED:
        SHOAL_ASSERT(false);
    }
}

void load_edge_half_closed(load_edge *edge)
{
    edge->step = LOAD_EDGE_CLOSED;
}

/* --- taking ----------------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) static shoal_status wrong(load_edge *edge, shoal_status code,
                                                                const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(edge->why, sizeof edge->why, format, args);
    va_end(args);
    return code;
}

/* The cloud's id for a position that is at most n_confirmed. */
static shoal_status take_id(load_edge *edge, size_t position, int32_t id)
{
    int32_t *known = &edge->item->ids[position];
    if (edge->settings.record && position == edge->n_confirmed) {
        *known = id;
        edge->item->n_out = position + 1 - edge->item->n_prompt;
    }
    if (*known != id) {
        return wrong(edge, SHOAL_E_MISMATCH, "position %zu: got %" PRId32 ", recorded was %" PRId32,
                     position, id, *known);
    }
    edge->n_confirmed = SHOAL_MAX(edge->n_confirmed, position + 1);
    return SHOAL_OK;
}

static void note_judged(load_edge *edge, bool right)
{
    edge->counts.n_drafted++;
    edge->counts.n_accepted += right;
    if (edge->settings.pace) {
        shoal_pace_judged(&edge->pace, right);
    }
}

/* void_on_way: what was sent past a correction will be refused, and raise the epoch. */
static void follow_epoch(load_edge *edge, uint32_t epoch, bool void_on_way)
{
    if (epoch > edge->epoch) {
        edge->epoch = epoch;
        edge->n_sent = edge->n_confirmed;
        edge->continuing = false;
        edge->sent_us = 0; /* what is timed may never be answered */
    } else if (void_on_way) {
        edge->epoch++;
        edge->continuing = false;
        edge->sent_us = 0;
    }
}

static shoal_status take_accepted(load_edge *edge, size_t accepted_to)
{
    if (accepted_to > edge->n_sent) {
        return wrong(edge, SHOAL_E_PROTOCOL, "accepted to %zu, sent were %zu", accepted_to,
                     edge->n_sent);
    }
    while (edge->n_confirmed < accepted_to) {
        size_t at = edge->n_confirmed;
        SHOAL_TRY(take_id(edge, at, draft_at(edge, at)));
        note_judged(edge, true);
    }
    return SHOAL_OK;
}

static shoal_status take_verdict(load_edge *edge, const shoal_msg_verdict *v)
{
    edge->counts.n_rounds++;
    if (v->accepted_to > edge->sent_position ||
        (edge->sent_alone && v->accepted_to == edge->sent_position)) {
        end_trip(edge);
    }
    SHOAL_TRY(take_accepted(edge, v->accepted_to));
    size_t sent_before = edge->n_sent;
    bool rolled_back = false;
    for (size_t i = 0; i < v->n_ids; i++) {
        size_t position = (size_t)v->accepted_to + i;
        if (position > edge->n_confirmed || position >= end_of(edge)) {
            return wrong(edge, SHOAL_E_PROTOCOL, "an id for position %zu, confirmed are %zu of %zu",
                         position, edge->n_confirmed, end_of(edge));
        }
        if (position == edge->n_confirmed && position < sent_before && !rolled_back) {
            bool right = draft_at(edge, position) == v->ids[i];
            note_judged(edge, right);
            rolled_back = !right;
        }
        SHOAL_TRY(take_id(edge, position, v->ids[i]));
    }
    if (rolled_back) {
        edge->n_sent = edge->n_confirmed;
        edge->sent_us = 0;
    }
    edge->n_sent = SHOAL_MAX(edge->n_sent, edge->n_confirmed);
    follow_epoch(edge, v->epoch,
                 rolled_back && sent_before > edge->n_confirmed - 1 && v->epoch == edge->epoch);
    return SHOAL_OK;
}

static shoal_status take_tokens(load_edge *edge, const shoal_msg_tokens *t)
{
    size_t sent_before = edge->n_sent;
    bool rolled_back = false;
    for (size_t i = 0; i < t->n_ids; i++) {
        size_t position = (size_t)t->position + i;
        if (position > edge->n_confirmed || position >= end_of(edge)) {
            return wrong(edge, SHOAL_E_PROTOCOL,
                         "a token for position %zu, confirmed are %zu of %zu", position,
                         edge->n_confirmed, end_of(edge));
        }
        if (position == edge->n_confirmed && position < sent_before && !rolled_back) {
            bool right = draft_at(edge, position) == t->ids[i];
            note_judged(edge, right);
            rolled_back = !right;
        }
        if (position == edge->n_confirmed && position >= sent_before && edge->settings.pace &&
            edge->choice.n_draft == 0 && edge->choice.n_window > 0) {
            shoal_pace_judged(&edge->pace, draft_at(edge, position) == t->ids[i]);
        }
        SHOAL_TRY(take_id(edge, position, t->ids[i]));
    }
    if (rolled_back) {
        edge->n_sent = edge->n_confirmed;
        edge->sent_us = 0;
    }
    edge->n_sent = SHOAL_MAX(edge->n_sent, edge->n_confirmed);
    follow_epoch(edge, t->epoch, rolled_back);
    return SHOAL_OK;
}

shoal_status load_edge_take(load_edge *edge, const shoal_cloud_msg *msg, size_t *ret_n_new)
{
    size_t before = edge->n_confirmed;
    shoal_status status = SHOAL_OK;
    if (edge->settings.pace && msg->cost.step_us > 0) {
        shoal_pace_told(&edge->pace, msg->cost.step_us, msg->cost.row_us,
                        (double)msg->cost.price / SHOAL_WIRE_PRICE_ONE);
    }
    edge->counts.n_cached = SHOAL_MAX(edge->counts.n_cached, (size_t)msg->n_cached);
    switch (msg->kind) {
    case SHOAL_CLOUD_VERDICT:
        status = take_verdict(edge, &msg->body.verdict);
        break;
    case SHOAL_CLOUD_TOKENS:
        status = take_tokens(edge, &msg->body.tokens);
        break;
    case SHOAL_CLOUD_FINISHED:
        edge->finished = true;
        break;
    case SHOAL_CLOUD_OPENED:
        end_trip(edge);
        break;
    case SHOAL_CLOUD_BUSY:
    case SHOAL_CLOUD_ERROR:
        break;
    }
    *ret_n_new = edge->n_confirmed - before;
    if (edge->settings.pace) {
        shoal_pace_confirmed(&edge->pace, *ret_n_new, edge->now_us);
        edge->choice = shoal_pace_choose(&edge->pace);
    }
    return status;
}
