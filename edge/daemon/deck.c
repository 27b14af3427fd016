/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/daemon/deck.h"

#include "edge/daemon/config_keys.h"
#include "edge/daemon/escalation.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/engine/probe.h"
#include "common/obs/log.h"

#include <string.h>

/* Prefixes as they lie in the bundle. */
typedef struct blobs {
    shoal_map maps[SHOAL_COOP_PREFIXES_MAX];
    shoal_coop_prefix prefixes[SHOAL_COOP_PREFIXES_MAX];
    size_t n;
} blobs;

static void close_blobs(blobs *b)
{
    for (size_t i = 0; i < b->n; i++) {
        shoal_map_close(&b->maps[i]);
    }
}

static shoal_status open_blobs(const char *folder, const shoal_bundle *bundle, blobs *b,
                               shoal_err *err)
{
    const shoal_bundle_file *f = NULL;
    while (b->n < SHOAL_COOP_PREFIXES_MAX &&
           (f = shoal_bundle_find(bundle, SHOAL_BUNDLE_PREFIX, b->n)) != NULL) {
        SHOAL_CLEANUP(shoal_free_cleanup) char *path = shoal_bundle_path(folder, f->name);
        if (!path) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a bundle");
        }
        SHOAL_TRY(shoal_map_open(path, &b->maps[b->n], err));
        b->prefixes[b->n] = (shoal_coop_prefix){b->maps[b->n].data, b->maps[b->n].size};
        b->n++;
    }
    return SHOAL_OK;
}

static shoal_status check_tests(const shoal_deck *deck, const shoal_bundle *bundle,
                                uint32_t cpu_mask, shoal_err *err)
{
    for (size_t i = 0; bundle && i < bundle->n_tests; i++) {
        int32_t answer[SHOAL_BUNDLE_TEST_ANSWER_MAX];
        const shoal_bundle_test *t = &bundle->tests[i];
        SHOAL_TRY(shoal_probe_greedy(deck->model, deck->lora, cpu_mask, t->ids, t->n_ids, answer,
                                     t->n_answer, err));
        if (memcmp(answer, t->answer, t->n_answer * sizeof *answer) != 0) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "test %zu of the bundle is answered otherwise here", i + 1);
        }
    }
    return SHOAL_OK;
}

/* A bundle's prefix is of one form of KV: an edge that is configured for another goes on without.
 */
static shoal_status make_coop(shoal_deck *deck, shoal_coop_settings *s, shoal_metrics *metrics,
                              shoal_err *err)
{
    shoal_status status = shoal_coop_new(deck->model, s, metrics, &deck->coop, err);
    if (status != SHOAL_E_MISMATCH || s->n_prefixes == 0) {
        return status;
    }
    shoal_log(SHOAL_LOG_WARN, "the bundle's prefix is not used: %s", err->text);
    shoal_err_clear(err);
    s->n_prefixes = 0;
    return shoal_coop_new(deck->model, s, metrics, &deck->coop, err);
}

static shoal_status load(shoal_deck *deck, const shoal_config *config, bool bundle,
                         const char *path, const char *adapter, shoal_coop_settings *s,
                         shoal_err *err)
{
    SHOAL_TRY(shoal_model_load(path, &deck->model, err));
    if (adapter) {
        SHOAL_TRY(shoal_lora_load(deck->model, adapter, 1, &deck->lora, err));
    }
    s->lora = deck->lora;
    if (!bundle) {
        SHOAL_TRY(shoal_adapters_load(shoal_config_string(config, "model.adapters"), deck->model,
                                      &deck->adapters, err));
    }
    s->adapters = deck->adapters.list;
    s->n_adapters = deck->adapters.n;
    SHOAL_TRY(shoal_edge_escalation(path, deck->model, &s->has_escalation, &s->escalation,
                                    &s->risks, err));
    deck->calibrated = s->has_escalation;
    if (shoal_config_bool(config, "model.huge_pages")) {
        shoal_model_start_huge_pages(deck->model);
    }
    return shoal_exit_fitted_load(path, deck->model, &s->exits, err);
}

static shoal_status find_paths(const shoal_config *config, const char *folder,
                               const shoal_bundle *bundle, char **ret_model, char **ret_adapter,
                               shoal_err *err)
{
    const char *installed = shoal_config_string(config, "model.path");
    if (!bundle && !installed[0]) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "model.path: no model given; pass --set model.path=FILE.gguf");
    }
    const shoal_bundle_file *adapter =
        bundle ? shoal_bundle_find(bundle, SHOAL_BUNDLE_ADAPTER, 0) : NULL;
    *ret_model =
        bundle ? shoal_bundle_path(folder, shoal_bundle_find(bundle, SHOAL_BUNDLE_MODEL, 0)->name)
               : shoal_strdup(installed);
    *ret_adapter = adapter ? shoal_bundle_path(folder, adapter->name) : NULL;
    return *ret_model && (*ret_adapter || !adapter)
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the model's path");
}

shoal_status shoal_deck_new(const shoal_config *config, const char *folder,
                            const shoal_bundle *bundle, shoal_traffic *traffic,
                            shoal_metrics *metrics, shoal_deck **ret_deck, shoal_err *err)
{
    shoal_coop_settings settings;
    SHOAL_CLEANUP(shoal_free_cleanup) char *path = NULL;
    SHOAL_CLEANUP(shoal_free_cleanup) char *adapter = NULL;
    SHOAL_CLEANUP(close_blobs) blobs prefixes = {0};
    SHOAL_CLEANUP(shoal_deck_freep) shoal_deck *deck = shoal_calloc(1, sizeof *deck);
    if (!deck) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the model");
    }
    SHOAL_TRY(find_paths(config, folder, bundle, &path, &adapter, err));
    SHOAL_TRY(shoal_edge_coop_settings(config, &settings, err));
    settings.traffic = traffic;
    SHOAL_TRY(load(deck, config, bundle != NULL, path, adapter, &settings, err));
    SHOAL_TRY(check_tests(deck, bundle, settings.cpu_mask, err));
    if (bundle) {
        SHOAL_TRY(open_blobs(folder, bundle, &prefixes, err));
    }
    settings.prefixes = prefixes.prefixes;
    settings.n_prefixes = prefixes.n;
    SHOAL_TRY(make_coop(deck, &settings, metrics, err));
    *ret_deck = SHOAL_STEAL(deck);
    return SHOAL_OK;
}

void shoal_deck_free(shoal_deck *deck)
{
    if (!deck) {
        return;
    }
    shoal_coop_free(deck->coop);
    shoal_adapters_fini(&deck->adapters);
    shoal_lora_free(deck->lora);
    shoal_model_free(deck->model);
    shoal_free(deck);
}

/* All members are counts of one size. */
static shoal_coop_totals minus(const shoal_coop_totals *all, const shoal_coop_totals *told)
{
    enum {
        COUNTS = sizeof *all / sizeof(uint64_t)
    };
    uint64_t a[COUNTS];
    uint64_t b[COUNTS];
    shoal_coop_totals rest;
    memcpy(a, all, sizeof a);
    memcpy(b, told, sizeof b);
    for (size_t i = 0; i < COUNTS; i++) {
        a[i] -= b[i];
    }
    memcpy(&rest, a, sizeof rest);
    return rest;
}

void shoal_deck_carry(shoal_deck *from, shoal_deck *to, bool first)
{
    shoal_coop_state state = {0};
    shoal_coop_state_get(from->coop, &state);
    const shoal_coop_totals rest = minus(&state.totals, &from->carried);
    if (shoal_coop_carry(to->coop, &rest, first ? &state.spend : NULL) == SHOAL_OK) {
        from->carried = state.totals;
    } else {
        shoal_log(SHOAL_LOG_WARN, "no memory to count on: the totals begin anew");
    }
}
