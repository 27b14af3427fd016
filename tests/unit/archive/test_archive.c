/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/archive/archive.h"
#include "common/archive/archive_internal.h"
#include "common/base/crc32c.h"
#include "common/base/mem.h"
#include "common/tensor/type.h"
#include "tests/support/random.h"
#include "tests/support/tiny_archive.h"

#include <math.h>
#include <string.h>

enum {
    CHANNELS = SHOAL_TINY_ARCHIVE_CHANNELS,
    HEAD = SHOAL_TINY_ARCHIVE_K + SHOAL_TINY_ARCHIVE_V,
    T = SHOAL_KV_BLOCK,
    UNIT_MAX = 1 << 15,
    HEADER = 20
};

typedef struct fixture {
    shoal_tiny_archive tiny;
    shoal_kernels kernels;
    shoal_archive *archive;
    shoal_archive_work *work;
    uint16_t pages[CHANNELS * T];
    uint16_t back[CHANNELS * T];
    uint8_t unit[UNIT_MAX];
    size_t n;
} fixture;

static fixture f;

static void open_tiny(size_t missing, float step)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    shoal_tiny_archive_init(&f.tiny, 3, missing, step);
    assert_int_equal(shoal_archive_plan_write(&f.tiny.plan, &file, NULL), SHOAL_OK);
    assert_int_equal(shoal_archive_open((const uint8_t *)file.data, file.length, &f.tiny.plan.model,
                                        &f.tiny.plan.shape, &f.archive, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_archive_work_new(f.archive, &f.work), SHOAL_OK);
    shoal_kernels_init(&f.kernels, 0);
    uint64_t rng = 11;
    for (size_t i = 0; i < SHOAL_COUNT(f.pages); i++) {
        f.pages[i] = shoal_f32_to_f16(2 * test_signed(&rng));
    }
    memset(f.back, 0, sizeof f.back);
}

static int close_tiny(void **state)
{
    (void)state;
    shoal_archive_free(f.archive);
    shoal_archive_work_free(f.work);
    memset(&f, 0, sizeof f);
    return 0;
}

static void encode(size_t group, size_t position)
{
    assert_int_equal(shoal_archive_encode(f.archive, &f.kernels, f.work, group, position,
                                          (const uint8_t *)f.pages, f.unit, &f.n),
                     SHOAL_OK);
    assert_true(f.n <= shoal_archive_group_at(f.archive, group).unit_bytes);
    assert_true(f.n <= sizeof f.unit);
}

static shoal_status decode(size_t group, size_t position, size_t n, shoal_err *err)
{
    return shoal_archive_decode(f.archive, &f.kernels, f.work, group, position, f.unit, n,
                                (uint8_t *)f.back, err);
}

/* Where channel i of token t lies in a page. */
static size_t page_at(size_t t, size_t i)
{
    size_t d = i % HEAD;
    size_t at = i / HEAD * HEAD * T;
    return at + (d < SHOAL_TINY_ARCHIVE_K ? d * T + t
                                          : SHOAL_TINY_ARCHIVE_K * T + t * SHOAL_TINY_ARCHIVE_V +
                                                d - SHOAL_TINY_ARCHIVE_K);
}

/* With all components, which are orthonormal, a token is as far off as its codes are: at most
 * 0.6 steps each, whatever turned its keys; f16 adds its own rounding. */
static void test_all_components_bring_tokens_back_to_within_a_step(void **state)
{
    (void)state;
    const size_t positions[] = {0, 32, 4096, 1U << 20};
    const float step = 0.25F;
    open_tiny(0, step);
    for (size_t i = 0; i < 2 * SHOAL_COUNT(positions); i++) {
        size_t group = i % 2;
        size_t n = shoal_archive_group_at(f.archive, group).n_channels;
        encode(group, positions[i / 2]);
        assert_int_equal(decode(group, positions[i / 2], f.n, NULL), SHOAL_OK);
        for (size_t t = 0; t < T; t++) {
            double sum = 0;
            for (size_t c = 0; c < n; c++) {
                double d = (double)shoal_f16_to_f32(f.pages[page_at(t, c)]) -
                           (double)shoal_f16_to_f32(f.back[page_at(t, c)]);
                sum += d * d;
            }
            assert_true(sqrt(sum / (double)n) < 0.601 * (double)step);
            assert_true(sum > 0 || (positions[i / 2] == 0 && t < SHOAL_ARCHIVE_FIRST));
        }
    }
}

/* The oracle: what is decoded is the mean and the components' multiples of a step, turned. Worked
 * out here in double, from the definition in plan.h. */
static void test_decoded_is_the_mean_and_whole_steps_of_components(void **state)
{
    (void)state;
    enum {
        POSITION = 96,
        MISSING = 20,
        N = CHANNELS,
        KEPT = N - MISSING
    };
    open_tiny(MISSING, 0.5F);
    encode(0, POSITION);
    assert_int_equal(decode(0, POSITION, f.n, NULL), SHOAL_OK);
    const shoal_archive_plan_group *g = &f.tiny.groups[0];
    size_t n_far = 0;
    for (size_t t = 0; t < T; t++) {
        double x[2][N];
        for (size_t i = 0; i < N; i++) {
            x[0][i] = (double)shoal_f16_to_f32(f.pages[page_at(t, i)]);
            x[1][i] = (double)shoal_f16_to_f32(f.back[page_at(t, i)]);
        }
        for (size_t i = 0; i < 2 * 4 * 4; i++) { /* sides, heads of both layers, pairs */
            double *v = &x[i / 16][i / 4 % 4 * HEAD + 2 + i % 4];
            double angle = (double)f.tiny.freq[i / 8 % 2 * 4 + i % 4] * (double)(POSITION + t);
            double a = v[0];
            double b = v[4];
            v[0] = a * cos(angle) + b * sin(angle);
            v[4] = b * cos(angle) - a * sin(angle);
        }
        for (size_t c = 0; c < KEPT; c++) {
            double y[2] = {0, 0};
            for (size_t i = 0; i < 2 * N; i++) {
                y[i / N] +=
                    (double)g->analysis[c * N + i % N] * (x[i / N][i % N] - (double)g->mean[i % N]);
            }
            double want = trunc(fabs(y[0]) / 0.5 + (double)SHOAL_ARCHIVE_ROUND) * 0.5;
            n_far += fabs(copysign(want, y[0]) - y[1]) > 0.01;
        }
    }
    /* One beside the border between two codes may fall to the other side. */
    assert_true(n_far <= 2);
}

static void test_every_tier_writes_and_reads_the_same_bits(void **state)
{
    (void)state;
    static const uint32_t masks[] = {SHOAL_CPU_AVX2, SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512,
                                     SHOAL_CPU_NEON, UINT32_MAX};
    open_tiny(5, 0.1F);
    encode(0, 64);
    assert_int_equal(decode(0, 64, f.n, NULL), SHOAL_OK);
    static uint8_t unit[UNIT_MAX];
    static uint16_t pages[CHANNELS * T];
    size_t n = f.n;
    memcpy(unit, f.unit, n);
    memcpy(pages, f.back, sizeof pages);
    /* The same on every kind of processor, so the number stands here. */
    assert_int_equal(shoal_crc32c(0, pages, sizeof pages), 0xf15842e0);
    for (size_t i = 0; i < SHOAL_COUNT(masks); i++) {
        shoal_kernels_init(&f.kernels, masks[i]);
        memset(f.back, 0, sizeof f.back);
        encode(0, 64);
        assert_int_equal(f.n, n);
        assert_memory_equal(f.unit, unit, n);
        assert_int_equal(decode(0, 64, n, NULL), SHOAL_OK);
        assert_memory_equal(f.back, pages, sizeof pages);
    }
}

static void test_first_tokens_come_back_bit_for_bit(void **state)
{
    (void)state;
    open_tiny(30, 1);
    encode(0, 0);
    assert_int_equal(decode(0, 0, f.n, NULL), SHOAL_OK);
    for (size_t i = 0; i < CHANNELS; i++) {
        for (size_t t = 0; t < SHOAL_ARCHIVE_FIRST; t++) {
            assert_int_equal(f.back[page_at(t, i)], f.pages[page_at(t, i)]);
        }
    }
    assert_memory_not_equal(f.back, f.pages, sizeof f.back);
}

/* Codes of far more than 31, and, in the third table, of anything but 0. */
static void test_codes_without_a_symbol_escape(void **state)
{
    (void)state;
    open_tiny(0, 0.1F);
    for (size_t i = 0; i < SHOAL_COUNT(f.pages); i += 7) {
        f.pages[i] = shoal_f32_to_f16(i % 2 ? 20.0F : -20.0F);
    }
    encode(0, 32);
    assert_int_equal(decode(0, 32, f.n, NULL), SHOAL_OK);
    for (size_t i = 0; i < SHOAL_COUNT(f.pages); i++) {
        assert_true(fabsf(shoal_f16_to_f32(f.pages[i]) - shoal_f16_to_f32(f.back[i])) < 0.2F);
    }
}

/* What is farther off than the greatest code is decoded as that, from whichever bytes. */
static void test_codes_end_at_the_farthest(void **state)
{
    (void)state;
    const int codes[] = {2046, 2047, 2048, 32767, -2046, -2047, -2048, -32768};
    open_tiny(0, 1);
    const archive_group *g = &f.archive->groups[0];
    static int16_t in[CHANNELS * T];
    static int16_t out[CHANNELS * T];
    for (size_t i = 0; i < SHOAL_COUNT(in); i++) {
        in[i] = (int16_t)codes[i % SHOAL_COUNT(codes)];
    }
    size_t n = shoal_archive_codes_put(f.archive, g, in, f.unit);
    assert_true(n <= shoal_archive_codes_bytes(CHANNELS) && n <= sizeof f.unit);
    assert_true(shoal_archive_codes_get(f.archive, g, f.unit, n, out));
    for (size_t i = 0; i < SHOAL_COUNT(in); i++) {
        int want = in[i] > 2047 ? 2047 : in[i] < -2047 ? -2047 : in[i];
        size_t c = i / T;
        assert_int_equal(out[(c / 2 * T + i % T) * 2 + c % 2], ARCHIVE_PARTS * want);
    }
}

/* Every code of every table, all frequencies from 1 on among them, in every state. */
static void test_codes_come_back_one_by_one(void **state)
{
    (void)state;
    open_tiny(1, 1);
    const archive_group *g = &f.archive->groups[0];
    size_t n_kept = CHANNELS - 1;
    static int16_t in[CHANNELS * T];
    static int16_t out[CHANNELS * T];
    uint64_t rng = 8;
    for (size_t round = 0; round < 20; round++) {
        for (size_t i = 0; i < n_kept * T; i++) {
            int drawn = (int)(test_signed(&rng) * 34);
            in[i] = (int16_t)(round % 2 ? drawn : (int)(i + round) % 65 - 32);
        }
        memset(out, 0x55, sizeof out);
        size_t n = shoal_archive_codes_put(f.archive, g, in, f.unit);
        assert_true(shoal_archive_codes_get(f.archive, g, f.unit, n, out));
        for (size_t i = 0; i < n_kept * T; i++) {
            const archive_table *table = &f.archive->tables[g->table[i / T]];
            bool small = in[i] >= -SHOAL_ARCHIVE_CODE_MAX && in[i] <= SHOAL_ARCHIVE_CODE_MAX;
            size_t symbol = small ? (size_t)(in[i] + SHOAL_ARCHIVE_CODE_MAX) : SHOAL_ARCHIVE_ESCAPE;
            int want = small && table->freq[symbol] ? table->values[symbol] : ARCHIVE_PARTS * in[i];
            size_t c = i / T;
            assert_int_equal(out[(c / 2 * T + i % T) * 2 + c % 2], want);
        }
        /* An odd component more is 0. */
        for (size_t t = 0; t < T; t++) {
            assert_int_equal(out[((n_kept - 1) / 2 * T + t) * 2 + 1], 0);
        }
    }
}

/* Rows are as fine as 32 bits allow, and no finer: what multiplies them at most stays inside. */
static void test_no_sum_of_a_product_leaves_32_bits(void **state)
{
    (void)state;
    open_tiny(1, 0.01F);
    for (size_t group = 0; group < f.archive->n_groups; group++) {
        const archive_group *g = &f.archive->groups[group];
        for (size_t i = 0; i < g->info.n_kept + g->info.n_channels; i++) {
            bool out = i < g->info.n_kept;
            size_t stride = out ? g->analysis_stride : g->synthesis_stride;
            const int16_t *row =
                out ? g->analysis + i * stride : g->synthesis + (i - g->info.n_kept) * stride;
            int64_t sum = 0;
            for (size_t j = 0; j < stride; j++) {
                sum += row[j] < 0 ? -row[j] : row[j];
            }
            sum *= out ? 4095 : ARCHIVE_PARTS * SHOAL_ARCHIVE_CODE_FAR;
            assert_true(sum <= INT32_MAX);
            assert_true(sum > INT32_MAX / 2);
        }
    }
}

static void test_greatest_numbers_stay_finite(void **state)
{
    (void)state;
    open_tiny(0, 4);
    for (size_t i = 0; i < SHOAL_COUNT(f.pages); i++) {
        f.pages[i] = i % 3 ? 0x7BFF : 0xFBFF;
    }
    encode(1, 32);
    assert_int_equal(decode(1, 32, f.n, NULL), SHOAL_OK);
    for (size_t i = 0; i < CHANNELS / 2 * T; i++) {
        assert_true((f.back[i] & 0x7C00) != 0x7C00);
    }
}

static void test_pages_that_are_no_numbers_are_refused(void **state)
{
    (void)state;
    open_tiny(0, 1);
    const uint16_t bad[] = {0x7C00, 0xFC00, 0x7E00};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        size_t at = i * (CHANNELS * T - 1) / 2;
        uint16_t was = f.pages[at];
        f.pages[at] = bad[i];
        assert_int_equal(shoal_archive_encode(f.archive, &f.kernels, f.work, 0, 0,
                                              (const uint8_t *)f.pages, f.unit, &f.n),
                         SHOAL_E_INVALID);
        f.pages[at] = was;
    }
}

typedef shoal_status decode_fn(size_t group, size_t position, size_t n, shoal_err *err);

static void refuse_changes(decode_fn *fn, size_t group, size_t position)
{
    for (size_t i = 0; i < f.n; i++) {
        shoal_err err = SHOAL_ERR_INIT;
        f.unit[i] ^= (uint8_t)(1U << i % 8);
        assert_int_equal(fn(group, position, f.n, &err), SHOAL_E_INVALID);
        assert_int_not_equal(err.text[0], 0);
        f.unit[i] ^= (uint8_t)(1U << i % 8);
        assert_int_equal(fn(group, position, i, NULL), SHOAL_E_INVALID);
    }
    f.unit[f.n] = 0;
    assert_int_equal(fn(group, position, f.n + 1, NULL), SHOAL_E_INVALID);
}

static void test_any_changed_byte_and_any_other_length_is_refused(void **state)
{
    (void)state;
    open_tiny(30, 0.5F);
    encode(1, 0);
    refuse_changes(decode, 1, 0);
    for (size_t i = 0; i < SHOAL_COUNT(f.back); i++) {
        assert_int_equal(f.back[i], 0);
    }
    assert_int_equal(decode(1, 0, f.n, NULL), SHOAL_OK);
}

static void mend(size_t n)
{
    uint32_t crc = shoal_crc32c(shoal_crc32c(0, f.unit, 16), f.unit + HEADER, n - HEADER);
    for (size_t i = 0; i < 4; i++) {
        f.unit[16 + i] = (uint8_t)(crc >> (8 * i));
    }
}

/* With the checksum put right, the coder itself notices codes that are cut or go on. */
static void test_codes_that_end_too_soon_or_late_are_refused(void **state)
{
    (void)state;
    open_tiny(30, 0.5F);
    encode(0, 32);
    shoal_err err = SHOAL_ERR_INIT;
    for (size_t n = HEADER; n < f.n; n++) {
        mend(n);
        assert_int_equal(decode(0, 32, n, NULL), SHOAL_E_INVALID);
    }
    f.unit[f.n] = 0;
    mend(f.n + 1);
    assert_int_equal(decode(0, 32, f.n + 1, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "codes"));
    mend(f.n);
    assert_int_equal(decode(0, 32, f.n, NULL), SHOAL_OK);
}

/* The last word's lowest bit: the same code is read, and its state ends beside where it began. */
static void test_states_that_do_not_end_where_they_began_are_refused(void **state)
{
    (void)state;
    open_tiny(30, 0.5F);
    encode(0, 32);
    f.unit[f.n - 2] ^= 1;
    mend(f.n);
    assert_int_equal(decode(0, 32, f.n, NULL), SHOAL_E_INVALID);
    f.unit[f.n - 2] ^= 1;
    mend(f.n);
    assert_int_equal(decode(0, 32, f.n, NULL), SHOAL_OK);
}

static void test_first_tokens_that_are_not_finite_are_refused(void **state)
{
    (void)state;
    open_tiny(30, 0.5F);
    encode(0, 0);
    f.unit[HEADER + 1] |= 0x7C;
    f.unit[HEADER] = 0;
    mend(f.n);
    assert_int_equal(decode(0, 0, f.n, NULL), SHOAL_E_INVALID);
}

static void test_another_place_group_or_basis_is_a_mismatch(void **state)
{
    (void)state;
    open_tiny(30, 0.5F);
    shoal_err err = SHOAL_ERR_INIT;
    encode(0, 32);
    assert_int_equal(decode(0, 64, f.n, &err), SHOAL_E_MISMATCH);
    assert_non_null(strstr(err.text, "token 32"));
    assert_non_null(strstr(err.text, "token 64"));
    assert_int_equal(decode(1, 32, f.n, NULL), SHOAL_E_MISMATCH);
    f.unit[4] ^= 1;
    mend(f.n);
    shoal_err_clear(&err);
    assert_int_equal(decode(0, 32, f.n, &err), SHOAL_E_MISMATCH);
    assert_non_null(strstr(err.text, "basis"));
}

/* --- newest tokens ---------------------------------------------------------------------------- */

static void encode_near(size_t group, size_t position)
{
    f.n = shoal_archive_near_bytes(f.archive, group);
    assert_true(f.n <= sizeof f.unit);
    assert_int_equal(shoal_archive_near_encode(f.archive, &f.kernels, f.work, group, position,
                                               (const uint8_t *)f.pages, f.unit),
                     SHOAL_OK);
}

static shoal_status decode_near(size_t group, size_t position, size_t n, shoal_err *err)
{
    return shoal_archive_near_decode(f.archive, &f.kernels, f.work, group, position, f.unit, n,
                                     (uint8_t *)f.back, err);
}

/* Half a 255th of what a row spans, and what scale and element lose in f16. */
static void test_near_tokens_come_back_to_within_half_a_step_of_their_row(void **state)
{
    (void)state;
    open_tiny(30, 1);
    encode_near(0, 32);
    assert_int_equal(decode_near(0, 32, f.n, NULL), SHOAL_OK);
    assert_memory_not_equal(f.back, f.pages, sizeof f.back);
    for (size_t i = 0; i < SHOAL_COUNT(f.pages); i++) {
        double x = (double)shoal_f16_to_f32(f.pages[i]);
        double y = (double)shoal_f16_to_f32(f.back[i]);
        if (!(fabs(x - y) <= 4.0 / 255 * (0.5 + 255 * 0x1p-11) + 0x1p-10)) {
            fail_msg("element %zu: %g came back as %g", i, x, y);
        }
    }
}

static void test_near_units_are_the_same_on_every_tier(void **state)
{
    (void)state;
    static const uint32_t masks[] = {SHOAL_CPU_AVX2, SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512,
                                     SHOAL_CPU_NEON, UINT32_MAX};
    open_tiny(30, 1);
    encode_near(0, 64);
    assert_int_equal(decode_near(0, 64, f.n, NULL), SHOAL_OK);
    static uint8_t unit[UNIT_MAX];
    static uint16_t pages[CHANNELS * T];
    memcpy(unit, f.unit, f.n);
    memcpy(pages, f.back, sizeof pages);
    /* The same on every kind of processor, so the number stands here. */
    assert_int_equal(shoal_crc32c(0, pages, sizeof pages), 0x40993647);
    for (size_t i = 0; i < SHOAL_COUNT(masks); i++) {
        shoal_kernels_init(&f.kernels, masks[i]);
        memset(f.back, 0, sizeof f.back);
        encode_near(0, 64);
        assert_memory_equal(f.unit, unit, f.n);
        assert_int_equal(decode_near(0, 64, f.n, NULL), SHOAL_OK);
        assert_memory_equal(f.back, pages, sizeof pages);
    }
}

static void test_any_changed_byte_and_any_other_length_of_a_near_unit_is_refused(void **state)
{
    (void)state;
    open_tiny(30, 0.5F);
    encode_near(1, 32);
    refuse_changes(decode_near, 1, 32);
    assert_int_equal(decode(1, 32, f.n, NULL), SHOAL_E_INVALID); /* of the other kind */
    assert_int_equal(decode_near(1, 64, f.n, NULL), SHOAL_E_MISMATCH);
    assert_int_equal(decode_near(0, 32, f.n, NULL), SHOAL_E_INVALID);
    for (size_t i = 0; i < SHOAL_COUNT(f.back); i++) {
        assert_int_equal(f.back[i], 0);
    }
    assert_int_equal(decode_near(1, 32, f.n, NULL), SHOAL_OK);
    encode(1, 32);
    assert_int_equal(decode_near(1, 32, f.n, NULL), SHOAL_E_INVALID);
}

/* All is as it should be but what the unit says that it is. */
static void test_a_near_unit_that_says_it_is_another_is_refused(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    uint8_t magic[4];
    open_tiny(30, 0.5F);
    encode(1, 32);
    memcpy(magic, f.unit, sizeof magic);
    encode_near(1, 32);
    memcpy(f.unit, magic, sizeof magic);
    mend(f.n);
    assert_int_equal(decode_near(1, 32, f.n, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "do not begin as a unit does"));
}

/* With the checksum put right: scales and minima that are none, at the first and the last row. */
static void test_near_scales_that_would_leave_f16_are_refused(void **state)
{
    (void)state;
    open_tiny(30, 0.5F);
    encode_near(1, 32);
    size_t n_k = SHOAL_TINY_ARCHIVE_K;
    size_t last_v = f.n - T * (4 + (size_t)SHOAL_TINY_ARCHIVE_V);
    const struct {
        size_t at;
        uint16_t half;
        shoal_status status;
    } cases[] = {
        {HEADER, 0x7C00, SHOAL_E_INVALID},
        {HEADER, 0x7E00, SHOAL_E_INVALID},
        {HEADER, 0x8000, SHOAL_E_INVALID},
        {HEADER, 0x8001, SHOAL_E_INVALID},
        {HEADER, 0x7BFF, SHOAL_OK},
        {HEADER + 2 * n_k - 2, 0xFBFF, SHOAL_E_INVALID},
        {HEADER + 2 * n_k, 0xFBFF, SHOAL_OK}, /* a minimum */
        {HEADER + 2 * n_k, 0xFC00, SHOAL_E_INVALID},
        {HEADER + 4 * n_k - 2, 0x7C00, SHOAL_E_INVALID},
        {last_v + 2 * T - 2, 0x8000, SHOAL_E_INVALID},
        {last_v + 4 * T - 2, 0xFE00, SHOAL_E_INVALID},
        {last_v + 4 * T - 2, 0x7BFF, SHOAL_OK},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        encode_near(1, 32);
        memset(f.back, 0xFF, sizeof f.back);
        f.unit[cases[i].at] = (uint8_t)cases[i].half;
        f.unit[cases[i].at + 1] = (uint8_t)(cases[i].half >> 8);
        mend(f.n);
        assert_int_equal(decode_near(1, 32, f.n, NULL), cases[i].status);
        for (size_t j = 0; j < CHANNELS / 2 * T; j++) {
            assert_int_equal((f.back[j] & 0x7C00) == 0x7C00, cases[i].status != SHOAL_OK);
        }
    }
}

static void test_near_pages_that_are_no_numbers_are_refused(void **state)
{
    (void)state;
    open_tiny(0, 1);
    f.pages[CHANNELS * T - 1] = 0x7C00;
    assert_int_equal(shoal_archive_near_encode(f.archive, &f.kernels, f.work, 0, 32,
                                               (const uint8_t *)f.pages, f.unit),
                     SHOAL_E_INVALID);
}

static void test_a_block_is_of_the_kind_that_is_asked_for(void **state)
{
    (void)state;
    static uint16_t pages[SHOAL_TINY_ARCHIVE_LAYERS * CHANNELS / 2 * T];
    static uint16_t back[SHOAL_COUNT(pages)];
    open_tiny(30, 0.5F);
    SHOAL_CLEANUP(shoal_free_cleanup)
    uint8_t *bytes = shoal_calloc(shoal_archive_block_bytes(f.archive), 1);
    assert_non_null(bytes);
    for (int near = 0; near < 2; near++) {
        size_t n = 0;
        assert_int_equal(shoal_archive_block_encode(f.archive, &f.kernels, f.work, 3, near,
                                                    (const uint8_t *)pages, bytes, &n),
                         SHOAL_OK);
        assert_true(n <= shoal_archive_block_bytes(f.archive));
        assert_true(!near || n == shoal_archive_block_bytes_near(f.archive));
        for (int as = 0; as < 2; as++) {
            assert_int_equal(shoal_archive_block_decode(f.archive, &f.kernels, f.work, 3, as, bytes,
                                                        n, (uint8_t *)back, NULL),
                             as == near ? SHOAL_OK : SHOAL_E_INVALID);
        }
    }
}

static void test_the_last_tokens_are_not_archived(void **state)
{
    (void)state;
    const size_t cases[][2] = {{0, 0},   {128, 0}, {159, 0},  {160, 1},
                               {191, 1}, {192, 2}, {1024, 28}};
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        assert_int_equal(shoal_archive_n_blocks(cases[i][0]), cases[i][1]);
    }
}

/* A code as often as its table says. */
static int draw_code(const archive_table *table, uint64_t *rng)
{
    uint32_t slot = (uint32_t)(test_unit(rng) * ARCHIVE_SCALE);
    size_t symbol = 0;
    while (symbol < SHOAL_ARCHIVE_ESCAPE && slot >= table->start[symbol] + table->freq[symbol]) {
        symbol++;
    }
    return symbol == SHOAL_ARCHIVE_ESCAPE ? 1000 : (int)symbol - SHOAL_ARCHIVE_CODE_MAX;
}

static void test_likely_bytes_are_those_of_codes_as_likely_as_the_tables_say(void **state)
{
    (void)state;
    open_tiny(4, 0.25F);
    uint64_t rng = 5;
    double n = 0;
    for (size_t round = 0; round < 20; round++) {
        for (size_t g = 0; g < f.archive->n_groups; g++) {
            const archive_group *group = &f.archive->groups[g];
            int16_t codes[CHANNELS * T];
            for (size_t i = 0; i < group->info.n_kept * T; i++) {
                codes[i] = (int16_t)draw_code(&f.archive->tables[group->table[i / T]], &rng);
            }
            n += 4.0 + HEADER + (double)shoal_archive_codes_put(f.archive, group, codes, f.unit);
        }
    }
    double likely = 20 * shoal_archive_block_bytes_likely(f.archive);
    if (!(fabs(n - likely) < 0.02 * n)) {
        fail_msg("%.0f bytes, %.0f were likely", n, likely);
    }
    assert_true(likely / 20 < (double)shoal_archive_block_bytes(f.archive));
}

/* A clock that ticks when it is read. */
static uint64_t tick(void *ctx)
{
    uint64_t *now = ctx;
    return *now += 320;
}

static void test_speeds_are_of_a_token_by_the_clock_that_is_given(void **state)
{
    (void)state;
    open_tiny(4, 0.25F);
    uint64_t now = 0;
    const shoal_clock clock = {.now_ns = tick, .ctx = &now};
    double encode_us = 0;
    double decode_us = 0;
    assert_int_equal(shoal_archive_measure(f.archive, &f.kernels, &clock, &encode_us, &decode_us),
                     SHOAL_OK);
    assert_true(encode_us == 0.01 && decode_us == 0.01);
    for (uint64_t i = 0; i < 8; i++) {
        shoal_mem_fail_at(i);
        shoal_status status =
            shoal_archive_measure(f.archive, &f.kernels, &clock, &encode_us, &decode_us);
        shoal_mem_fail_at(UINT64_MAX);
        assert_int_equal(status, SHOAL_E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_all_components_bring_tokens_back_to_within_a_step,
                                  close_tiny),
        cmocka_unit_test_teardown(test_decoded_is_the_mean_and_whole_steps_of_components,
                                  close_tiny),
        cmocka_unit_test_teardown(test_every_tier_writes_and_reads_the_same_bits, close_tiny),
        cmocka_unit_test_teardown(test_first_tokens_come_back_bit_for_bit, close_tiny),
        cmocka_unit_test_teardown(test_codes_without_a_symbol_escape, close_tiny),
        cmocka_unit_test_teardown(test_codes_end_at_the_farthest, close_tiny),
        cmocka_unit_test_teardown(test_codes_come_back_one_by_one, close_tiny),
        cmocka_unit_test_teardown(test_no_sum_of_a_product_leaves_32_bits, close_tiny),
        cmocka_unit_test_teardown(test_greatest_numbers_stay_finite, close_tiny),
        cmocka_unit_test_teardown(test_pages_that_are_no_numbers_are_refused, close_tiny),
        cmocka_unit_test_teardown(test_any_changed_byte_and_any_other_length_is_refused,
                                  close_tiny),
        cmocka_unit_test_teardown(test_codes_that_end_too_soon_or_late_are_refused, close_tiny),
        cmocka_unit_test_teardown(test_states_that_do_not_end_where_they_began_are_refused,
                                  close_tiny),
        cmocka_unit_test_teardown(test_first_tokens_that_are_not_finite_are_refused, close_tiny),
        cmocka_unit_test_teardown(test_another_place_group_or_basis_is_a_mismatch, close_tiny),
        cmocka_unit_test_teardown(test_near_tokens_come_back_to_within_half_a_step_of_their_row,
                                  close_tiny),
        cmocka_unit_test_teardown(test_near_units_are_the_same_on_every_tier, close_tiny),
        cmocka_unit_test_teardown(
            test_any_changed_byte_and_any_other_length_of_a_near_unit_is_refused, close_tiny),
        cmocka_unit_test_teardown(test_a_near_unit_that_says_it_is_another_is_refused, close_tiny),
        cmocka_unit_test_teardown(test_near_scales_that_would_leave_f16_are_refused, close_tiny),
        cmocka_unit_test_teardown(test_near_pages_that_are_no_numbers_are_refused, close_tiny),
        cmocka_unit_test_teardown(test_a_block_is_of_the_kind_that_is_asked_for, close_tiny),
        cmocka_unit_test(test_the_last_tokens_are_not_archived),
        cmocka_unit_test_teardown(test_likely_bytes_are_those_of_codes_as_likely_as_the_tables_say,
                                  close_tiny),
        cmocka_unit_test_teardown(test_speeds_are_of_a_token_by_the_clock_that_is_given,
                                  close_tiny),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
