/* SPDX-License-Identifier: Apache-2.0
 *
 * One stream between an edge and a cloud in simulated time: the messages of protocol/SPEC.md over a
 * link with a delay, an edge that drafts token by token, a cloud that runs steps for this session
 * and for others. Which drafts are right is drawn from a seed, by position.
 */
#ifndef SHOAL_TESTS_UNIT_PACE_STREAM_H
#define SHOAL_TESTS_UNIT_PACE_STREAM_H

#include "edge/pace/pace.h"

enum {
    STREAM_SEGMENTS_MAX = 64
};

/* How things are while tokens of a part of the text are made. */
typedef struct segment {
    size_t n_tokens;
    double trip_us;  /* there and back */
    double accept;   /* probability that a draft is right */
    size_t n_others; /* sessions beside ours that do as ours does */
} segment;

typedef struct trace {
    const char *name;
    double edge_us;  /* a draft takes the edge */
    double fixed_us; /* a step of the cloud, and */
    double row_us;   /* each row of it */
    segment segments[STREAM_SEGMENTS_MAX];
    size_t n_segments;
    uint64_t seed;
} trace;

typedef struct stream_result {
    double us[STREAM_SEGMENTS_MAX]; /* what the tokens of each segment took */
    size_t n_plain;                 /* tokens that came without a draft having been sent */
    size_t n_switches;              /* between drafting and plain decoding */
} stream_result;

/* Runs the whole trace with a fixed choice, or with a controller where pace is given. */
void stream_run(const trace *t, shoal_pace_choice choice, shoal_pace *pace,
                stream_result *ret_result);

#endif
