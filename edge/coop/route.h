/* SPDX-License-Identifier: Apache-2.0
 *
 * Who makes the next token in mode `assist`: the edge while it is sure, the cloud where it is not.
 * What is decided upon is the edge's own distribution, measured by common/exit; staying there means
 * asking the cloud. Pure: rows in, decisions out; nothing here knows a stream or a clock. One
 * state for all answers of an edge. One thread, the caller's memory; nothing allocates.
 */
#ifndef SHOAL_COOP_ROUTE_H
#define SHOAL_COOP_ROUTE_H

#include "common/exit/exit.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    SHOAL_ROUTE_SPAN_MAX = 64,
    SHOAL_ROUTE_PROMPT_ROWS = 16 /* of a prompt's end, whose entropy is looked at */
};

typedef struct shoal_route_settings {
    double rate;       /* share of tokens at which the cloud is asked, in (0, 1): the least sure;
                        * used where there is no risk */
    double risk;       /* 0, or: share of tokens kept that differ from the cloud's, at most */
    size_t n_span_max; /* most tokens of one hand-over, 1..SHOAL_ROUTE_SPAN_MAX */
    double prompt_entropy; /* nats; a prompt above it is the cloud's as a whole. 0: none is */
} shoal_route_settings;
/* 0.1, 0, 8, 0. */
shoal_route_settings shoal_route_settings_default(void);

typedef struct shoal_route {
    shoal_route_settings settings;
    bool has_fitted;
    shoal_exit_policy fitted; /* RISK, fitted to this model against the cloud's */
    shoal_exit_risks risks;   /* greater ones than its */
    double limit;    /* of -log(1 - top): surer rows are the edge's. It follows the quantile
                      * of the rate (Robbins and Monro, 1951), slowly: a run of hard rows
                      * is not made up for by letting others go */
    uint32_t n_rows; /* that have moved it, up to where it moves slowest */
    shoal_exit_policy scarce; /* PERCENTILE, of what a budget leaves of the unsure rows */
    shoal_exit_state scarce_rows;
    double unsure; /* share of rows that the policy alone would hand over, smoothed */
} shoal_route;

/* fitted: a RISK policy of the model's metadata (shoal.escalate.policy.risk), or NULL; risks: what
 * was fitted beside it, or NULL.
 * SHOAL_E_LIMIT names the setting that is out of range; a risk is judged as by
 * shoal_route_check_risk. */
shoal_status shoal_route_init(shoal_route *route, const shoal_route_settings *settings,
                              const shoal_exit_policy *fitted, const shoal_exit_risks *risks,
                              shoal_err *err) SHOAL_MUST_CHECK;
/* Whether a risk asked for can be held: SHOAL_E_UNSUPPORTED without calibration, or below the risk
 * that was calibrated. A greater one is held by the threshold of the greatest that was
 * calibrated and is not above it. */
shoal_status shoal_route_check_risk(const shoal_route *route, double risk,
                                    shoal_err *err) SHOAL_MUST_CHECK;

typedef enum shoal_route_verdict {
    SHOAL_ROUTE_SURE, /* the edge makes the token */
    SHOAL_ROUTE_ASK,  /* the cloud is to make it */
    SHOAL_ROUTE_SPARE /* it would be, were it not for the level: the edge makes it */
} shoal_route_verdict;

/* Who is to make the token that this row was for. risk: of the request, 0: as configured. level: of
 * the budgets, 1: free; below it only the least sure are handed over, as many as the level is of
 * what usually are, 0: none. Every row is told, also those of answers that may not ask. */
shoal_route_verdict shoal_route_judge(shoal_route *route, const shoal_exit_features *features,
                                      double risk, double level);
/* Tokens to ask for when so many rows in a row were unsure, this one included: 1, 1, 2, 4 and so
 * on. Mostly one token, or two, are the whole trouble, and every further one is the cloud's in vain
 * (of minnow's answers 1, 2, 4 took 37 % more tokens in as many rounds); who is lost for longer
 * pays fewer round trips. */
size_t shoal_route_span(const shoal_route *route, size_t n_unsure);
/* Whether a prompt whose last rows have this entropy on average is the cloud's as a whole. */
bool shoal_route_is_hard(const shoal_route *route, double entropy);

#endif
