/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-tiny-sides RANK MODEL FILE: a model with random factors of one rank beside every matrix, to
 * see what they cost.
 */
#include "tests/support/tiny_sides.h"

#include "common/base/file.h"

#include <stdio.h>
#include <stdlib.h>

static shoal_status write_model(uint32_t rank, const char *from, const char *to, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_TRY(shoal_map_open(from, &map, err));
    SHOAL_TRY(shoal_gguf_open(map.data, map.size, &gguf, err));
    SHOAL_TRY(shoal_tiny_sides_gguf(gguf, 1, rank, &buf));
    return shoal_file_write(to, buf.data, buf.length, err);
}

int main(int argc, char **argv)
{
    shoal_err err = SHOAL_ERR_INIT;
    if (argc != 4) {
        (void)fprintf(stderr, "usage: shoal-tiny-sides RANK MODEL FILE\n");
        return 2;
    }
    uint32_t rank = (uint32_t)strtoul(argv[1], NULL, 10);
    if (rank == 0 || write_model(rank, argv[2], argv[3], &err) != SHOAL_OK) {
        (void)fprintf(stderr, "shoal-tiny-sides: %s\n", err.text[0] ? err.text : "refused");
        return 1;
    }
    return 0;
}
