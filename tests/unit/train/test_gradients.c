/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients of every parameter of every architecture against tests/golden/data/grad-*.txt: central
 * differences of an independent float64 reference, along two random directions of each
 * (tests/golden/gradients.py made them). An exit after layer 1 is among the heads.
 */
#include "fixture.h"

#include "common/base/mem.h"
#include "tests/support/tiny_arch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ITEMS_MAX = 200
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

static double worst_of_item(const fixture *f, const derivative *golden)
{
    const shoal_param *item = shoal_params_find(f->params, golden->name);
    if (!item) {
        fail_msg("%s: no parameter %s", f->model->hp.name, golden->name);
    }
    size_t n = item->n_rows * item->n_cols;
    float *direction = shoal_calloc(n, sizeof *direction);
    assert_non_null(direction);
    double worst = 0;
    for (unsigned i = 0; i < 2; i++) {
        double norm = 0;
        fixture_direction(item, i, direction);
        double along = fixture_along(f, item, direction, &norm);
        double off = fabs(along - golden->along[i]) / norm;
        if (!(off < budget)) {
            fail_msg("%s %s: %.9g along direction %u, the reference has %.9g (norm %.3g)",
                     f->model->hp.name, item->name, along, i, golden->along[i], norm);
        }
        worst = fmax(worst, off);
    }
    shoal_free(direction);
    return worst;
}

static void test_gradients_equal_those_of_the_reference(void **state)
{
    (void)state;
    static derivative items[ITEMS_MAX];
    for (size_t v = 0; v < shoal_tiny_archs_n; v++) {
        if (!fixture_trained(shoal_tiny_archs[v])) {
            continue;
        }
        fixture f;
        double loss = 0;
        double worst = 0;
        size_t n = read_golden(shoal_tiny_archs[v], &loss, items);
        fixture_init(&f, shoal_tiny_archs[v], (size_t[]){1}, 1);
        assert_int_equal(n, f.params->n_items);
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
