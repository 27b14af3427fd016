/* SPDX-License-Identifier: Apache-2.0
 *
 * A basis from its file. Every number is hostile until checked: what is decoded with it later must
 * stay finite, and the tables must be such that no state of the coder leaves its range.
 */
#include "common/archive/archive_internal.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/kernels/math.h"
#include "common/kv/kv_move.h"
#include "common/tensor/gguf.h"

#include <stdio.h>
#include <string.h>

/* Bounds that leave every sum of the transform finite, by many orders. */
#define NUMBER_MAX 1e6F
#define STEP_MIN   1e-6F

enum {
    /* Times the greatest whole channel, and times that of a component, just below 2^31. */
    ANALYSIS_MOST = 1 << 19,
    SYNTHESIS_MOST = 1 << 16
};

typedef struct reader {
    const shoal_gguf *gguf;
    shoal_err *err;
} reader;

/* --- numbers ---------------------------------------------------------------------------------- */

static shoal_status check_string(const reader *r, const char *key, const char *want,
                                 shoal_status code)
{
    shoal_str got;
    SHOAL_TRY(shoal_gguf_get_str(r->gguf, key, &got, r->err));
    if (got.length == strlen(want) && memcmp(got.data, want, got.length) == 0) {
        return SHOAL_OK;
    }
    return shoal_err_set(r->err, code, "archive basis: %s is \"%.*s\", wanted is \"%.90s\"", key,
                         (int)SHOAL_MIN(got.length, (size_t)90), got.data, want);
}

/* An array of n numbers, of the kind named. */
static shoal_status check_array(const reader *r, const char *key, shoal_gguf_kind kind,
                                size_t n_min, size_t n_max, size_t *ret_n)
{
    shoal_gguf_kind got = SHOAL_GGUF_U8;
    size_t n = 0;
    SHOAL_TRY(shoal_gguf_get_array(r->gguf, key, &got, &n, r->err));
    if (got != kind || n < n_min || n > n_max) {
        return shoal_err_set(r->err, SHOAL_E_INVALID,
                             "archive basis: %s has %zu elements, expected are %zu to %zu %s", key,
                             n, n_min, n_max, kind == SHOAL_GGUF_F32 ? "f32" : "i32");
    }
    *ret_n = n;
    return SHOAL_OK;
}

static shoal_status bad_number(const reader *r, const char *what, size_t i, double value,
                               double low, double high)
{
    return shoal_err_set(r->err, SHOAL_E_INVALID,
                         "archive basis: %s: element %zu is %g, outside %g to %g", what, i, value,
                         low, high);
}

/* Element i of an array of i32, checked. */
static shoal_status get_int(const reader *r, const char *key, size_t i, int64_t low, int64_t high,
                            size_t *ret)
{
    int64_t value = shoal_gguf_array_i64(r->gguf, key, i);
    if (value < low || value > high) {
        return bad_number(r, key, i, (double)value, (double)low, (double)high);
    }
    *ret = (size_t)value;
    return SHOAL_OK;
}

static shoal_status get_real(const reader *r, const char *key, size_t i, double high, double *ret)
{
    double value = shoal_gguf_array_f64(r->gguf, key, i);
    if (!(value >= -high && value <= high)) {
        return bad_number(r, key, i, value, -high, high);
    }
    *ret = value;
    return SHOAL_OK;
}

/* A tensor "group.N.NAME" of F32, [n_rows][n]. n 0: whatever it has, up to n_max. */
static shoal_status find_floats(const reader *r, size_t group, const char *name, size_t n_rows,
                                size_t n, const uint8_t **ret_data)
{
    char full[SHOAL_GGUF_NAME_MAX];
    (void)snprintf(full, sizeof full, "group.%zu.%s", group, name);
    const shoal_gguf_tensor *t = shoal_gguf_find_tensor(r->gguf, full);
    if (!t || t->type != SHOAL_TYPE_F32 || t->dims[0] != n || t->dims[1] != n_rows ||
        t->n_dims > 2) {
        return shoal_err_set(r->err, SHOAL_E_INVALID,
                             "archive basis: tensor %s is missing or not F32 of %zu times %zu",
                             full, n_rows, n);
    }
    *ret_data = t->data;
    return SHOAL_OK;
}

static float float_at(const uint8_t *data, size_t i)
{
    float value = 0;
    memcpy(&value, data + i * sizeof value, sizeof value);
    return value;
}

/* n numbers as whole ones and what 1 counts, as fine as they can be while their sizes add up to
 * `most`: times what is at most 2^31 / most, no sum leaves 32 bits. */
static float round_row(size_t n, const double *x, double most, int16_t *ret)
{
    double sum = 0;
    double top = 0;
    for (size_t i = 0; i < n; i++) {
        double size = x[i] < 0 ? -x[i] : x[i];
        sum += size;
        top = size > top ? size : top;
    }
    if (top <= 0) {
        return 0;
    }
    /* Rounding adds half to each at most. */
    double scale = SHOAL_MIN((most - (double)n / 2) / sum, INT16_MAX / top);
    for (size_t i = 0; i < n; i++) {
        ret[i] = (int16_t)(x[i] * scale + (x[i] < 0 ? -0.5 : 0.5));
    }
    return (float)(1 / scale);
}

/* --- parts ------------------------------------------------------------------------------------ */

static shoal_status read_rotation(const reader *r, shoal_archive *a)
{
    size_t n = 0;
    size_t halves = 0;
    SHOAL_TRY(check_array(r, "shoal.archive.rotated", SHOAL_GGUF_I32, 3, 3, &n));
    SHOAL_TRY(get_int(r, "shoal.archive.rotated", 0, 0, (int64_t)a->k_dim, &a->n_rot));
    SHOAL_TRY(
        get_int(r, "shoal.archive.rotated", 1, 0, (int64_t)(a->k_dim - a->n_rot), &a->rot_at));
    SHOAL_TRY(get_int(r, "shoal.archive.rotated", 2, 0, 1, &halves));
    a->halves = halves == 1;
    if (a->n_rot % 2 != 0) {
        return bad_number(r, "shoal.archive.rotated", 0, (double)a->n_rot, 0, (double)a->k_dim);
    }
    size_t pairs = a->n_rot / 2;
    size_t n_freq = SHOAL_ARCHIVE_ROPES * pairs;
    SHOAL_TRY(check_array(r, "shoal.archive.freq", SHOAL_GGUF_F32, n_freq, n_freq, &n));
    SHOAL_TRY(check_array(r, "shoal.archive.ropes", SHOAL_GGUF_I32, a->n_layers, a->n_layers, &n));
    a->freq = shoal_calloc(n_freq, sizeof *a->freq);
    a->turns = shoal_calloc(n_freq * ARCHIVE_TOKENS * 2, sizeof *a->turns);
    a->rope_of = shoal_calloc(a->n_layers, 1);
    if (!a->freq || !a->turns || !a->rope_of) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < n_freq; i++) {
        SHOAL_TRY(get_real(r, "shoal.archive.freq", i, 1, &a->freq[i]));
    }
    for (size_t i = 0; i < n_freq * ARCHIVE_TOKENS; i++) {
        size_t t = i % ARCHIVE_TOKENS;
        double *turns = a->turns + (i - t) * 2;
        double angle = a->freq[i / ARCHIVE_TOKENS] * (double)t;
        shoal_sincosd(angle, &turns[ARCHIVE_TOKENS + t], &turns[t]);
    }
    for (size_t i = 0; i < a->n_layers; i++) {
        size_t rope = 0;
        SHOAL_TRY(get_int(r, "shoal.archive.ropes", i, 0, SHOAL_ARCHIVE_ROPES - 1, &rope));
        a->rope_of[i] = (uint8_t)rope;
    }
    return SHOAL_OK;
}

static shoal_status read_table(const reader *r, size_t index, archive_table *table)
{
    size_t at = 0;
    for (size_t s = 0; s < SHOAL_ARCHIVE_SYMBOLS; s++) {
        size_t i = index * SHOAL_ARCHIVE_SYMBOLS + s;
        size_t freq = 0;
        double value = 0;
        /* No symbol has all of a table: its frequency would not fit a slot. */
        SHOAL_TRY(get_int(r, "shoal.archive.frequencies", i, s == SHOAL_ARCHIVE_ESCAPE ? 1 : 0,
                          ARCHIVE_SCALE - 1, &freq));
        SHOAL_TRY(get_real(r, "shoal.archive.values", i, SHOAL_ARCHIVE_SYMBOLS, &value));
        if (freq > ARCHIVE_SCALE - at) {
            at = ARCHIVE_SCALE + 1;
            break;
        }
        table->freq[s] = (uint16_t)freq;
        table->start[s] = (uint16_t)at;
        double parts = value * ARCHIVE_PARTS;
        table->values[s] = (int16_t)(parts + (parts < 0 ? -0.5 : 0.5));
        table->inverse[s] = freq > 1 ? UINT64_MAX / freq + 1 : UINT64_MAX;
        for (size_t f = 0; f < freq; f++) {
            table->slots[at++] = (uint32_t)(s << 24 | f << 12 | freq);
        }
    }
    return at == ARCHIVE_SCALE
               ? SHOAL_OK
               : shoal_err_set(r->err, SHOAL_E_INVALID,
                               "archive basis: the frequencies of table %zu do not add up to %d",
                               index, (int)ARCHIVE_SCALE);
}

static shoal_status read_tables(const reader *r, shoal_archive *a)
{
    size_t n = 0;
    size_t n_values = 0;
    SHOAL_TRY(check_array(r, "shoal.archive.frequencies", SHOAL_GGUF_I32, SHOAL_ARCHIVE_SYMBOLS,
                          (size_t)SHOAL_ARCHIVE_TABLES_MAX * SHOAL_ARCHIVE_SYMBOLS, &n));
    n -= n % SHOAL_ARCHIVE_SYMBOLS;
    SHOAL_TRY(check_array(r, "shoal.archive.values", SHOAL_GGUF_F32, n, n, &n_values));
    a->n_tables = n / SHOAL_ARCHIVE_SYMBOLS;
    a->tables = shoal_calloc(a->n_tables, sizeof *a->tables);
    if (!a->tables) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < a->n_tables; i++) {
        SHOAL_TRY(read_table(r, i, &a->tables[i]));
    }
    return SHOAL_OK;
}

static bool all_within(const uint8_t *data, size_t n)
{
    bool fine = true;
    for (size_t i = 0; i < n; i++) {
        float x = float_at(data, i);
        fine = fine && x >= -NUMBER_MAX && x <= NUMBER_MAX;
    }
    return fine;
}

static shoal_status read_matrices(const reader *r, size_t group, const uint8_t *steps,
                                  archive_group *g)
{
    size_t n = g->info.n_channels;
    size_t n_kept = g->info.n_kept;
    const uint8_t *mean = NULL;
    const uint8_t *analysis = NULL;
    const uint8_t *synthesis = NULL;
    SHOAL_TRY(find_floats(r, group, "mean", 1, n, &mean));
    SHOAL_TRY(find_floats(r, group, "analysis", n_kept, n, &analysis));
    SHOAL_TRY(find_floats(r, group, "synthesis", n_kept, n, &synthesis));
    if (!all_within(mean, n) || !all_within(analysis, n_kept * n) ||
        !all_within(synthesis, n_kept * n)) {
        return shoal_err_set(r->err, SHOAL_E_INVALID,
                             "archive basis: group %zu has numbers that are none or above %g",
                             group, (double)NUMBER_MAX);
    }
    SHOAL_CLEANUP(shoal_free_cleanup) double *row = shoal_calloc(n, sizeof *row);
    g->analysis_stride = n + n % 2;
    g->synthesis_stride = n_kept + n_kept % 2;
    g->analysis = shoal_calloc_aligned(n_kept * g->analysis_stride, sizeof *g->analysis);
    g->synthesis = shoal_calloc_aligned(n * g->synthesis_stride, sizeof *g->synthesis);
    g->analysis_unit = shoal_calloc(n_kept, sizeof *g->analysis_unit);
    g->synthesis_unit = shoal_calloc(n, sizeof *g->synthesis_unit);
    g->mean = shoal_calloc(n, sizeof *g->mean);
    if (!row || !g->analysis || !g->synthesis || !g->analysis_unit || !g->synthesis_unit ||
        !g->mean) {
        return SHOAL_E_NOMEM;
    }
    for (size_t c = 0; c < n_kept; c++) {
        for (size_t i = 0; i < n; i++) {
            row[i] = (double)float_at(analysis, c * n + i) / (double)float_at(steps, c);
        }
        g->analysis_unit[c] =
            round_row(n, row, ANALYSIS_MOST, g->analysis + c * g->analysis_stride);
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t c = 0; c < n_kept; c++) {
            row[c] = (double)float_at(synthesis, c * n + i) * (double)float_at(steps, c);
        }
        g->synthesis_unit[i] =
            round_row(n_kept, row, SYNTHESIS_MOST, g->synthesis + i * g->synthesis_stride) /
            ARCHIVE_PARTS;
        g->mean[i] = float_at(mean, i);
    }
    return SHOAL_OK;
}

static shoal_status read_group(const reader *r, shoal_archive *a, size_t group)
{
    archive_group *g = &a->groups[group];
    char key[SHOAL_GGUF_NAME_MAX];
    const uint8_t *steps = NULL;
    (void)snprintf(key, sizeof key, "shoal.archive.group.%zu.tables", group);
    SHOAL_TRY(check_array(r, key, SHOAL_GGUF_I32, 1, g->info.n_channels, &g->info.n_kept));
    size_t n_kept = g->info.n_kept;
    SHOAL_TRY(find_floats(r, group, "step", 1, n_kept, &steps));
    g->table = shoal_calloc(n_kept, 1);
    if (!g->table) {
        return SHOAL_E_NOMEM;
    }
    for (size_t c = 0; c < n_kept; c++) {
        size_t table = 0;
        SHOAL_TRY(get_int(r, key, c, 0, (int64_t)a->n_tables - 1, &table));
        g->table[c] = (uint8_t)table;
        float step = float_at(steps, c);
        if (!(step >= STEP_MIN && step <= NUMBER_MAX)) {
            return bad_number(r, "step", c, (double)step, (double)STEP_MIN, (double)NUMBER_MAX);
        }
    }
    SHOAL_TRY(read_matrices(r, group, steps, g));
    a->n_kept_max = SHOAL_MAX(a->n_kept_max, n_kept);
    a->n_channels_max = SHOAL_MAX(a->n_channels_max, g->info.n_channels);
    g->info.unit_bytes = ARCHIVE_HEADER_BYTES +
                         SHOAL_ARCHIVE_FIRST * sizeof(uint16_t) * g->info.n_channels +
                         shoal_archive_codes_bytes(n_kept);
    return SHOAL_OK;
}

static shoal_status read_groups(const reader *r, const shoal_kv_shape *shape, shoal_archive *a)
{
    static const char key[] = "shoal.archive.layers";
    size_t n_groups = 0;
    size_t at = 0;
    size_t per_layer = shoal_archive_layer_channels(shape);
    SHOAL_TRY(check_array(r, key, SHOAL_GGUF_I32, 1,
                          SHOAL_MIN(a->n_layers, (size_t)SHOAL_ARCHIVE_GROUPS_MAX), &n_groups));
    a->groups = shoal_calloc(n_groups, sizeof *a->groups);
    if (!a->groups) {
        return SHOAL_E_NOMEM;
    }
    a->n_groups = n_groups;
    for (size_t i = 0; i < n_groups; i++) {
        shoal_archive_group *info = &a->groups[i].info;
        size_t most = SHOAL_MIN(a->n_layers - at, SHOAL_ARCHIVE_CHANNELS_MAX / per_layer);
        SHOAL_TRY(get_int(r, key, i, 1, (int64_t)most, &info->n_layers));
        info->first_layer = at;
        info->n_channels = info->n_layers * per_layer;
        info->page_bytes = info->n_channels * ARCHIVE_TOKENS * sizeof(uint16_t);
        at += info->n_layers;
        SHOAL_TRY(read_group(r, a, i));
    }
    return at == a->n_layers
               ? SHOAL_OK
               : shoal_err_set(r->err, SHOAL_E_INVALID,
                               "archive basis: its groups have %zu layers of %zu", at, a->n_layers);
}

/* --- whole ------------------------------------------------------------------------------------ */

static shoal_status read_all(const reader *r, const shoal_hash *model, const shoal_kv_shape *shape,
                             shoal_archive *a)
{
    char hex[SHOAL_HASH_HEX];
    char form[SHOAL_KV_FORM_BYTES];
    uint64_t version = 0;
    shoal_kv_shape f16 = *shape;
    f16.type = SHOAL_KV_F16;
    shoal_kv_form(&f16, form);
    shoal_hash_hex(model, hex);
    SHOAL_TRY(check_string(r, "general.architecture", ARCHIVE_ARCHITECTURE, SHOAL_E_INVALID));
    SHOAL_TRY(shoal_gguf_get_u64(r->gguf, "shoal.archive.version", &version, r->err));
    if (version != ARCHIVE_VERSION) {
        return shoal_err_set(r->err, SHOAL_E_UNSUPPORTED,
                             "archive basis: version %llu; this program reads version %d: make it "
                             "anew with shoal-forge kv-calibrate",
                             (unsigned long long)version, (int)ARCHIVE_VERSION);
    }
    SHOAL_TRY(check_string(r, "shoal.archive.model", hex, SHOAL_E_MISMATCH));
    SHOAL_TRY(check_string(r, "shoal.archive.form", form, SHOAL_E_MISMATCH));
    a->n_layers = shape->n_layers;
    a->n_heads = shape->n_kv_heads;
    a->k_dim = shape->k_dim;
    a->v_dim = shape->v_dim;
    SHOAL_TRY(read_rotation(r, a));
    SHOAL_TRY(read_tables(r, a));
    return read_groups(r, shape, a);
}

shoal_status shoal_archive_open(const uint8_t *bytes, size_t n, const shoal_hash *model,
                                const shoal_kv_shape *shape, shoal_archive **ret_archive,
                                shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_archive_freep) shoal_archive *a = shoal_calloc(1, sizeof *a);
    if (!a) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for an archive basis");
    }
    if (shape->hadamard) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "archive basis: what is archived has the rotation of keys taken back, "
                             "which KV multiplied by Hadamard matrices does not show: run without "
                             "the one or the other");
    }
    SHOAL_TRY(shoal_gguf_open(bytes, n, &gguf, err));
    SHOAL_TRY(shoal_hash_of(bytes, n, &a->hash));
    reader r = {.gguf = gguf, .err = err};
    shoal_status status = read_all(&r, model, shape, a);
    if (status == SHOAL_E_NOMEM) {
        return shoal_err_set(err, status, "no memory for an archive basis of %zu bytes", n);
    }
    SHOAL_TRY(status);
    *ret_archive = SHOAL_STEAL(a);
    return SHOAL_OK;
}

shoal_status shoal_archive_read(const char *path, const shoal_hash *model,
                                const shoal_kv_shape *shape, shoal_archive **ret_archive,
                                shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_TRY(shoal_file_read(path, SHOAL_ARCHIVE_BASIS_BYTES_MAX, &file, err));
    shoal_status status =
        shoal_archive_open((const uint8_t *)file.data, file.length, model, shape, ret_archive, err);
    if (status != SHOAL_OK) {
        shoal_err_prefix(err, "%s", path);
    }
    return status;
}

void shoal_archive_free(shoal_archive *archive)
{
    if (!archive) {
        return;
    }
    for (size_t i = 0; i < archive->n_groups; i++) {
        archive_group *g = &archive->groups[i];
        shoal_free(g->analysis);
        shoal_free(g->synthesis);
        shoal_free(g->analysis_unit);
        shoal_free(g->synthesis_unit);
        shoal_free(g->mean);
        shoal_free(g->table);
    }
    shoal_free(archive->groups);
    shoal_free(archive->tables);
    shoal_free(archive->freq);
    shoal_free(archive->turns);
    shoal_free(archive->rope_of);
    shoal_free(archive);
}

const shoal_hash *shoal_archive_hash(const shoal_archive *archive)
{
    return &archive->hash;
}

size_t shoal_archive_n_groups(const shoal_archive *archive)
{
    return archive->n_groups;
}

shoal_archive_group shoal_archive_group_at(const shoal_archive *archive, size_t group)
{
    SHOAL_ASSERT(group < archive->n_groups);
    return archive->groups[group].info;
}

size_t shoal_archive_n_blocks(size_t n_tokens)
{
    return n_tokens > SHOAL_ARCHIVE_LAST ? (n_tokens - SHOAL_ARCHIVE_LAST) / ARCHIVE_TOKENS : 0;
}
