/* SPDX-License-Identifier: Apache-2.0 */
#include "common/train/recover_internal.h"

#include "common/base/mem.h"
#include "common/kernels/math.h"
#include "common/weight/sides.h"
#include "common/weight/weight.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    EIGHTHS = 8,    /* of the range of codes */
    SCALE_MAX = 20, /* of t: a scale changes by e^2 at most */
    PIECE = 256     /* elements that are rounded at a time: whole blocks of every type */
};

/* How far u may lie beyond the last code, and the share of its way from a code that it begins with.
 */
#define CELL  0.499F
#define HALF  0.5F
#define TENTH 0.1F

/* --- rows ------------------------------------------------------------------------------------- */

static float clamp(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}

static bool is_kept(const shoal_recover_item *item, size_t row, size_t col)
{
    size_t row_bytes = (item->value->n_cols + 7) / 8;
    return !item->kept || (item->kept[row * row_bytes + col / 8] >> col % 8 & 1);
}

/* s of a group as f16. */
static uint16_t scale_of(const shoal_recover *r, const shoal_recover_item *item, size_t group)
{
    float t = clamp(r->numbers->data[item->scale->offset + group], -SCALE_MAX, SCALE_MAX);
    uint16_t half = shoal_f32_to_f16(item->begin[group] * shoal_expf(TENTH * t));
    return (half & 0x7C00u) == 0x7C00u ? (uint16_t)((half & 0x8000u) | 0x7BFFu) : half;
}

void shoal_recover_codes_of(const shoal_recover *r, const shoal_recover_item *item, size_t row,
                            int8_t *ret_codes, uint16_t *ret_scales)
{
    size_t k = item->value->n_cols;
    const float *u = r->numbers->data + item->number->offset + row * k;
    float low = (float)item->low;
    float high = (float)item->high;
    for (size_t j = 0; j < k; j++) {
        bool kept = is_kept(item, row, j);
        ret_codes[j] = kept ? (int8_t)clamp(rintf(u[j] * item->unit), low, high) : 0;
    }
    for (size_t g = 0; g < k / item->group; g++) {
        ret_scales[g] = scale_of(r, item, row * (k / item->group) + g);
    }
}

/* --- values and gradients, a row at a time -----------------------------------------------------
 */

/* A group of a row: its columns begin at `col`. */
static void round_group(const shoal_recover_item *item, size_t row, size_t col, float s, float *u,
                        float *w)
{
    float low = (float)item->low;
    float high = (float)item->high;
    for (size_t j = 0; j < item->group; j++) {
        float x = clamp(u[j] * item->unit, low - CELL, high + CELL);
        bool kept = is_kept(item, row, col + j);
        u[j] = kept ? x / item->unit : 0;
        w[j] = s * (kept ? rintf(u[j] * item->unit) + 0.0F : 0.0F); /* no code is -0 */
    }
}

static void round_codes(const shoal_recover *r, const shoal_recover_item *item)
{
    size_t k = item->value->n_cols;
    size_t n_groups = k / item->group;
    for (size_t row = 0; row < item->value->n_rows; row++) {
        for (size_t g = 0; g < n_groups; g++) {
            size_t at = row * k + g * item->group;
            float s = shoal_f16_to_f32(scale_of(r, item, row * n_groups + g));
            round_group(item, row, g * item->group, s, r->numbers->data + item->number->offset + at,
                        r->model->data + item->value->offset + at);
        }
    }
}

void shoal_recover_plain_values(const shoal_recover *r, const shoal_recover_item *item,
                                size_t begin, size_t n, float *ret_w)
{
    const float *u = r->numbers->data + item->number->offset + begin;
    for (size_t i = 0; i < n; i++) {
        ret_w[i] = item->begin[begin + i] + item->unit * u[i];
    }
}

static void round_one(void *ctx, size_t part_i, size_t worker_i)
{
    (void)worker_i;
    const shoal_recover *r = ctx;
    const shoal_recover_item *item = &r->items[part_i];
    float *w = r->model->data + item->value->offset;
    size_t n = item->value->n_rows * item->value->n_cols;
    if (item->form == SHOAL_RECOVER_CODES) {
        round_codes(r, item);
        return;
    }
    shoal_recover_plain_values(r, item, 0, n, w);
    if (item->form == SHOAL_RECOVER_TYPE) {
        shoal_type type = item->tensor->type;
        uint8_t blocks[PIECE * sizeof(float)];
        for (size_t i = 0; i < n; i += PIECE) {
            size_t n_piece = SHOAL_MIN(n - i, (size_t)PIECE);
            /* What is too large for the type stays as it is, and is refused when it is written. */
            if (shoal_weight_encode(type, w + i, n_piece, blocks, NULL) == SHOAL_OK) {
                shoal_weight_decode(type, blocks, n_piece, w + i);
            }
        }
    }
}

void shoal_recover_round(shoal_recover *recover, shoal_pool *pool)
{
    shoal_pool_run(pool, round_one, recover, recover->n_items);
}

/* d u = unit s d w; d t = s / 10 sum c d w, where s c is the value. */
static void project_codes(const shoal_recover *r, const shoal_recover_item *item)
{
    size_t k = item->value->n_cols;
    size_t n_groups = k / item->group;
    for (size_t group = 0; group < item->value->n_rows * n_groups; group++) {
        size_t row = group / n_groups;
        size_t col = group % n_groups * item->group;
        const float *dw = r->in + item->value->offset + row * k + col;
        const float *u = r->numbers->data + item->number->offset + row * k + col;
        float *du = r->out + item->number->offset + row * k + col;
        float s = shoal_f16_to_f32(scale_of(r, item, group));
        float sum = 0;
        for (size_t j = 0; j < item->group; j++) {
            du[j] = is_kept(item, row, col + j) ? item->unit * s * dw[j] : 0;
            sum += s * rintf(u[j] * item->unit) * dw[j];
        }
        r->out[item->scale->offset + group] = TENTH * sum;
    }
}

static void project_one(void *ctx, size_t part_i, size_t worker_i)
{
    (void)worker_i;
    const shoal_recover *r = ctx;
    const shoal_recover_item *item = &r->items[part_i];
    if (item->form == SHOAL_RECOVER_CODES) {
        project_codes(r, item);
        return;
    }
    for (size_t i = 0; i < item->value->n_rows * item->value->n_cols; i++) {
        r->out[item->number->offset + i] = item->unit * r->in[item->value->offset + i];
    }
}

void shoal_recover_project(const shoal_recover *recover, const float *values, float *numbers,
                           shoal_pool *pool)
{
    shoal_recover job = *recover;
    job.in = values;
    job.out = numbers;
    shoal_pool_run(pool, project_one, &job, recover->n_items);
}

/* --- the start ---------------------------------------------------------------------------------
 */

static shoal_status add_number(shoal_params *numbers, const shoal_param *value, const char *suffix,
                               size_t n_cols, shoal_err *err)
{
    shoal_param *p = &numbers->items[numbers->n_items];
    int n = snprintf(p->name, sizeof p->name, "%s%s", value->name, suffix);
    if (n < 0 || (size_t)n >= sizeof p->name) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "the name %s%s has more than %d characters",
                             value->name, suffix, SHOAL_TRAIN_NAME_MAX - 1);
    }
    p->kind = SHOAL_PARAM_TABLE; /* stepped by AdamW and not pulled towards zero */
    p->n_rows = value->n_rows;
    p->n_cols = n_cols;
    p->n_stacked = 1;
    p->frozen = value->frozen;
    p->offset = numbers->n_floats;
    numbers->n_floats += (p->n_rows * n_cols + 15) / 16 * 16;
    numbers->n_items++;
    return SHOAL_OK;
}

static float root_mean_square(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    return sum > 0 ? (float)sqrt(sum / (double)n) : 1.0F;
}

/* Which codes a type has, if any. */
static bool codes_of(shoal_type type, shoal_recover_item *item)
{
    static const size_t groups[] = {32, 64, 128};
    static const shoal_codes_mask masks[] = {SHOAL_CODES_ALL, SHOAL_CODES_TWO_FOUR,
                                             SHOAL_CODES_HALF, SHOAL_CODES_QUARTER};
    for (size_t bits = 2; bits <= 8; bits++) {
        for (size_t g = 0; g < SHOAL_COUNT(groups); g++) {
            for (size_t m = 0; m < SHOAL_COUNT(masks); m++) {
                shoal_type found = SHOAL_TYPE_F32;
                if (shoal_codes_find(bits, groups[g], masks[m], &found) && found == type) {
                    item->bits = bits;
                    item->group = groups[g];
                    item->mask = masks[m];
                    shoal_codes_range(type, &item->low, &item->high);
                    item->low = SHOAL_MAX(item->low, -127); /* as Q8_0's own rounding has it */
                    return true;
                }
            }
        }
    }
    return false;
}

static shoal_status check_tensor(const shoal_recover *r, const shoal_recover_item *item,
                                 shoal_err *err)
{
    const shoal_gguf_tensor *t = item->tensor;
    const shoal_param *p = item->value;
    shoal_side_tensors sides;
    if (t->dims[0] != p->n_cols || t->dims[1] * t->dims[2] * t->dims[3] != p->n_rows) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "%s: is trained in another shape than it is stored, which recovery "
                             "does not undo",
                             p->name);
    }
    if (t->packed || t->type == SHOAL_TYPE_I8 || t->type == SHOAL_TYPE_I32 ||
        (p->kind == SHOAL_PARAM_VECTOR && t->type != SHOAL_TYPE_F32)) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "%s: FP8, packed matrices and vectors other than F32 are not "
                             "recovered: compress to another type",
                             p->name);
    }
    SHOAL_TRY(shoal_sides_find(r->small, t, &sides, err));
    for (size_t i = 0; i < SHOAL_SIDES; i++) {
        if (sides.of[i]) {
            return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                                 "%s: has low rank, column scales or single elements beside it, "
                                 "which recovery does not train: compress without",
                                 p->name);
        }
    }
    return SHOAL_OK;
}

static shoal_status plan_item(shoal_recover *r, shoal_recover_item *item, shoal_err *err)
{
    const shoal_param *p = item->value;
    size_t at = r->numbers->n_items;
    item->tensor = shoal_gguf_find_tensor(r->small, p->name);
    item->form = p->kind == SHOAL_PARAM_VECTOR ? SHOAL_RECOVER_VECTOR : SHOAL_RECOVER_TYPE;
    if (item->tensor) {
        SHOAL_TRY(check_tensor(r, item, err));
        if (p->kind != SHOAL_PARAM_VECTOR && codes_of(item->tensor->type, item)) {
            item->form = SHOAL_RECOVER_CODES;
        }
    } else if (p->kind != SHOAL_PARAM_VECTOR) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "%s: the compressed file lacks it", p->name);
    }
    SHOAL_TRY(add_number(r->numbers, p, "", p->n_cols, err));
    item->number = &r->numbers->items[at];
    if (item->form == SHOAL_RECOVER_CODES) {
        SHOAL_TRY(add_number(r->numbers, p, ".scale", p->n_cols / item->group, err));
        item->scale = &r->numbers->items[at + 1];
        item->unit = (float)(item->high - item->low + 1) / EIGHTHS;
    }
    return SHOAL_OK;
}

/* A row as it is stored, and what is in it. */
typedef struct stored_row {
    uint8_t *blocks;
    int8_t *codes;
    uint16_t *scales;
} stored_row;

static void stored_row_fini(stored_row *row)
{
    shoal_free(row->blocks);
    shoal_free(row->codes);
    shoal_free(row->scales);
}

/* Codes and scales of the file, and the place in each cell. */
static shoal_status start_row(const shoal_recover *r, shoal_recover_item *item, size_t row,
                              const float *full, const stored_row *from, shoal_err *err)
{
    size_t k = item->value->n_cols;
    size_t n_groups = k / item->group;
    uint8_t *kept = item->kept ? item->kept + row * ((k + 7) / 8) : NULL;
    float *u = r->numbers->data + item->number->offset + row * k;
    SHOAL_TRY(shoal_weight_blocks(item->tensor, row, 1, from->blocks, err));
    shoal_codes_unpack(item->tensor->type, from->blocks, k, from->codes, from->scales, kept);
    for (size_t j = 0; j < k; j++) {
        float s = shoal_f16_to_f32(from->scales[j / item->group]);
        float code = (float)from->codes[j];
        float x = s != 0 ? full[row * k + j] / s : code;
        float begin = code + HALF * clamp(x - code, -CELL, CELL);
        u[j] = is_kept(item, row, j) ? begin / item->unit : 0;
    }
    for (size_t g = 0; g < n_groups; g++) {
        item->begin[row * n_groups + g] = shoal_f16_to_f32(from->scales[g]);
    }
    return SHOAL_OK;
}

static shoal_status start_codes(const shoal_recover *r, shoal_recover_item *item, const float *full,
                                shoal_err *err)
{
    size_t k = item->value->n_cols;
    size_t n_rows = item->value->n_rows;
    bool masked = item->mask != SHOAL_CODES_ALL;
    SHOAL_CLEANUP(stored_row_fini)
    stored_row from = {.blocks = shoal_calloc(1, shoal_codes_row_bytes(item->tensor->type, k)),
                       .codes = shoal_calloc(k, sizeof *from.codes),
                       .scales = shoal_calloc(k / item->group, sizeof *from.scales)};
    item->begin = shoal_calloc(n_rows * (k / item->group), sizeof *item->begin);
    item->kept = masked ? shoal_calloc(n_rows, (k + 7) / 8) : NULL;
    if (!from.blocks || !from.codes || !from.scales || !item->begin || (masked && !item->kept)) {
        return SHOAL_E_NOMEM;
    }
    for (size_t row = 0; row < n_rows; row++) {
        SHOAL_TRY(start_row(r, item, row, full, &from, err));
    }
    return SHOAL_OK;
}

/* Vectors begin as the compressed model has them, matrices of other types as the full one. */
static shoal_status start_plain(shoal_recover_item *item, const float *from)
{
    size_t n = item->value->n_rows * item->value->n_cols;
    item->begin = shoal_calloc(n, sizeof *item->begin);
    if (!item->begin) {
        return SHOAL_E_NOMEM;
    }
    memcpy(item->begin, from, n * sizeof *from);
    item->unit = root_mean_square(from, n) * (item->form == SHOAL_RECOVER_VECTOR ? TENTH : 1.0F);
    return SHOAL_OK;
}

static shoal_status start_item(shoal_recover *r, shoal_recover_item *item, const shoal_params *full,
                               shoal_err *err)
{
    const shoal_param *p = item->value;
    const shoal_param *theirs = shoal_params_find(full, p->name);
    const float *own = r->model->data + p->offset;
    if (!theirs && item->form == SHOAL_RECOVER_VECTOR) {
        return start_plain(item, own); /* a norm that the full model lacks */
    }
    if (!theirs || theirs->n_rows != p->n_rows || theirs->n_cols != p->n_cols) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "%s: the full model has no matrix of this name and shape: give the "
                             "model that the compressed one was made from",
                             p->name);
    }
    const float *numbers = full->data + theirs->offset;
    if (item->form == SHOAL_RECOVER_CODES) {
        return start_codes(r, item, numbers, err);
    }
    return start_plain(item, item->form == SHOAL_RECOVER_VECTOR ? own : numbers);
}

static shoal_status name_begin(shoal_recover *r)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    SHOAL_TRY(shoal_hasher_new(&hasher));
    shoal_hasher_update_field(hasher, r->numbers->data, r->numbers->n_floats * sizeof(float));
    for (size_t i = 0; i < r->n_items; i++) {
        const shoal_recover_item *item = &r->items[i];
        const shoal_param *p = item->scale ? item->scale : item->number;
        shoal_hasher_update_field(hasher, item->begin, p->n_rows * p->n_cols * sizeof(float));
    }
    shoal_hasher_finish(hasher, &r->begin);
    return SHOAL_OK;
}

static shoal_status make_all(shoal_recover *r, const shoal_params *full, shoal_err *err)
{
    const shoal_params *model = r->model;
    r->items = shoal_calloc(model->n_items, sizeof *r->items);
    r->numbers = shoal_calloc(1, sizeof *r->numbers);
    if (!r->items || !r->numbers) {
        return SHOAL_E_NOMEM;
    }
    r->numbers->hp = model->hp;
    r->numbers->items = shoal_calloc(2 * model->n_items, sizeof *r->numbers->items);
    if (!r->numbers->items) {
        return SHOAL_E_NOMEM;
    }
    for (; r->n_items < model->n_items; r->n_items++) {
        r->items[r->n_items].value = &model->items[r->n_items];
        SHOAL_TRY(plan_item(r, &r->items[r->n_items], err));
    }
    r->numbers->data = shoal_params_block(r->numbers);
    if (!r->numbers->data) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < r->n_items; i++) {
        SHOAL_TRY(start_item(r, &r->items[i], full, err));
    }
    return name_begin(r);
}

shoal_status shoal_recover_new(shoal_params *params, const shoal_params *full,
                               const shoal_gguf *small, shoal_recover **ret_recover, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_recover_freep) shoal_recover *r = shoal_calloc(1, sizeof *r);
    if (!r) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to recover a model");
    }
    r->model = params;
    r->small = small;
    shoal_status status = make_all(r, full, err);
    if (status == SHOAL_E_NOMEM) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to recover %zu numbers",
                             params->n_floats);
    }
    SHOAL_TRY(status);
    *ret_recover = SHOAL_STEAL(r);
    return SHOAL_OK;
}

void shoal_recover_free(shoal_recover *recover)
{
    if (!recover) {
        return;
    }
    for (size_t i = 0; i < recover->n_items; i++) {
        shoal_free(recover->items[i].begin);
        shoal_free(recover->items[i].kept);
    }
    shoal_params_free(recover->numbers);
    shoal_free(recover->items);
    shoal_free(recover);
}

shoal_params *shoal_recover_params(shoal_recover *recover)
{
    return recover->numbers;
}

const shoal_hash *shoal_recover_begin(const shoal_recover *recover)
{
    return &recover->begin;
}
