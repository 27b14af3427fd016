/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients of every parameter of every architecture against tests/golden/data/grad-*.txt: central
 * differences of an independent float64 reference, along two random directions of each
 * (tests/golden/gradients.py made them). An exit after layer 1 is among the heads.
 */
#include "fixture.h"

#include "tests/support/tiny_arch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ITEMS_MAX = 200,
    ELEMENTS_MAX = 1 << 16 /* of a parameter */
};

/* Of the norm of a parameter's gradient. Rounding of a pass in binary32 is at most 3e-6 of it on
 * these models; a wrong term is some per cent. */
static const double budget = 2e-5;

typedef struct derivative {
    char name[SHOAL_TRAIN_NAME_MAX];
    double along[2];
} derivative;

static size_t read_golden(const char *variant, double *ret_loss, derivative *ret_items)
{
    char path[4096];
    char line[256];
    const char *dir = getenv("SHOAL_SOURCE_DIR");
    size_t n = 0;
    (void)snprintf(path, sizeof path, "%s/tests/golden/data/grad-%s.txt", dir ? dir : ".", variant);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(line, sizeof line, file));
    assert_int_equal(fscanf(file, "%lf", ret_loss), 1);
    while (n < ITEMS_MAX && fscanf(file, "%63s %lf %lf", ret_items[n].name, &ret_items[n].along[0],
                                   &ret_items[n].along[1]) == 3) {
        n++;
    }
    (void)fclose(file);
    return n;
}

/* Files may hold a latent's keys (turned) and values apart: where element i of such a tensor lies
 * in ours, which holds the rows of both head by head. */
static size_t place_in_kv_b(const shoal_hparams *hp, bool keys, size_t i)
{
    size_t rank = hp->mla.rank;
    size_t plain = hp->mla.plain;
    size_t height = keys ? plain : hp->value_dim;
    size_t head = i / (rank * height);
    size_t row = keys ? i % plain : plain + i / rank % height;
    size_t col = keys ? i / plain % rank : i % rank;
    return (head * (plain + hp->value_dim) + row) * rank + col;
}

/* A direction within a tensor of the file as one within our parameter, which is the result. */
static const shoal_param *direction_of(const fixture *f, const char name[SHOAL_TRAIN_NAME_MAX],
                                       unsigned number, float *ret_direction)
{
    const shoal_hparams *hp = &f->model->hp;
    bool keys = strstr(name, "attn_k_b.") != NULL;
    const shoal_param *item = shoal_params_find(f->params, name);
    if (item) {
        fixture_direction(item, number, ret_direction);
        return item;
    }
    if (!keys && !strstr(name, "attn_v_b.")) {
        fail_msg("%s: no parameter %s", hp->name, name);
    }
    static float apart[ELEMENTS_MAX];
    shoal_param tensor = {.n_rows = hp->n_heads,
                          .n_cols = hp->mla.rank * (keys ? hp->mla.plain : hp->value_dim)};
    memcpy(tensor.name, name, sizeof tensor.name);
    fixture_direction(&tensor, number, apart);
    char whole[SHOAL_TRAIN_NAME_MAX];
    (void)snprintf(whole, sizeof whole, "%.*sattn_kv_b.weight", (int)(strstr(name, "attn_") - name),
                   name);
    item = shoal_params_find(f->params, whole);
    assert_non_null(item);
    memset(ret_direction, 0, item->n_rows * item->n_cols * sizeof *ret_direction);
    for (size_t i = 0; i < tensor.n_rows * tensor.n_cols; i++) {
        ret_direction[place_in_kv_b(hp, keys, i)] = apart[i];
    }
    return item;
}

static double worst_of_item(const fixture *f, const derivative *golden)
{
    static float direction[ELEMENTS_MAX];
    double worst = 0;
    for (unsigned i = 0; i < 2; i++) {
        double norm = 0;
        const shoal_param *item = direction_of(f, golden->name, i, direction);
        double along = fixture_along(f, item, direction, &norm);
        double off = fabs(along - golden->along[i]) / norm;
        if (!(off < budget)) {
            fail_msg("%s %s: %.9g along direction %u, the reference has %.9g (norm %.3g)",
                     f->model->hp.name, item->name, along, i, golden->along[i], norm);
        }
        worst = fmax(worst, off);
    }
    return worst;
}

static void test_gradients_equal_those_of_the_reference(void **state)
{
    (void)state;
    static derivative items[ITEMS_MAX];
    for (size_t v = 0; v < shoal_tiny_archs_n; v++) {
        fixture f;
        double loss = 0;
        double worst = 0;
        size_t n = read_golden(shoal_tiny_archs[v], &loss, items);
        fixture_init(&f, shoal_tiny_archs[v], (size_t[]){1}, 1);
        size_t wanted = 0; /* a latent's keys and values may be two tensors */
        bool apart = strcmp(shoal_tiny_archs[v], "deepseek2") == 0;
        for (size_t i = 0; i < f.params->n_items; i++) {
            const shoal_param *item = &f.params->items[i];
            assert_true(item->n_rows * item->n_cols <= ELEMENTS_MAX);
            wanted += item->frozen ? 0 : apart && strstr(item->name, "kv_b.") ? 2 : 1;
        }
        assert_int_equal(n, wanted);
        assert_true(fabs(fixture_backward(&f) - loss) < 1e-5 * fmax(fabs(loss), 100));
        for (size_t i = 0; i < n; i++) {
            worst = fmax(worst, worst_of_item(&f, &items[i]));
        }
        print_message("%-14s %zu parameters, off by at most %.1g of a norm\n", shoal_tiny_archs[v],
                      n, worst);
        fixture_fini(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients_equal_those_of_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
