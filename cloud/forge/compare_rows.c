/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows of compare-passes as a table and as JSON; the adapter to jansson that reads them back.
 */
#include "cloud/forge/compare.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

enum {
    GOALS = 9
};

#define ERROR_LEAST 1e-12 /* of what has no logarithm */

static const char *const names[COMPARE_COLUMNS] = {
    [COMPARE_RTN] = "rtn",
    [COMPARE_AWQ] = "awq",
    [COMPARE_CLIP] = "clip",
    [COMPARE_GPTQ] = "gptq",
    [COMPARE_REFINED] = "refined",
    [COMPARE_MAGNITUDE] = "magnitude",
    [COMPARE_MAGNITUDE_ROW] = "mag/row",
    [COMPARE_WANDA] = "wanda",
    [COMPARE_WANDA_LAYER] = "wanda/lay",
    [COMPARE_SPARSEGPT] = "sparsegpt",
    [COMPARE_TWO_FOUR] = "2:4",
    [COMPARE_WRP] = "wrp",
    [COMPARE_EQUAL_QUANTISED] = "=gptq",
    [COMPARE_EQUAL_REFINED] = "=refined",
    [COMPARE_EQUAL_SPARSE] = "=sparse",
    [COMPARE_EQUAL_LOW_RANK] = "=low-rank",
    [COMPARE_EQUAL_JOINT] = "=joint",
};

static const char *const masks[] = {[SHOAL_MASK_ALL] = "all",
                                    [SHOAL_MASK_BITMAP] = "bitmap",
                                    [SHOAL_MASK_TWO_FOUR] = "2:4",
                                    [SHOAL_MASK_HALF] = "16:32",
                                    [SHOAL_MASK_QUARTER] = "8:32"};

const char *shoal_forge_compare_name(compare_column column)
{
    return names[column];
}

/* --- goals ----------------------------------------------------------------------------------- */

/* Wanda is put to magnitude among the same rivals. */
static const char *const goals[GOALS] = {"awq <= rtn",
                                         "clip <= rtn",
                                         "gptq <= rtn",
                                         "refined <= gptq",
                                         "wanda <= magnitude by row",
                                         "wanda <= magnitude by layer",
                                         "sparsegpt <= wanda",
                                         "wrp <= 2:4 / 2",
                                         "joint < gptq, sparse and low-rank at equal bytes"};

static void count(const compare_row *row, size_t inout_met[GOALS])
{
    const compare_cell *c = row->cells;
    bool joint = !c[COMPARE_EQUAL_JOINT].none;
    for (size_t i = COMPARE_EQUAL_QUANTISED; i < COMPARE_EQUAL_JOINT; i++) {
        bool rival = i != COMPARE_EQUAL_REFINED && !c[i].none;
        joint = joint && (!rival || c[COMPARE_EQUAL_JOINT].error < c[i].error);
    }
    const bool met[GOALS] = {c[COMPARE_AWQ].error <= c[COMPARE_RTN].error,
                             c[COMPARE_CLIP].error <= c[COMPARE_RTN].error,
                             c[COMPARE_GPTQ].error <= c[COMPARE_RTN].error,
                             c[COMPARE_REFINED].error <= c[COMPARE_GPTQ].error,
                             c[COMPARE_WANDA].error <= c[COMPARE_MAGNITUDE_ROW].error,
                             c[COMPARE_WANDA_LAYER].error <= c[COMPARE_MAGNITUDE].error,
                             c[COMPARE_SPARSEGPT].error <= c[COMPARE_WANDA].error,
                             c[COMPARE_WRP].error <= c[COMPARE_TWO_FOUR].error / 2,
                             joint};
    for (size_t i = 0; i < GOALS; i++) {
        inout_met[i] += met[i];
    }
}

/* Of a column over all rows; *ret_none: some row has nothing there. */
static double mean_of(const compare_row *rows, size_t n, size_t column, bool *ret_none)
{
    double sum = 0;
    *ret_none = n == 0;
    for (size_t i = 0; i < n; i++) {
        sum += log(fmax(rows[i].cells[column].error, ERROR_LEAST)) / (double)n;
        *ret_none = *ret_none || rows[i].cells[column].none;
    }
    return exp(sum);
}

/* --- writing --------------------------------------------------------------------------------- */

static shoal_status put_text(shoal_buf *buf, const char *text)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "\""));
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c == '"' || c == '\\') {
            SHOAL_TRY(shoal_buf_appendf(buf, "\\u%04x", c));
        } else {
            SHOAL_TRY(shoal_buf_append(buf, text, 1));
        }
    }
    return shoal_buf_appendf(buf, "\"");
}

shoal_status shoal_forge_compare_put_id(const compare_id *id, shoal_buf *buf)
{
    char model[SHOAL_HASH_HEX];
    char moments[SHOAL_HASH_HEX];
    shoal_hash_hex(&id->model, model);
    shoal_hash_hex(&id->moments, moments);
    return shoal_buf_appendf(buf,
                             "{\"compare\": 1, \"model\": \"%s\", \"moments\": \"%s\", "
                             "\"bits\": %ld, \"group\": %ld}\n",
                             model, moments, id->bits, id->group);
}

/* As many digits as give the same number back. */
static shoal_status put_json_number(shoal_buf *buf, double x, bool none)
{
    return none ? shoal_buf_appendf(buf, "null") : shoal_buf_appendf(buf, "%.17g", x);
}

shoal_status shoal_forge_compare_put_row(const compare_row *row, shoal_buf *buf)
{
    const shoal_form *f = &row->form;
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"layer\": "));
    SHOAL_TRY(put_text(buf, row->name));
    SHOAL_TRY(shoal_buf_appendf(buf, ", \"row\": %zu, \"rows\": %zu, \"columns\": %zu", row->row,
                                row->n_rows, row->n_cols));
    for (size_t i = 0; i < COMPARE_COLUMNS; i++) {
        SHOAL_TRY(shoal_buf_appendf(buf, ", \"%s\": ", names[i]));
        SHOAL_TRY(put_json_number(buf, row->cells[i].error, row->cells[i].none));
    }
    return shoal_buf_appendf(buf,
                             ", \"bytes\": %" PRIu64
                             ", \"form\": {\"bits\": %zu, \"group\": %zu, \"mask\": \"%s\", "
                             "\"density\": %g, \"rank\": %zu}}\n",
                             row->bytes, f->bits, f->group, masks[f->mask], f->density, f->rank);
}

shoal_status shoal_forge_compare_put_table_head(shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "%-26s %5s %5s %5s", "layer", "from", "rows", "cols"));
    for (size_t i = 0; i < COMPARE_COLUMNS; i++) {
        SHOAL_TRY(shoal_buf_appendf(buf, " %9s", names[i]));
    }
    return shoal_buf_appendf(buf, "  the joint form\n");
}

static shoal_status put_number(shoal_buf *buf, double x, bool none)
{
    return none ? shoal_buf_appendf(buf, "%10s", "-") : shoal_buf_appendf(buf, " %9.3g", x);
}

shoal_status shoal_forge_compare_put_table_row(const compare_row *row, shoal_buf *buf)
{
    const shoal_form *f = &row->form;
    SHOAL_TRY(shoal_buf_appendf(buf, "%-26s %5zu %5zu %5zu", row->name, row->row, row->n_rows,
                                row->n_cols));
    for (size_t i = 0; i < COMPARE_COLUMNS; i++) {
        SHOAL_TRY(put_number(buf, row->cells[i].error, row->cells[i].none));
    }
    return shoal_buf_appendf(buf, "  %" PRIu64 " B: %zu bits / %zu, %s %g, rank %zu\n", row->bytes,
                             f->bits, f->group, masks[f->mask], f->density, f->rank);
}

static shoal_status put_tally_json(const compare_row *rows, size_t n, const size_t met[GOALS],
                                   shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"layers\": %zu, \"means\": {", n));
    for (size_t i = 0; i < COMPARE_COLUMNS; i++) {
        bool none = false;
        double mean = mean_of(rows, n, i, &none);
        SHOAL_TRY(shoal_buf_appendf(buf, "%s\"%s\": ", i ? ", " : "", names[i]));
        SHOAL_TRY(put_json_number(buf, mean, none));
    }
    SHOAL_TRY(shoal_buf_appendf(buf, "}, \"met\": {"));
    for (size_t i = 0; i < GOALS; i++) {
        SHOAL_TRY(shoal_buf_appendf(buf, "%s\"%s\": %zu", i ? ", " : "", goals[i], met[i]));
    }
    return shoal_buf_appendf(buf, "}}\n");
}

static shoal_status put_tally_table(const compare_row *rows, size_t n, const size_t met[GOALS],
                                    shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "%-44s", "geometric mean"));
    for (size_t i = 0; i < COMPARE_COLUMNS; i++) {
        bool none = false;
        double mean = mean_of(rows, n, i, &none);
        SHOAL_TRY(put_number(buf, mean, none));
    }
    SHOAL_TRY(shoal_buf_appendf(buf, "\nof %zu layers\n", n));
    for (size_t i = 0; i < GOALS; i++) {
        SHOAL_TRY(shoal_buf_appendf(buf, "  %-50s %zu\n", goals[i], met[i]));
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_compare_put_tally(const compare_row *rows, size_t n, bool json,
                                           shoal_buf *buf)
{
    size_t met[GOALS] = {0};
    for (size_t i = 0; i < n; i++) {
        count(&rows[i], met);
    }
    return json ? put_tally_json(rows, n, met, buf) : put_tally_table(rows, n, met, buf);
}

/* --- reading --------------------------------------------------------------------------------- */

static void json_cleanup(json_t **p)
{
    json_decref(*p);
}

static bool read_size(const json_t *object, const char *key, size_t *ret)
{
    const json_t *value = json_object_get(object, key);
    *ret = json_is_integer(value) ? (size_t)json_integer_value(value) : 0;
    return json_is_integer(value) && json_integer_value(value) >= 0;
}

static bool read_cells(const json_t *line, compare_row *ret)
{
    for (size_t i = 0; i < COMPARE_COLUMNS; i++) {
        const json_t *value = json_object_get(line, names[i]);
        compare_cell *cell = &ret->cells[i];
        *cell = (compare_cell){.error = json_number_value(value), .none = json_is_null(value)};
        if (!cell->none && (!json_is_number(value) || !(cell->error >= 0))) {
            return false;
        }
    }
    return true;
}

static bool read_form(const json_t *line, compare_row *ret)
{
    const json_t *form = json_object_get(line, "form");
    const char *mask = json_string_value(json_object_get(form, "mask"));
    size_t bytes = 0;
    bool known = false;
    for (size_t i = 0; mask && i < SHOAL_COUNT(masks); i++) {
        if (strcmp(mask, masks[i]) == 0) {
            ret->form.mask = (shoal_mask)i;
            known = true;
        }
    }
    ret->form.density = json_number_value(json_object_get(form, "density"));
    bool ok = known && read_size(form, "bits", &ret->form.bits) &&
              read_size(form, "group", &ret->form.group) &&
              read_size(form, "rank", &ret->form.rank) && read_size(line, "bytes", &bytes);
    ret->bytes = bytes;
    return ok;
}

/* A row, or 1: the line is another object, the tally. */
static shoal_status read_row(const char *text, size_t n, compare_row *ret, shoal_err *err)
{
    json_error_t why;
    SHOAL_CLEANUP(json_cleanup) json_t *line = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    if (!line || !json_is_object(line)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "no JSON object: %s", line ? "" : why.text);
    }
    const char *name = json_string_value(json_object_get(line, "layer"));
    if (!json_object_get(line, "layer")) {
        return 1;
    }
    *ret = (compare_row){.row = 0};
    if (!name || strlen(name) >= sizeof ret->name || !read_size(line, "row", &ret->row) ||
        !read_size(line, "rows", &ret->n_rows) || !read_size(line, "columns", &ret->n_cols) ||
        !read_cells(line, ret) || !read_form(line, ret)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "no row of compare-passes");
    }
    memcpy(ret->name, name, strlen(name));
    return SHOAL_OK;
}

static shoal_status read_rows(const char *text, size_t n_text, compare_row *ret_rows, size_t n_max,
                              size_t *ret_n, shoal_err *err)
{
    size_t n = 0;
    for (size_t at = 0; at < n_text;) {
        const char *end = memchr(text + at, '\n', n_text - at);
        size_t length = end ? (size_t)(end - text) - at : n_text - at;
        if (n == n_max) {
            break; /* the tally */
        }
        shoal_status status = read_row(text + at, length, &ret_rows[n], err);
        if (status == 1) {
            break;
        }
        if (status != SHOAL_OK) {
            shoal_err_prefix(err, "line %zu", n + 2);
            return status;
        }
        n++;
        at += length + 1;
    }
    *ret_n = n;
    return SHOAL_OK;
}

shoal_status shoal_forge_compare_read(const char *text, size_t n_text, const compare_id *id,
                                      compare_row *ret_rows, size_t n_max, size_t *ret_n,
                                      shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf head = {0};
    if (shoal_forge_compare_put_id(id, &head) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a line");
    }
    if (n_text < head.length || memcmp(text, head.data, head.length) != 0) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "is there and not of this model, calibration, --bits and --group: "
                             "give another name, or remove it");
    }
    return read_rows(text + head.length, n_text - head.length, ret_rows, n_max, ret_n, err);
}
