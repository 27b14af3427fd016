/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "vocab.h"

#include "common/base/file.h"
#include "tests/support/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>

static shoal_tokenizer *tokenizer_of(const uint8_t *data, size_t n)
{
    shoal_gguf *gguf = NULL;
    shoal_tokenizer *tokenizer = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_gguf_open(data, n, &gguf, &err) != SHOAL_OK ||
        shoal_tokenizer_new(gguf, &tokenizer, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    shoal_gguf_close(gguf);
    return tokenizer;
}

shoal_tokenizer *vocab_family(void)
{
    const char *source = getenv("SHOAL_SOURCE_DIR");
    char path[4096];
    shoal_map map = {0};
    (void)snprintf(path, sizeof(path), "%s/deploy/models/minnow/minnow-edge.gguf",
                   source != NULL ? source : ".");
    assert_int_equal(shoal_map_open(path, &map, NULL), SHOAL_OK);
    shoal_tokenizer *tokenizer = tokenizer_of(map.data, map.size);
    shoal_map_close(&map);
    return tokenizer;
}

shoal_tokenizer *vocab_tiny(void)
{
    shoal_buf buf = {0};
    assert_int_equal(shoal_tiny_model_gguf(1, SHOAL_TYPE_F32, &buf), SHOAL_OK);
    shoal_tokenizer *tokenizer = tokenizer_of((const uint8_t *)buf.data, buf.length);
    shoal_buf_fini(&buf);
    return tokenizer;
}
