/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/tiny_engine.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/rng.h"
#include "tests/support/tiny_arch.h"

#include <string.h>

shoal_model *shoal_tiny_engine_model(const char *variant)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_model *model = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_tiny_arch_gguf(variant, 5, SHOAL_TYPE_F16, &file), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, NULL),
                     SHOAL_OK);
    if (shoal_model_new(gguf, &model, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return model;
}

shoal_engine *shoal_tiny_engine_new(const shoal_model *model, const shoal_engine_settings *settings)
{
    shoal_engine *engine = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_engine_new(model, settings, &engine, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return engine;
}

shoal_kv_seq *shoal_tiny_engine_seq(shoal_engine *engine)
{
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(engine), &seq), SHOAL_OK);
    return seq;
}

void shoal_tiny_engine_ids(int32_t *ret_ids, size_t n)
{
    uint64_t rng = 7;
    for (size_t i = 0; i < n; i++) {
        ret_ids[i] = (int32_t)(shoal_rng_next(&rng) % SHOAL_TINY_VOCAB);
    }
}

size_t shoal_tiny_engine_masks(uint32_t ret[SHOAL_TINY_MASKS_MAX])
{
    uint32_t here = shoal_cpu_detect();
    size_t n = 1;
    ret[0] = 0;
    for (uint32_t bit = 1; bit <= here && bit != 0; bit <<= 1) {
        if (here & bit) {
            assert_true(n < SHOAL_TINY_MASKS_MAX);
            ret[n] = ret[n - 1] | bit;
            n++;
        }
    }
    return n;
}

void shoal_tiny_engine_one_by_one(const shoal_model *model, shoal_engine_settings settings,
                                  const int32_t *ids, size_t n, float (*ret)[SHOAL_TINY_VOCAB])
{
    settings.cpu_mask = 0;
    settings.n_threads = 1;
    shoal_engine *engine = shoal_tiny_engine_new(model, &settings);
    shoal_kv_seq *seq = shoal_tiny_engine_seq(engine);
    for (size_t i = 0; i < n; i++) {
        shoal_span span = {.seq = seq, .ids = &ids[i], .n_ids = 1, .n_logits = 1};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
        memcpy(ret[i], shoal_engine_logits(engine, span.logits_i), SHOAL_TINY_ROW_BYTES);
    }
    shoal_kv_seq_free(seq);
    shoal_engine_free(engine);
}
