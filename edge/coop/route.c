/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/coop/route.h"

#include <math.h>

enum {
    WINDOW = 512,
    SLOWEST = 100 /* the limit moves by 1 / 10 at first, by 1 / 100 from the 90th row on */
};

/* Of the top probability, before any row is there to compare with. */
#define START_TOP 0.9F
/* Of the smoothed share of unsure rows: about the same memory as the window's. */
#define SMOOTH (1.0 / WINDOW)
/* Surer than any probability in single precision. */
#define SUREST 20.0

shoal_route_settings shoal_route_settings_default(void)
{
    return (shoal_route_settings){.rate = 0.1, .risk = 0, .n_span_max = 8, .prompt_entropy = 0};
}

shoal_status shoal_route_init(shoal_route *route, const shoal_route_settings *settings,
                              const shoal_exit_policy *fitted, const shoal_exit_risks *risks,
                              shoal_err *err)
{
    if (!(settings->rate > 0 && settings->rate < 1)) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "assist.rate: %g does not lie between 0 and 1",
                             settings->rate);
    }
    if (settings->n_span_max < 1 || settings->n_span_max > SHOAL_ROUTE_SPAN_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "assist.span_tokens: %zu is outside 1 to %d",
                             settings->n_span_max, (int)SHOAL_ROUTE_SPAN_MAX);
    }
    if (!(settings->prompt_entropy >= 0)) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "assist.prompt_entropy: %g is below 0",
                             settings->prompt_entropy);
    }
    *route = (shoal_route){
        .settings = *settings,
        .limit = -log(1 - (double)START_TOP),
        .scarce = {.kind = SHOAL_EXIT_PERCENTILE, .threshold = START_TOP, .window = WINDOW},
        .unsure = settings->rate,
    };
    if (fitted && fitted->kind == SHOAL_EXIT_RISK) {
        route->has_fitted = true;
        route->fitted = *fitted;
        route->risks = risks ? *risks : (shoal_exit_risks){.n = 0};
    }
    return settings->risk > 0 ? shoal_route_check_risk(route, settings->risk, err) : SHOAL_OK;
}

shoal_status shoal_route_check_risk(const shoal_route *route, double risk, shoal_err *err)
{
    if (!(risk > 0 && risk < 1)) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "risk: %g does not lie between 0 and 1", risk);
    }
    if (!route->has_fitted) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "risk: this model was not calibrated against a cloud's; run "
                             "shoal-forge calibrate --teacher, or leave it to assist.rate");
    }
    /* The metadata hold the risk as a float. */
    if ((float)risk < route->fitted.risk) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "risk: %g is below %g, the least this model was calibrated for; run "
                             "shoal-forge calibrate --risk, or leave it to assist.rate",
                             risk, (double)route->fitted.risk);
    }
    return SHOAL_OK;
}

/* Whether a row is below the limit, which moves so that a share of `rate` of the rows is. */
static bool is_least_sure(shoal_route *route, const shoal_exit_features *features)
{
    if (!features->sound) {
        return true;
    }
    double rest = 1 - (double)features->top;
    double sure = rest > 0 ? fmin(-log(rest), SUREST) : SUREST;
    bool below = sure < route->limit;
    double step = 1.0 / (double)(10 + route->n_rows);
    route->n_rows += route->n_rows < SLOWEST - 10 ? 1 : 0;
    route->limit += step * (route->settings.rate - (below ? 1.0 : 0.0));
    return below;
}

static bool is_risky(const shoal_route *route, const shoal_exit_features *features, double risk)
{
    shoal_exit_policy policy = route->fitted;
    policy.threshold = shoal_exit_threshold_of(&route->risks, &route->fitted, (float)risk);
    return route->has_fitted && !shoal_exit_decide(&policy, NULL, features);
}

shoal_route_verdict shoal_route_judge(shoal_route *route, const shoal_exit_features *features,
                                      double risk, double level)
{
    bool by_rate = is_least_sure(route, features);
    double held = risk > 0 ? risk : route->settings.risk;
    bool asks = held > 0 ? is_risky(route, features, held) : by_rate;
    double share = route->unsure * SHOAL_MIN(level, 1.0);
    route->scarce.rate = (float)(1 - share);
    bool worth = !shoal_exit_decide(&route->scarce, &route->scarce_rows, features);
    route->unsure += ((asks ? 1.0 : 0.0) - route->unsure) * SMOOTH;
    if (!asks) {
        return SHOAL_ROUTE_SURE;
    }
    return level >= 1 || (level > 0 && worth) ? SHOAL_ROUTE_ASK : SHOAL_ROUTE_SPARE;
}

size_t shoal_route_span(const shoal_route *route, size_t n_unsure)
{
    size_t n = 1;
    for (size_t i = 2; i < n_unsure && n < route->settings.n_span_max; i++) {
        n *= 2;
    }
    return SHOAL_MIN(n, route->settings.n_span_max);
}

bool shoal_route_is_hard(const shoal_route *route, double entropy)
{
    return route->settings.prompt_entropy > 0 && entropy > route->settings.prompt_entropy;
}
