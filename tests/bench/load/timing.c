/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/load/timing.h"

#include "common/base/clock.h"
#include "common/base/rng.h"
#include "tests/bench/load/edge.h"

#include <stdio.h>

enum {
    FIRST_TENANT,
    SECOND_TENANT
};

static shoal_status send_all(load_stream *stream, load_edge *edge, shoal_buf *buf)
{
    for (;;) {
        load_edge_step step = load_edge_next(edge);
        if (step == LOAD_EDGE_HALF_CLOSE) {
            load_edge_half_closed(edge);
            load_stream_half_close(stream);
            return SHOAL_OK;
        }
        if (step == LOAD_EDGE_WAIT || step == LOAD_EDGE_CLOSED) {
            return SHOAL_OK;
        }
        shoal_edge_msg msg;
        load_edge_send(edge, "timing", &msg);
        shoal_buf_reset(buf);
        SHOAL_TRY(shoal_edge_msg_encode(&msg, buf));
        SHOAL_TRY(load_stream_send(stream, buf->data, buf->length));
    }
}

/* One question, from its sending to its first token, seconds. */
static shoal_status ask(load_link *link, load_truth *truth, size_t item, size_t tenant,
                        double *ret_seconds, shoal_err *err)
{
    const load_edge_settings settings = {
        .mode = SHOAL_MODE_CLOUD, .span = 1, .ahead = 1, .record = true};
    const shoal_clock clock = shoal_clock_real();
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {.limit = SHOAL_WIRE_MESSAGE_MAX};
    load_edge edge;
    load_stream *stream = NULL;
    load_edge_init(&edge, &settings, truth, &truth->items[item], 0);
    uint64_t start_ns = shoal_clock_now_ns(&clock);
    SHOAL_TRY(load_stream_open(link, tenant, truth->describe.n_vocab, NULL, &stream));
    shoal_status status = send_all(stream, &edge, &buf);
    uint64_t first_ns = 0;
    for (bool open = true; open;) {
        load_mail *mail = load_link_wait(link, UINT64_MAX);
        size_t n_new = 0;
        if (mail->kind == LOAD_MAIL_MESSAGE && status == SHOAL_OK) {
            status = load_edge_take(&edge, mail->msg, &n_new);
        } else if (mail->kind == LOAD_MAIL_END) {
            open = false;
            if (mail->status != SHOAL_RPC_OK) {
                status = shoal_err_set(err, SHOAL_E_UNAVAILABLE, "status %d: %.150s",
                                       (int)mail->status, mail->text);
            }
        }
        first_ns = first_ns == 0 && n_new > 0 ? mail->at_ns : first_ns;
        load_mail_free(mail);
    }
    load_stream_free(stream);
    if (status == SHOAL_OK && first_ns == 0) {
        status = shoal_err_set(err, SHOAL_E_PROTOCOL, "an answer without a token");
    }
    *ret_seconds = (double)(first_ns - start_ns) / 1e9;
    return status;
}

/* The three questions of a trial in an order drawn anew. */
static shoal_status trial(load_link *link, load_truth *truth, size_t i, uint64_t *rng,
                          load_timing *timing, shoal_err *err)
{
    struct {
        size_t item;
        size_t tenant;
        load_samples *samples;
    } questions[] = {
        {2 * i, SECOND_TENANT, &timing->primed},
        {2 * i + 1, SECOND_TENANT, &timing->fresh},
        {2 * i, FIRST_TENANT, &timing->own},
    };
    double seconds = 0;
    SHOAL_TRY(ask(link, truth, 2 * i, FIRST_TENANT, &seconds, err));
    for (size_t n = SHOAL_COUNT(questions); n > 0; n--) {
        size_t k = (size_t)(shoal_rng_next(rng) % n);
        SHOAL_TRY(ask(link, truth, questions[k].item, questions[k].tenant, &seconds, err));
        SHOAL_TRY(load_samples_add(questions[k].samples, seconds));
        questions[k] = questions[n - 1];
    }
    return SHOAL_OK;
}

shoal_status load_timing_run(load_link *link, load_truth *truth, size_t n_probes, uint64_t seed,
                             load_timing *ret_timing, shoal_err *err)
{
    uint64_t rng = seed;
    for (size_t i = 0; i < n_probes; i++) {
        SHOAL_TRY(trial(link, truth, i, &rng, ret_timing, err));
    }
    SHOAL_TRY(load_mann_whitney(&ret_timing->primed, &ret_timing->fresh, &ret_timing->apart));
    return load_mann_whitney(&ret_timing->own, &ret_timing->fresh, &ret_timing->power);
}

void load_timing_fini(load_timing *timing)
{
    load_samples_fini(&timing->primed);
    load_samples_fini(&timing->fresh);
    load_samples_fini(&timing->own);
}
