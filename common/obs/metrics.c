/* SPDX-License-Identifier: Apache-2.0
 *
 * The text is Prometheus' exposition format, version 0.0.4
 * (prometheus.io/docs/instrumenting/exposition_formats).
 */
#include "common/obs/metrics.h"

#include "common/base/mem.h"

#include <math.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    METRICS_MAX = 1024,
    BOUNDS_MAX = 32,
    NAME_MAX_BYTES = 128,
    LABELS_MAX = 16
};

/* Aligned, so that two threads that count different things do not share a cache line. */
struct shoal_metric {
    alignas(64) _Atomic uint64_t value_bits; /* a double: value, or a histogram's sum */
    _Atomic uint64_t buckets[BOUNDS_MAX + 1];
    shoal_metric_def def;
};

struct shoal_metrics {
    shoal_metric *items[METRICS_MAX]; /* metrics of one name stand together */
    size_t n_items;
};

static double from_bits(uint64_t bits)
{
    double value = 0;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint64_t to_bits(double value)
{
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

shoal_status shoal_metrics_new(shoal_metrics **ret_metrics)
{
    shoal_metrics *metrics = shoal_calloc(1, sizeof *metrics);
    if (!metrics) {
        return SHOAL_E_NOMEM;
    }
    *ret_metrics = metrics;
    return SHOAL_OK;
}

void shoal_metrics_free(shoal_metrics *metrics)
{
    if (!metrics) {
        return;
    }
    for (size_t i = 0; i < metrics->n_items; i++) {
        shoal_free(metrics->items[i]);
    }
    shoal_free(metrics);
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text);
    size_t n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

/* The grammar, and what `promtool check metrics` asks of names: counters and they alone end in
 * _total, and the suffixes a histogram makes for itself belong to histograms. */
static bool name_ok(const char *name, shoal_metric_kind kind)
{
    size_t n = strnlen(name, NAME_MAX_BYTES + 1);
    if (n == 0 || n > NAME_MAX_BYTES || !is_letter(name[0])) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!is_letter(name[i]) && !is_digit(name[i])) {
            return false;
        }
    }
    if (ends_with(name, "_bucket") || ends_with(name, "_count") || ends_with(name, "_sum")) {
        return false;
    }
    return ends_with(name, "_total") == (kind == SHOAL_METRIC_COUNTER);
}

/* One `name="value"` at p; NULL when it is none, else what follows. */
static const char *skip_label(const char *p, const char **ret_name, size_t *ret_name_n)
{
    const char *name = p;
    if (!is_letter(*p)) {
        return NULL;
    }
    while (is_letter(*p) || is_digit(*p)) {
        p++;
    }
    *ret_name = name;
    *ret_name_n = (size_t)(p - name);
    if (p[0] != '=' || p[1] != '"') {
        return NULL;
    }
    for (p += 2; *p != '"'; p++) {
        if (*p == '\\') {
            p++;
            if (*p != '\\' && *p != '"' && *p != 'n') {
                return NULL;
            }
        } else if (*p == '\0') {
            return NULL;
        }
    }
    return p + 1;
}

/* A list of labels in the exposition's own form, each name once; `le` is the histogram's. */
static bool labels_ok(const char *labels)
{
    const char *names[LABELS_MAX];
    size_t names_n[LABELS_MAX];
    size_t n = 0;
    const char *p = labels;
    while (*p) {
        if (n == LABELS_MAX) {
            return false;
        }
        p = skip_label(p, &names[n], &names_n[n]);
        if (!p || (*p != ',' && *p != '\0') || (*p == ',' && p[1] == '\0')) {
            return false;
        }
        p += *p == ',';
        if ((names_n[n] == 2 && memcmp(names[n], "le", 2) == 0) ||
            strncmp(names[n], "__", 2) == 0) {
            return false;
        }
        for (size_t i = 0; i < n; i++) {
            if (names_n[i] == names_n[n] && memcmp(names[i], names[n], names_n[n]) == 0) {
                return false;
            }
        }
        n++;
    }
    return true;
}

static bool bounds_ok(const shoal_metric_def *def)
{
    if (def->kind != SHOAL_METRIC_HISTOGRAM) {
        return def->n_bounds == 0;
    }
    if (!def->bounds || def->n_bounds < 1 || def->n_bounds > BOUNDS_MAX) {
        return false;
    }
    for (size_t i = 0; i < def->n_bounds; i++) {
        if (!isfinite(def->bounds[i]) || (i > 0 && !(def->bounds[i - 1] < def->bounds[i]))) {
            return false;
        }
    }
    return true;
}

/* Where a metric of this name goes: behind its family, or at the end. SHOAL_E_INVALID when the
 * family differs in kind or help, or already has these labels. */
static shoal_status find_place(const shoal_metrics *metrics, const shoal_metric_def *def,
                               size_t *ret_place)
{
    size_t place = metrics->n_items;
    for (size_t i = 0; i < metrics->n_items; i++) {
        const shoal_metric_def *other = &metrics->items[i]->def;
        if (strcmp(other->name, def->name) != 0) {
            continue;
        }
        if (other->kind != def->kind || strcmp(other->help, def->help) != 0 ||
            strcmp(other->labels, def->labels) == 0) {
            return SHOAL_E_INVALID;
        }
        place = i + 1;
    }
    *ret_place = place;
    return SHOAL_OK;
}

shoal_status shoal_metrics_add(shoal_metrics *metrics, const shoal_metric_def *def,
                               shoal_metric **ret_metric)
{
    shoal_metric_def checked = *def;
    checked.labels = def->labels ? def->labels : "";
    if (!checked.name || !checked.help || checked.help[0] == '\0' ||
        !name_ok(checked.name, checked.kind) || !labels_ok(checked.labels) ||
        !bounds_ok(&checked)) {
        return SHOAL_E_INVALID;
    }
    size_t place = 0;
    SHOAL_TRY(find_place(metrics, &checked, &place));
    if (metrics->n_items == METRICS_MAX) {
        return SHOAL_E_LIMIT;
    }
    shoal_metric *metric = shoal_calloc_aligned(1, sizeof *metric);
    if (!metric) {
        return SHOAL_E_NOMEM;
    }
    metric->def = checked;
    memmove(&metrics->items[place + 1], &metrics->items[place],
            (metrics->n_items - place) * sizeof metrics->items[0]);
    metrics->items[place] = metric;
    metrics->n_items++;
    *ret_metric = metric;
    return SHOAL_OK;
}

shoal_metric *shoal_metrics_find(const shoal_metrics *metrics, const char *name, const char *labels)
{
    for (size_t i = 0; i < metrics->n_items; i++) {
        const shoal_metric_def *def = &metrics->items[i]->def;
        if (strcmp(def->name, name) == 0 && strcmp(def->labels, labels) == 0) {
            return metrics->items[i];
        }
    }
    return NULL;
}

static void add_to_value(shoal_metric *metric, double delta)
{
    uint64_t before = atomic_load_explicit(&metric->value_bits, memory_order_relaxed);
    uint64_t after = 0;
    do {
        after = to_bits(from_bits(before) + delta);
    } while (!atomic_compare_exchange_weak_explicit(&metric->value_bits, &before, after,
                                                    memory_order_relaxed, memory_order_relaxed));
}

void shoal_metric_add(shoal_metric *metric, double delta)
{
    if (!metric) {
        return;
    }
    SHOAL_ASSERT(metric->def.kind != SHOAL_METRIC_HISTOGRAM);
    /* Deltas are often measured; a counter that went down would read as a restart. */
    if (metric->def.kind == SHOAL_METRIC_COUNTER && !(delta >= 0 && isfinite(delta))) {
        return;
    }
    add_to_value(metric, delta);
}

void shoal_metric_set(shoal_metric *metric, double value)
{
    if (!metric) {
        return;
    }
    SHOAL_ASSERT(metric->def.kind == SHOAL_METRIC_GAUGE);
    atomic_store_explicit(&metric->value_bits, to_bits(value), memory_order_relaxed);
}

void shoal_metric_observe(shoal_metric *metric, double value)
{
    if (!metric) {
        return;
    }
    SHOAL_ASSERT(metric->def.kind == SHOAL_METRIC_HISTOGRAM);
    if (isnan(value)) {
        return;
    }
    size_t i = 0;
    while (i < metric->def.n_bounds && value > metric->def.bounds[i]) {
        i++;
    }
    add_to_value(metric, value);
    (void)atomic_fetch_add_explicit(&metric->buckets[i], 1, memory_order_relaxed);
}

double shoal_metric_value(const shoal_metric *metric)
{
    if (!metric) {
        return 0;
    }
    if (metric->def.kind != SHOAL_METRIC_HISTOGRAM) {
        return from_bits(atomic_load_explicit(&metric->value_bits, memory_order_relaxed));
    }
    uint64_t n = 0;
    for (size_t i = 0; i <= metric->def.n_bounds; i++) {
        n += atomic_load_explicit(&metric->buckets[i], memory_order_relaxed);
    }
    return (double)n;
}

/* The shortest of two decimal forms that reads back as the same double. */
static shoal_status put_number(shoal_buf *buf, double value)
{
    if (isnan(value)) {
        return shoal_buf_append(buf, "NaN", 3);
    }
    if (isinf(value)) {
        return shoal_buf_append(buf, value > 0 ? "+Inf" : "-Inf", 4);
    }
    size_t before = buf->length;
    SHOAL_TRY(shoal_buf_appendf(buf, "%.15g", value));
    if (to_bits(strtod(buf->data + before, NULL)) == to_bits(value)) {
        return SHOAL_OK;
    }
    buf->length = before;
    buf->data[before] = '\0';
    return shoal_buf_appendf(buf, "%.17g", value);
}

/* Text with newlines, and where it is not escaped yet backslashes, written as the format asks. */
static shoal_status put_escaped(shoal_buf *buf, const char *text, bool escape_backslash)
{
    while (*text) {
        size_t n = strcspn(text, escape_backslash ? "\n\\" : "\n");
        SHOAL_TRY(shoal_buf_append(buf, text, n));
        text += n;
        if (*text) {
            SHOAL_TRY(shoal_buf_append(buf, *text == '\n' ? "\\n" : "\\\\", 2));
            text++;
        }
    }
    return SHOAL_OK;
}

static const char *kind_name(shoal_metric_kind kind)
{
    switch (kind) {
    case SHOAL_METRIC_COUNTER:
        return "counter";
    case SHOAL_METRIC_GAUGE:
        return "gauge";
    case SHOAL_METRIC_HISTOGRAM:
        return "histogram";
    }
    return "untyped";
}

static shoal_status put_head(shoal_buf *buf, const shoal_metric_def *def)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "# HELP %s ", def->name));
    SHOAL_TRY(put_escaped(buf, def->help, true));
    return shoal_buf_appendf(buf, "\n# TYPE %s %s\n", def->name, kind_name(def->kind));
}

/* `name` + suffix, the labels and, for a bucket, its bound. */
static shoal_status put_sample(shoal_buf *buf, const shoal_metric_def *def, const char *suffix,
                               const double *bound, double value)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "%s%s", def->name, suffix));
    if (def->labels[0] || bound) {
        SHOAL_TRY(shoal_buf_append(buf, "{", 1));
        SHOAL_TRY(put_escaped(buf, def->labels, false));
        if (bound) {
            SHOAL_TRY(shoal_buf_appendf(buf, "%sle=\"", def->labels[0] ? "," : ""));
            SHOAL_TRY(put_number(buf, *bound));
            SHOAL_TRY(shoal_buf_append(buf, "\"", 1));
        }
        SHOAL_TRY(shoal_buf_append(buf, "}", 1));
    }
    SHOAL_TRY(shoal_buf_append(buf, " ", 1));
    SHOAL_TRY(put_number(buf, value));
    return shoal_buf_append(buf, "\n", 1);
}

/* The count is the last bucket by construction, so a reader never sees the two differ, however
 * many observations come in meanwhile. */
static shoal_status put_histogram(shoal_buf *buf, const shoal_metric *metric)
{
    const shoal_metric_def *def = &metric->def;
    uint64_t n = 0;
    for (size_t i = 0; i <= def->n_bounds; i++) {
        double bound = i < def->n_bounds ? def->bounds[i] : (double)INFINITY;
        n += atomic_load_explicit(&metric->buckets[i], memory_order_relaxed);
        SHOAL_TRY(put_sample(buf, def, "_bucket", &bound, (double)n));
    }
    double sum = from_bits(atomic_load_explicit(&metric->value_bits, memory_order_relaxed));
    SHOAL_TRY(put_sample(buf, def, "_sum", NULL, sum));
    return put_sample(buf, def, "_count", NULL, (double)n);
}

shoal_status shoal_metrics_render(const shoal_metrics *metrics, shoal_buf *buf)
{
    const char *family = "";
    for (size_t i = 0; i < metrics->n_items; i++) {
        const shoal_metric *metric = metrics->items[i];
        if (strcmp(metric->def.name, family) != 0) {
            family = metric->def.name;
            SHOAL_TRY(put_head(buf, &metric->def));
        }
        if (metric->def.kind == SHOAL_METRIC_HISTOGRAM) {
            SHOAL_TRY(put_histogram(buf, metric));
        } else {
            SHOAL_TRY(put_sample(buf, &metric->def, "", NULL, shoal_metric_value(metric)));
        }
    }
    return SHOAL_OK;
}
