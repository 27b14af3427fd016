/* SPDX-License-Identifier: Apache-2.0
 *
 * What answering costs the device in energy, and which of its two ways to a token costs less here:
 * computing it, or waiting for the cloud's. While answers are under way the device does one or the
 * other, so what it draws in an interval is computing_w * (time it computed) + waiting_w * (the
 * rest); both are found by least squares over past intervals that are slowly forgotten (recursive
 * least squares with a forgetting factor). A token costs the time it takes in the one state or the
 * other times that state's power, and its bytes on the radio. Pure: readings of a meter
 * (edge/coop/power.h) and times come in. One thread, the caller's memory; nothing allocates.
 */
#ifndef SHOAL_COOP_ENERGY_H
#define SHOAL_COOP_ENERGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct shoal_energy_settings {
    double idle_w;   /* drawn with nothing to do as well, and not charged: 0 or more */
    double radio_nj; /* nJ for a byte sent or received, beside what the meter sees: 0 or more */
} shoal_energy_settings;

/* Between two looks at the meter, answers under way. */
typedef struct shoal_energy_interval {
    double s;          /* length */
    double compute_s;  /* of it, the edge's model computed */
    bool measured;     /* uj is known; else it is estimated by what was learned */
    double uj;         /* all the meter saw */
    uint64_t n_tokens; /* shown in it */
    uint64_t n_cloud;  /* of those, of the cloud */
    uint64_t n_bytes;  /* sent and received */
    uint64_t n_ended;  /* answers that ended */
} shoal_energy_interval;

typedef struct shoal_energy {
    shoal_energy_settings settings;
    /* Sums over past intervals, the newer the heavier: c computing, w waiting, e energy (J). */
    double cc;
    double cw;
    double ww;
    double ce;
    double we;
    double here_us;  /* a step's time for one token of it, smoothed; 0: not seen */
    double cloud_us; /* from one token of the cloud to the next, smoothed; 0: not seen */
    double bytes;    /* with n_cloud: bytes of so many tokens of the cloud */
    double n_cloud;
    double answer_uj; /* of one answer, smoothed */
    double open_uj;   /* charged since one ended */
    double rest_uj;   /* charged, not yet a whole microjoule */
    double rest_cloud_uj;
    double turn; /* 0..1: how near the next answer is to be the cloud's */
} shoal_energy;

typedef enum shoal_energy_side {
    SHOAL_ENERGY_EITHER, /* not known, or about the same */
    SHOAL_ENERGY_HERE,
    SHOAL_ENERGY_CLOUD
} shoal_energy_side;

/* One side is preferred when the other costs so many times as much. */
#define SHOAL_ENERGY_MARGIN 1.1

/* What is known; 0: not yet. */
typedef struct shoal_energy_costs {
    double computing_w; /* above idle_w */
    double waiting_w;
    double here_uj;  /* of a token computed here */
    double cloud_uj; /* of a token of the cloud, in an answer that is all the cloud's */
    bool known;      /* both of a token are, if only to be 0 */
} shoal_energy_costs;

void shoal_energy_init(shoal_energy *energy, const shoal_energy_settings *settings);

/* A step that fed no prompt took so long, for so many tokens. */
void shoal_energy_step(shoal_energy *energy, double step_us, size_t n_tokens);
/* So many of the cloud's tokens came so long after the one before, while n_waiting answers waited
 * for it. */
void shoal_energy_cloud_tokens(shoal_energy *energy, double gap_us, size_t n_tokens,
                               size_t n_waiting);

/* What the interval costs, whole microjoules (the rest is kept for the next), and what its tokens
 * would have cost had the cloud made all of them: where that is not known, the same. */
void shoal_energy_take(shoal_energy *energy, const shoal_energy_interval *interval,
                       uint64_t *ret_uj, uint64_t *ret_cloud_only_uj);

shoal_energy_costs shoal_energy_costs_of(const shoal_energy *energy);
shoal_energy_side shoal_energy_prefers(const shoal_energy *energy);
/* Whether this answer is to be the cloud's as a whole: of those that might, the share 1 - level,
 * evenly. level: of the energy budget, 0..1. Only while the cloud is preferred. */
bool shoal_energy_shifts(shoal_energy *energy, double level);

#endif
