/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-tiny-model SEED FILE [TYPE [VARIANT]]: writes the seeded model of the tests, or the one of
 * an architecture's variant (tiny_arch.h), or "exits", four layers with exits after 1 and 3, or
 * "sides", with tensors beside its matrices (tiny_sides.h), for those that need a file.
 */
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_sides.h"

#include "common/base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static shoal_status build_sides(uint64_t seed, shoal_type type, shoal_buf *buf)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf base = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_TRY(shoal_tiny_model_gguf(seed, type, &base));
    SHOAL_TRY(shoal_gguf_open((const uint8_t *)base.data, base.length, &gguf, NULL));
    return shoal_tiny_sides_gguf(gguf, seed, 0, buf);
}

static shoal_status build(const char *variant, uint64_t seed, shoal_type type, shoal_buf *buf)
{
    if (variant && strcmp(variant, "sides") == 0) {
        return build_sides(seed, type, buf);
    }
    if (variant && strcmp(variant, "exits") != 0) {
        return shoal_tiny_arch_gguf(variant, seed, type, buf);
    }
    shoal_tiny_settings settings = {.seed = seed, .type = type};
    if (variant) {
        settings.n_layers = 4;
        settings.n_exits = 2;
        settings.exits[0] = 1;
        settings.exits[1] = 3;
    }
    return shoal_tiny_model_build(&settings, buf);
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 5) {
        (void)fprintf(stderr, "usage: shoal-tiny-model SEED FILE [TYPE [VARIANT]]\n");
        return 2;
    }
    const shoal_type_info *type = shoal_type_find_name(argc > 3 ? argv[3] : "F32");
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    shoal_err err = SHOAL_ERR_INIT;
    uint64_t seed = strtoull(argv[1], NULL, 10);
    shoal_status status = SHOAL_E_UNSUPPORTED;
    if (type) {
        status = build(argc > 4 ? argv[4] : NULL, seed, type->type, &buf);
    }
    if (status != SHOAL_OK || shoal_file_write(argv[2], buf.data, buf.length, &err) != SHOAL_OK) {
        (void)fprintf(stderr, "shoal-tiny-model: %s\n", err.text[0] ? err.text : "refused");
        return 1;
    }
    return 0;
}
