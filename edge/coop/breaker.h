/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether the cloud is worth asking, learnt from what became of earlier attempts (a circuit
 * breaker; Nygard, Release It!, chapter 5). Closed: ask. A failure opens it for a pause that
 * doubles with every failure in a row, up to a limit, each between half of that and all of it, so
 * that edges which lost the cloud together do not come back together. After the pause one probe
 * decides. Pure: time comes in. One thread, the caller's memory.
 */
#ifndef SHOAL_COOP_BREAKER_H
#define SHOAL_COOP_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct shoal_breaker {
    uint64_t least_ms;   /* first pause, at least 1 */
    uint64_t most_ms;    /* longest pause, at least least_ms */
    uint64_t until_ms;   /* open: not before that */
    uint32_t n_failures; /* in a row */
    bool open;
    uint64_t rng;
} shoal_breaker;

/* Closed. seed: of the pauses' lengths. */
void shoal_breaker_init(shoal_breaker *breaker, uint64_t least_ms, uint64_t most_ms, uint64_t seed);

/* An attempt failed. While it is open and not yet due nothing changes: many that fail of one cause
 * are one failure. */
void shoal_breaker_failed(shoal_breaker *breaker, uint64_t now_ms);
/* Not before until_ms, as the cloud asked. */
void shoal_breaker_hold(shoal_breaker *breaker, uint64_t until_ms);
/* A probe was answered: closed on trial, the next failure's pause is as long as if it had not. */
void shoal_breaker_probed(shoal_breaker *breaker);
/* The cloud did what was asked: closed, and all failures are forgotten. */
void shoal_breaker_worked(shoal_breaker *breaker);
/* The cause of the failures is known to be gone: a probe is due now, the next pause the first. */
void shoal_breaker_reset(shoal_breaker *breaker, uint64_t now_ms);

/* Open, and a probe may be made. */
bool shoal_breaker_due(const shoal_breaker *breaker, uint64_t now_ms);
/* Open for so long after a probe was due that what is known says nothing: it is worth waiting for
 * one. */
bool shoal_breaker_stale(const shoal_breaker *breaker, uint64_t now_ms);

#endif
