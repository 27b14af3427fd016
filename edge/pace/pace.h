/* SPDX-License-Identifier: Apache-2.0
 *
 * How many tokens the edge drafts at a time, how many may be on their way, and when it should leave
 * the text to the cloud altogether: a controller fed with what was measured. Pure: time comes in,
 * the same observations give the same choices. Caller's memory, one thread.
 *
 * The rule. Between two refused drafts lies a cycle; cycles are alike, so a token takes
 * E[time of a cycle] / E[tokens of a cycle] (renewal reward; with runs of drafts that is the
 * optimal stopping of ratio type of speculative decoding over a link). Both follow from the
 * acceptance by depth, the round trip, the edge's time for a token and the cloud's for a step,
 * by going through a cycle draft by draft (span.h). The fastest of a grid of spans and windows is
 * taken. A step of the cloud judges no more drafts than up to where one more gives less for its
 * row than the step does for its time; its scheduler leaves the rest for the next step
 * (cloud/sched). So with the load what is judged at once shrinks to one draft, then to none, and
 * plain decoding, which waits for nobody, is faster: nothing is drafted then. What a step takes
 * depends on what the other sessions have in it; they are taken to choose as this one does. So
 * edges under one load come to the choice that is best for all, not to one that each makes at the
 * others' expense. Whether to draft at all is decided by the price alone where the way and the
 * drafts take less than a step of a cloud that others use: its steps follow on each other then, and
 * what one spares all get sooner, while the time of one's own plain tokens tells only how short the
 * steps are that others make so by drafting. Of spans that take as long the one with the fewest
 * messages is taken, those that a refusal makes vain among them: they too are paid for by all.
 *
 * What keeps it honest: the time tokens really took is held against what was predicted, for
 * drafting and for plain decoding each. What keeps it from getting stuck: while the cloud decodes
 * it asks for the round trip and drafts for itself now and then, to see what would have stood,
 * unless neither could change the choice; it drafts in earnest from time to time, the rarer the
 * more often in vain; and measurements fade.
 */
#ifndef SHOAL_EDGE_PACE_PACE_H
#define SHOAL_EDGE_PACE_PACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SHOAL_PACE_DEPTHS = 8,     /* acceptance is told apart by depth up to here */
    SHOAL_PACE_DRAFT_MAX = 32, /* of one message */
    SHOAL_PACE_WINDOW_MAX = 64 /* on their way */
};

typedef struct shoal_pace_settings {
    size_t n_draft;     /* drafts of a message, 1..SHOAL_PACE_DRAFT_MAX; 0: chosen */
    size_t n_window;    /* drafts on their way, n_draft..SHOAL_PACE_WINDOW_MAX; 0: chosen, or with a
                         * fixed n_draft three times that */
    double plain_gain;  /* how many times faster plain decoding must be before drafts are left while
                         * the cloud is idle; the more it is loaded the less; 1 or below: faster */
    double spare_share; /* of a round trip, 0..1: what drafts before plain decoding may cost; 0:
                         * there are none */
} shoal_pace_settings;

typedef struct shoal_pace_choice {
    size_t n_draft;  /* of a message; 0: no drafts, the cloud decodes */
    size_t n_window; /* drafts not yet judged at most; with n_draft 0 those that are not sent, only
                      * compared with what the cloud decodes */
} shoal_pace_choice;

/* What is known of the link and both sides, microseconds. */
typedef struct shoal_pace_world {
    double edge_us; /* the edge's time for a draft */
    double trip_us; /* there and back, without the cloud's steps and the wait for them */
    double step_us; /* a step of the cloud with one row of each session; 0: not told */
    double row_us;  /* each row more */
    double price;   /* of a draft's row in tokens, 0..1 */
    double others;  /* sessions beside ours */
    size_t n_step;  /* drafts that are worth it: judged in one step at most */
    double accept[SHOAL_PACE_DEPTHS]; /* probability that the d-th draft after a correction stands,
                                         when those before it do; the last is for all deeper ones */
} shoal_pace_world;

/* How long tokens took against what was predicted, fading. */
typedef struct shoal_pace_check {
    double real_us;
    double predicted_us;
} shoal_pace_check;

/* A question and its answer. */
typedef struct shoal_pace_trip {
    double us;
    size_t n_rows; /* drafts of the step that was waited for; 0: the answer took none */
    bool alone;    /* nothing else of ours was on its way */
    bool decoding; /* the cloud was decoding for us meanwhile */
} shoal_pace_trip;

typedef struct shoal_pace {
    shoal_pace_settings settings;
    struct shoal_pace *parent; /* hears everything that is measured here; NULL: nobody */
    double edge_us;            /* 0: not yet seen */
    bool edge_seen;            /* since an opening was asked for */
    double trip_us;            /* 0: not yet seen */
    int trip_off;              /* the last one was far above it: 1; far below: -1; near it: 0 */
    double step_us;
    double row_us;
    double price;
    double n_judged[SHOAL_PACE_DEPTHS]; /* fading */
    double n_right[SHOAL_PACE_DEPTHS];
    double recent;  /* share of the last few that stood */
    double assumed; /* share that goes for some drafts nobody judged */
    size_t depth;   /* drafts that stood since the last correction */
    shoal_pace_check drafting;
    shoal_pace_check plain;
    shoal_pace_choice now;
    double now_us;      /* predicted for a token with that */
    size_t n_reviewed;  /* tokens since it was chosen */
    bool news;          /* something was told since */
    uint64_t last_us;   /* when the last tokens came; 0: nothing to count from */
    size_t n_doubt;     /* tokens for which plain decoding has looked better */
    size_t n_spell;     /* tokens since drafting began, or was given up */
    size_t trip_after;  /* of those in plain decoding, the round trip should be asked for */
    bool curious;       /* a shorter one and better drafts would change the choice */
    size_t probe_after; /* and so many, and drafting is tried again */
    size_t n_probe;     /* drafts still to be judged of a try; 0: none is under way */
} shoal_pace;

void shoal_pace_init(shoal_pace *pace, const shoal_pace_settings *settings);
/* For one generation: begins with what parent knows and tells it what it learns. parent is
 * borrowed. */
void shoal_pace_fork(shoal_pace *pace, shoal_pace *parent);

/* --- what was measured ---------------------------------------------------------------------------
 */

/* The edge took us for one draft. */
void shoal_pace_edge_token(shoal_pace *pace, double us);
void shoal_pace_round_trip(shoal_pace *pace, const shoal_pace_trip *trip);
/* A draft was judged, or one that was not sent compared. */
void shoal_pace_judged(shoal_pace *pace, bool right);
/* What work costs the cloud now; price 0..1. */
void shoal_pace_told(shoal_pace *pace, double step_us, double row_us, double price);
/* n tokens were confirmed at that time. */
void shoal_pace_confirmed(shoal_pace *pace, size_t n, uint64_t now_us);
/* A pause that says nothing of the pace: the stream was cut, or is new. */
void shoal_pace_paused(shoal_pace *pace);

/* --- what to do ----------------------------------------------------------------------------------
 */

/* Cheap when there is nothing new to weigh. */
shoal_pace_choice shoal_pace_choose(shoal_pace *pace);
/* Where the cloud is to decode and nothing is on its way: how many drafts are worth sending before
 * it does, 0 to SHOAL_PACE_DRAFT_MAX. One step judges them all, so they spare the cloud a step for
 * each that stands; the first token comes later by the time to draft them, and those behind it come
 * with it. Of all numbers that keep this within spare_share of a round trip the greatest.
 * ahead_us: until the first of them can be begun. */
size_t shoal_pace_opening(shoal_pace *pace, double ahead_us);
/* In plain decoding: whether the round trip should be measured now. Once it is true it stays so
 * for some tokens, until a trip has come. */
bool shoal_pace_wants_trip(const shoal_pace *pace);
/* What is known, with what is assumed in place of what is not. */
shoal_pace_world shoal_pace_world_get(const shoal_pace *pace);
/* Share of drafts that stand, recent. */
double shoal_pace_acceptance(const shoal_pace *pace);

#endif
