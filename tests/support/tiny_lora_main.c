/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-tiny-lora SEED BASE FILE [RANK]: writes a seeded adapter for a model's file.
 */
#include "tests/support/tiny_lora.h"

#include "common/base/file.h"

#include <stdio.h>
#include <stdlib.h>

static shoal_status make(char **argv, long rank, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *base = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    const shoal_tiny_lora settings = {.seed = strtoull(argv[1], NULL, 10),
                                      .rank = (uint32_t)rank,
                                      .alpha = 2 * (float)rank,
                                      .type = SHOAL_TYPE_F32};
    SHOAL_TRY(shoal_map_open(argv[2], &map, err));
    SHOAL_TRY(shoal_gguf_open(map.data, map.size, &base, err));
    SHOAL_TRY(shoal_tiny_lora_gguf(base, &settings, &buf));
    return shoal_file_write(argv[3], buf.data, buf.length, err);
}

int main(int argc, char **argv)
{
    shoal_err err = SHOAL_ERR_INIT;
    long rank = argc > 4 ? strtol(argv[4], NULL, 10) : 4;
    if (argc < 4 || argc > 5 || rank < 1 || rank > 4096) {
        (void)fprintf(stderr, "usage: shoal-tiny-lora SEED BASE FILE [RANK]\n");
        return 2;
    }
    if (make(argv, rank, &err) != SHOAL_OK) {
        (void)fprintf(stderr, "shoal-tiny-lora: %s\n", err.text[0] ? err.text : "refused");
        return 1;
    }
    return 0;
}
