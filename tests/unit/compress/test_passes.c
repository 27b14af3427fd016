/* SPDX-License-Identifier: Apache-2.0
 *
 * Passes against each other on seeded layers, against exhaustive search on tiny ones, and on what
 * is hostile or degenerate.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "layers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LAYERS = 10,
    ROWS = 48,
    COLS = 96
};

static const shoal_form three_bits = {.bits = 3, .group = 32};
static const shoal_form half_kept = {
    .bits = SHOAL_COMPRESS_BITS_F16, .mask = SHOAL_MASK_BITMAP, .density = 0.5};
static const shoal_form fours = {.bits = SHOAL_COMPRESS_BITS_F16, .mask = SHOAL_MASK_TWO_FOUR};

static shoal_problem *make(const test_layer *l)
{
    shoal_problem *p = NULL;
    assert_int_equal(shoal_problem_new(l->n_rows, l->n_cols, l->w, l->h, &p, NULL), SHOAL_OK);
    return p;
}

static double error_of(const shoal_problem *p, shoal_pass pass, const shoal_form *form)
{
    SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
    double error = 0;
    assert_int_equal(shoal_compress(p, pass, form, &c, NULL), SHOAL_OK);
    assert_int_equal(shoal_compressed_error(p, c, &error), SHOAL_OK);
    assert_true(isfinite(error) && error >= 0);
    return error;
}

/* --- pass against pass ----------------------------------------------------------------------- */

static void test_order_of_passes_on_correlated_layers(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= LAYERS; seed++) {
        test_layer l;
        test_layer_init(&l, ROWS, COLS, seed);
        SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
        double rtn = error_of(p, SHOAL_PASS_RTN, &three_bits);
        double gptq = error_of(p, SHOAL_PASS_GPTQ, &three_bits);
        double refined = error_of(p, SHOAL_PASS_REFINED, &three_bits);
        double magnitude = error_of(p, SHOAL_PASS_MAGNITUDE, &half_kept);
        double wanda = error_of(p, SHOAL_PASS_WANDA, &half_kept);
        double sparsegpt = error_of(p, SHOAL_PASS_SPARSEGPT, &half_kept);
        print_message("seed %d: rtn %.4f gptq %.4f refined %.4f magnitude %.4f wanda %.4f "
                      "sparsegpt %.4f\n",
                      (int)seed, rtn, gptq, refined, magnitude, wanda, sparsegpt);
        assert_true(gptq <= 0.7 * rtn);
        assert_true(refined <= 0.95 * gptq);
        assert_true(error_of(p, SHOAL_PASS_AWQ, &three_bits) <= rtn);
        assert_true(error_of(p, SHOAL_PASS_CLIP, &three_bits) <= 0.95 * rtn);
        assert_true(wanda <= magnitude);
        assert_true(sparsegpt <= wanda);
        test_layer_fini(&l);
    }
}

/* Weights of which most lie near 0, as those of a trained layer: evenly spaced codes spend most of
 * theirs on what is rare. */
static void test_own_levels_are_better_where_weights_are_uneven(void **state)
{
    (void)state;
    size_t n_better = 0;
    for (uint64_t seed = 1; seed <= LAYERS; seed++) {
        test_layer l;
        test_layer_init(&l, ROWS, COLS, seed);
        for (size_t i = 0; i < (size_t)ROWS * COLS; i++) {
            l.w[i] = l.w[i] * fabsf(l.w[i]);
        }
        SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
        double rtn = error_of(p, SHOAL_PASS_RTN, &three_bits);
        double gptq = error_of(p, SHOAL_PASS_GPTQ, &three_bits);
        double codebook = error_of(p, SHOAL_PASS_CODEBOOK, &three_bits);
        print_message("seed %d: rtn %.4f gptq %.4f codebook %.4f\n", (int)seed, rtn, gptq,
                      codebook);
        assert_true(codebook < rtn);
        n_better += codebook < gptq;
        test_layer_fini(&l);
    }
    assert_true(n_better >= LAYERS - 1);
}

/* A quarter of the columns, which the output minds ten thousand times as much, has weights of eight
 * levels; the others have those that k-means begins with. What is found are the first. */
static void test_own_levels_are_those_that_weigh_most(void **state)
{
    (void)state;
    static const int8_t own[] = {-127, -80, -40, -8, 12, 38, 68, 127};
    static const int8_t first[] = {-127, -68, -31, 0, 23, 49, 79, 127};
    test_layer l;
    test_layer_init(&l, ROWS, COLS, 1);
    uint64_t rng = 9;
    for (size_t i = 0; i < (size_t)COLS * COLS; i++) {
        size_t col = i % COLS;
        l.h[i] = i / COLS != col ? 0 : col % 4 == 1 ? 1e4F : 1;
    }
    for (size_t i = 0; i < (size_t)ROWS * COLS; i++) {
        size_t col = i % COLS;
        size_t at = col % 32 == 1 ? 7 : shoal_rng_next(&rng) % 8; /* the largest is in each group */
        l.w[i] = 0x1p-8F * (float)(col % 4 == 1 ? own : first)[at];
    }
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
    SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
    double error = 0;
    assert_int_equal(shoal_compress(p, SHOAL_PASS_CODEBOOK, &three_bits, &c, NULL), SHOAL_OK);
    assert_int_equal(shoal_compressed_error(p, c, &error), SHOAL_OK);
    print_message("error %.3e, levels", error);
    for (size_t i = 0; i < SHOAL_COUNT(own); i++) {
        print_message(" %d", c->levels[i]);
    }
    print_message("\n");
    for (size_t i = 0; i < SHOAL_COUNT(own); i++) {
        assert_true(abs(c->levels[i] - own[i]) <= 4);
    }
    assert_true(error < 1e-3);
    test_layer_fini(&l);
}

static void test_more_bytes_are_less_error(void **state)
{
    (void)state;
    test_layer l;
    test_layer_init(&l, ROWS, COLS, 77);
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
    double before = (double)INFINITY;
    for (size_t bits = 2; bits <= 8; bits++) {
        const shoal_form f = {.bits = bits, .group = 32};
        double error = error_of(p, SHOAL_PASS_GPTQ, &f);
        assert_true(error < before);
        before = error;
    }
    before = (double)INFINITY;
    for (size_t rank = 1; rank <= ROWS; rank += 12) {
        const shoal_form f = {.rank = rank};
        double error = error_of(p, SHOAL_PASS_WHITENED_SVD, &f);
        assert_true(error < before && error <= error_of(p, SHOAL_PASS_SVD, &f) * 1.001);
        before = error;
    }
    test_layer_fini(&l);
}

static void test_joint_is_best_at_equal_bytes(void **state)
{
    (void)state;
    size_t n_best = 0;
    for (uint64_t seed = 1; seed <= LAYERS; seed++) {
        static const shoal_pass kinds[] = {SHOAL_PASS_GPTQ, SHOAL_PASS_REFINED,
                                           SHOAL_PASS_SPARSEGPT, SHOAL_PASS_WHITENED_SVD,
                                           SHOAL_PASS_JOINT};
        test_layer l;
        double errors[5] = {0};
        const uint64_t bytes = ROWS * COLS * 13 / 4 / 8; /* 3.25 bits */
        test_layer_init(&l, ROWS, COLS, seed);
        SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
        for (size_t i = 0; i < 5; i++) {
            SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
            assert_int_equal(shoal_compress_within(p, kinds[i], bytes, &c, NULL), SHOAL_OK);
            assert_true(shoal_compressed_bytes(c) <= bytes);
            assert_int_equal(shoal_compressed_error(p, c, &errors[i]), SHOAL_OK);
        }
        print_message("seed %d: quantised %.4f refined %.4f sparse %.4f low-rank %.4f joint %.4f\n",
                      (int)seed, errors[0], errors[1], errors[2], errors[3], errors[4]);
        bool best = true;
        for (size_t i = 0; i < 4; i++) {
            best = best && errors[4] < errors[i];
        }
        n_best += best;
        test_layer_fini(&l);
    }
    assert_true(10 * n_best >= 8 * LAYERS);
}

/* Half the error of 2:4 for a twentieth more bytes. */
static void test_wrp_halves_the_error_of_two_four(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= LAYERS; seed++) {
        test_layer l;
        test_layer_init(&l, ROWS, COLS, seed);
        SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
        SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *two_four = NULL;
        SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
        shoal_form f = fours;
        double before = 0;
        double after = 0;
        assert_int_equal(shoal_compress(p, SHOAL_PASS_TWO_FOUR, &f, &two_four, NULL), SHOAL_OK);
        double bytes = (double)shoal_compressed_bytes(two_four);
        f.recover = (0.05 * bytes - 4 * (ROWS + 1)) / 6 / (ROWS * COLS);
        assert_int_equal(shoal_compress(p, SHOAL_PASS_WRP, &f, &c, NULL), SHOAL_OK);
        assert_true((double)shoal_compressed_bytes(c) <= 1.05 * bytes);
        assert_true(c->single_begin[ROWS] > 0);
        for (size_t i = 0; i < ROWS; i++) {
            for (size_t j = c->single_begin[i]; j < c->single_begin[i + 1]; j++) {
                size_t at = c->single_cols[j];
                assert_true(j == c->single_begin[i] || at > c->single_cols[j - 1]);
                assert_false(c->kept[i * COLS / 8 + at / 8] >> at % 8 & 1);
            }
        }
        assert_int_equal(shoal_compressed_error(p, two_four, &before), SHOAL_OK);
        assert_int_equal(shoal_compressed_error(p, c, &after), SHOAL_OK);
        print_message("seed %d: 2:4 %.4f wrp %.4f\n", (int)seed, before, after);
        assert_true(after <= before / 2);
        test_layer_fini(&l);
    }
}

/* --- against exhaustive search --------------------------------------------------------------- */

static const float tiny_w[4] = {0.9F, -0.5F, 0.45F, 0.3F};
static const float tiny_h[16] = {2.0F, 1.2F, 0.4F, 0.1F, 1.2F, 1.5F, 0.6F, 0.2F,
                                 0.4F, 0.6F, 1.0F, 0.5F, 0.1F, 0.2F, 0.5F, 0.8F};

static double tiny_error(const double *w)
{
    double error = 0;
    double energy = 0;
    for (size_t i = 0; i < 16; i++) {
        double h = (double)tiny_h[i];
        double a = (double)tiny_w[i / 4] - w[i / 4];
        double b = (double)tiny_w[i % 4] - w[i % 4];
        error += a * b * h;
        energy += (double)tiny_w[i / 4] * (double)tiny_w[i % 4] * h;
    }
    return error / energy;
}

/* Any 16 of 32 in the bytes of two of every four: what a mask allows is what it is worth. */
static void test_half_of_32_loses_less_than_two_of_four(void **state)
{
    (void)state;
    static const shoal_pass kinds[] = {SHOAL_PASS_WANDA, SHOAL_PASS_SPARSEGPT, SHOAL_PASS_JOINT};
    for (uint64_t seed = 1; seed <= LAYERS; seed++) {
        test_layer l;
        test_layer_init(&l, ROWS, COLS, seed);
        SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
        for (size_t i = 0; i < SHOAL_COUNT(kinds); i++) {
            const shoal_form two = {.bits = 4, .group = 32, .mask = SHOAL_MASK_TWO_FOUR};
            const shoal_form half = {.bits = 4, .group = 32, .mask = SHOAL_MASK_HALF};
            double of_two = error_of(p, kinds[i], &two);
            double of_half = error_of(p, kinds[i], &half);
            print_message("seed %d, %s: 2:4 %.4f, 16:32 %.4f\n", (int)seed,
                          shoal_pass_name(kinds[i]), of_two, of_half);
            assert_true(of_half < 0.9 * of_two);
        }
        test_layer_fini(&l);
    }
}

/* Wanda keeps the greatest |w| ||x|| of every 32 columns, whatever stands beside them. */
static void test_so_many_of_32_are_the_greatest(void **state)
{
    (void)state;
    static const shoal_mask masks[] = {SHOAL_MASK_HALF, SHOAL_MASK_QUARTER};
    enum {
        N = 70 /* 32, 32 and 6 */
    };
    test_layer l;
    test_layer_init(&l, 3, N, 4);
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
    for (size_t m = 0; m < SHOAL_COUNT(masks); m++) {
        const shoal_form f = {.bits = 4, .group = 64, .mask = masks[m]};
        const size_t room = m == 0 ? 16 : 8;
        SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
        assert_int_equal(shoal_compress(p, SHOAL_PASS_WANDA, &f, &c, NULL), SHOAL_OK);
        for (size_t i = 0; i < 3 * (size_t)N; i++) {
            size_t row = i / N;
            size_t col = i % N;
            size_t n_greater = 0;
            double own = fabs((double)l.w[i]) * sqrt((double)l.h[col * N + col]);
            for (size_t j = col / 32 * 32; j < SHOAL_MIN(col / 32 * 32 + 32, (size_t)N); j++) {
                n_greater += fabs((double)l.w[row * N + j]) * sqrt((double)l.h[j * N + j]) > own;
            }
            bool kept = c->kept[row * ((N + 7) / 8) + col / 8] >> col % 8 & 1;
            assert_int_equal(kept, n_greater < room);
        }
    }
    test_layer_fini(&l);
}

static void test_error_is_the_one_that_is_written_out(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = NULL;
    assert_int_equal(shoal_problem_new(1, 4, tiny_w, tiny_h, &p, NULL), SHOAL_OK);
    for (size_t pass = SHOAL_PASS_RTN; pass <= SHOAL_PASS_GPTQ; pass++) {
        const shoal_form f = {.bits = pass == SHOAL_PASS_CODEBOOK ? 3 : 2, .group = 16};
        SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
        double w[4];
        double error = 0;
        assert_int_equal(shoal_compress(p, (shoal_pass)pass, &f, &c, NULL), SHOAL_OK);
        shoal_compressed_expand(c, w);
        assert_int_equal(shoal_compressed_error(p, c, &error), SHOAL_OK);
        assert_true(fabs(error - tiny_error(w)) < 1e-9);
    }
}

/* With the scale that GPTQ has chosen, no codes are better than the best, and rounding to nearest
 * is one of the choices. */
static void test_gptq_lies_between_the_best_codes_and_rounding(void **state)
{
    (void)state;
    const shoal_form f = {.bits = 2, .group = 16};
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = NULL;
    SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
    SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *rtn = NULL;
    double w[4];
    double best = (double)INFINITY;
    assert_int_equal(shoal_problem_new(1, 4, tiny_w, tiny_h, &p, NULL), SHOAL_OK);
    assert_int_equal(shoal_compress(p, SHOAL_PASS_GPTQ, &f, &c, NULL), SHOAL_OK);
    assert_int_equal(shoal_compress(p, SHOAL_PASS_RTN, &f, &rtn, NULL), SHOAL_OK);
    assert_int_equal(c->scales[0], rtn->scales[0]);
    shoal_compressed_expand(c, w);
    double scale = 0;
    for (size_t i = 0; i < 4; i++) {
        scale = c->codes[i] != 0 ? w[i] / c->codes[i] : scale;
    }
    for (int code = 0; code < 256; code++) {
        double tried[4];
        for (int i = 0; i < 4; i++) {
            tried[i] = scale * ((code >> 2 * i & 3) - 2);
        }
        best = fmin(best, tiny_error(tried));
    }
    double gptq = tiny_error(w);
    shoal_compressed_expand(rtn, w);
    print_message("best %.4f gptq %.4f rtn %.4f\n", best, gptq, tiny_error(w));
    assert_true(best <= gptq + 1e-9 && gptq <= tiny_error(w) + 1e-9);
}

/* Without correlation the best two of four are the two of greatest |w| sqrt(h). */
static void test_two_of_four_are_the_best_two_without_correlation(void **state)
{
    (void)state;
    uint64_t rng = 5;
    for (size_t round = 0; round < 50; round++) {
        float w[4];
        float h[16] = {0};
        double best = (double)INFINITY;
        SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = NULL;
        double energy = 0;
        for (size_t i = 0; i < 4; i++) {
            w[i] = (float)(int)(test_signed(&rng) * 1024) / 1024; /* what an f16 holds */
            h[5 * i] = test_between(&rng, 0.1F, 2);
            energy += (double)(w[i] * w[i]) * (double)h[5 * i];
        }
        for (size_t a = 0; a < 4; a++) {
            for (size_t b = 0; b < a; b++) {
                best = fmin(best, (double)(w[a] * w[a]) * (double)h[5 * a] +
                                      (double)(w[b] * w[b]) * (double)h[5 * b]);
            }
        }
        assert_int_equal(shoal_problem_new(1, 4, w, h, &p, NULL), SHOAL_OK);
        assert_true(fabs(error_of(p, SHOAL_PASS_TWO_FOUR, &fours) - best / energy) < 1e-6);
        assert_true(fabs(error_of(p, SHOAL_PASS_SPARSEGPT, &fours) - best / energy) < 1e-6);
    }
}

/* Rank one of two rows: every direction is tried. */
/* Past EXACT_ROWS of factors.c directions are found by iteration. Four of them, each of its own
 * rows and columns, with energies 8, 4, 2 and 1: a lower rank leaves the sum of the others. */
static void test_svd_of_many_rows_finds_the_best_directions(void **state)
{
    (void)state;
    enum {
        N_ROWS = 1056,
        N_COLS = 64,
        N = 4
    };
    static float w[N_ROWS * N_COLS];
    for (size_t i = 0; i < N_ROWS; i++) {
        for (size_t j = 0; j < N_COLS; j++) {
            w[i * N_COLS + j] = i % N == j % N ? (float)sqrt((double)(8 >> i % N)) : 0;
        }
    }
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = NULL;
    assert_int_equal(shoal_problem_new(N_ROWS, N_COLS, w, NULL, &p, NULL), SHOAL_OK);
    static const double left[] = {7.0 / 15, 3.0 / 15, 1.0 / 15, 0};
    for (size_t rank = 1; rank <= N; rank++) {
        const shoal_form form = {.rank = rank};
        double error = error_of(p, SHOAL_PASS_WHITENED_SVD, &form);
        assert_true(fabs(error - left[rank - 1]) < 1e-3);
    }
}

static void test_whitened_svd_finds_the_best_direction(void **state)
{
    (void)state;
    const shoal_form f = {.rank = 1};
    const float w[8] = {0.9F, -0.5F, 0.45F, 0.3F, -0.2F, 0.8F, 0.1F, 0.6F};
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = NULL;
    double gram[3] = {0}; /* W H W^T */
    double least = (double)INFINITY;
    for (size_t i = 0; i < 16; i++) {
        double h = (double)tiny_h[i];
        gram[0] += (double)w[i / 4] * (double)w[i % 4] * h;
        gram[1] += (double)w[i / 4] * (double)w[4 + i % 4] * h;
        gram[2] += (double)w[4 + i / 4] * (double)w[4 + i % 4] * h;
    }
    for (size_t i = 0; i < 100000; i++) { /* what lies across the direction is lost */
        double s = sin(3.14159265358979 * (double)i / 100000);
        double c = cos(3.14159265358979 * (double)i / 100000);
        least = fmin(least, s * s * gram[0] + 2 * s * c * gram[1] + c * c * gram[2]);
    }
    assert_int_equal(shoal_problem_new(2, 4, w, tiny_h, &p, NULL), SHOAL_OK);
    double want = least / (gram[0] + gram[2]);
    double error = error_of(p, SHOAL_PASS_WHITENED_SVD, &f);
    assert_true(error >= want - 1e-6 && error <= want + 2e-3); /* factors have eight bits */
}

/* --- bytes ----------------------------------------------------------------------------------- */

static void test_every_byte_counts(void **state)
{
    (void)state;
    static const struct {
        shoal_pass pass;
        shoal_form form;
        uint64_t bytes;
    } cases[] = {
        /* 6 rows of 40 columns: 240 elements */
        {SHOAL_PASS_RTN, {.bits = 4, .group = 16}, 120 + 6 * 3 * 2},
        {SHOAL_PASS_GPTQ, {.bits = 3, .group = 64}, 90 + 6 * 2},
        {SHOAL_PASS_CODEBOOK, {.bits = 3, .group = 64}, 90 + 6 * 2 + 8},
        {SHOAL_PASS_CODEBOOK, {.bits = 4, .group = 32}, 120 + 6 * 2 * 2 + 16},
        /* 6 rows of two times 32 with room for 16 or 8, the second of which is not full */
        {SHOAL_PASS_SPARSEGPT,
         {.bits = 4, .group = 32, .mask = SHOAL_MASK_HALF},
         6 * 2 * (16 / 2 + 4) + 6 * 2 * 2},
        {SHOAL_PASS_WANDA,
         {.bits = 4, .group = 64, .mask = SHOAL_MASK_QUARTER},
         6 * 2 * (8 / 2 + 4) + 6 * 2},
        {SHOAL_PASS_WANDA,
         {.bits = 16, .mask = SHOAL_MASK_BITMAP, .density = 0.5},
         6 * 20 * 2 + 6 * 5},
        {SHOAL_PASS_SPARSEGPT,
         {.bits = 4, .group = 32, .mask = SHOAL_MASK_TWO_FOUR},
         60 + 6 * 2 * 2 + 6 * 5},
        {SHOAL_PASS_WRP,
         {.bits = 16, .mask = SHOAL_MASK_TWO_FOUR, .recover = 0.05},
         240 + 6 * 5 + 7 * 4 + 12 * 6},
        {SHOAL_PASS_SVD, {.rank = 2}, 2 * 34 + 2 * 2 * 34},
        {SHOAL_PASS_JOINT, {.bits = 2, .group = 128, .rank = 1}, 60 + 6 * 2 + 34 + 2 * 34},
    };
    test_layer l;
    test_layer_init(&l, 6, 40, 3);
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
        assert_int_equal(shoal_compress(p, cases[i].pass, &cases[i].form, &c, NULL), SHOAL_OK);
        assert_int_equal(shoal_compressed_bytes(c), cases[i].bytes);
    }
    SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *none = NULL;
    assert_int_equal(shoal_compress_within(p, SHOAL_PASS_GPTQ, 71, &none, NULL), SHOAL_E_LIMIT);
    assert_int_equal(shoal_compress_within(p, SHOAL_PASS_GPTQ, 72, &none, NULL), SHOAL_OK);
    test_layer_fini(&l);
}

/* --- degenerate and hostile ------------------------------------------------------------------ */

static const struct {
    shoal_pass pass;
    shoal_form form;
} each[] = {
    {SHOAL_PASS_RTN, {.bits = 3, .group = 16}},
    {SHOAL_PASS_AWQ, {.bits = 3, .group = 16}},
    {SHOAL_PASS_SMOOTH, {.bits = 8, .group = 32}},
    {SHOAL_PASS_CLIP, {.bits = 3, .group = 16}},
    {SHOAL_PASS_CODEBOOK, {.bits = 3, .group = 16}},
    {SHOAL_PASS_GPTQ, {.bits = 3, .group = 16}},
    {SHOAL_PASS_REFINED, {.bits = 3, .group = 16}},
    {SHOAL_PASS_MAGNITUDE, {.bits = 16, .mask = SHOAL_MASK_BITMAP, .density = 0.4}},
    {SHOAL_PASS_WANDA, {.bits = 4, .group = 32, .mask = SHOAL_MASK_BITMAP, .density = 0.4}},
    {SHOAL_PASS_SPARSEGPT, {.bits = 4, .group = 32, .mask = SHOAL_MASK_BITMAP, .density = 0.4}},
    {SHOAL_PASS_SPARSEGPT, {.bits = 4, .group = 32, .mask = SHOAL_MASK_HALF}},
    {SHOAL_PASS_JOINT, {.bits = 4, .group = 32, .mask = SHOAL_MASK_QUARTER}},
    {SHOAL_PASS_SVD, {.rank = 3}},
    {SHOAL_PASS_WHITENED_SVD, {.rank = 3}},
    {SHOAL_PASS_TWO_FOUR, {.bits = 16, .mask = SHOAL_MASK_TWO_FOUR}},
    {SHOAL_PASS_WRP, {.bits = 4, .group = 16, .mask = SHOAL_MASK_TWO_FOUR, .recover = 0.1}},
    {SHOAL_PASS_JOINT,
     {.bits = 2, .group = 16, .mask = SHOAL_MASK_BITMAP, .density = 0.6, .rank = 2}},
};

static void test_singular_moments_do_no_harm(void **state)
{
    (void)state;
    enum {
        R = 9,
        C = 22 /* no multiple of four or eight */
    };
    test_layer l;
    test_layer_init(&l, R, C, 13);
    for (size_t kind = 0; kind < 3; kind++) {
        for (size_t i = 0; i < C * C; i++) { /* nothing; one direction; channels that are dead */
            size_t r = i / C;
            size_t c = i % C;
            float one = (float)(1 + r % 3) * (float)(1 + c % 3);
            l.h[i] = kind == 0 ? 0 : kind == 1 ? one : r % 2 || c % 2 ? 0 : l.h[i];
        }
        if (kind == 2) {
            for (size_t i = 0; i < C; i += 2) {
                l.h[i * C + i] += 1;
            }
        }
        SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
        for (size_t i = 0; i < SHOAL_COUNT(each); i++) {
            double error = error_of(p, each[i].pass, &each[i].form);
            assert_true(kind > 0 || error == 0);
        }
    }
    memset(l.w, 0, R * C * sizeof *l.w);
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *zero = make(&l);
    for (size_t i = 0; i < SHOAL_COUNT(each); i++) {
        assert_true(error_of(zero, each[i].pass, &each[i].form) == 0);
    }
    test_layer_fini(&l);
}

static void refused(size_t n_rows, size_t n_cols, const test_layer *l, shoal_status code)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_problem *p = NULL;
    assert_int_equal(shoal_problem_new(n_rows, n_cols, l->w, l->h, &p, &err), code);
    assert_int_not_equal(err.text[0], 0);
}

static void test_numbers_that_cannot_be_are_refused(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY, 65505};
    test_layer l;
    test_layer_init(&l, 4, 8, 1);
    refused(0, 8, &l, SHOAL_E_LIMIT);
    refused(4, 0, &l, SHOAL_E_LIMIT);
    refused(SHOAL_COMPRESS_SIDE_MAX + 1, 1, &l, SHOAL_E_LIMIT);
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        float w = l.w[9];
        l.w[9] = bad[i];
        refused(4, 8, &l, SHOAL_E_INVALID);
        l.w[9] = w;
        float h = l.h[3];
        l.h[3] = bad[i];
        refused(4, 8, &l, SHOAL_E_INVALID);
        l.h[3] = h;
    }
    float h = l.h[9];
    l.h[9] = -1;
    refused(4, 8, &l, SHOAL_E_INVALID);
    l.h[9] = h;
    test_layer_fini(&l);
}

static void test_forms_that_a_pass_does_not_make_are_refused(void **state)
{
    (void)state;
    static const struct {
        shoal_pass pass;
        shoal_form form;
        shoal_status code;
    } cases[] = {
        {SHOAL_PASS_RTN, {.bits = 1, .group = 16}, SHOAL_E_INVALID},
        {SHOAL_PASS_RTN, {.bits = 9, .group = 16}, SHOAL_E_INVALID},
        {SHOAL_PASS_GPTQ, {.bits = 4, .group = 48}, SHOAL_E_INVALID},
        {SHOAL_PASS_GPTQ, {.bits = 4, .group = 16, .rank = 1}, SHOAL_E_INVALID},
        {SHOAL_PASS_CODEBOOK, {.bits = 2, .group = 16}, SHOAL_E_INVALID},
        {SHOAL_PASS_CODEBOOK, {.bits = 5, .group = 16}, SHOAL_E_INVALID},
        {SHOAL_PASS_CODEBOOK, {.bits = 4, .group = 16, .rank = 1}, SHOAL_E_INVALID},
        {SHOAL_PASS_WANDA, {.bits = 16}, SHOAL_E_INVALID},
        {SHOAL_PASS_SVD, {.rank = 0}, SHOAL_E_INVALID},
        {SHOAL_PASS_SVD, {.rank = 5}, SHOAL_E_LIMIT},
        {SHOAL_PASS_WRP, {.bits = 16, .mask = SHOAL_MASK_BITMAP}, SHOAL_E_INVALID},
        {SHOAL_PASS_WRP, {.bits = 16, .mask = SHOAL_MASK_TWO_FOUR, .recover = 0.51}, SHOAL_E_LIMIT},
        {SHOAL_PASS_WANDA, {.bits = 16, .mask = SHOAL_MASK_BITMAP, .density = 1.01}, SHOAL_E_LIMIT},
        {SHOAL_PASS_JOINT, {.bits = 0, .rank = 1}, SHOAL_E_INVALID},
    };
    test_layer l;
    test_layer_init(&l, 4, 8, 1);
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_err err = SHOAL_ERR_INIT;
        shoal_compressed *c = NULL;
        assert_int_equal(shoal_compress(p, cases[i].pass, &cases[i].form, &c, &err), cases[i].code);
        assert_int_not_equal(err.text[0], 0);
    }
    test_layer_fini(&l);
}

static void test_a_density_keeps_exactly_its_count(void **state)
{
    (void)state;
    static const double densities[] = {0, 0.01, 0.5, 0.99, 1};
    test_layer l;
    test_layer_init(&l, 10, 20, 8);
    for (size_t i = 0; i < 100; i++) {
        l.w[i] = 0.5F; /* ties */
    }
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = make(&l);
    for (size_t i = 0; i < SHOAL_COUNT(densities); i++) {
        shoal_form f = {.bits = 16, .mask = SHOAL_MASK_BITMAP, .density = densities[i]};
        for (size_t pass = SHOAL_PASS_MAGNITUDE; pass <= SHOAL_PASS_SPARSEGPT; pass++) {
            SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
            assert_int_equal(shoal_compress(p, (shoal_pass)pass, &f, &c, NULL), SHOAL_OK);
            double per_row = pass == SHOAL_PASS_WANDA ? floor(densities[i] * 20 + 0.5) * 10
                                                      : floor(densities[i] * 200 + 0.5);
            assert_int_equal(shoal_compressed_bytes(c), 2 * (uint64_t)per_row + 10 * 3);
        }
    }
    test_layer_fini(&l);
}

static void test_failing_allocations_leak_nothing(void **state)
{
    (void)state;
    test_layer l;
    test_layer_init(&l, 5, 24, 2);
    for (size_t i = 0; i < SHOAL_COUNT(each); i++) {
        bool done = false;
        for (uint64_t n = 0; !done; n++) {
            SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = NULL;
            SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
            double error = 0;
            assert_true(n < 1000);
            shoal_mem_fail_at(n);
            shoal_status status = shoal_problem_new(l.n_rows, l.n_cols, l.w, l.h, &p, NULL);
            status = status == SHOAL_OK ? shoal_compress(p, each[i].pass, &each[i].form, &c, NULL)
                                        : status;
            status = status == SHOAL_OK ? shoal_compressed_error(p, c, &error) : status;
            shoal_mem_fail_at(UINT64_MAX);
            assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
            done = status == SHOAL_OK;
        }
    }
    test_layer_fini(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_of_passes_on_correlated_layers),
        cmocka_unit_test(test_own_levels_are_better_where_weights_are_uneven),
        cmocka_unit_test(test_own_levels_are_those_that_weigh_most),
        cmocka_unit_test(test_more_bytes_are_less_error),
        cmocka_unit_test(test_joint_is_best_at_equal_bytes),
        cmocka_unit_test(test_wrp_halves_the_error_of_two_four),
        cmocka_unit_test(test_half_of_32_loses_less_than_two_of_four),
        cmocka_unit_test(test_so_many_of_32_are_the_greatest),
        cmocka_unit_test(test_error_is_the_one_that_is_written_out),
        cmocka_unit_test(test_gptq_lies_between_the_best_codes_and_rounding),
        cmocka_unit_test(test_two_of_four_are_the_best_two_without_correlation),
        cmocka_unit_test(test_svd_of_many_rows_finds_the_best_directions),
        cmocka_unit_test(test_whitened_svd_finds_the_best_direction),
        cmocka_unit_test(test_every_byte_counts),
        cmocka_unit_test(test_singular_moments_do_no_harm),
        cmocka_unit_test(test_numbers_that_cannot_be_are_refused),
        cmocka_unit_test(test_forms_that_a_pass_does_not_make_are_refused),
        cmocka_unit_test(test_a_density_keeps_exactly_its_count),
        cmocka_unit_test(test_failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
