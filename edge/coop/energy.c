/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/coop/energy.h"

#include "common/base/macros.h"

#include <math.h>

/* Of an interval's weight per second that passes: what is a minute old counts half. */
#define FORGET_PER_S 0.0115
/* Of times and costs of one token, one answer. */
#define SMOOTH 0.125
/* Share of 1 - r^2 between both states' times below which intervals do not tell them apart: the one
 * that was seen less is then not known. */
#define TOLD_APART 0.02
/* Tokens of the cloud over which bytes are averaged. */
#define BYTES_TOKENS 1000.0

void shoal_energy_init(shoal_energy *energy, const shoal_energy_settings *settings)
{
    *energy = (shoal_energy){.settings = *settings};
}

static void smooth(double *value, double seen)
{
    *value = *value > 0 ? *value + (seen - *value) * SMOOTH : seen;
}

void shoal_energy_step(shoal_energy *energy, double step_us, size_t n_tokens)
{
    if (n_tokens > 0) {
        smooth(&energy->here_us, step_us / (double)n_tokens);
    }
}

void shoal_energy_cloud_tokens(shoal_energy *energy, double gap_us, size_t n_tokens,
                               size_t n_waiting)
{
    if (n_tokens > 0) {
        smooth(&energy->cloud_us, gap_us / (double)n_tokens / (double)SHOAL_MAX(n_waiting, 1u));
    }
}

/* --- two powers ---------------------------------------------------------------------------------
 */

static void learn(shoal_energy *energy, double c, double w, double joules)
{
    double keep = exp(-FORGET_PER_S * (c + w));
    energy->cc = energy->cc * keep + c * c;
    energy->cw = energy->cw * keep + c * w;
    energy->ww = energy->ww * keep + w * w;
    energy->ce = energy->ce * keep + c * joules;
    energy->we = energy->we * keep + w * joules;
}

/* The normal equations of two unknowns, none below 0; NAN: not known. */
static void solve(const shoal_energy *e, double *ret_computing_w, double *ret_waiting_w)
{
    bool mostly_c = e->cc >= e->ww;
    double det = e->cc * e->ww - e->cw * e->cw;
    *ret_computing_w = mostly_c && e->cc > 0 ? e->ce / e->cc : (double)NAN;
    *ret_waiting_w = !mostly_c ? e->we / e->ww : (double)NAN;
    if (det > TOLD_APART * e->cc * e->ww) {
        double c = (e->ce * e->ww - e->we * e->cw) / det;
        double w = (e->we * e->cc - e->ce * e->cw) / det;
        /* With one at its bound, the other's best is its own quotient. */
        *ret_computing_w = c < 0 ? 0 : w < 0 ? e->ce / e->cc : c;
        *ret_waiting_w = w < 0 ? 0 : c < 0 ? e->we / e->ww : w;
    }
}

/* --- costs --------------------------------------------------------------------------------------
 */

shoal_energy_costs shoal_energy_costs_of(const shoal_energy *energy)
{
    double computing_w = 0;
    double waiting_w = 0;
    shoal_energy_costs costs = {0};
    solve(energy, &computing_w, &waiting_w);
    bool has_here = !isnan(computing_w) && energy->here_us > 0;
    bool has_cloud = !isnan(waiting_w) && energy->cloud_us > 0;
    double bytes = energy->n_cloud > 0 ? energy->bytes / energy->n_cloud : 0;
    costs.computing_w = isnan(computing_w) ? 0 : computing_w;
    costs.waiting_w = isnan(waiting_w) ? 0 : waiting_w;
    costs.here_uj = has_here ? costs.computing_w * energy->here_us : 0;
    costs.cloud_uj =
        has_cloud ? costs.waiting_w * energy->cloud_us + bytes * energy->settings.radio_nj / 1e3
                  : 0;
    costs.known = has_here && has_cloud;
    return costs;
}

void shoal_energy_take(shoal_energy *energy, const shoal_energy_interval *i, uint64_t *ret_uj,
                       uint64_t *ret_cloud_only_uj)
{
    double compute_s = SHOAL_MIN(i->compute_s, i->s);
    double wait_s = i->s - compute_s;
    double uj = 0;
    if (i->measured) {
        uj = fmax(0, i->uj - energy->settings.idle_w * i->s * 1e6);
        learn(energy, compute_s, wait_s, uj / 1e6);
    } else {
        shoal_energy_costs known = shoal_energy_costs_of(energy);
        uj = (known.computing_w * compute_s + known.waiting_w * wait_s) * 1e6;
    }
    uj += (double)i->n_bytes * energy->settings.radio_nj / 1e3;
    double keep = 1 - fmin(1, (double)i->n_cloud / BYTES_TOKENS);
    energy->bytes = energy->bytes * keep + (double)i->n_bytes;
    energy->n_cloud = energy->n_cloud * keep + (double)i->n_cloud;
    energy->open_uj += uj;
    if (i->n_ended > 0) {
        smooth(&energy->answer_uj, energy->open_uj / (double)i->n_ended);
        energy->open_uj = 0;
    }
    shoal_energy_costs costs = shoal_energy_costs_of(energy);
    double charged = energy->rest_uj + uj;
    double cloud_only =
        energy->rest_cloud_uj + (costs.known ? (double)i->n_tokens * costs.cloud_uj : uj);
    *ret_uj = (uint64_t)charged;
    *ret_cloud_only_uj = (uint64_t)cloud_only;
    energy->rest_uj = charged - (double)*ret_uj;
    energy->rest_cloud_uj = cloud_only - (double)*ret_cloud_only_uj;
}

shoal_energy_side shoal_energy_prefers(const shoal_energy *energy)
{
    shoal_energy_costs costs = shoal_energy_costs_of(energy);
    if (!costs.known) {
        return SHOAL_ENERGY_EITHER;
    }
    return costs.here_uj > costs.cloud_uj * SHOAL_ENERGY_MARGIN   ? SHOAL_ENERGY_CLOUD
           : costs.cloud_uj > costs.here_uj * SHOAL_ENERGY_MARGIN ? SHOAL_ENERGY_HERE
                                                                  : SHOAL_ENERGY_EITHER;
}

bool shoal_energy_shifts(shoal_energy *energy, double level)
{
    if (level >= 1 || shoal_energy_prefers(energy) != SHOAL_ENERGY_CLOUD) {
        return false;
    }
    energy->turn += 1 - fmax(0, level);
    if (energy->turn < 1) {
        return false;
    }
    energy->turn -= 1;
    return true;
}
