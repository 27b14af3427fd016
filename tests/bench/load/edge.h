/* SPDX-License-Identifier: Apache-2.0
 *
 * A synthetic edge: the edge's side of one generation (protocol/SPEC.md, section 5) as a state
 * machine without I/O, time or model. It knows the right continuation from a recording and drafts
 * from it, each position right with a given probability; so the cost of a cloud is measured at any
 * acceptance, and every token that comes back is held against the recording. One thread.
 */
#ifndef SHOAL_TESTS_BENCH_LOAD_EDGE_H
#define SHOAL_TESTS_BENCH_LOAD_EDGE_H

#include "edge/pace/pace.h"
#include "protocol/wire/wire.h"
#include "tests/bench/load/truth.h"

enum {
    LOAD_WHY_MAX = 256
};

typedef struct load_edge_settings {
    shoal_mode mode;  /* CLOUD: one Continue. EXACT: spans of drafts */
    size_t span;      /* drafts of a message, 1..SHOAL_WIRE_DRAFT_MAX */
    size_t ahead;     /* spans that may be unjudged at once, at least 1 */
    bool plain;       /* EXACT: no drafts, the cloud decodes. These three may change at any time */
    shoal_pace *pace; /* chooses them, as the daemon does, and learns for all edges; NULL: nobody */
    double draft_us;  /* what a draft takes, for pace */
    double accept;    /* probability that a draft is right, [0, 1] */
    uint32_t deadline_ms;
    uint32_t priority;
    bool record; /* the item's continuation is not known yet: take what comes (mode CLOUD) */
} load_edge_settings;

/* What the next message will be. */
typedef enum load_edge_step {
    LOAD_EDGE_WAIT, /* for the cloud */
    LOAD_EDGE_OPEN,
    LOAD_EDGE_PROMPT,
    LOAD_EDGE_CONTINUE,
    LOAD_EDGE_DRAFT,
    LOAD_EDGE_ASK, /* how far the cloud is, while it decodes */
    LOAD_EDGE_CLOSE,
    LOAD_EDGE_HALF_CLOSE, /* no message: the stream's end alone, which lets a recording finish */
    LOAD_EDGE_CLOSED      /* either was said */
} load_edge_step;

typedef struct load_edge_counts {
    size_t n_drafted;  /* judged */
    size_t n_accepted; /* of those, right */
    size_t n_rounds;   /* verdicts */
    size_t n_opens;
    size_t n_cached; /* tokens that the node said it need not compute */
} load_edge_counts;

typedef struct load_edge {
    load_edge_settings settings;
    const load_truth *truth;
    load_item *item;
    uint64_t noise; /* decides which drafts are right */
    load_edge_step step;
    uint32_t epoch;
    size_t n_confirmed; /* prompt included */
    size_t n_sent;      /* positions sent, drafts included */
    size_t n_prompted;  /* sent as prompt in this stream */
    bool finished;      /* the cloud has said so */
    bool continuing;    /* EXACT: a Continue of this epoch stands in for drafts */
    shoal_pace pace;    /* with settings.pace */
    shoal_pace_choice choice;
    uint64_t now_us;  /* with settings.pace: set by the caller before send and take */
    uint64_t sent_us; /* when what is timed was sent; 0: nothing is */
    size_t sent_position;
    size_t sent_rows;
    bool sent_alone;
    bool sent_decoding;
    int32_t drafts[SHOAL_WIRE_DRAFT_MAX];
    load_edge_counts counts;
    char why[LOAD_WHY_MAX]; /* what was wrong */
} load_edge;

void load_edge_init(load_edge *edge, const load_edge_settings *settings, const load_truth *truth,
                    load_item *item, uint64_t noise);
/* The stream was lost: a new one begins with everything confirmed as its prompt. */
void load_edge_reopen(load_edge *edge);
/* What would be sent now. */
load_edge_step load_edge_next(const load_edge *edge);
/* How many drafts the next message of step DRAFT holds. */
size_t load_edge_n_drafts(const load_edge *edge);
/* The next message; its ids point into edge and item. Only when next is one that has a message. */
void load_edge_send(load_edge *edge, const char *request_id, shoal_edge_msg *ret_msg);
void load_edge_half_closed(load_edge *edge);
/* Takes an answer; *ret_n_new is the number of tokens it confirmed. SHOAL_E_MISMATCH: a token is
 * not the recorded one. SHOAL_E_PROTOCOL: an answer that cannot be (why says what). */
shoal_status load_edge_take(load_edge *edge, const shoal_cloud_msg *msg,
                            size_t *ret_n_new) SHOAL_MUST_CHECK;
/* The whole recorded continuation is confirmed. */
bool load_edge_complete(const load_edge *edge);

#endif
