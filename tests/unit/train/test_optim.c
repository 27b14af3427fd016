/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/train/muon.h"
#include "common/train/optim.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    ITEMS = 6,
    FLOATS = 120000
};

/* A block of its own: wide, tall and two stacked square matrices, a table of more than one piece, a
 * vector, and one that is frozen. */
typedef struct fixture {
    shoal_param items[ITEMS];
    shoal_params params;
    shoal_pool *pool;
    float *grads;
} fixture;

static float normal(uint64_t *rng)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        sum += (float)(shoal_rng_next(rng) >> 40) * 0x1p-24F - 0.5F;
    }
    return sum * 1.7F;
}

static void fill(fixture *f, uint64_t seed, float *x)
{
    uint64_t rng = seed;
    for (size_t k = 0; k < ITEMS; k++) {
        const shoal_param *p = &f->items[k];
        for (size_t i = 0; i < p->n_rows * p->n_cols; i++) {
            x[p->offset + i] = normal(&rng);
        }
    }
}

static void begin(fixture *f, size_t n_threads)
{
    static const shoal_param shapes[ITEMS] = {
        {"wide", SHOAL_PARAM_MATRIX, 24, 70, 1, 0, false},
        {"tall", SHOAL_PARAM_MATRIX, 70, 24, 1, 0, false},
        {"stacked", SHOAL_PARAM_MATRIX, 66, 33, 2, 0, false},
        {"table", SHOAL_PARAM_TABLE, 400, 100, 1, 0, false},
        {"vector", SHOAL_PARAM_VECTOR, 1, 50, 1, 0, false},
        {"frozen", SHOAL_PARAM_MATRIX, 8, 8, 1, 0, true},
    };
    memset(f, 0, sizeof *f);
    memcpy(f->items, shapes, sizeof shapes);
    size_t at = 0;
    for (size_t i = 0; i < ITEMS; i++) {
        f->items[i].offset = at;
        at += (f->items[i].n_rows * f->items[i].n_cols + 15) / 16 * 16;
    }
    assert_true(at <= FLOATS);
    f->params = (shoal_params){.n_items = ITEMS, .items = f->items, .n_floats = at};
    f->params.data = shoal_params_block(&f->params);
    f->grads = shoal_params_block(&f->params);
    assert_non_null(f->params.data);
    assert_non_null(f->grads);
    assert_int_equal(shoal_pool_new(n_threads, &f->pool), SHOAL_OK);
    fill(f, 1, f->params.data);
}

static void end(fixture *f)
{
    shoal_pool_free(f->pool);
    shoal_free(f->params.data);
    shoal_free(f->grads);
}

static shoal_optim_settings plain_settings(void)
{
    shoal_optim_settings s = shoal_optim_settings_default();
    s.n_warmup = 0;
    s.n_steps = 1000;
    s.final_share = 1;
    s.clip = 0;
    return s;
}

/* --- AdamW ----------------------------------------------------------------------------------- */

/* beta1 = 1/2, beta2 = 3/4, rate 1/8, gradients 1 then -1. Step 1: mean-hat 1, square-hat 1, so the
 * number falls by 1/8. Step 2: m = -1/4 over 1 - 1/4, v = 7/16 over 1 - 9/16: -1/3 and 1, so it
 * rises by 1/24. Decay is 1/2 of matrices: each step first takes 1/16 of the number away. */
static void test_adamw_equals_two_hand_computed_steps(void **state)
{
    (void)state;
    fixture f;
    begin(&f, 1);
    shoal_optim_settings s = plain_settings();
    s.muon = false;
    s.adam_rate = 0.125F;
    s.beta1 = 0.5F;
    s.beta2 = 0.75F;
    s.weight_decay = 0.5F;
    shoal_optim *optim = NULL;
    assert_int_equal(shoal_optim_new(&f.params, &s, &optim), SHOAL_OK);
    float *matrix = f.params.data + f.items[0].offset;
    float *vector = f.params.data + f.items[4].offset;
    *matrix = 2;
    *vector = 2;
    double norm = 0;
    f.grads[f.items[0].offset] = 1;
    f.grads[f.items[4].offset] = 1;
    assert_int_equal(shoal_optim_step(optim, &f.params, f.grads, f.pool, &norm), SHOAL_OK);
    assert_true(fabs(norm - sqrt(2.0)) < 1e-12);
    assert_true(fabsf(*vector - 1.875F) < 1e-6F);
    assert_true(fabsf(*matrix - 1.75F) < 1e-6F);
    f.grads[f.items[0].offset] = -1;
    f.grads[f.items[4].offset] = -1;
    assert_int_equal(shoal_optim_step(optim, &f.params, f.grads, f.pool, &norm), SHOAL_OK);
    assert_true(fabsf(*vector - (1.875F + 1.0F / 24)) < 1e-6F);
    assert_true(fabsf(*matrix - (1.75F - 1.75F / 16 + 1.0F / 24)) < 1e-6F);
    assert_int_equal(optim->step, 2);
    shoal_optim_free(optim);
    end(&f);
}

/* --- Muon ------------------------------------------------------------------------------------ */

/* Singular values by the plainest means: eigenvalues of X X^T by Jacobi rotations. */
static void singular_values(size_t n, size_t m, const float *x, double *ret)
{
    static double a[40][40];
    assert_true(n <= 40);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            a[i][j] = 0;
            for (size_t k = 0; k < m; k++) {
                a[i][j] += (double)x[i * m + k] * (double)x[j * m + k];
            }
        }
    }
    for (int sweep = 0; sweep < 30; sweep++) {
        for (size_t p = 0; p < n; p++) {
            for (size_t q = p + 1; q < n; q++) {
                double angle = 0.5 * atan2(2 * a[p][q], a[q][q] - a[p][p]);
                double c = cos(angle);
                double s = sin(angle);
                for (size_t k = 0; k < n; k++) {
                    double u = a[k][p];
                    a[k][p] = c * u - s * a[k][q];
                    a[k][q] = s * u + c * a[k][q];
                }
                for (size_t k = 0; k < n; k++) {
                    double u = a[p][k];
                    a[p][k] = c * u - s * a[q][k];
                    a[q][k] = s * u + c * a[q][k];
                }
            }
        }
    }
    for (size_t i = 0; i < n; i++) {
        ret[i] = sqrt(fmax(a[i][i], 0));
    }
}

/* Of one of the matrices of a parameter. */
static void check_update(const shoal_param *p, size_t i_stacked, const float *before,
                         const float *after, float rate)
{
    size_t n_rows = p->n_rows / p->n_stacked;
    size_t n = n_rows * p->n_cols;
    size_t offset = p->offset + i_stacked * n;
    bool tall = n_rows > p->n_cols;
    size_t small = tall ? p->n_cols : n_rows;
    size_t large = tall ? n_rows : p->n_cols;
    float scale = rate * sqrtf(tall ? (float)n_rows / (float)p->n_cols : 1.0F);
    float *x = shoal_calloc(n, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) {
        size_t at = tall ? i % p->n_cols * n_rows + i / p->n_cols : i;
        x[at] = (before[offset + i] - after[offset + i]) / scale;
    }
    double values[40];
    singular_values(small, large, x, values);
    for (size_t i = 0; i < small; i++) {
        if (values[i] < 0.3 || values[i] > 1.3) {
            fail_msg("%s: singular value %zu of the update is %g", p->name, i, values[i]);
        }
    }
    shoal_free(x);
}

static void test_muon_update_is_nearly_orthogonal(void **state)
{
    (void)state;
    fixture f;
    begin(&f, 1);
    shoal_optim_settings s = plain_settings();
    s.weight_decay = 0;
    s.muon_rate = 0.5F;
    shoal_optim *optim = NULL;
    float *before = shoal_params_block(&f.params);
    assert_non_null(before);
    assert_int_equal(shoal_optim_new(&f.params, &s, &optim), SHOAL_OK);
    for (uint64_t step = 0; step < 3; step++) {
        double norm = 0;
        memcpy(before, f.params.data, f.params.n_floats * sizeof *before);
        fill(&f, 10 + step, f.grads);
        assert_int_equal(shoal_optim_step(optim, &f.params, f.grads, f.pool, &norm), SHOAL_OK);
        for (size_t k = 0; k < 3; k++) {
            for (size_t i = 0; i < f.items[k].n_stacked; i++) {
                check_update(&f.items[k], i, before, f.params.data, 0.5F);
            }
        }
        const shoal_param *frozen = &f.items[5];
        assert_memory_equal(before + frozen->offset, f.params.data + frozen->offset,
                            frozen->n_rows * frozen->n_cols * sizeof *before);
    }
    shoal_free(before);
    shoal_optim_free(optim);
    end(&f);
}

/* A tall matrix is the transpose of a wide one: so is its step, but for the scale. */
static void test_muon_of_a_transpose_is_the_transpose(void **state)
{
    (void)state;
    enum {
        R = 12,
        C = 30
    };
    float wide[R * C];
    float tall[R * C];
    float moment_wide[R * C] = {0};
    float moment_tall[R * C] = {0};
    float w[R * C] = {0};
    float t[R * C] = {0};
    float *scratch = shoal_calloc(shoal_muon_scratch_floats(R, C), sizeof *scratch);
    assert_non_null(scratch);
    uint64_t rng = 3;
    for (size_t i = 0; i < R * C; i++) {
        wide[i] = normal(&rng);
        tall[i % C * R + i / C] = wide[i];
    }
    const shoal_muon muon = {.rate = 1, .momentum = 0.95F};
    shoal_muon_step(R, C, &muon, wide, moment_wide, w, scratch);
    shoal_muon_step(C, R, &muon, tall, moment_tall, t, scratch);
    float scale = sqrtf((float)C / (float)R);
    for (size_t i = 0; i < R * C; i++) {
        assert_true(fabsf(w[i] * scale - t[i % C * R + i / C]) < 1e-5F);
    }
    shoal_free(scratch);
}

/* --- what holds for both --------------------------------------------------------------------- */

static void run_steps(size_t n_threads, bool muon, float *ret_params, float *ret_first)
{
    fixture f;
    begin(&f, n_threads);
    shoal_optim_settings s = plain_settings();
    s.muon = muon;
    s.clip = 1;
    shoal_optim *optim = NULL;
    assert_int_equal(shoal_optim_new(&f.params, &s, &optim), SHOAL_OK);
    for (uint64_t step = 0; step < 4; step++) {
        double norm = 0;
        fill(&f, 20 + step, f.grads);
        assert_int_equal(shoal_optim_step(optim, &f.params, f.grads, f.pool, &norm), SHOAL_OK);
    }
    memcpy(ret_params, f.params.data, f.params.n_floats * sizeof *ret_params);
    memcpy(ret_first, optim->first, f.params.n_floats * sizeof *ret_first);
    shoal_optim_free(optim);
    end(&f);
}

static void test_threads_change_no_bit(void **state)
{
    (void)state;
    float *blocks = shoal_calloc((size_t)FLOATS * 4, sizeof *blocks);
    assert_non_null(blocks);
    for (int muon = 0; muon < 2; muon++) {
        run_steps(1, muon, blocks, blocks + FLOATS);
        for (size_t n = 2; n <= 4; n++) {
            run_steps(n, muon, blocks + 2 * FLOATS, blocks + 3 * FLOATS);
            assert_memory_equal(blocks, blocks + 2 * FLOATS, 2 * FLOATS * sizeof *blocks);
        }
    }
    shoal_free(blocks);
}

static void test_clipping_scales_to_the_norm(void **state)
{
    (void)state;
    fixture f;
    begin(&f, 2);
    shoal_optim_settings s = plain_settings();
    s.clip = 5;
    shoal_optim *optim = NULL;
    assert_int_equal(shoal_optim_new(&f.params, &s, &optim), SHOAL_OK);
    float *g = f.grads + f.items[3].offset;
    double norm = 0;
    g[0] = 3;
    g[1] = 4; /* at the limit: as it is */
    assert_int_equal(shoal_optim_step(optim, &f.params, f.grads, f.pool, &norm), SHOAL_OK);
    assert_true(norm == 5.0 && g[0] == 3.0F && g[1] == 4.0F);
    g[0] = 6;
    g[1] = 8;
    f.grads[f.items[5].offset] = 1e30F; /* a frozen one counts for nothing */
    assert_int_equal(shoal_optim_step(optim, &f.params, f.grads, f.pool, &norm), SHOAL_OK);
    assert_true(norm == 10.0 && g[0] == 3.0F && g[1] == 4.0F);
    shoal_optim_free(optim);
    end(&f);
}

static void test_gradients_that_are_not_finite_change_nothing(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    fixture f;
    begin(&f, 2);
    shoal_optim_settings s = plain_settings();
    shoal_optim *optim = NULL;
    float *before = shoal_params_block(&f.params);
    float *moments = shoal_params_block(&f.params);
    assert_true(before && moments);
    assert_int_equal(shoal_optim_new(&f.params, &s, &optim), SHOAL_OK);
    double norm = 0;
    fill(&f, 30, f.grads);
    assert_int_equal(shoal_optim_step(optim, &f.params, f.grads, f.pool, &norm), SHOAL_OK);
    size_t n_bytes = f.params.n_floats * sizeof *before;
    memcpy(before, f.params.data, n_bytes);
    memcpy(moments, optim->first, n_bytes);
    for (size_t k = 0; k < ITEMS - 1; k++) {
        size_t last = f.items[k].offset + f.items[k].n_rows * f.items[k].n_cols - 1;
        float kept = f.grads[last];
        f.grads[last] = bad[k % SHOAL_COUNT(bad)];
        norm = -1;
        assert_int_equal(shoal_optim_step(optim, &f.params, f.grads, f.pool, &norm),
                         SHOAL_E_INVALID);
        assert_true(norm == -1);
        assert_memory_equal(before, f.params.data, n_bytes);
        assert_memory_equal(moments, optim->first, n_bytes);
        assert_int_equal(optim->step, 1);
        f.grads[last] = kept;
    }
    shoal_free(before);
    shoal_free(moments);
    shoal_optim_free(optim);
    end(&f);
}

static void test_schedule_at_its_limits(void **state)
{
    (void)state;
    shoal_optim_settings s = plain_settings();
    s.n_warmup = 4;
    s.n_steps = 105;
    s.final_share = 0.1F;
    assert_true(shoal_optim_schedule(&s, 0) == 0.25F);
    assert_true(shoal_optim_schedule(&s, 3) == 1.0F);
    assert_true(shoal_optim_schedule(&s, 4) == 1.0F);
    assert_true(fabsf(shoal_optim_schedule(&s, 54) - 0.55F) < 1e-6F); /* half way */
    assert_true(shoal_optim_schedule(&s, 103) > 0.1F);
    assert_true(shoal_optim_schedule(&s, 104) == 0.1F);
    assert_true(shoal_optim_schedule(&s, 105) == 0.1F);
    assert_true(shoal_optim_schedule(&s, UINT64_MAX) == 0.1F);
    for (uint64_t i = 4; i < 104; i++) {
        assert_true(shoal_optim_schedule(&s, i + 1) < shoal_optim_schedule(&s, i));
    }
    s.n_warmup = 0;
    assert_true(shoal_optim_schedule(&s, 0) == 1.0F);
    s.n_steps = 1; /* the only step is a full one */
    assert_true(shoal_optim_schedule(&s, 0) == 1.0F);
    assert_true(shoal_optim_schedule(&s, 1) == 0.1F);
    s.n_warmup = 10; /* longer than the run */
    s.n_steps = 5;
    assert_true(shoal_optim_schedule(&s, 4) == 0.5F);
}

static void test_new_fails_cleanly_without_memory(void **state)
{
    (void)state;
    fixture f;
    begin(&f, 1);
    shoal_optim_settings s = plain_settings();
    for (uint64_t n = 0;; n++) {
        shoal_optim *optim = NULL;
        shoal_mem_fail_at(n);
        shoal_status status = shoal_optim_new(&f.params, &s, &optim);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            assert_true(n > 3);
            shoal_mem_fail_at(0); /* the scratch of the first step */
            double norm = 0;
            float was = f.params.data[0];
            assert_int_equal(shoal_optim_step(optim, &f.params, f.grads, f.pool, &norm),
                             SHOAL_E_NOMEM);
            shoal_mem_fail_at(UINT64_MAX);
            assert_true(f.params.data[0] == was && optim->step == 0);
            shoal_optim_free(optim);
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        assert_null(optim);
    }
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adamw_equals_two_hand_computed_steps),
        cmocka_unit_test(test_muon_update_is_nearly_orthogonal),
        cmocka_unit_test(test_muon_of_a_transpose_is_the_transpose),
        cmocka_unit_test(test_threads_change_no_bit),
        cmocka_unit_test(test_clipping_scales_to_the_norm),
        cmocka_unit_test(test_gradients_that_are_not_finite_change_nothing),
        cmocka_unit_test(test_schedule_at_its_limits),
        cmocka_unit_test(test_new_fails_cleanly_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
