/* SPDX-License-Identifier: Apache-2.0
 *
 * What may be spent: tokens of the cloud, bytes sent to it, and energy, in an hour, a day and a
 * month (30 days), each counted from the start. A limit is released evenly over its period, with
 * SHOAL_SPEND_AHEAD of it at once: what was left unspent may be caught up with in the same period,
 * what comes cannot be spent before. How near spending is to what has been released is one number,
 * the level; who escalates in proportion to it settles where spending and release are equal,
 * whatever the traffic (a proportional controller on a leaky bucket), so that of a limit that is
 * wanted to the end of its period all but SHOAL_SPEND_AHEAD is used and nothing above it. Pure:
 * time comes in. One thread, the caller's memory.
 */
#ifndef SHOAL_COOP_SPEND_H
#define SHOAL_COOP_SPEND_H

#include "common/base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum shoal_spend_kind {
    SHOAL_SPEND_TOKENS, /* made by the cloud */
    SHOAL_SPEND_BYTES,  /* sent to it: IP packets where they are counted, else messages */
    SHOAL_SPEND_ENERGY, /* of this device, microjoules; of all modes, local too */
    SHOAL_SPEND_KINDS
} shoal_spend_kind;

typedef enum shoal_spend_period {
    SHOAL_SPEND_HOUR,
    SHOAL_SPEND_DAY,
    SHOAL_SPEND_MONTH,
    SHOAL_SPEND_PERIODS
} shoal_spend_period;

/* Share of a limit that may be spent at once. */
#define SHOAL_SPEND_AHEAD 0.04

/* 0: no limit. */
typedef struct shoal_spend_limits {
    uint64_t most[SHOAL_SPEND_KINDS][SHOAL_SPEND_PERIODS];
} shoal_spend_limits;

typedef struct shoal_spend {
    shoal_spend_limits limits;
    int64_t begin_ms[SHOAL_SPEND_PERIODS]; /* below 0: before the clock's own beginning */
    uint64_t used[SHOAL_SPEND_KINDS][SHOAL_SPEND_PERIODS];
} shoal_spend;

/* "cloud_tokens", "uplink_bytes", "energy_uj"; "hour", "day", "month". */
const char *shoal_spend_kind_name(shoal_spend_kind kind);
const char *shoal_spend_period_name(shoal_spend_period period);

void shoal_spend_init(shoal_spend *spend, const shoal_spend_limits *limits, uint64_t now_ms);
/* Begins the periods that are due. Before everything below. */
void shoal_spend_turn(shoal_spend *spend, uint64_t now_ms);
void shoal_spend_add(shoal_spend *spend, shoal_spend_kind kind, uint64_t n);

/* 1: spending is behind what has been released by half of SHOAL_SPEND_AHEAD of the limit or more,
 * or there is no limit; 0: all that was released is spent; even in between. The least over all
 * limits of that kind. n_reserved of it count as used. */
double shoal_spend_level_of(const shoal_spend *spend, shoal_spend_kind kind, uint64_t n_reserved,
                            uint64_t now_ms);
/* The least of tokens and bytes, n_reserved tokens. */
double shoal_spend_level(const shoal_spend *spend, uint64_t n_reserved, uint64_t now_ms);
/* Until something of that kind may be spent again: released, or a period ends. 0: now; else
 * ret_period is the one that is waited for longest. */
uint64_t shoal_spend_wait_ms(const shoal_spend *spend, shoal_spend_kind kind, uint64_t n_reserved,
                             uint64_t now_ms, shoal_spend_period *ret_period);
/* Tokens that may be asked for now; SIZE_MAX without a limit. */
size_t shoal_spend_tokens_left(const shoal_spend *spend, uint64_t n_reserved, uint64_t now_ms);
/* A limit of tokens or bytes that is used up whole, whatever has been released. */
bool shoal_spend_is_over(const shoal_spend *spend, shoal_spend_kind *ret_kind,
                         shoal_spend_period *ret_period);
/* Until the period ends. */
uint64_t shoal_spend_left_ms(const shoal_spend *spend, shoal_spend_period period, uint64_t now_ms);

/* Whether its periods are those of another, or later ones in step with them. */
bool shoal_spend_continues(const shoal_spend *spend, const shoal_spend *other);

/* --- over restarts ---------------------------------------------------------------------------- */

/* Appends what was used as four lines of text: periods begin by the wall clock there, since the
 * other one begins anew with the machine. */
shoal_status shoal_spend_write(const shoal_spend *spend, uint64_t now_ms, uint64_t wall_ms,
                               shoal_buf *buf) SHOAL_MUST_CHECK;
/* Takes up what such a text says was used, and its periods; the limits stay. A period that is over
 * begins anew; one that begins in the future, by a clock that was set back, begins now with what
 * was used of it. SHOAL_E_INVALID: no such text, and nothing has changed. */
shoal_status shoal_spend_read(shoal_spend *spend, const char *text, size_t n, uint64_t now_ms,
                              uint64_t wall_ms, shoal_err *err) SHOAL_MUST_CHECK;

#endif
