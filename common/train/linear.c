/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with weights, by OpenBLAS on the calling thread.
 */
#include "common/train/net_internal.h"

#include <cblas.h>
#include <pthread.h>

/* The library's own threads would only wait for each other: a net has one thread. */
static void one_thread(void)
{
    openblas_set_num_threads(1);
}

void shoal_net_linear_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, one_thread);
}

/* Rows of the parts from i on that follow each other in the block; *ret_end is the first that does
 * not. */
static size_t joined_rows(const shoal_net_part *parts, size_t n_parts, size_t i, size_t *ret_end)
{
    size_t rows = parts[i].n_rows;
    size_t end = i + 1;
    while (end < n_parts && parts[end].offset == parts[i].offset + rows * parts[i].n_cols) {
        rows += parts[end++].n_rows;
    }
    *ret_end = end;
    return rows;
}

static void tell(const shoal_net *net, const shoal_net_part *parts, size_t n_parts, size_t n,
                 const float *x, size_t x_row)
{
    for (size_t i = 0; i < n_parts; i++) {
        const shoal_param *item = &net->params->items[parts[i].item];
        net->observe(net->observe_ctx, item, (parts[i].offset - item->offset) / item->n_cols,
                     parts[i].n_rows, i > 0, parts[i].n_cols, n, x, x_row);
    }
}

void shoal_net_linear(shoal_net *net, const shoal_net_part *parts, size_t n_parts, size_t n,
                      const float *x, size_t x_row, bool add, float *y, size_t y_row)
{
    size_t k = parts[0].n_cols;
    if (net->observe && n > 0) {
        tell(net, parts, n_parts, n, x, x_row);
    }
    for (size_t i = 0, end = 0; i < n_parts && n > 0; i = end) {
        size_t rows = joined_rows(parts, n_parts, i, &end);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)n, (blasint)rows, (blasint)k,
                    1, x, (blasint)x_row, net->weights + parts[i].offset, (blasint)k, add ? 1 : 0,
                    y, (blasint)y_row);
        net->flops += 2 * (uint64_t)n * rows * k;
        y += rows;
    }
}

/* dW += dy^T x */
static void add_grads(shoal_net *net, float *grads, size_t rows, size_t k, size_t n, const float *x,
                      size_t x_row, const float *dy, size_t dy_row)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)rows, (blasint)k, (blasint)n, 1,
                dy, (blasint)dy_row, x, (blasint)x_row, 1, grads, (blasint)k);
    net->flops += 2 * (uint64_t)n * rows * k;
}

/* Gradients of parts [i, end), which follow each other: one product where all are wanted. */
static void joined_grads(shoal_net *net, const shoal_net_part *parts, size_t i, size_t end,
                         size_t rows, size_t n, const float *x, size_t x_row, const float *dy,
                         size_t dy_row)
{
    size_t k = parts[i].n_cols;
    bool wanted = true;
    for (size_t j = i; j < end; j++) {
        wanted = wanted && shoal_net_grads(net, &parts[j]);
    }
    if (wanted) {
        add_grads(net, net->grads + parts[i].offset, rows, k, n, x, x_row, dy, dy_row);
        return;
    }
    for (size_t j = i; j < end; j++) {
        float *grads = shoal_net_grads(net, &parts[j]);
        if (grads) {
            add_grads(net, grads, parts[j].n_rows, k, n, x, x_row, dy, dy_row);
        }
        dy += parts[j].n_rows;
    }
}

void shoal_net_linear_back(shoal_net *net, const shoal_net_part *parts, size_t n_parts, size_t n,
                           const float *x, size_t x_row, const float *dy, size_t dy_row, bool add,
                           float *dx, size_t dx_row)
{
    size_t k = parts[0].n_cols;
    for (size_t i = 0, end = 0; i < n_parts && n > 0; i = end) {
        size_t rows = joined_rows(parts, n_parts, i, &end);
        joined_grads(net, parts, i, end, rows, n, x, x_row, dy, dy_row);
        if (dx) {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)n, (blasint)k,
                        (blasint)rows, 1, dy, (blasint)dy_row, net->weights + parts[i].offset,
                        (blasint)k, add || i > 0 ? 1 : 0, dx, (blasint)dx_row);
            net->flops += 2 * (uint64_t)n * rows * k;
        }
        dy += rows;
    }
}
