/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/forge.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/weight/pack.h"

#include <stdio.h>

static shoal_status read_stdin(shoal_buf *buf, shoal_err *err)
{
    char chunk[8192];
    size_t n = 0;
    buf->limit = SHOAL_TEXT_MAX;
    while ((n = fread(chunk, 1, sizeof chunk, stdin)) > 0) {
        shoal_status status = shoal_buf_append(buf, chunk, n);
        if (status != SHOAL_OK) {
            return shoal_err_set(err, status, "the text on stdin is over %d bytes",
                                 (int)SHOAL_TEXT_MAX);
        }
    }
    return ferror(stdin) ? shoal_err_set(err, SHOAL_E_IO, "cannot read stdin") : SHOAL_OK;
}

static shoal_status decode(const shoal_tokenizer *tokenizer, const shoal_buf *input, shoal_buf *out,
                           shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    size_t n = 0;
    SHOAL_TRY(shoal_forge_parse_ids(input->data ? input->data : "",
                                    shoal_tokenizer_n_vocab(tokenizer), &ids, &n, err));
    shoal_detok state = {0};
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(shoal_detok_push(tokenizer, &state, ids[i], out));
    }
    return shoal_detok_finish(&state, out);
}

static shoal_status encode(const shoal_tokenizer *tokenizer, const forge_args *args,
                           const shoal_buf *input, shoal_buf *out, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    size_t n = 0;
    shoal_encode_flags flags = {.add_bos = args->bos, .parse_special = false};
    SHOAL_TRY(shoal_tokenizer_encode(tokenizer, input->data ? input->data : "", input->length,
                                     flags, &ids, &n, err));
    SHOAL_TRY(shoal_buf_appendf(out, "%s", args->json ? "{\"ids\": [" : ""));
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(shoal_buf_appendf(out, "%s%d", i ? (args->json ? ", " : " ") : "", (int)ids[i]));
    }
    return shoal_buf_appendf(out, "%s", args->json ? "]}\n" : "\n");
}

shoal_status shoal_forge_tokenize(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_tokenizer_freep) shoal_tokenizer *tokenizer = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf input = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    SHOAL_TRY(shoal_map_open(args->model, &map, err));
    SHOAL_TRY(shoal_pack_open(map.data, map.size, &gguf, err));
    SHOAL_TRY(shoal_tokenizer_new(gguf, &tokenizer, err));
    SHOAL_TRY(read_stdin(&input, err));
    if (args->decode) {
        SHOAL_TRY(decode(tokenizer, &input, &out, err));
    } else {
        SHOAL_TRY(encode(tokenizer, args, &input, &out, err));
    }
    return shoal_forge_print(&out, err);
}
