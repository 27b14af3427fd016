/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon's event loop, without its library's types: run, stop, signals, timers, and the one
 * way in from other threads. Everything is loop-only except shoal_wake_send.
 */
#ifndef SHOAL_HTTP_LOOP_H
#define SHOAL_HTTP_LOOP_H

#include "common/base/macros.h"

#include <stdint.h>

typedef struct shoal_loop shoal_loop;
typedef struct shoal_timer shoal_timer;
typedef struct shoal_wake shoal_wake;

shoal_status shoal_loop_new(shoal_loop **ret_loop, shoal_err *err) SHOAL_MUST_CHECK;
/* Turns until shoal_loop_stop; the calling thread has role loop meanwhile. */
void shoal_loop_run(shoal_loop *loop);
void shoal_loop_stop(shoal_loop *loop);
/* Handles what has come and does not wait for more: for who is busy before the loop runs. */
void shoal_loop_turn(shoal_loop *loop);
/* Everything made on the loop is freed before; only signals may remain. */
void shoal_loop_free(shoal_loop *loop);

/* Calls fn at each delivery of a signal, for the loop's life. */
shoal_status shoal_loop_on_signal(shoal_loop *loop, int number, void (*fn)(void *ctx, int number),
                                  void *ctx) SHOAL_MUST_CHECK;

shoal_status shoal_timer_new(shoal_loop *loop, void (*fn)(void *ctx), void *ctx,
                             shoal_timer **ret_timer) SHOAL_MUST_CHECK;
/* Once, in ms from now; starting again moves it. */
void shoal_timer_start(shoal_timer *timer, uint64_t ms);
void shoal_timer_stop(shoal_timer *timer);
void shoal_timer_free(shoal_timer *timer);

/* fn runs on the loop some time after a send; several sends may give one call. */
shoal_status shoal_wake_new(shoal_loop *loop, void (*fn)(void *ctx), void *ctx,
                            shoal_wake **ret_wake) SHOAL_MUST_CHECK;
/* Any thread, also as the wake of a shoal_queue: wake is a shoal_wake. */
void shoal_wake_send(void *wake);
/* No thread sends any more. */
void shoal_wake_free(shoal_wake *wake);

#endif
