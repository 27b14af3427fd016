/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/load/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum option_id {
    OPT_HELP = 1,
    OPT_TARGET,
    OPT_CA,
    OPT_CERT,
    OPT_KEY,
    OPT_NAME,
    OPT_RATE,
    OPT_AT_ONCE,
    OPT_TIMES,
    OPT_SECONDS,
    OPT_WARMUP,
    OPT_DRAIN,
    OPT_MODE,
    OPT_CLOUD_SHARE,
    OPT_SPAN,
    OPT_AHEAD,
    OPT_ACCEPT,
    OPT_DRAFT_US,
    OPT_RTT_MS,
    OPT_PROMPT,
    OPT_SHARED,
    OPT_OUT,
    OPT_ITEMS,
    OPT_TEMPERATURE,
    OPT_SEED,
    OPT_BAN,
    OPT_DEADLINE_MS,
    OPT_PRIORITY,
    OPT_VANISH,
    OPT_RESUME_S,
    OPT_SHARES,
    OPT_RECORDING,
    OPT_RECORD_WIDTH,
    OPT_TIMING,
    OPT_JSON,
    OPT_LABEL,
    OPT_ROWS
} option_id;

typedef struct option_row {
    const char *name;
    option_id id;
    const char *value; /* NULL: none */
    double low;        /* of a number */
    double high;
    const char *help;
} option_row;

static const option_row rows[] = {
    {"target", OPT_TARGET, "HOST:PORT", 0, 0, "node, or nodes as a comma list (required)"},
    {"ca", OPT_CA, "FILE", 0, 0, "authority of the node; without it plaintext on loopback"},
    {"cert", OPT_CERT, "FILE", 0, 0, "our certificate; given again: another tenant"},
    {"key", OPT_KEY, "FILE", 0, 0, "its key, as often as --cert"},
    {"name", OPT_NAME, "NAME", 0, 0, "name expected in the node's certificate"},
    {"rate", OPT_RATE, "R[,R...]", 0.001, 1e6, "sessions a second, Poisson; a run for each"},
    {"at-once", OPT_AT_ONCE, "N[,N...]", 1, LOAD_SESSIONS_MAX,
     "sessions that all arrive at the beginning; a run for each"},
    {"times", OPT_TIMES, "N", 1, LOAD_SESSIONS_MAX,
     "with --at-once: so many follow each other in each of its places (default 1)"},
    {"seconds", OPT_SECONDS, "S", 0.1, 86400, "arrivals at a rate come for so long (default 10)"},
    {"warmup", OPT_WARMUP, "S", 0, 86400, "of those, not counted at the beginning (default 0)"},
    {"drain", OPT_DRAIN, "S", 1, 86400, "after the last arrival sessions get (default 120)"},
    {"mode", OPT_MODE, "MODE", 0, 0, "cloud or exact (default exact)"},
    {"cloud-share", OPT_CLOUD_SHARE, "P", 0, 1, "share of sessions in mode cloud (default 0)"},
    {"span", OPT_SPAN, "N", 0, SHOAL_WIRE_DRAFT_MAX,
     "drafts of a message; 0: as the daemon chooses, by edge/pace (default 5)"},
    {"ahead", OPT_AHEAD, "N", 1, 64, "spans that may wait for a verdict (default 1)"},
    {"accept", OPT_ACCEPT, "P", 0, 1, "probability that a draft is right (default 0.8)"},
    {"draft-us", OPT_DRAFT_US, "US", 0, 1e7, "the edge takes this long a draft (default 0)"},
    {"rtt-ms", OPT_RTT_MS, "MS", 0, 1e5, "way to the node and back, added (default 0)"},
    {"prompt", OPT_PROMPT, "A[..B]", 1, SHOAL_WIRE_PROMPT_MAX, "tokens of a prompt (default 32)"},
    {"shared", OPT_SHARED, "N", 0, SHOAL_WIRE_PROMPT_MAX,
     "the first so many are the same in all prompts (default 0)"},
    {"out", OPT_OUT, "A[..B]", 1, SHOAL_WIRE_PROMPT_MAX, "tokens of an answer (default 32)"},
    {"items", OPT_ITEMS, "N", 1, LOAD_ITEMS_MAX, "different prompts (default 64)"},
    {"temperature", OPT_TEMPERATURE, "T", 0, 10, "of the sampling (default 1)"},
    {"seed", OPT_SEED, "S", 0, 9e15, "of prompts, arrivals and drafts (default 1)"},
    {"ban", OPT_BAN, "ID", 0, INT32_MAX, "never sampled, the end token for instance; again: more"},
    {"deadline-ms", OPT_DEADLINE_MS, "MS", 0, 1e9, "told in Open; 0: none (default 0)"},
    {"priority", OPT_PRIORITY, "N", 0, 7, "told in Open (default 0)"},
    {"vanish", OPT_VANISH, "P", 0, 1, "share of edges that go away on their way (default 0)"},
    {"resume-s", OPT_RESUME_S, "S", 0, 86400,
     "a lost stream is opened again for so long; 0: it is a failure (default 0)"},
    {"shares", OPT_SHARES, "P[,P...]", 0, 1, "of the tenants, in order (default: equal)"},
    {"recording", OPT_RECORDING, "FILE", 0, 0,
     "recorded answers: read, or made and written (default: made, not kept)"},
    {"record-width", OPT_RECORD_WIDTH, "N", 1, 1024,
     "sessions at a time while recording; 1 is each alone (default 1)"},
    {"timing", OPT_TIMING, "N", 8, 100000,
     "no load: N pairs of questions of the second tenant, one on a prompt that the first tenant "
     "has just asked, one on a prompt nobody has"},
    {"json", OPT_JSON, "FILE", 0, 0, "a line of JSON a run is appended"},
    {"label", OPT_LABEL, "WORD", 0, 0, "first column (default the mode)"},
    {"rows", OPT_ROWS, NULL, 0, 0, "no header: a part of a longer table"},
    {"help", OPT_HELP, NULL, 0, 0, "this text"},
};

void load_options_help(void)
{
    (void)printf(
        "shoal-bench-load: offers a node a load of synthetic edges and says what became of "
        "it.\n\noptions:\n");
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        char left[64];
        (void)snprintf(left, sizeof left, "--%s %s", rows[i].name,
                       rows[i].value ? rows[i].value : "");
        (void)printf("  %-24s %s\n", left, rows[i].help);
    }
    (void)printf("\nThe exit status is 1 when a token was wrong, lost or repeated, or a session "
                 "failed\notherwise than by a refusal.\n");
}

/* --- values -------------------------------------------------------------------------------------
 */

static shoal_status bad(const option_row *row, const char *text, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID, "--%s %.60s: must be %s, each in [%.10g, %.10g]",
                         row->name, text, row->value, row->low, row->high);
}

/* A number at the beginning of text, which then ends or goes on with one of `ends`. */
static shoal_status number(const option_row *row, const char *text, const char *ends,
                           double *ret_value, const char **ret_rest, shoal_err *err)
{
    char *end = NULL;
    errno = 0;
    double value = strtod(text, &end);
    /* "1..8" is read as "1." and ".8": take the second point back. */
    if (end > text && end[-1] == '.' && *end == '.') {
        end--;
    }
    bool goes_on = *end != '\0' && strchr(ends, *end) != NULL;
    if (end == text || errno != 0 || !(value >= row->low && value <= row->high) ||
        (*end != '\0' && !goes_on)) {
        return bad(row, text, err);
    }
    *ret_value = value;
    *ret_rest = end;
    return SHOAL_OK;
}

static shoal_status one(const option_row *row, const char *text, double *ret_value, shoal_err *err)
{
    const char *rest = NULL;
    return number(row, text, "", ret_value, &rest, err);
}

static shoal_status whole(const option_row *row, const char *text, size_t *ret_value,
                          shoal_err *err)
{
    double value = 0;
    SHOAL_TRY(one(row, text, &value, err));
    if (value != floor(value)) {
        return bad(row, text, err);
    }
    *ret_value = (size_t)value;
    return SHOAL_OK;
}

static shoal_status list(const option_row *row, const char *text, size_t n_max, double *ret_values,
                         size_t *ret_n, shoal_err *err)
{
    size_t n = 0;
    const char *at = text;
    for (;;) {
        if (n == n_max) {
            return shoal_err_set(err, SHOAL_E_INVALID, "--%s: at most %zu values", row->name,
                                 n_max);
        }
        SHOAL_TRY(number(row, at, ",", &ret_values[n], &at, err));
        n++;
        if (*at == '\0') {
            *ret_n = n;
            return SHOAL_OK;
        }
        at++;
    }
}

static shoal_status range(const option_row *row, const char *text, load_range *ret_range,
                          shoal_err *err)
{
    double low = 0;
    const char *rest = NULL;
    SHOAL_TRY(number(row, text, ".", &low, &rest, err));
    double high = low;
    if (*rest != '\0') {
        if (strncmp(rest, "..", 2) != 0) {
            return bad(row, text, err);
        }
        SHOAL_TRY(one(row, rest + 2, &high, err));
    }
    if (high < low || low != floor(low) || high != floor(high)) {
        return bad(row, text, err);
    }
    *ret_range = (load_range){.low = (size_t)low, .high = (size_t)high};
    return SHOAL_OK;
}

static shoal_status another(const option_row *row, const char *value, const char **values,
                            size_t *n, shoal_err *err)
{
    if (*n == LOAD_TENANTS_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID, "--%s: at most %d tenants", row->name,
                             (int)LOAD_TENANTS_MAX);
    }
    values[(*n)++] = value;
    return SHOAL_OK;
}

static shoal_status mode_of(const char *text, shoal_mode *ret_mode, shoal_err *err)
{
    if (shoal_mode_parse(text, ret_mode) != SHOAL_OK ||
        (*ret_mode != SHOAL_MODE_CLOUD && *ret_mode != SHOAL_MODE_EXACT)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "--mode %.40s: must be cloud or exact", text);
    }
    return SHOAL_OK;
}

static shoal_status ban(const option_row *row, const char *text, load_truth_settings *truth,
                        shoal_err *err)
{
    size_t id = 0;
    SHOAL_TRY(whole(row, text, &id, err));
    if (truth->n_banned == LOAD_BANNED_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID, "--ban: at most %d ids", (int)LOAD_BANNED_MAX);
    }
    truth->banned[truth->n_banned++] = (int32_t)id;
    return SHOAL_OK;
}

/* --- the table ----------------------------------------------------------------------------------
 */

typedef struct loose {
    size_t n_keys;
    size_t n_shares;
    double rtt_ms;
    double draft_us;
    double resume_s;
    double drain_s;
    double seed;
    double temperature;
    size_t deadline_ms;
    size_t priority;
} loose;

static shoal_status take_number(const option_row *row, const char *value, load_options *o, loose *c,
                                shoal_err *err)
{
    load_edge_settings *edge = &o->plan.edge;
    struct {
        option_id id;
        double *real;
        size_t *count;
    } const places[] = {
        {OPT_SECONDS, &o->seconds, NULL},     {OPT_WARMUP, &o->warmup, NULL},
        {OPT_DRAIN, &c->drain_s, NULL},       {OPT_CLOUD_SHARE, &o->plan.cloud_share, NULL},
        {OPT_SPAN, NULL, &edge->span},        {OPT_AHEAD, NULL, &edge->ahead},
        {OPT_ACCEPT, &edge->accept, NULL},    {OPT_DRAFT_US, &c->draft_us, NULL},
        {OPT_RTT_MS, &c->rtt_ms, NULL},       {OPT_SHARED, NULL, &o->truth.n_shared},
        {OPT_ITEMS, NULL, &o->truth.n_items}, {OPT_TEMPERATURE, &c->temperature, NULL},
        {OPT_SEED, &c->seed, NULL},           {OPT_DEADLINE_MS, NULL, &c->deadline_ms},
        {OPT_PRIORITY, NULL, &c->priority},   {OPT_VANISH, &o->plan.vanish, NULL},
        {OPT_RESUME_S, &c->resume_s, NULL},   {OPT_RECORD_WIDTH, NULL, &o->record_width},
        {OPT_TIMES, NULL, &o->times},         {OPT_TIMING, NULL, &o->n_probes},
    };
    for (size_t i = 0; i < SHOAL_COUNT(places); i++) {
        if (places[i].id == row->id) {
            return places[i].real ? one(row, value, places[i].real, err)
                                  : whole(row, value, places[i].count, err);
        }
    }
    SHOAL_ASSERT(false);
    return SHOAL_E_INTERNAL;
}

static shoal_status take_points(const option_row *row, const char *value, load_options *o,
                                shoal_err *err)
{
    if (o->n_points > 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "--rate and --at-once exclude each other");
    }
    o->at_once = row->id == OPT_AT_ONCE;
    return list(row, value, LOAD_POINTS_MAX, o->points, &o->n_points, err);
}

static shoal_status take(const option_row *row, const char *value, load_options *o, loose *c,
                         shoal_err *err)
{
    switch ((int)row->id) {
    case OPT_HELP:
        o->help = true;
        return SHOAL_OK;
    case OPT_ROWS:
        o->rows = true;
        return SHOAL_OK;
    case OPT_TARGET:
        o->link.target = value;
        return SHOAL_OK;
    case OPT_CA:
        o->link.ca = value;
        return SHOAL_OK;
    case OPT_CERT:
        return another(row, value, o->link.certs, &o->link.n_tenants, err);
    case OPT_KEY:
        return another(row, value, o->link.keys, &c->n_keys, err);
    case OPT_NAME:
        o->link.name_override = value;
        return SHOAL_OK;
    case OPT_RATE:
    case OPT_AT_ONCE:
        return take_points(row, value, o, err);
    case OPT_MODE:
        return mode_of(value, &o->plan.edge.mode, err);
    case OPT_PROMPT:
        return range(row, value, &o->truth.prompt, err);
    case OPT_OUT:
        return range(row, value, &o->truth.out, err);
    case OPT_BAN:
        return ban(row, value, &o->truth, err);
    case OPT_SHARES:
        return list(row, value, LOAD_TENANTS_MAX, o->plan.shares, &c->n_shares, err);
    case OPT_RECORDING:
        o->recording = value;
        return SHOAL_OK;
    case OPT_JSON:
        o->json = value;
        return SHOAL_OK;
    case OPT_LABEL:
        o->label = value;
        return SHOAL_OK;
    default:
        return take_number(row, value, o, c, err);
    }
}

static shoal_status check_tenants(load_options *o, const loose *c, shoal_err *err)
{
    if (c->n_keys != o->link.n_tenants || (o->link.ca != NULL) != (c->n_keys > 0)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--ca, --cert and --key go together, a key for every certificate");
    }
    o->plan.n_tenants = SHOAL_MAX(o->link.n_tenants, (size_t)1);
    double sum = 0;
    for (size_t t = 0; t < o->plan.n_tenants; t++) {
        o->plan.shares[t] = c->n_shares > 0 ? o->plan.shares[t] : 1.0 / (double)o->plan.n_tenants;
        sum += o->plan.shares[t];
    }
    if ((c->n_shares > 0 && c->n_shares != o->plan.n_tenants) || fabs(sum - 1) > 1e-6) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--shares must name one share for each of %zu tenants and sum to 1",
                             o->plan.n_tenants);
    }
    return SHOAL_OK;
}

static shoal_status check_times(const load_options *o, shoal_err *err)
{
    double most = 0;
    for (size_t i = 0; i < o->n_points; i++) {
        most = SHOAL_MAX(most, o->points[i]);
    }
    if (o->times > 1 && (!o->at_once || most * (double)o->times > LOAD_SESSIONS_MAX)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--times goes with --at-once, and both together make at most %d "
                             "sessions",
                             (int)LOAD_SESSIONS_MAX);
    }
    return SHOAL_OK;
}

/* What follows from several options. */
static shoal_status settle(load_options *o, const loose *c, shoal_err *err)
{
    o->timing = o->n_probes > 0;
    if (!o->link.target || (!o->timing && o->n_points == 0)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--target and one of --rate, --at-once and --timing are required; see "
                             "--help");
    }
    SHOAL_TRY(check_tenants(o, c, err));
    SHOAL_TRY(check_times(o, err));
    if (o->timing && o->plan.n_tenants < 2) {
        return shoal_err_set(err, SHOAL_E_INVALID, "--timing needs two tenants: two --cert");
    }
    if (!o->at_once && o->warmup >= o->seconds) {
        return shoal_err_set(err, SHOAL_E_INVALID, "--warmup must be below --seconds");
    }
    o->truth.seed = (uint64_t)c->seed;
    o->truth.temperature = (float)c->temperature;
    o->plan.seed = (uint64_t)c->seed;
    o->plan.rtt_ns = (uint64_t)(c->rtt_ms * 1e6);
    o->plan.draft_ns = (uint64_t)(c->draft_us * 1e3);
    o->plan.resume_ns = (uint64_t)(c->resume_s * 1e9);
    o->plan.drain_ns = (uint64_t)(c->drain_s * 1e9);
    o->plan.edge.deadline_ms = (uint32_t)c->deadline_ms;
    o->plan.edge.priority = (uint32_t)c->priority;
    o->label = o->label ? o->label : shoal_mode_name(o->plan.edge.mode);
    return SHOAL_OK;
}

shoal_status load_options_parse(int argc, char **argv, load_options *ret_options, shoal_err *err)
{
    struct option longs[SHOAL_COUNT(rows) + 1] = {{0}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        longs[i] = (struct option){.name = rows[i].name,
                                   .has_arg = rows[i].value ? required_argument : no_argument,
                                   .val = (int)i + 256};
    }
    load_options o = {.truth = {.n_items = 64, .prompt = {32, 32}, .out = {32, 32}},
                      .plan.edge = {.mode = SHOAL_MODE_EXACT, .span = 5, .ahead = 1, .accept = 0.8},
                      .seconds = 10,
                      .record_width = 1,
                      .times = 1};
    loose c = {.drain_s = 120, .seed = 1, .temperature = 1};
    optind = 1;
    for (;;) {
        int got = getopt_long(argc, argv, "", longs, NULL);
        if (got == -1) {
            break;
        }
        if (got < 256) {
            return shoal_err_set(err, SHOAL_E_INVALID, "see --help");
        }
        SHOAL_TRY(take(&rows[got - 256], optarg, &o, &c, err));
    }
    if (optind < argc) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%.60s: no such option; see --help",
                             argv[optind]);
    }
    if (!o.help) {
        SHOAL_TRY(settle(&o, &c, err));
    }
    *ret_options = o;
    return SHOAL_OK;
}
