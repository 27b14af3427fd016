/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a GGUF; what opens is walked, written anew, and its small matrices become weights
 * whose rows must say what the file says. The same bytes as a packed file, whose rows must be those
 * of its blocks. What opens as a model of either kind is loaded, and what loads computes.
 */
#include "gguf_walk.h"

#include "common/base/mem.h"
#include "common/engine/engine.h"
#include "common/exit/store.h"
#include "common/weight/pack.h"
#include "common/weight/sides.h"

#include <string.h>

enum {
    MATRIX_BYTES_MAX = 1 << 14,
    ROWS_MAX = 64,
    K_MAX = 2048,
    CTX = 4,
    ENGINE_BYTES_MAX = 1 << 26 /* of KV for CTX tokens: an image of some KB can ask for no more */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_rows(const shoal_weight *weight, const shoal_gguf_tensor *t)
{
    size_t k = shoal_weight_k(weight);
    size_t row_bytes = (size_t)(t->size_bytes / t->dims[1]);
    SHOAL_CLEANUP(shoal_free_cleanup) float *want = shoal_calloc(k, sizeof(*want));
    SHOAL_CLEANUP(shoal_free_cleanup) float *got = shoal_calloc(k, sizeof(*got));
    SHOAL_ASSERT(want != NULL && got != NULL);
    for (size_t r = 0; r < SHOAL_MIN(shoal_weight_n_rows(weight), (size_t)ROWS_MAX); r++) {
        shoal_weight_decode(t->type, t->data + r * row_bytes, k, want);
        shoal_weight_row(weight, r, got);
        SHOAL_ASSERT(memcmp(want, got, k * sizeof(*want)) == 0);
    }
}

static void check_weights(const uint8_t *data, size_t size)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    if (shoal_gguf_open(data, size, &gguf, NULL) != SHOAL_OK) {
        return;
    }
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        shoal_err err = SHOAL_ERR_INIT;
        shoal_weight *weight = NULL;
        if (t->size_bytes > MATRIX_BYTES_MAX) {
            continue;
        }
        if (shoal_weight_new(t, &weight, &err) == SHOAL_OK) {
            check_rows(weight, t);
            shoal_weight_free(weight);
        } else {
            SHOAL_ASSERT(err.text[0] != '\0');
        }
    }
}

/* Factors beside it: its rows can be had from every sixteenth on (weight/sides.h). */
static bool has_factors(const shoal_gguf *gguf, const shoal_gguf_tensor *t)
{
    char name[SHOAL_GGUF_NAME_MAX + 1];
    return shoal_side_name(t->name, SHOAL_SIDE_LOW_LEFT, name) &&
           shoal_gguf_find_tensor(gguf, name);
}

/* A packed file that opens has panels of the sizes its shapes ask for: every row can be read. One
 * that is sound and verified gives the rows that its own blocks give. */
static void check_packed(const uint8_t *data, size_t size)
{
    static shoal_pool *pool; /* one thread */
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *copy = shoal_calloc_aligned(size, 1);
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_ASSERT(copy && (pool || shoal_pool_new(1, &pool) == SHOAL_OK));
    memcpy(copy, data, size);
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_pack_open(copy, size, &gguf, &err) != SHOAL_OK) {
        SHOAL_ASSERT(err.text[0] != '\0');
        return;
    }
    if (!shoal_pack_is_packed(gguf)) {
        return;
    }
    bool sound = shoal_pack_check(gguf, pool, NULL) == SHOAL_OK;
    bool verified = sound && shoal_pack_verify(gguf, pool, NULL) == SHOAL_OK;
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        shoal_weight *weight = NULL;
        size_t n_rows = (size_t)(t->dims[1] * t->dims[2]);
        if (!t->packed || t->dims[0] > K_MAX ||
            shoal_weight_load(gguf, t, 0, n_rows, pool, &weight, NULL) != SHOAL_OK) {
            continue;
        }
        float row[K_MAX];
        for (size_t r = 0; r < n_rows; r++) {
            shoal_weight_row(weight, r, row);
        }
        shoal_weight_free(weight);
        shoal_status status = shoal_weight_load(gguf, t, 1, n_rows - 1, pool, &weight, NULL);
        SHOAL_ASSERT(!verified || status == SHOAL_OK ||
                     (status == SHOAL_E_UNSUPPORTED && has_factors(gguf, t)));
        if (status == SHOAL_OK) {
            shoal_weight_free(weight);
        }
    }
}

/* Two steps, of two rows and of one. */
static void compute(const shoal_model *model)
{
    SHOAL_CLEANUP(shoal_engine_freep) shoal_engine *engine = NULL;
    shoal_engine_settings s = shoal_engine_settings_default();
    shoal_kv_shape shape = shoal_model_kv_shape(&model->hp, SHOAL_KV_F16);
    shoal_err err = SHOAL_ERR_INIT;
    s.n_threads = 1;
    s.n_ctx = SHOAL_MIN(model->hp.n_ctx, (size_t)CTX);
    s.n_rows_max = 2;
    s.n_logits_max = 1;
    s.kv_type = SHOAL_KV_F16;
    s.kv_bytes = 2 * shape.n_layers * shoal_kv_page_bytes(&shape);
    if (s.kv_bytes > ENGINE_BYTES_MAX) {
        return;
    }
    if (shoal_engine_new(model, &s, &engine, &err) != SHOAL_OK) {
        SHOAL_ASSERT(err.text[0] != '\0');
        return;
    }
    shoal_kv_seq *seq = NULL;
    const int32_t ids[2] = {0, (int32_t)model->hp.n_vocab - 1};
    SHOAL_ASSERT(shoal_kv_seq_new(shoal_engine_kv(engine), &seq) == SHOAL_OK);
    for (size_t n = SHOAL_MIN(s.n_ctx, (size_t)2); n >= 1; n--) {
        shoal_span span = {.seq = seq, .ids = ids, .n_ids = n, .n_logits = 1};
        shoal_status status = shoal_engine_step(engine, &span, 1);
        SHOAL_ASSERT(status == SHOAL_OK || status == SHOAL_E_LIMIT || status == SHOAL_BUSY);
    }
    shoal_kv_seq_free(seq);
}

static void check_model(const uint8_t *data, size_t size)
{
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *aligned = shoal_calloc_aligned(size, 1);
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    SHOAL_ASSERT(aligned != NULL);
    memcpy(aligned, data, size);
    if (shoal_pack_open(aligned, size, &gguf, &err) != SHOAL_OK ||
        shoal_model_new(gguf, &model, &err) != SHOAL_OK) {
        SHOAL_ASSERT(err.code != SHOAL_OK && err.text[0] != '\0');
        SHOAL_ASSERT(strchr(err.text, '\n') == NULL);
        return;
    }
    SHOAL_ASSERT(shoal_model_bytes_per_token(model) > 0);
    compute(model);
}

/* What is read as a policy is one: it prints, and reads back the same. */
static void check_policies(const uint8_t *data, size_t size)
{
    static const char *const prefixes[] = {"shoal.exit.policy.1", SHOAL_ESCALATE_POLICY};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_exit_calibration calibration;
    SHOAL_ASSERT(shoal_gguf_open(data, size, &gguf, NULL) == SHOAL_OK);
    for (size_t i = 0; i < SHOAL_COUNT(prefixes); i++) {
        shoal_exit_set set;
        shoal_err_clear(&err);
        if (shoal_exit_set_read(gguf, prefixes[i], &set, &err) != SHOAL_OK) {
            SHOAL_ASSERT(err.text[0] != '\0' && strchr(err.text, '\n') == NULL);
            continue;
        }
        for (size_t kind = 0; kind < SHOAL_EXIT_KINDS; kind++) {
            char text[SHOAL_EXIT_TEXT_MAX];
            shoal_exit_policy back;
            if (set.has[kind]) {
                shoal_exit_policy_print(&set.policies[kind], text);
                SHOAL_ASSERT(shoal_exit_policy_parse(text, &back, NULL) == SHOAL_OK);
                SHOAL_ASSERT(memcmp(&back, &set.policies[kind], sizeof back) == 0);
            }
        }
    }
    shoal_exit_risks risks;
    shoal_err_clear(&err);
    if (shoal_exit_risks_read(gguf, SHOAL_ESCALATE_POLICY, &risks, &err) != SHOAL_OK) {
        SHOAL_ASSERT(err.text[0] != '\0' && strchr(err.text, '\n') == NULL);
    }
    shoal_err_clear(&err);
    shoal_status status =
        shoal_exit_calibration_read(gguf, SHOAL_EXIT_CALIBRATION, &calibration, &err);
    bool silent = status == SHOAL_OK || status == SHOAL_E_NOTFOUND;
    SHOAL_ASSERT(silent == (err.text[0] == '\0'));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    shoal_err err = SHOAL_ERR_INIT;
    if (gguf_walk(data, size, &err) == SHOAL_OK) {
        check_weights(data, size);
        check_packed(data, size);
        check_model(data, size);
        check_policies(data, size);
    }
    return 0;
}
