/* SPDX-License-Identifier: Apache-2.0 */
#include "flow.h"

enum {
    PACKET = 1400, /* bytes of a packet's load */
    HEAD = 60,     /* of IP, TCP and TLS around it, on the link as well */
    BLOCK = 32
};

/* One direction of a link: a packet leaves when the one before has left, and arrives half a round
 * trip later. What was measured is what a transfer got of it, so heads are in the measure. */
typedef struct wire {
    double byte_us; /* of load */
    double delay_us;
    double free_us; /* when the last packet has left */
    double filled;  /* bytes in the packet that is not full yet */
} wire;

static wire wire_of(double bytes_s, double round_trip_us)
{
    double share = (double)(PACKET + HEAD) / PACKET;
    return (wire){.byte_us = 1e6 / bytes_s / share, .delay_us = round_trip_us / 2};
}

/* Bytes that are ready at a time; when the last of them arrives. */
static double wire_send(wire *w, double ready_us, double bytes)
{
    while (bytes > 0) {
        double load = bytes < PACKET ? bytes : PACKET;
        double start = w->free_us > ready_us ? w->free_us : ready_us;
        w->free_us = start + (load + HEAD) * w->byte_us;
        bytes -= load;
    }
    return w->free_us + w->delay_us;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static double ids_up(const shoal_transfer_figures *f, const shoal_transfer_request *r)
{
    wire up = wire_of(f->up_bytes_s, f->round_trip_us);
    return wire_send(&up, 0, 120 + 3 * (double)r->n_tokens);
}

double flow_ids(const shoal_transfer_figures *f, const shoal_transfer_request *r)
{
    double now = ids_up(f, r);
    for (size_t at = 0; at < r->n_tokens; at += BLOCK) {
        now += (double)min_size(BLOCK, r->n_tokens - at) * f->ids_prefill_us;
    }
    for (size_t i = 1; i < r->n_answer; i++) {
        now += f->ids_token_us;
    }
    return now + f->round_trip_us / 2;
}

/* The node computes what it lacks of the prompt, then the answer. */
static double compute_here(const shoal_transfer_figures *f, const shoal_transfer_request *r,
                           size_t n_have, double now)
{
    for (size_t at = n_have; at < r->n_tokens; at++) {
        now += f->here_prefill_us;
    }
    for (size_t i = 1; i < r->n_answer; i++) {
        now += f->here_token_us;
    }
    return now;
}

double flow_local(const shoal_transfer_figures *f, const shoal_transfer_request *r)
{
    return compute_here(f, r, min_size(r->n_here, r->n_tokens - 1), 0);
}

double flow_kv(const shoal_transfer_figures *f, const shoal_transfer_request *r,
               const shoal_transfer_level *level)
{
    size_t n_blocks = (r->n_tokens - 1) / BLOCK;
    size_t chunk = f->peer_chunk > 0 ? f->peer_chunk : 128;
    double peer = ids_up(f, r) + f->peer_wait_us;
    wire down = wire_of(f->down_bytes_s, f->round_trip_us);
    double here = wire_send(&down, peer, 200 + 4 * (double)r->n_tokens);
    size_t n_computed = min_size(r->n_peer, n_blocks * BLOCK); /* tokens */
    for (size_t b = 0; b < n_blocks; b++) {
        size_t end = (b + 1) * BLOCK;
        while (n_computed < end) {
            size_t n = min_size(chunk, n_blocks * BLOCK - n_computed);
            peer += (double)n * f->peer_prefill_us;
            n_computed += n;
        }
        peer += BLOCK * level->encode_us;
        double there = wire_send(&down, peer, 12 + BLOCK * level->bytes_token);
        here = (here > there ? here : there) + BLOCK * level->decode_us;
    }
    return compute_here(f, r, n_blocks * BLOCK, here);
}
