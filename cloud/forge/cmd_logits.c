/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/forge.h"

#include "common/base/mem.h"

#include <math.h>

enum {
    CHUNK = 256 /* rows of one step */
};

/* %.9g gives every float back exactly; JSON has no NaN, so such a value is null. */
static shoal_status append_row(shoal_buf *buf, const float *row, size_t n)
{
    SHOAL_TRY(shoal_buf_append(buf, "[", 1));
    for (size_t i = 0; i < n; i++) {
        if (isfinite(row[i])) {
            SHOAL_TRY(shoal_buf_appendf(buf, "%s%.9g", i ? ", " : "", (double)row[i]));
        } else {
            SHOAL_TRY(shoal_buf_appendf(buf, "%snull", i ? ", " : ""));
        }
    }
    return shoal_buf_append(buf, "]", 1);
}

shoal_status shoal_forge_logits(const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->tokens, "--tokens IDS", err));
    SHOAL_CLEANUP(shoal_forge_session_close) forge_session s = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    size_t n = 0;
    SHOAL_TRY(shoal_forge_session_open(args, CHUNK, args->all ? CHUNK : 1, 0, &s, err));
    size_t n_vocab = s.model->hp.n_vocab;
    SHOAL_TRY(shoal_forge_parse_ids(args->tokens, n_vocab, &ids, &n, err));
    if (n > shoal_engine_n_ctx(s.engine)) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%zu tokens are more than the context of %zu", n,
                             shoal_engine_n_ctx(s.engine));
    }
    SHOAL_TRY(shoal_buf_appendf(&out, "%s", args->json ? "{\"logits\": " : ""));
    SHOAL_TRY(shoal_buf_appendf(&out, "%s", args->all ? "[" : ""));
    for (size_t at = 0; at < n; at += CHUNK) {
        size_t n_now = SHOAL_MIN(n - at, (size_t)CHUNK);
        bool last = at + n_now == n;
        shoal_span span = {.seq = s.seq, .ids = ids + at, .n_ids = n_now, .lora = s.lora};
        span.n_logits = args->all ? n_now : (last ? 1 : 0);
        SHOAL_TRY(shoal_engine_step(s.engine, &span, 1));
        for (size_t i = 0; i < span.n_logits; i++) {
            SHOAL_TRY(shoal_buf_appendf(&out, "%s", at + i && args->all ? ",\n" : ""));
            SHOAL_TRY(append_row(&out, shoal_engine_logits(s.engine, span.logits_i + i), n_vocab));
        }
    }
    SHOAL_TRY(shoal_buf_appendf(&out, "%s%s\n", args->all ? "]" : "", args->json ? "}" : ""));
    return shoal_forge_print(&out, err);
}
