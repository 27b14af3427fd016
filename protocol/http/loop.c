/* SPDX-License-Identifier: Apache-2.0
 *
 * A uv handle must outlive the callback of its uv_close, so every free here ends in that callback
 * and shoal_loop_free turns the loop until the last one ran.
 */
#include "protocol/http/loop_internal.h"

#include "common/base/mem.h"
#include "common/base/thread.h"

struct shoal_timer {
    uv_timer_t handle;
    void (*fn)(void *ctx);
    void *ctx;
};

struct shoal_wake {
    uv_async_t handle;
    void (*fn)(void *ctx);
    void *ctx;
};

shoal_status shoal_loop_new(shoal_loop **ret_loop, shoal_err *err)
{
    shoal_loop *loop = shoal_calloc(1, sizeof *loop);
    if (!loop) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the event loop");
    }
    int rc = uv_loop_init(&loop->uv);
    if (rc != 0) {
        shoal_free(loop);
        return shoal_err_set(err, SHOAL_E_IO, "cannot make an event loop: %s", uv_strerror(rc));
    }
    *ret_loop = loop;
    return SHOAL_OK;
}

static void run(shoal_loop *loop, uv_run_mode mode)
{
    shoal_role before = shoal_thread_role();
    shoal_thread_set_role(SHOAL_ROLE_LOOP);
    (void)uv_run(&loop->uv, mode);
    shoal_thread_set_role(before);
}

void shoal_loop_run(shoal_loop *loop)
{
    run(loop, UV_RUN_DEFAULT);
}

void shoal_loop_turn(shoal_loop *loop)
{
    run(loop, UV_RUN_NOWAIT);
}

void shoal_loop_stop(shoal_loop *loop)
{
    uv_stop(&loop->uv);
}

static void free_handle(uv_handle_t *handle)
{
    shoal_free(handle->data);
}

void shoal_loop_free(shoal_loop *loop)
{
    if (!loop) {
        return;
    }
    while (loop->signals) {
        shoal_loop_signal *s = loop->signals;
        loop->signals = s->next;
        uv_close((uv_handle_t *)&s->handle, free_handle);
    }
    (void)uv_run(&loop->uv, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&loop->uv);
    SHOAL_ASSERT(rc == 0);
    shoal_free(loop);
}

static void on_signal(uv_signal_t *handle, int number)
{
    shoal_loop_signal *s = handle->data;
    s->fn(s->ctx, number);
}

shoal_status shoal_loop_on_signal(shoal_loop *loop, int number, void (*fn)(void *ctx, int number),
                                  void *ctx)
{
    shoal_loop_signal *s = shoal_calloc(1, sizeof *s);
    if (!s) {
        return SHOAL_E_NOMEM;
    }
    s->fn = fn;
    s->ctx = ctx;
    if (uv_signal_init(&loop->uv, &s->handle) != 0) {
        shoal_free(s);
        return SHOAL_E_IO;
    }
    s->handle.data = s;
    s->next = loop->signals;
    loop->signals = s;
    return uv_signal_start(&s->handle, on_signal, number) == 0 ? SHOAL_OK : SHOAL_E_IO;
}

static void on_timer(uv_timer_t *handle)
{
    shoal_timer *timer = handle->data;
    timer->fn(timer->ctx);
}

shoal_status shoal_timer_new(shoal_loop *loop, void (*fn)(void *ctx), void *ctx,
                             shoal_timer **ret_timer)
{
    shoal_timer *timer = shoal_calloc(1, sizeof *timer);
    if (!timer) {
        return SHOAL_E_NOMEM;
    }
    timer->fn = fn;
    timer->ctx = ctx;
    int rc = uv_timer_init(&loop->uv, &timer->handle);
    SHOAL_ASSERT(rc == 0);
    timer->handle.data = timer;
    *ret_timer = timer;
    return SHOAL_OK;
}

void shoal_timer_start(shoal_timer *timer, uint64_t ms)
{
    int rc = uv_timer_start(&timer->handle, on_timer, ms, 0);
    SHOAL_ASSERT(rc == 0);
}

void shoal_timer_stop(shoal_timer *timer)
{
    (void)uv_timer_stop(&timer->handle);
}

void shoal_timer_free(shoal_timer *timer)
{
    if (timer) {
        uv_close((uv_handle_t *)&timer->handle, free_handle);
    }
}

static void on_wake(uv_async_t *handle)
{
    shoal_wake *wake = handle->data;
    wake->fn(wake->ctx);
}

shoal_status shoal_wake_new(shoal_loop *loop, void (*fn)(void *ctx), void *ctx,
                            shoal_wake **ret_wake)
{
    shoal_wake *wake = shoal_calloc(1, sizeof *wake);
    if (!wake) {
        return SHOAL_E_NOMEM;
    }
    wake->fn = fn;
    wake->ctx = ctx;
    if (uv_async_init(&loop->uv, &wake->handle, on_wake) != 0) {
        shoal_free(wake);
        return SHOAL_E_IO;
    }
    wake->handle.data = wake;
    *ret_wake = wake;
    return SHOAL_OK;
}

void shoal_wake_send(void *wake)
{
    shoal_wake *w = wake;
    int rc = uv_async_send(&w->handle);
    SHOAL_ASSERT(rc == 0);
}

void shoal_wake_free(shoal_wake *wake)
{
    if (wake) {
        uv_close((uv_handle_t *)&wake->handle, free_handle);
    }
}
