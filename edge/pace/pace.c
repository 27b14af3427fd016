/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/pace/pace.h"

#include "common/base/macros.h"
#include "edge/pace/span.h"

#include <math.h>

enum {
    REVIEW_TOKENS = 8,  /* between two choices, unless something was told */
    PROBE_DRAFTS = 24,  /* judged before a try to draft again is weighed, */
    PROBE_REFUSED = 4,  /* where one that is refused counts so many: it costs a round trip */
    TRIP_AFTER = 12,    /* plain tokens between two questions for the round trip */
    DOUBT_TOKENS = 32,  /* that plain decoding must look better before drafting is given up, */
    JUMP_TOKENS = 8,    /* and once the link has become another one */
    SPELL_TOKENS = 256, /* of drafting before it was not in vain */
    LOOK_TOKENS = 64,   /* of plain decoding, of which the first */
    LOOK_DRAFTS = 16,   /* are drafted too, to be compared */
    PROBE_AFTER_MIN = 256,
    PROBE_AFTER_MAX = 2048
};

/* Before anything is measured. A fast edge: else the cloud would be left to decode, and the edge's
 * time never seen. */
static const double EDGE_US = 100.0;
static const double TRIP_US = 20000.0;
static const double ACCEPT = 0.8;
/* As good as it may get. */
static const double ACCEPT_HOPED = 0.95;
/* Judged drafts that the assumption is worth, and what all depths say of one. */
static const double ACCEPT_WEIGHT = 3.0;
static const double DEPTH_WEIGHT = 6.0;
/* What a judged draft, or a token that came, leaves of those before it. */
static const double KEEP_JUDGED = 1.0 - 1.0 / 192;
static const double KEEP_PLAIN = 1.0 - 1.0 / 512;
static const double KEEP_TIMES = 1.0 - 1.0 / 256;
/* When the last few drafts tell so different a story, most of the past is forgotten. */
static const double RECENT_GAIN = 1.0 / 24;
static const double RECENT_OFF = 0.25;
static const double FORGET = 0.15;
/* Tokens that a prediction is worth against what they took, and how far it may be off. */
static const double CHECK_TOKENS = 96.0;
static const double CHECK_MIN = 0.5;
static const double CHECK_MAX = 4.0;
/* Weights of a measurement: of the edge's time, of a round trip, of one that may hold a wait, of
 * one of the few while the cloud decodes. */
static const double EDGE_GAIN = 0.125;
/* A draft counts for that many times what was known at most: beyond, something else held it up. */
static const double LATE_MAX = 4.0;
/* Of what a draft took, each time it is asked for and none was timed since: once too slow must not
 * mean never again. */
static const double EDGE_HOPED = 0.98;
static const double TRIP_GAIN = 0.25;
static const double TRIP_GAIN_BUSY = 1.0 / 32;
static const double TRIP_GAIN_RARE = 0.75;
/* Two in a row that are so many times longer than what is known, or shorter, are a new link. */
static const double TRIP_JUMP = 1.5;
/* The other way must be that much better, for some tokens on end unless it is much better. */
static const double SWITCH = 0.97;
static const double SWITCH_AT_ONCE = 0.7;
/* Drafts so dear are not even tried: were all of them right, nobody would gain much. */
static const double PRICE_MAX = 0.8;
/* A cloud that has judged none for long says that they are free. */
static const double PRICE_MIN = 0.1;

void shoal_pace_init(shoal_pace *pace, const shoal_pace_settings *settings)
{
    *pace = (shoal_pace){.settings = *settings,
                         .recent = ACCEPT,
                         .assumed = ACCEPT,
                         .news = true,
                         .probe_after = PROBE_AFTER_MIN};
}

void shoal_pace_fork(shoal_pace *pace, shoal_pace *parent)
{
    *pace = *parent;
    pace->parent = parent;
    pace->depth = 0;
    pace->drafting = (shoal_pace_check){.real_us = 0};
    pace->plain = (shoal_pace_check){.real_us = 0};
    pace->now = (shoal_pace_choice){.n_draft = 0};
    pace->now_us = 0;
    pace->news = true;
    pace->last_us = 0;
    pace->n_spell = 0;
    pace->trip_after = TRIP_AFTER;
    pace->curious = false;
    pace->probe_after = PROBE_AFTER_MIN;
    pace->n_probe = 0;
}

/* --- what was measured --------------------------------------------------------------------------
 */

static void smooth(double *value, double seen, double gain)
{
    *value = *value > 0 ? *value + (seen - *value) * gain : seen;
}

void shoal_pace_edge_token(shoal_pace *pace, double us)
{
    for (shoal_pace *p = pace; p; p = p->parent) {
        double most_us = p->edge_us > 0 ? LATE_MAX * p->edge_us : us;
        smooth(&p->edge_us, SHOAL_MIN(us, most_us), EDGE_GAIN);
        p->edge_seen = true;
    }
}

void shoal_pace_round_trip(shoal_pace *pace, const shoal_pace_trip *trip)
{
    SHOAL_ASSERT(pace);
    for (shoal_pace *p = pace; p; p = p->parent) {
        shoal_pace_world world = shoal_pace_world_get(p);
        shoal_pace_step step = shoal_pace_span_step(&world, pace->now.n_draft, pace->now.n_window);
        double step_us = trip->n_rows > 0 ? step.us + (double)trip->n_rows * p->row_us : 0.0;
        double others_us = trip->decoding ? step.us / 2 : step.wait_us;
        double trip_us = SHOAL_MAX(trip->us - step_us - others_us, 1.0);
        bool wait = !trip->alone && trip_us > p->trip_us;
        double gain = trip->decoding ? TRIP_GAIN_RARE : TRIP_GAIN;
        if (wait) {
            smooth(&p->trip_us, trip_us, TRIP_GAIN_BUSY);
            continue;
        }
        int off = (trip_us > TRIP_JUMP * p->trip_us) - (TRIP_JUMP * trip_us < p->trip_us);
        off = p->trip_us > 0 ? off : 0;
        bool jump = off != 0 && off == p->trip_off;
        smooth(&p->trip_us, trip_us, jump ? 1.0 : gain);
        p->trip_off = off;
        p->n_doubt += jump ? DOUBT_TOKENS - JUMP_TOKENS : 0;
    }
    pace->trip_after = pace->n_spell + TRIP_AFTER;
    pace->news = true;
}

static void fade(shoal_pace *pace, double keep)
{
    for (size_t i = 0; i < SHOAL_PACE_DEPTHS; i++) {
        pace->n_judged[i] *= keep;
        pace->n_right[i] *= keep;
    }
}

void shoal_pace_judged(shoal_pace *pace, bool right)
{
    size_t at = SHOAL_MIN(pace->depth, (size_t)SHOAL_PACE_DEPTHS - 1);
    for (shoal_pace *p = pace; p; p = p->parent) {
        p->recent += ((right ? 1.0 : 0.0) - p->recent) * RECENT_GAIN;
        double off = p->recent - shoal_pace_acceptance(p);
        bool other = off > RECENT_OFF || off < -RECENT_OFF;
        p->assumed = other ? p->recent : p->assumed;
        fade(p, other ? FORGET : KEEP_JUDGED);
        p->n_judged[at] += 1.0;
        p->n_right[at] += right ? 1.0 : 0.0;
    }
    pace->depth = right ? pace->depth + 1 : 0;
    if (pace->n_probe > 1) { /* the last one is taken by the choice */
        pace->n_probe -= SHOAL_MIN(right ? (size_t)1 : (size_t)PROBE_REFUSED, pace->n_probe - 1);
    }
}

static bool differs(double now, double before)
{
    double by = now > before ? now - before : before - now;
    return by > before / 16;
}

void shoal_pace_told(shoal_pace *pace, double step_us, double row_us, double price)
{
    pace->news = pace->news || differs(step_us, pace->step_us) || differs(row_us, pace->row_us) ||
                 differs(price, pace->price);
    for (shoal_pace *p = pace; p; p = p->parent) {
        p->step_us = step_us;
        p->row_us = row_us;
        p->price = price;
    }
}

void shoal_pace_confirmed(shoal_pace *pace, size_t n, uint64_t now_us)
{
    bool plain = pace->now.n_draft == 0;
    uint64_t last_us = pace->last_us;
    pace->last_us = now_us;
    pace->n_reviewed += n;
    pace->n_spell += n;
    if (last_us == 0 || now_us < last_us) {
        return;
    }
    shoal_pace_check *check = plain ? &pace->plain : &pace->drafting;
    for (size_t i = 0; i < n; i++) {
        pace->plain.real_us *= KEEP_TIMES;
        pace->plain.predicted_us *= KEEP_TIMES;
        pace->drafting.real_us *= KEEP_TIMES;
        pace->drafting.predicted_us *= KEEP_TIMES;
    }
    check->real_us += (double)(now_us - last_us);
    check->predicted_us += (double)n * pace->now_us;
}

void shoal_pace_paused(shoal_pace *pace)
{
    pace->last_us = 0;
}

/* --- what to do ---------------------------------------------------------------------------------
 */

double shoal_pace_acceptance(const shoal_pace *pace)
{
    double n = ACCEPT_WEIGHT;
    double right = pace->assumed * ACCEPT_WEIGHT;
    for (size_t i = 0; i < SHOAL_PACE_DEPTHS; i++) {
        n += pace->n_judged[i];
        right += pace->n_right[i];
    }
    return right / n;
}

shoal_pace_world shoal_pace_world_get(const shoal_pace *pace)
{
    shoal_pace_world world = {
        .edge_us = pace->edge_us > 0 ? pace->edge_us : EDGE_US,
        .trip_us = pace->trip_us > 0 ? pace->trip_us : TRIP_US,
        .step_us = pace->step_us,
        .row_us = pace->row_us,
        .price = pace->price,
    };
    double n = pace->row_us > 0 ? pace->price * pace->step_us / pace->row_us : 1.0;
    world.others = SHOAL_MAX(n - 1.0, 0.0);
    double all = shoal_pace_acceptance(pace);
    for (size_t i = 0; i < SHOAL_PACE_DEPTHS; i++) {
        world.accept[i] =
            (pace->n_right[i] + all * DEPTH_WEIGHT) / (pace->n_judged[i] + DEPTH_WEIGHT);
    }
    world.n_step = shoal_pace_span_max(&world);
    return world;
}

/* What tokens take, of what was predicted. */
static double ratio(const shoal_pace_check *check, double token_us)
{
    double weight_us = CHECK_TOKENS * token_us;
    double r = (check->real_us + weight_us) / (check->predicted_us + weight_us);
    return SHOAL_MIN(SHOAL_MAX(r, CHECK_MIN), CHECK_MAX);
}

static shoal_pace_choice fixed(const shoal_pace_settings *settings)
{
    size_t window = settings->n_window > 0 ? settings->n_window : 3 * settings->n_draft;
    window = SHOAL_MIN(SHOAL_MAX(window, settings->n_draft), (size_t)SHOAL_PACE_WINDOW_MAX);
    return (shoal_pace_choice){.n_draft = settings->n_draft, .n_window = window};
}

static void take(shoal_pace *pace, shoal_pace_choice choice, double us)
{
    if ((pace->now.n_draft == 0) != (choice.n_draft == 0)) {
        pace->last_us = 0; /* the first tokens after it were made before it */
        pace->n_spell = 0;
        pace->n_doubt = 0;
        pace->trip_after = TRIP_AFTER;
    }
    pace->now = choice;
    pace->now_us = us;
}

/* Whether tokens wait for a cloud that others use rather than for the way and the edge. Its steps
 * follow on each other then, and what one session spares all get sooner: the price alone says
 * whether drafts are worth it. Each for itself would see otherwise: while others draft, steps are
 * short, and who does not draft is in all of them. */
static bool is_crowded(const shoal_pace_world *world, size_t n_draft)
{
    return world->others >= 1.0 &&
           world->trip_us + (double)n_draft * world->edge_us < world->step_us;
}

/* Whether to draft, where the cloud could decode as well. dear: no draft is worth its price. */
static bool should_draft(const shoal_pace *pace, double draft_us, double plain_us, bool dear)
{
    if (pace->price > PRICE_MAX) {
        return false;
    }
    if (pace->n_probe > 1) {
        return true;
    }
    if (pace->now_us <= 0) {
        return !dear && draft_us <= plain_us; /* the first choice */
    }
    if (pace->now.n_draft > 0) {
        bool doubted = pace->n_doubt >= DOUBT_TOKENS || pace->n_probe == 1;
        return !dear && (doubted ? SWITCH : SWITCH_AT_ONCE) * draft_us <= plain_us;
    }
    return (!dear && draft_us < SWITCH * plain_us) || pace->n_spell >= pace->probe_after;
}

/* Plain decoding tells nothing of the way, nor of drafts. Where a cloud next door and drafts that
 * nearly all stand would be worth it, both are looked at now and then. */
static bool is_curious(const shoal_pace *pace, shoal_pace_world world, double plain_us)
{
    double us = 0.0;
    world.trip_us = 0.0;
    for (size_t i = 0; i < SHOAL_PACE_DEPTHS; i++) {
        world.accept[i] = SHOAL_MAX(world.accept[i], ACCEPT_HOPED);
    }
    world.n_step = shoal_pace_span_max(&world);
    if (world.n_step == 0 || pace->price > PRICE_MAX) {
        return false;
    }
    (void)shoal_pace_span_best(&world, SHOAL_PACE_DRAFT_MAX, &us);
    return us < SWITCH * plain_us;
}

/* A token of plain decoding costs the cloud a step, one of many drafts a part of it. Who would
 * rather spare the cloud than be fast counts plain tokens for slower than they are; in a full batch
 * there is nothing to spare. */
static double weigh_plain(const shoal_pace *pace, double plain_us)
{
    double more = SHOAL_MAX(pace->settings.plain_gain - 1.0, 0.0);
    return plain_us * (1.0 + more * (1.0 - SHOAL_MIN(pace->price, 1.0)));
}

size_t shoal_pace_opening(shoal_pace *pace, double ahead_us)
{
    SHOAL_ASSERT(pace);
    shoal_pace_world world = shoal_pace_world_get(pace);
    world.price = SHOAL_MAX(world.price, PRICE_MIN);
    world.n_step = shoal_pace_span_max(&world);
    for (shoal_pace *p = pace; p; p = p->parent) {
        p->edge_us *= p->edge_seen ? 1.0 : EDGE_HOPED;
        p->edge_seen = false;
    }
    size_t best = 0;
    if (pace->settings.n_draft > 0 || world.step_us <= 0 || pace->price > PRICE_MAX) {
        return 0;
    }
    double most_us = pace->settings.spare_share * world.trip_us;
    double stands = 1.0;
    double later_us = ahead_us;
    for (size_t n = 1; most_us > 0 && n <= world.n_step; n++) {
        stands *= world.accept[SHOAL_MIN(n, (size_t)SHOAL_PACE_DEPTHS) - 1];
        later_us += world.edge_us + world.row_us - stands * world.step_us;
        best = later_us <= most_us ? n : best;
    }
    return best;
}

static shoal_pace_choice plain_choice(const shoal_pace *pace)
{
    bool looks = pace->curious && pace->n_spell % LOOK_TOKENS < LOOK_DRAFTS;
    return (shoal_pace_choice){.n_draft = 0, .n_window = looks ? 1 : 0};
}

bool shoal_pace_wants_trip(const shoal_pace *pace)
{
    return pace->now.n_draft == 0 && pace->curious && pace->n_spell >= pace->trip_after;
}

shoal_pace_choice shoal_pace_choose(shoal_pace *pace)
{
    if (pace->settings.n_draft > 0) {
        pace->now = fixed(&pace->settings);
        return pace->now;
    }
    if (!pace->news && pace->n_reviewed < REVIEW_TOKENS) {
        pace->now = pace->now.n_draft == 0 ? plain_choice(pace) : pace->now;
        return pace->now;
    }
    size_t n_tokens = pace->n_reviewed;
    pace->news = false;
    pace->n_reviewed = 0;
    shoal_pace_world world = shoal_pace_world_get(pace);
    double draft_us = 0.0;
    size_t n_window = pace->settings.n_window;
    size_t n_most = n_window > 0 ? n_window : (size_t)SHOAL_PACE_DRAFT_MAX;
    shoal_pace_choice best = shoal_pace_span_best(&world, n_most, &draft_us);
    best.n_window = n_window > 0 ? n_window : best.n_window;
    if (world.step_us <= 0) {
        take(pace, best, draft_us); /* nobody says what plain decoding would take */
        return best;
    }
    double plain_us = world.step_us;
    double real_draft_us = draft_us * ratio(&pace->drafting, draft_us);
    double real_plain_us = weigh_plain(pace, plain_us * ratio(&pace->plain, plain_us));
    if (is_crowded(&world, best.n_draft)) {
        real_plain_us = SHOAL_MAX(real_plain_us, real_draft_us / SWITCH_AT_ONCE);
    }
    bool drafted = pace->now.n_draft > 0;
    bool tried = pace->n_probe > 0;
    pace->n_doubt = real_plain_us < SWITCH * real_draft_us ? pace->n_doubt + n_tokens : 0;
    if (!should_draft(pace, real_draft_us, real_plain_us, world.n_step == 0)) {
        if (drafted) {
            bool in_vain = tried || pace->n_spell < SPELL_TOKENS;
            size_t after = in_vain ? 2 * pace->probe_after : (size_t)PROBE_AFTER_MIN;
            pace->probe_after = SHOAL_MIN(after, (size_t)PROBE_AFTER_MAX);
            pace->n_probe = 0;
        }
        pace->curious = is_curious(pace, world, weigh_plain(pace, plain_us));
        take(pace, plain_choice(pace), plain_us);
        return pace->now;
    }
    if (!drafted && pace->now_us > 0) {
        pace->n_probe = PROBE_DRAFTS;
        /* What drafts were worth before the plain tokens says the less the more these are. */
        fade(pace, pow(KEEP_PLAIN, (double)pace->n_spell));
    } else if (pace->n_probe == 1) {
        pace->n_probe = 0; /* it was worth it */
    }
    take(pace, best, draft_us);
    return best;
}
