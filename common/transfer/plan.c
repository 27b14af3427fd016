/* SPDX-License-Identifier: Apache-2.0 */
#include "common/transfer/transfer.h"

#include <math.h>

/* Of protocol/KVWIRE.md and the message around it: a head and an end, an id of 4 bytes for each
 * token, 12 of a record for each block and its share of a chunk's. */
enum {
    FRAME_BYTES = 512,
    FRAME_TOKEN_BYTES = 5,
    ASK_BYTES = 150, /* of the question without its ids, HTTP/2 and TLS around it included */
    ID_BYTES = 3     /* of a token as protobuf writes it, on its way up */
};

static const double FAR_US = 1e30; /* past it a time is none */

const char *shoal_transfer_way_name(shoal_transfer_way way)
{
    static const char *const names[] = {"ids", "kv", "local"};
    SHOAL_ASSERT(way < SHOAL_COUNT(names));
    return names[way];
}

double shoal_transfer_rest_us(double n_bytes, double n_whole, double us)
{
    if (!(n_bytes > 0)) {
        return HUGE_VAL;
    }
    return n_bytes < n_whole ? us * (n_whole - n_bytes) / n_bytes : 0;
}

size_t shoal_transfer_n_moved(size_t n_tokens)
{
    return n_tokens == 0 ? 0 : (n_tokens - 1) / SHOAL_TRANSFER_BLOCK * (size_t)SHOAL_TRANSFER_BLOCK;
}

double shoal_transfer_kv_bytes(const shoal_transfer_level *level, size_t n_tokens)
{
    double n_moved = (double)shoal_transfer_n_moved(n_tokens);
    return n_moved * (level->bytes_token + FRAME_TOKEN_BYTES) + FRAME_BYTES;
}

shoal_transfer_level shoal_transfer_mix(const shoal_transfer_level *level,
                                        const shoal_transfer_level *other, size_t n, size_t n_other)
{
    SHOAL_ASSERT(n > 0 && n_other <= n);
    double share = (double)n_other / (double)n;
    return (shoal_transfer_level){
        .bytes_token = level->bytes_token + (other->bytes_token - level->bytes_token) * share,
        .encode_us = level->encode_us + (other->encode_us - level->encode_us) * share,
        .decode_us = level->decode_us + (other->decode_us - level->decode_us) * share};
}

/* A time or a rate that can be reckoned with. */
static bool is_some(double x)
{
    return x >= 0 && x < FAR_US;
}

static bool is_rate(double x)
{
    return is_some(x) && x > 0;
}

static double or_none(double us)
{
    return is_some(us) ? us : HUGE_VAL;
}

/* The ids of the prompt are there. */
static double ask_us(const shoal_transfer_figures *f, const shoal_transfer_request *r)
{
    return f->round_trip_us + (ASK_BYTES + (double)r->n_tokens * ID_BYTES) / f->up_bytes_s * 1e6;
}

static double ids_us(const shoal_transfer_figures *f, const shoal_transfer_request *r)
{
    bool possible = r->may_ids && is_rate(f->up_bytes_s) && is_some(f->round_trip_us) &&
                    is_some(f->ids_prefill_us) && is_some(f->ids_token_us);
    if (!possible) {
        return HUGE_VAL;
    }
    return or_none(ask_us(f, r) + (double)r->n_tokens * f->ids_prefill_us +
                   (double)(r->n_answer - 1) * f->ids_token_us);
}

static double local_us(const shoal_transfer_figures *f, const shoal_transfer_request *r)
{
    if (!r->may_local || !is_some(f->here_prefill_us) || !is_some(f->here_token_us)) {
        return HUGE_VAL;
    }
    size_t n_left = r->n_tokens - SHOAL_MIN(r->n_here, r->n_tokens - 1);
    return or_none((double)n_left * f->here_prefill_us +
                   (double)(r->n_answer - 1) * f->here_token_us);
}

/* When the last block is decoded, counted from when the peer begins. A cached text need not end
 * with a block; a chunk has at least one, so that a step is enough for the next. */
static double flow_us(const shoal_transfer_figures *f, const shoal_transfer_request *r,
                      const shoal_transfer_level *level)
{
    size_t n_moved = shoal_transfer_n_moved(r->n_tokens);
    size_t n_cached = SHOAL_MIN(r->n_peer, n_moved);
    size_t chunk = f->peer_chunk > 0 ? f->peer_chunk : (size_t)SHOAL_TRANSFER_CHUNK;
    chunk = SHOAL_MAX(chunk, (size_t)SHOAL_TRANSFER_BLOCK);
    double link_us = (level->bytes_token + FRAME_TOKEN_BYTES) / f->down_bytes_s * 1e6;
    double done[3] = {0, FRAME_BYTES / f->down_bytes_s * 1e6, 0};
    size_t n_computed = n_cached;
    for (size_t at = 0; at < n_moved; at += SHOAL_TRANSFER_BLOCK) {
        if (n_computed < at + SHOAL_TRANSFER_BLOCK) {
            size_t n = SHOAL_MIN(chunk, n_moved - n_computed);
            n_computed += n;
            done[0] += (double)n * f->peer_prefill_us;
        }
        done[0] += SHOAL_TRANSFER_BLOCK * level->encode_us;
        done[1] = SHOAL_MAX(done[0], done[1]) + SHOAL_TRANSFER_BLOCK * link_us;
        done[2] = SHOAL_MAX(done[1], done[2]) + SHOAL_TRANSFER_BLOCK * level->decode_us;
    }
    return done[2];
}

static double kv_us(const shoal_transfer_figures *f, const shoal_transfer_request *r,
                    const shoal_transfer_level *level)
{
    size_t n_moved = shoal_transfer_n_moved(r->n_tokens);
    bool possible =
        n_moved > 0 && r->n_here < n_moved && is_rate(f->up_bytes_s) && is_rate(f->down_bytes_s) &&
        is_some(f->round_trip_us) && is_some(f->here_prefill_us) && is_some(f->here_token_us) &&
        is_some(f->peer_wait_us) && is_some(f->peer_prefill_us) && is_rate(level->bytes_token) &&
        is_some(level->encode_us) && is_some(level->decode_us);
    if (!possible) {
        return HUGE_VAL;
    }
    double rest_us = (double)(r->n_tokens - n_moved) * f->here_prefill_us +
                     (double)(r->n_answer - 1) * f->here_token_us;
    return or_none(ask_us(f, r) + f->peer_wait_us + flow_us(f, r, level) + rest_us);
}

static bool in_range(size_t n)
{
    return n >= 1 && n <= SHOAL_TRANSFER_TOKENS_MAX;
}

shoal_status shoal_transfer_choose(const shoal_transfer_figures *figures,
                                   const shoal_transfer_request *request,
                                   shoal_transfer_choice *ret_choice)
{
    if (!in_range(request->n_tokens) || !in_range(request->n_answer) ||
        request->n_levels > SHOAL_TRANSFER_LEVELS_MAX) {
        return SHOAL_E_LIMIT;
    }
    shoal_transfer_choice c = {.way = SHOAL_TRANSFER_IDS,
                               .n_moved = shoal_transfer_n_moved(request->n_tokens),
                               .ids_us = ids_us(figures, request),
                               .local_us = local_us(figures, request),
                               .kv_us = HUGE_VAL};
    for (size_t i = 0; i < request->n_levels; i++) {
        double us = kv_us(figures, request, &request->levels[i]);
        if (us < c.kv_us) {
            c.kv_us = us;
            c.level = i;
        }
    }
    double best = c.ids_us;
    if (c.local_us < best || (!isfinite(best) && request->may_local)) {
        best = c.local_us;
        c.way = SHOAL_TRANSFER_LOCAL;
    }
    if (c.kv_us < best) {
        c.way = SHOAL_TRANSFER_KV;
    }
    *ret_choice = c;
    return SHOAL_OK;
}
