/* SPDX-License-Identifier: Apache-2.0
 *
 * When an edge is better off with a prompt's KV from the cloud than with computing it, by the
 * planner that the edge itself asks (common/transfer).
 */
#include "cloud/forge/forge.h"

#include "common/base/buf.h"
#include "common/transfer/transfer.h"

#include <math.h>
#include <stdio.h>

enum {
    LENGTHS = 9, /* prompts of 64, 128, ... tokens */
    FIRST = 64
};

#define AT(field) offsetof(forge_args, kv_plan.field)

static const forge_option options[] = {
    {0, "down", 0, FORGE_OPTION_REAL, AT(down), 1e-3, 1e6, "MBIT", "link to the edge, Mbit/s"},
    {0, "up", 0, FORGE_OPTION_REAL, AT(up), 1e-3, 1e6, "MBIT",
     "link to the cloud, Mbit/s (default: a quarter of --down)"},
    {0, "rtt", 0, FORGE_OPTION_REAL, AT(rtt), 0, 1e5, "MS", "round trip, ms (default 30)"},
    {0, "edge", 0, FORGE_OPTION_REAL, AT(edge), 1e-3, 1e7, "N",
     "tokens of a prompt that the edge computes in a second"},
    {0, "edge-token", 0, FORGE_OPTION_REAL, AT(edge_token), 0, 1e6, "MS",
     "a token of the answer at the edge, ms (default 0)"},
    {0, "cloud", 0, FORGE_OPTION_REAL, AT(cloud), 1e-3, 1e7, "N",
     "tokens of a prompt that the cloud computes with this model in a second"},
    {0, "ids", 0, FORGE_OPTION_REAL, AT(ids), 0, 1e7, "N",
     "the same with the cloud's own model: its answering is weighed too (default: not)"},
    {0, "ids-token", 0, FORGE_OPTION_REAL, AT(ids_token), 0, 1e6, "MS",
     "a token of the answer there, ms (default 0)"},
    {0, "answer", 0, FORGE_OPTION_INT, AT(answer), 1, SHOAL_TRANSFER_TOKENS_MAX, "N",
     "tokens of the answer that count (default 1: the time to first token)"},
    {0, "archive", 0, FORGE_OPTION_REAL, AT(archive), 0, 16, "BITS",
     "weigh the archive level too, at so many bits an element (default: not)"},
    {0, "check", 0, FORGE_OPTION_REAL, AT(check), 1, 1e6, "MB",
     "bytes hashed in a second at either end, MB/s (default 400)"},
    {0, "transform", 0, FORGE_OPTION_REAL, AT(transform), 1, 1e6, "MB",
     "f16 archived or restored in a second, MB/s (default 300)"},
};

const forge_own shoal_forge_kv_plan_own = {
    .run = shoal_forge_kv_plan,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.kv_plan = {.rtt = 30, .answer = 1, .check = 400, .transform = 300}},
};

typedef struct named_level {
    const char *name;
    shoal_transfer_level level;
} named_level;

/* Of a full block that is not a text's first. */
static double bytes_token(const shoal_model *model, shoal_kv_type type)
{
    const shoal_kv_shape shape = shoal_model_kv_shape(&model->hp, type);
    size_t k = 0;
    size_t v = 0;
    shoal_kv_part_bytes(&shape, 0, 1, &k, &v);
    return (double)((k + v) * shape.n_kv_heads * shape.n_layers) / SHOAL_TRANSFER_BLOCK;
}

static size_t list_levels(const forge_kv_plan_args *a, const shoal_model *model,
                          named_level *ret_levels)
{
    static const struct {
        const char *name;
        shoal_kv_type type;
    } rows[] = {{"f16", SHOAL_KV_F16}, {"q8", SHOAL_KV_K8V8}, {"q4", SHOAL_KV_K4V4}};
    size_t n = 0;
    for (; n < SHOAL_COUNT(rows); n++) {
        double bytes = bytes_token(model, rows[n].type);
        ret_levels[n] = (named_level){rows[n].name, {bytes, bytes / a->check, bytes / a->check}};
    }
    if (a->archive > 0) {
        double f16 = bytes_token(model, SHOAL_KV_F16);
        double bytes = f16 / 16 * a->archive;
        double us = f16 / a->transform + bytes / a->check;
        ret_levels[n++] = (named_level){"archive", {bytes, us, us}};
    }
    return n;
}

static shoal_transfer_figures figures_of(const forge_kv_plan_args *a)
{
    double up = a->up > 0 ? a->up : a->down / 4;
    return (shoal_transfer_figures){.up_bytes_s = up * 125e3,
                                    .down_bytes_s = a->down * 125e3,
                                    .round_trip_us = a->rtt * 1e3,
                                    .here_prefill_us = 1e6 / a->edge,
                                    .here_token_us = a->edge_token * 1e3,
                                    .peer_prefill_us = 1e6 / a->cloud,
                                    .ids_prefill_us = a->ids > 0 ? 1e6 / a->ids : 0,
                                    .ids_token_us = a->ids_token * 1e3};
}

static shoal_status append_ms(shoal_buf *out, bool json, const char *name, double us)
{
    if (!isfinite(us)) {
        return json ? shoal_buf_appendf(out, ", \"%s_ms\": null", name)
                    : shoal_buf_appendf(out, " %10s", "-");
    }
    return json ? shoal_buf_appendf(out, ", \"%s_ms\": %.3f", name, us / 1e3)
                : shoal_buf_appendf(out, " %10.1f", us / 1e3);
}

static shoal_status append_row(shoal_buf *out, bool json, size_t n_tokens,
                               const shoal_transfer_choice *c, const named_level *levels)
{
    const char *way = shoal_transfer_way_name(c->way);
    const char *level = isfinite(c->kv_us) ? levels[c->level].name : "-";
    SHOAL_TRY(
        json ? shoal_buf_appendf(out, "%s{\"tokens\": %zu", n_tokens == FIRST ? "" : ", ", n_tokens)
             : shoal_buf_appendf(out, "%8zu", n_tokens));
    SHOAL_TRY(append_ms(out, json, "ids", c->ids_us));
    SHOAL_TRY(append_ms(out, json, "kv", c->kv_us));
    SHOAL_TRY(append_ms(out, json, "local", c->local_us));
    return json ? shoal_buf_appendf(out, ", \"level\": \"%s\", \"choice\": \"%s\"}", level, way)
                : shoal_buf_appendf(out, "   %-8s %s\n", level, way);
}

static shoal_status append_levels(shoal_buf *out, bool json, const named_level *levels, size_t n)
{
    SHOAL_TRY(shoal_buf_appendf(out, json ? "{\"levels\": [" : "KV of a token:"));
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(shoal_buf_appendf(
            out, json ? "%s{\"name\": \"%s\", \"bytes\": %.1f}" : "%s %s %.0f bytes",
            i == 0 ? "" : (json ? ", " : ","), levels[i].name, levels[i].level.bytes_token));
    }
    return shoal_buf_appendf(out, json ? "], \"rows\": ["
                                       : "\n  tokens    ids, ms     kv, ms  local, ms   level    "
                                         "choice\n");
}

static shoal_status need(double value, const char *option, shoal_err *err)
{
    return value > 0 ? SHOAL_OK
                     : shoal_err_set(err, SHOAL_E_INVALID, "%s is missing: measure it", option);
}

shoal_status shoal_forge_kv_plan(const forge_args *args, shoal_err *err)
{
    const forge_kv_plan_args *a = &args->kv_plan;
    SHOAL_TRY(need(a->down, "--down MBIT", err));
    SHOAL_TRY(need(a->edge, "--edge N", err));
    SHOAL_TRY(need(a->cloud, "--cloud N", err));
    SHOAL_CLEANUP(shoal_forge_session_close) forge_session s = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    SHOAL_TRY(shoal_model_load(args->model, &s.model, err));
    named_level named[SHOAL_TRANSFER_LEVELS_MAX];
    shoal_transfer_level levels[SHOAL_TRANSFER_LEVELS_MAX];
    size_t n_levels = list_levels(a, s.model, named);
    for (size_t i = 0; i < n_levels; i++) {
        levels[i] = named[i].level;
    }
    const shoal_transfer_figures figures = figures_of(a);
    SHOAL_TRY(append_levels(&out, args->json, named, n_levels));
    for (size_t i = 0; i < LENGTHS; i++) {
        const shoal_transfer_request request = {.n_tokens = (size_t)FIRST << i,
                                                .n_answer = (size_t)a->answer,
                                                .may_ids = a->ids > 0,
                                                .may_local = true,
                                                .levels = levels,
                                                .n_levels = n_levels};
        shoal_transfer_choice choice;
        SHOAL_TRY(shoal_transfer_choose(&figures, &request, &choice));
        SHOAL_TRY(append_row(&out, args->json, request.n_tokens, &choice, named));
    }
    SHOAL_TRY(args->json ? shoal_buf_appendf(&out, "]}\n") : SHOAL_OK);
    return shoal_forge_print(&out, err);
}
