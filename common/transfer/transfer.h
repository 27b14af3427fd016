/* SPDX-License-Identifier: Apache-2.0
 *
 * The break-even planner: a node is to answer a prompt, a peer across a link could help. Three
 * ways, by what was measured of the link and of both sides:
 *
 * - IDS: token ids go up, the peer's model answers, ids come down. No KV moves.
 * - KV: ids go up, the peer computes the prompt with the node's own model and sends the KV at one
 * of several levels; the node decodes it and answers. That fetching KV can beat computing it on a
 *   slow device is from Liu et al., "CacheGen" (2310.07240), section 2.
 * - LOCAL: the node computes the prompt itself.
 *
 * The model. A text has n tokens. KV moves in blocks of 32 of the first n - 1, since the last
 * token's row is what the answer begins with; what is behind the last block is computed here.
 * The peer computes them in chunks and encodes each, the link carries it, the node decodes it:
 * three stages in line, each busy with one block at a time and in order, so block i leaves stage s
 * at
 *
 *     done(s, i) = max(done(s - 1, i), done(s, i - 1)) + work(s, i)
 *
 * (a permutation flow shop: Johnson, "Optimal two- and three-stage production schedules", 1954).
 * A way's time is from the question to the last of n_answer tokens of the answer: 1 is the time to
 * first token.
 *
 * Figures are what somebody measured, so any of them may be nonsense: see shoal_transfer_choose.
 * Pure, any thread.
 */
#ifndef SHOAL_TRANSFER_TRANSFER_H
#define SHOAL_TRANSFER_TRANSFER_H

#include "common/base/macros.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    SHOAL_TRANSFER_BLOCK = 32, /* tokens of a block of KV */
    SHOAL_TRANSFER_LEVELS_MAX = 8,
    SHOAL_TRANSFER_TOKENS_MAX = 1 << 24,
    SHOAL_TRANSFER_CHUNK = 128 /* tokens that the peer computes in one step, where 0 is said */
};

typedef enum shoal_transfer_way {
    SHOAL_TRANSFER_IDS,
    SHOAL_TRANSFER_KV,
    SHOAL_TRANSFER_LOCAL
} shoal_transfer_way;
/* "ids", "kv", "local". */
const char *shoal_transfer_way_name(shoal_transfer_way way);

/* A form in which KV may move. */
typedef struct shoal_transfer_level {
    double bytes_token; /* above 0 */
    double encode_us;   /* of a token, at the peer; 0 or more */
    double decode_us;   /* of a token, here; 0 or more */
} shoal_transfer_level;

/* Times are microseconds, of one token where nothing else is said; 0 is none. */
typedef struct shoal_transfer_figures {
    double up_bytes_s;   /* what the link carries in a second, above 0 */
    double down_bytes_s; /* above 0 */
    double round_trip_us;
    double here_prefill_us; /* the node's model, here */
    double here_token_us;   /* a token of the answer, here */
    double peer_wait_us;    /* before the peer begins */
    double peer_prefill_us; /* the node's model, at the peer */
    double ids_prefill_us;  /* the peer's model, at the peer */
    double ids_token_us;    /* a token of the answer, at the peer */
    size_t peer_chunk;      /* tokens of one step there; 0: SHOAL_TRANSFER_CHUNK */
} shoal_transfer_figures;

typedef struct shoal_transfer_request {
    size_t n_tokens; /* of the prompt, 1..SHOAL_TRANSFER_TOKENS_MAX */
    size_t n_here;   /* leading tokens whose KV is here already */
    size_t n_peer;   /* leading tokens whose KV the peer has already, of the node's model */
    size_t n_answer; /* tokens of the answer that count, 1..SHOAL_TRANSFER_TOKENS_MAX */
    bool may_ids;
    bool may_local;
    const shoal_transfer_level *levels; /* [n_levels], borrowed for the call */
    size_t n_levels;                    /* 0..SHOAL_TRANSFER_LEVELS_MAX; 0: no KV may move */
} shoal_transfer_request;

typedef struct shoal_transfer_choice {
    shoal_transfer_way way;
    size_t level;    /* of KV: the fastest level, also where another way is chosen; 0 without one */
    size_t n_moved;  /* tokens whose KV would move */
    double ids_us;   /* what each way would take; HUGE_VAL: it is impossible or may not be taken */
    double kv_us;    /* at that level */
    double local_us; /* no figure but those of here counts */
} shoal_transfer_choice;

/* The fastest way; among equals IDS, then LOCAL, then KV, then the lower level. Any figures may
 * come: one that is no number, negative or infinite, or a link or level of 0 bytes, makes the ways
 * that need it impossible. Where none is possible: LOCAL if it may be taken, else IDS.
 * SHOAL_E_LIMIT: tokens, levels or their counts out of range. */
shoal_status shoal_transfer_choose(const shoal_transfer_figures *figures,
                                   const shoal_transfer_request *request,
                                   shoal_transfer_choice *ret_choice) SHOAL_MUST_CHECK;
/* What the KV of a text of n_tokens takes on the link at a level, its frame included. */
double shoal_transfer_kv_bytes(const shoal_transfer_level *level, size_t n_tokens);
/* The level of a text of which n_other tokens of n move at another level: what a token of it takes
 * on average. n is above 0, n_other at most n. */
shoal_transfer_level shoal_transfer_mix(const shoal_transfer_level *level,
                                        const shoal_transfer_level *other, size_t n,
                                        size_t n_other);
/* For a node that computes while KV is under way: what the rest of a transfer takes, of which
 * n_bytes of n_whole came in us microseconds, in microseconds. HUGE_VAL where nothing came; 0 where
 * all did. */
double shoal_transfer_rest_us(double n_bytes, double n_whole, double us);
/* Leading tokens of a text whose KV can move. */
size_t shoal_transfer_n_moved(size_t n_tokens);

#endif
